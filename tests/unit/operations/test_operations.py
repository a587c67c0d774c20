"""Uploading, looking and replaying, on a bucket and queues of a mocked AWS; refused uploads never reach it."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from moto import mock_aws
from rich.console import Console

from monai_aws_pipeline import cli as command_line
from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import (
    ROLE_INFERENCE,
    TAG_DEPLOYMENT,
    TAG_ROLE,
    ContractError,
    IndexEntry,
    JobDone,
    JobMessage,
    ResultError,
    ResultRecord,
    Status,
    job_done_key,
    utc_text,
)
from monai_aws_pipeline.operations.errors import NotAnsweredError, QueueMissingError
from monai_aws_pipeline.operations.replay import Wanted, _replay_queue, jobs_of_job, jobs_of_upload, replay_dead_letters
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError
from monai_aws_pipeline.operations.status import DeploymentState, Watch, trouble_of
from monai_aws_pipeline.operations.upload import (
    UploadError,
    check_upload,
    pack,
    upload_key,
    upload_study,
    wait_answer,
)
from monai_aws_pipeline.operations.whereabouts import where
from monai_aws_pipeline.settings import Settings
from tests.support.studies import tiny_study_zip
from tests.unit.studies.records import job_of, refused, succeeded

NOW = datetime.now(UTC)
SETTINGS = Settings(_env_file=None, deployment="unit", bucket="studies")  # type: ignore[call-arg]


@pytest.fixture
def clients() -> Iterator[Clients]:
    with mock_aws():
        made = Clients("us-east-1")
        made.s3.create_bucket(Bucket="studies")
        yield made


@pytest.fixture
def queues(clients: Clients) -> dict[str, str]:
    names = SETTINGS.names
    every = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
    return {name: clients.sqs.create_queue(QueueName=name)["QueueUrl"] for name in every}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "Doe^Jane"
    (folder / "series").mkdir(parents=True)
    for number in range(3):
        (folder / "series" / f"{number}.dcm").write_bytes(bytes([number]) * 5000)
    return folder


def commit(clients: Clients, record: ResultRecord) -> None:
    done = JobDone(record.job, (record.commit_key,), utc_text(NOW))
    for key, body in (
        (record.commit_key, record.to_json()),
        (record.index_key, IndexEntry.of(record).to_json()),
        (job_done_key(record.job), done.to_json()),
    ):
        clients.s3.put_object(Bucket="studies", Key=key, Body=body.encode())


# -------------------------------------------------------------------------------------------------------------------- upload


def test_a_zip_and_a_folder_of_files_may_be_uploaded(study: Path, tmp_path: Path):
    archive = tmp_path / "study.zip"
    archive.write_bytes(tiny_study_zip(instances=2))
    check_upload(archive)
    check_upload(study)


def test_what_is_no_study_is_refused_by_name(study: Path, tmp_path: Path):
    (tmp_path / "nothing.zip").touch()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "hollow").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("missing.zip", "There is no"),
        ("nothing.zip", "is empty"),
        ("text.zip", "not a zip"),
        ("hollow", "is empty"),
        ("pipe", "neither"),
    ):
        with pytest.raises(UploadError, match=why):
            check_upload(tmp_path / name)


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "0.dcm", "nowhere"])
def test_a_folder_with_a_link_is_refused_wherever_it_leads(study: Path, target: str):
    (study / "series" / "link.dcm").symlink_to(target)
    with pytest.raises(UploadError, match="a link") as error:
        check_upload(study)
    assert "link.dcm" not in str(error.value)


def test_a_folder_is_zipped_whole_and_the_same_folder_gives_the_same_zip(study: Path, tmp_path: Path):
    pack(study, tmp_path / "one.zip")
    for path in study.rglob("*.dcm"):
        os.utime(path, (1, 1))
    pack(study, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == [f"series/{number}.dcm" for number in range(3)]
        assert archive.read("series/2.dcm") == b"\2" * 5000


def test_a_key_comes_from_the_content_alone_and_again_makes_another(tmp_path: Path):
    one, two = tmp_path / "Doe^Jane.zip", tmp_path / "other.zip"
    for path in (one, two):
        path.write_bytes(b"same")
    assert upload_key(one) == upload_key(two)
    assert len({upload_key(one), upload_key(one, again=True), upload_key(one, again=True)}) == 3


def test_an_upload_tells_of_every_byte_and_of_its_job(clients: Clients, tmp_path: Path):
    archive = tmp_path / "study.zip"
    archive.write_bytes(os.urandom(9 << 20))  # large enough for parts
    counted: list[int] = []
    done = upload_study(clients, "studies", archive, progress=counted.append)
    assert sum(counted) == done.bytes == 9 << 20
    assert len(counted) > 1
    assert upload_study(clients, "studies", archive).job == done.job


def test_the_wait_ends_with_the_records_of_all_studies(clients: Clients):
    record = succeeded(1, NOW)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        commit(clients, record)

    store = ResultsStore(clients.s3, "studies")
    assert wait_answer(store, record.job, 60, sleep=nap) == (record,)
    assert len(naps) == 1
    assert wait_answer(store, record.job, 0) == (record,), "what was answered long ago is shown at once"


class Time:
    """A clock that only a nap moves."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


