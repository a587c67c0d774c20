"""Asking for a study to be answered again by the MAP that is live now, and waiting for the answer.

Here belong the request (a job message for the study's original) and the bounded wait for its commit record. How the job is done is
the host agent's; how the answer is shown is ``inference_result``'s. No Dagster.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import PROCESSED_PREFIX, JobMessage, ResultRecord, commit_keys
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.settings import Settings

POLL_SECONDS: Final = 3.0
PROGRESS_SECONDS: Final = 30.0
QUEUE_ALLOWANCE_SECONDS: Final = 2 * 3600
"""How long a re-run may wait behind other studies and for a machine, on top of the MAP's own time limit."""
WAKE_EVENT: Final = b'{"source": "monai-aws.rerun"}'
"""Not an upload: the wake function only looks whether jobs are queued, as it does on its schedule."""


class RerunError(NamedError):
    """A study could not be answered again. The message says why and what to do."""


class NoLiveMapError(RerunError):
    """No MAP is live in this deployment."""


class NoOriginalError(RerunError):
    """The study's original is not in the bucket (any more)."""


class NotAnsweredError(RerunError):
    """The wait is over and there is no commit record; the job itself stays queued."""


@dataclass(frozen=True)
class Asked:
    """A re-run that was asked for: its job, the digest of the MAP that is to answer, and whether it had been answered before."""

    study: str
    job: str
    digest: str
    answered_before: bool


class Reruns:
    """Re-runs of studies in one deployment."""

    def __init__(self, clients: Clients, settings: Settings, store: ResultsStore, log: Callable[[str], None]):
        self._clients = clients
        self._settings = settings
        self._store = store
        self._log = log

    def live_digest(self) -> str:
        """Digest of the MAP that hosts run now. Raises NoLiveMapError."""
        name = self._settings.names.live_map_parameter
        try:
            value = self._clients.ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "ParameterNotFound":
                raise
            value = ""
        digest = re.search(r"sha256:[0-9a-f]{64}", value)
        if not digest:
            raise NoLiveMapError(f"The parameter {name} names no MAP. Materialise inference_host first; it writes the digest there.")
        return digest[0]

    def ask(self, study: str) -> Asked:
        """Queue the study's latest original for the live MAP, unless that MAP answered it before.

        Raises NoLiveMapError, NoOriginalError.
        """
        digest = self.live_digest()
        message = self._message(study, digest)
        answered = self.answer(study, message.job) is not None
        if not answered:
            queue = self._clients.sqs.get_queue_url(QueueName=self._settings.names.jobs_queue)["QueueUrl"]
            self._clients.sqs.send_message(QueueUrl=queue, MessageBody=message.to_json())
            self._wake()
        return Asked(study, message.job, digest, answered)

    def answer(self, study: str, job: str) -> ResultRecord | None:
        """The commit record of a job, wherever it ended; None while there is none."""
        return next((record for key in commit_keys(study, job) if (record := self._store.record(key))), None)

    def wait(self, asked: Asked, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> ResultRecord:
        """Wait for the commit record. Raises NotAnsweredError after the MAP's time limit and the queue's allowance."""
        began = clock()
        bound = self._settings.map_timeout_s + QUEUE_ALLOWANCE_SECONDS
        reported = began
        while True:
            record = self.answer(asked.study, asked.job)
            if record is not None:
                return record
            waited = clock() - began
            if waited > bound:
                raise NotAnsweredError(
                    f"Job {asked.job} has no result after {waited:.0f} s. It stays queued and is recorded when it is answered; "
                    f"see docs/operations.md for where a waiting job may be."
                )
            if clock() - reported >= PROGRESS_SECONDS:
                reported = clock()
                self._log(f"Waiting for job {asked.job} for {waited:.0f} s; {self._queue_state()}")
            sleep(POLL_SECONDS)

    def _message(self, study: str, digest: str) -> JobMessage:
        bucket = self._store.bucket
        pages = self._clients.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{PROCESSED_PREFIX}{study}/")
        originals = [item for page in pages for item in page.get("Contents", []) if item["Key"].endswith("/upload.zip")]
        if not originals:
            raise NoOriginalError(
                f"There is no original under {PROCESSED_PREFIX}{study}/: the study was never answered, or its original was removed or has "
                "expired (MONAI_AWS_ORIGINALS_EXPIRE_DAYS). Upload it again."
            )
        key = max(originals, key=lambda item: (item["LastModified"], item["Key"]))["Key"]
        head = self._clients.s3.head_object(Bucket=bucket, Key=key)
        return JobMessage.for_object(
            bucket=bucket, key=key, version=head.get("VersionId", ""), etag=head["ETag"], size=head["ContentLength"], request=digest
        )

    def _wake(self) -> None:
        name = self._settings.names.wake_function
        try:
            self._clients.functions.invoke(FunctionName=name, InvocationType="Event", Payload=WAKE_EVENT)
        except ClientError as error:
            # Nothing is lost: the schedule wakes the same function and finds the queued job.
            code = error.response.get("Error", {}).get("Code", "unknown")
            self._log(f"Could not wake a host at once ({code}); the schedule does within {self._settings.wake_every_minutes} minutes.")

    def _queue_state(self) -> str:
        try:
            queue = self._clients.sqs.get_queue_url(QueueName=self._settings.names.jobs_queue)["QueueUrl"]
            state = self._clients.sqs.get_queue_attributes(
                QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            )["Attributes"]
        except ClientError as error:
            return f"the queue cannot be read ({error.response.get('Error', {}).get('Code', 'unknown')})"
        return f"{state['ApproximateNumberOfMessages']} jobs queued, {state['ApproximateNumberOfMessagesNotVisible']} at work"
