"""Which studies are partitions: the newest of them, and no study leaves that its day's table does not name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, Definitions, build_sensor_context, materialize
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.dagster_run import DagsterRun
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.contract import ResultRecord
from monai_aws_pipeline.operations import day_table
from monai_aws_pipeline.operations.results_store import ResultsStore, StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies import studies_by_day as by_day
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, event_of
from monai_aws_pipeline.studies.record_metadata import result_id
from monai_aws_pipeline.studies.recorded import recorded_among
from monai_aws_pipeline.studies.results_index import Cursor
from monai_aws_pipeline.studies.sensor import tick
from monai_aws_pipeline.studies.studies_by_day import studies_by_day
from monai_aws_pipeline.studies.study_window import (
    DAYS_AT_ONCE,
    LEAVE_AT_ONCE,
    Look,
    due,
    leave,
    look,
    may_have_left,
    named_in,
    study_window,
)
from tests.support.recorded_studies import add_partitions, record_many, statements
from tests.unit.studies.records import NOON, Bucket, job_of, refused, study_of, succeeded

TODAY = NOON.date()
TOMORROW = NOON + timedelta(days=1)
LATER = NOON + timedelta(days=8)


class Site:
    """A deployment whose results come in, with its Dagster."""

    def __init__(self, instance: DagsterInstance, bucket: Bucket):
        self.instance, self.bucket, self.cursor = instance, bucket, Cursor()
        self.named: tuple[str, ...] = ()

    def ends(self, *records: ResultRecord, now: datetime = NOON) -> None:
        """Results are committed and recorded by the sensor, one at a tick: those of one tick become partitions in no order."""
        for record in records:
            self.bucket.commit(record)
            self.tick(now)

    def tick(self, now: datetime = NOON) -> int:
        """A tick of ``study_results`` as the daemon does it; returns how many events it recorded."""
        recording, self.cursor = tick(self.instance, ResultsStore(self.bucket.s3, self.bucket.name), self.cursor, now)
        for event in recording.events:
            self.instance.report_runless_asset_event(event)
        if recording.studies:
            self.instance.add_dynamic_partitions("study", list(recording.studies))
        return len(recording.events)

    def make_table(self, day: date) -> None:
        """A run makes a day's table."""
        self.instance.add_dynamic_partitions("day", [day.isoformat()])
        resources = {"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": self.bucket.name})}
        assert materialize([studies_by_day], partition_key=day.isoformat(), instance=self.instance, resources=resources).success

    def table(self, day: date) -> list[str]:
        return list(day_table.read(ResultsStore(self.bucket.s3, self.bucket.name), day).studies)

    def step(self, size: int, now: datetime = TOMORROW) -> Look:
        """A tick of ``study_window`` with the runs that it asks for, and one that names whom these let leave; what the first saw."""
        found = self.window(size, now)
        for day in found.days:
            self.make_table(day)
        self.window(size, now)
        return found

    def window(self, size: int, now: datetime = TOMORROW) -> Look:
        """A tick of ``study_window`` without the runs that it asks for. Its cursor stays as it was where it dies."""
        found = look(self.instance, size, now)
        left = leave(self.instance, self.named, found.leaving)
        self.named = look(self.instance, size, now).leaving if left else found.leaving
        return found

    @property
    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions("study"))


@pytest.fixture
def site(instance: DagsterInstance, bucket: Bucket) -> Site:
    return Site(instance, bucket)


def studies(*numbers: int) -> list[str]:
    return [study_of(number) for number in numbers]


def event(record: ResultRecord) -> Any:
    return event_of(StoredResult(record, ()), Addresses("studies"), {})


# --------------------------------------------------------------------------------------------------------------- who leaves, and when


def test_the_oldest_leave_once_the_table_of_their_day_is_there(site: Site):
    site.ends(*(succeeded(number, NOON + timedelta(minutes=number)) for number in range(4)))
    first = site.step(size=2)
    assert (first.leaving, first.days) == ((), (TODAY,))
    assert site.partitions == studies(0, 1, 2, 3), "no table named them yet"
    assert site.step(size=2).leaving == tuple(studies(0, 1))
    assert site.partitions == studies(2, 3)
    assert site.table(TODAY) == studies(0, 1, 2, 3)
    assert site.step(size=2) == Look(2), "nothing is left to do"


