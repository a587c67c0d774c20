"""A study in real archives: the embedded HealthImaging, signed, and an Orthanc of Debian's with a password."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from monai_aws_pipeline.archive.conflicts import ArchiveFile, archive_conflicts, corrected, read_file
from monai_aws_pipeline.archive.dicomweb import DicomWebArchive
from monai_aws_pipeline.archive.errors import ArchiveAccessError, ArchiveAwayError, ArchiveRefusalError
from monai_aws_pipeline.archive.message import Limits
from monai_aws_pipeline.archive.signing import Basic
from monai_aws_pipeline.archive.study import archive_study
from monai_aws_pipeline.cloud.stack import deploy_stack
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.bootstrap import TEMPLATE
from tests.integration.local_cloud.conftest import Account, unique
from tests.support.imaging import FACTS, QUICK, Store, study_files
from tests.support.orthanc import PASSWORD, USER, Orthanc, orthanc
from tests.unit.local_cloud.dicom import write, write_binary_seg


@pytest.fixture(scope="session")
def pacs() -> Iterator[Orthanc]:
    with orthanc() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[ArchiveFile]:
    return study_files(tmp_path)


def broken(file: ArchiveFile) -> ArchiveFile:
    file.path.write_bytes(file.path.read_bytes()[:-8])
    return file


# ------------------------------------------------------------------------------------------------------------------------ Orthanc


def test_orthanc_stores_a_study_once_however_often_it_is_sent(pacs: Orthanc, files: list[ArchiveFile]):
    archive = DicomWebArchive(pacs.address, Basic(USER, PASSWORD), QUICK)
    archive.answers()
    record = archive_study(archive, files, "s", "j", Limits(instances=8))
    assert (record.is_whole, [each.stored for each in record.series], record.requests) == (True, [20, 1], 3)
    again = archive_study(DicomWebArchive(pacs.address, Basic(USER, PASSWORD), QUICK), files, "s", "j")
    assert ([each.there for each in again.series], again.requests, again.is_whole) == ([20, 1], 0, True)


def test_orthanc_refuses_what_is_broken_and_keeps_the_rest(pacs: Orthanc, files: list[ArchiveFile], tmp_path: Path):
    others = [
        read_file(write(tmp_path / f"o{n}", StudyInstanceUID="5.5", SeriesInstanceUID="5.5.1", SOPInstanceUID=f"5.{n}"), is_result=False)
        for n in range(9)
    ]
    (tmp_path / "o4").write_bytes(b"no DICOM any more")
    record = archive_study(DicomWebArchive(pacs.address, Basic(USER, PASSWORD), QUICK), others, "s", "j")
    (series,) = record.series
    assert (series.stored, sum(series.refused.values()), record.is_whole) == (8, 1, False)


def test_orthanc_names_a_wrong_password_and_a_wrong_address(pacs: Orthanc):
    with pytest.raises(ArchiveAccessError, match="secret"):
        DicomWebArchive(pacs.address, Basic(USER, "wrong"), QUICK).answers()
    with pytest.raises(ArchiveRefusalError, match="address"):
        DicomWebArchive(f"{pacs.address}-not", Basic(USER, PASSWORD), QUICK).answers()


# ------------------------------------------------------------------------------------------------------------------ HealthImaging


@pytest.fixture
def store(local_cloud: LocalCloud) -> Iterator[Store]:
    local_cloud.order_fault(account={"imaging_rate": 1000})
    yield Store(Account(local_cloud))
    local_cloud.clear_faults()


cloud = pytest.mark.cloud


@cloud
def test_healthimaging_stores_a_study_once_with_its_image_sets(store: Store, files: list[ArchiveFile]):
    record = archive_study(store.archive(), files, "s", "j", Limits(instances=8))
    assert (record.is_whole, [each.stored for each in record.series], record.requests) == (True, [20, 1], 3)
    assert [len(each.image_sets) for each in record.series] == [1, 1]
    again = archive_study(store.archive(), files, "s", "j")
    assert ([each.there for each in again.series], again.requests, again.datastore) == ([20, 1], 0, store.id)


@cloud
def test_three_broken_instances_among_181_are_refused_by_code_and_the_others_are_stored(store: Store, tmp_path: Path):
    files = study_files(tmp_path, 181)
    for file in (files[3], files[90], files[150]):
        broken(file)
    images, seg = archive_study(store.archive(), files, "s", "j").series
    assert (images.sent, images.stored, dict(images.refused), seg.is_whole) == (181, 178, {0xC000: 3}, True)


@cloud
def test_a_segmentation_that_the_archive_refuses_is_said_by_its_code(store: Store, files: list[ArchiveFile]):
    write_binary_seg(files[-1].path, ImplicitVRLittleEndian, SOPInstanceUID="1.2.3.2.1", **FACTS)
    images, seg = archive_study(store.archive(), files, "s", "j").series
    assert (images.is_whole, seg.is_whole, dict(seg.refused)) == (True, False, {0xC122: 1})


@cloud
@pytest.mark.parametrize("change", [{"AccessionNumber": "A2"}, {"StudyID": "1"}])
def test_a_hidden_result_is_named_before_and_after_and_a_corrected_copy_is_shown(
    store: Store, files: list[ArchiveFile], tmp_path: Path, change: dict[str, Any]
):
    seg = read_file(write_binary_seg(files[-1].path, SOPInstanceUID="1.2.3.2.1", **{**FACTS, **change}), is_result=True)
    files = [*files[:-1], seg]
    conflicts = archive_conflicts(files)
    assert [each.attributes for each in conflicts] == [tuple(change)]
    record = archive_study(store.archive(), files, "s", "j")
    assert ([each.hidden for each in record.series], record.is_whole) == ([False, True], False)
    assert archive_study(store.archive(), files, "s", "j").requests == 0, "what is hidden is not stored again"
    (tmp_path / "copies").mkdir()
    (hidden,) = record.series[1].image_sets
    store.client.delete_image_set(datastoreId=store.id, imageSetId=hidden)
    agreed = archive_study(store.archive(), corrected(conflicts, files, tmp_path / "copies"), "s", "j")
    assert (agreed.is_whole, agreed.series[1].corrected) == (True, tuple(change))


@cloud
def test_throttling_conflicts_and_failures_are_lived_through(store: Store, local_cloud: LocalCloud, files: list[ArchiveFile]):
    for code in ("ThrottlingException", "ConflictException", "InternalServerException"):
        local_cloud.order_fault(service="medical-imaging", action="StoreDICOM", code=code)
    local_cloud.order_fault(service="medical-imaging", action="SearchDICOMInstances", code="ThrottlingException", times=2)
    record = archive_study(store.archive(), files, "s", "j")
    assert (record.is_whole, record.requests) == (True, 4)


@cloud
def test_an_archive_that_stays_busy_or_refuses_us_is_named(store: Store, local_cloud: LocalCloud, files: list[ArchiveFile]):
    local_cloud.order_fault(service="medical-imaging", action="StoreDICOM", code="ThrottlingException", times=50)
    with pytest.raises(ArchiveAwayError, match="HTTP 429"):
        archive_study(store.archive(), files, "s", "j")
    keys = store.account.assume([{"Effect": "Allow", "Action": "medical-imaging:Search*", "Resource": "*"}])
    with pytest.raises(ArchiveAccessError, match=r"HTTP 403 \(AccessDeniedException\)"):
        archive_study(store.archive(keys), files, "s", "j")


@cloud
def test_the_rights_that_a_host_needs_are_enough(store: Store, files: list[ArchiveFile]):
    arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{store.id}"
    actions = [f"medical-imaging:{name}" for name in ("StoreDICOM", "SearchDICOMInstances", "SearchImageSets", "GetDICOMSeriesMetadata")]
    keys = store.account.assume([{"Effect": "Allow", "Action": actions, "Resource": arn}])
    assert archive_study(store.archive(keys), files, "s", "j").is_whole
    assert len(store.archive(keys).image_sets_of_study("1.2.3")) == 2


@cloud
def test_what_was_archived_is_listed_and_removed_by_study(store: Store, files: list[ArchiveFile]):
    record = archive_study(store.archive(), files, "s", "j")
    assert json.loads(record.to_json())["datastore"] == store.id
    for each in store.archive().image_sets_of_study("1.2.3"):
        store.client.delete_image_set(datastoreId=store.id, imageSetId=each.id)
    assert store.archive().present("1.2.3", "1.2.3.1") == set()


@cloud
def test_the_bootstrap_makes_a_data_store_and_gives_just_what_archiving_needs(store: Store, tmp_path: Path):
    account, name = store.account, unique("arch")[:18]
    given = {"Deployment": name, "BucketName": f"{name}-studies", "RequireTls": "false", "Archive": "healthimaging"}
    outputs = deploy_stack(account.client("cloudformation"), f"monai-aws-{name}", TEMPLATE, given, lambda _: None)
    store.id = outputs["ImageArchive"]
    policy = account.client("iam").get_role_policy(RoleName=f"monai-aws-{name}-inference-host", PolicyName="store-in-archive")
    (statement,) = policy["PolicyDocument"]["Statement"]
    keys = account.assume([statement])
    files = study_files(tmp_path, 3)
    hidden = read_file(write_binary_seg(tmp_path / "h", SOPInstanceUID="9.1", SeriesInstanceUID="9.2", StudyID="x"), is_result=True)
    archive = store.archive(keys)
    archive.answers()
    assert [each.hidden for each in archive_study(archive, [*files, hidden], "s", "j").series] == [False, False, True]
    assert archive_study(store.archive(keys), [*files, hidden], "s", "j").requests == 0
    with pytest.raises(ArchiveAccessError):
        other = Store(account)
        other.archive(keys).answers()
