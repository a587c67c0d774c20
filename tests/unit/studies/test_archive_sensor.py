"""What the archive answered reaches the lineage once, and what no host has stored is shown, asked for, and no more than asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import AssetCheckEvaluation, AssetMaterialization, AssetObservation, AssetRecordsFilter, DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from monai_aws_pipeline.archive.errors import ArchiveAwayError
from monai_aws_pipeline.archive.record import ArchiveRecord, SeriesRecord
from monai_aws_pipeline.contract import ResultRecord, archive_key
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.studies import archive_sensor, sensor
from monai_aws_pipeline.studies.archive_sensor import Look, Watch
from monai_aws_pipeline.studies.archived_study import ARCHIVED_STUDY, archive_metadata
from monai_aws_pipeline.studies.lineage import STUDIES
from monai_aws_pipeline.studies.results_index import Cursor
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

NOW = datetime.now(UTC)
IMAGES, SEG = SeriesRecord("1", "MR", is_result=False, sent=3, stored=3), SeriesRecord("9", "SEG", is_result=True, sent=1, stored=1)


def whole(record: ResultRecord) -> ArchiveRecord:
    return ArchiveRecord(record.study, record.job, "healthimaging", (IMAGES, SEG), 1.5, 4096, 2, 5, "0" * 32)


def partial(record: ResultRecord) -> ArchiveRecord:
    return replace(whole(record), series=(IMAGES, replace(SEG, stored=0, refused={0xA700: 1})))


class Desk:
    """An archive's records, an instance, and what Dagster's daemon does with a tick's result."""

    def __init__(self, instance: DagsterInstance, bucket: Bucket) -> None:
        self.instance, self.bucket = instance, bucket
        self.records: dict[tuple[str, str], ArchiveRecord] = {}
        self.away, self.asked, self.said, self.read = False, 0, list[str](), list[str]()
        self.watch: Watch | None = None
        self.results = Cursor()

    def answered(self, *records: ResultRecord) -> None:
        """Studies that ended, as study_results records them."""
        for record in records:
            self.bucket.commit(record)
        recording, self.results = sensor.tick(self.instance, ResultsStore(self.bucket.s3, self.bucket.name), self.results, NOW)
        for event in recording.events:
            self.instance.report_runless_asset_event(event)
        self.instance.add_dynamic_partitions(str(STUDIES.name), list(recording.studies))

    def archived(self, record: ArchiveRecord) -> None:
        self.records[record.study, record.job] = record

    def look(self, minutes: float = 0, *, dies: bool = False) -> Look:
        def read(study: str, job: str) -> ArchiveRecord | None:
            self.read.append(study)
            return self.records.get((study, job))

        def answers() -> None:
            self.asked += 1
            if self.away:
                raise ArchiveAwayError("The archive cannot be reached.")

        look = archive_sensor.tick(self.instance, read, answers, self.watch, NOW + timedelta(minutes=minutes), self.said.append)
        for event in look.events:
            self.instance.report_runless_asset_event(event)
        if not dies:
            self.watch = Watch.parse(look.watch.to_text())
            assert self.watch == look.watch
        return look

    def shown(self) -> list[str]:
        wanted = AssetRecordsFilter(ARCHIVED_STUDY)
        return sorted(record.partition_key or "" for record in self.instance.fetch_materializations(wanted, limit=100).records)


def of_kind(look: Look, kind: type[Any]) -> list[Any]:
    return [event for event in look.events if isinstance(event, kind)]


@pytest.fixture
def desk(instance: DagsterInstance, bucket: Bucket) -> Desk:
    return Desk(instance, bucket)


def recent(number: int, minutes: float = 1, **more: Any) -> ResultRecord:
    return succeeded(number, NOW - timedelta(minutes=minutes), outputs=(), **more)


def test_a_study_that_a_host_has_stored_is_recorded_once_and_its_check_passes(desk: Desk):
    record = recent(1)
    desk.answered(record)
    assert desk.look().events == (), "the host is at it"
    desk.archived(whole(record))
    first = desk.look()
    (event,) = of_kind(first, AssetMaterialization)
    assert (event.partition, event.metadata["stored"].value, event.metadata["archive"].value) == (record.study, 4, "healthimaging")
    (check,) = of_kind(first, AssetCheckEvaluation)
    assert check.passed
    assert desk.look().events == ()
    assert desk.read.count(record.study) == 2, "what is recorded is not read again"
    assert desk.shown() == [record.study]


def test_what_was_answered_before_the_sensor_ran_first_is_looked_for(desk: Desk):
    record = recent(1)
    desk.answered(record)
    desk.archived(whole(record))
    assert of_kind(desk.look(), AssetMaterialization)


def test_answers_that_are_recorded_while_the_first_look_is_taken_are_looked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    first, second, failed = recent(1, 3), recent(2, 2), refused(3, NOW - timedelta(minutes=1))
    desk.answered(first)
    fetch = desk.instance.fetch_materializations

    def fetched_and_then_written(*given: Any, **named: Any) -> Any:
        found = fetch(*given, **named)
        monkeypatch.undo()  # of the first question alone
        desk.answered(second, failed)
        return found

    monkeypatch.setattr(desk.instance, "fetch_materializations", fetched_and_then_written)
    desk.look()
    desk.look()
    assert desk.watch
    assert {each.study for each in desk.watch.awaited} == {first.study, second.study}


def test_a_tick_that_dies_after_its_events_records_nothing_twice(desk: Desk):
    record = recent(1)
    desk.answered(record)
    desk.look()
    desk.archived(whole(record))
    desk.look(dies=True)
    desk.look()
    assert desk.shown() == [record.study]


