"""Waiting, with a bound and never in silence: looking at something until it is as it should be, and telling meanwhile what is waited for.

Here belongs the clock alone. What is looked at, when that is done and what it means that it is not are the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, cast

from monai_aws_pipeline.cloud.progress import Report

EVERY_S: Final = 10.0
"""Nobody who waits hears nothing for longer."""
_FIRST_PAUSE_S: Final = 0.3
_GROWTH: Final = 1.5
_TICK_S: Final = 1.0

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def silently(_: str) -> None:
    """A report for whoever waits a moment only, or has said it already."""


class Telling:
    """Says a line when it is another one than before, and ``again`` after 10 s, with the seconds since it was said first."""

    def __init__(self, report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._clock = report, clock
        self._lock = threading.Lock()
        self._line = ""
        self._since = self._last = 0.0

    def __call__(self, line: str) -> None:
        """Say it, unless it is what was said last."""
        if line != self._line:
            self.say(line)

    def say(self, line: str) -> None:
        """Say it, also where it is what was said last."""
        with self._lock:
            self._line = line
            self._since = self._last = self._clock()
            self._report(line)

    def again(self) -> None:
        """Say the last line again where that is due."""
        with self._lock:
            now = self._clock()
            if self._line and now - self._last >= EVERY_S:
                self._last = now
                self._report(f"{self._line} (for {now - self._since:.0f} s)")


def wait_until(
    look: Callable[[], T],
    done: Callable[[T], bool],
    seconds: float,
    *,
    what: str | Callable[[T], str],
    report: Report = silently,
    pause: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Look until what is seen is done or the time is over; what was seen last. Whether that is what was wanted, the caller says.

    Args:
        look: Asks; what it raises ends the wait.
        done: Whether nothing better is to come of what was seen.
        seconds: Bound of the wait. It is looked at least once, and once more at the end.
        what: What is waited for, for the user; of what was seen, where it says more. Reported unless the first look is done, when it
            changes, and every 10 s.
        report: Takes those lines.
        pause: Longest pause between two looks. The first are shorter.
        sleep: Pauses.
        clock: Seconds that only grow.
    """
    telling = Telling(report, clock)
    deadline, nap = clock() + seconds, min(_FIRST_PAUSE_S, pause)
    while True:
        seen = look()
        left = deadline - clock()
        if done(seen) or left <= 0:
            return seen
        telling(what if isinstance(what, str) else what(seen))
        telling.again()
        sleep(min(nap, left))
        nap = min(nap * _GROWTH, pause)


def retried(
    call: Callable[[], T],
    expected: type[E],
    passes: Callable[[E], bool],
    seconds: float,
    *,
    what: str | Callable[[E], str],
    report: Report,
    pause: float = 8.0,
) -> T:
    """Make a call, again while it raises what passes, and give what it gives; what it raises at the end, or does not pass, is raised.

    The other arguments are those of ``wait_until``.
    """

    def once() -> tuple[T | None, E | None]:
        try:
            return call(), None
        except expected as error:
            if not passes(error):
                raise
            return None, error

    def waiting(seen: tuple[T | None, E | None]) -> str:
        return what if isinstance(what, str) else what(cast("E", seen[1]))

    answer, error = wait_until(once, lambda seen: seen[1] is None, seconds, what=waiting, report=report, pause=pause)
    if error is not None:
        raise error
    return cast("T", answer)


@contextmanager
def repeating(report: Report, tick_s: float = _TICK_S, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """A report whose last line is said again when 10 s have passed without another, until the block ends; from a thread of its own.

    For calls that block, and around the whole of a step of a run, so that nothing in it is silent for longer.
    """
    with telling_state(report, tick_s, clock) as telling:
        yield telling.say


@contextmanager
def telling_state(report: Report, tick_s: float = _TICK_S, clock: Callable[[], float] = time.monotonic) -> Iterator[Telling]:
    """``repeating`` for a state that is looked at again and again: it is said where it is another one than before, and each 10 s."""
    telling, over = Telling(report, clock), threading.Event()

    def repeat() -> None:
        while not over.wait(tick_s):
            telling.again()

    thread = threading.Thread(target=repeat, name="repeating", daemon=True)
    thread.start()
    try:
        yield telling
    finally:
        over.set()
        thread.join()
