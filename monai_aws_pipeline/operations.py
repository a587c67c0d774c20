"""What an operator does by hand: upload studies, look at the deployment, bring dead letters back. No Dagster, no output.

Here belong the steps behind ``monai-aws upload``, ``status`` and ``replay``; the command line parses and prints. Errors and results name
jobs and messages by their ids and an argument as the user typed it; nothing from inside an upload is ever repeated.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import stat
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from lambda_fn.wake import jobs_of
from monai_aws_pipeline.cloud.commands import Commands
from monai_aws_pipeline.cloud.errors import CloudError, code_of
from monai_aws_pipeline.cloud.instances import Machine, Machines
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.promotion import AGENT, last_json
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.cloud.waiting import silently, wait_until
from monai_aws_pipeline.contract import (
    INPUT_PREFIX,
    ROLE_INFERENCE,
    TAG_ROLE,
    ContractError,
    JobMessage,
    ResultRecord,
    job_id,
    version_of,
)
from monai_aws_pipeline.ec2_refusals import ending_of
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.settings import Settings
from monai_aws_pipeline.studies.results_store import ResultsStore, UnreadableResultError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

RESULTS_SHOWN: Final = 10
RESULTS_HOURS: Final = 24
ASK_SECONDS: Final = 20
"""Longest that a host may take to say what it has in hand."""
_JOB: Final = re.compile(r"[0-9a-f]{32}")
_WORD: Final = re.compile(r"[a-z]{1,20}")
ANSWER_ALLOWANCE_SECONDS: Final = 900.0
"""How long an answer may take on top of the MAP's own time limit: waking a host, pulling the MAP, waiting behind a few studies."""
_STATE_SECONDS: Final = 5.0
_HOST_STATES: Final = {"pending": "starting"}
REPLAY_SECONDS: Final = 600.0
HOLD_SECONDS: Final = 900
"""Messages that a replay looks at stay hidden for this long, so that each is seen once; it gives back what it leaves when it ends."""
WAKE_EVENT: Final = b'{"source": "monai-aws.replay"}'


class OperationError(NamedError):
    """Something the operator asked for cannot be done. The message says why and what to do."""


class UploadError(OperationError):
    """What should be uploaded is no study."""


class NotAnsweredError(OperationError):
    """The wait for an answer is over; the jobs themselves stay queued."""


class QueueMissingError(OperationError):
    """The deployment has no queues."""


# -------------------------------------------------------------------------------------------------------------------- upload


@dataclass(frozen=True)
class Uploaded:
    """One upload: the key it has in the bucket, the job it becomes, its size in bytes."""

    key: str
    job: str
    bytes: int


def check_upload(path: Path) -> None:
    """Whether a path can be uploaded: a zip, or a folder with files and without links. Raises UploadError."""
    if not path.exists():
        raise UploadError(f"There is no {path}. Name a .zip of one study, or the folder that holds its DICOM files.")
    if path.is_dir():
        if not sum(size for _, size in _files(path)):
            raise UploadError(f"The folder {path} is empty. Name the folder that holds the study's DICOM files.")
    elif not path.is_file():
        raise UploadError(f"{path} is neither a file nor a folder.")
    elif not path.stat().st_size:
        raise UploadError(f"{path} is empty. Export the study again.")
    elif not zipfile.is_zipfile(path):
        raise UploadError(f"{path} is not a zip. Zip the study's DICOM files, or name the folder that holds them.")


