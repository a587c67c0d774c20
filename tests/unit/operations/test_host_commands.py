"""A host is on and takes commands for as long as it is needed, also one that was about to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from monai_aws_pipeline.cloud.errors import AgentError, EndedError, MachineError
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.run_command import CommandResult
from monai_aws_pipeline.operations import host_commands
from monai_aws_pipeline.operations.host_commands import HostCommands

CUT = 143
HOST = Machine("i-1", "running", "", "", "", {}, "")


class Host:
    """One machine. ``idle``: how often it stops by itself after it was found to run and before its agent is heard of."""

    def __init__(self, state: str, idle: int, *, at_once: bool = False, dies: bool = False):
        self.state, self.idle, self.at_once, self.dies = state, idle, at_once, dies
        self.did: list[str] = []

    def look(self, _: str) -> Machine:
        return Machine("i-1", self.state, "", "", "", {}, "")

    def start(self, _: str) -> None:
        self.did.append("start")
        self.state = "running"

    def stop(self, _: str) -> None:
        self.did.append("stop")
        self.state = "stopped"

    def wait(self, machine: str, wanted: str, _seconds: float, _report: Any) -> None:
        if wanted == "running" and self.at_once:
            self._stops()
        if wanted == "stopped" and self.state == "stopping":
            self.state = "stopped"
        if self.state != wanted:
            raise EndedError(machine, self.state, wanted, "")

    def wait_online(self, _: str, report: Any, still_on: Callable[[], bool]) -> bool:
        self._stops()
        return still_on()

    def _stops(self) -> None:
        if self.idle:
            self.idle, self.state = self.idle - 1, "terminated" if self.dies else "stopping"


def commands(host: Host) -> HostCommands:
    return HostCommands(host, host, lambda: False, lambda _: None)  # type: ignore[arg-type]


def used(host: Host) -> list[str]:
    with commands(host).awake(HOST):
        assert host.state == "running"
        host.did.append("used")
    return host.did


def test_what_an_idle_host_cuts_off_by_stopping_is_run_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_commands, "NOTICED_S", 0)

    def run(host: Host, codes: list[int]) -> int:
        def command(*_: Any, **__: Any) -> CommandResult:
            host.did.append("ran")
            code = codes.pop(0)
            if code == CUT:
                host.state = "stopping"
            return CommandResult(code, "", "")

        host.run = command  # type: ignore[attr-defined]
        return commands(host).run(HOST, "true", seconds=1, comment="").exit_code

    host = Host("running", 0)
    assert (run(host, [CUT, 0]), host.did) == (0, ["ran", "start", "ran", "stop"])
    host = Host("stopped", 0)
    assert (run(host, [CUT, CUT]), host.did.count("ran")) == (CUT, 2), "not for ever"
    monkeypatch.setattr(HostCommands, "_goes_off", lambda *_: pytest.fail("it ended by itself: nobody waits for the host to go off"))
    host = Host("running", 0)
    assert (run(host, [1]), host.did) == (1, ["ran"])


def test_a_host_that_runs_is_used_and_stops_by_itself() -> None:
    assert used(Host("running", 0)) == ["used"]


@pytest.mark.parametrize("state", ["stopped", "stopping"])
def test_a_host_that_is_off_is_started_and_stopped(state: str) -> None:
    assert used(Host(state, 0)) == ["start", "used", "stop"]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("idle", [1, 2])
def test_an_idle_host_that_stops_by_itself_meanwhile_is_started_again_and_stopped_afterwards(idle: int, at_once: bool) -> None:
    assert used(Host("running", idle, at_once=at_once)) == [*["start"] * idle, "used", "stop"]


def test_one_that_stops_each_time_is_named() -> None:
    with pytest.raises(AgentError, match=r"3 times.*MONAI_AWS_IDLE_STOP_MINUTES"):
        used(Host("running", 9))


def test_one_that_is_gone_is_not_started_again() -> None:
    host = Host("running", 9, at_once=True, dies=True)
    with pytest.raises(MachineError, match="terminated"):
        used(host)
    assert "start" not in host.did
