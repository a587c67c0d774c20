"""Asks many questions at once, each within a bound, and says which are still open where that takes longer.

A question that nobody answers in time becomes a warning; its thread is left to end with the process, because no call of boto3 can be
taken back. Here belongs this alone: it knows nothing of what is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import Empty, Queue
from threading import Thread

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.operations.preflight.answers import Answer, Probe, answer

SECONDS = 9.0
"""For all that are asked at the same time."""
TELL_SECONDS = 3.0

_Answers = Queue[tuple[int, Answer | BaseException]]


def ask_all(probes: Sequence[Probe], report: Report, seconds: float = SECONDS, tell_seconds: float = TELL_SECONDS) -> list[Answer]:
    """The answers in the order of the questions. What a question raises that is nobody's answer is raised here."""
    came: _Answers = Queue()
    for place, probe in enumerate(probes):
        Thread(target=_ask, args=(place, probe, came), name=f"doctor: {probe.check}", daemon=True).start()
    found: dict[int, Answer] = {}
    deadline = time.monotonic() + seconds
    tell = time.monotonic() + tell_seconds
    while len(found) < len(probes) and time.monotonic() < deadline:
        try:
            place, given = came.get(timeout=max(0.0, min(tell, deadline) - time.monotonic()))
        except Empty:
            for probe in (probe for place, probe in enumerate(probes) if place not in found):
                report(f"{probe.check}: still asking {probe.asks}")
            tell += tell_seconds
            continue
        if isinstance(given, BaseException):
            raise given
        found[place] = given
    return [found.get(place) or _unanswered(probe, seconds) for place, probe in enumerate(probes)]


def _ask(place: int, probe: Probe, came: _Answers) -> None:
    try:
        came.put((place, answer(probe)))
    except BaseException as defect:  # shown by whoever asked, with its traceback
        came.put((place, defect))


def _unanswered(probe: Probe, seconds: float) -> Answer:
    return Answer(
        probe.check,
        probe.silence,
        f"no answer within {seconds:.0f} s to {probe.asks}",
        "Check this machine's way there (name resolution, route, proxy; in a private network the VPC endpoint), then ask again.",
    )
