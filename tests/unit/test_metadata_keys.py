"""Every key of metadata that the lineage writes is listed with its meaning and unit, and every key that is listed is written.

Keys are found by reading the code: in dictionaries that are given as ``metadata``, that are put into something of that name, or that a
function makes which has that name or gives metadata by its type. A key that is made in another way is not seen here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from monai_aws_pipeline.contract import SegmentVolume
from monai_aws_pipeline.metadata_keys import KEYS, Key
from monai_aws_pipeline.pages import PAGES
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.studies.compared import Earlier
from monai_aws_pipeline.studies.record_metadata import record_metadata
from tests.unit.studies.records import refused, succeeded

PACKAGE = Path(__file__).resolve().parents[2] / "monai_aws_pipeline"
WRITERS = [*sorted((PACKAGE / "deployment").glob("*.py")), *sorted((PACKAGE / "studies").glob("*.py")), PACKAGE / "automation.py"]
LISTED = {name: key for keys in KEYS.values() for name, key in keys.items()}
UNITS = {
    "_s": "s",
    "seconds": "s",
    "_usd": "USD",
    "_ml": "ml",
    "_mib": "MiB",
    "_gib": "GiB",
    "_bytes": "bytes",
    "_days": "days",
    "_minutes": "min",
}


def keys_in(path: Path) -> set[str]:
    """Keys that a module writes; what is formatted into one stands as ``*``."""
    tree = _with_constants(ast.parse(path.read_text()))
    return {key for node in ast.walk(tree) for values in _metadata_of(node) for key in _keys(values)}


def _with_constants(tree: ast.Module) -> ast.Module:
    """A module with its own constants in the place of their names, so that a key which is named by one is seen."""
    known = {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Constant)
    }

    class Named(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return known.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    made: ast.Module = Named().visit(tree)
    return made


def _metadata_of(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        yield from (each.value for each in node.keywords if each.arg == "metadata")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "add_output_metadata":
            yield from node.args
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and "metadata" in target.id:
                yield node.value
            if isinstance(target, ast.Subscript) and "metadata" in ast.unparse(target.value):
                yield ast.Dict(keys=[target.slice], values=[node.value])
    if isinstance(node, ast.FunctionDef) and "metadata" in node.name:
        for each in ast.walk(node):
            if isinstance(each, ast.Return) and each.value is not None:
                yield each.value
            if isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None:
                yield each.value
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr in ("add", "add_some", "add_table"):
                yield from (ast.Dict(keys=[arg], values=[arg]) for arg in _first_text(each.args))
    elif isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns).startswith("dict[str, MetadataValue"):
        yield from _given_back(node)


def _first_text(arguments: list[ast.expr]) -> list[ast.expr]:
    """What an entry is called that is added to metadata, where it has a name of its own."""
    return [each for each in arguments if isinstance(each, ast.Constant) and isinstance(each.value, str)][:1]


def _given_back(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """What a function returns, and what it puts into the names that it returns. Other dictionaries in it are none of metadata."""
    returned = [each.value for each in ast.walk(function) if isinstance(each, ast.Return) and each.value is not None]
    names = {name for value in returned for name in _merged_names(value)}
    yield from returned
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id in names and node.value is not None:
                yield node.value
            if isinstance(target, ast.Subscript) and ast.unparse(target.value) in names:
                yield ast.Dict(keys=[target.slice], values=[target.slice])


def _merged_names(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.BinOp):
        yield from (*_merged_names(node.left), *_merged_names(node.right))
    elif isinstance(node, ast.IfExp):
        yield from (*_merged_names(node.body), *_merged_names(node.orelse))
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            yield from _merged_names(value) if key is None else ()


def _keys(node: ast.expr) -> Iterator[str]:
    """The keys of a dictionary and of those that are merged into it. What is only an argument of a call has keys of its own."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                yield from _keys(value)
            else:
                yield from _texts(key)
    elif isinstance(node, ast.DictComp):
        yield from _texts(node.key)
    elif isinstance(node, ast.BinOp):
        yield from (*_keys(node.left), *_keys(node.right))
    elif isinstance(node, ast.IfExp):
        yield from (*_keys(node.body), *_keys(node.orelse))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_texts", "dict"):
        for each in node.args:
            yield from _keys(each)


