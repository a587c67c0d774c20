"""The rules of the house, held by reading the code: who may import whom, and that the pipeline never asks where it runs.

See docs/architecture.md, "The rooms". A rule that stands only in a document is broken by the third change.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "monai_aws_pipeline"
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "lambda_fn").rglob("*.py")])
STARTS_THE_LOCAL_CLOUD = {"monai_aws_pipeline/cli.py", "monai_aws_pipeline/demo/steps.py"}
"""The two modules that may know the embedded AWS: they start and stop it."""

WHERE_WE_RUN = (
    "aws_endpoint_url",
    "localhost",
    "127.0.0.1",
    "127.",
    "ministack",
    "moto",
    "local_cloud",
    "localstack",
    "is_local",
    "on_aws",
    "is_aws",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_pipeline(path: Path) -> bool:
    """Everything but the embedded AWS itself and what starts it."""
    return "local_cloud" not in path.parts and path.relative_to(ROOT).as_posix() not in STARTS_THE_LOCAL_CLOUD


PIPELINE = [path for path in MODULES if is_pipeline(path)]


def imports(path: Path, at_import_only: bool = False) -> set[str]:
    """Full names of what a module imports; with ``at_import_only`` without what is imported in functions or for type checking."""
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text()), at_import_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = (
                ".".join([*path.relative_to(ROOT).parts[: -node.level], node.module or ""]).strip(".") if node.level else node.module or ""
            )
            found |= {package} | {f"{package}.{alias.name}" for alias in node.names}
    return found


def _statements(node: ast.AST, at_import_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if at_import_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if at_import_only and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _statements(child, at_import_only)


def conditions(tree: ast.AST) -> Iterator[ast.expr]:
    """Everything that decides: if, while, assert, conditional expressions, comprehension filters, match subjects and cases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            yield node.test
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.Match):
            yield node.subject
            yield from (case.guard for case in node.cases if case.guard)


def asks_where_it_runs(condition: ast.expr) -> bool:
    """Whether a condition names the endpoint, the embedded AWS, or a loopback address, as a name, an attribute or a text."""
    words: set[str] = set()
    for node in ast.walk(condition):
        if isinstance(node, ast.Name):
            words.add(node.id.lower())
        elif isinstance(node, ast.Attribute):
            words.add(node.attr.lower())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value.lower())
    endpoint = any("endpoint" in word and "aws" in word for word in words) or "endpoint_url" in words
    return endpoint or any(word == "local" or mark in word for word in words for mark in WHERE_WE_RUN)


# ------------------------------------------------------------------------------------------------------------------ where we run


@pytest.mark.parametrize("path", PIPELINE, ids=name_of)
def test_pipeline_code_does_not_ask_where_it_runs(path: Path):
    found = [f"line {c.lineno}: {ast.unparse(c)}" for c in conditions(ast.parse(path.read_text())) if asks_where_it_runs(c)]
    assert not found, f"{name_of(path)} decides by where it runs; make it a setting instead:\n" + "\n".join(found)


@pytest.mark.parametrize("path", PIPELINE, ids=name_of)
def test_only_the_command_line_and_the_demo_know_the_embedded_aws(path: Path):
    known = {name for name in imports(path) if "local_cloud" in name or name.split(".")[0] in ("ministack", "moto")}
    assert not known


