"""What a host does about the archive once a study is answered: it stores, and whatever becomes of that, the study stays answered."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.archive.record import ArchiveRecord
from monai_aws_pipeline.contract import archive_key, processed_key, result_key, study_id
from monai_aws_pipeline.host_agent import archiving
from monai_aws_pipeline.host_agent.archiving import Archiver
from monai_aws_pipeline.host_agent.job_steps import Ended, HostContext, Outcome
from monai_aws_pipeline.host_agent.pipeline import Pipeline
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from tests.unit.archive.keeping import Keeping, keeping
from tests.unit.host_agent.bench import SECRET, WELL, Bench, handle, zip_of
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.pipeline_bench import until, uploads

CHANGES: dict[str, Any] = {}


def writes_dicom(source: Path, target: Path) -> RunEnd:
    """A MAP that writes one instance of a series of its own, of the study that it was given."""
    data = pydicom.dcmread(min(source.iterdir()))
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.SeriesNumber = generate_uid(), 900
    for name, value in CHANGES.items():
        setattr(data, name, value)
    data.save_as(target / "seg.dcm")
    return WELL


@pytest.fixture
def pacs(bench: Bench) -> Iterator[Keeping]:
    bench.engine.run_map = writes_dicom
    with keeping() as archive:
        yield archive
    CHANGES.clear()


def host_with(bench: Bench, pacs: Keeping, *, correct: bool = False) -> HostContext:
    host = bench.host()
    return replace(host, archiver=Archiver(host.store, pacs.connect, host.stop, correct=correct))


def record(bench: Bench, uid: str, job: str) -> ArchiveRecord:
    body = bench.s3.get_object(Bucket="studies", Key=archive_key(study_id(SECRET, uid), job))["Body"].read().decode()
    return ArchiveRecord.from_json(body)


def test_an_answered_study_is_stored_as_it_was_received_with_its_results(bench: Bench, pacs: Keeping, tmp_path: Path):
    (uid,), (message,), (delivery,) = uploads(bench, tmp_path, 1)
    assert handle(host_with(bench, pacs), delivery) == Ended(Outcome.ANSWERED)
    written = record(bench, uid, message.job)
    assert written.is_whole
    assert [(each.is_result, each.stored) for each in written.series] == [(False, 3), (True, 1)]
    sent = {path.read_bytes() for path in (tmp_path / uid).glob("*.dcm")}
    assert sent <= set(pacs.kept.values())
    assert len(pacs.kept) == 4
    assert bench.messages() == 0
    assert list((tmp_path / "work").iterdir()) == []


def test_a_study_whose_headers_were_rewritten_is_archived_as_it_was_received(bench: Bench, pacs: Keeping, tmp_path: Path):
    uid = str(generate_uid())
    paths = write_series(tmp_path / uid, uid, slices=3)
    for path in paths:
        data = pydicom.dcmread(path)
        del data.SeriesNumber
        data.save_as(path)
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as made:
        for path in paths:
            made.write(path, path.name)
    message = bench.upload("input/1.zip", (tmp_path / "made.zip").read_bytes())
    host = host_with(bench, pacs)
    delivery = host.queue.take(0)
    assert delivery
    handle(host, delivery)
    assert bench.record(result_key(study_id(SECRET, uid), message.job)).input.repairs, "which is why it is unpacked once more"
    assert {path.read_bytes() for path in paths} <= set(pacs.kept.values())
    assert record(bench, uid, message.job).series[0].stored == 3


def test_each_study_of_an_upload_is_stored_by_itself(bench: Bench, pacs: Keeping, tmp_path: Path):
    uids = [str(generate_uid()) for _ in range(2)]
    message = bench.upload("input/1.zip", zip_of(tmp_path, *uids))
    host = host_with(bench, pacs)
    delivery = host.queue.take(0)
    assert delivery
    handle(host, delivery)
    for uid in uids:
        assert [each.stored for each in record(bench, uid, message.job).series] == [3, 1]
    assert {str(data.StudyInstanceUID) for data in pacs.data()} == set(uids)


def test_no_study_waits_for_the_archive_of_another(bench: Bench, pacs: Keeping, tmp_path: Path):
    uids, messages, deliveries = uploads(bench, tmp_path, 9)
    pacs.held = True
    pipeline = Pipeline(host_with(bench, pacs))
    ends = []
    for delivery in deliveries:
        assert pipeline.wait_for_place(10), "more than may be in hand before they are answered"
        ends.append(pipeline.accept(delivery))
    until(lambda: len(bench.stored("jobs/")) >= 2 * 9, "all are answered, and the first is still being stored")
    assert pacs.reached.is_set()
    assert not any(end.done() for end in ends)
    assert pipeline.idle_seconds() == 0.0, "a machine that stores is not idle"
    pacs.held = False
    pacs.released.set()
    pipeline.close()
    assert [end.result(0) for end in ends] == [Ended(Outcome.ANSWERED)] * 9
    assert all(record(bench, uid, message.job).is_whole for uid, message in zip(uids, messages, strict=True))


def test_an_archive_that_is_away_keeps_nothing_waiting_and_is_left_alone_for_a_while(bench: Bench, pacs: Keeping, tmp_path: Path):
    uids, messages, deliveries = uploads(bench, tmp_path, 3)
    pacs.away = True
    pipeline = Pipeline(host_with(bench, pacs))
    assert pipeline.accept(deliveries[0]).result(30) == Ended(Outcome.ANSWERED)
    asked = pacs.requests
    assert pipeline.accept(deliveries[1]).result(30) == Ended(Outcome.ANSWERED)
    assert pacs.requests == asked
    pacs.away = False
    assert pipeline.accept(deliveries[2]).result(30) == Ended(Outcome.ANSWERED)
    pipeline.close()
    assert bench.stored("archive/") == [], "they are archived from the bucket, once somebody asks for it"
    assert bench.messages() == 0
    again = archiving.from_bucket(
        bench.host().store, bench.record(result_key(study_id(SECRET, uids[0]), messages[0].job)),
        processed_key(study_id(SECRET, uids[0]), messages[0].job, "upload.zip"), tmp_path, bench.limits,
    )  # fmt: skip
    assert [len(again.originals), len(again.results)] == [3, 1]


def test_a_host_that_died_between_commit_and_archive_leaves_it_to_whoever_gets_its_job(bench: Bench, pacs: Keeping, tmp_path: Path):
    (uid,), (message,), (delivery,) = uploads(bench, tmp_path, 1)
    assert handle(bench.host(), delivery) == Ended(Outcome.ANSWERED)
    bench.send(message)
    host = host_with(bench, pacs)
    again = host.queue.take(0)
    assert again
    assert handle(host, again) == Ended(Outcome.REPEATED)
    assert record(bench, uid, message.job).is_whole
    assert len(pacs.kept) == 4
    asked = pacs.requests
    bench.send(message)
    third = host.queue.take(0)
    assert third
    assert handle(host, third) == Ended(Outcome.REPEATED)
    assert pacs.requests == asked, "the archive has answered for it"


@pytest.mark.parametrize(("last", "end"), [(False, Outcome.INTERRUPTED), (True, Outcome.ANSWERED)])
def test_a_host_that_stops_hands_on_what_it_has_not_stored_yet(bench: Bench, pacs: Keeping, tmp_path: Path, last: bool, end: Outcome):
    """But for its last receipt: an answered job must not end among the dead letters."""
    (uid,), (message,), (delivery,) = uploads(bench, tmp_path, 1)
    if last:
        delivery = replace(delivery, receives=3, last=True)
    pacs.held = True
    host = host_with(bench, pacs)
    pipeline = Pipeline(host)
    ended = pipeline.accept(delivery)
    assert pacs.reached.wait(30)
    pacs.away = True
    host.stop.set()
    pacs.released.set()
    pipeline.close()
    assert ended.result(0).outcome is end
    assert bench.record(result_key(study_id(SECRET, uid), message.job))
    assert bench.messages() == (0 if last else 1)


def test_a_result_that_would_be_hidden_is_not_stored_and_named(bench: Bench, pacs: Keeping, tmp_path: Path):
    CHANGES.update(AccessionNumber="A2", StudyID="")
    (uid,), (message,), (delivery,) = uploads(bench, tmp_path, 1)
    assert handle(host_with(bench, pacs), delivery) == Ended(Outcome.ANSWERED)
    written = record(bench, uid, message.job)
    assert (written.is_whole, len(pacs.kept)) == (False, 3)
    assert written.series[1].conflicts == ("AccessionNumber", "StudyID")
    assert written.troubles == (
        "archive_conflict: 1 of series 900 (MR) would be hidden, for its study differs in AccessionNumber, StudyID",
    )


def test_where_the_setting_allows_the_archived_copy_is_corrected_and_says_so(bench: Bench, pacs: Keeping, tmp_path: Path):
    CHANGES.update(AccessionNumber="A2", SeriesNumber=1)
    (uid,), (message,), (delivery,) = uploads(bench, tmp_path, 1)
    handle(host_with(bench, pacs, correct=True), delivery)
    written = record(bench, uid, message.job)
    assert written.is_whole
    assert written.series[1].corrected == ("AccessionNumber", "SeriesNumber")
    assert sorted((str(data.AccessionNumber), int(data.SeriesNumber)) for data in pacs.data()) == [("", 1)] * 3 + [("", 2)]


def test_what_the_archive_refuses_is_said_and_gives_way_to_a_later_whole_record(bench: Bench, pacs: Keeping, tmp_path: Path):
    (uid,), (message,), (delivery,) = uploads(bench, tmp_path, 1)
    some = pydicom.dcmread(next((tmp_path / uid).glob("*.dcm"))).SOPInstanceUID
    pacs.refuses[str(some)] = 0xA700
    host = host_with(bench, pacs)
    handle(host, delivery)
    first = record(bench, uid, message.job)
    assert first.troubles == ("the archive refused 1 of its instances (0xA700: out of resources)",)
    pacs.refuses.clear()
    answer = archiving.from_bucket(
        host.store, bench.record(result_key(first.study, first.job)), processed_key(first.study, first.job, "upload.zip"), tmp_path,
        bench.limits,
    )  # fmt: skip
    later = archiving.write_record(host.store, archiving.archive_answer(pacs.connect(), answer, tmp_path / "copies", correct=False))
    assert later.is_whole
    assert [each.there for each in later.series] == [2, 1]
    assert record(bench, uid, message.job) == later
    assert archiving.write_record(host.store, first) == later, "a whole one stays"


def test_trouble_of_another_kind_leaves_the_study_answered_and_no_text_of_it_in_the_log(
    bench: Bench, pacs: Keeping, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    _, _, (delivery,) = uploads(bench, tmp_path, 1)
    host = bench.host()

    def broken() -> Any:
        raise RuntimeError("Mueller^Hans")

    assert handle(replace(host, archiver=Archiver(host.store, broken, host.stop)), delivery) == Ended(Outcome.ANSWERED)
    assert "answered and not archived (Unexpected RuntimeError at" in caplog.text
    assert "Mueller" not in caplog.text


def test_a_refused_study_is_not_archived(bench: Bench, pacs: Keeping):
    bench.upload("input/1.zip", b"no zip")
    host = host_with(bench, pacs)
    delivery = host.queue.take(0)
    assert delivery
    assert handle(host, delivery) == Ended(Outcome.ANSWERED)
    assert (pacs.requests, bench.stored("archive/")) == (0, [])


def test_a_result_that_is_not_the_committed_one_is_not_archived(bench: Bench, tmp_path: Path, pacs: Keeping):
    (uid,), (message,), (delivery,) = uploads(bench, tmp_path, 1)
    handle(bench.host(), delivery)
    answer = bench.record(result_key(study_id(SECRET, uid), message.job))
    body = io.BytesIO(b"another")
    bench.s3.put_object(Bucket="studies", Key=next(item.key for item in answer.outputs if item.kind == "dicom"), Body=body)
    with pytest.raises(archiving.ArchiveFileError, match="not the one that was committed"):
        archiving.from_bucket(bench.host().store, answer, processed_key(answer.study, answer.job, "upload.zip"), tmp_path, bench.limits)
