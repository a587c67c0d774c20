"""What the embedded HealthImaging decides without a request: what a call is about, what a search matches, what a job reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

imaging = pytest.importorskip("monai_aws_pipeline.local_cloud.imaging")
dicomweb = pytest.importorskip("monai_aws_pipeline.local_cloud.dicomweb")
jobs = pytest.importorskip("monai_aws_pipeline.local_cloud.imaging_jobs")
from monai_aws_pipeline.local_cloud.faults import Account, FaultBoard  # noqa: E402
from monai_aws_pipeline.local_cloud.imaging_files import RefusedFile, read_instance  # noqa: E402
from monai_aws_pipeline.local_cloud.imaging_store import ImageStore  # noqa: E402
from tests.unit.local_cloud.dicom import write  # noqa: E402

STORE, SET = "a" * 32, "b" * 32
ARN = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{STORE}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/datastore", ["*"]),
        (f"/datastore/{STORE}", [ARN]),
        (f"/datastore/{STORE}/searchImageSets", [ARN]),
        (f"/startDICOMImportJob/datastore/{STORE}", [ARN]),
        (f"/getDICOMImportJob/datastore/{STORE}/job/{SET}", [ARN]),
        (f"/datastore/{STORE}/imageSet/{SET}/getImageFrame", [ARN, f"{ARN}/imageset/{SET}"]),
        (f"/tags/{ARN}", [ARN]),
        (f"/tags/{ARN.replace(':', '%3A').replace('/', '%2F')}", [ARN]),
    ],
)
def test_a_call_is_about_a_data_store_and_an_image_set(path: str, expected: list[str]):
    assert imaging.resources(path, "us-east-1") == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/datastore/{STORE}/studies", True),
        (f"/datastore/{STORE}/studies/1.2/series", True),
        (f"/datastore/{STORE}/instances", True),
        (f"/datastore/{STORE}", False),
        (f"/datastore/{STORE}/searchImageSets", False),
        (f"/datastore/{STORE}/studiesX", False),
        ("/studies", False),
    ],
)
def test_dicomweb_is_told_from_the_api_by_its_path(path: str, expected: bool):
    assert dicomweb.is_dicomweb(path) is expected


@pytest.mark.parametrize(
    ("keyword", "value", "wanted", "expected"),
    [
        ("PatientID", "A1", "A1", True),
        ("PatientID", "A1", "a1", False),
        ("PatientID", "A1", "", True),
        ("PatientID", "A.1", "A?1", True),
        ("PatientID", "AB", "A.", False),
        ("PatientName", "Invented^Nobody", "invented*", True),
        ("StudyInstanceUID", "1.2", r"1.1\1.2", True),
        ("StudyInstanceUID", "1.2", "1.1,1.20", False),
        ("StudyDate", "20200101", "20200101-", True),
        ("StudyDate", "20200101", "-20191231", False),
        ("StudyTime", "120000.5", "110000-120000", True),
        ("StudyDate", "", "20200101-", False),
    ],
)
def test_a_search_matches_as_the_standard_says(keyword: str, value: str, wanted: str, expected: bool):
    assert dicomweb._equals(keyword, value, wanted) is expected


def test_an_answer_names_who_can_be_named_and_counts_the_rest(tmp_path: Path):
    path = write(tmp_path / "a.dcm", SOPInstanceUID="1.1")
    store = ImageStore(tmp_path / "store")
    stored = store.add(store.create_datastore("us-east-1", "x", "t")["id"], [(read_instance(path), path)])
    failed = [RefusedFile("words", 0xA900, "1.2.840", "1.2"), RefusedFile("words")]
    answer = dicomweb.store_answer("http://here/datastore/x", stored, failed)
    assert answer["00081199"]["Value"][0]["00081190"]["Value"] == ["http://here/datastore/x/studies/1.2.3/series/1.2.3.1/instances/1.1"]
    assert answer["00081198"]["Value"] == [
        {"00081150": _ui("1.2.840"), "00081155": _ui("1.2"), "00081197": {"vr": "US", "Value": [0xA900]}}
    ]
    assert answer["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]


def _ui(uid: str) -> dict[str, object]:
    return {"vr": "UI", "Value": [uid]}


def test_nested_folders_are_counted_once_at_every_depth():
    assert jobs.nested_folders([], "in/") == 0
    assert jobs.nested_folders(["in/a.dcm", "in/x/a.dcm", "in/x/b.dcm", "in/x/y/z/c.dcm"], "in/") == 3


def test_a_job_that_read_nothing_writes_no_lines_and_still_its_summary():
    written = jobs.manifests("j", "d", {"inputS3Uri": "s3://b/in", "outputS3Uri": "s3://b/out/d-DicomImport-j/"}, [], [])
    assert list(written) == ["job-output-manifest.json"]
    assert json.loads(written["job-output-manifest.json"])["jobSummary"]["numberOfScannedFiles"] == 0


def test_jobs_that_the_end_of_the_server_cut_short_go_on(tmp_path: Path):
    started: list[str] = []

    class Jobs:
        def start(self, job: str) -> None:
            started.append(job)

    store = ImageStore(tmp_path)
    first, second = (store.create_job("d", token, {"outputS3Uri": "s3://b/out"})[0]["id"] for token in "ab")
    store.update_job(second, "COMPLETED")
    imaging.HealthImaging(store, Jobs(), FaultBoard(2.0, Account())).resume()
    assert started == [first]
