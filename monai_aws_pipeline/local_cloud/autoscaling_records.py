"""What EC2 Auto Scaling keeps: groups with their instances, activities, hooks, policies, warm pool and refreshes, as plain data.

Here belongs what is stored and shown. What follows from it is planned in autoscaling_plan.py and autoscaling_policies.py.
Source: Amazon EC2 Auto Scaling API Reference, data types; User Guide, "Amazon EC2 Auto Scaling instance lifecycle".
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

Json = dict[str, Any]

LONGEST_WAIT_S: Final = 172_800
LONGEST_WAIT_TIMES: Final = 100
"""A hook holds an instance for so many seconds or so many times its timeout at most, however many heartbeats come."""
LAUNCHING: Final = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING: Final = "autoscaling:EC2_INSTANCE_TERMINATING"
LAUNCH_SOURCES: Final[tuple[str, ...]] = ("LaunchTemplate", "MixedInstancesPolicy")
"""What of a group's settings says what it launches, and what a refresh's desired configuration is made of."""
BRINGS_IN: Final = ("Pending", "InProgress")
"""While a refresh has this status, what is launched is of its desired configuration."""
_KEPT_ACTIVITIES: Final = 200


@dataclass(frozen=True)
class Template:
    """One version of a launch template. Without id: the one that a group names is not there."""

    id: str
    name: str
    version: str
    data: Json

    @property
    def record(self) -> dict[str, str]:
        """As instances of a group name it."""
        return {"LaunchTemplateId": self.id, "LaunchTemplateName": self.name, "Version": self.version}

    @property
    def kind(self) -> str:
        """The type that it names; empty where it leaves that to a mix."""
        return str(self.data.get("InstanceType", ""))

    @property
    def is_spot(self) -> bool:
        """Whether it requests Spot instances itself."""
        return bool(self.data.get("InstanceMarketOptions", {}).get("MarketType") == "spot")


@dataclass
class Member:
    """An instance of a group or of its warm pool.

    ``template``: id, name and the very version it was launched from. ``hooks``: those that still hold it in a state of waiting, by name,
    with the time until which each waits, and since when. ``started``: its machine has been started from the pool. ``returning``: it comes
    back to the pool.
    """

    id: str
    zone: str
    kind: str
    template: dict[str, str]
    state: str
    launched: float
    activity: str = ""
    spot: bool = False
    healthy: bool = True
    protected: bool = False
    hooks: dict[str, float] = field(default_factory=dict)
    waits_since: float = 0.0
    token: str = ""
    abandoned: bool = False
    started: bool = False
    returning: bool = False

    def target(self, pool_state: str) -> str:
        """The steady state that it is in or on its way to, as its metadata has it; ``pool_state``: of the group's warm pool."""
        if self.is_leaving:
            return "Warmed:Terminated" if self.is_warm else "Terminated"
        return f"Warmed:{pool_state}" if self.is_warm else "InService"

    @property
    def is_warm(self) -> bool:
        """Whether it is in the warm pool, or on its way into or out of it by its end."""
        return self.state.startswith("Warmed:")

    @property
    def is_leaving(self) -> bool:
        """Whether it is about to end."""
        return "Terminating" in self.state

    @property
    def in_flight(self) -> bool:
        """Whether its launch is not over, or its end."""
        return "Pending" in self.state or self.is_leaving


