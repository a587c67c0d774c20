"""Runs the host agent with a clock that is wrong by the seconds in /run/skew/seconds, read anew each time somebody asks for the time.

Machines of the embedded AWS share the kernel's clock, which cannot be set for one of them; the agent is Python through and through, so its
own clock is moved instead: ``time.time`` and ``datetime.now``, before anything else is imported.
"""

from __future__ import annotations

import datetime
import runpy
import sys
import time
from pathlib import Path

SECONDS = Path("/run/skew/seconds")
true_time, true_datetime = time.time, datetime.datetime


def shift() -> float:
    try:
        return float(SECONDS.read_text())
    except (OSError, ValueError):
        return 0.0


class Skewed(true_datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Skewed:
        return cls.fromtimestamp(true_time() + shift(), tz)

    @classmethod
    def utcnow(cls) -> Skewed:
        return cls.now(datetime.UTC).replace(tzinfo=None)


time.time = lambda: true_time() + shift()
datetime.datetime = Skewed  # type: ignore[misc]
sys.argv = ["monai-aws-agent", *sys.argv[1:]]
runpy.run_module("monai_aws_pipeline.host_agent", run_name="__main__")
