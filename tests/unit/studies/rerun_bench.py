"""What re-runs meet in tests: a deployment with a live MAP, a jobs queue, originals, and an agent that ends jobs when told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import (
    InputFacts,
    JobDone,
    JobMessage,
    ResultError,
    ResultRecord,
    Status,
    job_done_key,
    quarantine_key,
    utc_text,
)
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.settings import Settings, load_settings
from monai_aws_pipeline.studies.rerun import Reruns
from tests.unit.studies.records import NOON, OTHER_DIGEST, Bucket, picture, refused, study_of, succeeded

STUDY = study_of(1)


class Deployment:
    """What a re-run meets: a live MAP, a jobs queue, a study's original, and an agent that answers when told."""

    def __init__(self, bucket: Bucket):
        self.bucket = bucket
        self.settings: Settings = load_settings(bucket=bucket.name, _env_file=None)
        self.clients = Clients("us-east-1")
        self.queue = self.clients.sqs.create_queue(QueueName=self.settings.names.jobs_queue)["QueueUrl"]
        self.log: list[str] = []
        self.reruns = Reruns(self.clients, self.settings, ResultsStore(bucket.s3, bucket.name), self.log.append)

    def make_live(self, digest: str) -> None:
        self.clients.ssm.put_parameter(
            Name=self.settings.names.live_map_parameter, Value=f"registry/map@{digest}", Type="String", Overwrite=True
        )

    def queued(self) -> list[JobMessage]:
        messages = self.clients.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10, VisibilityTimeout=0).get("Messages", [])
        return [JobMessage.from_json(message["Body"]) for message in messages]

    def take(self) -> list[JobMessage]:
        """What is queued, as an agent takes it: each job once, and its messages are gone."""
        taken = {}
        while messages := self.clients.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                self.clients.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
                taken[JobMessage.from_json(message["Body"]).job] = JobMessage.from_json(message["Body"])
        return list(taken.values())

    def answer(self, digest: str = OTHER_DIGEST, at: datetime = NOON) -> ResultRecord:
        (message,) = self.take()
        record = replace(succeeded(1, at, digest, message.request, outputs=()), job=message.job)
        return self.bucket.commit(record, picture())


def failed_upload(deployment: Deployment, number: int, original: bytes | None = b"PK failed", study: str = STUDY) -> ResultRecord:
    record = replace(refused(number, study=study, status=Status.FAILED), error=ResultError("map_failed", "It failed.", "out of luck"))
    if original:
        deployment.bucket.put(quarantine_key(record.job, "upload.zip"), original)
    return deployment.bucket.commit(record)


def fail(deployment: Deployment, study: str = STUDY, at: datetime = NOON) -> ResultRecord:
    """The agent ends the one queued job with a failure."""
    (message,) = deployment.take()
    error = ResultError("map_failed", "The application ended with exit code 3.", "tiny: failing")
    facts = InputFacts("a" * 64, "0" * 32, 1)
    return deployment.bucket.commit(
        ResultRecord(message.job, study, Status.FAILED, utc_text(at), facts, error=error, request=message.request)
    )


def work_off(deployment: Deployment, end: Callable[[JobMessage], ResultRecord]) -> None:
    """The agent ends every queued job, each as it is told, and marks it done."""
    for message in deployment.take():
        record = deployment.bucket.commit(end(message))
        deployment.bucket.put(job_done_key(record.job), JobDone(record.job, (record.commit_key,), utc_text(NOON)).to_json())
