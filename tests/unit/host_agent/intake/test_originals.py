"""An original and its name: whatever is put under the name meanwhile, each job keeps and removes its own bytes and nothing else's."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import (
    ResultRecord,
    Status,
    folder_key,
    job_done_key,
    processed_key,
    quarantine_key,
    result_key,
    study_id,
)
from monai_aws_pipeline.host_agent.aws.bucket import Store, StoredObject
from monai_aws_pipeline.host_agent.errors import InterruptedJobError
from monai_aws_pipeline.host_agent.intake import originals
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.host_agent.job_steps import Outcome
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from tests.unit.host_agent.bench import FAILS, SECRET, Bench, answers, zip_of
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.originals_bench import content, upload

LARGE = 9 << 20
"""Bytes from which on a copy is made in parts."""


def study_zip(folder: Path, uid: str, size: int = 0) -> bytes:
    """A zip of one study, with ``size`` bytes beside it that are no DICOM."""
    packed = io.BytesIO(zip_of(folder, uid))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(f"about {uid}.bin", b"\0" * size)
    return packed.getvalue()


def before(bench: Bench, call: str, act: Callable[[], object], after_calls: int = 0) -> list[Any]:
    """Do something once, right before the host's next call of this name; the parameters of all those calls."""
    seen: list[Any] = []
    done: list[object] = []

    def called(params: dict[str, Any], **_: Any) -> None:
        seen.append(params)
        if len(seen) > after_calls and not done:
            done.append(True)
            act()

    bench.s3.meta.events.register_first(f"before-call.s3.{call}", called)
    return seen


def while_inferred(bench: Bench, act: Callable[[], object]) -> None:
    """Do something while the first study is inferred."""

    def run(source: Path, target: Path) -> RunEnd:
        if bench.engine.runs == 1:
            act()
        return answers(source, target)

    bench.engine.run_map = run


def error_of(record: ResultRecord) -> str:
    return record.error.code if record.error else ""


@pytest.fixture(params=["", "Enabled"], ids=["without versions", "with versions"])
def versions(bench: Bench, request: pytest.FixtureRequest) -> str:
    if request.param:
        bench.s3.put_bucket_versioning(Bucket="studies", VersioningConfiguration={"Status": request.param})
    return str(request.param)


# ------------------------------------------------------------------------------------------------------------------- another's bytes


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("ending", [Status.SUCCEEDED, Status.FAILED])
def test_an_upload_whose_name_is_taken_while_it_is_inferred_is_kept_with_its_own_bytes_and_the_next_one_too(
    bench: Bench, tmp_path: Path, versions: str, size: int, ending: Status
) -> None:
    one, other = generate_uid(), generate_uid()
    bodies = [study_zip(tmp_path, uid, size) for uid in (one, other)]
    messages = [upload(bench, "input/ct.zip", bodies[0])]

    def run(source: Path, target: Path) -> RunEnd:
        if bench.engine.runs == 1:
            messages.append(upload(bench, "input/ct.zip", bodies[1]))
        return FAILS if ending is Status.FAILED and len(messages) == 2 and bench.engine.runs <= 3 else answers(source, target)

    bench.engine.run_map = run
    bench.send(messages[0])
    assert bench.turn(last=True) is Outcome.ANSWERED
    bench.send(messages[1])
    bench.engine.run_map = answers
    assert bench.turn() is Outcome.ANSWERED
    kept = {
        Status.SUCCEEDED: processed_key(study_id(SECRET, one), messages[0].job, "upload.zip"),
        Status.FAILED: quarantine_key(messages[0].job, "upload.zip"),
    }
    assert content(bench, kept[ending]) == bodies[0]
    assert content(bench, processed_key(study_id(SECRET, other), messages[1].job, "upload.zip")) == bodies[1]
    assert bench.stored("input/") == []


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
def test_a_replaced_upload_is_refused_and_keeps_and_removes_nothing_of_the_newer_one(bench: Bench, tmp_path: Path, size: int) -> None:
    old = bench.upload("input/ct.zip", study_zip(tmp_path, generate_uid(), size))
    newer = study_zip(tmp_path, generate_uid(), size)
    new = bench.upload("input/ct.zip", newer)
    assert bench.turn() is Outcome.ANSWERED
    assert error_of(bench.record(quarantine_key(old.job, "result.json"))) == "upload_replaced"
    assert bench.stored(f"quarantine/{old.job}/") == [quarantine_key(old.job, name) for name in ("error.json", "result.json")]
    assert content(bench, "input/ct.zip") == newer
    assert bench.turn() is Outcome.ANSWERED
    (kept,) = bench.stored("processed/")
    assert (new.job in kept, content(bench, kept)) == (True, newer)