def pack(folder: Path, target: Path) -> None:
    """Zip a folder; the same files give the same zip, so that the same study uploaded twice is one job. Raises UploadError."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, size in _files(folder):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # dated 1980: the files' own times do not count
            info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size  # the size decides about zip64
            # A link put there in the meantime is not followed either.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source, archive.open(info, "w") as member:
                while block := source.read(1 << 20):
                    member.write(block)


def upload_key(archive: Path, again: bool = False) -> str:
    """The key of an upload, from its content alone: the file's own name may be a patient's. ``again`` makes it another job each time."""
    with archive.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()[:20]
    return f"{INPUT_PREFIX}{name}{f'-{secrets.token_hex(4)}' if again else ''}.zip"


def upload(clients: Clients, bucket: str, archive: Path, again: bool = False, progress: Callable[[int], object] | None = None) -> Uploaded:
    """Upload a zip, in parts where it is large. ``progress`` is told of bytes that went, from several threads."""
    key = upload_key(archive, again)
    clients.s3.upload_file(str(archive), bucket, key, Callback=progress)
    head = clients.s3.head_object(Bucket=bucket, Key=key)
    return Uploaded(key, job_id(bucket, key, version_of(head.get("VersionId")) or head["ETag"]), head["ContentLength"])


def wait_answer(
    store: ResultsStore,
    job: str,
    seconds: float,
    where: Callable[[], str] = lambda: "",
    report: Report = silently,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ResultRecord, ...]:
    """Wait until every study of a job has its commit record. Raises NotAnsweredError.

    ``where``: how far the deployment is (``underway``); asked every few seconds and told when it changes.
    """
    state, asked = "", -math.inf

    def what(_: object) -> str:
        nonlocal state, asked
        if clock() - asked >= _STATE_SECONDS:
            state, asked = where(), clock()
        return f"waiting for job {job}" + (f": {state}" if state else "")

    records = wait_until(lambda: store.answers(job), bool, seconds, what=what, report=report, sleep=sleep, clock=clock)
    if not records:
        raise NotAnsweredError(
            f"Job {job} has no result after {seconds:.0f} s. It stays queued and nothing is lost; see monai-aws status and "
            f"docs/operations.md."
        )
    return records


def underway(clients: Clients, settings: Settings) -> str:
    """What stands between an upload and its answer now, in words: queues and hosts as AWS knows them. Empty where it does not say."""
    try:
        hosts = Counter(machine.state for machine in Machines(clients.ec2, settings.deployment).find(ROLE_INFERENCE))
        trigger = Trigger(clients, {})
        depths = [
            trigger.depth(queue)
            for name in (settings.names.uploads_queue, settings.names.jobs_queue)
            if (queue := trigger.find_queue(name))
        ]
    except (CloudError, ClientError, BotoCoreError):  # who may upload need not be allowed to look; the wait goes on
        return ""
    waiting, at_work = (sum(depth[which] for depth in depths) for which in (0, 1))
    ready = ", ".join(f"{count} {_HOST_STATES.get(state, state)}" for state, count in sorted(hosts.items())) or "none"
    return f"{waiting} waiting and {at_work} at work in the queues; hosts: {ready}"


def _files(folder: Path) -> list[tuple[Path, int]]:
    """All files below a folder with their sizes, sorted. Raises UploadError for a link or anything else that is no plain file."""
    found = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat()
        if stat.S_ISREG(mode.st_mode):
            found.append((path, mode.st_size))
        elif not stat.S_ISDIR(mode.st_mode):
            kind = "a link" if stat.S_ISLNK(mode.st_mode) else "something that is no file"
            raise UploadError(
                f"The folder {folder} holds {kind}. Upload a folder of plain files: what a link leads to may not be the study's."
            )
    return found


# -------------------------------------------------------------------------------------------------------------------- status


@dataclass(frozen=True)
class JobAtWork:
    """A job in hand on a host: for how many seconds, and for how many of them in this phase."""

    job: str
    phase: str
    seconds: float
    phase_seconds: float


@dataclass(frozen=True)
class HostWork:
    """What a host's agent says: ``agent`` is ``running``, ``stopped``, or ``unknown`` with the reason; jobs longest in hand first."""

    agent: str
    jobs: tuple[JobAtWork, ...] = ()
    reason: str = ""


def parse_work(printed: str) -> HostWork:
    """Read what ``monai-aws-agent at-work`` printed; whatever else it is makes ``unknown``."""
    found = last_json(printed)
    try:
        jobs = tuple(
            JobAtWork(str(each["job"]), str(each["phase"]), float(each["seconds"]), float(each["phase_seconds"])) for each in found["jobs"]
        )
        agent = str(found["agent"])
    except (KeyError, TypeError, ValueError):
        agent, jobs = "", ()
    plain = all(_JOB.fullmatch(each.job) and _WORD.fullmatch(each.phase) for each in jobs)
    if agent not in ("running", "stopped") or not plain:
        return HostWork("unknown", reason="the host's answer is not understood; its agent may be older than this command")
    return HostWork(agent, jobs)


@dataclass(frozen=True)
class MachineState:
    """One machine of the deployment."""

    id: str
    role: str
    state: str
    type: str
    trouble: str = ""
    """Why its last start failed, with what to do; empty mostly."""
    work: HostWork | None = None
    """What a running inference host has in hand; None for any other machine, and where it was not told."""


