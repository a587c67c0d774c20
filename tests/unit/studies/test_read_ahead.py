"""What the next tick will want is read while this one's events are written, and nothing rests on it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from dagster import DagsterInstance

from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError
from monai_aws_pipeline.studies import sensor
from monai_aws_pipeline.studies.read_ahead import ReadAhead, read_result
from monai_aws_pipeline.studies.results_index import Cursor, arrival
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

NOW = datetime.now(UTC)
RESULTS = 5


class Watched(ResultsStore):
    """Says which objects were read, and reads none where it is broken."""

    def __init__(self, bucket: Bucket, *, broken: bool = False):
        super().__init__(bucket.s3, bucket.name)
        self.read_keys: list[str] = []
        self.broken = broken

    def _read(self, key: str, limit: int) -> bytes | None:
        self.read_keys.append(key)
        if self.broken:
            raise ClientError({"Error": {"Code": "SlowDown", "Message": "SlowDown"}}, "GetObject")
        return super()._read(key, limit)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadAhead]:
    monkeypatch.setattr(sensor, "EVENTS_A_TICK", 3)
    ahead = ReadAhead()
    yield ahead
    ahead.close()


def jobs(recording: Any) -> list[str]:
    return [event.tags["monai-aws/job"] for event in recording.events]


def write(instance: DagsterInstance, recording: Any) -> None:
    for event in recording.events:
        instance.report_runless_asset_event(event)


def test_the_next_tick_finds_its_results_read(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    committed = [bucket.commit(succeeded(number, NOW)) for number in range(RESULTS)]
    first, cursor = sensor.tick(instance, Watched(bucket), Cursor(), NOW, ahead=ahead)
    write(instance, first)
    ahead.close()
    later = Watched(bucket, broken=True)
    second, _ = sensor.tick(instance, later, cursor, NOW, ahead=ahead)
    assert later.read_keys == []
    assert sorted(jobs(first) + jobs(second)) == sorted(record.job for record in committed)


def test_where_nothing_waits_nothing_is_read_ahead(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    for number in range(3):
        bucket.commit(succeeded(number, NOW))
    store = Watched(bucket)
    sensor.tick(instance, store, Cursor(), NOW, ahead=ahead)
    ahead.close()
    assert len(store.read_keys) == 3 * 2


def test_trouble_while_reading_ahead_is_none_of_a_tick_that_has_none(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead):
    for number in range(RESULTS):
        bucket.commit(succeeded(number, NOW))
    first, cursor = sensor.tick(instance, Watched(bucket), Cursor(), NOW)
    write(instance, first)
    entries = [entry for key in ResultsStore(bucket.s3, bucket.name).index_keys("") if (entry := arrival(key))]
    ahead.expect(Watched(bucket, broken=True), lambda: entries)
    ahead.close()
    second, _ = sensor.tick(instance, Watched(bucket), cursor, NOW, ahead=ahead)
    assert sorted(jobs(first) + jobs(second)) == sorted(map(job_of, range(RESULTS)))


def test_what_was_damaged_while_it_was_read_ahead_is_read_again(bucket: Bucket, ahead: ReadAhead):
    record = bucket.commit(succeeded(1, NOW))
    bucket.put(record.commit_key, "{")
    entry = arrival(record.index_key)
    assert entry
    ahead.expect(Watched(bucket), lambda: [entry])
    ahead.close()
    bucket.commit(record)
    (found,) = ahead.read(Watched(bucket), [entry])
    assert not isinstance(found, UnreadableResultError)
    assert found.record == record


def test_what_is_not_wanted_any_more_is_dropped(bucket: Bucket, ahead: ReadAhead):
    entries = [arrival(bucket.commit(succeeded(number, NOW)).index_key) for number in range(2)]
    wanted, other = (entry for entry in entries if entry)
    ahead.expect(Watched(bucket), lambda: [other])
    ahead.close()
    store = Watched(bucket)
    (found,) = ahead.read(store, [wanted])
    assert not isinstance(found, UnreadableResultError)
    assert found.record.job == wanted.job
    ahead.read(store, [other])
    assert len(store.read_keys) == 2 * 2, "what was read ahead is kept for one tick"


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
