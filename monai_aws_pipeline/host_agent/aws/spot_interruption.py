"""AWS's word that it takes this machine back: from then on nothing new is begun, and what cannot end in time is given back.

Here belongs listening and the two moments; what they mean for jobs is in ``pipeline.py``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from monai_aws_pipeline.host_agent.aws.instance_metadata import interruption

log = logging.getLogger(__name__)

EVERY_S: Final = 5.0
"""As often as AWS recommends."""
NOTICE_S: Final = 120.0
"""No notice is longer, so a clock that is wrong cannot make one so."""
MARGIN_S: Final = 20.0
"""For ending the application, giving the jobs back and shutting the machine down."""


def seconds_to_finish(taken_at: datetime, now: datetime) -> float:
    """How long what runs may go on, with a machine that is taken at that time."""
    return max(0.0, min((taken_at - now).total_seconds(), NOTICE_S) - MARGIN_S)


class Notice:
    """Listens on a thread of its own: sets ``leave`` when AWS has spoken, and ``stop`` when there is no time left."""

    def __init__(
        self,
        leave: threading.Event,
        stop: threading.Event,
        ask: Callable[[], datetime | None] = interruption,
        every_s: float = EVERY_S,
    ):
        self._leave, self._stop, self._ask, self._every_s = leave, stop, ask, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="notice", daemon=True)

    def __enter__(self) -> Notice:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._over.wait(self._every_s):
            if taken_at := self._ask():
                left = seconds_to_finish(taken_at, datetime.now(UTC))
                log.warning("AWS takes this machine back; nothing new is begun, what runs has %.0f s to end", left)
                self._leave.set()
                if not self._over.wait(left):
                    self._stop.set()
                return