def trouble_of(machine: Machine) -> str:
    """Why a stopped machine's last start failed, by the state reason that AWS keeps; empty where it was stopped."""
    ending = ending_of(machine.reason)
    if machine.state != "stopped" or not ending.known:
        return ""
    return f"its last start failed ({machine.reason}): {ending.what} {ending.remedy}"


@dataclass(frozen=True)
class Depth:
    """About how many messages a queue holds; -1 where the queue does not exist."""

    waiting: int
    at_work: int


@dataclass(frozen=True)
class ResultLine:
    """One answer in short. ``seconds`` from taken to committed; ``error`` is the code of a study that was not answered."""

    status: str
    study: str
    job: str
    seconds: float
    cost_usd: float
    committed_at: str
    result_key: str
    error: str = ""

    @classmethod
    def of(cls, record: ResultRecord) -> ResultLine:
        """In short what a commit record says."""
        return cls(
            status=record.status.value,
            study=record.study,
            job=record.job,
            seconds=round(record.timings.total, 1),
            cost_usd=record.cost.usd,
            committed_at=record.committed_at,
            result_key=record.commit_key,
            error=record.error.code if record.error else "",
        )


@dataclass(frozen=True)
class DeploymentState:
    """What an operator looks at first. ``dead_letters`` counts both dead-letter queues."""

    deployment: str
    machines: tuple[MachineState, ...]
    queues: Mapping[str, Depth]
    dead_letters: int
    live_map: str
    results: tuple[ResultLine, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Watch:
    """Looks at one deployment, as often as wanted; a result that was read once is not read again."""

    clients: Clients
    settings: Settings
    _known: dict[str, ResultLine] = field(default_factory=dict)

    def look(self) -> DeploymentState:
        """The deployment as it is now."""
        names = self.settings.names
        found = Machines(self.clients.ec2, self.settings.deployment).find()
        queues = {
            name: self._depth(name) for name in (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
        }
        return DeploymentState(
            deployment=self.settings.deployment,
            machines=self._machines(found),
            queues=queues,
            dead_letters=sum(max(queues[name].waiting, 0) for name in (names.uploads_dead_letters, names.jobs_dead_letters)),
            live_map=Commands(self.clients.ssm).parameter(names.live_map_parameter),
            results=tuple(self._results()),
        )

    def _machines(self, found: Sequence[Machine]) -> tuple[MachineState, ...]:
        """The machines, with what those that infer have in hand: asked at the same time, because each takes a second or two to answer."""
        asked = {m.id for m in found if m.state == "running" and m.tags.get(TAG_ROLE) == ROLE_INFERENCE}
        with ThreadPoolExecutor(max(1, min(len(asked), 8))) as threads:
            work = {name: threads.submit(self._work, name) for name in sorted(asked)}
        return tuple(
            MachineState(m.id, m.tags.get(TAG_ROLE, ""), m.state, m.type, trouble_of(m), work[m.id].result() if m.id in work else None)
            for m in found
        )

    def _work(self, host: str) -> HostWork:
        try:
            ended = Commands(self.clients.ssm).run(host, f"{AGENT} at-work", seconds=ASK_SECONDS, comment="status")
        except (CloudError, ClientError, BotoCoreError) as error:  # the rest of the picture is worth having without it
            return HostWork("unknown", reason=str(error))
        return parse_work(ended.stdout)

    def _depth(self, name: str) -> Depth:
        trigger = Trigger(self.clients, {})
        found = trigger.find_queue(name)
        return Depth(*trigger.depth(found)) if found else Depth(-1, -1)

    def _results(self) -> Iterator[ResultLine]:
        if not self.settings.bucket:
            return
        store = ResultsStore(self.clients.s3, self.settings.bucket)
        for key in store.newest_keys(datetime.now(UTC) - timedelta(hours=RESULTS_HOURS), RESULTS_SHOWN):
            if key not in self._known:
                try:
                    self._known[key] = ResultLine.of(store.result_record(store.entry(key)))
                except UnreadableResultError:  # the sensor names damaged entries; here they only do not count
                    continue
            yield self._known[key]


# -------------------------------------------------------------------------------------------------------------------- replay


@dataclass(frozen=True)
class Wanted:
    """Which dead letters to bring back: all of them, those of one job, those first sent at or after a moment, or both."""

    job: str = ""
    since: datetime | None = None

    def takes(self, jobs: Sequence[str], sent: datetime) -> bool:
        """Whether a letter about these jobs, first sent then, is meant."""
        return (not self.job or self.job in jobs) and (self.since is None or sent >= self.since)


@dataclass(frozen=True)
class Replayed:
    """What a replay did with one dead-letter queue: message counts, and ids of messages that cannot be read and stay."""

    queue: str
    moved: int
    left: int
    unreadable: tuple[str, ...]
    complete: bool


def jobs_of_job(body: str) -> list[str]:
    """The job that a message of the jobs queue is about. Raises ContractError."""
    return [JobMessage.from_json(body).job]


def jobs_of_upload(body: str) -> list[str]:
    """The jobs that a message of the uploads queue leads to. Raises ContractError."""
    return [job.job for job in jobs_of(body)]


def replay(clients: Clients, settings: Settings, wanted: Wanted, report: Callable[[str], None]) -> list[Replayed]:
    """Bring dead letters back to the queues they died in. A crash doubles a message at worst, which ends as one job, and loses none.

    Raises QueueMissingError. Ends after ten minutes for each queue; a second call goes on.
    """
    names, trigger = settings.names, Trigger(clients, {})
    done = []
    for dead, main, jobs_in in (
        (names.uploads_dead_letters, names.uploads_queue, jobs_of_upload),
        (names.jobs_dead_letters, names.jobs_queue, jobs_of_job),
    ):
        source, target = trigger.find_queue(dead), trigger.find_queue(main)
        if source is None or target is None:
            raise QueueMissingError(f"The queue {dead if source is None else main} does not exist. Materialise s3_trigger.")
        done.append(_replay_queue(clients.sqs, dead, (source.url, target.url), wanted, jobs_in))
    if done[-1].moved:
        _wake(clients, settings, report)
    return done


def _replay_queue(
    sqs: SQSClient, name: str, way: tuple[str, str], wanted: Wanted, jobs_in: Callable[[str], list[str]], seconds: float = REPLAY_SECONDS
) -> Replayed:
    source, target = way
    moved, complete = 0, False
    kept: dict[str, str] = {}
    unreadable: list[str] = []
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and not complete:
            letters = sqs.receive_message(
                QueueUrl=source,
                MaxNumberOfMessages=10,
                VisibilityTimeout=HOLD_SECONDS,
                WaitTimeSeconds=1,  # above 0 all of SQS's servers are asked, so that no answer means no message
                MessageSystemAttributeNames=["SentTimestamp"],
            ).get("Messages", [])
            complete = not letters
            kept |= {letter["MessageId"]: letter["ReceiptHandle"] for letter in letters}
            for letter in letters:
                try:
                    jobs = jobs_in(letter["Body"])
                except ContractError:
                    unreadable.append(letter["MessageId"])
                    continue
                if wanted.takes(jobs, _sent(letter)):
                    sqs.send_message(QueueUrl=target, MessageBody=letter["Body"])
                    sqs.delete_message(QueueUrl=source, ReceiptHandle=letter["ReceiptHandle"])  # only now: it exists twice rather than not
                    del kept[letter["MessageId"]]
                    moved += 1
    finally:
        for receipt in kept.values():
            sqs.change_message_visibility(QueueUrl=source, ReceiptHandle=receipt, VisibilityTimeout=0)
    return Replayed(name, moved, len(kept), tuple(sorted(set(unreadable))), complete)


def _sent(letter: MessageTypeDef) -> datetime:
    """When a message was first sent: SQS keeps the time of a standard queue's message when it moves it to the dead letters."""
    return datetime.fromtimestamp(int(letter.get("Attributes", {}).get("SentTimestamp", "0")) / 1000, UTC)


def _wake(clients: Clients, settings: Settings, report: Callable[[str], None]) -> None:
    try:
        clients.functions.invoke(FunctionName=settings.names.wake_function, InvocationType="Event", Payload=WAKE_EVENT)
    except ClientError as error:
        # Nothing is lost: the schedule wakes the same function and finds the jobs.
        report(f"Could not wake a host at once ({code_of(error)}); the schedule does within {settings.wake_every_minutes} minutes.")