def test_the_wait_tells_the_state_when_it_changes_and_every_ten_seconds(clients: Clients):
    record, time, said = succeeded(1, NOW), Time(), list[tuple[float, str]]()

    def where() -> str:
        if time.now > 40:
            commit(clients, record)
        return "no host runs" if time.now < 18 else "a host is starting"

    store = ResultsStore(clients.s3, "studies")
    report = lambda line: said.append((time.now, line))  # noqa: E731
    assert wait_answer(store, record.job, 60, where, report, time.sleep, time.clock) == (record,)
    lines = [line.removeprefix(f"waiting for job {record.job}: ").partition(" (")[0] for _, line in said]
    assert lines == sorted(lines, reverse=True)
    assert set(lines) == {"no host runs", "a host is starting"}
    assert said[0][0] == 0
    assert all(later - earlier <= 11 for (earlier, _), (later, _) in pairwise(said))


def test_what_is_underway_is_told_by_queues_and_hosts_and_names_nothing(clients: Clients, queues: dict[str, str]):
    assert where(clients, SETTINGS, [job_of(1)]) == "nothing waits in the queues; there is no inference host: materialise inference_host"
    for name in (SETTINGS.names.jobs_queue, SETTINGS.names.jobs_dead_letters):
        clients.sqs.send_message(QueueUrl=queues[name], MessageBody="Doe^Jane")
    image = clients.ec2.register_image(Name="base", RootDeviceName="/dev/sda1")["ImageId"]
    tags = [{"Key": TAG_DEPLOYMENT, "Value": "unit"}, {"Key": TAG_ROLE, "Value": ROLE_INFERENCE}]
    made = clients.ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],  # type: ignore[list-item]
    )
    clients.ec2.stop_instances(InstanceIds=[made["Instances"][0]["InstanceId"]])
    said = where(clients, SETTINGS, [job_of(1)])
    assert said == "about 1 waiting in the queue of jobs, so none before it; 1 host stopped; the wake function starts one within 5 minutes"


