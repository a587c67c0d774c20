"""docs/fidelity.md says what tests/fidelity/register.py says.

When that changes: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/test_fidelity_page.py
"""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

import pytest

import tests.fidelity
from tests.fidelity.outcomes import KINDS, Outcome, kind_of, summary
from tests.fidelity.register import BEHAVIOURS, NOT_IMITATED, page

DOCS = Path(__file__).resolve().parents[2] / "docs"
TESTS = sorted(Path(tests.fidelity.__file__).parent.glob("test_*.py"))


def shown() -> set[tuple[str, str]]:
    """(behaviour, kind) of every test there is, also of those whose parameters name the behaviour."""
    found: set[tuple[str, str]] = set()
    for module in (importlib.import_module(f"tests.fidelity.{path.stem}") for path in TESTS):
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_"):
                found |= {(behaviour, kind_of(name)) for behaviour in behaviours_of(getattr(test, "pytestmark", []))}
    return found


def behaviours_of(marks: list[Any]) -> set[str]:
    direct = {str(mark.args[0]) for mark in marks if mark.name == "behaviour"}
    sets = [each for mark in marks if mark.name == "parametrize" for each in mark.args[1] if hasattr(each, "marks")]
    return direct | {str(mark.args[0]) for each in sets for mark in each.marks if mark.name == "behaviour"}


def test_the_page_says_what_the_register_says():
    if os.environ.get("UPDATE_SNAPSHOTS"):
        (DOCS / "fidelity.md").write_text(page())
    assert (DOCS / "fidelity.md").read_text() == page()


def test_every_behaviour_has_both_proofs_and_every_proof_its_behaviour():
    assert shown() == {(behaviour.id, kind) for behaviour in BEHAVIOURS for kind in KINDS}


def test_every_entry_says_its_source_or_its_reason_in_one_line():
    lines = [line for each in BEHAVIOURS for line in (each.aws, each.system, each.source)] + [
        line for pair in NOT_IMITATED for line in pair
    ]
    assert [line for line in lines if not line.strip() or "\n" in line or "|" in line] == []
    assert len({each.id for each in BEHAVIOURS}) == len(BEHAVIOURS)


def test_a_behaviour_holds_when_a_test_of_each_kind_passed_and_none_failed():
    outcomes = [
        Outcome("whole", "embedded", "passed"),
        Outcome("whole", "handled", "passed"),
        Outcome("broken", "embedded", "passed"),
        Outcome("broken", "handled", "passed"),
        Outcome("broken", "handled", "failed"),
        Outcome("half", "embedded", "passed"),
        Outcome("half", "handled", "skipped"),
    ]
    found = summary({"whole": "a", "broken": "b", "half": "c", "never": "d"}, outcomes)
    assert found["behaviours"][0] == {"id": "whole", "source": "a", "embedded": True, "handled": True}
    assert (found["count"], found["failing"]) == (4, ["broken", "half", "never"])


def test_a_test_says_by_its_name_what_it_proves():
    assert kind_of("test_x_embedded[a_handled]") == "embedded"
    with pytest.raises(ValueError, match="_embedded or _handled"):
        kind_of("test_x")
