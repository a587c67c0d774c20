"""``rerun_studies``: what each mode takes from Dagster's events, what a dry run lists, and what the run shows of before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, TableMetadataValue
from dagster_aws.s3 import S3Resource
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import JobMessage, Measurements, OutputFile, ResultRecord, output_key, processed_key
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, event_of
from monai_aws_pipeline.studies.recorded import results_after
from monai_aws_pipeline.studies.rerun import Reruns
from monai_aws_pipeline.studies.rerun_job import rerun_studies
from monai_aws_pipeline.studies.results_index import Cursor
from monai_aws_pipeline.studies.sensor import tick
from monai_aws_pipeline.studies.studies_by_map import counted
from tests.unit.host_agent.dicom_files import write_seg, write_series
from tests.unit.studies.records import DIGEST, NOON, OTHER_DIGEST, study_of, succeeded
from tests.unit.studies.rerun_bench import Deployment, failed_upload, work_off

OP = "answer_studies_again"


class Job:
    """The job on a deployment, with studies as the sensor has recorded them."""

    def __init__(self, instance: DagsterInstance, deployment: Deployment) -> None:
        self.instance, self.deployment = instance, deployment

    def record(self, record: ResultRecord) -> ResultRecord:
        self.instance.add_dynamic_partitions("study", [record.study])
        store = ResultsStore(self.deployment.bucket.s3, self.deployment.bucket.name)
        self.instance.report_runless_asset_event(event_of(store.with_outputs(record), Addresses(store.bucket), {}))
        return record

    def answered(self, number: int, digest: str = DIGEST, **changes: Any) -> str:
        record = replace(succeeded(number, digest=digest, outputs=()), **changes)
        self.deployment.bucket.put(processed_key(record.study, record.job, "upload.zip"), b"PK")
        return self.record(self.deployment.bucket.commit(record)).study

    def failed(self, number: int, original: bytes | None = b"PK") -> str:
        return self.record(failed_upload(self.deployment, number, original, study_of(number))).study

    def run(self, which: Mapping[str, Any], **config: Any) -> ExecuteInProcessResult:
        return rerun_studies.execute_in_process(
            instance=self.instance,
            run_config={"ops": {OP: {"config": {"which": which, **config}}}},
            resources={
                "s3": S3Resource(region_name="us-east-1"),
                "cloud": CloudResource(region="us-east-1"),
                "settings": SettingsResource(overrides={"bucket": self.deployment.bucket.name}),
            },
            raise_on_error=False,
        )

    def record_new(self) -> None:
        """What the sensor does, and Dagster's daemon with its events."""
        recording, _ = tick(self.instance, ResultsStore(self.deployment.bucket.s3, self.deployment.bucket.name), Cursor(), NOON)
        for event in recording.events:
            self.instance.report_runless_asset_event(event)

    def by_map(self) -> dict[str, int]:
        return counted({}, results_after(self.instance, 0, 500).results)

    def listed(self, which: Mapping[str, Any], **config: Any) -> list[str]:
        return [row["study"] for row in rows(self.run(which, dry_run=True, **config), "studies")]


def shown(result: ExecuteInProcessResult) -> Mapping[str, Any]:
    assert result.success
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    return event.step_output_data.metadata


def rows(result: ExecuteInProcessResult, name: str) -> list[dict[str, Any]]:
    table = shown(result)[name]
    assert isinstance(table, TableMetadataValue)
    return [dict(record.data) for record in table.records]


def failure(result: ExecuteInProcessResult) -> Any:
    assert not result.success
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data


def answer_well(message: JobMessage, volumes: Iterable[OutputFile] = ()) -> ResultRecord:
    assert message.rerun
    study = message.rerun.study or message.key.split("/")[1]
    record = succeeded(1, digest=message.rerun.digest, request=message.request, outputs=tuple(volumes))
    return replace(record, job=message.job, study=study)