def _texts(key: ast.expr) -> Iterator[str]:
    if isinstance(key, ast.Constant):
        yield str(key.value)
    elif isinstance(key, ast.IfExp):
        yield from (*_texts(key.body), *_texts(key.orelse))
    elif isinstance(key, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in key.values)


def is_listed(key: str) -> bool:
    return key in LISTED or any("*" in name and fnmatchcase(key, name) for name in LISTED)


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: path.stem)
def test_no_module_writes_a_key_that_is_not_listed(path: Path):
    unknown = {key for key in keys_in(path) if not is_listed(key)}
    assert not unknown, f"{path.name} writes {sorted(unknown)}: give them their meaning and unit in metadata_keys.py"


def test_the_search_for_keys_finds_those_that_are_there():
    assert {"image_id", "baked_at", "seconds", "cost_usd"} <= keys_in(PACKAGE / "deployment" / "ami.py") | keys_in(
        PACKAGE / "deployment" / "ami_checks.py"
    )
    assert {"seconds_*", "sbom_*", "golden_points", "imports"} <= keys_in(PACKAGE / "deployment" / "map_image.py")
    assert {"commit", "content", "application"} <= keys_in(PACKAGE / "deployment" / "map_source.py")
    result = keys_in(PACKAGE / "studies" / "record_metadata.py")
    assert {"volume_*_ml", "volumes_left_out", "total_s", "map_digest", "error_code", "s3_console", "links", "details"} <= result
    assert "checks" in keys_in(PACKAGE / "studies" / "recorded.py")
    assert "counted_up_to_event" in keys_in(PACKAGE / "studies" / "studies_by_map.py")
    assert {"meant", "ends", "changes"} <= keys_in(PACKAGE / "studies" / "rerun_job.py")
    assert {"removed", "left"} <= keys_in(PACKAGE / "automation.py")


def test_no_key_is_listed_that_nothing_writes():
    written = {key for path in WRITERS for key in keys_in(path)}
    by_name = {
        "engine",
        "agent",
        "unit",
        "gpu",
        "driver",
        "toolkit",
        "kernel",
        "critical",
        "high",
        "medium",
        "low",
        "informational",
        "undefined",
    }
    assert {name for name in LISTED if name not in written | by_name} == set()


def test_a_result_shows_no_key_without_a_meaning():
    before = Earlier.of(succeeded(2), (SegmentVolume("Brain", 1.0),))
    shown = record_metadata(
        succeeded(1),
        tuple(SegmentVolume(f"Segment {number}", 1.0) for number in range(64)),
        Addresses("studies", links="http://127.0.0.1:3070"),
        before,
    )
    shown |= record_metadata(refused(1), (), Addresses("studies"))
    listed = KEYS["inference_result"]
    assert [key for key in shown if key not in listed and not any("*" in name and fnmatchcase(key, name) for name in listed)] == []
    assert {"compared_with_before", "volumes_left_out", "links", "record", "error_code"} <= set(shown)


def test_each_group_of_keys_belongs_to_a_definition():
    assert set(KEYS) <= set(PAGES)


@pytest.mark.parametrize(("name", "key"), LISTED.items(), ids=LISTED.keys())
def test_a_key_has_a_meaning_and_the_unit_that_its_name_says(name: str, key: Key):
    assert re.fullmatch(r"[a-z0-9_*]+", name)
    assert len(key.meaning) > 8
    of_a_window = re.search(r"(?:^|_)last_\d+_[a-z]+$", name)
    said = None if of_a_window else next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    if said:
        assert key.unit == said
