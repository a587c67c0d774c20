"""DICOMweb of one study straight from the bucket: what it gives lies where it lay, says nobody's name, and there is nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from pydicom.uid import RLELossless

from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.portal.safety import REQUEST_HEADER
from monai_aws_pipeline.portal.viewer.veil import study_uid_of
from tests.support.studies import datasets_zip, dicom_bytes, two_studies_zip, zip_of
from tests.support.viewed_study import NAMED, ViewedStudy, answered, check, dice, images_of, overlay, part10, thing
from tests.unit.portal.viewer.conftest import Looking
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

S, J = study_of(1), job_of(1)
ROOT = f"/dicomweb/{S}/{J}"
STUDY = f"{ROOT}/studies/{study_uid_of(S)}"


@pytest.fixture
def study(bucket: Bucket) -> ViewedStudy:
    return answered(bucket)


def addresses(looking: Looking) -> list[str]:
    """Every address that the study has."""
    found = [f"{ROOT}/studies", f"{STUDY}/series", f"{STUDY}/metadata", f"{STUDY}/instances"]
    for series in looking.browser.get(f"{STUDY}/series").json():
        at = f"{STUDY}/series/{series['0020000E']['Value'][0]}"
        found += [f"{at}/metadata", f"{at}/instances"]
        for instance in looking.browser.get(f"{at}/instances").json():
            one = f"{at}/instances/{instance['00080018']['Value'][0]}"
            found += [one, f"{one}/metadata", f"{one}/frames/1"]
    return found


def test_the_segmentation_lies_on_the_frames_that_come_with_it_as_it_does_in_the_bucket(looking: Looking, study: ViewedStudy):
    check(overlay(looking.get, ROOT), study)


def test_the_segmentation_as_a_file_has_the_same_voxels_and_refers_to_the_images_that_come_with_it(looking: Looking, study: ViewedStudy):
    seg = part10(looking.get, ROOT)
    assert dice(seg.pixel_array, study.seg.pixel_array) == 1.0
    there = {item["00080018"]["Value"][0] for item in looking.browser.get(f"{STUDY}/instances").json()}
    named = {str(item.ReferencedSOPInstanceUID) for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named < there
    assert len(there) == len(study.images) + 1


def test_no_answer_holds_what_identifies_or_a_uid_of_the_study(looking: Looking, study: ViewedStudy):
    for address in addresses(looking):
        answer = looking.browser.get(address)
        assert answer.status_code == 200
        said = answer.content + str(answer.headers).encode()
        for value in (*NAMED, *study.uids, "A VENDOR"):
            assert value.encode() not in said, f"{value} in {address}"
    assert not [uid for uid in study.uids if uid in "".join(addresses(looking))]


def test_a_file_is_freed_of_what_stands_before_its_data_set_too(looking: Looking, study: ViewedStudy, bucket: Bucket):
    for image in study.images:
        image.preamble = b"II*\0" + NAMED[0].encode().ljust(124, b"\0")
        image.file_meta.SourceApplicationEntityTitle = NAMED[1]
        image.file_meta.PrivateInformationCreatorUID, image.file_meta.PrivateInformation = "1.2.3", NAMED[3].encode()
    bucket.put(f"processed/{S}/{J}/upload.zip", datasets_zip(study.images))
    one = next(each for each in addresses(looking) if "/instances/" in each and each.count("/") == STUDY.count("/") + 4)
    answer = looking.browser.get(one)
    assert answer.status_code == 200
    assert b"DICM" in answer.content
    assert not [value for value in NAMED if value.encode() in answer.content]


def test_compressed_frames_are_given_as_they_are_stored(looking: Looking, study: ViewedStudy, bucket: Bucket):
    for image in study.images:
        image.compress(RLELossless)
    bucket.put(f"processed/{S}/{J}/upload.zip", datasets_zip(study.images))
    images = [each for each in looking.browser.get(f"{STUDY}/instances").json() if each["00080060"]["Value"] == ["MR"]]
    assert {each["00083002"]["Value"][0] for each in images} == {str(RLELossless)}
    first = min(images, key=lambda each: each["00200013"]["Value"][0])
    uids = [first[tag]["Value"][0] for tag in ("0020000E", "00080018")]
    answer = looking.browser.get(f"{STUDY}/series/{uids[0]}/instances/{uids[1]}/frames/1").content
    assert f"transfer-syntax={RLELossless}".encode() in answer
    from pydicom.encaps import get_frame

    assert get_frame(study.images[0].PixelData, 0, number_of_frames=1) in answer


def test_frames_of_other_byte_order_and_inflated_ones_are_given_as_the_usual_ones(looking: Looking, study: ViewedStudy, bucket: Bucket):
    from tests.unit.portal.viewer.syntaxes import as_big_endian, as_deflated

    for rewritten in (as_big_endian, as_deflated):
        bucket.put(f"processed/{S}/{J}/upload.zip", rewritten(images_of_the(study)))
        looking.views.forget_all()
        check(overlay(looking.get, ROOT), study)


def images_of_the(study: ViewedStudy) -> list[bytes]:
    return [dicom_bytes(image) for image in study.images]


# ----------------------------------------------------------------------------------------------------------------- what is refused


def test_nothing_writes(looking: Looking, study: ViewedStudy):
    for address in addresses(looking)[:12]:
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
            answer = looking.browser.request(method, address, headers={REQUEST_HEADER: "1"}, content=b"x")
            assert answer.status_code == 405, address
            assert looking.browser.request(method, address).status_code in (403, 405)


def test_another_study_is_not_there_under_any_address(looking: Looking, study: ViewedStudy, bucket: Bucket):
    other = answered(bucket, 2)
    theirs = (study_uid_of(other.record.study), str(other.images[0].StudyInstanceUID), str(study.images[0].StudyInstanceUID), "1.2.3")
    for uid in theirs:
        for path in ("series", "instances", "metadata", "series/1.2/metadata"):
            answer = looking.browser.get(f"{ROOT}/studies/{uid}/{path}")
            assert (answer.status_code, "error" in answer.json()) == (404, True)
        for name in ("StudyInstanceUID", "0020000D"):
            assert looking.browser.get(f"{ROOT}/studies", params={name: uid}).status_code == 404
    for name in ("PatientID", "00100020"):
        assert looking.browser.get(f"{ROOT}/studies", params={name: "MRN-4711"}).status_code == 404
        assert len(looking.browser.get(f"{ROOT}/studies", params={name: S}).json()) == 1
    assert looking.browser.get(f"/dicomweb/{S}/{other.record.job}/studies").status_code == 404
    assert looking.browser.get(f"/dicomweb/{other.record.study}/{J}/studies").status_code == 404


def test_an_instance_of_the_study_is_there_under_its_own_series_alone(looking: Looking, study: ViewedStudy):
    by_modality = {each["00080060"]["Value"][0]: each["0020000E"]["Value"][0] for each in looking.browser.get(f"{STUDY}/series").json()}
    seg = looking.browser.get(f"{STUDY}/series/{by_modality['SEG']}/instances").json()[0]["00080018"]["Value"][0]
    for path in ("", "/metadata", "/frames/1"):
        assert looking.browser.get(f"{STUDY}/series/{by_modality['MR']}/instances/{seg}{path}").status_code == 404
    own = str(study.seg.SOPInstanceUID)
    assert looking.browser.get(f"{STUDY}/series/{by_modality['SEG']}/instances/{own}").status_code == 404, "its own UID is not said here"


TRICKS = [
    f"{ROOT}/studies/..", f"{ROOT}/studies/%2e%2e/{S}", f"{ROOT}//studies", f"{ROOT}/%73tudies", f"{ROOT}/workitems", f"{ROOT}", f"{ROOT}/",
    f"{ROOT}/studies%2f{study_uid_of(S)}%2fseries", f"{STUDY};x=1/series", f"{STUDY}/series/..%2f..%2fsecret/metadata",
    f"{STUDY}/series/%00/metadata", f"{STUDY}/rendered", f"{STUDY}/bulkdata", f"{STUDY}/series/1/rendered", f"{ROOT}/series",
    f"{ROOT}/instances", f"/dicomweb/{S}/studies", "/dicomweb/studies", f"/dicomweb/{S}/{J}x/studies", f"/dicomweb/{S.upper()}/{J}/studies",
    f"/dicomweb/..%2f{S}/{J}/studies", f"{STUDY}\\series", f"{ROOT}/studies/{study_uid_of(S)}%20/series", f"{STUDY}%2fseries",
]  # fmt: skip
QUERIES = [
    "PatientName=*", "00100010=DOE*", "includefield=all&PatientBirthDate=1961", "limit=-1", "limit=1e9", "offset=x", "limit=99999999999",
    "url=http://169.254.169.254/", "imageSetId=1", "StudyInstanceUID=1&StudyInstanceUID=2", "x", "Modality=MR&Modality=SEG", "%00=1",
    f"StudyInstanceUID={study_uid_of(S)}&0020000D=1.2.3", quote("Modality ") + "=MR",
]  # fmt: skip


def test_a_path_that_is_none_of_the_named_ones_is_not_there(looking: Looking, study: ViewedStudy):
    for path in TRICKS:
        answer = looking.browser.get(path)
        assert answer.status_code == 404, path
        assert not any(value in answer.text for value in (*NAMED, *study.uids))


def test_an_address_is_written_in_one_way(looking: Looking, study: ViewedStudy):
    """A server has decoded its path already when it looks; whoever filters in front of it may have seen another one."""
    for written in (f"{ROOT}/studies".replace("s", "%73"), f"{STUDY}/serie%73", STUDY.replace(".", "%2e") + "/series"):
        assert looking.browser.get(written).status_code == 404


def test_a_parameter_that_is_none_of_the_named_ones_is_refused(looking: Looking, study: ViewedStudy):
    for query in QUERIES:
        for path in (f"{ROOT}/studies", f"{STUDY}/series", f"{STUDY}/metadata"):
            assert looking.browser.get(f"{path}?{query}").status_code == 400, query


def test_a_search_narrows_by_what_it_names(looking: Looking, study: ViewedStudy):
    assert len(looking.browser.get(f"{STUDY}/series?Modality=SEG").json()) == 1
    assert len(looking.browser.get(f"{STUDY}/instances?limit=3&offset=1&includefield=all").json()) == 3
    assert looking.browser.get(f"{ROOT}/studies?StudyInstanceUID={study_uid_of(S)}&ModalitiesInStudy=CT").json() == []


def test_frames_that_there_are_not_are_refused(looking: Looking, study: ViewedStudy):
    one = next(each for each in addresses(looking) if each.endswith("/frames/1"))
    assert looking.browser.get(one).status_code == 200
    for frames in ("0", "2", "1,2", "-1", "1;2", "x", "1,", "9999999999", ",".join(["1"] * 9)):
        assert looking.browser.get(one.removesuffix("1") + frames).status_code in (400, 404), frames


# ----------------------------------------------------------------------------------------------- what the bucket holds is hostile too


def test_an_upload_that_is_a_bomb_is_refused_by_name_and_leaves_nothing(look: Callable[..., Looking], study: ViewedStudy, bucket: Bucket):
    looking = look(limits=IntakeLimits(unpacked_bytes=1 << 20))
    bucket.put(f"processed/{S}/{J}/upload.zip", zip_of({"zeros.dcm": dicom_bytes(study.images[0]) + bytes(8 << 20)}))
    answer = looking.browser.get(f"{ROOT}/studies")
    assert (answer.status_code, "zip_too_large" in answer.text) == (502, True)
    looking.views.forget_all()
    assert list(looking.kept.iterdir()) == []


def test_an_upload_larger_than_hosts_take_is_not_fetched(look: Callable[..., Looking], study: ViewedStudy):
    looking = look(limits=IntakeLimits(upload_bytes=100))
    assert "upload_too_large" in looking.browser.get(f"{ROOT}/studies").text


def test_a_result_that_is_another_size_than_its_record_says_is_refused(looking: Looking, study: ViewedStudy, bucket: Bucket):
    bucket.put(study.record.outputs[0].key, dicom_bytes(study.seg) + b"more")
    assert looking.browser.get(f"{ROOT}/studies").status_code == 502


def test_of_an_upload_with_several_studies_the_one_that_was_answered_is_shown(looking: Looking, study: ViewedStudy, bucket: Bucket):
    others = images_of(thing())
    bucket.put(f"processed/{S}/{J}/upload.zip", datasets_zip([*others, *study.images]))
    check(overlay(looking.get, ROOT), study)
    answer = succeeded(5, outputs=())
    bucket.commit(answer)
    bucket.put(f"processed/{answer.study}/{answer.job}/upload.zip", two_studies_zip())
    told = looking.browser.get(f"/dicomweb/{answer.study}/{answer.job}/studies")
    assert (told.status_code, "several studies" in told.text) == (404, True)


def test_what_was_not_answered_or_has_expired_is_said(looking: Looking, study: ViewedStudy, bucket: Bucket):
    failed = refused(3, study=study_of(3))
    bucket.commit(failed)
    assert "not answered" in looking.browser.get(f"/dicomweb/{study_of(3)}/{job_of(3)}/studies").json()["error"]
    bucket.delete(f"processed/{S}/{J}/upload.zip")
    told = looking.browser.get(f"{ROOT}/studies")
    assert (told.status_code, "MONAI_AWS_ORIGINALS_EXPIRE_DAYS" in told.text) == (404, True)
    assert "ya no está en el depósito" in looking.browser.get(f"{ROOT}/studies", headers={"accept-language": "es"}).json()["error"]


def test_a_folder_that_was_kept_file_by_file_was_refused_as_a_whole_and_is_no_answer(looking: Looking, bucket: Bucket):
    """So what an answer was read from is one object: only folders that were refused before they were read are kept in pieces."""
    failed = refused(4, study=study_of(4))
    bucket.commit(failed)
    for number in (1, 2):
        bucket.put(f"quarantine/{failed.job}/upload/{number:06d}", b"x")
    assert "not answered" in looking.browser.get(f"/dicomweb/{study_of(4)}/{failed.job}/studies").json()["error"]


# ------------------------------------------------------------------------------------------------------------- what is kept meanwhile


def test_a_study_is_fetched_once_privately_and_forgotten(looking: Looking, study: ViewedStudy, bucket: Bucket):
    assert looking.browser.get(f"{ROOT}/studies").status_code == 200
    bucket.delete(f"processed/{S}/{J}/upload.zip")
    check(overlay(looking.get, ROOT), study)
    (folder,) = looking.kept.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert not any(value in str(path) for path in folder.rglob("*") for value in (*NAMED, *study.uids, "JANE"))
    assert not list(folder.rglob("*.zip")), "the upload itself is not kept"
    looking.views.forget_all()
    assert list(looking.kept.iterdir()) == []
    assert looking.browser.get(f"{ROOT}/studies").status_code == 404


def test_the_oldest_study_makes_room(looking: Looking, bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monai_aws_pipeline.portal.viewer.views.MOST_STUDIES", 2)
    for number in (1, 2, 3):
        answered(bucket, number)
        assert looking.browser.get(f"/dicomweb/{study_of(number)}/{job_of(number)}/studies").status_code == 200
        assert len(list(looking.kept.iterdir())) == min(number, 2)


def test_what_is_looked_at_stays_while_it_is(looking: Looking, study: ViewedStudy):
    with looking.views.opened(S, J) as found:
        _ = found.view
        looking.views.forget_all()
        assert found.folder.is_dir()
    looking.views.forget_all()
    assert not found.folder.exists()


def test_headers_with_damaged_values_are_shown_without_them(looking: Looking, study: ViewedStudy, bucket: Bucket, tmp_path: Path):
    for image in study.images:
        image.add_new(0x00181318, "DS", "")
        image["RepetitionTime"]._value = "no number"
    bucket.put(f"processed/{S}/{J}/upload.zip", datasets_zip(study.images))
    headers = [each for each in looking.browser.get(f"{STUDY}/metadata").json() if each["00080060"]["Value"] == ["MR"]]
    assert len(headers) == len(study.images)
    assert all("00180080" not in each or each["00180080"].get("Value") in (None, []) for each in headers)
    assert json.dumps(headers)
    assert np.isfinite(headers[0]["00200032"]["Value"]).all()
