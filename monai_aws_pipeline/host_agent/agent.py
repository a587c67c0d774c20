"""The agent's life on one machine: start clean, take jobs while there are any, then end.

Here belongs the loop. Whether jobs are taken and what the end is depends on the kind of host (``membership.py``); what happens to jobs
is in ``pipeline.py`` and ``job_steps.py``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.host_agent.aws.instance_metadata import seconds_since_start
from monai_aws_pipeline.host_agent.job_steps import HostContext
from monai_aws_pipeline.host_agent.membership import Membership, Step
from monai_aws_pipeline.host_agent.pipeline import Pipeline, wipe

log = logging.getLogger(__name__)

RUNTIME_FOLDER: Final = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/monai-aws"))
STATE_FOLDER: Final = Path(os.environ.get("STATE_DIRECTORY", "/var/lib/monai-aws"))
WORK_FOLDER: Final = STATE_FOLDER / "work"
_QUEUE_PAUSE_S: Final = 10.0


class Agent:
    """Answers jobs until it is told to stop or has been idle for long enough; then ``membership`` ends the host.

    ``sign_of_life`` is called each time around the loop, every half minute but while an upload is fetched and checked.
    """

    def __init__(
        self,
        context: HostContext,
        membership: Membership,
        boot: BootOnce,
        in_use: Callable[[], bool],
        sign_of_life: Callable[[], None] = lambda: None,
    ):
        self._context, self._membership, self._boot, self._in_use, self._sign_of_life = context, membership, boot, in_use, sign_of_life

    def run(self) -> bool:
        """The whole life. Returns when told to stop, or when the host's end has begun; True where a new process is to begin another."""
        context = self._context
        wipe(context.work)
        context.work.mkdir(parents=True, mode=0o700)
        # A MAP that is being proved beside an agent that starts is no leftover.
        if not self._in_use() and (left := context.engine.remove_leftovers()):
            log.warning("removed %d container(s) that an earlier agent left", left)
        pipeline = Pipeline(context, self._sign_of_life)
        try:
            idle = self._membership.enter() and self._take_jobs(pipeline)
        except BaseException:
            context.stop.set()
            raise
        finally:
            pipeline.close()
            context.bill.keep()
        if pipeline.broken:
            raise pipeline.broken
        if context.leave.is_set():
            log.info("this machine is wanted elsewhere; every job has ended or was given back")
        elif idle:
            log.info("nothing to do for %.1f min", context.config.idle_stop_minutes)
        return (context.leave.is_set() or idle) and self._membership.end()

    def _take_jobs(self, pipeline: Pipeline) -> bool:
        """Take jobs until told to stop or to leave (False) or idle for long enough with nothing in hand and nothing queued (True)."""
        context = self._context
        log.info("ready, %.1f s after the machine started; taking jobs", self._boot.seconds)
        pipeline.open()
        while not (context.stop.is_set() or context.leave.is_set()):
            self._sign_of_life()
            if not pipeline.wait_for_place():
                continue
            try:
                delivery = context.queue.take()
                if delivery:
                    self._membership.step(0.0)
                    pipeline.accept(delivery)
                    continue
            except (ClientError, BotoCoreError) as error:
                # The clock of idleness goes on: a host that cannot reach its queue must not run, and cost, for ever.
                log.warning("the queue did not answer (%s); again in %.0f s", error.__class__.__name__, _QUEUE_PAUSE_S)
                context.stop.wait(_QUEUE_PAUSE_S)
            idle_s = 0.0 if self._in_use() else pipeline.idle_seconds()
            due = self._membership.step(idle_s) is Step.LEAVE
            if due and not context.stop.is_set() and self._still_empty() and not self._in_use() and self._membership.leave():
                return True
        return False

    def _still_empty(self) -> bool:
        """The last look, so that what arrived meanwhile is not left to the next schedule. An unreachable queue counts as empty."""
        try:
            return self._context.queue.waiting() == 0
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
        received, self.seconds = self.seconds, 0.0
        if received:
            self._write(0.0)
        return received

    def _write(self, seconds: float) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(f"{seconds:.3f}")


class SignOfLife:
    """The seconds since boot at which the loop last went round, for infra/host/dead-man.sh, which switches a host off that shows none."""

    def __init__(self, folder: Path):
        self._file = folder / "alive"

    def __call__(self) -> None:
        """Leave it. A disk that is full is no reason to end; then the host is switched off by who finds no sign."""
        with suppress(OSError):
            new = self._file.with_suffix(".new")
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(f"{time.clock_gettime(time.CLOCK_BOOTTIME):.0f}\n")
            new.replace(self._file)


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
