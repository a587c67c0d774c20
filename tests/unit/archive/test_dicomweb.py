"""Storing in an archive that is busy, away, half deaf or wrong: what is sent, how often, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_aws_pipeline.archive.conflicts import ArchiveFile, read_file
from monai_aws_pipeline.archive.dicomweb import DicomWebArchive, Patience
from monai_aws_pipeline.archive.errors import ArchiveAccessError, ArchiveAnswerError, ArchiveAwayError, ArchiveError, ArchiveRefusalError
from monai_aws_pipeline.archive.message import Limits, Message
from monai_aws_pipeline.archive.record import UNSAID, ArchiveRecord
from monai_aws_pipeline.archive.signing import Basic, Bearer, Nobody, from_secret
from monai_aws_pipeline.archive.study import archive_study
from tests.unit.archive.scripted import Reply, Scripted, answer, serving
from tests.unit.local_cloud.dicom import write

UIDS = ["1.1", "1.2", "1.3", "1.4"]


@pytest.fixture
def script() -> Iterator[Scripted]:
    with serving(Scripted()) as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> list[ArchiveFile]:
    return [read_file(write(tmp_path / f"{uid}.dcm", SOPInstanceUID=uid), is_result=False) for uid in UIDS]


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def archive(script: Scripted, pauses: list[float]) -> DicomWebArchive:
    return DicomWebArchive(script.address, Basic("me", "secret"), Patience(tries=4), pause=pauses.append)


def test_a_study_is_sent_in_bounded_requests_of_whole_files(script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile]):
    script.posts = [Reply(200, answer(UIDS[:2])), Reply(200, answer(UIDS[2:]))]
    record = archive_study(archive, files, "s" * 16, "j" * 32, Limits(instances=2))
    assert (record.requests, record.series[0].stored, record.is_whole) == (2, 4, True)
    assert record.bytes == sum(len(body) for body in script.received)
    for body, sent in zip(script.received, (files[:2], files[2:]), strict=True):
        boundary = body.split(b"\r\n", 1)[0]
        parts = [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in body.split(boundary)[1:-1]]
        assert parts == [each.path.read_bytes() for each in sent]


@pytest.mark.parametrize("limit", [Limits(bytes=1), Limits(bytes=1 << 30, instances=1)])
def test_a_file_that_is_larger_than_a_request_goes_alone(
    script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile], limit: Limits
):
    script.posts = [Reply(200, answer([uid])) for uid in UIDS]
    assert archive_study(archive, files, "s", "j", limit).requests == 4


def test_what_is_there_is_not_sent_and_a_second_time_sends_nothing(script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile]):
    script.there = UIDS[:3]
    script.posts = [Reply(200, answer(["1.4"]))]
    (series,) = archive_study(archive, files, "s", "j").series
    assert (series.there, series.sent, series.stored) == (3, 1, 1)
    script.there = UIDS
    again = archive_study(archive, files, "s", "j")
    assert (again.series[0].there, again.series[0].sent, again.is_whole, len(script.received)) == (4, 0, True, 1)


def test_each_instance_has_its_own_code_and_one_that_is_not_mentioned_is_no_success(
    script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile]
):
    script.posts = [Reply(202, answer(["1.1"], {"1.2": 0xA700, "9.9": 0xC000}, (0xC123,)))]
    record = archive_study(archive, files, "s", "j")
    (series,) = record.series
    assert (series.sent, series.stored, dict(series.refused), record.is_whole) == (4, 1, {0xA700: 1, 0xC123: 1, UNSAID: 1}, False)
    assert record.refusals["0xA700: out of resources"] == 1


def test_a_conflict_of_every_instance_is_an_answer_and_one_of_aws_is_tried_again(
    script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile], pauses: list[float]
):
    conflict = Reply(409, b'{"message": "metadata is not consistent yet"}', {"x-amzn-ErrorType": "ConflictException"})
    script.posts = [conflict, Reply(409, answer([], dict.fromkeys(UIDS, 0xC000)))]
    assert archive.store(files).refused == dict.fromkeys(UIDS, 0xC000)
    assert len(pauses) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_archive_that_is_busy_or_broke_is_tried_again_with_growing_pauses(
    script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile], pauses: list[float], status: int
):
    script.posts = [Reply(status), Reply(status, headers={"Retry-After": "7"}), Reply(200, answer(UIDS))]
    assert len(archive.store(files).stored) == 4
    assert 0 <= pauses[0] <= 1 and pauses[1] >= 7


def test_after_a_dropped_line_what_has_arrived_is_not_sent_again(script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile]):
    script.posts = [Reply(drops=True), Reply(200, answer(["1.4"]))]
    script.there = UIDS[:3]  # the archive stored them, and its answer was lost
    assert archive.store(files).stored == dict.fromkeys(UIDS, 0)
    assert files[3].path.read_bytes() in script.received[1]
    assert files[0].path.read_bytes() not in script.received[1]


def test_an_archive_that_stays_away_is_named_after_the_last_try(
    script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile], pauses: list[float]
):
    script.posts = [Reply(503)] * 4
    with pytest.raises(ArchiveAwayError, match="answers HTTP 503, also at the 4th try"):
        archive.store(files)
    assert len(pauses) == 3


def test_nobody_there_is_named_without_an_address_of_a_study(files: list[ArchiveFile], pauses: list[float]):
    nobody = DicomWebArchive("http://127.0.0.1:9/dicom-web", Nobody(), Patience(tries=2), pause=pauses.append)
    with pytest.raises(ArchiveAwayError, match="cannot be reached") as error:
        archive_study(nobody, files, "s", "j")
    assert "1.2.3" not in str(error.value)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_file_that_makes_an_archive_refuse_the_whole_request_is_found_and_the_others_are_stored(
    script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile], status: int
):
    bad = Reply(status, b"bad file")
    script.posts = [bad, bad, Reply(200, answer(["1.1"])), bad, Reply(200, answer(["1.3", "1.4"]))]
    answered = archive.store(files)
    assert (dict(answered.stored), dict(answered.refused)) == ({"1.1": 0, "1.3": 0, "1.4": 0}, {"1.2": status})


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply(401), ArchiveAccessError, "secret"),
        (Reply(403, headers={"x-amzn-errortype": "AccessDeniedException"}), ArchiveAccessError, r"\(AccessDeniedException\)"),
        (Reply(404), ArchiveRefusalError, "address"),
        (Reply(415), ArchiveRefusalError, "HTTP 415"),
        (Reply(200, b"<html>log in</html>"), ArchiveRefusalError, "address"),
        (Reply(302, headers={"Location": "/login"}), ArchiveRefusalError, "HTTP 302"),
    ],
)
def test_what_no_further_try_mends_is_named_at_once(
    script: Scripted,
    archive: DicomWebArchive,
    files: list[ArchiveFile],
    pauses: list[float],
    reply: Reply,
    kind: type[ArchiveError],
    words: str,
):
    script.posts = [reply]
    with pytest.raises(kind, match=words) as error:
        archive.store(files)
    assert not pauses
    assert "log in" not in str(error.value)


def test_asking_an_archive_names_what_is_wrong_with_it(script: Scripted, archive: DicomWebArchive):
    archive.answers()
    for reply, kind in ((Reply(403), ArchiveAccessError), (Reply(404), ArchiveRefusalError), (Reply(200, b"<html>"), ArchiveAnswerError)):
        script.gets = [reply]
        with pytest.raises(kind):
            archive.answers()


@pytest.mark.parametrize(
    ("secret", "expected"), [("me:secret:colon\n", Basic("me", "secret:colon")), ("tok.en", Bearer("tok.en")), ("", Nobody())]
)
def test_a_secret_is_a_password_or_a_token_and_is_not_shown(secret: str, expected: object):
    assert from_secret(secret) == expected
    assert not secret or secret.strip().rpartition(":")[2] not in repr(expected)


def test_who_asks_is_said_with_each_request(script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile]):
    script.posts = [Reply(503), Reply(200, answer(UIDS))]
    archive.store(files)
    assert [headers["Authorization"] for headers in script.headers] == ["Basic bWU6c2VjcmV0"] * 2


def test_a_message_is_read_in_chunks_and_no_file_is_held(tmp_path: Path, script: Scripted, monkeypatch: pytest.MonkeyPatch):
    large = write(tmp_path / "a.dcm", SOPInstanceUID="1.1", Rows=2000, Columns=2000, PixelData=b"\0" * 8_000_000)
    read: list[int] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(1) or plain(path))
    message = Message([large] * 3)
    sizes: list[int] = []
    for chunk in iter(message.read, b""):
        sizes.append(len(chunk))
    assert (sum(sizes), max(sizes), read) == (message.length, 1 << 20, [])


def test_a_record_is_read_back_and_holds_no_uid(script: Scripted, archive: DicomWebArchive, files: list[ArchiveFile]):
    script.posts = [Reply(202, answer(["1.1"], {"1.2": 0xA700}))]
    record = archive_study(archive, files, "s" * 16, "j" * 32)
    assert ArchiveRecord.from_json(record.to_json()) == record
    assert not any(text in record.to_json() for text in ("1.2.3", "INV-1", '1.1"', "127.0.0.1"))
