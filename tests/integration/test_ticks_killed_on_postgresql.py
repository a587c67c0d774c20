"""Wherever a tick is killed on a team's PostgreSQL, every study is recorded and shown once, checks too.

Not what SQLite shows already: here an event and what finds it again (its tags) are stored one after the other, each for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from dagster import DagsterInstance
from moto import mock_aws

from tests.support.postgres import Postgres
from tests.unit.studies.deaths_bench import (
    CHECKS_POINTS,
    RESULTS_POINTS,
    Opened,
    Reaper,
    a_days_results,
    assert_recorded_and_shown_once,
    assert_shown_once,
    checks_tick,
    killed,
    recorded,
    results_tick,
    until_quiet,
)
from tests.unit.studies.records import Bucket


@pytest.fixture
def opened(postgres: Postgres, tmp_path: Path) -> Opened:
    url = f"postgresql://postgres:{postgres.password}@127.0.0.1:{postgres.port}/{postgres.database()}"
    overrides = {"telemetry": {"enabled": False}, "storage": {"postgres": {"postgres_url": url}}}

    @contextmanager
    def instance() -> Iterator[DagsterInstance]:
        with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as opened:
            yield opened

    def again() -> AbstractContextManager[DagsterInstance]:
        return instance()

    return again


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield Bucket(boto3.client("s3", region_name="us-east-1"))


@pytest.mark.parametrize("dies", RESULTS_POINTS)
def test_wherever_a_tick_is_killed_every_study_is_recorded_and_shown_once(dies: str, opened: Opened, bucket: Bucket):
    now = datetime.now(UTC)
    a_days_results(bucket, now)

    def tick(die: Reaper) -> bool:
        return results_tick(opened, bucket, now, die)

    killed(tick, dies)
    killed(tick, "before the listing")
    until_quiet(tick)
    assert_recorded_and_shown_once(opened)


@pytest.mark.parametrize("dies", CHECKS_POINTS)
def test_wherever_a_tick_is_killed_every_check_and_table_is_shown_once(dies: str, opened: Opened):
    def tick(die: Reaper) -> bool:
        return checks_tick(opened, die)

    with opened() as instance:
        recorded(instance, datetime.now(UTC))
    killed(tick, dies)
    killed(tick, "before the first question")
    until_quiet(tick)
    # An event that is not in the index is on no page: it is written again, and the one on no page stays in the asset's history.
    assert_shown_once(opened, first_table_events=2 if dies == "within a table's event, stored and not indexed" else 1)
