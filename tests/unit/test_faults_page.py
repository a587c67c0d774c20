"""Each page of faults has a row for each case of its tests, and none that is not tested."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e import test_several_at_once
from tests.faults import test_archive_faults, test_building_faults, test_fleet_faults, test_inference_faults, test_several_faults

DOCS = Path(__file__).resolve().parents[2] / "docs"
BESIDE_OTHERS = test_several_at_once.test_studies_that_wait_overlap_and_what_has_too_little_is_answered_alone
STOPPED = test_several_at_once.test_a_host_that_is_told_to_stop_with_several_in_hand_gives_all_of_them_back
PARTS: dict[str, tuple[Callable[..., None], str]] = {
    "one_of_several_is_out_of_memory": (BESIDE_OTHERS, "map_out_of_memory"),
    "one_of_several_floods_its_log": (BESIDE_OTHERS, "tiny:flood"),
    "agent_told_to_stop_with_several_in_hand": (STOPPED, "systemctl stop"),
}
"""Rows whose case is part of a test of several studies at once, with what makes it happen there. ``make faults`` runs that test too."""


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
    parts = [*PARTS] if test_several_faults in cases else []
    assert sorted(rows) == sorted([*parts, *(name for module in cases for name in names(module))])
    assert len(rows) >= at_least


@pytest.mark.parametrize("row", PARTS)
def test_a_case_that_is_part_of_a_test_happens_there(row: str):
    test, happens = PARTS[row]
    assert happens in inspect.getsource(test)
    assert pytest.mark.long in test_several_at_once.pytestmark, "make faults runs it"
