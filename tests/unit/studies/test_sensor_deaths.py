"""Wherever a tick of ``study_results`` is killed, every study is recorded, and shown once: on SQLite.

On a team's PostgreSQL: tests/integration/test_ticks_killed_on_postgresql.py.
"""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import DagsterInstance

from monai_aws_pipeline.studies import sensor
from monai_aws_pipeline.studies.lineage import STUDIES
from tests.unit.studies.deaths_bench import (
    AHEAD,
    RESULTS_POINTS,
    Reaper,
    a_days_results,
    assert_recorded_and_shown_once,
    killed,
    on_sqlite,
    results_tick,
    until_quiet,
)
from tests.unit.studies.records import Bucket


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Databases that are made once: making them costs more than a tick."""
    home = tmp_path_factory.mktemp("empty") / "home"
    home.mkdir()
    with on_sqlite(home) as instance:
        instance.add_dynamic_partitions(str(STUDIES.name), [])
    return home


@pytest.mark.parametrize("dies", [*RESULTS_POINTS, AHEAD])
def test_wherever_a_tick_is_killed_every_study_is_recorded_and_shown_once(
    dies: str, bucket: Bucket, empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = shutil.copytree(empty_home, tmp_path / "home")
    now = datetime.now(UTC)
    if dies == AHEAD:
        monkeypatch.setattr(sensor, "EVENTS_A_TICK", 4)
    a_days_results(bucket, now)

    def opened() -> AbstractContextManager[DagsterInstance]:
        return on_sqlite(home)

    def tick(die: Reaper) -> bool:
        return results_tick(opened, bucket, now, die)

    killed(tick, dies)
    killed(tick, "before the listing")  # nor does a second death do harm
    until_quiet(tick)
    assert_recorded_and_shown_once(opened)
