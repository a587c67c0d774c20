"""The viewer on real archives: what is laid over comes from the archive, lies where it lay in S3, and says nobody's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from monai_aws_pipeline.archive.conflicts import ArchiveFile, read_file
from monai_aws_pipeline.archive.dicomweb import DicomWebArchive
from monai_aws_pipeline.archive.signing import Basic
from monai_aws_pipeline.archive.study import archive_study
from monai_aws_pipeline.cloud.stack import deploy_stack
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.bootstrap import TEMPLATE
from monai_aws_pipeline.portal.viewer.archive_source import ArchiveSource
from monai_aws_pipeline.portal.viewer.veil import study_uid_of
from monai_aws_pipeline.portal.viewer.views import Archive
from tests.integration.local_cloud.conftest import Account, unique
from tests.support.imaging import QUICK, Store
from tests.support.orthanc import PASSWORD, USER, Orthanc, orthanc
from tests.support.studies import dicom_bytes
from tests.support.viewed_study import NAMED, ViewedStudy, answered, check, dice, overlay, part10
from tests.unit.portal.viewer.conftest import Looking
from tests.unit.studies.records import Bucket


@pytest.fixture(scope="module")
def pacs() -> Iterator[Orthanc]:
    with orthanc() as running:
        yield running


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """S3 in this process; archives are reached as they are."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1.*"]}}}):
        yield Bucket(boto3.client("s3", region_name="us-east-1"))


def files_of(study: ViewedStudy, folder: Path) -> list[ArchiveFile]:
    found = []
    for number, each in enumerate((*study.images, study.seg)):
        path = folder / f"{number}.dcm"
        path.write_bytes(dicom_bytes(each))
        found.append(read_file(path, is_result=each is study.seg))
    return found


def is_from_the_archive(looking: Looking, study: ViewedStudy) -> bool:
    with looking.views.opened(study.record.study, study.record.job) as found:
        return isinstance(found.view._source, ArchiveSource)


def look_through(archive: Archive, bucket: Bucket, folder: Path) -> None:
    study = answered(bucket)
    looking = Looking(bucket, folder, archive=archive)
    root = f"/dicomweb/{study.record.study}/{study.record.job}"
    check(overlay(looking.get, root), study)
    assert not is_from_the_archive(looking, study), "it is not stored yet, and the bucket has it"

    record = archive_study(archive(), files_of(study, folder), study.record.study, study.record.job)
    assert record.is_whole
    bucket.delete(f"processed/{study.record.study}/{study.record.job}/upload.zip")
    looking.views.forget_all()
    check(overlay(looking.get, root), study)
    assert is_from_the_archive(looking, study), "the original has left the bucket"

    seg = part10(looking.get, root)
    assert dice(seg.pixel_array, study.seg.pixel_array) == 1.0
    assert seg.PatientID == study.record.study
    base = f"{root}/studies/{seg.StudyInstanceUID}"
    one = looking.browser.get(f"{base}/instances?limit=1").json()[0]
    instance = f"{base}/series/{one['0020000E']['Value'][0]}/instances/{one['00080018']['Value'][0]}"
    for address in (f"{root}/studies", f"{base}/series", f"{base}/metadata", f"{base}/instances", instance, f"{instance}/frames/1"):
        answer = looking.browser.get(address)
        assert answer.status_code == 200
        assert not [value for value in (*NAMED, *study.uids) if value.encode() in answer.content]
    assert looking.browser.get(f"{root}/studies/{study.images[0].StudyInstanceUID}/series").status_code == 404


def test_orthanc_gives_the_study_and_its_segmentation(pacs: Orthanc, bucket: Bucket, tmp_path: Path):
    look_through(lambda: DicomWebArchive(pacs.address, Basic(USER, PASSWORD), QUICK), bucket, tmp_path)


def test_frames_that_an_archive_keeps_compressed_come_as_it_keeps_them(pacs: Orthanc, bucket: Bucket, tmp_path: Path):
    study = answered(bucket, 3)
    for image in study.images:
        image.compress(RLELossless, generate_instance_uid=False)
    archive = DicomWebArchive(pacs.address, Basic(USER, PASSWORD), QUICK)
    assert archive_study(archive, files_of(study, tmp_path), study.record.study, study.record.job).is_whole
    looking = Looking(bucket, tmp_path, archive=lambda: archive)
    root = f"/dicomweb/{study.record.study}/{study.record.job}/studies/{study_uid_of(study.record.study)}"
    one = next(each for each in looking.browser.get(f"{root}/instances").json() if each["00080060"]["Value"] == ["MR"])
    series, uid, number = (one[tag]["Value"][0] for tag in ("0020000E", "00080018", "00200013"))
    answer = looking.browser.get(f"{root}/series/{series}/instances/{uid}/frames/1").content
    assert f"transfer-syntax={RLELossless}".encode() in answer
    assert get_frame(study.images[number - 1].PixelData, 0, number_of_frames=1) in answer
    assert is_from_the_archive(looking, study)


def test_an_archive_that_is_away_or_closed_leaves_the_bucket(pacs: Orthanc, bucket: Bucket, tmp_path: Path):
    study = answered(bucket, 2)
    root = f"/dicomweb/{study.record.study}/{study.record.job}"
    for place, address, password in (("closed", pacs.address, "wrong"), ("away", "http://127.0.0.1:9/dicom-web", PASSWORD)):
        folder = tmp_path / place
        folder.mkdir()
        looking = Looking(bucket, folder, archive=lambda at=address, by=password: DicomWebArchive(at, Basic(USER, by), QUICK))
        check(overlay(looking.get, root), study)
        assert not is_from_the_archive(looking, study)


@pytest.mark.cloud
def test_the_bootstrap_gives_the_operator_just_what_looking_needs(local_cloud: LocalCloud, bucket: Bucket, tmp_path: Path):
    account = Account(local_cloud)
    store, name = Store(account), unique("look")[:18]
    given = {"Deployment": name, "BucketName": f"{name}-studies", "RequireTls": "false", "Archive": "healthimaging"}
    outputs = deploy_stack(account.client("cloudformation"), f"monai-aws-{name}", TEMPLATE, given, lambda _: None)
    store.id = outputs["ImageArchive"]
    policy = account.client("iam").get_role_policy(RoleName=f"monai-aws-{name}-operator", PolicyName="look-in-archive")
    keys = account.assume(policy["PolicyDocument"]["Statement"])
    study = answered(bucket)
    assert archive_study(store.archive(), files_of(study, tmp_path), study.record.study, study.record.job).is_whole
    looking = Looking(bucket, tmp_path, archive=lambda: store.archive(keys))
    root = f"/dicomweb/{study.record.study}/{study.record.job}"
    check(overlay(looking.get, root), study)
    assert dice(part10(looking.get, root).pixel_array, study.seg.pixel_array) == 1.0
    assert is_from_the_archive(looking, study)


@pytest.mark.cloud
def test_healthimaging_gives_the_study_and_its_segmentation(local_cloud: LocalCloud, bucket: Bucket, tmp_path: Path):
    local_cloud.order_fault(account={"imaging_rate": 1000})
    try:
        look_through(Store(Account(local_cloud)).archive, bucket, tmp_path)
    finally:
        local_cloud.clear_faults()
