"""Shell lines on a named host, which is off for most of its life and may be about to switch itself off.

Here belongs that it is on for them, that they are run again where it went off under them, and that it is left as it was found. Which lines
those are is their caller's: the pull of a MAP (``deployment/inference_host``), a golden study (``live_maps``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import AgentError, CloudError, CommandError, EndedError
from monai_aws_pipeline.cloud.instances import Machine, Machines
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.run_command import CommandResult, Commands
from monai_aws_pipeline.cloud.waiting import wait_until

_OFF: Final = ("stopping", "stopped")
_STARTS: Final = 3
"""So often a host is started that stops by itself before it takes a command: an agent that never stays up costs no more than that."""
NOTICED_S: Final = 20.0
"""Within that EC2 shows that a machine is switching itself off."""
_KILLED: Final = 128
"""Above it a shell's exit code is that of a command that a signal has ended."""


@dataclass(frozen=True)
class HostCommands:
    """Commands to named hosts. ``at_work``: whether studies wait or are answered now, so that a host is not stopped under them."""

    machines: Machines
    commands: Commands
    at_work: Callable[[], bool]
    report: Report

    def run(self, host: Machine, script: str, *, seconds: int, comment: str, new: bool = False) -> CommandResult:
        """Run shell lines on a host that is on for them (``awake``), and once more where it was about to go off when they came.

        An idle host may have decided to stop, and ends whatever began after that. Raises what ``awake`` and ``Commands.run`` raise.
        """
        for is_last in (False, True):
            ended: CommandResult | None = None
            with self.awake(host, new=new):
                try:
                    ended = self.commands.run(host.id, script, seconds, comment=comment, report=self.report)
                except CommandError:
                    if is_last or not self._goes_off(host):
                        raise
                if ended and (is_last or 0 <= ended.exit_code <= _KILLED or not self._goes_off(host)):
                    return ended  # a command that ended by itself is not looked after: a golden study that missed says so at once
                self.report(f"{host.id} has switched itself off meanwhile: once more")
        raise AssertionError("the last run was returned or has raised")

    @contextmanager
    def awake(self, host: Machine, *, new: bool = False) -> Iterator[None]:
        """A host that takes commands for the time of a block, and is left as it was found.

        A ``new`` host and one that was stopped are stopped afterwards, unless studies came meanwhile; one that was running stops by itself
        when idle.
        """
        serving = self._state(host) == "running" and not new
        try:
            for _ in range(_STARTS):
                if self._takes_commands(host):
                    break
                serving = False  # it was idle, and has stopped by itself meanwhile
            else:
                raise AgentError(  # noqa: TRY301 - the host is left as it was found
                    f"Host {host.id} has stopped by itself {_STARTS} times before it took a command.",
                    "Look at the log of its agent; MONAI_AWS_IDLE_STOP_MINUTES may be shorter than its start.",
                )
            yield
        except BaseException:  # also a cancelled run: no host is left running by mistake, and the first error is the one to be seen
            with suppress(CloudError, ClientError):
                if not serving and not self.at_work():
                    self.machines.stop(host.id)
            raise
        if serving or self.at_work():
            self.report(f"{host.id} is at work and stops by itself when idle")
            return
        self.machines.stop(host.id)
        self.machines.wait(host.id, "stopped", 300, self.report)
        self.report(f"{host.id} is stopped: it costs nothing until a study comes")

    def _state(self, host: Machine) -> str:
        return (self.machines.look(host.id) or host).state

    def _goes_off(self, host: Machine) -> bool:
        """Whether it is off, or is so within the time that EC2 takes to notice."""
        what = f"looking whether {host.id} has switched itself off"
        return wait_until(lambda: self._state(host), lambda now: now in _OFF, NOTICED_S, what=what, report=self.report) in _OFF

    def _takes_commands(self, host: Machine) -> bool:
        """Start the host where it is off, and wait until it takes commands. False where it is off again by then."""
        if (now := self._state(host)) == "stopping":
            self.machines.wait(host.id, "stopped", 300, self.report)
        if now in _OFF:
            self.machines.start(host.id)
        try:
            self.machines.wait(host.id, "running", 300, self.report)
        except EndedError:
            if self._state(host) not in _OFF:
                raise
            return False
        return self.commands.wait_online(host.id, report=self.report, still_on=lambda: self._state(host) not in _OFF)