@dataclass
class Group:
    """An Auto Scaling group. ``settings`` as CreateAutoScalingGroup takes them, with AWS's defaults."""

    name: str
    arn: str
    region: str
    created: float
    settings: Json
    members: list[Member] = field(default_factory=list)
    activities: list[Json] = field(default_factory=list)
    hooks: dict[str, Json] = field(default_factory=dict)
    policies: dict[str, Json] = field(default_factory=dict)
    tags: list[Json] = field(default_factory=list)
    suspended: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    refreshes: list[Json] = field(default_factory=list)
    warm_pool: Json | None = None
    warm_pool_ends: bool = False
    deleting: bool = False
    cooldown_until: float = 0.0
    next_launch: float = 0.0
    reason: str = ""
    """Why its desired capacity is what it is, until that is reached."""

    @property
    def desired(self) -> int:
        """How many instances it is to have in service."""
        return int(self.settings["DesiredCapacity"])

    @property
    def smallest(self) -> int:
        """MinSize."""
        return int(self.settings["MinSize"])

    @property
    def largest(self) -> int:
        """MaxSize."""
        return int(self.settings["MaxSize"])

    def member(self, instance_id: str) -> Member | None:
        """Its instance of this id, or None."""
        return next((each for each in self.members if each.id == instance_id), None)

    def in_group(self) -> list[Member]:
        """Its instances that count for its capacity: neither in the warm pool nor about to end."""
        return [each for each in self.members if not each.is_warm and not each.is_leaving]

    def in_service(self) -> list[Member]:
        """Its instances at work."""
        return [each for each in self.members if each.state == "InService"]

    def hooks_at(self, transition: str) -> dict[str, Json]:
        """Its lifecycle hooks at a transition."""
        return {name: hook for name, hook in self.hooks.items() if hook["LifecycleTransition"] == transition}

    def refresh(self) -> Json | None:
        """The instance refresh that is under way, or None."""
        open_states = ("Pending", "InProgress", "Cancelling", "RollbackInProgress")
        return next((each for each in self.refreshes if each["Status"] in open_states), None)

    def launch(self) -> Json:
        """What new instances are launched by, a template or a mix: what a refresh is bringing in, or else its own."""
        refresh = self.refresh()
        wanted = refresh.get("DesiredConfiguration") if refresh and refresh["Status"] in BRINGS_IN else None
        return wanted or {name: self.settings[name] for name in LAUNCH_SOURCES if name in self.settings}

    def configure(self, launch: Json) -> None:
        """Take a configuration for its own."""
        kept = {name: value for name, value in self.settings.items() if name not in LAUNCH_SOURCES}
        self.settings = {**kept, **{name: launch[name] for name in LAUNCH_SOURCES if name in launch}}

    def begin(self, description: str, cause: str, now: float, zone: str = "") -> Json:
        """A new activity, under way."""
        activity = {
            "ActivityId": str(uuid.uuid4()),
            "AutoScalingGroupName": self.name,
            "AutoScalingGroupARN": self.arn,
            "Description": description,
            "Cause": cause,
            "StartTime": now,
            "StatusCode": "InProgress",
            "Progress": 50,
            "Details": f'{{"Availability Zone":"{zone}"}}' if zone else "{}",
        }
        self.activities.insert(0, activity)
        del self.activities[_KEPT_ACTIVITIES:]
        return activity

    def finish(self, activity_id: str, now: float, status: str = "Successful", message: str = "") -> None:
        """End an activity."""
        for each in self.activities:
            if each["ActivityId"] == activity_id:
                each.update(StatusCode=status, Progress=100, EndTime=now, **({"StatusMessage": message} if message else {}))


def template_of(launch: Mapping[str, Any]) -> Json:
    """The launch template that a group's settings or a desired configuration name, wherever they do."""
    mixed = launch.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
    return dict(launch.get("LaunchTemplate") or mixed.get("LaunchTemplateSpecification") or {})


def as_json(group: Group) -> Json:
    """A group for persistence."""
    return asdict(group)


def from_json(data: Json) -> Group:
    """A group as ``as_json`` wrote it. Earlier versions wrote nothing of how far a refresh had come."""
    come = {"Progressed": 0.0, "Left": len(data["members"]), "Ready": 0}
    refreshes = [{**come, **each} for each in data["refreshes"]]
    return Group(**{**data, "members": [Member(**each) for each in data["members"]], "refreshes": refreshes})


def longest_wait(hook: Json) -> int:
    """Seconds for which a hook holds an instance at most: its GlobalTimeout."""
    return min(LONGEST_WAIT_S, LONGEST_WAIT_TIMES * int(hook["HeartbeatTimeout"]))


def roll_back(refresh: Json, members: int, why: str, now: float) -> None:
    """Have a refresh bring back what was there before. ``members``: instances that the group has."""
    details = {"RollbackReason": why, "RollbackStartTime": now, "PercentageCompleteOnRollback": refresh["PercentageComplete"]}
    refresh.update(Status="RollbackInProgress", StatusReason=why, RollbackDetails=details, Progressed=now, Left=members, Ready=0)


def new_token() -> str:
    """A LifecycleActionToken."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


def at(now: float) -> str:
    """A time as activities tell it."""
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"
