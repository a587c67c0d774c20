"""Lambda entry point: a batch of upload events becomes job messages, and a host is woken for them. Never waits for a machine.

Here belong parsing events and sending messages. Which host to wake is decided in ``hosts.py``. Logs name jobs, never keys: a key may be a
patient's name. Sources: AWS, "Event message structure" (S3), "Using Lambda with Amazon SQS" (partial batch responses).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from lambda_fn.folders import Folders, job_of_marker
from lambda_fn.hosts import Hosts
from monai_aws_pipeline.contract import ContractError, JobMessage, is_marker, is_upload

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_sqs import SQSClient

logger = Logger(service="monai-aws-wake", utc=True)
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a batch of the uploads queue, or any other event (the schedule's): complete quiet folders, wake hosts, stop forgotten ones."""
    answer: dict[str, Any] = {}
    sent = 0
    if "Records" in event:
        with processor(event["Records"], enqueue, context):
            sent = sum(int(result[1]) for result in processor.process() if result[0] == "success")
        answer = dict(processor.response())
    elif minutes := float(os.environ["FOLDER_QUIET_MINUTES"]):
        Folders(os.environ["UPLOADS_BUCKET"], timedelta(minutes=minutes), logger).complete()
    counted, in_hand = jobs_queued()
    waiting = max(sent, counted)  # the count of a queue lags behind what was just sent to it
    hosts = Hosts(os.environ["MONAI_AWS_DEPLOYMENT"], logger)
    group = os.environ.get("FLEET_GROUP", "")
    if waiting and group:
        hosts.lift(group)
    elif waiting:
        hosts.wake(waiting)
    if "Records" not in event:
        hosts.look_after(waiting + in_hand, group, timedelta(minutes=float(os.environ.get("FORGOTTEN_MINUTES", "0"))))
    return answer


def enqueue(record: SQSRecord) -> int:
    """Send a job for each study that one S3 event names; returns how many. After an error this record alone comes again."""
    named = (job_of_marker(job) if is_marker(job.key) and not job.version else job for job in jobs_of(record.body))
    jobs = [job for job in named if job]
    for job in jobs:
        queue().send_message(QueueUrl=os.environ["JOBS_QUEUE_URL"], MessageBody=job.to_json())
        logger.info("job enqueued", extra={"job": job.job, "bytes": job.size})
    return len(jobs)


def jobs_of(body: str) -> Iterator[JobMessage]:
    """The jobs of one S3 event notification; none for a test event, a file of a folder or anything outside ``input/``."""
    try:
        event = json.loads(body)
        records = event.get("Records", []) if event.get("Event") != "s3:TestEvent" else []
        for record in records:
            if str(record["eventName"]).startswith("ObjectCreated:"):
                job = _job(record["s3"])
                if is_upload(job.key, job.size):
                    yield job
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"an upload event cannot be read ({error.__class__.__name__})") from None  # the cause's text may quote the key


def jobs_queued() -> tuple[int, int]:
    """About how many jobs wait in the jobs queue, and how many are in a host's hands."""
    found = queue().get_queue_attributes(
        QueueUrl=os.environ["JOBS_QUEUE_URL"], AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    )["Attributes"]
    return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])


@cache
def queue() -> SQSClient:
    """The SQS client, made once for each execution environment."""
    return boto3.client("sqs")


def _job(s3: dict[str, Any]) -> JobMessage:
    thing = s3["object"]
    return JobMessage.for_object(
        bucket=str(s3["bucket"]["name"]),
        # S3 writes keys as in a form: spaces as +, everything else as %XX of UTF-8.
        key=unquote_plus(str(thing["key"]), errors="strict"),
        version=str(thing.get("versionId") or ""),
        etag=str(thing.get("eTag") or ""),
        size=int(thing.get("size") or 0),
    )
