"""Memory of the GPU by process, as its driver says it: one ``nvidia-smi`` that goes on while anybody asks, read line by line.

Figures of single processes are what tells how many fit beside each other; the whole GPU's is that of all of them together. A process's
figure has its CUDA context in it. Where the driver does not say it (some virtual GPUs answer ``[N/A]``), a record has the whole GPU's; how
many fit is not decided by that.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Collection
from typing import IO, Final

log = logging.getLogger(__name__)

_PROGRAM: Final = "nvidia-smi"
_EVERY_MS: Final = 100
"""Between two looks. A study's peak lasts longer than that: it is held by the allocator of its framework until the process ends."""
_OLD_S: Final = 2.0
_PAUSE_S: Final = 30.0
_CALL_S: Final = 5


class GpuWatch:
    """What processes use of the GPU now. Starts at the first question, ends with this process; without the program it knows nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._used: dict[tuple[int, str], tuple[float, int]] = {}
        self._try_at = 0.0

    def used_by(self, pids: Collection[int]) -> int | None:
        """Bytes that these processes have of it together at the last look, of the GPU on which that is most; None where none of them was
        seen on any.
        """
        self._watch()
        now = time.monotonic()
        found: Counter[str] = Counter()
        with self._lock:
            for (pid, gpu), (at, used) in self._used.items():
                if pid in pids and now - at < _OLD_S:
                    found[gpu] += used
        return max(found.values(), default=None)

    def used_by_all(self) -> int | None:
        """Bytes in use of the GPU that has the most in use; None where the driver does not say."""
        return max(_asked("memory.used"), default=None)

    def total_bytes(self) -> int | None:
        """What the smallest GPU of this machine has; None where there is none that says so."""
        return min(_asked("memory.total"), default=None)

    def close(self) -> None:
        """End the program."""
        with self._lock:
            process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()

    def _watch(self) -> None:
        with self._lock:
            now = time.monotonic()
            if (self._process and self._process.poll() is None) or now < self._try_at or not shutil.which(_PROGRAM):
                return
            self._try_at = now + _PAUSE_S
            command = [_PROGRAM, "--query-compute-apps=pid,used_memory,gpu_uuid", "--format=csv,noheader,nounits", f"--loop-ms={_EVERY_MS}"]
            try:
                self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            except OSError as error:
                log.warning("what studies use of the GPU cannot be watched (%s)", error.__class__.__name__)
                return
            # Where nothing runs on the GPU it prints nothing, so it would never notice that nobody reads it any more.
            atexit.register(self.close)
            threading.Thread(target=self._read, args=(self._process.stdout,), name="gpu", daemon=True).start()

    def _read(self, stream: IO[bytes] | None) -> None:
        while stream is not None and (line := stream.readline(200)):
            pid, used, gpu, *_ = [*line.decode("ascii", "replace").split(","), "", ""]
            if pid.strip().isdigit() and used.strip().isdigit():
                with self._lock:
                    now = time.monotonic()
                    self._used[int(pid), gpu.strip()] = (now, int(used) << 20)
                    self._used = {each: seen for each, seen in self._used.items() if now - seen[0] < _OLD_S}


def _asked(what: str) -> list[int]:
    """A figure in MiB of each GPU, as bytes; empty where there is no answer."""
    command = [_PROGRAM, f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, timeout=_CALL_S, check=False).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [int(value) << 20 for value in said if value.isdigit()]
