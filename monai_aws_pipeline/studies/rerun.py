"""Asking for a study to be answered again by the MAP that is live now, and waiting for the answer.

Here belong the request (a job message for the study's original, wherever that is kept) and the bounded wait for its commit record. How
the job is done is the host agent's; how the answer is shown is ``inference_result``'s and ``rerun_job``'s. No Dagster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import EVERY_S, telling_state, wait_until
from monai_aws_pipeline.contract import (
    PROCESSED_PREFIX,
    JobMessage,
    Rerun,
    ResultRecord,
    Status,
    commit_keys,
    parse_utc,
    quarantine_key,
)
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.errors import NotAnsweredError
from monai_aws_pipeline.operations.live_maps import LiveMaps
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.waking import wake
from monai_aws_pipeline.operations.whereabouts import where
from monai_aws_pipeline.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

POLL_SECONDS: Final = 2.0
QUEUE_ALLOWANCE_SECONDS: Final = 2 * 3600
"""How long a re-run may wait behind other studies and for a machine, on top of the MAP's own time limit."""
MAX_ATTEMPTS: Final = 30
"""So often one MAP is asked for one original without an answer that stands: each attempt looks for the ends of those before it."""


class RerunError(NamedError):
    """A study could not be answered again. The message says why and what to do."""


class NoLiveMapError(RerunError):
    """No MAP is live in this deployment."""


class NoOriginalError(RerunError):
    """The study's original is not in the bucket (any more)."""


class TooManyAttemptsError(RerunError):
    """The live MAP was asked for this original as often as it may be."""


@dataclass(frozen=True)
class Original:
    """A study's original as it is kept: ``version`` is empty in a bucket without versions, ``size`` in bytes."""

    key: str
    version: str
    etag: str
    size: int
    modified: datetime

    @property
    def names_study(self) -> bool:
        """Whether its key says which study is meant. In quarantine it does not, and an upload may hold several."""
        return self.key.startswith(PROCESSED_PREFIX)


@dataclass(frozen=True)
class Asked:
    """A re-run that was asked for: its job, the digest of the MAP that is to answer, and its answer where it had one before.

    ``attempt``: how often that MAP has ended this original before, with a failure or with an answer that a later failure has outdated.
    """

    study: str
    job: str
    digest: str
    answer: ResultRecord | None = None
    attempt: int = 0


