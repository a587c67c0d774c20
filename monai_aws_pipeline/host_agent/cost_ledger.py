"""Whose second is it: every second this machine runs is charged to exactly one study, the one that commits next.

Here belongs counting. Studies overlap (one is fetched while another is inferred), so the seconds of single studies add up to more than
the machine costs; these do not. Seconds without a study in hand are idle: those before a study are charged to it, and those before the
machine stops lie on its disk until the first study after the next start. Seconds lost with the power are in nobody's bill, and so are those
of an instance that its Auto Scaling group terminates before another study.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seconds:
    """Seconds of a machine: starting, with nothing to do, with at least one study in hand."""

    boot: float = 0.0
    idle: float = 0.0
    busy: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.boot + other.boot, self.idle + other.idle, self.busy + other.busy)


class Bill:
    """What is not charged yet. ``take_boot`` gives the seconds of the boot once; ``file`` keeps the idle tail over a stop."""

    def __init__(self, file: Path | None = None, take_boot: Callable[[], float] = lambda: 0.0, clock: Callable[[], float] = time.monotonic):
        self._file, self._take_boot, self._clock = file, take_boot, clock
        self._lock = threading.Lock()
        self._in_hand = 0
        self._since = clock()
        self._unpaid = Seconds(idle=_read(file))

    @contextmanager
    def job(self) -> Iterator[None]:
        """While a job is in hand. Several may be."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def charge(self) -> Seconds:
        """All that is unpaid, for the study that commits now."""
        with self._lock:
            self._turn()
            charged, self._unpaid = self._unpaid + Seconds(boot=self._take_boot()), Seconds()
            if self._file:
                self._file.unlink(missing_ok=True)
            return charged

    def refund(self, seconds: Seconds) -> None:
        """Take back what was charged to a commit that did not count."""
        with self._lock:
            self._unpaid += seconds

    def keep(self) -> None:
        """Write what is unpaid to the disk when the agent ends. A boot or work that came to no result is idle time as well by then."""
        with self._lock:
            self._turn()
            left = self._unpaid + Seconds(boot=self._take_boot())
            try:
                if self._file:
                    self._file.write_text(json.dumps({"idle": round(left.boot + left.idle + left.busy, 3)}))
            except OSError as error:
                log.warning("%.0f idle seconds could not be kept (%s); they are charged to nobody", left.idle, error.__class__.__name__)

    def _count(self, change: int) -> None:
        with self._lock:
            self._turn()
            self._in_hand += change

    def _turn(self) -> None:
        now = self._clock()
        spent, self._since = now - self._since, now
        which = "busy" if self._in_hand else "idle"
        self._unpaid = replace(self._unpaid, **{which: getattr(self._unpaid, which) + spent})


def _read(file: Path | None) -> float:
    try:
        found = float(json.loads(file.read_text())["idle"]) if file else 0.0
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        log.warning("the idle seconds before the last stop cannot be read; they are charged to nobody")
        return 0.0
    return found if 0 <= found < 1e7 else 0.0
