"""What became of an upload: by the key that it was given, by the SHA-256 of that key, or for what lies on this machine by its content.

Here belongs looking, in this order: under ``input/``, among the dead letters, in the job's own marker, in the hands of hosts, and back
through the results, whose records name an upload by the SHA-256 of its key and by the ETag of its bytes. Everything is bounded, and what
was looked through is said. Nothing is changed, and no key is repeated, because it may be a patient's name. Behind ``monai-aws find`` and
``status --job``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from lambda_fn.wake import jobs_of
from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.contract import (
    INPUT_PREFIX,
    READY_MARKER,
    ContractError,
    IndexEntry,
    JobMessage,
    ResultRecord,
    Status,
    is_job,
    is_sha256,
    job_id,
    sha256_text,
    version_of,
)
from monai_aws_pipeline.operations.errors import OperationError
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.upload import pack, upload_key
from monai_aws_pipeline.operations.whereabouts import Surroundings, in_words, look
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

RESULTS_LOOKED_THROUGH: Final = 2000
DAYS_LOOKED_BACK: Final = 15
LETTERS_LOOKED_THROUGH: Final = 100
_LETTER_SECONDS: Final = 30
"""So long a dead letter that is looked at is hidden from others, should this be cut off before it gives it back."""
NOT_ANSWERED: Final = "not answered"
"""It lies under ``input/``, nobody has it in hand, and nothing waits in the queues."""
_AT_ONCE: Final = 100
_OF_INPUT: Final = 50
_PART: Final = 8 << 20
"""boto3's part size: what is larger is sent in parts, and its ETag is made of theirs."""


class FindError(OperationError):
    """What was asked for names no upload."""


@dataclass(frozen=True)
class Sought:
    """An upload by what is known of it: keys that it may have and their SHA-256, ETags that its bytes may have, a prefix of its keys.

    ``folder``: where its files lie until a marker completes it.
    """

    keys: tuple[str, ...] = ()
    hashes: frozenset[str] = frozenset()
    etags: frozenset[str] = frozenset()
    bytes: int = 0
    prefix: str = ""
    folder: str = ""

    def is_that_of(self, record: ResultRecord) -> bool:
        """Whether a record speaks of this upload: by its key, or by its content, whatever key that had."""
        by_content = record.input.etag in self.etags and record.input.bytes == self.bytes
        return record.input.key_sha256 in self.hashes or by_content


@dataclass(frozen=True)
class Trace:
    """One job that the upload has become: in which state, and that in words."""

    job: str
    state: str
    words: str


@dataclass
class Found:
    """What became of an upload, and what was looked through for it."""

    traces: list[Trace] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)


def sought(wanted: str, bucket: str) -> Sought:
    """What is meant: a key under ``input/`` (also as ``s3://``), the SHA-256 of one, or a file or folder here. Raises FindError."""
    name = wanted.removeprefix(f"s3://{bucket}/")
    if is_sha256(name):
        return Sought(hashes=frozenset({name}))
    if name.startswith(INPUT_PREFIX) and name != INPUT_PREFIX:
        folder = name.removesuffix(READY_MARKER).rstrip("/")
        keys = (name,) if name == folder else ()
        keys = (*keys, f"{folder}/{READY_MARKER}")
        return Sought(keys, frozenset(map(sha256_text, keys)), folder=f"{folder}/")
    path = Path(wanted)
    if wanted and path.is_dir():
        with scratch("monai-aws-find") as place:
            pack(path, place / "study.zip")
            return _by_content(place / "study.zip")
    if path.is_file():
        return _by_content(path)
    raise FindError(
        "That is neither a key under input/, nor the SHA-256 of one, nor a file or folder here.",
        f"Say the key as in the bucket ({INPUT_PREFIX}NAME.zip), or the path of what was uploaded.",
    )


def _by_content(path: Path) -> Sought:
    key = upload_key(path)
    return Sought((key,), frozenset({sha256_text(key)}), _etags(path), path.stat().st_size, key.removesuffix(".zip"))


