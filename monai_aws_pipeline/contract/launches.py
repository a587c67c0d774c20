"""What an Auto Scaling group's activities say of its launches: read alike by the wake function and by who looks at the group.

A launch that AWS refused is Failed; one whose instance was ended before it was in service, as by a hook that was abandoned, is Cancelled.
Source: EC2 Auto Scaling API Reference, DescribeScalingActivities (the newest come first).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

_IN_VAIN: Final = ("Failed", "Cancelled")
_ENDED: Final = ("Successful", *_IN_VAIN)
_WISH: Final = "changing the desired capacity from 0 to"
"""Of the cause of the first launch after a group was to have none, whoever asked for it."""


def why_in_vain(activities: Iterable[Mapping[str, Any]], number: int = 1) -> str:
    """Why the newest launches that ended, so many of them, brought no instance into service: the newest one's words. Else empty.

    Only those count that are for the present wish: what came of one before the group was last at none says nothing.
    """
    launches = [*_of_the_last_wish(each for each in activities if each["Description"].startswith("Launching a new EC2 instance"))]
    ended = [each for each in launches if each["StatusCode"] in _ENDED][:number]
    if len(ended) < number or any(each["StatusCode"] not in _IN_VAIN for each in ended):
        return ""
    return str(ended[0].get("StatusMessage") or f"{ended[0]['Description']}: {ended[0]['StatusCode']}")


def _of_the_last_wish(launches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for each in launches:
        yield each
        if _WISH in str(each.get("Cause", "")):
            return
