"""Folders without a marker: completed when they are quiet, once, and never while they are being answered or cleared."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from lambda_fn import folders, wake
from lambda_fn.folders import Folders, MarkerError, Seen, is_quiet
from monai_aws_pipeline.contract import JobMessage, is_upload

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
QUIET = timedelta(minutes=10)
AT_ONCE, IN_AN_HOUR = timedelta(seconds=-2), timedelta(hours=1)  # the bucket tells its time in whole seconds


def seen(key: str, minutes_ago: float = 60, size: int = 9) -> Seen:
    return Seen(f"input/f/{key}", size, NOW - timedelta(minutes=minutes_ago))


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([], False),
        ([seen("1.dcm")], True),
        ([seen("1.dcm", 10)], True),
        ([seen("1.dcm", 9.9)], False),
        ([seen("1.dcm"), seen("2.dcm", 1)], False),
        ([seen("1.dcm"), seen("_READY")], False),
        ([seen("series/1.dcm"), seen("series/_READY")], False),
        ([seen("other.zip")], False),
        ([seen("1.dcm"), seen("other.zip", 1)], True),
        ([seen("1.dcm", size=0), seen("sub/", size=0)], True),
        ([seen("1.dcm", 1, size=0), seen("sub/", size=0)], False),
        ([seen("", size=0), seen("sub/", size=0)], False),
        ([seen("1.dcm", -30)], False),
        ([seen("", size=0)], False),
        ([seen("", size=9)], True),
        ([seen("series/", size=9)], True),
        ([seen("1.dcm"), seen("_ready", size=0), seen("_READY.txt", size=0)], True),
    ],
)
def test_a_folder_is_complete_when_its_newest_file_is_old_and_nobody_completes_it(objects: list[Seen], expected: bool) -> None:
    assert is_quiet(objects, NOW, QUIET) is expected


@given(st.lists(st.floats(0, 60), min_size=1))
def test_one_young_file_keeps_a_folder_open(ages: list[float]) -> None:
    assert is_quiet([seen(f"{number}.dcm", age) for number, age in enumerate(ages)], NOW, QUIET) is (min(ages) >= 10)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        folders.s3.cache_clear()
        client = boto3.client("s3")
        client.create_bucket(Bucket="studies")
        yield client
    folders.s3.cache_clear()


def put(s3: Any, *keys: str) -> None:
    for key in keys:
        s3.put_object(Bucket="studies", Key=key, Body=b"content")


def markers(s3: Any) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket="studies").get("Contents", []) if item["Key"].endswith("_READY")]


def complete(quiet: timedelta) -> int:
    return Folders("studies", quiet, Logger(service="test")).complete()


def test_quiet_folders_get_their_marker_once(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    put(
        s3,
        "input/Doe^Jane/series/1.dcm",
        "input/Doe^Jane/2.dcm",
        "input/a b 脳/1",
        "input/single.zip",
        "input/zips/x.zip",
        "output/x/1.dcm",
    )
    assert complete(IN_AN_HOUR) == 0
    assert complete(AT_ONCE) == 2
    assert markers(s3) == ["input/Doe^Jane/_READY", "input/a b 脳/_READY"]
    assert complete(AT_ONCE) == 0
    assert "Jane" not in capsys.readouterr().out


def test_a_folder_waits_for_a_file_that_is_sent_in_parts_and_not_for_one_that_was_given_up(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "input/f/1.dcm", "input/other/1.dcm")
    s3.create_multipart_upload(Bucket="studies", Key="input/f/2.dcm")
    monkeypatch.setattr(folders, "ABANDONED", timedelta(days=36_500))  # moto dates every upload in parts in 2010
    assert complete(AT_ONCE) == 1
    assert markers(s3) == ["input/other/_READY"]
    monkeypatch.setattr(folders, "ABANDONED", timedelta(0))
    assert complete(AT_ONCE) == 1


def test_each_marker_has_a_content_of_its_own_so_that_a_folders_name_may_be_used_again(s3: Any) -> None:
    etags = set()
    for _ in range(2):
        put(s3, "input/f/1.dcm")
        complete(AT_ONCE)
        etags.add(s3.head_object(Bucket="studies", Key="input/f/_READY")["ETag"])
        s3.delete_object(Bucket="studies", Key="input/f/_READY")
    assert len(etags) == 2


def job(key: str, etag: str, **options: Any) -> JobMessage:
    return JobMessage.for_object(bucket="studies", key=key, version="", etag=etag, size=0, **options)


def test_each_use_of_a_folder_name_is_a_job_of_its_own_whatever_its_marker_holds(s3: Any) -> None:
    jobs = set()
    for _ in range(2):
        empty = s3.put_object(Bucket="studies", Key="input/f/_READY", Body=b"")["ETag"]
        assert folders.job_of_marker(job("input/f/_READY", empty)) is None, "the event of the marker that replaces it makes the job"
        stamped = s3.head_object(Bucket="studies", Key="input/f/_READY")["ETag"]
        assert stamped != empty
        for event in (stamped, stamped, empty):  # delivered twice, and late
            made = folders.job_of_marker(job("input/f/_READY", event))
            assert made
            jobs.add(made.job)
        assert s3.head_object(Bucket="studies", Key="input/f/_READY")["ETag"] == stamped
        s3.delete_object(Bucket="studies", Key="input/f/_READY")
        assert folders.job_of_marker(job("input/f/_READY", stamped)) is None, "the folder was answered and cleared"
    assert len(jobs) == 2


def test_a_marker_that_is_replaced_by_another_delivery_in_that_moment_is_left_to_it(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    etag = s3.put_object(Bucket="studies", Key="input/f/_READY", Body=b"")["ETag"]
    get = s3.get_object

    def overtaken(**call: Any) -> Any:
        found = get(**call)
        s3.put_object(Bucket="studies", Key="input/f/_READY", Body=folders.stamp("by the other"))
        return found

    monkeypatch.setattr(folders.s3(), "get_object", overtaken)
    assert folders.job_of_marker(job("input/f/_READY", etag)) is None
    assert b"by the other" in get(Bucket="studies", Key="input/f/_READY")["Body"].read()


def test_a_marker_that_cannot_be_replaced_comes_again_and_its_folder_is_not_named(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    etag = s3.put_object(Bucket="studies", Key="input/Doe^Jane/_READY", Body=b"")["ETag"]

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "input/Doe^Jane/_READY"}}, "PutObject")

    monkeypatch.setattr(folders.s3(), "put_object", refuse)
    with pytest.raises(MarkerError, match="AccessDenied") as raised:
        folders.job_of_marker(job("input/Doe^Jane/_READY", etag))
    assert "Jane" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_the_marker_of_the_quiet_period_is_not_replaced(s3: Any) -> None:
    put(s3, "input/f/1.dcm")
    complete(AT_ONCE)
    etag = s3.head_object(Bucket="studies", Key="input/f/_READY")["ETag"]
    made = folders.job_of_marker(job("input/f/_READY", etag))
    assert made
    assert (made.job, made.size) == (
        job("input/f/_READY", etag).job,
        s3.head_object(Bucket="studies", Key="input/f/_READY")["ContentLength"],
    )


def test_the_marker_makes_an_upload_like_any_other(s3: Any) -> None:
    put(s3, "input/f/1.dcm", "input//1.dcm")
    complete(AT_ONCE)
    assert markers(s3) == ["input//_READY", "input/f/_READY"]
    assert all(is_upload(key, 1) for key in markers(s3))


def test_a_marker_that_is_spelled_otherwise_is_a_file_like_any_other_and_the_folder_is_completed_when_it_is_quiet(s3: Any) -> None:
    put(s3, "input/f/1.dcm", "input/f/_ready", "input/f/_READY.txt", "input/f/READY")
    assert complete(AT_ONCE) == 1
    assert markers(s3) == ["input/f/_READY"]


def test_a_folder_that_is_answered_and_cleared_between_two_looks_gets_no_marker(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, "input/f/1.dcm")
    look = Folders._objects

    def cleared(self: Folders, prefix: str) -> Any:
        if prefix == "input/f/":
            s3.delete_object(Bucket="studies", Key="input/f/1.dcm")
        return look(self, prefix)

    monkeypatch.setattr(Folders, "_objects", cleared)
    assert complete(AT_ONCE) == 0
    assert markers(s3) == []


def test_a_marker_that_appears_in_between_is_left_as_it_is(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, "input/f/1.dcm")

    def late(*_: Any) -> bool:
        put(s3, "input/f/_READY")
        return True

    monkeypatch.setattr(folders, "is_quiet", late)
    assert complete(AT_ONCE) == 0
    assert s3.get_object(Bucket="studies", Key="input/f/_READY")["Body"].read() == b"content"


@pytest.mark.parametrize("limit", ["FOLDERS_PER_RUN", "SECONDS_PER_RUN"])
def test_one_run_looks_at_so_many_folders_and_leaves_the_others_to_the_next(s3: Any, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    put(s3, *(f"input/f{number}/1.dcm" for number in range(5)))
    monkeypatch.setattr(folders, limit, 3 if limit == "FOLDERS_PER_RUN" else -1.0)
    assert complete(AT_ONCE) == (3 if limit == "FOLDERS_PER_RUN" else 0)


def test_a_bucket_that_refuses_is_left_to_the_schedule_and_named_by_its_code(
    s3: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(s3, "input/Doe^Jane/1.dcm")

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "input/Doe^Jane/_READY"}}, "PutObject")

    monkeypatch.setattr(folders.s3(), "put_object", refuse)
    assert complete(AT_ONCE) == 0
    (said,) = caplog.records
    assert vars(said)["code"] == "AccessDenied"
    assert "Jane" not in caplog.text


def test_a_folder_whose_marker_the_bucket_refuses_keeps_no_other_waiting(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    long = f"input/a{'x' * 1012}/"  # with _READY behind it no key that S3 takes
    put(s3, "input/0/1.dcm", f"{long}1", "input/b/1.dcm")
    with_marker = s3.put_object

    def refuse(**call: Any) -> Any:
        if len(call["Key"]) > 1024:
            raise ClientError({"Error": {"Code": "KeyTooLongError", "Message": call["Key"]}}, "PutObject")
        return with_marker(**call)

    monkeypatch.setattr(folders.s3(), "put_object", refuse)
    assert complete(AT_ONCE) == 2
    assert markers(s3) == ["input/0/_READY", "input/b/_READY"]


def test_the_schedule_completes_folders_and_an_upload_event_does_not(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, "input/f/1.dcm")
    monkeypatch.setenv("UPLOADS_BUCKET", "studies")
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "dev")
    monkeypatch.setattr(wake, "jobs_queued", lambda: (0, 0))
    monkeypatch.setenv("FOLDER_QUIET_MINUTES", "0")
    wake.handler({"source": "monai-aws.schedule"}, None)  # type: ignore[arg-type]
    assert markers(s3) == [], "0 switches it off"
    monkeypatch.setenv("FOLDER_QUIET_MINUTES", "-1")
    wake.handler({"Records": []}, None)  # type: ignore[arg-type]
    assert markers(s3) == []
    wake.handler({"source": "monai-aws.schedule"}, None)  # type: ignore[arg-type]
    assert markers(s3) == ["input/f/_READY"]
