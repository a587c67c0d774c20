"""SQS queues: made, brought to what is wanted, counted and removed; who may send to one, and where its dead letters go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from monai_aws_pipeline.cloud.service_calls import ServiceCalls

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType as AttributeName

_NO_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})


@dataclass(frozen=True)
class Queue:
    """An SQS queue."""

    url: str
    arn: str


class Queues(ServiceCalls):
    """The queues of one deployment."""

    def find_queue(self, name: str) -> Queue | None:
        """A queue by name, or None."""
        found = self._find(f"looking for the queue {name}", lambda: self._clients.sqs.get_queue_url(QueueName=name), _NO_QUEUE)
        return self._queue(found["QueueUrl"]) if found else None

    def _queue(self, url: str) -> Queue:
        asked = partial(self._clients.sqs.get_queue_attributes, QueueUrl=url, AttributeNames=["QueueArn"])
        return Queue(url, self._ask("looking at a queue", asked)["Attributes"]["QueueArn"])

    def ensure_queue(self, name: str, attributes: Mapping[str, str]) -> Queue:
        """Make a queue, or bring an existing one to these attributes. One of that name that was deleted within the minute is waited for."""
        sqs, given = self._clients.sqs, dict(attributes)
        found = self.find_queue(name)
        if found is not None:
            self._ask(f"changing the queue {name}", lambda: sqs.set_queue_attributes(QueueUrl=found.url, Attributes=given))  # type: ignore[arg-type]
            return found
        made = self._ask(f"creating the queue {name}", lambda: sqs.create_queue(QueueName=name, Attributes=given, tags=self._tags))  # type: ignore[arg-type]
        return self._queue(made["QueueUrl"])

    def depth(self, queue: Queue) -> tuple[int, int]:
        """About how many messages wait in a queue, and how many are at work."""
        names: list[AttributeName] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        asked = partial(self._clients.sqs.get_queue_attributes, QueueUrl=queue.url, AttributeNames=names)
        counts = self._ask("counting a queue's messages", asked)["Attributes"]
        return int(counts["ApproximateNumberOfMessages"]), int(counts["ApproximateNumberOfMessagesNotVisible"])

    def remove_queue(self, name: str) -> None:
        """Delete a queue with all its messages; one that is gone already is fine."""
        if found := self.find_queue(name):
            self._find(f"deleting the queue {name}", lambda: self._clients.sqs.delete_queue(QueueUrl=found.url), _NO_QUEUE)


def queue_policy(queue_arn: str, bucket: str, account: str) -> str:
    """The policy that lets this account's bucket, and nobody else, send to the queue. Both are in one partition (``aws``, ``aws-cn``)."""
    partition = queue_arn.split(":")[1]
    statement = {
        "Sid": "UploadsOfOurBucket",
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnLike": {"aws:SourceArn": f"arn:{partition}:s3:::{bucket}"}, "StringEquals": {"aws:SourceAccount": account}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, sort_keys=True)


def redrive(dead_letters: Queue, receipts: int) -> str:
    """The redrive policy: after so many receipts a message goes to the dead letters."""
    return json.dumps({"deadLetterTargetArn": dead_letters.arn, "maxReceiveCount": receipts}, sort_keys=True)