def test_an_upload_that_is_replaced_between_two_parts_of_its_copy_is_kept_from_the_file_that_was_read(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    body, newer = study_zip(tmp_path, uid, LARGE), study_zip(tmp_path, generate_uid(), 20 << 20)
    message = bench.upload("input/ct.zip", body)
    parts = before(bench, "UploadPartCopy", lambda: bench.s3.put_object(Bucket="studies", Key="input/ct.zip", Body=newer), after_calls=1)
    assert bench.turn() is Outcome.ANSWERED
    assert len(parts) >= 2
    assert content(bench, processed_key(study_id(SECRET, uid), message.job, "upload.zip")) == body
    assert content(bench, "input/ct.zip") == newer
    assert not bench.s3.list_multipart_uploads(Bucket="studies").get("Uploads")


def test_an_upload_that_comes_between_the_copy_and_the_removal_stays(bench: Bench, tmp_path: Path) -> None:
    bench.upload("input/ct.zip", study_zip(tmp_path, generate_uid()))
    before(bench, "DeleteObject", lambda: bench.s3.put_object(Bucket="studies", Key="input/ct.zip", Body=b"the next patient's"))
    assert bench.turn() is Outcome.ANSWERED
    assert content(bench, "input/ct.zip") == b"the next patient's"


def test_an_upload_that_is_taken_away_while_it_is_inferred_is_kept_all_the_same(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    body = study_zip(tmp_path, uid)
    message = bench.upload("input/ct.zip", body)
    while_inferred(bench, lambda: bench.s3.delete_object(Bucket="studies", Key="input/ct.zip"))
    assert bench.turn() is Outcome.ANSWERED
    assert content(bench, processed_key(study_id(SECRET, uid), message.job, "upload.zip")) == body


def test_a_file_that_was_fetched_by_half_is_never_kept_as_an_original(tmp_path: Path, bench: Bench) -> None:
    body = study_zip(tmp_path, generate_uid(), 3 << 20)
    message = bench.upload("input/ct.zip", body)
    host = bench.host()
    store = Store(bench.s3, "studies", host.stop)
    before(bench, "GetObject", host.stop.set)
    with pytest.raises(InterruptedJobError):
        store.download(message.key, "", message.etag, tmp_path / "upload.zip")
    assert not (tmp_path / "upload.zip").exists()


def test_a_message_that_names_something_outside_input_moves_and_removes_nothing(bench: Bench) -> None:
    message = bench.upload("output/somebody.zip", b"an answer")
    assert bench.turn() is Outcome.ANSWERED
    assert error_of(bench.record(quarantine_key(message.job, "result.json"))) == "upload_type"
    assert content(bench, "output/somebody.zip") == b"an answer"
    assert quarantine_key(message.job, "upload.zip") not in bench.stored()


def test_the_same_upload_twice_in_a_row_is_answered_once_and_cleared(bench: Bench, tmp_path: Path, versions: str) -> None:
    body = study_zip(tmp_path, generate_uid())
    messages = [upload(bench, "input/ct.zip", body), upload(bench, "input/ct.zip", body)]
    for message in messages:
        bench.send(message)
    outcomes = [bench.turn(), bench.turn()]
    assert outcomes == [Outcome.ANSWERED, Outcome.ANSWERED if versions else Outcome.REPEATED]
    assert bench.stored("input/") == []
    listed = bench.s3.list_object_versions(Bucket="studies", Prefix="input/")
    assert not listed.get("Versions"), "nothing of an upload lies behind its name either"


# --------------------------------------------------------------------------------------------------------- what lies beside the bytes


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("key", "content_type"), [("input/Hans.zip", "application/zip"), ("input/Hans.7z", "application/octet-stream")])
def test_nothing_that_the_uploader_wrote_beside_the_bytes_is_kept(
    bench: Bench, tmp_path: Path, versions: str, key: str, content_type: str, size: int
) -> None:
    beside = {
        "Metadata": {"patientname": "Hans Mueller"},
        "ContentDisposition": 'attachment; filename="Hans Mueller.zip"',
        "ContentType": "application/x-hans-mueller",
        "ContentLanguage": "x-mueller",
        "CacheControl": "x-mueller",
        "Tagging": "patient=Hans",
    }
    bench.send(upload(bench, key, study_zip(tmp_path, generate_uid(), size), **beside))
    assert bench.turn() is Outcome.ANSWERED
    kept = [stored for stored in bench.stored() if "/upload." in stored]
    assert len(kept) == 1
    head = bench.s3.head_object(Bucket="studies", Key=kept[0])
    assert (head["ContentType"], head["Metadata"]) == (content_type, {})
    assert "mueller" not in str(head).lower()
    assert bench.s3.get_object_tagging(Bucket="studies", Key=kept[0])["TagSet"] == []


def test_a_refused_folders_files_are_kept_without_what_lay_beside_their_bytes(bench: Bench) -> None:
    bench.limits = IntakeLimits(files=1)
    for number in range(2):
        bench.s3.put_object(
            Bucket="studies",
            Key=f"input/Hans/{number}",
            Body=b"x",
            Metadata={"patientname": "Hans"},
            ContentDisposition="Hans",
            Tagging="a=Hans",
        )
    message = bench.upload("input/Hans/_READY", b"now")
    assert bench.turn() is Outcome.ANSWERED
    kept = bench.stored(quarantine_key(message.job, "upload") + "/")
    assert kept == [quarantine_key(message.job, f"upload/00000{number}") for number in (1, 2)]
    for key in kept:
        assert "hans" not in str(bench.s3.head_object(Bucket="studies", Key=key)).lower()
        assert bench.s3.get_object_tagging(Bucket="studies", Key=key)["TagSet"] == []
    assert bench.stored("input/") == []


# -------------------------------------------------------------------------------------------------------------------- nothing happens


@pytest.mark.parametrize("size", [0, 10, LARGE])
@pytest.mark.parametrize(
    ("name", "kept"),
    [("s.7z", "upload.7z"), ("s.tar.gz", "upload.tar.gz"), ("one.dcm", "upload.dcm"), ("Mueller", "upload.bin"), ("_READY", "upload.bin")],
)
def test_what_is_no_zip_ends_as_upload_type_is_kept_and_is_never_downloaded(bench: Bench, name: str, kept: str, size: int) -> None:
    message = bench.upload(f"input/{name}", b"x" * size)
    reads = before(bench, "GetObject", lambda: None)
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(quarantine_key(message.job, "result.json"))
    assert (record.status, error_of(record)) == (Status.QUARANTINED, "upload_type")
    assert not [params for params in reads[:-1] if name in params["url"]]
    assert content(bench, quarantine_key(message.job, kept)) == b"x" * size
    assert bench.stored("input/") == []


def folder(bench: Bench, files: list[Path], *others: str) -> None:
    for path in files:
        bench.s3.put_object(Bucket="studies", Key=f"input/f/series/{path.name}", Body=path.read_bytes())
    for key in others:
        bench.s3.put_object(Bucket="studies", Key=key, Body=b"")


def test_the_empty_objects_that_a_console_makes_for_a_folder_go_with_it(bench: Bench, tmp_path: Path, versions: str) -> None:
    empty = ["input/f/", "input/f/series/", "input/f/empty/deeper/", "input/f/failed.dcm", "input/f/_ready", "input/f/_READY.txt"]
    folder(bench, write_series(tmp_path / "s", generate_uid(), slices=2), *empty, "input/f2/")
    bench.send(upload(bench, "input/f/_READY", b"now"))
    before(bench, "DeleteObject", lambda: bench.s3.put_object(Bucket="studies", Key="input/f/new/", Body=b""))
    assert bench.turn() is Outcome.ANSWERED
    (record,) = [bench.record(key) for key in bench.stored("output/") if key.endswith("result.json")]
    assert record.input.instances == 2
    assert bench.stored("input/") == ["input/f/new/", "input/f2/"], "what came after the marker is left for its own"


def test_a_folder_that_holds_only_a_zip_ends_named_and_leaves_the_zip_to_its_own_job(bench: Bench, tmp_path: Path) -> None:
    body = study_zip(tmp_path, generate_uid())
    bench.s3.put_object(Bucket="studies", Key="input/f/", Body=b"")
    zipped = upload(bench, "input/f/study.zip", body)
    message = bench.upload("input/f/_READY", b"now")
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(quarantine_key(message.job, "result.json"))
    assert error_of(record) == "empty_upload"
    assert record.error
    assert ".zip" in record.error.message
    assert bench.stored("input/") == ["input/f/study.zip"]
    bench.send(zipped)
    assert bench.turn() is Outcome.ANSWERED
    assert bench.stored("input/") == []


# ---------------------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("inner_first", [True, False], ids=["the inner one first", "the outer one first"])
def test_what_lies_beside_a_marker_deeper_inside_is_answered_by_its_own_job_alone(bench: Bench, tmp_path: Path, inner_first: bool) -> None:
    studies = {"input/f/": generate_uid(), "input/f/b/": generate_uid()}
    for prefix, uid in studies.items():
        for path in write_series(tmp_path / uid, uid, slices=2):
            bench.s3.put_object(Bucket="studies", Key=prefix + path.name, Body=path.read_bytes())
    jobs = [upload(bench, f"{prefix}_READY", prefix.encode()) for prefix in studies]
    for message in reversed(jobs) if inner_first else jobs:
        bench.send(message)
        assert bench.turn() is Outcome.ANSWERED
    answered = [bench.record(key) for key in bench.stored("output/") if key.endswith("result.json")]
    assert {(record.job, record.study, record.input.instances) for record in answered} == {
        (message.job, study_id(SECRET, uid), 2) for message, uid in zip(jobs, studies.values(), strict=True)
    }
    assert len(answered) == 2
    assert (bench.stored("input/"), bench.stored("quarantine/")) == ([], [])


def test_a_marker_deeper_inside_that_comes_after_the_first_look_takes_nothing_away(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    for path in write_series(tmp_path / "s", uid, slices=2):
        bench.s3.put_object(Bucket="studies", Key=f"input/f/b/{path.name}", Body=path.read_bytes())
    bench.send(upload(bench, "input/f/_READY", b"now"))

    def dies(source: Path, target: Path) -> RunEnd:
        upload(bench, "input/f/b/_READY", b"late")
        raise InterruptedJobError("the host is stopping")

    bench.engine.run_map = dies
    assert bench.turn() is Outcome.INTERRUPTED
    bench.engine.run_map = answers
    assert bench.turn() is Outcome.ANSWERED
    (record,) = [bench.record(key) for key in bench.stored("output/") if key.endswith("result.json")]
    assert (record.study, record.input.instances) == (study_id(SECRET, uid), 2)
    assert bench.stored("input/") == ["input/f/b/_READY"]


def test_a_file_that_is_replaced_after_it_was_read_stays_and_the_kept_zip_has_the_older_one(
    bench: Bench, tmp_path: Path, versions: str
) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=3)
    folder(bench, files)
    bench.send(upload(bench, "input/f/_READY", b"now"))
    replaced = f"input/f/series/{files[1].name}"
    while_inferred(bench, lambda: bench.s3.put_object(Bucket="studies", Key=replaced, Body=b"corrected"))
    assert bench.turn() is Outcome.ANSWERED
    assert bench.stored("input/") == [replaced]
    assert content(bench, replaced) == b"corrected"
    (kept,) = bench.stored("processed/")
    with zipfile.ZipFile(io.BytesIO(content(bench, kept))) as archive:
        assert [archive.read(name) for name in sorted(archive.namelist())] == [path.read_bytes() for path in files]


def test_a_file_that_is_replaced_at_the_moment_of_its_removal_stays(bench: Bench, tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=2)
    folder(bench, files)
    bench.upload("input/f/_READY", b"now")
    replaced = f"input/f/series/{files[0].name}"
    before(bench, "DeleteObject", lambda: bench.s3.put_object(Bucket="studies", Key=replaced, Body=b"corrected"))
    assert bench.turn() is Outcome.ANSWERED
    assert content(bench, replaced) == b"corrected"
    assert bench.stored("input/") == [replaced]


def appears_late(bench: Bench, late: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An object uploaded in parts that was begun before the marker: S3 dates it at its beginning, and lists it once it is complete."""
    key = f"input/f/series/{late.name}"
    bench.s3.put_object(Bucket="studies", Key=key, Body=late.read_bytes())
    listed = Store.list

    def dated(store: Store, prefix: str) -> Iterator[StoredObject]:
        for item in listed(store, prefix):
            yield replace(item, modified=item.modified - timedelta(hours=1)) if item.key == key else item

    monkeypatch.setattr(Store, "list", dated)
    return key


def test_a_file_that_is_dated_before_the_marker_and_appears_after_the_first_look_is_not_removed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=3)
    folder(bench, files[:2])
    bench.upload("input/f/_READY", b"now")
    while_inferred(bench, lambda: appears_late(bench, files[2], monkeypatch))
    assert bench.turn() is Outcome.ANSWERED
    assert bench.stored("input/") == [f"input/f/series/{files[2].name}"]


def test_the_same_bytes_under_the_same_name_are_another_object_when_they_come_later(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=2)
    folder(bench, files)
    bench.upload("input/f/_READY", b"now")
    while_inferred(bench, lambda: appears_late(bench, files[1], monkeypatch))
    assert bench.turn() is Outcome.ANSWERED
    assert bench.stored("input/") == [f"input/f/series/{files[1].name}"]


def test_a_folder_that_is_tried_again_is_what_it_was_at_its_first_look(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=3)
    folder(bench, files[:2])
    message = bench.upload("input/f/_READY", b"now")
    bench.engine.run_map = lambda *_: FAILS
    assert bench.turn() is Outcome.GIVEN_BACK
    assert folder_key(message.job) in bench.stored()
    late = appears_late(bench, files[2], monkeypatch)
    bench.engine.run_map = answers
    assert bench.turn() is Outcome.ANSWERED
    (record,) = [bench.record(key) for key in bench.stored("output/") if key.endswith("result.json")]
    assert record.input.instances == 2
    assert bench.stored("input/") == [late]
    assert "series" not in content(bench, folder_key(message.job)).decode(), "the list names no file"


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_folder_of_which_a_file_is_gone_at_the_second_try_is_refused_whole_and_what_is_left_of_it_is_kept(
    bench: Bench, tmp_path: Path, change: str
) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=3)
    folder(bench, files)
    message = bench.upload("input/f/_READY", b"now")
    bench.engine.run_map = lambda *_: FAILS
    assert bench.turn() is Outcome.GIVEN_BACK
    key = f"input/f/series/{files[1].name}"
    if change == "replaced":
        bench.s3.put_object(Bucket="studies", Key=key, Body=b"another patient's")
    else:
        bench.s3.delete_object(Bucket="studies", Key=key)
    assert bench.turn() is Outcome.ANSWERED
    assert error_of(bench.record(quarantine_key(message.job, "result.json"))) == "upload_replaced"
    kept = bench.stored(quarantine_key(message.job, "upload") + "/")
    assert [content(bench, item) for item in kept] == [files[0].read_bytes(), files[2].read_bytes()]
    assert bench.stored("input/") == ([key] if change == "replaced" else [])


def test_a_refused_folder_whose_host_dies_before_clearing_it_is_cleared_at_the_next_receipt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.s3.put_object(Bucket="studies", Key="input/f/notes.txt", Body=b"x" * 11)
    bench.limits = IntakeLimits(upload_bytes=10)
    message = bench.upload("input/f/_READY", b"now")
    remove = originals.remove

    def dies(*_: Any) -> None:
        raise InterruptedJobError("the power is cut")

    monkeypatch.setattr(originals, "remove", dies)
    assert bench.turn() is Outcome.INTERRUPTED
    monkeypatch.setattr(originals, "remove", remove)
    assert bench.stored("input/") == ["input/f/_READY", "input/f/notes.txt"]
    assert bench.turn() is Outcome.REPEATED
    assert bench.stored("input/") == []
    assert content(bench, quarantine_key(message.job, "upload/000001")) == b"x" * 11


def test_a_zip_that_could_not_be_packed_to_its_end_is_never_kept_as_the_original(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=2)
    folder(bench, files)
    message = bench.upload("input/f/_READY", b"now")
    write = zipfile.ZipFile.write

    def full(archive: zipfile.ZipFile, path: Path, name: str) -> None:
        if name == "000002.dcm":
            raise OSError(28, "No space left on device")
        write(archive, path, name)

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    assert bench.turn(last=True) is Outcome.ANSWERED
    assert error_of(bench.record(quarantine_key(message.job, "result.json"))) == "disk_full"
    kept = bench.stored(quarantine_key(message.job, "upload"))
    assert [content(bench, key) for key in kept] == [path.read_bytes() for path in files]
    assert bench.stored("input/") == []


@pytest.mark.parametrize("newest_first", [True, False])
def test_in_a_bucket_with_versions_no_older_marker_or_file_comes_back_when_a_folder_is_cleared(
    bench: Bench, tmp_path: Path, newest_first: bool
) -> None:
    bench.s3.put_bucket_versioning(Bucket="studies", VersioningConfiguration={"Status": "Enabled"})
    uid = generate_uid()
    folder(bench, write_series(tmp_path / "wrong", uid, slices=2))
    first = upload(bench, "input/f/_READY", b"")
    folder(bench, write_series(tmp_path / "right", uid, slices=2))
    second = upload(bench, "input/f/_READY", b"")
    for message in (second, first) if newest_first else (first, second):
        bench.send(message)
        assert bench.turn() is Outcome.ANSWERED
    assert error_of(bench.record(quarantine_key(first.job, "result.json"))) in ("upload_replaced", "empty_upload", "upload_missing")
    assert bench.record(result_key(study_id(SECRET, uid), second.job)).status is Status.SUCCEEDED
    assert bench.stored("input/") == []
    markers = bench.s3.list_object_versions(Bucket="studies", Prefix="input/f/_READY")
    assert not markers.get("Versions")


# ------------------------------------------------------------------------------------------------------------- when an upload comes again


def test_an_upload_that_was_refused_as_replaced_and_comes_again_is_kept_and_cleared(bench: Bench, tmp_path: Path) -> None:
    """In a bucket without versions it is the same job, which has its end."""
    body = study_zip(tmp_path, generate_uid())
    first = bench.upload("input/ct.zip", body)
    bench.upload("input/ct.zip", study_zip(tmp_path, generate_uid()))
    assert [bench.turn(), bench.turn()] == [Outcome.ANSWERED, Outcome.ANSWERED]
    assert quarantine_key(first.job, "upload.zip") not in bench.stored()
    assert bench.upload("input/ct.zip", body).job == first.job
    assert bench.turn() is Outcome.REPEATED
    assert content(bench, quarantine_key(first.job, "upload.zip")) == body
    assert bench.stored("input/") == []


def test_an_end_whose_records_cannot_be_read_removes_no_upload(bench: Bench, tmp_path: Path) -> None:
    body = study_zip(tmp_path, generate_uid())
    message = bench.upload("input/ct.zip", body)
    assert bench.turn() is Outcome.ANSWERED
    for key in bench.stored("output/"):
        bench.s3.delete_object(Bucket="studies", Key=key)
    assert job_done_key(message.job) in bench.stored()
    bench.upload("input/ct.zip", body)
    assert bench.turn() is Outcome.REPEATED
    assert bench.stored("input/") == ["input/ct.zip"]


def test_a_bucket_that_says_conflict_to_a_removal_is_asked_again(bench: Bench) -> None:
    bench.upload("input/ct.zip", b"")
    conflicts = iter([True, True, False])

    def conflict(**_: Any) -> Any:
        if next(conflicts, False):
            raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "DeleteObject")

    bench.s3.meta.events.register("before-call.s3.DeleteObject", conflict)
    assert bench.turn() is Outcome.ANSWERED
    assert bench.stored("input/") == []
