"""One job through the pipeline: a bucket and a queue that behave like AWS's, and an engine that only pretends to run the MAP."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import EncapsulatedPDFStorage, RLELossless, generate_uid

from monai_aws_pipeline.contract import (
    ExpectedVolume,
    HostFacts,
    IndexEntry,
    JobMessage,
    Measurements,
    Rerun,
    Status,
    decisions_key,
    job_done_key,
    processed_key,
    quarantine_key,
    result_key,
    study_id,
)
from monai_aws_pipeline.host_agent.aws.bucket import Store, StoredObject
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.intake import originals
from monai_aws_pipeline.host_agent.intake.map_requirements import requirements_of
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.host_agent.job_steps import Outcome, judge_end
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.maps.spec.series_rules import LABEL_RULES
from monai_aws_pipeline.maps.spec.study_contract import LABEL_STUDY_CONTRACT, LABEL_VOLUME
from tests.unit.host_agent.bench import FAILS, SECRET, WELL, Bench, answers, handle, zip_of
from tests.unit.host_agent.dicom_files import write_seg, write_series
from tests.unit.host_agent.host_config import DIGEST

# ------------------------------------------------------------------------------------------------------------------------- answered


def test_a_study_is_answered_and_its_original_moved(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    body = zip_of(tmp_path, uid)
    message = bench.upload("input/Hans Mueller.zip", body)
    assert bench.turn() is Outcome.ANSWERED
    study = study_id(SECRET, uid)
    record = bench.record(result_key(study, message.job))
    assert (record.status, record.input.instances, record.host.instance_id) == (Status.SUCCEEDED, 3, "i-1")
    assert {item.kind for item in record.outputs} == {"mesh", "preview", "log"}
    assert set(bench.stored()) == {
        record.commit_key,
        record.index_key,
        decisions_key(message.job),
        job_done_key(message.job),
        processed_key(study, message.job, "upload.zip"),
        *(item.key for item in record.outputs),
    }
    assert bench.s3.get_object(Bucket="studies", Key=processed_key(study, message.job, "upload.zip"))["Body"].read() == body
    entry = bench.s3.get_object(Bucket="studies", Key=record.index_key)["Body"].read().decode()
    assert IndexEntry.from_json(entry) == IndexEntry.of(record)
    assert bench.messages() == 0


def test_nothing_written_outside_input_names_the_patient_or_the_upload(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="monai_aws_pipeline")
    uid = generate_uid()
    bench.upload("input/Hans Mueller.zip", zip_of(tmp_path, uid))
    bench.upload("input/Hans Mueller 2.zip", b"broken")
    bench.turn()
    bench.turn()
    texts = [caplog.text, *bench.stored()]
    texts += [bench.s3.get_object(Bucket="studies", Key=key)["Body"].read().decode() for key in bench.stored() if key.endswith(".json")]
    for forbidden in ("Mueller", uid, "Invented", "INV-1"):
        assert not [text for text in texts if forbidden in text]


def test_several_studies_in_one_upload_get_one_result_each(bench: Bench, tmp_path: Path) -> None:
    one, other = generate_uid(), generate_uid()
    message = bench.upload("input/two.zip", zip_of(tmp_path, one, other))
    assert bench.turn() is Outcome.ANSWERED
    for uid in (one, other):
        assert bench.record(result_key(study_id(SECRET, uid), message.job)).input.instances == 3
        assert processed_key(study_id(SECRET, uid), message.job, "upload.zip") in bench.stored()
    assert len(bench.stored("results-index/")) == 2


MR_ONLY = {LABEL_RULES: '{"selections": [{"name": "MR", "conditions": {"Modality": "(?i)^MR$"}}]}'}
CT_ONLY = {LABEL_RULES: MR_ONLY[LABEL_RULES].replace("MR", "CT")}
UNDECIDED = {LABEL_RULES: '{"selections": [{"name": "x", "conditions": {"Modality": ["a", "list"]}}]}'}
VOLUME = {LABEL_VOLUME: "true"}


@pytest.mark.parametrize(
    ("labels", "slices", "code"),
    [
        ({}, 2, ""),
        (MR_ONLY, 2, ""),
        (CT_ONLY, 2, "no_matching_series"),
        (UNDECIDED, 2, ""),
        ({LABEL_RULES: "{broken"}, 2, ""),
        (VOLUME, 3, ""),
        (VOLUME, 2, "irregular_volume"),
        (MR_ONLY | VOLUME, 3, ""),
        (MR_ONLY | VOLUME, 2, "irregular_volume"),
    ],
)
def test_what_the_images_labels_ask_of_a_study_is_judged_before_the_map_runs(
    bench: Bench, tmp_path: Path, labels: dict[str, str], slices: int, code: str
) -> None:
    bench.live_map.requirements = requirements_of(labels)
    uid = generate_uid()
    message = bench.upload("input/a.zip", zip_of(tmp_path, uid, slices=slices))
    assert bench.turn() is Outcome.ANSWERED
    if not code:
        assert bench.record(result_key(study_id(SECRET, uid), message.job)).status is Status.SUCCEEDED
        return
    (key,) = (key for key in bench.stored("quarantine/") if key.endswith("result.json"))
    record = bench.record(key)
    assert record.error
    assert (record.status, record.error.code, record.study, record.map.digest) == (Status.QUARANTINED, code, study_id(SECRET, uid), DIGEST)
    assert bench.engine.runs == 0
    assert bench.messages() == 0


def test_only_a_series_that_the_application_selects_counts_as_its_volume(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    bench.live_map.requirements = requirements_of(MR_ONLY | VOLUME)
    volume, scout = write_series(tmp_path / "volume", uid, slices=5), write_series(tmp_path / "scout", uid, slices=2)
    for path in volume:  # the regular one is none that is taken
        data = pydicom.dcmread(path)
        data.Modality = "CT"
        data.save_as(path)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for number, path in enumerate([*volume, *scout]):
            archive.write(path, f"{number}.dcm")
    bench.upload("input/a.zip", (tmp_path / "both.zip").read_bytes())
    assert bench.turn() is Outcome.ANSWERED
    (key,) = (key for key in bench.stored("quarantine/") if key.endswith("result.json"))
    assert bench.record(key).error.code == "irregular_volume"  # type: ignore[union-attr]


def test_a_completed_folder_is_a_study_and_is_kept_as_a_zip(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    for path in write_series(tmp_path / "s", uid, slices=2):
        bench.s3.put_object(Bucket="studies", Key=f"input/f/sub/{path.name}", Body=path.read_bytes())
    bench.s3.put_object(Bucket="studies", Key="input/f/notes.txt", Body=b"hello")
    bench.s3.put_object(Bucket="studies", Key="input/f2/other.dcm", Body=b"somebody else's")
    message = bench.upload("input/f/_READY", b"")
    assert bench.turn() is Outcome.ANSWERED
    assert bench.record(result_key(study_id(SECRET, uid), message.job)).input.instances == 2
    assert bench.stored("input/") == ["input/f2/other.dcm"]
    kept = bench.s3.get_object(Bucket="studies", Key=processed_key(study_id(SECRET, uid), message.job, "upload.zip"))["Body"].read()
    (tmp_path / "kept.zip").write_bytes(kept)
    assert zipfile.ZipFile(tmp_path / "kept.zip").namelist() == ["000001.dcm", "000002.dcm", "000003.dcm"]


def test_a_zip_that_lies_in_a_completed_folder_is_left_for_its_own_job(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    for path in write_series(tmp_path / "s", uid, slices=2):
        bench.s3.put_object(Bucket="studies", Key=f"input/f/{path.name}", Body=path.read_bytes())
    bench.s3.put_object(Bucket="studies", Key="input/f/another.zip", Body=zip_of(tmp_path, generate_uid()))
    message = bench.upload("input/f/_READY", b"now")
    assert bench.turn() is Outcome.ANSWERED
    assert bench.record(result_key(study_id(SECRET, uid), message.job)).input.instances == 2
    assert bench.stored("input/") == ["input/f/another.zip"]


def test_what_arrives_after_the_marker_is_neither_inferred_nor_removed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(tmp_path / "s", generate_uid(), slices=3)
    for path in files[:2]:
        bench.s3.put_object(Bucket="studies", Key=f"input/f/{path.name}", Body=path.read_bytes())
    message = bench.upload("input/f/_READY", b"now")
    late = f"input/f/{files[2].name}"
    bench.s3.put_object(Bucket="studies", Key=late, Body=files[2].read_bytes())
    listed = Store.list

    def later(store: Store, prefix: str) -> Iterator[StoredObject]:
        for item in listed(store, prefix):
            yield replace(item, modified=item.modified + timedelta(hours=1)) if item.key == late else item

    monkeypatch.setattr(Store, "list", later)
    assert bench.turn() is Outcome.ANSWERED
    (record,) = [bench.record(key) for key in bench.stored("output/") if key.endswith("result.json")]
    assert (record.job, record.input.instances) == (message.job, 2)
    assert bench.stored("input/") == [late]


def test_a_folder_that_was_completed_again_belongs_to_the_newer_marker(bench: Bench, tmp_path: Path) -> None:
    for path in write_series(tmp_path / "s", generate_uid(), slices=2):
        bench.s3.put_object(Bucket="studies", Key=f"input/f/{path.name}", Body=path.read_bytes())
    older = bench.upload("input/f/_READY", b"one")
    newer = bench.upload("input/f/_READY", b"two")
    assert [bench.turn(), bench.turn()] == [Outcome.ANSWERED, Outcome.ANSWERED]
    assert bench.record(quarantine_key(older.job, "result.json")).error.code == Code.UPLOAD_REPLACED  # type: ignore[union-attr]
    assert [key for key in bench.stored("output/") if key.endswith("result.json") and newer.job in key]
    assert bench.stored("input/") == []


def test_a_late_message_of_an_answered_folder_leaves_the_next_use_of_its_name_alone(bench: Bench, tmp_path: Path) -> None:
    bench.s3.put_bucket_versioning(Bucket="studies", VersioningConfiguration={"Status": "Enabled"})

    def use() -> JobMessage:
        for path in write_series(tmp_path / str(generate_uid()), generate_uid(), slices=2):
            bench.s3.put_object(Bucket="studies", Key=f"input/f/{path.name}", Body=path.read_bytes())
        put = bench.s3.put_object(Bucket="studies", Key="input/f/_READY", Body=b"")
        return JobMessage.for_object(bucket="studies", key="input/f/_READY", version=put["VersionId"], etag=put["ETag"], size=0)

    first = bench.send(use())
    assert bench.turn() is Outcome.ANSWERED
    second = use()
    there = bench.stored("input/")
    bench.send(first)
    assert bench.turn() is Outcome.REPEATED
    assert bench.stored("input/") == there
    bench.send(second)
    assert bench.turn() is Outcome.ANSWERED
    assert len([key for key in bench.stored("output/") if key.endswith("result.json")]) == 2
    assert bench.stored("input/") == []


def test_a_folder_that_is_uploaded_within_one_second_is_whole(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing may tell times more exactly than a single object's answer does."""
    listed = Store.list

    def exactly(store: Store, prefix: str) -> Iterator[StoredObject]:
        for item in listed(store, prefix):
            yield replace(item, modified=item.modified.replace(microsecond=0) + timedelta(milliseconds=500))

    monkeypatch.setattr(Store, "list", exactly)
    for path in write_series(tmp_path / "s", generate_uid(), slices=2):
        bench.s3.put_object(Bucket="studies", Key=f"input/f/{path.name}", Body=path.read_bytes())
    bench.upload("input/f/_READY", b"now")
    assert bench.turn() is Outcome.ANSWERED
    (record,) = [bench.record(key) for key in bench.stored() if key.endswith("result.json")]
    assert record.input.instances == 2


