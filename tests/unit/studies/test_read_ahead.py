"""What the next tick will want is read while this one's events are written, and nothing rests on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from dagster import DagsterInstance

from monai_aws_pipeline.operations.results_store import ResultsStore, StoredResult, UnreadableResultError
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.studies import lineage, read_ahead, sensor
from monai_aws_pipeline.studies.lineage import EventMaker, Recording
from monai_aws_pipeline.studies.read_ahead import ReadAhead, read_result
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT
from monai_aws_pipeline.studies.result_checks import StudyLimits
from monai_aws_pipeline.studies.results_index import Cursor, arrival
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

NOW = datetime.now(UTC)
RESULTS = 5
MAKE = EventMaker(Addresses("studies"), {})


class Watched(ResultsStore):
    """Says which objects were read, and reads none where it is broken."""

    def __init__(self, bucket: Bucket, *, broken: bool = False):
        super().__init__(bucket.s3, bucket.name)
        self.read_keys: list[str] = []
        self.listed = 0
        self.broken = broken

    def index_keys(self, start_after: str) -> Iterator[str]:
        self.listed += 1
        return super().index_keys(start_after)

    def _read(self, key: str, limit: int) -> bytes | None:
        self.read_keys.append(key)
        if self.broken:
            raise ClientError({"Error": {"Code": "SlowDown", "Message": "SlowDown"}}, "GetObject")
        return super()._read(key, limit)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadAhead]:
    monkeypatch.setattr(sensor, "EVENTS_A_TICK", 3)
    monkeypatch.setattr(read_ahead, "BEGINS_AFTER_S", 0.0)
    ahead = ReadAhead()
    yield ahead
    ahead.close()


def prepared(ahead: ReadAhead) -> None:
    """Wait for the background."""
    if ahead._next:
        ahead._next.result()


def jobs(recording: Any) -> list[str]:
    return [event.tags["monai-aws/job"] for event in recording.events]


def write(instance: DagsterInstance, recording: Any) -> None:
    for event in recording.events:
        instance.report_runless_asset_event(event)


def committed(bucket: Bucket, numbers: Iterable[int] = range(RESULTS)) -> list[str]:
    return sorted(bucket.commit(succeeded(number, NOW)).job for number in numbers)


def test_the_next_tick_finds_its_results_listed_and_read(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    expected = committed(bucket)
    first, cursor = sensor.tick(instance, Watched(bucket), Cursor(), NOW, ahead=ahead)
    write(instance, first)
    prepared(ahead)
    later = Watched(bucket, broken=True)
    second, after = sensor.tick(instance, later, Cursor.parse(cursor.to_text()), NOW, ahead=ahead)
    assert (later.listed, later.read_keys) == (0, [])
    assert sorted(jobs(first) + jobs(second)) == expected
    write(instance, second)
    assert jobs(sensor.tick(instance, Watched(bucket), after, NOW)[0]) == []


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs whose events were made, one by one."""
    jobs, make = [], lineage.event_of

    def counted(result: Any, *arguments: Any) -> Any:
        jobs.append(result.record.job)
        return make(result, *arguments)

    monkeypatch.setattr(lineage, "event_of", counted)
    return jobs


def begun(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead) -> tuple[Recording, Cursor]:
    """The first tick, written, and the next one read ahead."""
    committed(bucket)
    first, cursor = sensor.tick(instance, Watched(bucket), Cursor(), NOW, ahead=ahead)
    write(instance, first)
    prepared(ahead)
    return first, cursor


def test_the_events_of_the_next_tick_are_made_once_and_are_its_own(
    instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead, made: list[str]
):
    _, cursor = begun(instance, bucket, ahead)
    assert len(made) == RESULTS
    plain, _ = sensor.tick(instance, Watched(bucket), cursor, NOW)
    made.clear()
    second, _ = sensor.tick(instance, Watched(bucket), cursor, NOW, ahead=ahead)
    assert made == []
    assert second.events == plain.events


def test_what_would_be_told_otherwise_since_is_made_anew(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead, made: list[str]):
    """Somebody has changed the limits of a study."""
    _, cursor = begun(instance, bucket, ahead)
    changed = StudyLimits(seconds=0.5)
    known, _ = sensor.tick(instance, Watched(bucket), cursor, NOW)
    plain, _ = sensor.tick(instance, Watched(bucket), cursor, NOW, changed)
    made.clear()
    second, _ = sensor.tick(instance, Watched(bucket), cursor, NOW, changed, ahead=ahead)
    assert sorted(made) == sorted(jobs(second))
    assert second.events == plain.events != known.events


def test_a_study_that_was_answered_meanwhile_is_told_beside_that_answer(
    instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead, made: list[str]
):
    first, cursor = begun(instance, bucket, ahead)
    (waiting, *_) = (number for number in range(RESULTS) if job_of(number) not in jobs(first))
    another = succeeded(waiting, NOW - timedelta(hours=1), job="b" * 32)
    instance.report_runless_asset_event(lineage.event_of(StoredResult(another, ()), Addresses("studies"), {}))
    made.clear()
    second, _ = sensor.tick(instance, Watched(bucket), cursor, NOW, ahead=ahead)
    assert made == [job_of(waiting)]
    told = {event.tags["monai-aws/job"]: event.metadata for event in second.events}
    assert set(told.pop(job_of(waiting))) > set(next(iter(told.values())))


