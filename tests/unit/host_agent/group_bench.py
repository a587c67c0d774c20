"""An instance in an Auto Scaling group of the embedded AWS, in this process: the very calls, states and refusals, but no machine."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from monai_aws_pipeline.contract import HOOK_FINISH, HOOK_READY
from monai_aws_pipeline.host_agent.aws.fleet_membership import GroupInstance
from monai_aws_pipeline.host_agent.job_status import Board, read_board
from monai_aws_pipeline.host_agent.membership import GroupMember, Pace, Surroundings
from monai_aws_pipeline.host_agent.stopping import Stop
from tests.support.meanwhile import meanwhile
from tests.unit.host_agent.pipeline_bench import until
from tests.unit.local_cloud.autoscaling_bench import REGION, Client, create

QUICK = Pace(look=0.02, beat=0.1, unknown=0.3, again=0.1)
IDLE_S = 60.0


@dataclass
class Calls:
    """Auto Scaling's client as boto3 has it. ``refused``: the code with which a call is refused, by its action."""

    service: Client
    refused: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        action = re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), name).replace("Ec2", "EC2")

        def call(**parameters: Any) -> dict[str, Any]:
            self.made.append(action)
            answer = {"Error": {"Code": code}} if (code := self.refused.get(action)) else self.service(action, **parameters)
            if "Error" in answer:
                raise ClientError(answer, action)
            return answer

        return call


@dataclass
class Instance:
    """The first instance of the group ``g``, and the agent's side of it."""

    group: Client
    folder: Path
    pace: Pace = QUICK
    prepared: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    alive: int = 0
    in_use: bool = False
    pull_s: float = 0.0
    leave: threading.Event = field(default_factory=threading.Event)
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.calls = Calls(self.group)
        self.board = Board(self.folder / "at-work.json")

    @property
    def id(self) -> str:
        return next(iter(self.group.machines.states))

    @property
    def state(self) -> str:
        """Where the group has it now."""
        (found,) = self.group("DescribeAutoScalingInstances", InstanceIds=[self.id])["AutoScalingInstances"] or [{"LifecycleState": ""}]
        return str(found["LifecycleState"])

    @property
    def shown(self) -> Any:
        """What who asks the host is told of it."""
        return read_board(self.folder / "at-work.json").get("group")

    def count(self, action: str) -> int:
        return self.calls.made.count(action)

    def member(self) -> GroupMember:
        def sign() -> None:
            self.alive += 1

        def pull() -> None:
            self.prepared.append(self.state)
            time.sleep(self.pull_s)

        around = Surroundings(
            self.leave,
            self.stop,
            self.board,
            pull,
            lambda: self.in_use,
            lambda: self.off.append(""),
            sign,
        )
        asked = GroupInstance(self.calls, "g", self.id)  # type: ignore[arg-type]  # its calls are made by name
        return GroupMember(asked, around, IDLE_S, lambda: self.group.service.target_state(REGION, self.id), self.pace)

    def in_service(self) -> GroupMember:
        """A member at work."""
        made = self.member()
        assert made.enter()
        return made


@contextmanager
def one_instance(folder: Path, *, pool: bool = False, hook_s: int = 30, **options: Any) -> Iterator[Instance]:
    """A group of one with both hooks, which acts on its own as AWS's does; with ``pool`` it is wanted in the warm pool first."""
    group = Client()
    create(group, 0 if pool else 1, largest=1, **options)
    for name, transition in ((HOOK_READY, "LAUNCHING"), (HOOK_FINISH, "TERMINATING")):
        group(
            "PutLifecycleHook", AutoScalingGroupName="g", LifecycleHookName=name, HeartbeatTimeout=hook_s, DefaultResult="ABANDON",
            LifecycleTransition=f"autoscaling:EC2_INSTANCE_{transition}",
        )  # fmt: skip
    if pool:
        group("PutWarmPool", AutoScalingGroupName="g", InstanceReusePolicy={"ReuseOnScaleIn": True})

    with acting(group):
        until(lambda: group.machines.states, "nothing was launched")
        yield Instance(group, folder)


def acting(group: Client) -> AbstractContextManager[None]:
    """Meanwhile groups act of themselves."""
    return meanwhile(group.service.tick, 0.01)


def stays(condition: Callable[[], bool], seconds: float = 0.3) -> bool:
    """Whether something is so for a while."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if not condition():
            return False
        time.sleep(0.02)
    return True
