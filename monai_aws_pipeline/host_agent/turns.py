"""Whose turn it is: studies begin in the order they came, as many at once as this digest may, and never two digests beside each other.

Here belongs waiting for a place. One stands at the door at a time, so whoever needs the machine for itself waits there until the others
have left, and nobody overtakes. How many places there are is decided in ``at_once.py``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from monai_aws_pipeline.host_agent.at_once import AtOnce
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.maps.spec.run import Limits

_LOOK_S: Final = 0.2

ReadyFor = Callable[[ReadyMap, int], bool]
"""Whether the MAP's containers are ready for so many at once; begins what is missing."""


class Place:
    """A study that runs. ``limits``: what it may use; ``beside``: the most that ran with it.

    ``leave`` may be called more than once, ``close`` is called last.
    """

    def __init__(self, turns: Turns, ready: ReadyMap, limits: Limits, *, alone: bool):
        self._turns, self.ready, self.limits, self.alone, self.beside = turns, ready, limits, alone, 0

    def leave(self) -> None:
        """Nothing of the MAP runs for this study any more."""
        self._turns.left(self)

    def close(self) -> None:
        """How it ended is known as well."""
        self._turns.left(self)
        self._turns.closed(self)


class Door:
    """Held by the study whose turn comes next."""

    def __init__(self, turns: Turns, check: Callable[[], None]):
        self._turns, self._check = turns, check

    def wait(self, ready: ReadyMap | None = None, *, until_empty: bool = False) -> None:
        """Until there is a place beside those that run, of ``ready``'s image where that is known, or until none runs.

        Raises what ``check`` raises.
        """
        self._turns.wait(self._check, ready, until_empty=until_empty)

    def enter(self, ready: ReadyMap, *, alone: bool = False) -> Place | None:
        """Take it; None where this MAP must wait: another one runs, or by now there are too many or they may use too much of the memory.

        ``alone``: let nobody in beside it.
        """
        return self._turns.enter(ready, alone=alone)


class Turns:
    """The places of one host."""

    def __init__(self, at_once: AtOnce, ready_for: ReadyFor):
        self._at_once, self._ready_for = at_once, ready_for
        self._changed = threading.Condition()
        self._waiting: deque[Door] = deque()
        self._running: list[Place] = []
        self._open: list[Place] = []
        self._number = 1

    @property
    def number(self) -> int:
        """How many were let in at once when that was decided last."""
        return self._number

    @property
    def is_taken(self) -> bool:
        """Whether the next study will have to wait, as far as one can say."""
        with self._changed:
            return bool(self._running or self._waiting)

    @contextmanager
    def door(self, check: Callable[[], None]) -> Iterator[Door]:
        """Stand at the door when those that came before have gone in. ``check`` is called while waiting, and may raise."""
        door = Door(self, check)
        with self._changed:
            self._waiting.append(door)
        try:
            self._come_first(door, check)
            yield door
        finally:
            with self._changed:
                self._waiting.remove(door)
                self._changed.notify_all()

    def wait(self, check: Callable[[], None], ready: ReadyMap | None, *, until_empty: bool) -> None:
        """See Door."""
        while True:
            check()
            with self._changed:
                running = list(self._running)
                # An engine that is slow to say how runs ended is not given ever more of them.
                before = len(running), len(self._open)
                are_known = len(self._open) <= self._number
            is_free = not running or (not until_empty and self._has_place(ready or running[0].ready, running))
            if are_known and is_free:
                return
            with self._changed:
                if (len(self._running), len(self._open)) == before:
                    self._changed.wait(_LOOK_S)

    def _has_place(self, ready: ReadyMap, running: Sequence[Place]) -> bool:
        return self._may_join(ready, self._at_once.limits(ready.facts.digest), running) and self._ready_for(ready, self._number)

    def _may_join(self, ready: ReadyMap, limits: Limits, running: Sequence[Place]) -> bool:
        """Whether one more may run beside these. Number and share may have been others when they began."""
        if running[0].alone or running[0].ready.image != ready.image:
            return False
        self._number = self._at_once.number(ready.facts.digest)
        taken = sum(place.limits.memory_mib for place in running)
        return len(running) < self._number and taken + limits.memory_mib <= self._at_once.shared_mib

    def enter(self, ready: ReadyMap, *, alone: bool) -> Place | None:
        """See Door."""
        if not self._running:  # and none comes meanwhile: this one stands at the door
            self._number = 1 if alone else self._at_once.number(ready.facts.digest)
            self._ready_for(ready, self._number)
        with self._changed:
            limits = self._at_once.limits(ready.facts.digest, alone=alone)
            if self._running and not self._may_join(ready, limits, self._running):
                return None
            place = Place(self, ready, limits, alone=alone)
            self._running.append(place)
            self._open.append(place)
            for each in self._running:
                each.beside = max(each.beside, len(self._running) - 1)
            return place

    def left(self, place: Place) -> None:
        """See Place."""
        with self._changed:
            if place not in self._running:
                return
            running = len(self._running)
            self._running.remove(place)
            self._at_once.left(place.ready.facts.digest, time.monotonic(), running, awaited=bool(self._waiting))
            self._changed.notify_all()

    def closed(self, place: Place) -> None:
        """See Place."""
        with self._changed:
            self._open = [each for each in self._open if each is not place]
            self._changed.notify_all()

    def _come_first(self, door: Door, check: Callable[[], None]) -> None:
        while True:
            check()
            with self._changed:
                if self._changed.wait_for(lambda: self._waiting[0] is door, _LOOK_S):
                    return
