"""docs/study-contract.md lists every known trap of the SDK, every name of a refusal and every part of the section in app.yaml.

When one changes: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/test_study_contract_page.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.errors import Code
from monai_aws_pipeline.maps import sdk_renderer, sdk_traps
from monai_aws_pipeline.maps.spec.study_contract import Handles, parse_section

PAGE = Path(__file__).resolve().parents[2] / "docs" / "study-contract.md"
START = "<!-- traps: written by tests/unit/test_study_contract_page.py -->\n"
END = "<!-- /traps -->"
REFUSALS = (
    Code.NO_MATCHING_SERIES, Code.AMBIGUOUS_SERIES, Code.MIXED_SERIES, Code.IRREGULAR_VOLUME, Code.NO_GEOMETRY, Code.GANTRY_TILT,
    Code.UNSUPPORTED_IMAGE, Code.TRANSFER_SYNTAX, Code.NO_IMAGES,
)  # fmt: skip


def table() -> str:
    rows = []
    for trap in sdk_traps.SDK_TRAPS:
        treatment = f"{trap.treatment}{f' (`{trap.handles}`)' if trap.handles else ''}"
        cells = (trap.name.replace("``", "`"), trap.symptom, treatment, f"`{trap.code}`" if trap.code else "")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(["| What | Without the platform | What happens | Name |", "|---|---|---|---|", *rows]) + "\n"


def test_the_page_lists_every_trap() -> None:
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    page = f"{before}{START}\n{table()}\n{END}{after}"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def test_the_traps_are_those_of_the_sdk_that_is_packaged() -> None:
    assert sdk_traps.SDK_VERSION == sdk_renderer.SDK_VERSION
    assert {trap.handles for trap in sdk_traps.SDK_TRAPS} - {None} == set(Handles)
    assert {trap.code for trap in sdk_traps.SDK_TRAPS} - {""} <= set(Code)
    assert {trap.code for trap in sdk_traps.SDK_TRAPS if trap.treatment is sdk_traps.Treatment.EVENED_OUT} == {""}


@pytest.mark.parametrize("code", REFUSALS)
def test_every_name_of_a_refusal_is_explained(code: Code) -> None:
    assert f"| `{code}` |" in PAGE.read_text()


def test_every_part_of_the_section_is_shown() -> None:
    findings: list[str] = []
    parse_section({"nothing": 1}, findings)
    known = findings[0].partition("may hold ")[2].partition(";")[0].split(", ")
    assert all(f"    {name}: " in PAGE.read_text() for name in known)
