"""What a container uses: memory, processor seconds, kills for lack of memory, read from its control group; of the GPU by ``gpu.py``.

Here belongs reading the kernel's figures and saying where each comes from. Both versions of control groups are read: which one a host has
follows from its distribution.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monai_aws_pipeline.host_agent.runtime.gpu import GpuWatch

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_SAMPLE_S: Final = 0.1


@dataclass(frozen=True)
class ControlGroup:
    """The files of one container's control group; a path that does not exist reads as 0.

    ``peak``: the kernel's high-water mark of what counts against the limit, page cache included. ``now``: the same figure at this moment.
    Where the kernel keeps no mark (v2 before Linux 5.19), ``peak`` is the first process's ``status`` and its ``VmHWM`` counts.
    """

    peak: Path
    peak_source: str
    now: Path
    cpu: Path
    events: Path
    members: Path

    def pids(self) -> set[int]:
        """Its processes."""
        return {int(line) for line in _text(self.members).split() if line.isdigit()}

    def peak_bytes(self) -> int:
        """High-water mark in bytes."""
        found = re.search(r"^VmHWM:\s+(\d+) kB", _text(self.peak), re.MULTILINE) if self.peak.name == "status" else None
        return int(found[1]) * 1024 if found else _number(self.peak)

    def now_bytes(self) -> int:
        """Memory in use, in bytes."""
        return _number(self.now)

    def held_bytes(self) -> int | None:
        """What of it the kernel could not take back, in bytes: page cache left out. None where the kernel does not say."""
        found = dict(re.findall(r"^(\w+) (\d+)$", _text(self.now.with_name("memory.stat")), re.MULTILINE))
        for own, shared in (("total_rss", "total_shmem"), ("anon", "shmem")):  # version 1 with all below it, version 2
            if own in found and shared in found:
                return int(found[own]) + int(found[shared])
        return None

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far, ended ones included."""
        if self.cpu.name == "cpu.stat":
            found = re.search(r"^usage_usec (\d+)", _text(self.cpu), re.MULTILINE)
            return int(found[1]) / 1e6 if found else 0.0
        return _number(self.cpu) / 1e9

    def kills(self) -> int:
        """How many of its processes the kernel has killed because the limit was reached."""
        found = re.search(r"^oom_kill (\d+)", _text(self.events), re.MULTILINE)
        return int(found[1]) if found else 0


