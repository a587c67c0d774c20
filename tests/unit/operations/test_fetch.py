"""Results on this machine: whole, what the record names, in the folder and nowhere else, and over nothing."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from monai_aws_pipeline import cli as command_line
from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.contract import JobDone, OutputFile, ResultError, ResultRecord, Status, job_done_key, quarantine_key, utc_text
from monai_aws_pipeline.operations.fetch import Fetched, FetchError, fetch, records_of
from monai_aws_pipeline.operations.results_store import ResultsStore
from tests.unit.studies.conftest import aws, bucket
from tests.unit.studies.records import NOON, Bucket, job_of, refused, study_of, succeeded

__all__ = ["aws", "bucket"]


@pytest.fixture
def store(bucket: Bucket) -> ResultsStore:
    return ResultsStore(bucket.s3, bucket.name)


def committed(bucket: Bucket, record: ResultRecord, bodies: dict[str, bytes]) -> ResultRecord:
    """A job that is done, with outputs of these bodies by their keys."""
    outputs = tuple(OutputFile(key, hashlib.sha256(body).hexdigest(), len(body), "other") for key, body in bodies.items())
    record = replace(record, outputs=outputs)
    for key, body in bodies.items():
        bucket.put(key, body)
    bucket.commit(record)
    bucket.put(job_done_key(record.job), JobDone(record.job, (record.commit_key,), utc_text(NOON)).to_json())
    return record


def answered(bucket: Bucket, number: int = 1, **changes: object) -> ResultRecord:
    record = succeeded(number, **changes)  # type: ignore[arg-type]
    folder = f"output/{record.study}/{record.job}"
    return committed(bucket, record, {f"{folder}/dicom/seg.dcm": b"segmentation" * 200_000, f"{folder}/map.log": b"all is well"})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_log_and_record_of_a_job_lie_in_a_folder_of_their_own(bucket: Bucket, store: ResultsStore, tmp_path: Path):
    record, counted = answered(bucket), list[int]()
    assert records_of(store, record.job) == (record,)
    got = list(fetch(store, record, tmp_path / "to", counted.append))
    assert sum(counted) == sum(output.bytes for output in record.outputs)
    assert not any(each.trouble or each.kept for each in got)
    place = f"{record.study}/{record.job}"
    found = files(tmp_path / "to")
    assert set(found) == {f"{place}/dicom/seg.dcm", f"{place}/map.log", f"{place}/result.json"}
    assert found[f"{place}/map.log"] == b"all is well"
    assert ResultRecord.from_json(found[f"{place}/result.json"].decode()) == record
    assert all(each.kept for each in fetch(store, record, tmp_path / "to")), "what is there already is not fetched again"


def test_of_a_study_it_is_the_latest_answer(bucket: Bucket, store: ResultsStore):
    late = answered(bucket, 1, at=NOON + timedelta(hours=2))
    early = replace(succeeded(1, NOON), job=job_of(2), outputs=())
    bucket.commit(early)  # put into the bucket later than the other
    assert records_of(store, late.study) == (late,)


def test_of_a_failed_study_it_is_its_log_and_why(bucket: Bucket, store: ResultsStore, tmp_path: Path):
    error = ResultError("map_failed", "The application ended with exit code 1.", "ValueError: no volume")
    failed = replace(refused(3, study=study_of(3), status=Status.FAILED), error=error)
    record = committed(bucket, failed, {quarantine_key(failed.job, "map.log", failed.study): b"ValueError: no volume"})
    assert not [each for each in fetch(store, record, tmp_path) if each.trouble]
    assert files(tmp_path)[f"{record.study}/{record.job}/map.log"] == b"ValueError: no volume"


def test_an_upload_whose_study_is_unknown_has_a_folder_by_its_job(bucket: Bucket, store: ResultsStore, tmp_path: Path):
    record = committed(bucket, refused(4), {})
    assert [str(each.path.relative_to(tmp_path)) for each in fetch(store, record, tmp_path)] == [f"{record.job}/result.json"]


@pytest.mark.parametrize("wanted", ["x", "../..", "a" * 17, job_of(9), study_of(9), job_of(9).upper()])
def test_what_is_no_job_or_study_or_has_no_result_is_named(store: ResultsStore, wanted: str):
    with pytest.raises(FetchError):
        records_of(store, wanted)


OTHER = "ffffffffffffffff"
HOSTILE = [
    "/etc/passwd", "../escape", "input/Jane.zip", f"output/{OTHER}/JOB/map.log", f"output/STUDY/{OTHER * 2}/map.log",
    *(f"output/STUDY/JOB/{name}" for name in ("../../../x", "/x", "a/../../x", ".", "..", "", "a\\x", "a\nb", "result.json")),
    f"quarantine/JOB/{OTHER}/map.log",
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_that_is_none_of_the_records_own_is_not_fetched_and_the_rest_is(
    bucket: Bucket, store: ResultsStore, tmp_path: Path, key: str
):
    record = answered(bucket)
    named = key.replace("STUDY", record.study).replace("JOB", record.job)
    if named.startswith(("output", "input", "quarantine")):
        bucket.put(named, b"hostile")
    bad = OutputFile(named, hashlib.sha256(b"hostile").hexdigest(), 7, "other")
    got = list(fetch(store, replace(record, outputs=(bad, *record.outputs)), tmp_path / "to"))
    assert [bool(each.trouble) for each in got] == [True, False, False, False]
    assert "Jane" not in got[0].trouble
    assert {path.name for path in tmp_path.rglob("*")} == {"to", record.study, record.job, "dicom", "seg.dcm", "map.log", "result.json"}


def test_nothing_that_is_there_is_written_over_or_written_through(bucket: Bucket, store: ResultsStore, tmp_path: Path):
    record = answered(bucket)
    place = tmp_path / "to" / record.study / record.job
    place.mkdir(parents=True)
    (place / "map.log").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (place / "dicom").symlink_to(tmp_path / "elsewhere")
    got = list(fetch(store, record, tmp_path / "to"))
    assert [bool(each.trouble) for each in got] == [True, True, False]
    assert "is a link" in got[0].trouble
    assert "is there already" in got[1].trouble
    assert (place / "map.log").read_text() == "mine"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_that_comes_while_it_is_fetched_is_not_written_over(bucket: Bucket, store: ResultsStore, tmp_path: Path):
    record = answered(bucket)
    mine = tmp_path / record.study / record.job / "dicom" / "seg.dcm"

    def put_there(_: int) -> None:
        mine.write_text("mine")

    got = list(fetch(store, replace(record, outputs=record.outputs[:1]), tmp_path, put_there))
    assert "is there already" in got[0].trouble
    assert mine.read_text() == "mine"
    assert [path.name for path in mine.parent.iterdir()] == ["seg.dcm"]


@pytest.mark.parametrize("there", ["link", "folder", "dangling"])
def test_a_name_that_something_else_has_is_named(bucket: Bucket, store: ResultsStore, tmp_path: Path, there: str):
    record = answered(bucket)
    place = tmp_path / record.study / record.job
    place.mkdir(parents=True)
    (tmp_path / "other").write_bytes(b"all is well")  # the very bytes: a link to them is no file of ours
    if there == "folder":
        (place / "map.log").mkdir()
    else:
        (place / "map.log").symlink_to(tmp_path / ("other" if there == "link" else "nowhere"))
    assert [each.trouble for each in fetch(store, record, tmp_path) if "is there already" in each.trouble]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("body", [b"all is ill!", b"all is", b"all is well, and more than well", b""])
def test_what_is_not_what_the_record_names_is_not_kept(bucket: Bucket, store: ResultsStore, tmp_path: Path, body: bytes):
    record = answered(bucket)
    bucket.put(f"output/{record.study}/{record.job}/map.log", body)
    (trouble,) = (each.trouble for each in fetch(store, record, tmp_path) if each.trouble)
    assert "map.log in the bucket is not what its record names" in trouble
    assert {path.rpartition("/")[2] for path in files(tmp_path)} == {"seg.dcm", "result.json"}, "no part of it is left either"


def test_an_output_that_is_gone_is_named_and_the_others_are_fetched(bucket: Bucket, store: ResultsStore, tmp_path: Path):
    record = answered(bucket)
    bucket.delete(f"output/{record.study}/{record.job}/dicom/seg.dcm")
    got = list(fetch(store, record, tmp_path))
    assert ["there is no such object" in each.trouble for each in got] == [True, False, False]


def test_a_folder_that_cannot_be_used_is_named(bucket: Bucket, store: ResultsStore, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="cannot be used as a folder"):
        list(fetch(store, answered(bucket), tmp_path / "file"))


def test_the_command_tells_each_file_and_ends_with_1_where_one_is_missing(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_BUCKET", bucket.name)
    record = answered(bucket)
    done = CliRunner().invoke(cli, ["get", record.study, "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert f"succeeded: study {record.study}, job {record.job}" in done.output
    assert f"{tmp_path}/{record.study}/{record.job}/dicom/seg.dcm: 2400000 bytes" in done.output
    assert CliRunner().invoke(cli, ["get", record.job, "--to", str(tmp_path)]).output.count("there already") == 3
    bucket.delete(f"output/{record.study}/{record.job}/map.log")
    assert CliRunner().invoke(cli, ["get", record.job, "--to", str(tmp_path / "anew")]).exit_code == 1


def test_on_a_terminal_it_has_a_bar(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_BUCKET", bucket.name)
    screen = io.StringIO()
    monkeypatch.setattr(command_line, "CONSOLE", Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"}))
    assert CliRunner().invoke(cli, ["get", answered(bucket).job, "--to", str(tmp_path)]).exit_code == 0
    assert "100%" in screen.getvalue()
    assert Fetched(tmp_path, 0).trouble == ""
