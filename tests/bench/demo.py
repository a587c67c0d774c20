"""``make demo`` as a new user starts it: in a fresh clone with an empty cache, and then once more.

What it measures: from the command to its end, with the environment and the base file systems that the first one makes, the model and the
example's study that it fetches, the machine image, the MAP and one answered study. ``phases`` are the demo's own, in seconds, and
``environment`` what passed before the first of them. What it leaves out: packages of this machine (apt), which are there from the first
demo on it. The clone is of the last commit. Another demo must not run, since both would want the same ports. Takes a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.bench._hosts import say, source_state

LONGEST_S = 3600


def measure() -> dict[str, Any]:
    """Seconds from nothing and again, with their phases."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir=PROJECT_ROOT / "build") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", PROJECT_ROOT, clone], check=True)
        try:
            cold, again = demo(clone), demo(clone)
        finally:
            subprocess.run(["make", "--no-print-directory", "demo-down"], cwd=clone, env=environment(), check=True)
    return {
        "cold_seconds": cold["total"],
        "again_seconds": again["total"],
        "phases": cold["phases"],
        "phases_again": again["phases"],
        "dice": cold["dice"],
        **source_state(),
    }


def demo(clone: Path) -> dict[str, Any]:
    """One run, its lines shown as they come."""
    say("make demo")
    began = time.monotonic()
    subprocess.run(["make", "--no-print-directory", "demo"], cwd=clone, env=environment(), check=True, timeout=LONGEST_S)
    total = time.monotonic() - began
    summary = json.loads((clone / ".demo" / "summary.json").read_text())
    phases = {"environment": round(total - summary["seconds_total"], 1), **summary["phases"]}
    return {"total": round(total, 1), "phases": phases, "dice": summary["dice"]}


def environment() -> dict[str, str]:
    """What a new user's shell has."""
    kept = ("PATH", "HOME", "LANG", "USER", "TERM")
    return {name: os.environ[name] for name in kept if name in os.environ}