@pytest.mark.parametrize("most", [3, 100])
def test_a_tick_that_nothing_was_read_ahead_of_takes_few(
    most: int, instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is written while they are read; behind them three times as many, whatever a tick may take."""
    monkeypatch.setattr(sensor, "EVENTS_A_TICK", most)
    monkeypatch.setattr(sensor, "EVENTS_AT_FIRST", 1)
    expected = committed(bucket)
    first, cursor = sensor.tick(instance, Watched(bucket), Cursor(), NOW, ahead=ahead)
    write(instance, first)
    prepared(ahead)
    second, cursor = sensor.tick(instance, Watched(bucket), cursor, NOW, ahead=ahead)
    write(instance, second)
    prepared(ahead)
    third, _ = sensor.tick(instance, Watched(bucket), cursor, NOW, ahead=ahead)
    assert [len(each.events) for each in (first, second, third)] == [1, 3, 1]
    assert sorted(jobs(first) + jobs(second) + jobs(third)) == expected


def test_where_nothing_waits_nothing_is_read_ahead(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    committed(bucket, range(3))
    store = Watched(bucket)
    sensor.tick(instance, store, Cursor(), NOW, ahead=ahead)
    prepared(ahead)
    assert len(store.read_keys) == 3, "records alone: what was measured is in them"


def test_a_tick_that_begins_elsewhere_makes_its_own_plan(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    """As after a daemon that died before it stored the cursor."""
    committed(bucket)
    first, _ = sensor.tick(instance, Watched(bucket), Cursor(), NOW, ahead=ahead)
    prepared(ahead)
    taken = Watched(bucket)
    repeated, _ = sensor.tick(instance, taken, Cursor(), NOW, ahead=ahead)
    assert taken.listed > 0
    assert jobs(repeated) == jobs(first)


def test_where_the_bucket_is_another_one_nothing_of_the_first_is_taken(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    committed(bucket)
    store = ahead.store(bucket.name, lambda: bucket.s3)
    ahead.expect(store, Cursor(), NOW, 3, MAKE)
    prepared(ahead)
    other = Bucket(bucket.s3, "other")
    assert ahead.store(other.name, lambda: bucket.s3).bucket == other.name
    record = other.commit(succeeded(70, NOW))
    recording, _ = sensor.tick(instance, Watched(other), Cursor(), NOW, ahead=ahead)
    assert jobs(recording) == [record.job]


def test_trouble_while_reading_ahead_is_none_of_a_tick_that_has_none(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    expected = committed(bucket)
    first, cursor = sensor.tick(instance, Watched(bucket), Cursor(), NOW)
    write(instance, first)
    ahead.expect(Watched(bucket, broken=True), cursor, NOW, 3, MAKE)
    prepared(ahead)
    second, _ = sensor.tick(instance, Watched(bucket), cursor, NOW, ahead=ahead)
    assert sorted(jobs(first) + jobs(second)) == expected


def test_what_was_damaged_while_it_was_read_ahead_is_read_again(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    record = bucket.commit(succeeded(1, NOW))
    bucket.put(record.commit_key, "{")
    ahead.expect(Watched(bucket), Cursor(), NOW, 3, MAKE)
    prepared(ahead)
    bucket.commit(record)
    recording, _ = sensor.tick(instance, Watched(bucket), Cursor(), NOW, ahead=ahead)
    assert (jobs(recording), recording.skipped) == ([record.job], ())


def test_what_comes_while_it_is_read_ahead_is_found_after_it(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    committed(bucket)
    cursor = Cursor()
    for round_ in range(4):
        recording, cursor = sensor.tick(instance, Watched(bucket), cursor, NOW, ahead=ahead)
        write(instance, recording)
        if round_ == 0:
            prepared(ahead)
            committed(bucket, range(20, 24))
    found = [record.asset_materialization for record in instance.fetch_materializations(INFERENCE_RESULT, limit=50).records]
    assert sorted((event.tags or {})["monai-aws/job"] for event in found if event) == sorted(map(job_of, [*range(RESULTS), *range(20, 24)]))


def test_of_an_answer_no_entry_is_read_and_of_a_refusal_it_is(bucket: Bucket):
    answer, refusal = bucket.commit(succeeded(1, NOW)), bucket.commit(refused(2, NOW, study_of(2)))
    read = {}
    for record in (answer, refusal):
        entry, store = arrival(record.index_key), Watched(bucket)
        assert entry
        found = read_result(store, entry)
        assert not isinstance(found, UnreadableResultError)
        assert found.record == record
        read[record.job] = store.read_keys
    assert answer.index_key not in read[answer.job]
    assert refusal.index_key in read[refusal.job]