def test_whoever_may_only_upload_waits_all_the_same(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise ClientError({"Error": {"Code": "UnauthorizedOperation"}}, "DescribeInstances")

    monkeypatch.setattr("monai_aws_pipeline.cloud.instances.Machines.find", refuse)
    said = where(clients, SETTINGS, [job_of(1)])
    assert said == "what stands before the answer cannot be seen (UnauthorizedOperation)"


def test_the_wait_is_bounded_and_says_that_nothing_is_lost(clients: Clients):
    ticks = iter(range(1000))
    with pytest.raises(NotAnsweredError, match="nothing is lost"):
        wait_answer(ResultsStore(clients.s3, "studies"), job_of(1), 5, sleep=lambda _: None, clock=lambda: float(next(ticks)))


def test_a_damaged_marker_is_named(clients: Clients):
    clients.s3.put_object(Bucket="studies", Key=job_done_key(job_of(1)), Body=b"{}")
    with pytest.raises(UnreadableResultError, match="jobs/"):
        ResultsStore(clients.s3, "studies").answers(job_of(1))


# -------------------------------------------------------------------------------------------------------------------- status


def test_status_of_a_deployment_that_is_not_there(clients: Clients):
    state = Watch(clients, SETTINGS).look()
    assert {(depth.waiting, depth.at_work) for depth in state.queues.values()} == {(-1, -1)}
    assert (state.machines, state.dead_letters, state.live_map, state.results) == ((), 0, "", ())


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_status_shows_names_and_digests_whole_however_narrow_the_terminal_is(
    clients: Clients, width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    said = "ValueError: no series is a volume"
    failed = replace(refused(1, NOW, study="a" * 16, status=Status.FAILED), error=ResultError("map_failed", "It ended with 1.", said))
    commit(clients, failed)
    state = replace(Watch(clients, SETTINGS).look(), live_map=f"registry.example/maps@sha256:{'1' * 64}")
    screen = io.StringIO()
    monkeypatch.setattr(command_line, "CONSOLE", Console(file=screen, width=width, force_terminal=True, color_system=None))
    command_line._show_status(state)
    words = screen.getvalue().split()
    assert {state.live_map, failed.job, *state.queues} <= {word.rstrip(";,") for word in words}
    assert said.split() == [word for word in words if word in said.split()], "and what the application said last, in one piece"


def test_the_last_ten_results_are_shown_and_damaged_or_old_ones_are_not(clients: Clients, queues: dict[str, str]):
    for number in range(12):
        commit(clients, succeeded(number, NOW))
    commit(clients, refused(50, NOW))
    commit(clients, succeeded(99, NOW - timedelta(days=3)))
    results = Watch(clients, SETTINGS).look().results
    assert len(results) == 10
    assert job_of(99) not in {line.job for line in results}
    clients.s3.put_object(Bucket="studies", Key=succeeded(60, NOW).index_key, Body=b"damaged")
    assert len(Watch(clients, SETTINGS).look().results) in (9, 10)


def test_a_refused_upload_is_shown_with_its_code(clients: Clients):
    commit(clients, refused(1, NOW))
    (line,) = Watch(clients, SETTINGS).look().results
    assert (line.status, line.error, line.study) == ("quarantined", "NOT_A_ZIP", "")


def test_a_result_is_read_once_however_often_one_looks(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    commit(clients, succeeded(1, NOW))
    watch = Watch(clients, SETTINGS)
    first = watch.look().results

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(ResultsStore, "entry", never)
    assert watch.look().results == first


# -------------------------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Wanted(), True),
        (Wanted(job="a"), True),
        (Wanted(job="b"), False),
        (Wanted(since=NOW), True),
        (Wanted(since=NOW + timedelta(seconds=1)), False),
        (Wanted(job="a", since=NOW + timedelta(seconds=1)), False),
        (Wanted(job="b", since=NOW), False),
    ],
)
def test_which_letters_are_meant(wanted: Wanted, taken: bool):
    assert wanted.takes(["a"], NOW) is taken


def letter(number: int) -> JobMessage:
    return JobMessage.for_object(bucket="studies", key=f"input/{number}.zip", version="", etag="1" * 32, size=1)


def count(clients: Clients, url: str) -> int:
    return len(clients.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0).get("Messages", []))


def test_without_queues_there_is_nothing_to_replay(clients: Clients):
    with pytest.raises(QueueMissingError, match="s3_trigger"):
        replay_dead_letters(clients, SETTINGS, Wanted(), lambda _: None)