def test_nobody_leaves_on_the_day_itself(site: Site):
    site.ends(*(succeeded(number) for number in range(3)))
    assert site.step(size=1, now=NOON + timedelta(hours=1)) == Look(3)


def test_what_was_recorded_of_a_study_that_left_is_there_still(site: Site):
    site.ends(succeeded(1), succeeded(2))
    site.step(size=1)
    site.step(size=1)
    assert site.partitions == studies(2)
    assert recorded_among(site.instance, [result_id(job_of(1), study_of(1))])
    assert site.instance.get_materialized_partitions(INFERENCE_RESULT) == set(studies(1, 2))


def test_a_study_that_ended_again_waits_for_the_table_of_that_day(site: Site):
    site.ends(succeeded(1), succeeded(2))
    site.step(size=1)
    site.ends(succeeded(1, TOMORROW, request="sha256:" + "e" * 64, job=job_of(11)), now=TOMORROW)
    assert site.step(size=1, now=TOMORROW + timedelta(hours=1)).leaving == (), "its new answer stands in no table yet"
    after = TOMORROW + timedelta(days=1)
    assert site.step(size=1, now=after).days == (TOMORROW.date(),)
    assert site.step(size=1, now=after).leaving == tuple(studies(1))
    assert site.table(TOMORROW.date()) == studies(1)


def test_a_study_that_failed_last_leaves_by_the_day_of_its_failure(site: Site):
    site.ends(succeeded(1), succeeded(2))
    site.step(size=1)
    site.ends(refused(11, TOMORROW, study=study_of(1)), now=TOMORROW)
    assert site.step(size=1).leaving == ()


def test_what_is_committed_late_has_its_day_made_again(site: Site):
    site.ends(succeeded(2))
    site.step(size=1)
    site.ends(succeeded(1), succeeded(3), now=TOMORROW)
    assert site.step(size=2).days == () == site.step(size=2).leaving[1:], "the oldest is named"
    found = site.step(size=1)
    assert found.days == (TODAY,)
    assert site.step(size=1).leaving
    assert sorted(site.table(TODAY)) == sorted(studies(1, 2, 3))


