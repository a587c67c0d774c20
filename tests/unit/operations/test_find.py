"""What became of an upload, found by whatever its sender still has of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from moto import mock_aws

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import InputFacts, JobDone, JobMessage, ResultRecord, Status, job_done_key, sha256_text, utc_text
from monai_aws_pipeline.operations import find as find_module
from monai_aws_pipeline.operations.find import FindError, Found, find, find_job, sought
from monai_aws_pipeline.operations.upload import upload_key, upload_study
from monai_aws_pipeline.settings import Settings
from tests.support.studies import tiny_study_zip
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

NOW = datetime.now(UTC)
KEY = "input/Doe^Jane.zip"
SETTINGS = Settings(_env_file=None, deployment="unit", bucket="studies")  # type: ignore[call-arg]


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    monkeypatch.setenv("MONAI_AWS_BUCKET", "studies")
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "unit")
    with mock_aws():
        yield Clients("us-east-1")


@pytest.fixture
def bucket(clients: Clients) -> Bucket:
    return Bucket(clients.s3)


@pytest.fixture
def queues(clients: Clients) -> dict[str, str]:
    names = SETTINGS.names
    every = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
    return {name: clients.sqs.create_queue(QueueName=name)["QueueUrl"] for name in every}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "Doe^Jane.zip"
    path.write_bytes(tiny_study_zip(instances=1))
    return path


def ended(bucket: Bucket, record: ResultRecord, key: str, etag: str = "e", size: int = 1, *, marker: bool = True) -> ResultRecord:
    record = replace(record, input=InputFacts(sha256_text(key), etag, size), outputs=())
    bucket.commit(record)
    if marker:
        bucket.put(job_done_key(record.job), JobDone(record.job, (record.commit_key,), utc_text(NOW)).to_json())
    return record


def put(clients: Clients, key: str, body: bytes = b"zip") -> JobMessage:
    etag = clients.s3.put_object(Bucket="studies", Key=key, Body=body)["ETag"]
    return JobMessage.for_object(bucket="studies", key=key, version="", etag=etag, size=len(body))


def states(found: Found) -> list[tuple[str, str]]:
    return [(trace.state, trace.job) for trace in found.traces]


@pytest.mark.parametrize("wanted", [KEY, f"s3://studies/{KEY}", sha256_text(KEY)])
def test_an_answered_upload_is_found_by_its_key_and_by_that_keys_hash_long_after_it_has_left_input(
    clients: Clients, bucket: Bucket, wanted: str
):
    for number in range(3):
        ended(bucket, succeeded(10 + number, NOW - timedelta(hours=number)), f"input/{number}.zip")
    record = ended(bucket, succeeded(1, NOW - timedelta(days=3)), KEY)
    (trace,) = find(clients, SETTINGS, wanted).traces
    assert (trace.state, trace.job) == ("succeeded", record.job)
    assert record.study in trace.words
    assert record.commit_key in trace.words


def test_a_refused_one_is_found_with_code_and_remedy(clients: Clients, bucket: Bucket):
    ended(bucket, refused(1, NOW), KEY)
    (trace,) = find(clients, SETTINGS, KEY).traces
    assert trace.state == "quarantined"
    assert "NOT_A_ZIP: The upload is no zip archive. Upload one study as a .zip." in trace.words


def test_several_studies_of_one_upload_are_told_each(clients: Clients, bucket: Bucket):
    one = ended(bucket, succeeded(1, NOW), KEY)
    two = replace(one, study=study_of(2), status=Status.FAILED, error=refused(1).error)
    bucket.commit(two)
    bucket.put(job_done_key(one.job), JobDone(one.job, (one.commit_key, two.commit_key), utc_text(NOW)).to_json())
    assert sorted(states(find(clients, SETTINGS, KEY))) == [("failed", one.job), ("succeeded", one.job)]


def test_what_lies_here_is_found_by_its_content_as_upload_names_it(clients: Clients, bucket: Bucket, archive: Path, tmp_path: Path):
    done = upload_study(clients, "studies", archive)
    assert states(find(clients, SETTINGS, str(archive))) == [("not answered", done.job)]
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    (folder / "one.dcm").write_bytes(b"x")
    assert find(clients, SETTINGS, str(folder)).traces == []
    ended(bucket, replace(succeeded(1, NOW), job=done.job), done.key)
    bucket.delete(done.key)
    assert states(find(clients, SETTINGS, str(archive))) == [("succeeded", done.job)]


def test_the_same_content_under_another_name_is_found_too(clients: Clients, bucket: Bucket, archive: Path):
    body = archive.read_bytes()
    record = ended(
        bucket, succeeded(1, NOW), "input/put by the console.zip", hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body)
    )
    assert states(find(clients, SETTINGS, str(archive))) == [("succeeded", record.job)]
    again = upload_study(clients, "studies", archive, again=True)
    assert set(states(find(clients, SETTINGS, str(archive)))) == {("not answered", again.job), ("succeeded", record.job)}


def test_a_large_one_is_known_by_the_etag_of_its_parts(clients: Clients, bucket: Bucket, tmp_path: Path):
    large = tmp_path / "large.zip"
    large.write_bytes(os.urandom((9 << 20) + 7))
    done = upload_study(clients, "studies", large)
    assert clients.s3.head_object(Bucket="studies", Key=done.key)["ETag"].strip('"') in sought(str(large), "studies").etags
    ended(bucket, replace(succeeded(1, NOW - timedelta(days=100)), job=done.job), done.key)
    bucket.delete(done.key)
    assert states(find(clients, SETTINGS, str(large))) == [("succeeded", done.job)], "however old its answer is"


def test_one_that_waits_is_queued_and_its_message_is_not_received(clients: Clients, bucket: Bucket, queues: dict[str, str]):
    message = put(clients, KEY)
    clients.sqs.send_message(QueueUrl=queues[SETTINGS.names.jobs_queue], MessageBody=message.to_json())
    found = find(clients, SETTINGS, KEY)
    assert states(found) == [("queued", message.job)]
    assert "none before it" in found.traces[0].words
    (letter,) = clients.sqs.receive_message(
        QueueUrl=queues[SETTINGS.names.jobs_queue], MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )["Messages"]
    assert letter["Attributes"]["ApproximateReceiveCount"] == "1", "this receipt is the first"


@pytest.mark.parametrize("gone", [False, True])
def test_a_dead_letter_is_found_and_stays_where_it_is(clients: Clients, bucket: Bucket, queues: dict[str, str], gone: bool):
    message = put(clients, KEY)
    if gone:
        bucket.delete(KEY)
    dead = queues[SETTINGS.names.jobs_dead_letters]
    for number in range(12):
        other = JobMessage.for_object(bucket="studies", key=f"input/{number}.zip", version="", etag="1" * 32, size=1)
        clients.sqs.send_message(QueueUrl=dead, MessageBody=other.to_json())
    clients.sqs.send_message(QueueUrl=dead, MessageBody="no json")
    clients.sqs.send_message(QueueUrl=dead, MessageBody=message.to_json())
    found = find(clients, SETTINGS, KEY)
    assert states(found) == [("dead letter", message.job)]
    assert f"monai-aws replay --job {message.job}" in found.traces[0].words
    assert states(find_job(clients, SETTINGS, message.job)) == [("dead letter", message.job)]
    counts = clients.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"]
    assert counts["ApproximateNumberOfMessages"] == "14", "all can be received at once"


def test_a_folder_is_found_before_and_after_its_marker(clients: Clients, bucket: Bucket):
    put(clients, "input/Doe/1.dcm")
    (trace,) = find(clients, SETTINGS, "input/Doe").traces
    assert (trace.state, "no _READY marker yet" in trace.words) == ("under input/", True)
    message = put(clients, "input/Doe/_READY")
    for wanted in ("input/Doe", "input/Doe/", "input/Doe/_READY"):
        assert states(find(clients, SETTINGS, wanted)) == [("not answered", message.job)]
    record = ended(bucket, succeeded(1, NOW), "input/Doe/_READY")
    for key in ("input/Doe/_READY", "input/Doe/1.dcm"):
        bucket.delete(key)
    assert states(find(clients, SETTINGS, "input/Doe")) == [("succeeded", record.job)]


def test_no_more_results_are_read_than_the_bound_and_what_was_looked_through_is_said(
    clients: Clients, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    for number in range(4):
        ended(bucket, succeeded(number, NOW - timedelta(hours=number)), f"input/{number}.zip")
    assert "all 4 results of the last 15 days" in find(clients, SETTINGS, KEY).looked
    monkeypatch.setattr(find_module, "RESULTS_LOOKED_THROUGH", 2)
    monkeypatch.setattr(find_module, "_AT_ONCE", 2)
    found = find(clients, SETTINGS, "input/3.zip")
    assert (found.traces, found.looked[-1]) == ([], "the newest 2 results, and none that are older")


@pytest.mark.parametrize("wanted", ["nowhere.zip", "input/", "output/x", "", "f" * 63])
def test_what_names_no_upload_is_refused(clients: Clients, bucket: Bucket, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FindError):
        find(clients, SETTINGS, wanted)


def test_a_job_is_found_by_its_id(clients: Clients, bucket: Bucket):
    record = ended(bucket, refused(1, NOW), KEY)
    done = CliRunner().invoke(cli, ["status", "--job", record.job])
    assert done.exit_code == 0, done.output
    assert f"quarantined: job {record.job}: study unknown, quarantine/{record.job}/result.json" in done.output
    assert "NOT_A_ZIP: " in done.output
    unknown = CliRunner().invoke(cli, ["status", "--job", job_of(9)])
    assert (unknown.exit_code, f"unknown: job {job_of(9)}" in unknown.output) == (1, True)
    with pytest.raises(FindError, match="no job"):
        find_job(clients, SETTINGS, "Doe")


def test_the_command_says_what_it_found_and_where_it_looked_and_never_the_key(clients: Clients, bucket: Bucket):
    record = ended(bucket, succeeded(1, NOW), KEY)
    done = CliRunner().invoke(cli, ["find", KEY])
    assert done.exit_code == 0, done.output
    assert f"succeeded: job {record.job}: study {record.study}" in done.output
    assert "looked through: 0 dead letters, input/, the newest 1 results" in done.output
    unknown = CliRunner().invoke(cli, ["find", "input/Roe^Jane.zip"])
    assert unknown.exit_code == 1
    assert "unknown: it was never uploaded" in unknown.output
    assert "Jane" not in done.output + unknown.output


def test_the_key_of_content_is_that_of_upload(archive: Path):
    assert sought(str(archive), "studies").keys == (upload_key(archive),)