@pytest.fixture
def job(instance: DagsterInstance, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Job:
    deployment.make_live(OTHER_DIGEST)
    monkeypatch.setattr(Reruns, "wake", lambda _: work_off(deployment, answer_well))  # the agent, prompt
    return Job(instance, deployment)


# ------------------------------------------------------------------------------------------------------------------ what is meant


def test_each_mode_lists_its_studies_and_asks_for_nothing(job: Job):
    old, new, broken, lost = job.answered(1), job.answered(2, OTHER_DIGEST), job.failed(3), job.failed(4, None)
    assert job.listed({"these": {"studies": [new, broken]}}) == [new, broken]
    assert set(job.listed({"failed": {"since": "2026-03-14"}})) == {broken, lost}
    assert job.listed({"failed": {"since": "2026-03-14", "code": "map_timeout"}}) == []
    assert job.listed({"failed": {"since": "2026-03-15"}}) == []
    assert job.listed({"answered_by": {"map": DIGEST}}) == [old]
    assert job.listed({"stale": {}}) == [old]
    assert job.deployment.queued() == []


def test_a_dry_run_says_how_each_study_ended_by_which_map_and_where_its_original_is(job: Job):
    job.answered(1)
    broken, lost = job.failed(3), job.failed(4, None)
    first, second, third = rows(job.run({"these": {"studies": [study_of(1), broken, lost]}}, dry_run=True), "studies")
    assert first["last end"] == "answered at 2026-03-14 12:30 UTC"
    assert first["MAP"] == DIGEST[7:19]
    assert first["original"].startswith(f"processed/{study_of(1)}/")
    assert second["last end"] == "map_failed at 2026-03-14 12:30 UTC"
    assert (second["MAP"], second["original"][:11]) == ("", "quarantine/")
    assert third["original"].startswith(f"No original of {lost} is kept")


def test_a_failed_study_that_was_answered_since_is_not_meant_any_more(job: Job):
    study = job.failed(3)
    assert job.listed({"failed": {"since": "2026-03-14"}}) == [study]
    job.answered(3, job="f" * 32)
    assert job.listed({"failed": {"since": "2026-03-14"}}) == []


def test_more_studies_than_were_confirmed_are_refused_and_nothing_is_asked(job: Job):
    for number in (1, 2, 3):
        job.answered(number)
    assert "More than 2 studies are meant" in failure(job.run({"stale": {}}, at_most=2)).description
    assert job.deployment.queued() == []
    assert "more than 2 studies are meant" in shown(job.run({"stale": {}}, at_most=2, dry_run=True))["meant"].value


def test_pages_of_the_event_log_are_read_to_their_end(job: Job, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monai_aws_pipeline.studies.study_history.PAGE", 2)
    answered = {job.answered(number) for number in range(1, 6)}
    failed = {job.failed(number) for number in range(11, 16)}
    assert set(job.listed({"stale": {}})) == answered
    assert set(job.listed({"failed": {"since": "2026-03-14"}})) == failed


# -------------------------------------------------------------------------------------------------------------------- what is done


def test_all_that_failed_are_answered_and_the_sensor_records_each_once(job: Job):
    studies = {job.failed(number) for number in (3, 4, 5)}
    result = job.run({"failed": {"since": "2026-03-14"}}, at_once=2)
    found = rows(result, "changes")
    assert {row["study"] for row in found} == studies
    assert {row["end"] for row in found} == {"answered"}
    assert shown(result)["ends"].value == "3 answered"
    assert not [event for event in result.all_events if event.is_step_materialization], "the sensor records, not this run"
    store = ResultsStore(job.deployment.bucket.s3, job.deployment.bucket.name)
    recording, _ = tick(job.instance, store, Cursor(), NOON)
    assert sorted(event.partition or "" for event in recording.events) == sorted(studies)


def test_started_again_it_asks_only_for_what_has_no_answer(job: Job, monkeypatch: pytest.MonkeyPatch):
    for number in (1, 2):
        job.answered(number)
    named = {"these": {"studies": [study_of(1), study_of(2)]}}
    assert shown(job.run(named))["ends"].value == "2 answered"
    monkeypatch.setattr(Reruns, "wake", lambda _: pytest.fail("nothing is to be asked"))
    assert shown(job.run(named))["ends"].value == "2 answered"
    assert job.deployment.queued() == []


def test_an_answer_that_another_map_had_taken_the_place_of_is_recorded_again_and_once(job: Job):
    study = job.answered(1)
    for digest in (OTHER_DIGEST, DIGEST):
        job.deployment.make_live(digest)
        assert shown(job.run({"stale": {}}))["ends"].value == "1 answered"
        job.record_new()
        assert job.by_map() == {digest: 1}
    job.deployment.make_live(OTHER_DIGEST)
    job.instance.delete_dynamic_partition("study", study)
    for _ in range(2):
        assert shown(job.run({"these": {"studies": [study]}}))["ends"].value == "1 answered"
        job.record_new()
        assert job.by_map() == {OTHER_DIGEST: 1}
        assert job.listed({"stale": {}}) == []
    recorded = [record.asset_materialization for record in job.instance.fetch_materializations(INFERENCE_RESULT, limit=10).records]
    provenance = [(event.tags or {})["dagster/input_data_version/live_map"] for event in recorded if event]
    assert provenance == [OTHER_DIGEST, DIGEST, OTHER_DIGEST, DIGEST], "the newest first: the upload, two re-runs, and the first again"
    assert list(job.instance.get_dynamic_partitions("study")) == [study], "a study beyond the window is called back by it"


def test_an_answer_that_is_not_recorded_yet_is_left_to_the_sensor(job: Job):
    study = job.answered(1)
    for _ in range(2):
        assert shown(job.run({"these": {"studies": [study]}}))["ends"].value == "1 answered"
    assert job.by_map() == {DIGEST: 1}
    job.record_new()
    assert job.by_map() == {OTHER_DIGEST: 1}


def test_one_study_that_cannot_be_asked_does_not_keep_the_others_from_it(job: Job):
    good, lost = job.failed(3), job.failed(4, None)
    found = {row["study"]: row for row in rows(job.run({"failed": {"since": "2026-03-14"}}), "changes")}
    assert (found[good]["end"], found[lost]["end"]) == ("answered", "not asked")
    assert "No original" in found[lost]["note"]


def test_a_run_in_which_no_study_was_answered_fails_with_the_cause_of_the_first(job: Job):
    job.failed(4, None)
    failed = failure(job.run({"failed": {"since": "2026-03-14"}}))
    assert failed.description.startswith("No study was answered: 1 not asked. The first: No original of")
    assert failed.metadata["changes"].records[0].data["end"] == "not asked"


def test_no_more_are_queued_at_once_than_was_said(job: Job, monkeypatch: pytest.MonkeyPatch):
    depths: list[int] = []

    def agent(_: Reruns) -> None:
        depths.append(len(job.deployment.queued()))
        work_off(job.deployment, answer_well)

    monkeypatch.setattr(Reruns, "wake", agent)
    named = [job.answered(number) for number in range(1, 6)]
    assert shown(job.run({"these": {"studies": named}}, at_once=2))["ends"].value == "5 answered"
    assert depths == [2, 2, 1]


def test_volumes_before_and_after_stand_beside_the_dice_of_both_segmentations(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    source = write_series(tmp_path / "source", generate_uid())

    def answer(record: ResultRecord, low: int, volume: float) -> ResultRecord:
        mask = np.zeros((8, 16, 16), dtype=bool)
        mask[low : low + 3, 4:8, 4:8] = True
        seg = write_seg(tmp_path / f"{low}.dcm", source, mask).read_bytes()
        measured = f'{{"segments": [{{"label": "Brain", "volume_ml": {volume}}}]}}'.encode()
        outputs = []
        for name, kind, body in (("dicom/seg.dcm", "dicom-seg", seg), ("measurements.json", "measurements", measured)):
            key = output_key(record.study, record.job, name)
            job.deployment.bucket.put(key, body)
            outputs.append(OutputFile(key, hashlib.sha256(body).hexdigest(), len(body), kind))
        return replace(record, outputs=tuple(outputs), measured=Measurements.from_json(measured.decode()))

    def commit(record: ResultRecord) -> ResultRecord:  # not the bench's, which writes measurements of its own
        job.deployment.bucket.put(record.commit_key, record.to_json())
        return record

    monkeypatch.setattr(job.deployment.bucket, "commit", commit)
    before = answer(succeeded(1, digest=DIGEST), 2, 0.576)
    job.deployment.bucket.put(processed_key(before.study, before.job, "upload.zip"), b"PK")
    job.record(commit(before))
    monkeypatch.setattr(Reruns, "wake", lambda _: work_off(job.deployment, lambda message: answer(answer_well(message), 3, 0.6)))
    (row,) = rows(job.run({"stale": {}}), "changes")
    assert row == {
        "study": study_of(1),
        "end": "answered",
        "MAP before": DIGEST[7:19],
        "MAP after": OTHER_DIGEST[7:19],
        "segment": "Brain",
        "before (ml)": "0.58",
        "after (ml)": "0.60",
        "Dice": "0.6667",
        "note": "",
    }


def test_a_config_without_a_mode_is_refused_before_anything_is_done(job: Job):
    with pytest.raises(Exception, match="which"):
        rerun_studies.execute_in_process(instance=job.instance, run_config={"ops": {OP: {"config": {}}}})
