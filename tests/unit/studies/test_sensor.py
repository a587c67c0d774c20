"""The sensor records what the bucket holds: everything, once, whatever is damaged and wherever a tick dies."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from dagster import AssetRecordsFilter, DagsterInstance, DagsterRunStatus, DefaultSensorStatus, build_sensor_context
from dagster._core.storage.dagster_run import DagsterRun

from monai_aws_pipeline.contract import IndexEntry, ResultError, Status, index_key, output_key, quarantine_key
from monai_aws_pipeline.operations.results_store import ResultsStore, StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies import lineage, results_index, sensor
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, STUDIES, event_of
from monai_aws_pipeline.studies.results_index import Cursor
from monai_aws_pipeline.studies.sensor import study_results_sensor, tick
from tests.unit.studies.records import DIGEST, Bucket, job_of, picture, refused, study_of, succeeded


class TickDiedError(Exception):
    pass


class Daemon:
    """What Dagster's daemon does with a sensor's result, in its order: events, then the cursor. Partitions the sensor adds itself."""

    def __init__(self, instance: DagsterInstance, bucket: Bucket):
        self.instance, self.bucket, self.cursor = instance, bucket, None
        self.sensor = study_results_sensor(30)

    def tick(self, die_after: str = "") -> Any:
        context = build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"cloud": CloudResource(region="us-east-1"), "settings": SettingsResource(overrides={"bucket": self.bucket.name})},
        )
        data = self.sensor.evaluate_tick(context)
        for number, event in enumerate(data.asset_events):
            if die_after == "some events" and number == 2:
                raise TickDiedError
            self.instance.report_runless_asset_event(event)
        if die_after == "events":
            raise TickDiedError
        self.cursor = data.cursor
        return data

    def until_quiet(self) -> int:
        for ticks in range(1, 100):
            if not self.tick().asset_events:
                return ticks
        raise AssertionError("the sensor never comes to rest")

    def materializations(self) -> list[Any]:
        return [record.asset_materialization for record in self.instance.fetch_materializations(INFERENCE_RESULT, limit=2000).records]

    def observations(self) -> list[Any]:
        return [record.asset_observation for record in self.instance.fetch_observations(INFERENCE_RESULT, limit=2000).records]

    def jobs(self) -> list[str]:
        return sorted(event.tags["monai-aws/job"] for event in self.materializations())

    def studies(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions(str(STUDIES.name)))


@pytest.fixture
def daemon(instance: DagsterInstance, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.setattr(CloudResource, "clients", lambda _: SimpleNamespace(s3=bucket.s3))  # making a client costs more than a tick
    return Daemon(instance, bucket)


def recently(minutes: float = 1) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def test_the_sensor_runs_without_anyone_switching_it_on():
    sensor = study_results_sensor(30)
    assert sensor.default_status is DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30


def test_an_answered_upload_becomes_a_materialization_of_its_study(daemon: Daemon, bucket: Bucket):
    record = bucket.commit(succeeded(1, recently()), picture())
    daemon.tick()
    (event,) = daemon.materializations()
    assert event.partition == record.study
    assert daemon.studies() == {record.study}
    assert event.metadata["map_digest"].value == DIGEST
    assert event.metadata["volume_brain_ml"].value == 1437.25
    assert f"/studies/{record.study}/{record.job}/preview-600.png)" in event.metadata["preview"].value


def test_each_recorded_result_says_what_its_checks_found(daemon: Daemon, bucket: Bucket):
    bucket.commit(succeeded(1, recently()))
    bucket.commit(refused(2, recently(), study_of(2)))
    daemon.tick()
    (answer,), (failure,) = daemon.materializations(), daemon.observations()
    said = [
        dict(re.findall(r"^\| (\w+) \| (passed|failed|not judged) \|", event.metadata["checks"].value, re.M)) for event in (answer, failure)
    ]
    assert said[0]["answered"] == said[0]["within_time_and_cost"] == "passed"
    assert said[0]["mesh_agrees"] == "not judged", "the host of this record is older than the check"
    assert said[1]["answered"] == "failed"
    assert list(said[0]) == list(said[1])


def test_a_limit_of_the_settings_is_what_a_result_is_judged_by(daemon: Daemon, bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_STUDY_MAX_SECONDS", "9")
    bucket.commit(succeeded(1, recently()))
    daemon.tick()
    (answer,) = daemon.materializations()
    assert "| within_time_and_cost | failed | inference 9.2 s, more than 9 s |" in answer.metadata["checks"].value


def test_520_results_of_one_second_are_recorded_once_over_several_ticks(daemon: Daemon, bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    clients: list[Any] = []
    monkeypatch.setattr(sensor, "EVENTS_A_TICK", 200)
    monkeypatch.setattr(CloudResource, "clients", lambda _: SimpleNamespace(s3=clients.append(bucket.s3) or bucket.s3))
    at = recently()
    for number in range(520):
        bucket.commit(succeeded(number, at, outputs=()))
    ticks = daemon.until_quiet()
    assert ticks == 5, "100 that nothing was read ahead of, 200, 200, 20, and the quiet one"
    assert len(clients) == 1, "they share one"
    assert daemon.jobs() == sorted(job_of(number) for number in range(520))
    assert daemon.studies() == {study_of(number) for number in range(520)}


def test_after_trouble_a_tick_makes_its_client_anew(daemon: Daemon, bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    """Whose credentials were exchanged meanwhile has them taken, without a restart."""

    class Refusing:
        def get_paginator(self, _: str) -> None:
            raise ClientError({"Error": {"Code": "ExpiredToken", "Message": "expired"}}, "ListObjectsV2")

    clients = iter([Refusing(), bucket.s3])
    monkeypatch.setattr(CloudResource, "clients", lambda _: SimpleNamespace(s3=next(clients)))
    record = bucket.commit(succeeded(1, recently()))
    with pytest.raises(Exception, match="ExpiredToken"):
        daemon.tick()
    daemon.until_quiet()
    assert daemon.jobs() == [record.job]


def test_a_tick_asks_the_event_log_as_often_for_thirty_results_as_for_two(
    daemon: Daemon, bucket: Bucket, questions: Callable[[Callable[[], object]], int]
):
    def look() -> None:
        tick(daemon.instance, ResultsStore(bucket.s3, bucket.name), Cursor.parse(daemon.cursor), datetime.now(UTC))

    bucket.commit(succeeded(90, recently(3), outputs=()))
    daemon.tick()
    asked = []
    for results in (range(1), range(10, 25)):
        for number in results:  # two answers each, so that one is beside the other
            bucket.commit(succeeded(number, recently(2), outputs=()))
            bucket.commit(succeeded(number, recently(1), outputs=(), job=job_of(number + 500)))
        asked.append(questions(look))
        daemon.tick()
    assert asked[0] == asked[1] > 0
    assert len(daemon.jobs()) == 33


def test_results_that_are_deleted_between_ticks_disturb_nothing(daemon: Daemon, bucket: Bucket):
    first, second = bucket.commit(succeeded(1, recently())), bucket.commit(succeeded(2, recently()))
    daemon.tick()
    bucket.delete(first.index_key)
    bucket.delete(second.commit_key)
    bucket.commit(succeeded(3, recently()))
    daemon.tick()
    assert daemon.jobs() == sorted(job_of(n) for n in (1, 2, 3))


@pytest.mark.parametrize("moment", ["some events", "events"])
def test_a_tick_that_dies_between_events_and_cursor_records_nothing_twice(daemon: Daemon, bucket: Bucket, moment: str):
    for number in range(5):
        bucket.commit(succeeded(number, recently()))
    bucket.commit(refused(9, recently()))
    with pytest.raises(TickDiedError):
        daemon.tick(die_after=moment)
    daemon.until_quiet()
    assert daemon.jobs() == sorted(job_of(number) for number in range(5))
    assert len(daemon.observations()) == 1
    assert daemon.studies() == {study_of(number) for number in range(5)}


def test_a_lost_cursor_records_nothing_twice(daemon: Daemon, bucket: Bucket):
    for number in range(5):
        bucket.commit(succeeded(number, recently(minutes=60 * 24 * number)))
    daemon.until_quiet()
    daemon.cursor = None
    daemon.until_quiet()
    assert len(daemon.jobs()) == 5


def test_a_failed_study_committed_without_a_folder_of_its_own_is_still_recorded(daemon: Daemon, bucket: Bucket):
    older = refused(1, recently(), study_of(1), Status.FAILED)
    key = quarantine_key(older.job, "result.json")
    bucket.put(key, older.to_json())
    bucket.put(older.index_key, replace(IndexEntry.of(older), key=key).to_json())
    daemon.tick()
    assert len(daemon.observations()) == 1


def test_damaged_entries_are_skipped_with_a_reason_and_the_good_ones_recorded(
    daemon: Daemon, bucket: Bucket, capfd: pytest.CaptureFixture[str]
):
    at = recently()
    bucket.put(index_key(at, job_of(1), study_of(1)), "{")
    bucket.put(index_key(at, job_of(2), study_of(2)), b"\xff\xfe")
    bucket.put(index_key(at, job_of(3), study_of(3)), "x" * 100_000)
    bucket.put(index_key(at, job_of(4), study_of(4)), '{"schema": "monai-aws/index/99"}')
    torn = bucket.commit(succeeded(6, at))
    bucket.put(torn.commit_key, '{"schema": "monai-aws/result/1", "job"')
    swapped = bucket.commit(succeeded(7, at))
    bucket.put(swapped.commit_key, replace(succeeded(7, at), job=job_of(70)).to_json())
    bucket.put("results-index/stray.txt", "stray")
    good = bucket.commit(succeeded(8, at))
    daemon.tick()
    assert daemon.jobs() == [good.job]
    assert daemon.studies() == {good.study}
    assert capfd.readouterr().err.count("Skipped an entry") == 6
    daemon.tick()
    assert "Skipped" not in capfd.readouterr().err, "what is damaged is reported once"


def test_a_result_that_has_expired_before_it_was_recorded_is_observed_as_such_once(
    daemon: Daemon, bucket: Bucket, capfd: pytest.CaptureFixture[str]
):
    at = recently()
    answered, refusal = bucket.commit(succeeded(5, at)), bucket.commit(refused(6, at))
    for gone in (answered, refusal):
        bucket.delete(gone.commit_key)
    good = bucket.commit(succeeded(8, at))
    daemon.tick()
    assert daemon.jobs() == [good.job]
    seen = {event.tags["monai-aws/job"]: event for event in daemon.observations()}
    assert set(seen) == {answered.job, refusal.job}
    assert seen[answered.job].description.startswith("expired: succeeded at ")
    assert seen[answered.job].partition == answered.study
    assert seen[refusal.job].partition is None
    assert daemon.studies() == {good.study, answered.study}
    assert "Skipped" not in capfd.readouterr().err, "nothing is wrong with it"
    daemon.cursor = None
    daemon.tick()
    assert len(daemon.observations()) == 2, "nor is it said again"


def test_measurements_of_an_older_host_are_read_from_beside_its_record(daemon: Daemon, bucket: Bucket):
    bucket.commit(succeeded(1, recently(), measured=None))
    daemon.tick()
    (event,) = daemon.materializations()
    assert event.metadata["volume_brain_ml"].value == 1437.25


def test_a_damaged_measurement_does_not_keep_a_result_out(daemon: Daemon, bucket: Bucket):
    record = bucket.commit(succeeded(1, recently(), measured=None))  # an older host's, whose measurements lie beside the record alone
    bucket.put(output_key(record.study, record.job, "measurements.json"), '{"segments": 17}')
    daemon.tick()
    (event,) = daemon.materializations()
    assert event.partition == record.study
    assert not [name for name in event.metadata if name.startswith("volume_")]


def test_an_answer_is_recorded_beside_the_one_that_its_study_had_before(daemon: Daemon, bucket: Bucket):
    for minutes, digest in ((9, "1" * 64), (8, "2" * 64)):  # both in one tick
        bucket.commit(succeeded(1, recently(minutes), f"sha256:{digest}", job=digest[:32]))
    daemon.tick()
    bucket.commit(succeeded(1, recently(7), "sha256:" + "3" * 64, job="3" * 32))
    daemon.tick()
    bucket.commit(succeeded(1, recently(10), "sha256:" + "0" * 64, job="0" * 32))
    daemon.tick()
    compared = {event.tags["monai-aws/job"][0]: event.metadata.get("compared_with_before") for event in daemon.materializations()}
    assert compared.keys() == {"0", "1", "2", "3"}
    assert compared["0"] is None, "what was committed later is not before it"
    assert compared["1"] is None
    assert f"| digest | {'2' * 12} | {'1' * 12} | other |" in compared["2"].value
    assert f"| digest | {'3' * 12} | {'2' * 12} | other |" in compared["3"].value


def test_trouble_of_s3_itself_is_raised_and_the_result_recorded_at_the_next_tick(
    daemon: Daemon, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    bucket.commit(succeeded(1, recently()))
    with monkeypatch.context() as broken:
        broken.setattr(ResultsStore, "record", _slow_down)
        with pytest.raises(Exception, match="SlowDown"):
            daemon.tick()
    daemon.tick()
    assert daemon.jobs() == [job_of(1)]


def _slow_down(*_: Any) -> None:
    raise ClientError({"Error": {"Code": "SlowDown", "Message": "SlowDown"}}, "GetObject")


def test_a_refused_upload_without_a_study_is_observed_on_the_asset(daemon: Daemon, bucket: Bucket):
    bucket.commit(refused(1, recently()))
    daemon.until_quiet()
    (event,) = daemon.observations()
    assert event.partition is None
    assert event.metadata["error_code"].value == "NOT_A_ZIP"
    assert event.description == "quarantined: NOT_A_ZIP"
    assert daemon.studies() == set()
    assert daemon.materializations() == []


def test_an_observation_says_at_first_sight_what_the_application_said_last(daemon: Daemon, bucket: Bucket):
    error = ResultError("map_failed", "The application ended with exit code 1.", "ValueError: no series is a volume")
    bucket.commit(replace(refused(1, recently(), study=study_of(1), status=Status.FAILED), error=error))
    daemon.until_quiet()
    (event,) = daemon.observations()
    assert event.description == "failed: map_failed: ValueError: no series is a volume"
    assert event.metadata["application_said_last"].value == "ValueError: no series is a volume"


def test_a_failed_study_is_observed_on_its_partition_and_stays_missing(daemon: Daemon, bucket: Bucket):
    bucket.commit(refused(1, recently(), study=study_of(1), status=Status.FAILED))
    daemon.until_quiet()
    (event,) = daemon.observations()
    assert event.partition == study_of(1)
    assert daemon.studies() == {study_of(1)}
    assert daemon.instance.get_materialized_partitions(INFERENCE_RESULT) == set()


def test_an_older_result_that_comes_with_a_newer_one_is_recorded_before_it(daemon: Daemon, bucket: Bucket):
    older, newer = succeeded(1, recently(9)), replace(succeeded(2, recently(5)), study=study_of(1), outputs=())
    bucket.commit(newer)
    bucket.commit(older)
    daemon.tick()
    latest = daemon.instance.fetch_materializations(AssetRecordsFilter(INFERENCE_RESULT, [study_of(1)]), limit=1).records[0]
    assert latest.asset_materialization is not None
    assert (latest.asset_materialization.tags or {})["monai-aws/job"] == newer.job


def test_a_study_that_comes_again_shows_its_newest_result_and_keeps_the_earlier_one(daemon: Daemon, bucket: Bucket):
    first = bucket.commit(succeeded(1, recently(30)))
    daemon.until_quiet()
    outputs = tuple(replace(output, key=output.key.replace(first.job, job_of(2))) for output in first.outputs)
    second = bucket.commit(replace(first, job=job_of(2), outputs=outputs, committed_at=succeeded(2, recently(10)).committed_at))
    daemon.until_quiet()
    events = daemon.materializations()
    assert [(event.partition, event.tags["monai-aws/job"]) for event in events] == [(first.study, second.job), (first.study, first.job)]
    assert daemon.studies() == {first.study}


def test_a_rerun_is_left_to_the_run_that_asked_for_it_while_that_is_at_work(daemon: Daemon, bucket: Bucket):
    record = bucket.commit(succeeded(1, recently(), request=DIGEST))
    run = DagsterRun(
        "__ASSET_JOB",
        status=DagsterRunStatus.STARTED,
        tags={"dagster/partition": record.study},
        asset_selection=frozenset({INFERENCE_RESULT}),
    )
    daemon.instance.add_run(run)
    daemon.tick()
    assert daemon.jobs() == []
    daemon.instance.delete_run(run.run_id)  # it was killed and recorded nothing
    daemon.tick()
    assert daemon.jobs() == [record.job]


def test_a_rerun_whose_run_recorded_it_and_ended_while_the_tick_read_is_not_recorded_twice(
    daemon: Daemon, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    records = [bucket.commit(succeeded(number, recently(), request=DIGEST, outputs=())) for number in (1, 2)]

    def ended(instance: DagsterInstance, study: str) -> bool:
        if study == records[0].study:
            instance.report_runless_asset_event(event_of(StoredResult(records[0], ()), Addresses(bucket.name), {}))
        return False

    monkeypatch.setattr(lineage, "run_is_active", ended)
    daemon.until_quiet()
    assert daemon.jobs() == sorted(record.job for record in records)


def test_a_result_that_was_written_days_late_is_found(daemon: Daemon, bucket: Bucket):
    for number in range(30):
        bucket.commit(succeeded(number, recently(minutes=60 * 5 * number), outputs=()))
    daemon.until_quiet()
    late = bucket.commit(succeeded(99, recently(minutes=60 * 61), outputs=()))
    assert any(late.job in daemon.jobs() for _ in range(40) if daemon.tick())
    assert len(daemon.jobs()) == 31


def test_a_result_that_was_written_days_late_into_a_large_hour_is_found_and_recorded_once(
    daemon: Daemon, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results_index, "PAGE", 5)
    at = recently(minutes=60 * 61)
    for number in range(12):
        bucket.commit(succeeded(number, at, outputs=()))
    bucket.commit(succeeded(50, recently(), outputs=()))
    daemon.until_quiet()
    late = bucket.commit(succeeded(99, at, outputs=()))
    assert any(late.job in daemon.jobs() for _ in range(20) if daemon.tick())
    for _ in range(10):
        assert not daemon.tick().asset_events
    assert len(daemon.jobs()) == 14


def test_without_a_bucket_the_tick_says_what_is_missing(daemon: Daemon, bucket: Bucket):
    bucket.name = ""
    assert "MONAI_AWS_BUCKET" in daemon.tick().skip_message
