"""Bringing dead letters back into their queues, and waking a host for them. Behind ``monai-aws replay``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from lambda_fn.wake import jobs_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.contract import (
    ContractError,
    JobMessage,
)
from monai_aws_pipeline.operations.errors import QueueMissingError
from monai_aws_pipeline.operations.waking import wake
from monai_aws_pipeline.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

REPLAY_SECONDS: Final = 600.0
HOLD_SECONDS: Final = 900
"""Messages that a replay looks at stay hidden for this long, so that each is seen once; it gives back what it leaves when it ends."""


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


def replay_dead_letters(clients: Clients, settings: Settings, wanted: Wanted, report: Callable[[str], None]) -> list[Replayed]:
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
        wake(clients, settings, "replay", report)
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
