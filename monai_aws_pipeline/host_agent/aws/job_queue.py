"""The jobs queue: take a message, keep it invisible while it is worked on, and end it or give it back.

Here belongs SQS and the heartbeat thread. What a message means is decided in ``agent.py``. Source: AWS, "Amazon SQS visibility timeout".
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from types import TracebackType

    from mypy_boto3_sqs import SQSClient

log = logging.getLogger(__name__)

VISIBILITY_S: Final = 120
HEARTBEAT_S: Final = 30
WAIT_S: Final = 5
"""Long poll. Short, because a machine that is told to stop waits for it."""
_DEFAULT_RECEIVES: Final = 3


@dataclass(frozen=True)
class Delivery:
    """One receipt of a message: its id, its text, how often it was received; ``last``: the queue would dead-letter the next receipt."""

    message: str
    body: str
    receipt: str
    receives: int
    last: bool


class JobsQueue:
    """One queue, found by name when it is first used: a host may be made before its queue exists."""

    def __init__(self, client: SQSClient, name: str):
        self._sqs = client
        self._name = name

    @cached_property
    def _url(self) -> str:
        return self._sqs.get_queue_url(QueueName=self._name)["QueueUrl"]

    @cached_property
    def max_receives(self) -> int:
        """After how many receipts the queue dead-letters a message; read from its redrive policy."""
        found = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["RedrivePolicy"]).get("Attributes", {})
        try:
            return int(json.loads(found.get("RedrivePolicy", "{}"))["maxReceiveCount"])
        except (ValueError, KeyError, TypeError):
            return _DEFAULT_RECEIVES

    def take(self, wait_s: int = WAIT_S) -> Delivery | None:
        """The next message, invisible to others for 120 s; None when none came within the wait."""
        answer = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=1,
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=VISIBILITY_S,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        for message in answer.get("Messages", []):
            receives = int(message.get("Attributes", {}).get("ApproximateReceiveCount", "1"))
            return Delivery(message["MessageId"], message["Body"], message["ReceiptHandle"], receives, receives >= self.max_receives)
        return None

    def waiting(self) -> int:
        """About how many messages wait or are delayed, those in work elsewhere not counted."""
        found = self._sqs.get_queue_attributes(
            QueueUrl=self._url, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
        ).get("Attributes", {})
        return sum(int(count) for count in found.values())

    def done(self, delivery: Delivery) -> None:
        """Remove the message for good."""
        self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=delivery.receipt)

    def extend(self, delivery: Delivery, seconds: int) -> None:
        """Keep the message invisible for so many seconds from now; 0 gives it back at once."""
        self._sqs.change_message_visibility(QueueUrl=self._url, ReceiptHandle=delivery.receipt, VisibilityTimeout=seconds)

    def give_back(self, delivery: Delivery, seconds: int = 0) -> None:
        """Let another try begin after so many seconds. A message that is gone already is fine."""
        try:
            self.extend(delivery, seconds)
        except ClientError as error:
            log.warning("a message could not be given back (%s); it comes back by itself", _code(error))

    def hand_over(self, delivery: Delivery) -> None:
        """Give back a job that was interrupted through no fault of its own, without counting the try.

        Sent anew, then deleted: in this order a crash between the two makes a duplicate, which the commit record settles, and no loss.
        """
        self._sqs.send_message(QueueUrl=self._url, MessageBody=delivery.body)
        self.done(delivery)


class Heartbeat:
    """Keeps one message invisible while its job runs, on a thread of its own: ``with Heartbeat(queue, delivery): …``."""

    def __init__(self, queue: JobsQueue, delivery: Delivery, every_s: float = HEARTBEAT_S):
        self._queue, self._delivery, self._every_s = queue, delivery, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                self._queue.extend(self._delivery, VISIBILITY_S)
            except ClientError as error:
                # The message may be somebody else's by now. The job goes on: whoever commits first has answered it.
                log.warning("the job's message could not be kept (%s)", _code(error))
            except BotoCoreError as error:
                log.warning("the queue could not be reached (%s); trying again", error.__class__.__name__)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
