"""Whether a process has ended. One that was killed is shown until it has been scheduled once more, and until somebody has waited for it."""

from __future__ import annotations

import time
from pathlib import Path


def has_ended(pid: int) -> bool:
    """Whether it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it may go while it is read
        return True
    return fields[0] in ("Z", "X")


def wait_ended(pid: int, seconds: float = 60.0) -> None:
    """Fails where it does not end."""
    deadline = time.monotonic() + seconds
    while not has_ended(pid):
        assert time.monotonic() < deadline, f"process {pid} has not ended after {seconds:.0f} s"
        time.sleep(0.05)
