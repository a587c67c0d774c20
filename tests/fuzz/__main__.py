"""``python -m tests.fuzz [--seconds N] [--seed N] [--round N]``: fuzz the intake; exit code 1 when something was found."""

from __future__ import annotations

import argparse
import resource
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.intake import Outcome, run

MEMORY_BYTES = 2 << 30
"""Address space of the whole process: what needs more fails here instead of filling the machine."""


def main() -> int:
    """Fuzz for a time, or repeat one round."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--round", type=int, default=0, help="where to begin; with --seconds 0 this one round alone")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    deadline = time.monotonic() + chosen.seconds

    def more(outcome: Outcome) -> bool:
        return time.monotonic() < deadline or outcome.rounds == 0

    with tempfile.TemporaryDirectory(prefix="monai-aws-fuzz-") as folder:
        outcome = run(chosen.seed, Path(folder) / "job", more, chosen.round)
    lines = [f"seed {chosen.seed}: {outcome.rounds} uploads, {len(outcome.findings)} findings"]
    lines += [f"  {count:8d} {end}" for end, count in outcome.ends.most_common()]
    sys.stdout.write("\n".join([*lines, *outcome.findings]) + "\n")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
