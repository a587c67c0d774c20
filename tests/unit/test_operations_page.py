"""docs/operations.md lists every code of a quarantined study, what each ``--json`` prints, every check of the doctor and every alarm.

When one changes: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/test_operations_page.py
"""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.cloud.alarms import wanted
from monai_aws_pipeline.cloud.registry import PushedImage
from monai_aws_pipeline.host_agent.errors import REMEDIES, Code
from monai_aws_pipeline.operations.failures import Failures
from monai_aws_pipeline.operations.hosts import HostLine
from monai_aws_pipeline.operations.preflight.answers import Answer
from monai_aws_pipeline.operations.status import DeploymentState, Depth, FleetState, HostWork, JobAtWork, MachineState, ResultLine
from monai_aws_pipeline.operations.unanswered import UnansweredRow
from monai_aws_pipeline.settings import PACKAGE_ROOT, Names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
START = "<!-- codes: written by tests/unit/test_operations_page.py -->\n"
END = "<!-- /codes -->"


def table() -> str:
    rows = [f"| `{code}` | {REMEDIES[code]} |" for code in Code]
    return "\n".join(["| Code | What to do |", "|---|---|", *rows]) + "\n"


def test_the_page_lists_every_code_with_its_remedy():
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    page = f"{before}{START}\n{table()}\n{END}{after}"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


@pytest.mark.parametrize(
    ("command", "printed", "beside"),
    [
        ("doctor", [Answer], set()),
        ("status", [DeploymentState, FleetState, Depth, MachineState, HostWork, JobAtWork, ResultLine], set()),
        ("failures", [Failures, UnansweredRow], {"counts"}),
        ("hosts", [HostLine], set()),
        ("maps", [PushedImage], {"standing"}),
    ],
)
def test_the_page_says_what_is_printed_for_a_program(command: str, printed: list[Any], beside: set[str]):
    section = PAGE.read_text().partition(f"### `monai-aws {command}`\n")[2].partition("### ")[0]
    (shape,) = re.findall(r"(?s)(?:^ {4}|`)(\{\w+, .*?\})(?:`|\n\n)", section, re.MULTILINE)
    assert set(re.findall(r"[a-z][a-z_]*", shape)) == {field.name for each in printed for field in fields(each)} | beside


def first_cells(heading: str) -> str:
    """The first column of the tables below a heading."""
    section = PAGE.read_text().partition(f"{heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    return "\n".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))


def test_the_page_lists_every_check_of_the_doctor():
    sources = "\n".join(path.read_text() for path in (PACKAGE_ROOT / "operations" / "preflight").glob("*.py"))
    checks = {name.strip() for name in re.findall(r'Probe\(\s*f?"([^"{]+)', sources)}
    listed = first_cells("### `monai-aws doctor`")
    assert len(checks) > 20
    assert {name for name in checks if f"`{name}" not in listed} == set()


def test_the_page_lists_every_alarm():
    names = {alarm.name.removeprefix(Names("unit").alarms) for alarm in wanted(Names("unit"), 60, 5, 24)}
    assert set(re.findall(r"`([a-z-]+)`", first_cells("## Alarms"))) == names
