"""docs/faults-inference.md has a row for each case of tests/faults, and none that is not tested."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from tests.faults import test_inference_faults as cases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults-inference.md"


def names() -> Iterator[str]:
    """Names of all cases, as ``make faults`` prints them."""
    for _, group in inspect.getmembers(cases, inspect.isclass):
        for name, test in inspect.getmembers(group, inspect.isfunction):
            if name.startswith("test_"):
                choices = [mark.args[1] for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
                short = name.removeprefix("test_")
                yield from (f"{short}[{choice}]" for choice in choices[0]) if choices else [short]


def test_every_case_has_its_row_and_every_row_its_case():
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(names())
    assert len(rows) >= 25
