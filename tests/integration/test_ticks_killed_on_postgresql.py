"""Wherever a tick is killed on a team's PostgreSQL, every study is recorded and shown once, checks too.

Not what SQLite shows already: here an event and what finds it again (its tags) are stored one after the other, each for good; and an event
has its number before it is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import sqlalchemy
from dagster import DagsterInstance
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from moto import mock_aws

from monai_aws_pipeline.studies.recorded import results_after
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


def test_what_is_seen_after_an_event_with_a_later_number_is_read(opened: Opened, postgres: Postgres):
    now = datetime.now(UTC)
    with opened() as instance:
        recorded(instance, now)
        table = SqlEventLogStorageTable
        storage: Any = instance.event_log_storage
        with storage.index_connection() as connection:
            row = dict(connection.execute(sqlalchemy.select(table).order_by(table.c.id)).mappings().first() or {})
        del row["id"]
        with sqlalchemy.create_engine(storage.postgres_url).connect() as slow:
            slow.execute(table.insert(), [row])  # begins a transaction, which has its number and is not seen
            recorded(instance, now)
            before = results_after(instance, 0, 50)
            slow.commit()
        after = results_after(instance, before.as_of, 50)
    assert (len(before.results), len(after.results)) == (4, 1 + 4)


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