def test_a_letter_stays_dead_when_it_could_not_be_sent(clients: Clients, queues: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    dead = queues[SETTINGS.names.jobs_dead_letters]
    for number in range(3):
        clients.sqs.send_message(QueueUrl=dead, MessageBody=letter(number).to_json())
    genuine, sent = clients.sqs.send_message, list[str]()

    def fail_second(**request: str) -> object:
        if sent:
            raise ClientError({"Error": {"Code": "ServiceUnavailable"}}, "SendMessage")
        sent.append(request["MessageBody"])
        return genuine(**request)

    monkeypatch.setattr(clients.sqs, "send_message", fail_second)
    with pytest.raises(ClientError):
        replay_dead_letters(clients, SETTINGS, Wanted(), lambda _: None)
    assert count(clients, queues[SETTINGS.names.jobs_queue]) == 1
    assert count(clients, dead) == 2, "and what was held is given back at once"


def test_a_replay_is_bounded_and_says_when_it_is_not_complete(clients: Clients, queues: dict[str, str]):
    names = SETTINGS.names
    clients.sqs.send_message(QueueUrl=queues[names.jobs_dead_letters], MessageBody=letter(1).to_json())
    way = (queues[names.jobs_dead_letters], queues[names.jobs_queue])
    done = _replay_queue(clients.sqs, "dead", way, Wanted(), jobs_of_job, seconds=0)
    assert (done.moved, done.complete) == (0, False)


def test_a_host_that_cannot_be_woken_at_once_is_said_and_nothing_more(clients: Clients, queues: dict[str, str]):
    said: list[str] = []
    clients.sqs.send_message(QueueUrl=queues[SETTINGS.names.jobs_dead_letters], MessageBody=letter(1).to_json())
    uploads, jobs = replay_dead_letters(clients, SETTINGS, Wanted(), said.append)
    assert (uploads.moved, jobs.moved) == (0, 1)
    assert "the schedule does" in said[0]


def test_a_letter_that_cannot_be_read_is_a_named_error():
    for read in (jobs_of_job, jobs_of_upload):
        with pytest.raises(ContractError):
            read("no json")


# -------------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay"], "Say which"),
        (["replay", "--all", "--job", "a" * 32], "Say which"),
        (["replay", "--job", "Doe"], "32 lower-case hex digits"),
        (["replay", "--since", "yesterday"], "30m, 12h or 2d"),
        (["status", "--json", "--watch"], "leave out --watch"),
        (["upload"], "Missing argument"),
    ],
)
def test_a_wrong_call_is_explained_and_touches_nothing(arguments: list[str], says: str):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_no_study_goes_up_when_one_of_them_is_none(clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_BUCKET", "studies")
    good = tmp_path / "good.zip"
    good.write_bytes(tiny_study_zip(instances=1))
    result = CliRunner().invoke(cli, ["upload", str(good), str(tmp_path / "missing")])
    assert isinstance(result.exception, UploadError)
    assert "Contents" not in clients.s3.list_objects_v2(Bucket="studies")


def test_an_upload_that_was_refused_ends_with_its_reason_and_a_failing_exit_code(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MONAI_AWS_BUCKET", "studies")
    good = tmp_path / "good.zip"
    good.write_bytes(tiny_study_zip(instances=1))

    def answer(*arguments: object) -> tuple[ResultRecord, ...]:
        *_, where, report = arguments
        report(f"waiting: {where()}")  # type: ignore[operator]
        return (refused(1, NOW),)

    monkeypatch.setattr("monai_aws_pipeline.operations.upload.wait_answer", answer)
    result = CliRunner().invoke(cli, ["upload", str(good), "--wait"])
    assert result.exit_code == 1
    assert "waiting: this deployment has no queues" in result.output
    assert "quarantined: study unknown" in result.output
    assert "NOT_A_ZIP: " in result.output


def test_a_watch_goes_on_over_a_lost_answer_and_ends_with_ctrl_c(clients: Clients, queues: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "unit")
    genuine, looks, naps = Watch.look, list[int](), list[float]()

    def look(self: Watch) -> DeploymentState:
        looks.append(1)
        if len(looks) == 2:
            raise ClientError({"Error": {"Code": "Throttling"}}, "DescribeInstances")
        return genuine(self)

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "look", look)
    monkeypatch.setattr(command_line.time, "sleep", nap)
    result = CliRunner().invoke(cli, ["status", "--watch"])
    assert (result.exit_code, len(looks), set(naps)) == (0, 3, {2.0}), result.output


def test_on_a_terminal_an_upload_has_a_bar_and_no_file_name(clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_BUCKET", "studies")
    screen = io.StringIO()
    monkeypatch.setattr(command_line, "CONSOLE", Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"}))
    archive = tmp_path / "Doe^Jane.zip"
    archive.write_bytes(tiny_study_zip(instances=1))
    assert CliRunner().invoke(cli, ["upload", str(archive)]).exit_code == 0
    assert "uploading" in screen.getvalue()
    assert "Jane" not in screen.getvalue()


def test_a_teardown_that_is_not_confirmed_removes_nothing(clients: Clients, queues: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_BUCKET", "studies")
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "unit")
    result = CliRunner().invoke(cli, ["teardown"], input="n\n")
    assert result.exit_code == 1
    assert all(f"queue {name}" in result.output for name in queues)
    assert len(clients.sqs.list_queues()["QueueUrls"]) == 4


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("stopped", "Client.InternalError", "kms:CreateGrant"),
        ("stopped", "Client.UserInitiatedShutdown", ""),
        ("stopped", "", ""),
        ("running", "Client.InternalError", ""),
    ],
)
def test_a_host_whose_last_start_failed_says_why_and_what_to_do(state: str, reason: str, said: str):
    trouble = trouble_of(Machine("i-1", state, "g4dn.xlarge", "ami-1", "", {}, "", reason=reason))
    assert (said in trouble, bool(trouble)) == (True, bool(said))