def _etags(path: Path) -> frozenset[str]:
    """The ETags that S3 gives these bytes where no KMS key is at work: sent at once, and in boto3's parts."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as file:
        while block := file.read(_PART):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    in_parts = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return frozenset({whole.hexdigest(), f"{in_parts}-{len(parts)}"})


def find(clients: Clients, settings: Settings, wanted: str, now: datetime | None = None) -> Found:
    """What became of an upload. Raises FindError where none is named."""
    what, found = sought(wanted, settings.require_bucket()), Found()
    store = ResultsStore(clients.s3, settings.require_bucket())
    jobs = list(_under_input(clients, store.bucket, what))
    letters = _dead_letters(clients, settings, found)
    dead = {job: queue for job, (queue, key) in letters.items() if job in jobs or sha256_text(key) in what.hashes}
    _follow(clients, settings, store, jobs, dead, found)
    found.traces += [_dead(job, queue) for job, queue in dead.items() if job not in jobs]
    if not jobs and what.folder and _lies_there(clients, store.bucket, what.folder):
        found.traces.append(Trace("", "under input/", "a folder that is not complete: it has no _READY marker yet"))
    found.looked.append("input/")
    known = {trace.job for trace in found.traces}
    guesses = [job_id(store.bucket, key, etag) for key in what.keys for etag in sorted(what.etags)]
    found.traces += [_ended(record) for job in guesses if job not in known for record in store.answers(job)]
    if not any(trace.state in set(Status) for trace in found.traces):
        found.traces += map(_ended, _among_results(store, what, now or datetime.now(UTC), found))
    return found


def find_job(clients: Clients, settings: Settings, job: str) -> Found:
    """Where one job is. Raises FindError where that is none."""
    if not is_job(job):
        raise FindError("That is no job.", "A job has 32 lower-case hex digits, as monai-aws upload and status print it.")
    store, found = ResultsStore(clients.s3, settings.require_bucket()), Found()
    letters = _dead_letters(clients, settings, found)
    _follow(clients, settings, store, [job], {job: letters[job][0]} if job in letters else {}, found)
    found.traces = [replace(trace, state="unknown") if trace.state == NOT_ANSWERED else trace for trace in found.traces]
    return found


def _under_input(clients: Clients, bucket: str, what: Sought) -> Iterator[str]:
    """The jobs of objects that lie under ``input/`` still."""
    keys = list(what.keys)
    if what.prefix:
        listed = clients.s3.list_objects_v2(Bucket=bucket, Prefix=what.prefix, MaxKeys=_OF_INPUT)
        keys += [item["Key"] for item in listed.get("Contents", []) if item["Key"] not in keys]  # those of upload --again
    for key in keys:
        try:
            head = clients.s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchKey", "NotFound"):
                continue
            raise
        yield job_id(bucket, key, version_of(head.get("VersionId")) or head["ETag"])


def _lies_there(clients: Clients, bucket: str, prefix: str) -> bool:
    return "Contents" in clients.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)


def _follow(clients: Clients, settings: Settings, store: ResultsStore, jobs: Iterable[str], dead: Mapping[str, str], found: Found) -> None:
    """Each job's end; of those that have none, where they are."""
    seen: Surroundings | None = None
    for job in jobs:
        if records := store.answers(job):
            found.traces += map(_ended, records)
        elif job in dead:
            found.traces.append(_dead(job, dead[job]))
        else:
            if seen is None:
                seen = look(clients, settings)
                found.looked.append(f"what {len(seen.hosts)} host{'s' if len(seen.hosts) != 1 else ''} have in hand")
            state = "in hand" if seen.in_hand([job]) else "queued" if seen.something_waits else NOT_ANSWERED
            found.traces.append(Trace(job, state, in_words([job], seen)))


def _dead(job: str, queue: str) -> Trace:
    return Trace(job, "dead letter", f"in {queue}: look for the cause, then: monai-aws replay --job {job}")


def _ended(record: ResultRecord) -> Trace:
    words = f"study {record.study or 'unknown'}, {record.commit_key}, at {record.committed_at}"
    return Trace(record.job, record.status.value, f"{words}\n{record.error.text}" if record.error else words)


def _dead_letters(clients: Clients, settings: Settings, found: Found) -> dict[str, tuple[str, str]]:
    """The jobs that dead letters speak of, each with its queue and key. A letter is hidden for the moment of the look, and given back."""
    letters: dict[str, tuple[str, str]] = {}
    trigger, names, count = Trigger(clients, {}), settings.names, 0
    for name in (names.uploads_dead_letters, names.jobs_dead_letters):
        queue = trigger.find_queue(name)
        if queue is None or not any(trigger.depth(queue)):
            continue
        for body in _bodies(clients.sqs, queue.url):
            count += 1
            try:
                messages = [JobMessage.from_json(body)] if name == names.jobs_dead_letters else list(jobs_of(body))
            except ContractError:
                continue
            letters |= {message.job: (name, message.key) for message in messages}
    found.looked.append(f"{count} dead letter{'s' if count != 1 else ''}")
    return letters


def _bodies(sqs: SQSClient, url: str) -> list[str]:
    """What letters of a dead-letter queue say; all of them are there again afterwards."""
    held: dict[str, str] = {}
    bodies: list[str] = []
    deadline = time.monotonic() + _LETTER_SECONDS / 2
    try:
        while len(bodies) < LETTERS_LOOKED_THROUGH and time.monotonic() < deadline:
            letters = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=_LETTER_SECONDS, WaitTimeSeconds=1).get(
                "Messages", []
            )
            if not letters:
                break
            held |= {letter["MessageId"]: letter["ReceiptHandle"] for letter in letters}
            bodies += [letter["Body"] for letter in letters]
    finally:
        for receipt in held.values():
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
    return bodies


def _among_results(store: ResultsStore, what: Sought, now: datetime, found: Found) -> tuple[ResultRecord, ...]:
    """The records of the upload's newest job, by a look at the newest results of two weeks; all its studies."""
    keys = store.index_backwards(now - timedelta(days=DAYS_LOOKED_BACK), now + timedelta(hours=1))
    count = 0
    while count < RESULTS_LOOKED_THROUGH and (some := list(islice(keys, _AT_ONCE))):
        count += len(some)
        entries = [entry for entry in store.entries(some) if isinstance(entry, IndexEntry)]
        for record in store.records(entries):
            if isinstance(record, ResultRecord) and what.is_that_of(record):
                found.looked.append(f"the newest {count} results")
                return store.answers(record.job) or (record,)
    found.looked.append(
        f"the newest {count} results, and none that are older"
        if count >= RESULTS_LOOKED_THROUGH
        else f"all {count} results of the last {DAYS_LOOKED_BACK} days"
    )
    return ()
