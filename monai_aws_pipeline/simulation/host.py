"""One host as the agent works it: the next jobs fetched, k studies inferred side by side, the ones before published.

Here belongs what a host has in hand and how far its inference is; when things happen is in ``day.py``. The studies in inference share the
host: each goes on at the host's measured rate for so many, divided by how many they are. A host that is new begins with one at a time, and
finds by its backlog how many are best, as the agent does (``host_agent/at_once.py``).
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from monai_aws_pipeline.simulation.measured import Speed

_AHEAD = 2
_PUBLISHERS = 2
ROUNDS = 3
LEAST_S = 5.0
"""With a backlog, so many studies a place are measured, and for so long, before one more is tried at once."""


class State(StrEnum):
    """What a host is doing. ``leaving``: AWS takes it back, nothing new is begun."""

    OFF = "off"
    STARTING = "starting"
    ON = "on"
    LEAVING = "leaving"
    STOPPING = "stopping"


@dataclass
class Message:
    """A job message: which job of the day, since when it waits in the queue."""

    job: int
    since: float


@dataclass
class Host:
    """A host. ``life`` counts its starts, and ``turn`` the changes of its inference, so that events of an earlier one are known as such.

    ``at_once``: how many studies are best; ``places``: how many it infers now.
    """

    number: int
    at_once: int
    speed: Speed
    state: State = State.OFF
    life: int = 0
    turn: int = 0
    on_at: float = 0.0
    polls_from: float = 0.0
    idle_since: float = 0.0
    is_fetching: bool = False
    in_hand: dict[int, Message] = field(default_factory=dict)
    waiting: deque[Message] = field(default_factory=deque)
    running: list[tuple[float, int, Message]] = field(default_factory=list)
    publishing: deque[Message] = field(default_factory=deque)
    publishers: int = 0
    places: int = 0
    _progress: float = 0.0
    _progress_at: float = 0.0
    _measured: int = 0
    _measured_since: float = 0.0

    def __post_init__(self) -> None:
        """It has found its number on an earlier day, unless it is new."""
        self.places = self.at_once

    @property
    def has_place(self) -> bool:
        """Whether another job may be taken: one is fetched at a time, some wait for the MAP, and those published are counted too."""
        ahead = _AHEAD + self.places
        most = ahead + self.places + self.most_publishers
        return self.state is State.ON and not self.is_fetching and len(self.waiting) < ahead and len(self.in_hand) < most

    @property
    def most_publishers(self) -> int:
        """How many are published at once."""
        return _PUBLISHERS + (self.places - 1) // 2

    def start(self, now: float, *, is_new: bool = False) -> None:
        """Power on. Nothing of an earlier life is in hand. ``is_new``: another machine, which knows nothing of an earlier life either."""
        self.state, self.on_at = State.STARTING, now
        self.places, self._measured = 1 if is_new else self.places, 0
        self.life += 1
        self.turn += 1
        self._progress, self._progress_at = 0.0, now
        self.is_fetching, self.publishers = False, 0

    def infer(self, now: float, work: list[float]) -> None:
        """Let waiting studies begin while there are places. ``work`` by job: how many studies it holds."""
        self._go_on(now)
        while self.waiting and len(self.running) < self.places:
            message = self.waiting.popleft()
            heapq.heappush(self.running, (self._progress + work[message.job], message.job, message))
        self.turn += 1

    def next_end(self) -> float | None:
        """When the first of those in inference ends, if nothing comes or goes until then."""
        if not self.running:
            return None
        each = self.speed.rate(len(self.running)) / len(self.running)
        return self._progress_at + max(0.0, self.running[0][0] - self._progress) / each

    def ended(self, now: float) -> Message:
        """Take out the study whose inference ends now."""
        self._go_on(now)
        self._measure(now)
        return heapq.heappop(self.running)[2]

    def _measure(self, now: float) -> None:
        """A place becomes free. While each is taken as soon as it is free, so many are counted, and then one more is tried."""
        if len(self.running) < self.places or not self.waiting:
            self._measured = 0
            return
        if not self._measured:  # the first begins the measurement
            self._measured_since = now
        self._measured += 1
        is_measured = self._measured > ROUNDS * self.places and now - self._measured_since >= LEAST_S
        if is_measured and self.places < self.at_once:
            self.places, self._measured = self.places + 1, 0

    def drop_waiting(self) -> list[Message]:
        """Give up what is fetched and has not begun."""
        given = list(self.waiting)
        self.waiting.clear()
        return given

    def drop_all(self) -> list[Message]:
        """Give up everything in hand."""
        self.waiting.clear()
        self.running.clear()
        self.publishing.clear()
        self.turn += 1
        return list(self.in_hand.values())

    def _go_on(self, now: float) -> None:
        if self.running:
            self._progress += (now - self._progress_at) * self.speed.rate(len(self.running)) / len(self.running)
        self._progress_at = now
