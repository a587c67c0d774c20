"""Runs the measurements by name, or all of them: ``python -m tests.bench [NAME …]``."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster import BetaWarning

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench"


def machine() -> dict[str, Any]:
    """What the figures were measured on, without its name or address."""
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def main(names: list[str]) -> int:
    """Run and write each; returns the exit code."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.stderr.write(f"There is no measurement {', '.join(unknown)}; there are {', '.join(known)}.\n")
        return 2
    warnings.simplefilter("ignore", BetaWarning)  # pinned versions: what is beta is tested here
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in names or known:
        sys.stdout.write(f"measuring {name} …\n")
        where = machine()
        figures = importlib.import_module(f"tests.bench.{name}").measure()
        target = RESULTS / f"{name}.json"
        result = {"machine": where, "measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **figures}
        target.write_text(json.dumps(result, indent=2) + "\n")
        sys.stdout.write(f"{json.dumps(figures, indent=2)}\n{target.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main([name for name in sys.argv[1:] if name]))
