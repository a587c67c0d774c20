"""HealthImaging: what it hides, refuses and limits, and how the archive adapter lives through it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from pydicom.uid import ImplicitVRLittleEndian

from monai_aws_pipeline.archive.conflicts import archive_conflicts, read_file
from monai_aws_pipeline.archive.errors import ArchiveAccessError, ArchiveAwayError
from monai_aws_pipeline.archive.message import Limits, batches
from monai_aws_pipeline.archive.study import archive_study
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.fidelity.conftest import refusal
from tests.integration.local_cloud.conftest import Account
from tests.integration.local_cloud.dicomweb_client import DicomWebClient
from tests.support.imaging import FACTS, Store, study_files
from tests.unit.local_cloud.dicom import write, write_binary_seg

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour


@pytest.fixture
def store(account: Account, local_cloud: LocalCloud) -> Iterator[Store]:
    local_cloud.order_fault(account={"imaging_rate": 1000})
    yield Store(account)
    local_cloud.clear_faults()


@pytest.fixture
def web(store: Store) -> DicomWebClient:
    return DicomWebClient(store.account, store.id)


@behaviour("imaging-hidden")
@pytest.mark.parametrize("change", [{"AccessionNumber": ""}, {"StudyDate": "20200102"}, {"StudyID": "1"}, {"PatientID": "INV-1 x"}])
def test_what_contradicts_its_study_is_not_shown_embedded(web: DicomWebClient, tmp_path: Path, change: dict[str, str]):
    assert web.store(write(tmp_path / "a.dcm", **FACTS)).status == 200
    assert web.store(write_binary_seg(tmp_path / "s.dcm", SOPInstanceUID="2.1", **{**FACTS, **change})).status == 200
    assert web.found("/studies/1.2.3/series?Modality=SEG") == []


@behaviour("imaging-hidden")
def test_what_would_be_hidden_is_found_and_what_is_hidden_is_said_handled(store: Store, tmp_path: Path):
    files = study_files(tmp_path, 2)
    seg = write_binary_seg(tmp_path / "s.dcm", SOPInstanceUID="2.1", **{**FACTS, "AccessionNumber": ""})
    files = [*files[:-1], read_file(seg, is_result=True)]
    assert [each.attributes for each in archive_conflicts(files)] == [("AccessionNumber",)]
    assert [each.hidden for each in archive_study(store.archive(), files, "s", "j").series] == [False, True]


@behaviour("imaging-by-instance")
def test_each_instance_is_answered_for_embedded(web: DicomWebClient, tmp_path: Path):
    good, cut = write(tmp_path / "a.dcm", SOPInstanceUID="1.1"), write(tmp_path / "b.dcm", SOPInstanceUID="1.2")
    cut.write_bytes(cut.read_bytes()[:-5])
    assert [web.store(*paths).status for paths in ((good, cut), (cut,), (good,))] == [202, 409, 200]


@behaviour("imaging-by-instance")
def test_three_broken_instances_among_many_are_counted_handled(store: Store, tmp_path: Path):
    files = study_files(tmp_path, 30)
    for each in files[10:13]:
        each.path.write_bytes(each.path.read_bytes()[:-5])
    images, seg = archive_study(store.archive(), files, "s", "j").series
    assert ((images.stored, dict(images.refused)), seg.is_whole) == ((27, {0xC000: 3}), True)


@behaviour("imaging-again")
def test_storing_again_makes_a_version_embedded(store: Store, web: DicomWebClient, tmp_path: Path):
    path = write(tmp_path / "a.dcm")
    for _ in range(2):
        web.store(path)
    (found,) = store.client.search_image_sets(datastoreId=store.id)["imageSetsMetadataSummaries"]
    assert found["version"] == 2


@behaviour("imaging-again")
def test_storing_a_study_again_stores_nothing_handled(store: Store, tmp_path: Path):
    files = study_files(tmp_path, 3)
    archive_study(store.archive(), files, "s", "j")
    assert archive_study(store.archive(), files, "s", "j").requests == 0
    assert {each["version"] for each in store.client.search_image_sets(datastoreId=store.id)["imageSetsMetadataSummaries"]} == {1}


@behaviour("imaging-rates")
def test_one_call_too_many_is_throttled_embedded(store: Store, local_cloud: LocalCloud):
    local_cloud.clear_faults()
    told = []
    for _ in range(4):
        with pytest.raises(ClientError) as error:
            store.client.delete_image_set(datastoreId=store.id, imageSetId="0" * 32)
        told.append(refusal(error)[:2])
    assert ("ThrottlingException", 429) in told


@behaviour("imaging-rates")
def test_an_archive_that_is_busy_is_asked_again_and_then_named_handled(store: Store, local_cloud: LocalCloud, tmp_path: Path):
    files = study_files(tmp_path, 2)
    local_cloud.order_fault(service="medical-imaging", action="StoreDICOM", code="ThrottlingException", times=2)
    assert archive_study(store.archive(), files, "s", "j").is_whole
    local_cloud.order_fault(service="medical-imaging", action="SearchDICOMInstances", code="ThrottlingException", times=20)
    with pytest.raises(ArchiveAwayError, match="HTTP 429"):
        archive_study(store.archive(), files, "s", "j")


@behaviour("imaging-not-consistent-yet")
def test_a_conflict_that_passes_is_no_answer_about_instances_embedded(local_cloud: LocalCloud, web: DicomWebClient, tmp_path: Path):
    local_cloud.order_fault(service="medical-imaging", action="StoreDICOM", code="ConflictException")
    path = write(tmp_path / "a.dcm")
    answered = web.store(path)
    assert (answered.status, answered.headers["x-amzn-errortype"], "not consistent yet" in answered.json["message"]) == (
        409, "ConflictException", True,
    )  # fmt: skip
    assert web.store(path).status == 200


@behaviour("imaging-not-consistent-yet")
def test_a_conflict_that_passes_is_waited_for_handled(store: Store, local_cloud: LocalCloud, tmp_path: Path):
    local_cloud.order_fault(service="medical-imaging", action="StoreDICOM", code="ConflictException", times=2)
    assert archive_study(store.archive(), study_files(tmp_path, 2), "s", "j").is_whole


@behaviour("imaging-binary-seg")
def test_a_binary_segmentation_is_taken_in_one_transfer_syntax_embedded(web: DicomWebClient, tmp_path: Path):
    assert web.store(write_binary_seg(tmp_path / "a.dcm")).status == 200
    answered = web.store(write_binary_seg(tmp_path / "b.dcm", ImplicitVRLittleEndian))
    assert (answered.status, answered.json["00081198"]["Value"][0]["00081197"]["Value"]) == (409, [0xC122])


@behaviour("imaging-binary-seg")
def test_a_refused_segmentation_is_named_by_its_code_handled(store: Store, tmp_path: Path):
    files = study_files(tmp_path, 2)
    write_binary_seg(files[-1].path, ImplicitVRLittleEndian, SOPInstanceUID="1.2.3.2.1", **FACTS)
    record = archive_study(store.archive(), files, "s", "j")
    assert (record.is_whole, record.refusals) == (False, {"0xC122: transfer syntax not supported": 1})


@behaviour("imaging-request-size")
def test_a_larger_request_is_refused_before_it_is_read_embedded(store: Store, account: Account):
    url = f"{account.cloud.endpoint}/datastore/{store.id}/studies"
    signed = AWSRequest("POST", url, headers={"x-amz-content-sha256": "0" * 64, "Content-Type": "application/dicom"})
    SigV4Auth(Credentials(*account.admin_keys()), "medical-imaging", "us-east-1").add_auth(signed)
    line = http.client.HTTPConnection(urlsplit(url).netloc)
    line.putrequest("POST", urlsplit(url).path)
    for name, value in {**dict(signed.headers.items()), "Content-Length": str((1 << 30) + 1)}.items():
        line.putheader(name, value)
    line.endheaders()
    assert line.getresponse().status == 413
    line.close()


@behaviour("imaging-request-size")
def test_requests_stay_below_it_whatever_a_study_holds_handled():
    files = [(Path(str(number)), 90 << 20) for number in range(30)]
    sent = list(batches(files, Limits()))
    assert sum(len(each) for each in sent) == 30
    assert max(len(each) for each in sent) * (90 << 20) <= Limits().bytes < 1 << 30


@behaviour("imaging-permissions")
def test_each_call_needs_its_action_and_may_be_bound_to_a_study_embedded(store: Store, account: Account, tmp_path: Path):
    arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{store.id}"
    condition = {"StringEquals": {"medical-imaging:StudyInstanceUID": "1.2.3"}}
    keys = account.assume([{"Effect": "Allow", "Action": "medical-imaging:StoreDICOMStudy", "Resource": arn, "Condition": condition}])
    theirs = DicomWebClient(account, store.id, keys=keys)
    path = write(tmp_path / "a.dcm")
    assert [theirs.store(path, study=study).status for study in ("1.2.3", "1.2.4", "")] == [200, 403, 403]
    assert theirs.call("GET", "/studies").status == 403


@behaviour("imaging-permissions")
def test_four_actions_are_enough_and_a_missing_one_is_named_handled(store: Store, account: Account, tmp_path: Path):
    arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{store.id}"
    actions = [f"medical-imaging:{name}" for name in ("StoreDICOM", "SearchDICOMInstances", "SearchImageSets", "GetDICOMSeriesMetadata")]
    files = study_files(tmp_path, 2)
    enough = account.assume([{"Effect": "Allow", "Action": actions, "Resource": arn}])
    assert archive_study(store.archive(enough), files, "s", "j").is_whole
    with pytest.raises(ArchiveAccessError, match="SearchImageSets"):
        archive_study(store.archive(account.assume([{"Effect": "Allow", "Action": actions[:2], "Resource": arn}])), files, "s", "j")


@behaviour("imaging-not-empty")
def test_a_data_store_with_image_sets_stays_embedded(store: Store, web: DicomWebClient, tmp_path: Path):
    web.store(write(tmp_path / "a.dcm"))
    with pytest.raises(ClientError) as error:
        store.client.delete_datastore(datastoreId=store.id)
    assert refusal(error)[:2] == ("ConflictException", 409)


@behaviour("imaging-not-empty")
def test_all_of_a_study_is_found_and_removed_handled(store: Store, tmp_path: Path):
    archive = store.archive()
    files = study_files(tmp_path, 2)
    hidden = read_file(write_binary_seg(tmp_path / "h.dcm", SOPInstanceUID="9.1", SeriesInstanceUID="9.2", StudyID="x"), is_result=True)
    archive_study(archive, [*files, hidden], "s", "j")
    found = archive.image_sets_of_study("1.2.3")
    assert sorted(each.is_primary for each in found) == [False, True, True]
    for each in found:
        store.client.delete_image_set(datastoreId=store.id, imageSetId=each.id)
    assert store.client.delete_datastore(datastoreId=store.id)["datastoreStatus"] == "DELETING"
