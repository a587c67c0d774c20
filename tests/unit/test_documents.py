"""The documents hold together: every link, command, option, make target, setting, name and path that a page gives exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from monai_aws_pipeline.cli import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
ALL = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
BASES = (ROOT, ROOT / "monai_aws_pipeline")
"""Where the paths that pages give begin: the clone, or the package."""
ROOMS = {folder.name for base in BASES for folder in base.iterdir() if folder.is_dir() and not folder.name.startswith(".")} - {"build"}
SOURCES = [
    *(path for room in ("monai_aws_pipeline", "lambda_fn", "infra", "examples", ".github") for path in (ROOT / room).rglob("*.*")),
    ROOT / "Makefile",
]
CODE = "\n".join(path.read_text() for path in SOURCES if path.suffix in {".py", ".yaml", ".yml", ".sh", ".service", ".timer", ""})
WORDS = {*re.findall(r"\w+", CODE), *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
FOREIGN = {"pg_dump", "credential_source"}
"""Names of programs and settings that are not ours."""


def in_code(page: Path) -> Iterator[str]:
    """What a page sets as code, each on one line: spans, and lines of blocks with those that they go on in."""
    text = page.read_text()
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
    yield from re.findall(r"^ {4,}(\S.*)$", re.sub(r"\\\n", " ", text), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The fragments that lead to a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@ALL
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", page.read_text()):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        assert not fragment or fragment in anchors(there), target


@ALL
def test_make_targets_exist(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for code in in_code(page) for word in re.findall(r"^(?:\w+=\S+ )*make ([a-z-]+)", code)}
    assert named <= targets


def test_every_make_target_is_explained():
    text = (ROOT / "Makefile").read_text()
    explained = set(re.findall(r'echo "make ([a-z-]+)', text))
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)) - {"help", "use", "dev", "any"}
    assert explained == targets


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every ``monai-aws`` that a page sets as code."""
    for code in in_code(page):
        for one in re.split(r"[;|()]|&&", code):
            if found := re.match(r"\s*(?:sudo -E )?(?:\w+=\S+ )*(?:\S*/)?monai-aws(?: +(.*))?$", one):
                yield shlex.split((found[1] or "").replace("'", ""), comments=True)


def unknown(arguments: list[str]) -> list[str]:
    """What of them the command line does not have: a command, or an option of it."""
    command: click.Command = cli
    wrong = []
    for argument in arguments:
        if argument.startswith("-"):
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
            wrong += [argument] if argument.partition("=")[0] not in known else []
        elif isinstance(command, click.Group) and argument in command.commands:
            command = command.commands[argument]
        elif command is cli and re.fullmatch(r"[a-z-]+", argument):
            wrong.append(argument)
    return wrong


@ALL
def test_commands_and_their_options_exist(page: Path):
    assert [arguments for arguments in commands(page) if unknown(arguments)] == []


def test_what_is_no_command_is_seen():
    assert len([arguments for page in PAGES for arguments in commands(page)]) > 100
    assert unknown(["uplaod"]) == ["uplaod"]
    assert unknown(["status", "--wait"]) == ["--wait"]
    assert unknown(["hosts", "replace", "--all-failed", "i-1"]) == unknown(["rollback", "--why=x"]) == []


def every_command(command: click.Command = cli, path: str = "monai-aws") -> Iterator[tuple[str, click.Command]]:
    """Each command with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every_command(inner, f"{path} {name}")


def test_every_command_and_each_of_its_options_is_documented():
    text = "\n".join(page.read_text() for page in PAGES)
    for path, command in every_command():
        assert re.search(rf"{path}(?![\w-])", text), path
        for option in command.params:
            if isinstance(option, click.Option) and option.name != "version":
                assert re.search(rf"(?<![\w-]){option.opts[-1]}(?![\w-])", text), f"{path} {option.opts[-1]}"


@ALL
def test_the_settings_that_are_named_are_there(page: Path):
    """``MONAI_AWS_UPLOAD_MAX_…`` stands for all that begin so."""
    known = WORDS | {f"MONAI_AWS_{word.upper()}" for word in WORDS}
    named = set(re.findall(r"MONAI_[A-Z0-9_]+", page.read_text())) - known
    assert {name for name in named if not (name.endswith("_") and any(each.startswith(name) for each in known))} == set()


@ALL
def test_the_names_that_are_given_are_there(page: Path):
    """Assets, jobs, sensors, checks, keys of metadata, codes. The pages of faults name test cases, and their own tests hold them."""
    if page.name.startswith("faults-"):
        return
    named = {name for code in in_code(page) for name in re.findall(r"(?<![\w/.-])[a-z]+(?:_[a-z0-9]+)+(?![\w/-])", code)}
    assert named - WORDS - FOREIGN == set()


@ALL
def test_the_files_that_are_named_are_there(page: Path):
    made_by_the_reader = {line for line in (ROOT / ".gitignore").read_text().splitlines() if "/" in line}
    rooms = "|".join(sorted(ROOMS - {"maps", "archive"}))  # of a bucket, too
    named = {name.rstrip("/.") for code in in_code(page) for name in re.findall(rf"(?<![\w./-])((?:{rooms})/[\w./*-]*)", code)}
    missing = {name for name in named if not any([*base.glob(name), *base.glob(f"{name}.py")] for base in BASES)}
    assert missing - made_by_the_reader == set()


def test_the_errors_that_a_page_names_are_there():
    """docs/building.md, "What ends a build"."""
    named = set(re.findall(r"`([A-Z][A-Za-z]+Error)`", (ROOT / "docs" / "building.md").read_text()))
    assert len(named) > 8
    assert {name for name in named if f"class {name}(" not in CODE} == set()
