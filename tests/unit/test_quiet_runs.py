"""No run is silent: every step tells what it does and repeats it, and whatever waits for AWS does so in the one place that tells it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.settings import load_settings

PACKAGE = Path(__file__).resolve().parents[2] / "monai_aws_pipeline"
ROOMS = [path for room in ("cloud", "deployment", "operations", "studies") for path in sorted((PACKAGE / room).rglob("*.py"))]
BRIEF = {
    "record_map": "two questions to the registry",
    "map_source": "git ends by itself, and nothing is waited for",
}
"""Steps that need nobody to be told while they last, and why."""
SLEEPS = {
    "waiting.py": "the one place",
    "registry_upload.py": "runs on a build machine, where none of this is",
    "instances.py": "a launch that AWS does not take yet says each pause; a machine without an id is looked for within three seconds",
}


def steps() -> dict[str, Callable[..., Any]]:
    """What each step of a run does, by its name."""
    jobs = build_defs(load_settings()).get_repository_def().get_all_jobs()
    ops = {op.name: op.compute_fn for job in jobs for op in job.graph.iterate_op_defs()}
    return {name: getattr(made, "decorated_fn", made) for name, made in ops.items()}


@pytest.mark.parametrize(("name", "step"), sorted(steps().items()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_step_says_what_it_does_and_repeats_it_while_nothing_else_is_said(name: str, step: Callable[..., Any]):
    if name in BRIEF:
        return
    made = ast.parse(textwrap.dedent(inspect.getsource(step)))
    body = next(node for node in ast.walk(made) if isinstance(node, ast.FunctionDef)).body
    blocks = [node for node in body if isinstance(node, ast.With)]
    assert [ast.unparse(block.items[0].context_expr) for block in blocks] == ["repeating(context.log.info)"], f"{name} may be silent"
    assert "report(" in ast.unparse(blocks[0].body), f"{name} has nothing to repeat"


def calls(path: Path, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name:
            yield node


def told_by_a_block(path: Path) -> set[int]:
    """Lines within ``with telling_state(report)``, or ``self._report``, whose thread says the state while it is looked at."""
    blocks = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.With)]
    telling = [each for each in blocks if re.match(r"telling_state\((self\._)?report\b", ast.unparse(each.items[0].context_expr))]
    return {line for each in telling for line in range(each.body[0].lineno, (each.body[-1].end_lineno or 0) + 1)}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_whatever_waits_says_what_it_waits_for(path: Path):
    told = {"wait_until", "retried", "wait_online"}
    inside = told_by_a_block(path)
    waits = [call for name in told for call in calls(path, name) if call.lineno not in inside]
    silent = [call.lineno for call in waits if "report" not in {each.arg for each in call.keywords}]
    assert not silent, f"{path.name} waits in silence in lines {silent}"


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_nothing_sleeps_but_the_one_that_waits(path: Path):
    asleep = [call.lineno for name in ("sleep", "_sleep") for call in calls(path, name) if path.name not in SLEEPS]
    assert not asleep, f"{path.name} sleeps in lines {asleep}: wait_until says what is waited for"