def test_a_result_that_is_recorded_while_the_table_is_made_counts_as_not_named(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.ends(succeeded(1), succeeded(3))
    collect = by_day.collect

    def and_then_another_comes(*arguments: Any) -> day_table.DayTable:
        table = collect(*arguments)
        site.ends(succeeded(2), now=TOMORROW)
        return table

    monkeypatch.setattr(by_day, "collect", and_then_another_comes)
    site.make_table(TODAY)
    monkeypatch.undo()
    assert study_of(2) not in site.table(TODAY)
    assert set(look(site.instance, 0, TOMORROW).leaving) == set(studies(1, 3))
    assert may_have_left(site.instance, studies(1, 2, 3)) == set(studies(1, 3))


def test_a_partition_of_which_nothing_is_recorded_leaves_with_the_others(site: Site):
    site.instance.add_dynamic_partitions("study", ["added by hand"])
    site.ends(succeeded(1))
    site.step(size=1)
    assert site.partitions == studies(1)


def test_a_study_whose_run_is_at_work_or_waits_stays(site: Site):
    site.ends(succeeded(1), succeeded(2), succeeded(3))
    site.make_table(TODAY)
    run = DagsterRun("job", status=DagsterRunStatus.NOT_STARTED, tags={"dagster/partition": study_of(1)})
    site.instance.add_run(run)
    assert look(site.instance, 1, TOMORROW).leaving == tuple(studies(2))
    site.instance.delete_run(run.run_id)
    assert look(site.instance, 1, TOMORROW).leaving == tuple(studies(1, 2))


def test_nobody_leaves_during_a_backfill(site: Site):
    site.ends(succeeded(1), succeeded(2))
    site.make_table(TODAY)
    backfill = PartitionBackfill(
        backfill_id="b", status=BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=NOON.timestamp()
    )
    site.instance.add_backfill(backfill)
    assert look(site.instance, 1, TOMORROW).leaving == ()
    site.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert look(site.instance, 1, TOMORROW).leaving == tuple(studies(1))


# ------------------------------------------------------------------------------------------------------------- coming back, and crashes


def test_a_new_answer_brings_a_study_back(site: Site):
    site.ends(succeeded(1), succeeded(2))
    site.step(size=1)
    site.step(size=1)
    site.ends(succeeded(1, TOMORROW, job=job_of(11)), now=TOMORROW)
    assert site.partitions == studies(2, 1), "as the newest"


def test_a_sensor_that_lost_its_cursor_brings_no_study_back(site: Site):
    site.ends(succeeded(1), succeeded(2))
    site.step(size=1)
    site.step(size=1)
    site.cursor = Cursor()
    assert site.tick(TOMORROW) == 0
    assert site.partitions == studies(2)


def test_a_tick_that_died_before_it_added_its_partitions_is_made_good_also_beside_studies_that_left(site: Site):
    site.ends(succeeded(1), succeeded(2))
    site.step(size=1)
    site.step(size=1)
    old = succeeded(1, TOMORROW, job=job_of(11))
    for record in (old, succeeded(3, TOMORROW)):
        site.bucket.commit(record)
        site.instance.report_runless_asset_event(event(record))
    assert site.tick(TOMORROW) == 0, "both are recorded"
    assert sorted(site.partitions) == sorted(studies(1, 2, 3))


@contextmanager
def dying_after(instance: DagsterInstance, deletions: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    delete, left = instance.delete_dynamic_partition, [deletions]

    def delete_or_die(*given: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        delete(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(instance, "delete_dynamic_partition", delete_or_die)
        yield


@pytest.mark.parametrize("deletions", range(3))
def test_wherever_a_tick_dies_the_next_one_comes_to_the_same(site: Site, deletions: int, monkeypatch: pytest.MonkeyPatch):
    site.ends(*(succeeded(number, NOON + timedelta(minutes=number)) for number in range(5)))
    site.make_table(TODAY)
    with dying_after(site.instance, deletions, monkeypatch):
        site.step(size=2)
    site.step(size=2)
    assert site.partitions == studies(3, 4)
    assert set(site.table(TODAY)) >= set(studies(0, 1, 2))


def test_a_study_that_ends_again_while_it_leaves_is_a_partition_afterwards(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.ends(succeeded(1), succeeded(2))
    site.make_table(TODAY)
    delete = site.instance.delete_dynamic_partition

    def answered_meanwhile(*given: str) -> None:
        monkeypatch.undo()
        site.ends(succeeded(1, TOMORROW, job=job_of(11)), now=TOMORROW)
        delete(*given)

    monkeypatch.setattr(site.instance, "delete_dynamic_partition", answered_meanwhile)
    site.step(size=1)
    assert sorted(site.partitions) == sorted(studies(1, 2))


def test_a_study_that_ended_again_while_a_tick_removed_it_and_died_is_a_partition_after_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    site.ends(succeeded(1), succeeded(2))
    site.make_table(TODAY)
    site.window(size=1)
    delete = site.instance.delete_dynamic_partition

    def answered_meanwhile_and_dies(*given: str) -> None:
        site.ends(succeeded(1, TOMORROW, job=job_of(11)), now=TOMORROW)
        delete(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(site.instance, "delete_dynamic_partition", answered_meanwhile_and_dies)
        site.window(size=1)
    assert site.partitions == studies(2), "the tick has not looked after it"
    site.window(size=1)
    assert sorted(site.partitions) == sorted(studies(1, 2))


@pytest.mark.parametrize("cursor", [None, "", "{", "{}", "7", '["Doe^Jane", 7, null]', "[[]]"])
def test_a_cursor_that_no_tick_has_written_names_nobody(cursor: str | None):
    assert named_in(cursor) == frozenset()


# ------------------------------------------------------------------------------------------------------------------ which days are due


def test_every_day_since_the_first_result_is_due_once_it_is_over():
    first = date(2026, 3, 10)
    at = datetime(2026, 3, 12, 0, 9, tzinfo=UTC)
    assert due({}, first, (), at) == (first,), "the eleventh may still get what is on its way"
    assert due({}, first, (), at + timedelta(minutes=1)) == (first, date(2026, 3, 11))
    assert due({first.isoformat(): 7}, first, (), at) == ()
    assert due({first.isoformat(): 7}, first, [first], at) == (first,), "its table lacks a study that is to leave"


def test_few_days_are_asked_for_at_once_the_oldest_first_and_none_before_there_were_any():
    assert due({}, date(2026, 3, 1), (), NOON) == tuple(date(2026, 3, day) for day in range(1, 1 + DAYS_AT_ONCE))
    assert due({}, TODAY, [date(1970, 1, 1), date(2030, 1, 1)], NOON) == (), "by a clock that is wrong"


@pytest.fixture
def kept(bucket: Bucket) -> Iterator[Site]:
    """A deployment whose Dagster keeps its storage: an evaluated sensor knows partitions by that alone."""
    with DagsterInstance.local_temp(overrides={"telemetry": {"enabled": False}}) as instance:
        yield Site(instance, bucket)


def sensor_tick(instance: DagsterInstance, cursor: str | None = None) -> Any:
    resources = {"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": "studies"})}
    defined = Definitions(assets=[studies_by_day], sensors=[study_window], resources=resources).get_repository_def()
    ref = instance.get_ref() if instance.is_persistent else None
    context = build_sensor_context(instance=instance, instance_ref=ref, cursor=cursor, repository_def=defined, resources=resources)
    return study_window.evaluate_tick(context)


def test_the_sensor_asks_for_each_day_once_a_day(kept: Site):
    kept.ends(succeeded(1, datetime(2026, 4, 1, tzinfo=UTC)), now=datetime(2026, 4, 1, 1, tzinfo=UTC))
    wanted = sensor_tick(kept.instance).run_requests
    assert [request.partition_key for request in wanted] == ["2026-04-01", "2026-04-02", "2026-04-03"]
    again = sensor_tick(kept.instance).run_requests
    assert [request.run_key for request in again] == [request.run_key for request in wanted], "Dagster takes a key once"
    assert len({request.run_key for request in wanted}) == DAYS_AT_ONCE


def test_the_sensor_removes_what_is_beyond_the_window_of_the_settings(kept: Site, monkeypatch: pytest.MonkeyPatch):
    kept.ends(succeeded(1), succeeded(2))
    kept.make_table(TODAY)
    cursor = sensor_tick(kept.instance).cursor
    assert kept.partitions == studies(1, 2)
    kept.instance.add_dynamic_partitions("study", [f"{number:016x}" for number in range(100)])
    monkeypatch.setenv("MONAI_AWS_STUDY_WINDOW", "101")
    cursor = sensor_tick(kept.instance, cursor).cursor
    assert len(kept.partitions) == 102, "it names first whom the next tick removes"
    sensor_tick(kept.instance, cursor)
    assert kept.partitions[0] == study_of(2)
    assert len(kept.partitions) == 101


def test_the_sensor_has_nothing_to_do_before_there_is_any_result(instance: DagsterInstance):
    found = sensor_tick(instance)
    assert not found.run_requests
    assert found.skip_message


# ------------------------------------------------------------------------------------------------------------------------- many of them


def small_event(number: int) -> Any:
    made = event(succeeded(number, at_of(number)))
    return made.with_metadata({name: made.metadata[name] for name in ("status", "job", "committed_at", "map_digest")})


def at_of(number: int) -> datetime:
    """1,500 a day."""
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=number * 0.96)


@pytest.mark.parametrize("recorded", [2_000, 200_000])
def test_a_look_costs_the_same_however_many_studies_are_recorded(bucket: Bucket, recorded: int):
    with DagsterInstance.local_temp(overrides={"telemetry": {"enabled": False}}) as instance:
        site = Site(instance, bucket)
        window, beyond = 1000, LEAVE_AT_ONCE + 100
        record_many(site.instance, small_event, range(recorded), at_of)
        add_partitions(site.instance, range(recorded - window - beyond, recorded))
        now = at_of(recorded) + timedelta(days=1)
        for day in {at_of(number).date() for number in range(recorded - window - beyond, recorded - window)}:
            site.make_table(day)
        with statements() as made:
            found = look(site.instance, window, now)
        assert len(found.leaving) == LEAVE_AT_ONCE
        assert found.leaving[0] == study_of(recorded - window - beyond)
        assert len(made) <= 20, made
        leave(site.instance, found.leaving, found.leaving)
        assert look(site.instance, window, now).leaving == tuple(
            study_of(number) for number in range(recorded - window - 100, recorded - window)
        )
