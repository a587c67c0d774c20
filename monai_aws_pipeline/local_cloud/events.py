"""Queues as AWS has them on a bad day: S3 events that come twice or out of order, messages that show up again while they are worked on.

S3 promises at-least-once delivery and no order; a standard queue's message comes back when its visibility ends. Here belongs what makes
both happen when they were ordered (faults.py); ministack's own delivery does the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from ministack.core.responses import set_request_region
from ministack.services import s3, sqs

from . import identity
from .faults import FaultBoard, FaultError

_LONGEST_HOLD_S: Final = 5.0
"""Events that wait for others to be shuffled with are delivered after this long anyway."""


class QueueFaults:
    """Carries out the orders about queues."""

    def __init__(self, faults: FaultBoard, region: str) -> None:
        self._faults, self._region = faults, region
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], None]] = []

    def install(self) -> None:
        """Put this between S3 and the queues."""
        deliver = s3._deliver_event_to_sqs

        def delivered(arn: str, event_payload: dict[str, Any], bucket_region: str, bucket_name: str = "") -> None:
            def now() -> None:
                identity.as_account()
                for _ in range(2 if self._faults.take_duplicate() else 1):
                    deliver(arn, event_payload, bucket_region, bucket_name=bucket_name)

            left = self._faults.take_shuffled()
            if not left:
                now()
                return
            with self._lock:
                self._waiting.append(now)
            if left == 1:
                self._release()
            else:
                threading.Timer(_LONGEST_HOLD_S, self._release).start()

        s3._deliver_event_to_sqs = delivered

    def _release(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for deliver in reversed(waiting):
            deliver()

    def redeliver(self, queue: str) -> int:
        """End the invisibility of every message of a queue now, as if its time were over; returns how many. Raises FaultError."""
        identity.as_account()
        set_request_region(self._region)
        found = sqs._queues.get(sqs._queue_url(queue))
        if found is None:
            raise FaultError(f"there is no queue {queue}")
        now = time.time()
        hidden = [message for message in found["messages"] if message["visible_at"] > now]
        for message in hidden:
            message["visible_at"] = now
        s3.esm_wake.set()
        return len(hidden)
