"""How many hosts are wanted: the rules of both kinds of fleet, as pure decisions on what a queue shows.

``hosts`` have names, are stopped while nothing comes, and started by the wake function (``lambda_fn/hosts.py``). ``autoscaling`` is an EC2
Auto Scaling group that this function lifts from zero, that grows by its alarms and that idle instances leave by themselves
(``deployment/fleet_group.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from monai_aws_pipeline.simulation.measured import JOBS_PER_HOST, CloudWatch, Machine, Speed


class Kind(StrEnum):
    """The two kinds of fleet."""

    HOSTS = "hosts"
    AUTOSCALING = "autoscaling"


@dataclass(frozen=True)
class Fleet:
    """Settings of a fleet, times in minutes as the settings have them.

    ``most``: hosts there are, or instances the group may have. ``warm_pool``: stopped instances that the group keeps beside those.
    ``jobs_per_host``: one more host for each so many jobs that wait.
    """

    kind: Kind = Kind.HOSTS
    most: int = 1
    at_once: int = 1
    idle_stop_minutes: float = 5.0
    wake_every_minutes: float = 5.0
    spot: bool = False
    warm_pool: int = 0
    jobs_per_host: int = JOBS_PER_HOST
    instance_type: str = "g4dn.xlarge"

    @property
    def keeps_machines(self) -> bool:
        """Whether a host that stops is started again later. An instance of a group is terminated when it is idle, and each is new.

        So is one from its warm pool: it has pulled the MAP and never run it, and another is launched into its place.
        """
        return self.kind is Kind.HOSTS


def hosts_to_start(waiting: int, on: int, fleet: Fleet) -> int:
    """The wake function's rule: one host for each 20 jobs that wait, at least one; of a group the first. ``on``: those on or starting."""
    wanted = -(-waiting // fleet.jobs_per_host) if fleet.kind is Kind.HOSTS else 1
    return max(0, min(max(1, wanted), fleet.most) - on) if waiting else 0


@dataclass(frozen=True)
class Seen:
    """A value of the queue's metrics: jobs that wait, and the age of the oldest."""

    waiting: int
    oldest_s: float


def instances_to_add(seen: list[Seen], running: int, starting: int, fleet: Fleet, watch: CloudWatch) -> int:
    """What the group's alarms add by the values they see, the newest last. A group that was lifted and has none tries that one again."""
    on = running + starting
    if not seen or not seen[-1].waiting:
        return 0
    if not on:
        return 1
    last = seen[-watch.datapoints :]
    above = len(last) == watch.datapoints and all(each.waiting > fleet.jobs_per_host * max(1, running) for each in last)
    late = seen[-1].oldest_s > watch.oldest_s and not starting
    wanted = max(-(-seen[-1].waiting // fleet.jobs_per_host) if above else on, on + 1 if late else on)
    return max(0, min(wanted, fleet.most) - on)


HEADROOM = 1.25
"""Hosts of a plan answer so much more than the busiest hour brings."""
MOST_HOSTS = 50
"""As ``MONAI_AWS_HOST_COUNT`` allows; a test holds the two together."""


def hosts_for(peak_per_hour: float, speed: Speed, at_once: int) -> int:
    """The hosts that a plan begins with: enough for the busiest hour and a quarter more, as far as there may be so many."""
    return min(MOST_HOSTS, max(1, -int(-peak_per_hour * HEADROOM // (speed.rate(at_once) * 3600))))


def start_seconds(fleet: Fleet, machine: Machine, speed: Speed, *, pooled: bool = False) -> float:
    """From the start of a machine to its first inference, without the fetch of that study. ``pooled``: it waited in the warm pool."""
    ready = machine.start_s + speed.imports_s
    if fleet.keeps_machines:
        return ready
    return ready + speed.proofs_s(fleet.at_once) + (0.0 if pooled else machine.launch_s + machine.pull_s)


def refill_seconds(machine: Machine) -> float:
    """How long a machine is on that is launched into the warm pool: until it has pulled the MAP and is stopped."""
    return machine.start_s + machine.launch_s + machine.pull_s + machine.stop_s
