"""Which jobs are in hand now, for who asks this host (``monai-aws-agent at-work``): job ids, phases and seconds, nothing of a study.

A small file on memory, replaced as a whole at each change. It names the agent's process, so that what a dead agent left counts as nothing.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Phase(StrEnum):
    """Where a job in hand is."""

    FETCHING = "fetching"
    WAITING = "waiting"
    PULLING = "pulling"
    """Its turn has come, and the MAP is made ready; a moment where the image is on the host already."""
    INFERRING = "inferring"
    PUBLISHING = "publishing"
    ARCHIVING = "archiving"
    """It is answered."""


class Board:
    """The jobs in hand of this process. Without a file it remembers only."""

    def __init__(self, file: Path | None = None):
        self._file = file
        self._lock = threading.Lock()
        self._jobs: dict[str, dict[str, Any]] = {}
        self._at_once: dict[str, Any] = {"number": 1, "why": "no study has had its turn yet"}
        self._group: dict[str, Any] | None = None
        self._write()

    def say(self, number: int, why: str) -> None:
        """So many studies may be inferred at once."""
        with self._lock:
            if (said := {"number": number, "why": why}) != self._at_once:
                self._at_once = said
                self._write()

    def say_wanted(self, target: str, *, protected: bool) -> None:
        """The Auto Scaling group wants this instance in that lifecycle state; ``protected``: and may not take it by scale-in."""
        with self._lock:
            self._group = {"target": target, "protected": protected}
            self._write()

    def show(self, job: str, phase: Phase) -> None:
        """A job entered a phase."""
        with self._lock:
            self._jobs[job] = {"phase": str(phase), "since": self._jobs.get(job, {}).get("since", _now()), "phase_since": _now()}
            self._write()

    def remove(self, job: str) -> None:
        """A job is in hand no more."""
        with self._lock:
            self._jobs.pop(job, None)
            self._write()

    def _write(self) -> None:
        if not self._file:
            return
        new = self._file.with_suffix(".new")
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps({"process": os.getpid(), "jobs": self._jobs, "at_once": self._at_once, "group": self._group}))
            new.replace(self._file)
        except OSError as error:  # a study is worth more than who watches it
            log.warning("what is at work cannot be shown (%s)", error.__class__.__name__)


def read_board(file: Path, proc: Path = Path("/proc")) -> dict[str, Any]:
    """``{agent: running|stopped, jobs: [{job, phase, seconds, phase_seconds}], at_once: {number, why}}``, the longest job first.

    On an instance of an Auto Scaling group also ``group: {target, protected}``: the lifecycle state that it is wanted in.
    """
    try:
        found = json.loads(file.read_text())
        alive = (proc / str(int(found["process"]))).exists()
    except (OSError, ValueError, KeyError, TypeError):
        alive = False
    if not alive:
        return {"agent": "stopped", "jobs": []}
    now = _now()
    jobs = [
        {
            "job": job,
            "phase": shown["phase"],
            "seconds": round(now - shown["since"], 1),
            "phase_seconds": round(now - shown["phase_since"], 1),
        }
        for job, shown in found["jobs"].items()
    ]
    group = {"group": found["group"]} if found.get("group") else {}
    return {"agent": "running", "jobs": sorted(jobs, key=lambda each: -each["seconds"]), "at_once": found.get("at_once"), **group}


def _now() -> float:
    """Seconds since the machine started: the same for every process, and no wrong clock moves them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
