"""Which outputs belong to no result, and that nothing else is removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto import mock_aws

from monai_aws_pipeline.contract import output_key, quarantine_key, result_key
from monai_aws_pipeline.operations.orphaned_outputs import Stored, folders_to_look_at, strays, sweep_outputs

NOW = datetime(2026, 1, 10, tzinfo=UTC)
JOB, OTHER, STUDY = "a" * 32, "b" * 32, "1" * 16


def stored(key: str, hours: float) -> Stored:
    return Stored(key, NOW - timedelta(hours=hours))


@pytest.mark.parametrize(("hours", "looked_at"), [(1, False), (25, True), (8 * 24 - 1, True), (9 * 24, False)])
def test_the_folder_of_a_study_that_failed_some_days_ago_is_looked_at(hours: float, looked_at: bool):
    failed = stored(quarantine_key(JOB, "result.json", STUDY), hours)
    beside = [stored(quarantine_key(JOB, "error.json", STUDY), hours), stored(quarantine_key(OTHER, "result.json"), hours)]
    assert list(folders_to_look_at([failed, *beside], NOW)) == ([f"output/{STUDY}/{JOB}/"] if looked_at else [])


def test_what_has_a_commit_record_or_is_young_stays():
    old, young, commit = (stored(output_key(STUDY, JOB, "dicom/seg.dcm"), hours) for hours in (30, 2, 30))
    commit = stored(result_key(STUDY, JOB), 30)
    assert strays([old], NOW) == [old.key]
    assert strays([old, commit], NOW) == []
    assert strays([old, young], NOW) == [], "somebody may be uploading"
    assert strays([], NOW) == []


def test_only_outputs_of_a_failed_study_are_removed():
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="studies")
        stray, of_another = output_key(STUDY, JOB, "dicom/seg.dcm"), output_key(STUDY, OTHER, "dicom/seg.dcm")
        kept = {quarantine_key(JOB, "result.json", STUDY), of_another, result_key(STUDY, OTHER)}
        for key in (stray, *kept):
            s3.put_object(Bucket="studies", Key=key, Body=b"{}")
        said: list[str] = []
        assert sweep_outputs(s3, "studies", said.append) == [], "all of it is young"
        assert sweep_outputs(s3, "studies", said.append, datetime.now(UTC) + timedelta(days=2)) == [stray]
        assert {item["Key"] for item in s3.list_objects_v2(Bucket="studies")["Contents"]} == kept
        assert sweep_outputs(s3, "no-such-bucket", said.append) == []
        assert "NoSuchBucket" in said[-1]
