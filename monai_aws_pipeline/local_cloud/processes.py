"""Background processes that outlive the command that started them, found again by pid file and ended to the last child.

A pid file holds the pid, the process's start time and the boot it belongs to, so that a number the kernel has given to somebody else
is never signalled. The process writes it itself before it becomes its program, so that one whose starter is killed is known as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import StartError

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_RECORD_AND_BECOME: Final = f'echo "$(cut -d" " -f1,22 /proc/$$/stat) $(cat {_BOOT_ID})" >"$0.part" && mv "$0.part" "$0" && exec "$@"'
"""For ``sh -c``: writes the pid file named first, then becomes the command that follows. Pid and start time stay the same."""


def _start_time(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot (proc(5), stat field 22); None for a dead one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _session_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError, ValueError):
        return None


@dataclass(frozen=True)
class Daemon:
    """One background process, known by its pid file. It leads a session of its own, so its children are found as well."""

    name: str
    pid_file: Path
    log_file: Path

    def pid(self) -> int | None:
        """Pid of the running process, or None."""
        recorded = self._recorded()
        return recorded[0] if recorded and _start_time(recorded[0]) == recorded[1] else None

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> int:
        """Start in a session of its own with output in the log file; returns the pid."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", _RECORD_AND_BECOME, str(self.pid_file), *(str(part) for part in command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        while not self.pid_file.exists() and process.poll() is None:
            time.sleep(0.002)
        return process.pid

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait for ``ready``; StartError with the log's end when the process dies or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            dead = self.pid() is None
            if dead or time.monotonic() > deadline:
                what = "ended at once" if dead else f"did not answer within {timeout_s:.0f} s"
                raise StartError(f"The {self.name} {what}. Its last words: {self._last_words()}", f"Look into {self.log_file}.")
            time.sleep(0.03)

    def stop(self, timeout_s: float = 20.0) -> None:
        """End the process (TERM, then KILL) and whatever is left of its session; forget the pid file."""
        recorded = self._recorded()
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + timeout_s
            while self.pid() is not None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                if time.monotonic() > deadline:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.03)
        if recorded and _start_time(recorded[0]) in (None, recorded[1]):  # otherwise the number is somebody else's now
            self._end_session(recorded[0])
        self.pid_file.unlink(missing_ok=True)

    def _end_session(self, session: int) -> None:
        """Kill children that were left behind. A session id stays reserved while one of its members lives."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _session_of(int(entry.name)) == session and int(entry.name) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)

    def _recorded(self) -> tuple[int, str] | None:
        """Pid and start time of the file, unless it is of another boot; a file of an older version does not name its boot."""
        try:
            pid, started, *boot = self.pid_file.read_text().split()
            return (int(pid), started) if boot in ([], [_BOOT_ID.read_text().strip()]) else None
        except (OSError, ValueError):
            return None

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").strip().splitlines()
        except OSError:
            return "(none)"
        return " / ".join(lines[-3:]) or "(none)"
