"""What an agent that was told to stop may still take its time for. systemd kills what is left of it after its unit's TimeoutStopSec.

Here is the whole budget, in seconds from the stop:

    at once    nothing new is begun, what runs is given back
    engine     the container engine has answered; what it has not removed by then is left to ``remove_leftovers`` at the next start
    jobs       what is being published has been published; the message of what has not comes back by itself
    last       this process has ended, whoever is still at work in it

Nothing in here knows what is done in that time. Standard library only.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """Seconds from the stop. ``late``: for a call to the engine that begins after its time, because others took all of it."""

    engine: float = 15.0
    late: float = 2.0
    jobs: float = 35.0
    last: float = 50.0


class Stop(threading.Event):
    """Set when the agent is told to stop; knows since when."""

    def __init__(self, budget: Budget | None = None) -> None:
        super().__init__()
        self.budget = budget or Budget()
        self._at = math.inf

    def set(self) -> None:
        """From now on the budget counts."""
        self._at = min(self._at, time.monotonic())
        super().set()

    def over(self, seconds: float) -> bool:
        """Whether it was set so many seconds ago."""
        return time.monotonic() >= self._at + seconds

    def left(self, began: float, seconds: float) -> float:
        """Seconds that are left to a call to the engine, which began then (monotonic) and would have so many without a stop."""
        return min(began + seconds, max(self._at + self.budget.engine, began + self.budget.late)) - time.monotonic()


def stop_on_signals(end: Callable[[int], object] = os._exit, budget: Budget | None = None) -> Stop:
    """What is set when this process is asked to end, and ends it where it does not do so in time."""
    stop = Stop(budget)

    def told(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    threading.Thread(target=_end_in_time, args=(stop, end), name="end in time", daemon=True).start()
    return stop


def _end_in_time(stop: Stop, end: Callable[[int], object]) -> None:
    stop.wait()
    time.sleep(stop.budget.last)
    at_work = ", ".join(sorted(thread.name for thread in threading.enumerate() if not thread.daemon))
    log.error("told to stop %.0f s ago and still at work (%s); what is not done is left to the next start", stop.budget.last, at_work)
    end(1)
