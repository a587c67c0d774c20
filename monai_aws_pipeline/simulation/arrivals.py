"""When studies come: by the clock of a hospital, in bursts, several in an upload. Pure, and the same for the same seed.

The design load (1,500 studies a day, a peak of 300 an hour) gives the peak its fifth of the day; the rest of the curve is an assumption.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
WORKING_DAY: Final = (0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 1.5, 4, 8, 12, 20, 10, 5, 7, 10, 7, 4, 2.5, 1.5, 1.2, 0.9, 0.7, 0.6, 0.5)
"""Per cent of a working day's studies in each hour: nights, a morning with its peak at ten, an afternoon."""
WEEKEND: Final = (2.5, 2.0, 2.0, 2.0, 2.0, 2.5, 3.0, 4.0, 5.5, 6.5, 7.5, 7.0, 6.0, 6.0, 6.0, 5.5, 5.0, 4.5, 4.5, 4.0, 3.5, 3.0, 3.0, 2.5)
"""The same on a weekend: emergencies."""
WEEKEND_SHARE: Final = 0.35
"""Of a working day's studies, on a day of the weekend. An assumption."""


@dataclass(frozen=True)
class Upload:
    """One upload: when, in seconds after midnight, how many studies it holds, and their seconds in parts of what was measured."""

    at: float
    studies: int = 1
    size: float = 1.0


@dataclass(frozen=True)
class Load:
    """A day's studies. ``burst``: how many uploads come together on average, within a minute, as a device sends its list.

    ``spread``: how unequal studies are, as the deviation of the logarithm of their seconds, whose mean stays; 0: all alike.
    """

    studies_a_day: int
    weekend: bool = False
    burst: float = 1.0
    studies_an_upload: int = 1
    spread: float = 0.0

    @property
    def studies(self) -> int:
        """How many come on this day."""
        return round(self.studies_a_day * (WEEKEND_SHARE if self.weekend else 1.0))

    @property
    def curve(self) -> tuple[float, ...]:
        """Per cent in each hour."""
        return WEEKEND if self.weekend else WORKING_DAY

    @property
    def peak_per_hour(self) -> float:
        """Studies in the busiest hour."""
        return self.studies * max(self.curve) / sum(self.curve)


def uploads(load: Load, seed: int = 0) -> list[Upload]:
    """A day's uploads in order of time; together exactly the day's studies."""
    drawn = random.Random(seed)  # noqa: S311 - a simulation's, and repeatable
    found: list[Upload] = []
    left = load.studies
    until = list(accumulate(load.curve))
    while left:
        begin = _moment(drawn, until)
        for number in range(min(_burst(drawn, load.burst), -(-left // load.studies_an_upload))):
            studies = min(left, load.studies_an_upload)
            size = math.exp(drawn.gauss(-load.spread * load.spread / 2, load.spread)) if load.spread else 1.0
            found.append(Upload(min(begin + (drawn.random() * 60 if number else 0.0), DAY_S), studies, size))
            left -= studies
    return sorted(found, key=lambda upload: upload.at)


def _moment(drawn: random.Random, until: Sequence[float]) -> float:
    point = drawn.random() * until[-1]
    hour = min(bisect(until, point), len(until) - 1)
    before = until[hour - 1] if hour else 0.0
    return (hour + (point - before) / (until[hour] - before)) * HOUR_S


def _burst(drawn: random.Random, mean: float) -> int:
    """How many come together: geometric, at least one."""
    size = 1
    while mean > 1 and drawn.random() > 1 / mean:
        size += 1
    return size