def test_a_folder_is_cleared_with_its_marker_last(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in write_series(tmp_path / "s", generate_uid(), slices=2):
        bench.s3.put_object(Bucket="studies", Key=f"input/f/{path.name}", Body=path.read_bytes())
    bench.upload("input/f/_READY", b"now")
    removed: list[str] = []
    delete = Store.delete

    def watched(store: Store, key: str, version: str = "", etag: str = "") -> None:
        removed.append(key)
        delete(store, key, version, etag)

    monkeypatch.setattr(Store, "delete", watched)
    assert bench.turn() is Outcome.ANSWERED
    assert removed == ["input/f/image000.dcm", "input/f/image001.dcm", "input/f/_READY"]


def test_a_rerun_answers_its_one_study_and_leaves_the_original_where_it_is(bench: Bench, tmp_path: Path) -> None:
    one, other = generate_uid(), generate_uid()
    bench.upload("input/two.zip", zip_of(tmp_path, one, other))
    bench.turn()
    study = study_id(SECRET, one)
    original = next(key for key in bench.stored("processed/") if study in key)
    found = bench.s3.head_object(Bucket="studies", Key=original)
    digest = "sha256:" + "c" * 64
    rerun = bench.send(
        JobMessage.for_object(bucket="studies", key=original, version="", etag=found["ETag"], size=found["ContentLength"], request=digest)
    )
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(result_key(study, rerun.job))
    assert (record.request, record.map.digest) == (digest, digest)
    assert original in bench.stored()
    assert len(bench.stored("results-index/")) == 3


def test_a_failed_study_is_asked_again_from_quarantine_without_the_others_of_its_upload(bench: Bench, tmp_path: Path) -> None:
    bad, other = generate_uid(), generate_uid()
    bench.engine.run_map = lambda source, target: replace(WELL, exit_code=3)
    upload = bench.upload("input/two.zip", zip_of(tmp_path, bad, other))
    assert bench.turn() is Outcome.ANSWERED
    study, original = study_id(SECRET, bad), quarantine_key(upload.job, "upload.zip")
    head = bench.s3.head_object(Bucket="studies", Key=original)

    def ask(attempt: int) -> JobMessage:
        asked = JobMessage.for_object(
            bucket="studies",
            key=original,
            version="",
            etag=head["ETag"],
            size=head["ContentLength"],
            request=Rerun(DIGEST, study, attempt).text,
        )
        return bench.send(asked)

    first = ask(0)
    assert bench.turn() is Outcome.ANSWERED
    assert bench.record(quarantine_key(first.job, "result.json", study)).error is not None
    ask(0)
    assert bench.turn() is Outcome.REPEATED, "the same attempt is the same job"
    bench.engine.run_map = answers
    second = ask(1)
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(result_key(study, second.job))
    assert (record.study, record.map.digest, record.request) == (study, DIGEST, f"{DIGEST}/{study}#1")
    assert original in bench.stored(), "the original stays where it is"
    assert not bench.stored("processed/")
    assert not any(study_id(SECRET, other) in key for key in bench.stored("output/"))


# --------------------------------------------------------------------------------------------------------------- once, and only once


def test_a_duplicated_event_ends_at_once_and_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    message = bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    bench.turn()
    before = bench.stored()
    bench.send(message)
    assert bench.turn() is Outcome.REPEATED
    assert bench.stored() == before
    assert bench.engine.runs == 1


@pytest.mark.parametrize("lost", [("results-index/",), ("jobs/{job}.json",), ("processed/",), ("results-index/", "jobs/{job}.json")])
def test_what_a_crash_left_undone_after_the_commit_is_completed_without_another_inference(
    bench: Bench, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    body = zip_of(tmp_path, generate_uid())
    message = bench.upload("input/a.zip", body)
    bench.turn()
    before = bench.stored()
    bench.s3.put_object(Bucket="studies", Key="input/a.zip", Body=body)  # the original was not moved yet either
    for key in before:
        if key.startswith(tuple(prefix.format(job=message.job) for prefix in lost)):
            bench.s3.delete_object(Bucket="studies", Key=key)
    bench.send(message)
    bench.turn()
    assert bench.stored() == before
    assert bench.engine.runs == 1


def test_whoever_commits_second_discards_its_copy(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    message = bench.upload("input/a.zip", zip_of(tmp_path, uid))
    key = result_key(study_id(SECRET, uid), message.job)
    first: list[bytes] = []

    def overtaken(source: Path, target: Path) -> RunEnd:
        if bench.engine.runs == 1:
            bench.engine.run_map = lambda source, target: ((target / "x.stl").write_text("the other host's"), WELL)[1]
            other = bench.host()
            other = replace(other, work=bench.folder / "other host")
            bench.send(message)
            delivery = other.queue.take(0)
            assert delivery
            assert handle(other, delivery).outcome is Outcome.ANSWERED
            first.append(bench.s3.get_object(Bucket="studies", Key=key)["Body"].read())
        return answers(source, target)

    bench.engine.run_map = overtaken
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(key)
    assert bench.s3.get_object(Bucket="studies", Key=key)["Body"].read() == first[0]
    assert set(bench.stored("output/")) == {key, *(item.key for item in record.outputs)}
    assert len(bench.stored("results-index/")) == 1


def test_a_host_that_finds_the_upload_moved_by_another_adds_no_second_answer(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    fetch = originals.fetch

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(originals, "fetch", fetch)
        other = replace(bench.host(), work=bench.folder / "other host")
        bench.send(message)
        delivery = other.queue.take(0)
        assert delivery
        assert handle(other, delivery).outcome is Outcome.ANSWERED
        return fetch(*arguments)

    monkeypatch.setattr(originals, "fetch", overtaken)
    bench.turn()
    assert bench.stored("quarantine/") == []
    assert len(bench.stored("results-index/")) == 1


@pytest.mark.parametrize("other", ["fails for good", "refuses the upload"])
def test_an_answer_that_comes_after_another_hosts_end_of_the_same_job_is_discarded(bench: Bench, tmp_path: Path, other: str) -> None:
    uid = generate_uid()
    body = zip_of(tmp_path, uid)
    message = bench.upload("input/a.zip", body)

    def overtaken(source: Path, target: Path) -> RunEnd:
        bench.engine.run_map = lambda *_: FAILS
        if other == "refuses the upload":
            bench.s3.delete_object(Bucket="studies", Key="input/a.zip")
        bench.send(message)
        host = replace(bench.host(), work=bench.folder / "other host", host=HostFacts("i-2"))
        delivery = host.queue.take(0)
        assert delivery
        assert handle(host, replace(delivery, last=True)).outcome is Outcome.ANSWERED
        return answers(source, target)

    bench.engine.run_map = overtaken
    assert bench.turn() is Outcome.ANSWERED
    (key,) = [key for key in bench.stored() if key.endswith("result.json")]
    assert key == quarantine_key(message.job, "result.json", study_id(SECRET, uid) if other == "fails for good" else "")
    assert bench.record(key).host.instance_id == "i-2"
    assert len(bench.stored("results-index/")) == 1
    assert bench.stored("output/") == bench.stored("processed/") == bench.stored("input/") == []
    kept = bench.s3.get_object(Bucket="studies", Key=quarantine_key(message.job, "upload.zip"))["Body"].read()
    assert kept == body, "this host still had the file when the bucket had it no more"
    done = json.loads(bench.s3.get_object(Bucket="studies", Key=job_done_key(message.job))["Body"].read())
    assert done["commits"] == [key]


@pytest.mark.parametrize("studies", [1, 2])
def test_a_failure_that_comes_after_another_hosts_answer_of_the_same_job_is_discarded(bench: Bench, tmp_path: Path, studies: int) -> None:
    """With two studies, the other host has answered one of them when this one would end the job as a whole."""
    uids = [generate_uid() for _ in range(studies)]
    body = zip_of(tmp_path, *uids)
    message = bench.upload("input/a.zip", body)
    other = replace(bench.host(), work=bench.folder / "other host", host=HostFacts("i-2"))
    ran = 0

    def answers_one(source: Path, target: Path) -> RunEnd:
        nonlocal ran
        ran += 1
        if ran == 2:
            raise InterruptedJobError("stopping")
        return answers(source, target)

    class Slow(Store):
        """Cannot read the upload, and learns it after the other host was at work."""

        def download(self, *_: Any) -> int:
            bench.engine.run_map = answers_one
            bench.send(message)
            delivery = other.queue.take(0)
            assert delivery
            assert handle(other, delivery).outcome is (Outcome.ANSWERED if studies == 1 else Outcome.INTERRUPTED)
            if studies == 1:  # as if the other host had not come to that yet
                bench.s3.delete_object(Bucket="studies", Key=job_done_key(message.job))
                bench.s3.put_object(Bucket="studies", Key="input/a.zip", Body=body)
            raise FailedError(Code.STORAGE_FAILED, "The bucket answered AccessDenied.")

    host = replace(bench.host(), store=Slow(bench.s3, "studies"))
    delivery = host.queue.take(0)
    assert delivery
    assert handle(host, replace(delivery, last=True)).outcome is Outcome.GIVEN_BACK
    assert bench.stored("quarantine/") == []
    host.queue.give_back(delivery, 0)
    bench.engine.run_map = answers
    assert bench.turn() is Outcome.ANSWERED
    found = [bench.record(key) for key in bench.stored() if key.endswith("result.json")]
    assert sorted(record.study for record in found) == sorted(study_id(SECRET, uid) for uid in uids)
    assert {record.status for record in found} == {Status.SUCCEEDED}
    assert len(bench.stored("results-index/")) == studies


def test_leftovers_of_an_attempt_that_died_are_removed_by_the_one_that_commits(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    message = bench.upload("input/a.zip", zip_of(tmp_path, uid))
    where = result_key(study_id(SECRET, uid), message.job)
    log, stray = (where.replace("result.json", name) for name in ("map.log", "dicom/seg-1-00000000.dcm"))  # in this order it uploaded them
    for key in (log, stray):
        bench.s3.put_object(Bucket="studies", Key=key, Body=b"half")
    bench.turn()
    assert stray not in bench.stored()
    kept = next(output for output in bench.record(where).outputs if output.key == log)
    assert hashlib.sha256(bench.s3.get_object(Bucket="studies", Key=log)["Body"].read()).hexdigest() == kept.sha256


def test_an_upload_replaced_by_a_newer_one_is_told_apart_and_the_newer_one_is_kept(bench: Bench, tmp_path: Path) -> None:
    old = bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    new = bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    bench.turn()
    assert bench.record(quarantine_key(old.job, "result.json")).error.code == "upload_replaced"  # type: ignore[union-attr]
    assert "input/a.zip" in bench.stored()
    assert bench.turn() is Outcome.ANSWERED
    assert job_done_key(new.job) in bench.stored()
    assert bench.stored("input/") == []


# --------------------------------------------------------------------------------------------------------------------------- failed


@pytest.mark.parametrize(
    ("key", "body", "code"),
    [
        ("input/a.zip", b"", "empty_upload"),
        ("input/a.zip", b"no zip", "not_a_zip"),
        ("input/a;'\"$(x)\n \u202e.zip", b"no zip", "not_a_zip"),
        ("input/a.dcm", b"x", "upload_type"),
    ],
)
def test_a_bad_upload_is_refused_at_its_first_receipt(bench: Bench, key: str, body: bytes, code: str) -> None:
    message = bench.upload(key, body)
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(quarantine_key(message.job, "result.json"))
    assert (record.status, record.study, record.error.code if record.error else "") == (Status.QUARANTINED, "", code)
    error = json.loads(bench.s3.get_object(Bucket="studies", Key=quarantine_key(message.job, "error.json"))["Body"].read())
    assert error["code"] == code
    assert error["cause"]
    assert error["remedy"]
    assert quarantine_key(message.job, f"upload{Path(key).suffix}") in bench.stored()
    assert bench.stored("input/") == []
    assert bench.messages() == 0
    assert bench.engine.runs == 0


def test_an_upload_that_is_too_large_is_kept_without_being_downloaded(bench: Bench) -> None:
    bench.limits = IntakeLimits(upload_bytes=10)
    message = bench.upload("input/a.zip", b"x" * 11)
    bench.turn()
    assert quarantine_key(message.job, "upload.zip") in bench.stored()


def test_a_map_that_fails_on_a_study_is_asked_once_and_its_last_word_is_in_the_record(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    said = (
        "working",
        "Traceback (most recent call last):",
        f"ValueError: Invented Nobody of {uid} has no contrast",
        "Application exited with 1.",
    )
    bench.engine.run_map = lambda source, target: replace(WELL, exit_code=1, log_tail=said)
    message = bench.upload("input/a.zip", zip_of(tmp_path, uid))
    assert bench.turn() is Outcome.ANSWERED
    study = study_id(SECRET, uid)
    error = bench.record(quarantine_key(message.job, "result.json", study)).error
    assert error
    assert (error.code, error.last_line) == ("map_failed", "ValueError: [removed] of [removed] has no contrast")
    kept = bench.s3.get_object(Bucket="studies", Key=quarantine_key(message.job, "error.json", study))["Body"].read().decode()
    assert json.loads(kept)["last_line"] == error.last_line
    assert bench.engine.runs == 1


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ({"exit_code": 1}, "The application ended with exit code 1. It had printed nothing."),
        ({"exit_code": 139}, "The application ended with exit code 139 (SIGSEGV). It had printed nothing."),
        ({"exit_code": -9}, "The application ended with exit code -9 (SIGKILL). It had printed nothing."),
        ({"exit_code": 250}, "The application ended with exit code 250. It had printed nothing."),
        ({"exit_code": 137, "timed_out": True}, "The application did not end within 60 s. It had printed nothing."),
        ({"exit_code": 137, "out_of_memory": True}, "The application needed more than 512 MiB. It had printed nothing."),
    ],
)
def test_an_application_that_said_nothing_is_said_to_have_said_nothing(end: dict[str, object], cause: str) -> None:
    with pytest.raises(FailedError) as error:
        judge_end(replace(WELL, log_tail=("", " "), **end), 60, 512)  # type: ignore[arg-type]
    assert (error.value.cause, error.value.last_line) == (cause, "")


def test_of_a_time_out_and_of_a_kill_for_memory_it_is_told_where_the_application_was() -> None:
    said = ("ERROR the cache is damaged, going on without it", "[INFO] inferring slice 120 of 181", " 66%|####   | 120/181 [09:59<05:01]")
    for way in ("timed_out", "out_of_memory"):
        with pytest.raises(FailedError) as error:
            judge_end(replace(WELL, exit_code=137, log_tail=said, **{way: True}), 60, 512)  # type: ignore[arg-type]
        assert error.value.last_line == "[INFO] inferring slice 120 of 181"


def test_what_the_map_is_given_is_in_its_folder_and_in_the_record_and_nothing_else_is(bench: Bench, tmp_path: Path) -> None:
    bench.live_map.requirements = requirements_of(MR_ONLY | VOLUME)
    uid = generate_uid()
    volume, scout = write_series(tmp_path / "volume", uid, slices=5), write_series(tmp_path / "scout", uid, slices=2)
    for path in volume:
        data = pydicom.dcmread(path)
        data.SeriesNumber = None
        data.save_as(path)
    report = pydicom.dcmread(scout[0])
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    del report.PixelData
    report.save_as(tmp_path / "report.dcm")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for number, path in enumerate([tmp_path / "report.dcm", *scout, *reversed(volume)]):
            archive.write(path, f"{number}.dcm")
    seen: list[tuple[str, float, int]] = []

    def look(source: Path, target: Path) -> RunEnd:
        for path in sorted(source.iterdir()):
            data = pydicom.dcmread(path)
            seen.append((path.name, float(data.ImagePositionPatient[2]), data.SeriesNumber))
        return answers(source, target)

    bench.engine.run_map = look
    message = bench.upload("input/a.zip", (tmp_path / "study.zip").read_bytes())
    assert bench.turn() is Outcome.ANSWERED
    assert seen == [(f"{number + 1:06d}.dcm", 5.0 + 3.0 * number, 1) for number in range(5)]
    facts = bench.record(result_key(study_id(SECRET, uid), message.job)).input
    assert (facts.instances, facts.series, facts.given) == (7, 2, 5)
    assert facts.passed_over == {"Encapsulated PDF Storage": 1}
    assert facts.repairs == ("SeriesNumber filled in",)
    assert sorted(facts.selection) == [
        "MR of 2 images: not given (the rules take it, and another fits better)",
        "MR of 5 images: given as 5 planes 3 mm apart (the largest of 2 that the rules take)",
    ]


def test_pixels_that_cannot_be_decoded_are_the_studys_fault_where_the_application_fails_on_them(bench: Bench, tmp_path: Path) -> None:
    uid = generate_uid()
    paths = write_series(tmp_path / "files", uid, slices=4)
    for number, path in enumerate(paths):
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        if number == 2:
            data.PixelData = encapsulate([next(generate_frames(data.PixelData, number_of_frames=1))[:70]])
            data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.save_as(path)
    with zipfile.ZipFile(tmp_path / "rle.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    bench.engine.run_map = lambda source, target: replace(WELL, exit_code=1, log_tail=("ValueError: cannot decode",))
    message = bench.upload("input/a.zip", (tmp_path / "rle.zip").read_bytes())
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(quarantine_key(message.job, "result.json", study_id(SECRET, uid)))
    assert record.error
    assert (record.status, record.error.code, record.error.last_line) == (Status.QUARANTINED, "dicom_damaged", "ValueError: cannot decode")
    assert "The pixels of 1 of 4 images" in record.error.message


def test_a_segments_label_that_names_the_patient_does_not_reach_the_measurements(bench: Bench, tmp_path: Path) -> None:
    def label(source: Path, target: Path) -> RunEnd:
        files = sorted(source.iterdir())
        path = write_seg(target / "seg.dcm", files, np.ones((len(files), 16, 16)))
        data = pydicom.dcmread(path)
        data.SegmentSequence[0].SegmentLabel = "Brain of Invented Nobody"
        data.save_as(path)
        return WELL

    bench.engine.run_map = label
    uid = generate_uid()
    message = bench.upload("input/a.zip", zip_of(tmp_path, uid, slices=4))
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(result_key(study_id(SECRET, uid), message.job))
    (key,) = (output.key for output in record.outputs if output.kind == "measurements")
    (segment,) = json.loads(bench.s3.get_object(Bucket="studies", Key=key)["Body"].read())["segments"]
    assert segment["label"] == "Brain of [removed]"


def test_a_record_says_what_its_outputs_lie_on_and_its_measurements_what_the_map_declares(bench: Bench, tmp_path: Path) -> None:
    def answer(source: Path, target: Path) -> RunEnd:
        files = sorted(source.iterdir())
        write_seg(target / "seg.dcm", files, np.ones((len(files), 16, 16)))
        return WELL

    bench.engine.run_map = answer
    bench.live_map.requirements = requirements_of({LABEL_STUDY_CONTRACT: '{"volumes-ml": {"Brain": {"min": 600}}}'})
    uid = generate_uid()
    message = bench.upload("input/a.zip", zip_of(tmp_path, uid, slices=4))
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(result_key(study_id(SECRET, uid), message.job))
    assert [item.held_against for item in record.outputs if item.kind == "dicom-seg"] == ["source"]
    (key,) = (output.key for output in record.outputs if output.kind == "measurements")
    text = bench.s3.get_object(Bucket="studies", Key=key)["Body"].read().decode()
    assert record.measured == Measurements.from_json(text), "who records many results reads one object of each"
    assert record.measured.expected == (ExpectedVolume("Brain", 600),)


def test_a_map_that_a_signal_ends_is_tried_three_times_and_then_kept_with_its_log(bench: Bench, tmp_path: Path) -> None:
    bench.engine.run_map = lambda source, target: replace(WELL, exit_code=137, log_tail=("boom",))
    uid = generate_uid()
    message = bench.upload("input/a.zip", zip_of(tmp_path, uid))
    assert [bench.turn() for _ in range(3)] == [Outcome.GIVEN_BACK, Outcome.GIVEN_BACK, Outcome.ANSWERED]
    study = study_id(SECRET, uid)
    record = bench.record(quarantine_key(message.job, "result.json", study))
    assert (record.status, record.error.code if record.error else "", record.timings.inference) == (Status.FAILED, "map_failed", 0.1)
    assert record.study == study
    log_key = quarantine_key(message.job, "map.log", study)
    assert bench.s3.get_object(Bucket="studies", Key=log_key)["Body"].read() == b"boom\n"
    assert quarantine_key(message.job, "error.json", study) in bench.stored()
    assert quarantine_key(message.job, "upload.zip") in bench.stored()
    assert bench.stored("output/") == bench.stored("input/") == []
    assert bench.engine.runs == 3


def test_the_log_that_is_kept_names_nobody_of_any_instance(bench: Bench, tmp_path: Path) -> None:
    def prints(source: Path, target: Path) -> RunEnd:
        names = [str(pydicom.dcmread(path).PatientName) for path in sorted(source.iterdir())]
        return replace(answers(source, target), log_tail=(*names, "nobody_invented.nii.gz", "2026-01-15 10:00:01 INFO step 1 of 1"))

    bench.engine.run_map = prints
    uid = generate_uid()
    files = write_series(tmp_path / "study", uid, slices=3)
    corrected = pydicom.dcmread(files[1])
    corrected.PatientName = "Zqplant^Vaughnzq"
    corrected.save_as(files[1])
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for path in files:
            archive.write(path, path.name)
    message = bench.upload("input/a.zip", (tmp_path / "made.zip").read_bytes())
    assert bench.turn() is Outcome.ANSWERED
    log_key = result_key(study_id(SECRET, uid), message.job).replace("result.json", "map.log")
    kept = bench.s3.get_object(Bucket="studies", Key=log_key)["Body"].read().decode().splitlines()
    assert kept == [*["[removed]"] * 3, "[removed].nii.gz", "2026-01-15 10:00:01 INFO step 1 of 1"]


def test_one_failing_study_does_not_hold_up_the_other_of_the_same_upload(bench: Bench, tmp_path: Path) -> None:
    good, bad = generate_uid(), generate_uid()
    message = bench.upload("input/two.zip", zip_of(tmp_path, good, bad))

    def picky(source: Path, target: Path) -> RunEnd:
        found = any(bad.encode() in path.read_bytes() for path in source.iterdir())
        return replace(WELL, exit_code=137) if found else answers(source, target)

    bench.engine.run_map = picky
    assert [bench.turn() for _ in range(3)][-1] is Outcome.ANSWERED
    assert bench.engine.runs == 4, "the good study ran once"
    assert bench.record(result_key(study_id(SECRET, good), message.job)).status is Status.SUCCEEDED
    assert bench.record(quarantine_key(message.job, "result.json", study_id(SECRET, bad))).study == study_id(SECRET, bad)


def test_each_failed_study_of_one_upload_has_an_end_of_its_own(bench: Bench, tmp_path: Path) -> None:
    one, other = generate_uid(), generate_uid()
    bench.engine.run_map = lambda source, target: replace(WELL, exit_code=137)
    message = bench.upload("input/two.zip", zip_of(tmp_path, one, other))
    assert [bench.turn() for _ in range(3)][-1] is Outcome.ANSWERED
    for uid in (one, other):
        study = study_id(SECRET, uid)
        assert bench.record(quarantine_key(message.job, "result.json", study)).study == study
    assert len(bench.stored("results-index/")) == 2


def test_a_rerun_that_cannot_be_read_ends_at_the_study_it_names(bench: Bench) -> None:
    study = "ab" * 8
    key = processed_key(study, "0" * 32, "upload.zip")
    rerun = bench.send(JobMessage.for_object(bucket="studies", key=key, version="", etag="e", size=1, request="sha256:" + "c" * 64))
    assert bench.turn() is Outcome.ANSWERED
    record = bench.record(quarantine_key(rerun.job, "result.json", study))
    assert (record.study, record.error.code if record.error else "") == (study, "upload_missing")


def test_a_missing_map_is_waited_for_and_no_study_is_lost(bench: Bench, tmp_path: Path) -> None:
    bench.live_map.fails = FailedError(Code.NO_LIVE_MAP, "none")
    message = bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    assert bench.turn() is Outcome.GIVEN_BACK
    bench.live_map.fails = None
    assert bench.turn() is Outcome.ANSWERED
    assert job_done_key(message.job) in bench.stored()


def test_an_interrupted_job_goes_back_without_a_try_being_counted(bench: Bench, tmp_path: Path) -> None:
    def stopping(source: Path, target: Path) -> RunEnd:
        raise InterruptedJobError("stopping")

    bench.engine.run_map = stopping
    message = bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    for _ in range(5):
        assert bench.turn() is Outcome.INTERRUPTED
    bench.engine.run_map = answers
    assert bench.turn() is Outcome.ANSWERED
    assert job_done_key(message.job) in bench.stored()


def test_a_fault_of_our_own_gives_the_message_back_instead_of_ending_the_agent(bench: Bench, tmp_path: Path) -> None:
    def broken(source: Path, target: Path) -> RunEnd:
        raise ZeroDivisionError

    bench.engine.run_map = broken
    bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    assert bench.turn() is Outcome.GIVEN_BACK


@pytest.mark.parametrize(
    "body", ["garbage", "{}", JobMessage.for_object(bucket="others", key="input/a.zip", version="", etag="e", size=1).to_json()]
)
def test_a_message_that_is_none_of_ours_touches_nothing_and_ends_in_the_dead_letters(bench: Bench, body: str) -> None:
    bench.sqs.send_message(QueueUrl=bench.url, MessageBody=body)
    host = bench.host()
    for _ in range(3):
        delivery = host.queue.take(0)
        assert delivery
        assert handle(host, delivery).outcome is Outcome.UNREADABLE
    assert host.queue.take(0) is None
    assert bench.stored() == []
