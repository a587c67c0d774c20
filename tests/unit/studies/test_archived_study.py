"""Materialising ``archived_study``: a study that is answered goes from the bucket into the archive, or its run says by name why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pydicom
import pytest
from dagster import AssetCheckResult, DagsterInstance, ExecuteInProcessResult, build_asset_check_context, materialize
from dagster_aws.s3 import S3Resource
from moto import mock_aws
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import (
    JobMessage,
    Rerun,
    ResultRecord,
    archive_key,
    output_key,
    processed_key,
    quarantine_key,
    result_key,
    study_id,
)
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.archived_study import archived, archived_study
from monai_aws_pipeline.studies.lineage import STUDIES, event_of
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT
from tests.unit.archive.keeping import Keeping, keeping
from tests.unit.host_agent.bench import SECRET, WELL, Bench, handle, zip_of
from tests.unit.host_agent.host_config import DIGEST

UID = str(generate_uid())


@pytest.fixture
def pacs() -> Iterator[Keeping]:
    with keeping() as archive:
        yield archive


class Site:
    """A study that a host without an archive has answered, and a control plane that has one."""

    def __init__(self, s3: Any, sqs: Any, url: str, folder: Path, pacs: Keeping, instance: DagsterInstance) -> None:
        self.s3, self.pacs, self.instance = s3, pacs, instance
        self.bench = bench = Bench(s3, sqs, url, folder)
        bench.engine.run_map = _writes_dicom
        self.message = bench.upload("input/1.zip", zip_of(folder, UID, str(generate_uid())))
        self.turn()
        self.study = study_id(SECRET, UID)
        instance.add_dynamic_partitions(str(STUDIES.name), [self.study])

    def turn(self) -> None:
        """A host's next job, to its end."""
        host = self.bench.host()
        delivery = host.queue.take(0)
        assert delivery
        handle(host, delivery)

    @property
    def record(self) -> ResultRecord:
        body = self.s3.get_object(Bucket="studies", Key=result_key(self.study, self.message.job))["Body"].read().decode()
        return ResultRecord.from_json(body)

    def resources(self, **settings: Any) -> dict[str, Any]:
        chosen = {"bucket": "studies", "archive": "dicomweb", "archive_address": self.pacs.address, **settings}
        return {
            "s3": S3Resource(region_name="us-east-1"),
            "cloud": CloudResource(region="us-east-1"),
            "settings": SettingsResource(overrides=chosen),
        }

    def materialise(self, **settings: Any) -> ExecuteInProcessResult:
        return materialize(
            [archived_study], partition_key=self.study, instance=self.instance, resources=self.resources(**settings), raise_on_error=False
        )

    def keys(self) -> list[str]:
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket="studies", Prefix="archive/").get("Contents", [])]


def _writes_dicom(source: Path, target: Path) -> Any:
    data = pydicom.dcmread(min(source.iterdir()))
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.SeriesNumber = generate_uid(), 900
    data.save_as(target / "seg.dcm")
    return WELL


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pacs: Keeping, instance: DagsterInstance) -> Iterator[Site]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        s3, sqs = boto3.client("s3"), boto3.client("sqs")
        s3.create_bucket(Bucket="studies")
        url = sqs.create_queue(QueueName="monai-aws-dev-jobs")["QueueUrl"]
        yield Site(s3, sqs, url, tmp_path, pacs, instance)


def why(run: ExecuteInProcessResult) -> str:
    (event,) = [event for event in run.all_events if event.event_type_value == "STEP_FAILURE"]
    failure = event.step_failure_data.user_failure_data
    assert failure, event.step_failure_data.error
    return str(failure.description)


def test_an_answered_study_is_stored_from_the_bucket_without_the_other_of_its_upload(site: Site):
    run = site.materialise()
    assert run.success
    (event,) = run.get_asset_materialization_events()
    shown = event.step_materialization_data.materialization.metadata
    assert (shown["stored"].value, shown["there_before"].value) == (4, 0)
    assert {str(data.StudyInstanceUID) for data in site.pacs.data()} == {UID}
    assert site.keys() == [archive_key(site.study, site.message.job)]
    assert site.materialise().success, "once more does no harm"
    assert len(site.pacs.kept) == 4


