"""SQS's limits, which ministack does not have: 12 hours out of sight, 120,000 messages in flight, one purge a minute.

The first two can be ordered lower (faults.py, ``account``), because nobody waits or sends that much to see them.
Sources: SQS API Reference, ChangeMessageVisibility, ReceiveMessage, PurgeQueue; Developer Guide, "Amazon SQS visibility timeout".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from ministack.services import sqs

from .faults import FaultBoard

_PURGE_EVERY_S: Final = 60.0
Json = dict[str, Any]


class QueueLimits:
    """The limits of the queues of one cloud."""

    def __init__(self, faults: FaultBoard, clock: Callable[[], float] = time.time) -> None:
        self._faults, self._clock = faults, clock
        self._purged: dict[str, float] = {}

    def install(self) -> None:
        """Put this before ministack's SQS."""
        collect, change, receive, purge = (
            sqs._collect_msgs,
            sqs._act_change_visibility,
            sqs._HANDLERS["ReceiveMessage"],
            sqs._HANDLERS["PurgeQueue"],
        )

        def collect_and_note(queue: Json, most: int, visibility: int) -> list[Json]:
            found: list[Json] = collect(queue, most, visibility)
            for message in found:
                message["received_at"] = self._clock()
            return found

        def change_within_limits(data: Json, url: str) -> Json:
            self._check_visibility(sqs._get_q(data.get("QueueUrl", url)), data)
            changed: Json = change(data, url)
            return changed

        async def receive_within_limits(data: Json, url: str) -> Json:
            queue = sqs._get_q(data.get("QueueUrl", url))
            if self._in_flight(queue) < self._faults.account.in_flight:
                received: Json = await receive(data, url)
                return received
            if int(data.get("WaitTimeSeconds") or queue["attributes"].get("ReceiveMessageWaitTimeSeconds", "0")):
                return {}  # who waits is told nothing
            raise sqs._Err("OverLimit", "The maximum number of in flight messages is reached.", 403)

        def purge_now_and_then(data: Json, url: str) -> Json:
            arn = str(sqs._get_q(data.get("QueueUrl", url))["attributes"]["QueueArn"])
            if self._clock() - self._purged.get(arn, -_PURGE_EVERY_S) < _PURGE_EVERY_S:
                words = f"Only one PurgeQueue operation on {arn.rpartition(':')[2]} is allowed every 60 seconds."
                raise sqs._Err("PurgeQueueInProgress", words, 403)
            self._purged[arn] = self._clock()
            purged: Json = purge(data, url)
            return purged

        sqs._collect_msgs = collect_and_note
        sqs._HANDLERS.update(
            ReceiveMessage=receive_within_limits, PurgeQueue=purge_now_and_then, ChangeMessageVisibility=change_within_limits
        )

    def _check_visibility(self, queue: Json, data: Json) -> None:
        seconds, most = int(data.get("VisibilityTimeout", 30)), self._faults.account.in_flight_s
        for message in queue["messages"]:
            if message["receipt_handle"] and message["receipt_handle"] == data.get("ReceiptHandle"):
                since = message.get("received_at") or message.get("first_receive_at") or self._clock()
                if seconds and self._clock() + seconds > since + most:
                    reason = f"Total VisibilityTimeout for the message is beyond the limit [{most} seconds]"
                    words = f"Value {seconds} for parameter VisibilityTimeout is invalid. Reason: {reason}."
                    raise sqs._Err("InvalidParameterValue", words)

    def _in_flight(self, queue: Json) -> int:
        now = self._clock()
        return sum(1 for message in queue["messages"] if message["visible_at"] > now and message.get("receive_count"))
