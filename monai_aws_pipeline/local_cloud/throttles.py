"""How often HealthImaging may be asked: a bucket of calls for each action and region, filled at AWS's rate.

Source: HealthImaging Developer Guide, "Throttling limits". Actions that it does not list are not limited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

RATES: Final[Mapping[str, tuple[float, float]]] = {
    "CreateDatastore": (0.085, 1), "GetDatastore": (10, 20), "ListDatastores": (5, 10), "DeleteDatastore": (0.085, 1),
    "StartDICOMImportJob": (1, 2), "GetDICOMImportJob": (25, 50), "ListDICOMImportJobs": (10, 20), "SearchImageSets": (25, 50),
    "GetImageSet": (25, 50), "GetImageSetMetadata": (50, 100), "GetImageFrame": (1000, 2000), "ListImageSetVersions": (25, 50),
    "DeleteImageSet": (0.25, 1), "TagResource": (10, 20), "ListTagsForResource": (10, 20), "UntagResource": (10, 20),
    "GetDICOMInstance": (50, 100), "GetDICOMInstanceMetadata": (50, 100), "GetDICOMInstanceFrames": (50, 100),
    "GetDICOMSeriesMetadata": (50, 100),
}  # fmt: skip
"""(calls a second, most at once) by action."""


class Throttles:
    """The buckets of one cloud. ``times``: by how much more than on AWS is allowed, to be ordered."""

    def __init__(self, times: Callable[[], float] = lambda: 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._times, self._clock = times, clock
        self._left: dict[tuple[str, str], tuple[float, float]] = {}

    def allows(self, region: str, action: str) -> bool:
        """Whether this call may be made now; counts it where it may."""
        if action not in RATES:
            return True
        rate, most = (value * self._times() for value in RATES[action])
        now = self._clock()
        left, since = self._left.get((region, action), (most, now))
        left = min(most, left + (now - since) * rate)
        self._left[region, action] = (left - 1 if left >= 1 else left, now)
        return left >= 1