def test_a_partly_stored_study_is_an_observation_and_a_failed_check_until_it_is_whole(desk: Desk):
    record = recent(1)
    desk.answered(record)
    desk.archived(partial(record))
    look = desk.look()
    (seen,) = of_kind(look, AssetObservation)
    assert seen.partition == record.study
    assert seen.description == "the archive refused 1 of its instances (0xA700: out of resources)"
    (check,) = of_kind(look, AssetCheckEvaluation)
    assert not check.passed
    assert (check.metadata["failing"].value, check.metadata["studies"].value.records[0].data["study"]) == (1, record.study)
    assert look.wanted == (), "what it refused it would refuse again"
    assert desk.look(1).events == ()
    desk.archived(whole(record))
    again = desk.look(11)
    assert of_kind(again, AssetMaterialization)
    (check,) = of_kind(again, AssetCheckEvaluation)
    assert check.passed


def test_a_study_that_no_host_has_stored_is_said_and_stored_by_a_run_once_the_archive_answers(desk: Desk):
    desk.away = True
    late = [recent(number, 5) for number in range(12)]
    desk.answered(*late)
    assert desk.look().events == ()
    look = desk.look(6)
    assert {event.description for event in of_kind(look, AssetObservation)} == {"not archived yet"}
    assert len(of_kind(look, AssetObservation)) == 12
    assert (look.wanted, desk.asked) == ((), 1)
    assert desk.said == ["10 studies or more wait for the archive: The archive cannot be reached."]
    desk.away = False
    first = desk.look(7)
    second = desk.look(7.5)
    assert [len(look.wanted) for look in (first, second)] == [10, 2]
    assert not of_kind(first, AssetObservation), "said once"
    third = desk.look(8)
    assert (third.wanted, third.events) == ((), ())
    for record in late:
        desk.archived(whole(record))
    desk.look(40)
    assert desk.shown() == sorted(record.study for record in late)


def test_a_run_that_did_not_help_is_asked_for_again_at_growing_intervals(desk: Desk):
    desk.answered(recent(1, 15))
    wanted = [minute for minute in range(0, 200, 5) if desk.look(minute).wanted]
    assert wanted == [0, 20, 60, 140]


def test_after_a_week_it_is_not_asked_for_any_more(desk: Desk):
    desk.answered(recent(1, 15))
    desk.look()
    assert desk.watch
    assert len(desk.watch.awaited) == 1
    look = desk.look(7 * 24 * 60)
    assert look.watch.awaited == ()
    (check,) = of_kind(look, AssetCheckEvaluation)
    assert check.passed


def test_of_a_study_that_is_answered_again_the_latest_answer_counts(desk: Desk):
    first = recent(1, 15)
    desk.answered(first)
    desk.look()
    second = recent(1, 0.5, job=job_of(77))
    desk.answered(second)
    desk.archived(whole(second))
    desk.look(1)
    assert desk.watch
    assert desk.watch.awaited == ()
    assert desk.shown() == [study_of(1)]


def test_failures_are_nothing_to_archive(desk: Desk):
    desk.answered(refused(1, NOW, study_of(1)), recent(2))
    desk.look()
    assert desk.read == [study_of(2)]


def test_a_study_that_left_the_window_is_not_asked_for(desk: Desk):
    record = recent(1, 15)
    desk.answered(record)
    desk.instance.delete_dynamic_partition(str(STUDIES.name), record.study)
    assert desk.look().wanted == ()


def test_more_than_it_can_wait_for_is_read_later_and_nothing_is_lost(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive_sensor, "MOST_WAITING", 3)
    desk.look()
    records = [recent(number) for number in range(8)]
    desk.answered(*records)
    for record in records:
        desk.archived(whole(record))
    for _ in range(6):
        desk.look()
        assert desk.watch
        assert len(desk.watch.awaited) <= 3
    assert desk.shown() == sorted(record.study for record in records)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"as_of": 1}', json.dumps({"as_of": 1, "awaited": [{"x": 1}], "shown": ""})])
def test_a_cursor_that_is_none_begins_anew(text: str):
    assert Watch.parse(text) is None


def test_an_archived_study_is_fresh_and_goes_stale_when_the_study_is_answered_again(desk: Desk):
    def status(study: str) -> str:
        defs = build_defs().get_repository_def()
        resolver = CachingStaleStatusResolver(desk.instance, defs.asset_graph, LoadingContextForTest(desk.instance))
        return resolver.get_status(ARCHIVED_STUDY, study).value

    first = recent(1, 5)
    desk.answered(first)
    assert status(first.study) == "MISSING"
    desk.archived(whole(first))
    desk.look()
    assert status(first.study) == "FRESH"
    desk.answered(recent(1, 0.5, job=job_of(77)))
    assert status(first.study) == "STALE"


def test_what_is_said_of_a_study_fits_an_event(bucket: Bucket):
    many = replace(whole(recent(1)), series=tuple(replace(SEG, number=str(n), corrected=("AccessionNumber", "StudyID")) for n in range(60)))
    metadata = archive_metadata(many)
    assert metadata["series_not_shown"].value == 50
    assert len(json.dumps({name: str(value.value) for name, value in metadata.items()})) < 4096


def test_the_record_is_where_the_contract_says(bucket: Bucket):
    record = whole(recent(1))
    assert archive_key(record.study, record.job) == f"archive/{record.study}/{record.job}.json"
    assert ArchiveRecord.parse(record.to_json()) == record
