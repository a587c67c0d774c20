"""Wherever a tick of ``study_checks`` is killed, every check and table is shown once: on SQLite.

On a team's PostgreSQL: tests/integration/test_ticks_killed_on_postgresql.py.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import DagsterInstance

from tests.unit.studies.deaths_bench import CHECKS_POINTS, Reaper, assert_shown_once, checks_tick, killed, on_sqlite, recorded, until_quiet


@pytest.mark.parametrize("dies", CHECKS_POINTS)
def test_wherever_a_tick_is_killed_every_check_and_table_is_shown_once(dies: str, tmp_path: Path):
    def opened() -> AbstractContextManager[DagsterInstance]:
        return on_sqlite(tmp_path)

    def tick(die: Reaper) -> bool:
        return checks_tick(opened, die)

    with opened() as instance:
        recorded(instance, datetime.now(UTC))
    killed(tick, dies)
    killed(tick, "before the first question")  # nor does a second death do harm
    until_quiet(tick)
    assert_shown_once(opened)
