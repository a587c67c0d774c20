"""Every kind of upload through the real wake function and the real agent: each yields as many results as it holds studies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydicom import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import RLELossless

from monai_aws_pipeline.contract import ResultRecord, Status, job_id
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.platform import Platform, platform
from tests.support.studies import dicom_bytes, tiny_study, tiny_study_zip, two_studies_zip, zip_of

pytestmark = [pytest.mark.e2e, pytest.mark.cloud, pytest.mark.long]

QUIET_S = 3.0


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("kinds")
    with platform(local_cloud, "kinds", folder, MONAI_AWS_FOLDER_QUIET_MINUTES=str(QUIET_S / 60)) as made:
        made.adopt_image()
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


def exported_with_dicomdir(items: list[Dataset]) -> bytes:
    """A zip as a viewer's export makes it: the study in a zip of its own, with a DICOMDIR (PS3.10 section 8) and a page for the reader."""
    files = FileSet()
    for item in items:
        files.add(item)
    with TemporaryDirectory() as folder:
        files.write(folder)
        members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    assert "DICOMDIR" in members
    return zip_of({"export/study.zip": zip_of(members), "export/README.TXT": b"open me with a viewer\n"})


def compressed(items: list[Dataset]) -> bytes:
    """A zip of the instances in RLE Lossless (PS3.5 annex G)."""
    for item in items:
        item.compress(RLELossless)
    return zip_of({f"{number}.dcm": dicom_bytes(item) for number, item in enumerate(items)})


def put_folder(place: Platform, name: str, instances: int) -> None:
    for number, item in enumerate(tiny_study(instances)):
        place.upload(f"input/{name}/series/{number}.dcm", dicom_bytes(item))


def job_of_folder(place: Platform, name: str, seconds: float = 90) -> str:
    """The job of the marker that was put or replaced by the wake function, once it lies there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for found in place.clients.s3.list_objects_v2(Bucket=place.settings.bucket, Prefix=f"input/{name}/_READY").get("Contents", []):
            if found["Size"]:
                return job_id(place.settings.bucket, found["Key"], found["ETag"])
        time.sleep(0.2)
    raise AssertionError(f"the folder {name} was not completed")


def answered(place: Platform, job: str, seconds: float = 240) -> list[ResultRecord]:
    records = place.answers([job], seconds)[job]
    assert {record.status for record in records} == {Status.SUCCEEDED}, [record.error for record in records]
    return records


def test_each_kind_of_zip_has_as_many_results_as_studies(place: Platform):
    jobs = {
        place.upload("input/plain.zip", tiny_study_zip(4)): [4],
        place.upload("input/two.zip", two_studies_zip(4)): [4, 4],
        place.upload("input/export.zip", exported_with_dicomdir(tiny_study(5))): [5],
        place.upload("input/compressed.zip", compressed(tiny_study(6))): [6],
    }
    place.answers(list(jobs), 300)
    for job, instances in jobs.items():
        records = answered(place, job)
        assert [record.input.instances for record in records] == instances
        assert len({record.study for record in records}) == len(instances)
        assert all("dicom-seg" in {output.kind for output in record.outputs} for record in records)
    place.wait_stopped()
    assert place.keys("input/") == []


def test_a_folder_is_complete_when_it_has_been_quiet(place: Platform):
    put_folder(place, "quiet", 4)
    time.sleep(QUIET_S + 2)  # the bucket tells its time in whole seconds
    place.wake()
    (record,) = answered(place, job_of_folder(place, "quiet"))
    assert record.input.instances == 4
    place.wait_stopped()
    assert place.keys("input/") == []


def test_a_folder_name_that_is_used_twice_with_an_empty_marker_is_two_uploads(place: Platform):
    jobs = []
    for instances in (3, 5):
        put_folder(place, "ward 7", instances)
        place.upload("input/ward 7/_READY", b"")
        jobs.append(job_of_folder(place, "ward 7"))
        (record,) = answered(place, jobs[-1])
        assert record.input.instances == instances
        place.wait_stopped()
        assert place.keys("input/") == []
    assert jobs[0] != jobs[1]
    assert len({record.study for job in jobs for record in answered(place, job)}) == 2
