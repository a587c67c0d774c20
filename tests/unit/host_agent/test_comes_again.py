"""A study that comes again: each upload is a job of its own, the earlier result stays, and nothing is merged (docs/study-contract.md)."""

from __future__ import annotations

import io
import zipfile
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import ResultRecord, Status, processed_key, quarantine_key, result_key, study_id
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.job_steps import Outcome
from monai_aws_pipeline.host_agent.results import commit
from tests.unit.host_agent.bench import FAILS, SECRET, Bench, answers
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.originals_bench import content, upload


def zip_of(files: list[Path], name: str = "") -> bytes:
    """A zip of DICOM files, in which the patient has this name where one is given."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, path in enumerate(files):
            data = pydicom.dcmread(path)
            if name:
                data.PatientName = name
            written = io.BytesIO()
            data.save_as(written)
            archive.writestr(f"{number}.dcm", written.getvalue())
    return packed.getvalue()


@pytest.fixture
def study() -> str:
    return str(generate_uid())


@pytest.fixture
def body(tmp_path: Path, study: str) -> bytes:
    return zip_of(write_series(tmp_path / "first", study, slices=3))


def answered(bench: Bench, key: str, body: bytes, study: str) -> ResultRecord:
    message = bench.upload(key, body)
    assert bench.turn() is Outcome.ANSWERED
    return bench.record(result_key(study_id(SECRET, study), message.job))


def assert_both_stand(bench: Bench, study: str, first: ResultRecord, second: ResultRecord, bodies: list[bytes]) -> None:
    assert first.job != second.job
    assert first.study == second.study == study_id(SECRET, study)
    assert bench.record(first.commit_key) == first
    for record, original in zip((first, second), bodies, strict=True):
        assert {item.key for item in record.outputs} <= set(bench.stored("output/"))
        assert content(bench, processed_key(record.study, record.job, "upload.zip")) == original
    assert len(bench.stored("results-index/")) == 2
    assert bench.stored("input/") == []


@pytest.mark.parametrize("key", ["input/a.zip", "input/b.zip"], ids=["the same name", "another name"])
def test_a_study_that_comes_with_more_series_has_a_second_result_of_all_that_came_then(
    bench: Bench, tmp_path: Path, study: str, body: bytes, key: str
) -> None:
    more = zip_of([*write_series(tmp_path / "first", study, slices=3), *write_series(tmp_path / "second", study, slices=2)])
    first = answered(bench, "input/a.zip", body, study)
    second = answered(bench, key, more, study)
    assert [(record.input.instances, record.input.series) for record in (first, second)] == [(3, 1), (5, 2)]
    assert_both_stand(bench, study, first, second, [body, more])


def test_a_study_that_comes_with_the_missing_series_alone_is_not_merged_with_what_came_before(
    bench: Bench, tmp_path: Path, study: str, body: bytes
) -> None:
    rest = zip_of(write_series(tmp_path / "second", study, slices=2))
    first, second = answered(bench, "input/a.zip", body, study), answered(bench, "input/b.zip", rest, study)
    assert [record.input.instances for record in (first, second)] == [3, 2]
    assert_both_stand(bench, study, first, second, [body, rest])


def test_a_corrected_name_changes_neither_the_pseudonym_nor_the_earlier_result(
    bench: Bench, tmp_path: Path, study: str, body: bytes
) -> None:
    corrected = zip_of(write_series(tmp_path / "first", study, slices=3), "Corrected^Name")
    first, second = answered(bench, "input/a.zip", body, study), answered(bench, "input/a.zip", corrected, study)
    assert_both_stand(bench, study, first, second, [body, corrected])


def test_the_same_bytes_under_another_name_are_another_upload(bench: Bench, study: str, body: bytes) -> None:
    first, second = answered(bench, "input/a.zip", body, study), answered(bench, "input/b.zip", body, study)
    assert_both_stand(bench, study, first, second, [body, body])


def test_the_same_bytes_under_the_same_name_are_the_same_job_whose_answer_stands(bench: Bench, study: str, body: bytes) -> None:
    first = answered(bench, "input/a.zip", body, study)
    before = bench.stored()
    again = bench.upload("input/a.zip", body)
    assert again.job == first.job
    assert bench.turn() is Outcome.REPEATED
    assert bench.stored() == before, "it is cleared from input/, and nothing else has changed"
    assert bench.record(first.commit_key) == first
    assert bench.engine.runs == 1


@pytest.mark.parametrize("gone", ["output/", "quarantine/"])
def test_the_same_bytes_after_their_answer_has_expired_are_answered_anew_and_not_taken_for_answered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, study: str, body: bytes, gone: str
) -> None:
    whole = body if gone == "output/" else b"no zip"
    first = bench.upload("input/a.zip", whole)
    assert bench.turn() is Outcome.ANSWERED
    for key in bench.stored(gone):
        bench.s3.delete_object(Bucket="studies", Key=key)
    again = bench.upload("input/a.zip", whole)
    assert again.job == first.job
    assert bench.turn() is Outcome.REPEATED, "what is gone so soon was removed by somebody, and is not made anew"
    monkeypatch.setattr(commit, "SETTLED", timedelta(0))
    bench.upload("input/a.zip", whole)
    assert bench.turn() is Outcome.ANSWERED
    done = commit.read_done(Store(bench.s3, "studies"), first.job)
    assert done
    assert [bench.record(key).job for key in done.commits] == [first.job], "its marker names a record that is there"
    assert bench.stored("input/") == []
    bench.upload("input/a.zip", whole)
    assert bench.turn() is Outcome.REPEATED, "now it is answered"


def test_with_versions_the_same_bytes_under_the_same_name_are_another_upload(bench: Bench, study: str, body: bytes) -> None:
    bench.s3.put_bucket_versioning(Bucket="studies", VersioningConfiguration={"Status": "Enabled"})
    records = []
    for _ in range(2):
        message = bench.send(upload(bench, "input/a.zip", body))
        assert bench.turn() is Outcome.ANSWERED
        records.append(bench.record(result_key(study_id(SECRET, study), message.job)))
    assert_both_stand(bench, study, records[0], records[1], [body, body])


def test_the_same_bytes_after_a_failure_are_not_tried_again_under_the_same_name_and_are_under_another(
    bench: Bench, study: str, body: bytes
) -> None:
    bench.engine.run_map = lambda *_: FAILS
    failed = bench.upload("input/a.zip", body)
    assert bench.turn(last=True) is Outcome.ANSWERED
    bench.engine.run_map = answers
    bench.upload("input/a.zip", body)
    assert bench.turn() is Outcome.REPEATED
    assert bench.record(quarantine_key(failed.job, "result.json", study_id(SECRET, study))).status is Status.FAILED
    assert content(bench, quarantine_key(failed.job, "upload.zip")) == body
    assert bench.stored("input/") == []
    assert answered(bench, "input/a-2.zip", body, study).status is Status.SUCCEEDED


def test_a_folder_that_comes_again_is_another_upload_each_time(bench: Bench, tmp_path: Path, study: str) -> None:
    files = write_series(tmp_path / "first", study, slices=3)
    records = []
    for marker in (b"monai-aws: complete at noon", b"monai-aws: complete at one"):  # the wake function writes the time into it
        for path in files:
            bench.s3.put_object(Bucket="studies", Key=f"input/f/{path.name}", Body=path.read_bytes())
        records.append(answered(bench, "input/f/_READY", marker, study))
    assert records[0].job != records[1].job
    assert bench.record(records[0].commit_key) == records[0]
    assert bench.stored("input/") == []