@pytest.mark.parametrize(
    "code",
    [
        'if os.environ.get("AWS_ENDPOINT_URL"): pass',
        "x = 1 if settings.is_local else 2",
        'while host == "127.0.0.1": pass',
        "y = [a for a in b if 'ministack' in a]",
        "if client.meta.endpoint_url: pass",
        "match mode:\n    case _ if settings.local: pass",
        "assert not local",
    ],
)
def test_the_search_for_such_conditions_finds_them(code: str):
    assert any(asks_where_it_runs(condition) for condition in conditions(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["if settings.gpus: pass", "if settings.wheelhouse == 'collect': pass", "if locale: pass", "if not endpoints: pass"]
)
def test_the_search_leaves_settings_alone(code: str):
    assert not any(asks_where_it_runs(condition) for condition in conditions(ast.parse(code)))


# ----------------------------------------------------------------------------------------------------------------- who imports whom


NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
OURS = ("monai_aws_pipeline", "lambda_fn")
_ALL = {"dagster", "dagster_aws", "boto3", "botocore", "numpy", "pydicom", "pydantic", "rich"}
ROOMS = {
    # room: what nothing in it may load, by its own imports or by those of what it imports
    "contract": _ALL,
    "errors": _ALL,
    "redaction": _ALL,
    "maps": {"dagster", "dagster_aws", "boto3", "botocore"},
    "archive": {"dagster", "dagster_aws", "pydantic", "rich", "paramiko", "yaml"},
    "cloud": {"dagster", "dagster_aws"},
    "host_agent": {"dagster", "dagster_aws", "pydantic", "rich", "paramiko", "yaml"},
    "local_cloud": {"dagster", "dagster_aws"},
    "operations": {"dagster", "dagster_aws"},
    "portal": {"dagster", "dagster_aws"},
    "simulation": {"dagster", "dagster_aws", "boto3", "botocore", "numpy", "pydicom", "pydantic"},
    "remote": {"dagster", "dagster_aws", "boto3", "botocore"},
}


@cache
def loaded_by(name: str) -> dict[str, str]:
    """All that importing a module loads, followed through modules of ours, each with the module that imports it; others by first name."""
    found: dict[str, str] = {}
    waiting = [(name, "")]
    while waiting:
        module, by = waiting.pop()
        if module not in found:
            found[module] = by
            waiting += [(each, module) for each in (said_by(module) if module in NAMES else ())]
    return found


def said_by(name: str) -> set[str]:
    """What a module of ours names in its imports: modules of ours with the packages above them, others by their first name."""
    said = imports(NAMES[name], at_import_only=True)
    ours = {each for each in said if each.split(".")[0] in OURS}
    above = {".".join(each.split(".")[:count]) for each in ours for count in range(1, each.count(".") + 2)}
    return {each.split(".")[0] for each in said - ours} | {each for each in above if each in NAMES}


def room_of(name: str) -> str:
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("name", [name for name in sorted(NAMES) if room_of(name) in ROOMS])
def test_a_room_loads_nothing_that_it_must_not(name: str):
    loaded = loaded_by(name)
    assert not {foreign: loaded[foreign] for foreign in ROOMS[room_of(name)] & loaded.keys()}, "imported by the module named beside it"


@pytest.mark.parametrize("name", [name for name in sorted(NAMES) if room_of(name) in ("contract", "errors", "redaction")])
def test_what_lambda_and_host_share_needs_the_standard_library_only(name: str):
    ours = ("monai_aws_pipeline.contract", "monai_aws_pipeline.errors", "monai_aws_pipeline.redaction")
    assert not {each for each in loaded_by(name) if not each.startswith(ours) and each not in {*sys.stdlib_module_names, OURS[0]}}


def test_the_wake_function_needs_only_what_its_zip_holds():
    shipped = {*sys.stdlib_module_names, "boto3", "botocore", "aws_lambda_powertools", *OURS}
    ours = ("lambda_fn.", "monai_aws_pipeline.contract", "monai_aws_pipeline.errors")
    assert not {each for each in loaded_by("lambda_fn.wake") if each not in shipped and not each.startswith(ours)}


@pytest.mark.parametrize("name", [name for name in sorted(NAMES) if room_of(name) == "maps"])
def test_maps_know_no_cloud_and_not_who_runs_them(name: str):
    above = ("monai_aws_pipeline.cloud", "monai_aws_pipeline.host_agent", "monai_aws_pipeline.deployment")
    assert not {each for each in imports(NAMES[name]) | set(loaded_by(name)) if each.startswith(above)}


SHIPPED_TO_HOSTS = tuple(
    f"monai_aws_pipeline.{folder}" for folder in ("archive", "contract", "errors", "redaction", "host_agent", "maps.spec")
)


@pytest.mark.parametrize("name", [name for name in sorted(NAMES) if name.startswith(SHIPPED_TO_HOSTS)])
def test_the_host_needs_nothing_that_is_not_in_its_folders(name: str):
    ours = {each for each in imports(NAMES[name]) | set(loaded_by(name)) if each in NAMES}
    assert not {each for each in ours if not each.startswith(SHIPPED_TO_HOSTS)} - {OURS[0], "monai_aws_pipeline.maps"}


@pytest.mark.parametrize("name", [name for name in sorted(NAMES) if room_of(name) == "archive"])
def test_the_archive_knows_of_ours_its_errors_alone_so_that_hosts_and_control_plane_both_have_it(name: str):
    ours = {each for each in imports(NAMES[name]) | set(loaded_by(name)) if each in NAMES}
    assert not {each for each in ours if not each.startswith(("monai_aws_pipeline.archive", "monai_aws_pipeline.errors"))} - {OURS[0]}


@pytest.mark.parametrize("path", [p for p in MODULES if "local_cloud" in p.parts], ids=name_of)
def test_the_embedded_aws_knows_nothing_of_the_pipeline_but_its_settings(path: Path):
    allowed = ("monai_aws_pipeline.local_cloud", "monai_aws_pipeline.settings", "monai_aws_pipeline.errors")
    ours = {name for name in imports(path) if name.startswith("monai_aws_pipeline.")}
    assert not {name for name in ours if not name.startswith(allowed)}


def test_what_is_loaded_is_followed_through_modules_of_ours():
    assert "dagster" in loaded_by("monai_aws_pipeline.definitions")
    assert "numpy" in loaded_by("monai_aws_pipeline.host_agent.__main__"), "which does not import it itself"
    assert "numpy" not in said_by("monai_aws_pipeline.host_agent.__main__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_opens_with_its_contract(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} does not say what belongs in it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_a_drawer_for_everything(path: Path):
    assert path.stem not in ("utils", "util", "helpers", "common", "misc", "manager")


def made_consoles(tree: ast.AST) -> Iterator[int]:
    """Lines that set rich up, or use it as it is set up without us."""
    for node in ast.walk(tree):
        made = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("Console", "get_console", "from_markup")
        if made or (isinstance(node, ast.ImportFrom) and node.module == "rich"):
            yield getattr(node, "lineno", 0)


@pytest.mark.parametrize("path", [path for path in MODULES if path != PACKAGE / "terminal.py"], ids=name_of)
def test_one_module_sets_the_terminal_up_so_that_nothing_of_others_is_read_as_a_style_or_a_picture(path: Path):
    assert not list(made_consoles(ast.parse(path.read_text()))), "use monai_aws_pipeline.terminal.literal_console()"


@pytest.mark.parametrize("code", ["Console(width=80)", "console.Console()", "Text.from_markup(arn)", "from rich import print"])
def test_the_search_for_other_terminals_finds_them(code: str):
    assert list(made_consoles(ast.parse(code)))
