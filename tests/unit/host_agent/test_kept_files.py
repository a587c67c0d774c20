"""What is fetched again of an answered study is what was committed and what hosts take in, or nothing of it is kept."""

from __future__ import annotations

import hashlib
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import boto3
import pytest

from monai_aws_pipeline.contract import OutputFile
from monai_aws_pipeline.host_agent import kept_files
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from tests.support.studies import text_zip, tiny_study_zip, two_studies_zip
from tests.unit.host_agent.bench import Bench

KEY = "processed/s/j/upload.zip"
Disk = namedtuple("Disk", "free")


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.host().store


def kept(bench: Bench, body: bytes) -> str:
    bench.s3.put_object(Bucket="studies", Key=KEY, Body=body)
    return KEY


def test_the_studies_of_an_original_are_unpacked_and_the_upload_does_not_stay(bench: Bench, store: Store, tmp_path: Path):
    studies = kept_files.fetch_original(store, kept(bench, two_studies_zip()), tmp_path, IntakeLimits())
    assert len(studies) == 2
    assert {path.parent for study in studies for path in (each.path for each in study.instances)} == {tmp_path / "original"}
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (IntakeLimits(upload_bytes=100), Code.UPLOAD_TOO_LARGE),
        (IntakeLimits(unpacked_bytes=1000), Code.ZIP_TOO_LARGE),
        (IntakeLimits(files=2), Code.ZIP_TOO_MANY_FILES),
    ],
)
def test_an_original_beyond_the_limits_of_hosts_leaves_nothing(
    bench: Bench, store: Store, tmp_path: Path, limits: IntakeLimits, code: Code
):
    with pytest.raises(RefusedError) as refused:
        kept_files.fetch_original(store, kept(bench, tiny_study_zip()), tmp_path, limits)
    assert (refused.value.code, list(tmp_path.iterdir())) == (code, [])


def test_after_a_refusal_it_can_be_tried_again(bench: Bench, store: Store, tmp_path: Path):
    with pytest.raises(RefusedError):
        kept_files.fetch_original(store, kept(bench, text_zip()), tmp_path, IntakeLimits())
    assert len(kept_files.fetch_original(store, kept(bench, tiny_study_zip()), tmp_path, IntakeLimits())) == 1


@pytest.mark.parametrize("free", ["before", "while"])
def test_a_disk_without_room_is_named_and_left_as_it_was(
    bench: Bench, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: str
):
    body = tiny_study_zip()
    room = iter([1] if free == "before" else [len(body) * 2, 1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(next(room)))
    with pytest.raises(FailedError) as failed:
        kept_files.fetch_original(store, kept(bench, body), tmp_path, IntakeLimits())
    assert (failed.value.code, list(tmp_path.iterdir())) == (Code.DISK_FULL, [])


@pytest.mark.parametrize("body", [b"another", b"another one, longer", None])
def test_a_result_that_is_not_the_committed_one_is_refused(bench: Bench, store: Store, tmp_path: Path, body: bytes | None):
    content = b"at once"
    output = OutputFile("output/s/j/dicom/seg.dcm", hashlib.sha256(content).hexdigest(), len(content), "dicom-seg")
    bench.s3.put_object(Bucket="studies", Key=output.key, Body=content)
    assert kept_files.fetch_result(store, output, tmp_path / "seg.dcm").read_bytes() == content
    if body is None:
        bench.s3.delete_object(Bucket="studies", Key=output.key)
    else:
        bench.s3.put_object(Bucket="studies", Key=output.key, Body=body)
    with pytest.raises(RefusedError) as refused:
        kept_files.fetch_result(store, output, tmp_path / "again.dcm")
    assert refused.value.code is (Code.UPLOAD_MISSING if body is None else Code.UPLOAD_REPLACED)


def test_in_a_bucket_with_versions_no_version_is_asked_for(bench: Bench, tmp_path: Path):
    """GetObject with a version takes s3:GetObjectVersion, which whoever stores or looks from the control plane has not."""
    bench.s3.put_bucket_versioning(Bucket="studies", VersioningConfiguration={"Status": "Enabled"})
    asked: list[dict[str, Any]] = []
    client = boto3.client("s3", "us-east-1")
    client.meta.events.register("provide-client-params.s3.GetObject", lambda params, **_: asked.append(dict(params)))
    kept_files.fetch_original(Store(client, "studies"), kept(bench, tiny_study_zip()), tmp_path, IntakeLimits())
    assert [sorted(each) for each in asked] == [["Bucket", "IfMatch", "Key"]]
