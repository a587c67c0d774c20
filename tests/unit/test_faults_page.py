"""Each page of faults has a row for each case of its tests, and none that is not tested."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults import test_archive_faults, test_building_faults, test_fleet_faults, test_inference_faults, test_several_faults

DOCS = Path(__file__).resolve().parents[2] / "docs"


def names(cases: ModuleType) -> Iterator[str]:
    """Names of all cases, as ``make faults`` prints them."""
    for _, group in inspect.getmembers(cases, inspect.isclass):
        for name, test in inspect.getmembers(group, inspect.isfunction):
            if name.startswith("test_"):
                choices = [mark.args[1] for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
                short = name.removeprefix("test_")
                yield from (f"{short}[{choice}]" for choice in choices[0]) if choices else [short]


@pytest.mark.parametrize(
    ("page", "cases", "at_least"),
    [
        ("faults-inference.md", (test_inference_faults, test_archive_faults, test_fleet_faults, test_several_faults), 41),
        ("faults-building.md", (test_building_faults,), 46),
    ],
)
def test_every_case_has_its_row_and_every_row_its_case(page: str, cases: tuple[ModuleType, ...], at_least: int):
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / page).read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(name for module in cases for name in names(module))
    assert len(rows) >= at_least