def control_group(pid: int, proc: Path = _PROC, root: Path = _GROUPS) -> ControlGroup:
    """The control group of a process."""
    v2: Path | None = None
    v1: dict[str, Path] = {}
    for line in _text(proc / str(pid) / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            v2 = root / path.lstrip("/")
        for controller in controllers.split(","):
            v1[controller] = root / controller / path.lstrip("/")
    if "memory" in v1:
        memory = v1["memory"]
        return ControlGroup(
            memory / "memory.max_usage_in_bytes",
            "cgroup v1 memory.max_usage_in_bytes",
            memory / "memory.usage_in_bytes",
            v1.get("cpuacct", memory) / "cpuacct.usage",
            memory / "memory.oom_control",
            memory / "cgroup.procs",
        )
    group = v2 or root / "missing"
    peak, source = group / "memory.peak", "cgroup v2 memory.peak"
    if not peak.is_file():
        peak, source = proc / str(pid) / "status", "VmHWM of the first process"
    return ControlGroup(peak, source, group / "memory.current", group / "cpu.stat", group / "memory.events", group / "cgroup.procs")


class Meter:
    """What one run used, sampled while it lasts.

    A container of its own starts from zero, and the last reading of the kernel's marks before its end is the truth up to the last tick.
    In a warm container (``warm=True``) figures are differences since the meter was made, and the memory mark is the run's own only if it
    rose; else the largest sample of what was in use. ``held``: the largest sample but the first without page cache, of all of a container.
    GPU memory: the largest sample of what its processes have together (``gpu_own``); where none of them was seen on it, ``gpu_peak`` is of
    the whole GPU, once a second.
    """

    def __init__(self, pid_of: Callable[[], int], gpu: GpuWatch | None, *, warm: bool = False):
        self.peak = 0
        self.source = ""
        self.held: int | None = None
        self.gpu_own: int | None = None
        self.cpu_seconds = 0.0
        self.kills = 0
        self._pid_of = pid_of
        self._pid = 0
        self._samples = 0
        self._end: int | None = None
        self._gpu = gpu if shutil.which("nvidia-smi") else None
        self._gpu_at = self._sampled_at = 0.0
        self._gpu_whole: int | None = None
        self._warm = warm
        self._group = self._find() if warm else None
        self._before = (self._group.peak_bytes(), self._group.cpu_seconds(), self._group.kills()) if self._group else (0, 0.0, 0)

    @property
    def gpu_peak(self) -> int | None:
        """Bytes of the GPU, its own where that is known."""
        return self._gpu_whole if self.gpu_own is None else self.gpu_own

    def due(self, now: float) -> bool:
        """Whether it is time to sample, by ``time.monotonic``: at once while there is no figure, so that a short run has one too."""
        return not self.peak or now - self._sampled_at >= _SAMPLE_S

    def sample(self) -> None:
        """Read everything once. Does nothing until the container has a process."""
        now = self._sampled_at = time.monotonic()
        self._group = self._group or self._find()
        if self._group is None:
            return
        self._samples += 1
        peak, cpu, kills = self._before
        marked = self._group.peak_bytes()
        if not self._warm or marked > peak:
            self.peak, self.source = max(self.peak, marked), self._group.peak_source
        elif (now := self._group.now_bytes()) > self.peak:
            self.peak, self.source = now, f"samples of {self._group.now.name}"
        ended = self._has_ended()
        # One that begins or has ended holds next to nothing: where no other sample was taken, what it held is not known.
        if self._samples > 1 and not ended and (held := self._group.held_bytes()) is not None:
            self.held = max(held, self.held or 0)
        self.cpu_seconds = max(self.cpu_seconds, round(self._group.cpu_seconds() - cpu, 3))
        self.kills = max(self.kills, self._group.kills() - kills)
        if self._gpu and not ended:  # by then the GPU has what others have of it, and the driver may take seconds to say so
            self._sample_gpu(self._gpu, self._sampled_at)

    def _find(self) -> ControlGroup | None:
        self._pid = self._pid_of()
        return control_group(self._pid) if self._pid else None

    def wait(self, seconds: float) -> bool:
        """Wait until the container's first process has ended, at most so long; False at once where none is known or can be waited for."""
        if self._end is None:
            if not self._pid:
                return False
            try:
                self._end = os.pidfd_open(self._pid)
            except OSError:  # it has ended; or Linux before 5.3
                return False
        self._has_ended(seconds)
        return True

    def close(self) -> None:
        """What was opened to wait is closed."""
        if self._end is not None:
            os.close(self._end)
            self._end = None

    def over(self) -> bool:
        """Whether the container's first process was seen and is gone, and with it, as the kernel does that, all its others."""
        return self._has_ended() or (bool(self._pid) and not Path(f"/proc/{self._pid}").exists())

    def _has_ended(self, seconds: float = 0.0) -> bool:
        if self._end is None:
            return False
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _sample_gpu(self, gpu: GpuWatch, now: float) -> None:
        used = gpu.used_by(self._group.pids()) if self._group else None
        if used is not None:
            self.gpu_own = max(used, self.gpu_own or 0)
        elif self.gpu_own is None and now - self._gpu_at >= 1:
            self._gpu_at = now
            if (used := gpu.used_by_all()) is not None:
                self._gpu_whole = max(used, self._gpu_whole or 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # the container just ended, or the kernel has no such figure


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0