def test_without_an_archive_the_run_says_what_to_set(site: Site):
    assert "Set MONAI_AWS_ARCHIVE to healthimaging or dicomweb" in why(site.materialise(archive="none"))


def test_an_archive_that_is_away_is_named_and_nothing_is_written(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.pacs.away = True
    monkeypatch.setattr("monai_aws_pipeline.archive.dicomweb.Patience.seconds", lambda *_: 0.0)
    assert "answers HTTP 503" in why(site.materialise())
    assert site.keys() == []


def test_what_the_archive_refuses_fails_the_run_with_its_code(site: Site):
    site.s3.put_object(Bucket="studies", Key=output_key(site.study, site.message.job, "note.txt"), Body=b"x")
    site.pacs.refuses = dict.fromkeys(_uids_of_results(site), 49152)
    assert "the archive refused 1 of its instances (0xC000: the archive cannot understand it)" in why(site.materialise())
    site.pacs.refuses.clear()
    assert site.materialise().success


def test_without_its_original_a_study_is_not_half_archived(site: Site):
    site.s3.delete_object(Bucket="studies", Key=processed_key(site.study, site.message.job, "upload.zip"))
    assert "is not in the bucket any more. Upload it again" in why(site.materialise())
    assert site.pacs.kept == {}


def test_a_study_that_a_re_run_answered_from_quarantine_is_stored_from_there(site: Site, tmp_path: Path):
    uid, other = str(generate_uid()), str(generate_uid())
    site.bench.engine.run_map = lambda source, target: replace(WELL, exit_code=3)
    refused = site.bench.upload("input/2.zip", zip_of(tmp_path, uid, other))
    site.turn()
    site.study, original = study_id(SECRET, uid), quarantine_key(refused.job, "upload.zip")
    head = site.s3.head_object(Bucket="studies", Key=original)
    asked = Rerun(DIGEST, site.study).text
    site.bench.send(
        JobMessage.for_object(bucket="studies", key=original, version="", etag=head["ETag"], size=head["ContentLength"], request=asked)
    )
    site.bench.engine.run_map = _writes_dicom
    site.turn()
    site.instance.add_dynamic_partitions(str(STUDIES.name), [site.study])
    run = site.materialise()
    assert run.success, why(run)
    assert {str(data.StudyInstanceUID) for data in site.pacs.data()} == {uid}
    assert len(site.pacs.kept) == 4


def test_a_study_without_an_answer_is_said_to_have_none(site: Site):
    site.s3.delete_object(Bucket="studies", Key=result_key(site.study, site.message.job))
    assert "has no answer" in why(site.materialise())


def test_a_secret_that_cannot_be_read_is_named(site: Site):
    assert "The archive's secret pacs cannot be read (ResourceNotFoundException)" in why(site.materialise(archive_secret="pacs"))


def test_by_hand_the_check_reads_what_the_archive_answered(site: Site):
    site.instance.report_runless_asset_event(event_of(StoredResult(site.record, ()), Addresses("studies"), {}))
    context = build_asset_check_context(instance=site.instance, resources=site.resources())
    before = archived(context)
    assert isinstance(before, AssetCheckResult)
    assert (before.passed, before.metadata["failing"].value) == (False, 1)
    site.materialise()
    after = archived(context)
    assert isinstance(after, AssetCheckResult)
    assert after.passed


def test_it_follows_the_answer(site: Site):
    assert INFERENCE_RESULT in {dep.asset_key for spec in archived_study.specs for dep in spec.deps}


def _uids_of_results(site: Site) -> list[str]:
    keys = [output.key for output in site.record.outputs if output.key.endswith(".dcm")]
    return [str(pydicom.dcmread(BytesIO(site.s3.get_object(Bucket="studies", Key=key)["Body"].read())).SOPInstanceUID) for key in keys]
