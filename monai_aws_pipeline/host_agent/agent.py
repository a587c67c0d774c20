"""The agent's life on one machine: start clean, answer jobs while there are any, then stop the machine.

Here belongs the loop and the decision to stop. What happens to one job is in ``job.py``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.host_agent.job import Outcome, Surroundings, handle, wipe
from monai_aws_pipeline.host_agent.metadata import seconds_since_start

log = logging.getLogger(__name__)

RUNTIME_FOLDER: Final = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/monai-aws"))
WORK_FOLDER: Final = Path(os.environ.get("STATE_DIRECTORY", "/var/lib/monai-aws")) / "work"
_QUEUE_PAUSE_S: Final = 10.0


@dataclass(frozen=True)
class Idleness:
    """Since when there is nothing to do, in monotonic seconds. Time until a given-back job returns does not count as idle."""

    since: float

    def stop_due(self, now: float, idle_stop_minutes: float) -> bool:
        """Whether the machine has been idle long enough."""
        return now - self.since >= idle_stop_minutes * 60


class Agent:
    """Answers jobs until it is told to stop or has been idle for long enough. ``power_off`` stops the machine."""

    def __init__(self, around: Surroundings, power_off: Callable[[], None], boot: BootOnce, in_use: Callable[[], bool]):
        self._around, self._power_off, self._boot, self._in_use = around, power_off, boot, in_use

    def run(self) -> None:
        """The whole life. Returns when told to stop, or after asking the machine to power off."""
        around = self._around
        wipe(around.work)
        around.work.mkdir(parents=True, mode=0o700)
        # A MAP that is being proved beside an agent that starts is no leftover.
        if not self._in_use() and (left := around.engine.remove_leftovers()):
            log.warning("removed %d container(s) that an earlier agent left", left)
        log.info("ready, %.1f s after the machine started; taking jobs", self._boot.seconds)
        idle = Idleness(time.monotonic())
        while not around.stop.is_set():
            try:
                idle, worked = self._turn(idle)
            except (ClientError, BotoCoreError) as wrong:
                # The clock of idleness goes on: a host that cannot reach its queue must not run, and cost, for ever.
                log.warning("the queue did not answer (%s); again in %.0f s", wrong.__class__.__name__, _QUEUE_PAUSE_S)
                around.stop.wait(_QUEUE_PAUSE_S)
                worked = False
            due = not worked and idle.stop_due(time.monotonic(), around.config.idle_stop_minutes)
            if due and not around.stop.is_set() and self._still_empty() and not self._in_use():
                log.info("nothing to do for %.1f min; stopping this machine", around.config.idle_stop_minutes)
                self._power_off()
                return

    def _turn(self, idle: Idleness) -> tuple[Idleness, bool]:
        delivery = self._around.queue.take()
        if delivery is None:
            return idle, False
        ended = handle(self._around, delivery, self._boot.take())
        if ended.outcome is Outcome.UNREADABLE:
            return idle, True  # a poisoned message must not keep a machine running
        return Idleness(max(idle.since, time.monotonic() + ended.retry_in)), True

    def _still_empty(self) -> bool:
        """The last look, so that what arrived meanwhile is not left to the next schedule. An unreachable queue counts as empty."""
        try:
            return self._around.queue.waiting() == 0
        except (ClientError, BotoCoreError):
            return True


class BootOnce:
    """Seconds from machine start to agent ready, charged to the first job after a boot only.

    Kept in the runtime folder, which is empty after each boot and survives a restart of the agent: measured at the first start
    after a boot, 0 once a job has taken it.
    """

    def __init__(self, folder: Path, seconds: Callable[[], float] = seconds_since_start):
        self._file = folder / "boot-seconds"
        try:
            self.seconds = float(self._file.read_text())
        except (OSError, ValueError):
            self.seconds = seconds()
            self._write(self.seconds)

    def take(self) -> float:
        """The seconds for the job just taken: once the boot's, then 0."""
        taken, self.seconds = self.seconds, 0.0
        if taken:
            self._write(0.0)
        return taken

    def _write(self, seconds: float) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(f"{seconds:.3f}")


class Preparing:
    """Held while ``prepare`` works, so that the idle agent beside it does not switch the machine off under a pull.

    A lock of the kernel on a file: it ends with the process that held it, however that ended.
    """

    def __init__(self, folder: Path):
        self._path = folder / "preparing.lock"

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold it. Several may."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def held(self) -> bool:
        """Whether anyone holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def power_off() -> None:
    """Stop this machine. The instance was launched with shutdown behaviour ``stop``, so its disk and images stay."""
    command = [shutil.which("systemctl") or "/usr/bin/systemctl", "poweroff"]
    if subprocess.run(command, check=False).returncode:
        subprocess.run([shutil.which("shutdown") or "/sbin/shutdown", "-h", "now"], check=False)