class Reruns:
    """Re-runs of studies in one deployment."""

    def __init__(self, clients: Clients, settings: Settings, store: ResultsStore, report: Callable[[str], None]):
        self._clients = clients
        self._settings = settings
        self._store = store
        self._report = report

    def live_digest(self) -> str:
        """Digest of the MAP that hosts run now. Raises NoLiveMapError."""
        if live := LiveMaps(self._clients, self._settings, self._report).live():
            return live
        name = self._settings.names.live_map_parameter
        raise NoLiveMapError(f"The parameter {name} names no MAP.", "Materialise inference_host first; it writes the digest there.")

    def ask(self, study: str, failed_uploads: Sequence[str] = (), failed_at: datetime | None = None, *, wake: bool = True) -> Asked:
        """Queue the study's latest original for the live MAP, unless that MAP has answered it as a re-run before.

        Where it has failed on it, the next attempt is a job of its own. While that is not answered, whoever asks gets the same job. Where
        the study has failed since that MAP's answer, there is a next attempt too: whoever compares times takes it for unanswered.

        Args:
            study: Its pseudonym.
            failed_uploads: Jobs of this study that failed; the originals of uploads are in quarantine, and a re-run's is elsewhere.
            failed_at: When the study failed last; None: as the records of ``failed_uploads`` say.
            wake: Whether a host is woken at once.

        Raises:
            NoLiveMapError, NoOriginalError, TooManyAttemptsError.
        """
        digest = self.live_digest()
        original = self.original(study, failed_uploads)
        for attempt in range(MAX_ATTEMPTS):
            message = self._message(original, Rerun(digest, "" if original.names_study else study, attempt))
            ended = self.answer(study, message.job)
            if ended is None:
                queue = self._clients.sqs.get_queue_url(QueueName=self._settings.names.jobs_queue)["QueueUrl"]
                self._clients.sqs.send_message(QueueUrl=queue, MessageBody=message.to_json())
                if wake:
                    self.wake()
            if ended is None or (ended.status is Status.SUCCEEDED and not self._failed_since(ended, failed_uploads, failed_at)):
                return Asked(study, message.job, digest, ended, attempt)
        raise TooManyAttemptsError(
            f"The live MAP was asked {MAX_ATTEMPTS} times for the original of {study}, and no answer of it stands.",
            "Mend the MAP and promote it: another MAP is asked anew. Or upload the study again.",
        )

    def original(self, study: str, failed_uploads: Sequence[str] = ()) -> Original:
        """The newest original that is kept of a study. Raises NoOriginalError."""
        kept = [*self._answered_originals(study), *self._quarantined_originals(failed_uploads)]
        if not kept:
            raise NoOriginalError(
                f"No original of {study} is kept, neither under {PROCESSED_PREFIX}{study}/ nor under quarantine/ for the "
                f"{len(failed_uploads)} jobs of it that failed: it was removed or has expired (MONAI_AWS_ORIGINALS_EXPIRE_DAYS), or the "
                "upload was gone before a host could keep it.",
                "Upload it again.",
            )
        return max(kept, key=lambda original: (original.modified, original.key))

    def answer(self, study: str, job: str) -> ResultRecord | None:
        """The commit record of a job, wherever it ended; None while there is none."""
        return next((record for key in commit_keys(study, job) if (record := self._store.record(key))), None)

    def wait(self, asked: Asked, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> ResultRecord:
        """Wait for the commit record, saying every 10 s what is waited for, also while a host is asked, which may take a minute.

        Raises NotAnsweredError after the MAP's time limit and the queue's allowance.
        """
        if asked.answer:
            return asked.answer
        progress = self.progress([asked.job], clock)

        def answer() -> ResultRecord | None:
            if found := self.answer(asked.study, asked.job):
                return found
            tell(progress(None))
            tell.again()
            return None

        with telling_state(self._report, clock=clock) as tell:
            tell(f"Waiting for job {asked.job}")
            record = wait_until(answer, bool, self.bound, what="", pause=POLL_SECONDS, sleep=sleep, clock=clock)
        if record is None:
            raise NotAnsweredError(not_answered(asked.job, self.bound))
        return record

    @property
    def bound(self) -> float:
        """Longest wait for one re-run, in seconds: what fails beside other studies is run once more, alone."""
        return self._settings.study_seconds + QUEUE_ALLOWANCE_SECONDS

    def progress(self, jobs: Sequence[str], clock: Callable[[], float] = time.monotonic) -> Callable[[object], str]:
        """Says where jobs are, asking AWS anew every 10 s: ``jobs`` may change meanwhile."""
        said, asked_at = "", -math.inf

        def say(_: object) -> str:
            nonlocal said, asked_at
            if clock() - asked_at >= EVERY_S:
                said = where(self._clients, self._settings, set(jobs))
                asked_at = clock()
            return f"Waiting for job {jobs[0]}: {said}" if len(jobs) == 1 else f"Waiting for {len(jobs)} jobs: {said}"

        return say

    def wake(self) -> None:
        """Have a host started for what is queued."""
        wake(self._clients, self._settings, "rerun", self._report)

    def _failed_since(self, answer: ResultRecord, failed_uploads: Sequence[str], failed_at: datetime | None) -> bool:
        """Whether the study has failed after that answer, by the rule of ``unanswered.rows_of``."""
        if failed_at is None:
            ends = [end for job in failed_uploads if (end := self.answer(answer.study, job)) and end.status is not Status.SUCCEEDED]
            failed_at = max((parse_utc(end.committed_at) for end in ends), default=None)
        return failed_at is not None and parse_utc(answer.committed_at) < failed_at

    def _answered_originals(self, study: str) -> Iterator[Original]:
        pages = self._clients.s3.get_paginator("list_objects_v2").paginate(Bucket=self._store.bucket, Prefix=f"{PROCESSED_PREFIX}{study}/")
        kept = [item for page in pages for item in page.get("Contents", []) if item["Key"].endswith("/upload.zip")]
        if kept:
            key = max(kept, key=lambda item: (item["LastModified"], item["Key"]))["Key"]
            yield from self._found(key)

    def _quarantined_originals(self, failed_uploads: Sequence[str]) -> Iterator[Original]:
        """What a study was read from is a zip, or a folder that is kept as one; so no other name is looked for."""
        for job in failed_uploads:
            yield from self._found(quarantine_key(job, "upload.zip"))

    def _found(self, key: str) -> Iterator[Original]:
        try:
            head: HeadObjectOutputTypeDef = self._clients.s3.head_object(Bucket=self._store.bucket, Key=key)
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchKey", "NotFound"):
                return
            raise
        yield Original(key, head.get("VersionId", ""), head["ETag"], head["ContentLength"], head["LastModified"])

    def _message(self, original: Original, wanted: Rerun) -> JobMessage:
        return JobMessage.for_object(
            bucket=self._store.bucket,
            key=original.key,
            version=original.version,
            etag=original.etag,
            size=original.size,
            request=wanted.text,
        )


def not_answered(job: str, seconds: float) -> str:
    """Why a wait ended without a result, and what becomes of the job."""
    return (
        f"Job {job} has no result after {seconds:.0f} s. It stays queued and is recorded when it is answered. "
        f"Where it is says: monai-aws status --job {job}"
    )
