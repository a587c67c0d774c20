"""Taking a deployment down: everything its lineage has made, found by names and tags, removed in the order that nothing comes back.

What there is (``inventory``), what of it goes and in which order (``plan``, pure) and its removal are apart, so that a user sees the plan
first. Not ours to remove: the administrator's stack (roles, bucket, study key) and the bucket's objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.alarms import Alarms
from monai_aws_pipeline.cloud.autoscaling import LaunchTemplates, ScalingGroup
from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.expiry import BucketExpiry
from monai_aws_pipeline.cloud.images import ImageRegions
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.cloud.waiting import wait_until
from monai_aws_pipeline.contract import TAG_ROLE

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients
    from monai_aws_pipeline.settings import Settings


MACHINE_SECONDS = 300.0
VERIFY_SECONDS = 120.0
"""SQS answers for a deleted queue for up to 60 seconds (AWS, DeleteQueue); event sources take about as long."""


class Kind(StrEnum):
    """What a deployment consists of, in the order of removal: first what would
    complain of the rest, what announces and wakes, then what works, then what is only kept."""

    ALARM = "alarm"
    NOTIFICATION = "bucket notification"
    EXPIRY = "lifecycle rule of the bucket"
    SCHEDULE = "schedule"
    EVENT_SOURCE = "event source"
    FUNCTION = "function"
    SCALING_GROUP = "Auto Scaling group"
    LAUNCH_TEMPLATE = "launch template"
    MACHINE = "machine"
    QUEUE = "queue"
    KEY_PAIR = "key pair"
    SECURITY_GROUP = "security group"
    IMAGE_COPY = "machine image in another region"
    SNAPSHOT_COPY = "snapshot in another region"
    IMAGE = "machine image"
    SNAPSHOT = "snapshot"
    REPOSITORY = "ECR repository"
    PARAMETER = "parameter"


_ORDER = list(Kind)


@dataclass(frozen=True)
class Thing:
    """One thing of the deployment. ``note`` says what a user should know before it goes."""

    kind: Kind
    id: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.id}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Outcome:
    """What went, and what was still there when it was looked at afterwards."""

    removed: tuple[Thing, ...]
    left: tuple[Thing, ...]


def plan(found: Iterable[Thing], keep_images: bool = False) -> tuple[Thing, ...]:
    """What goes, in order. ``keep_images`` leaves the MAP images and their repository."""
    going = [thing for thing in found if not (keep_images and thing.kind is Kind.REPOSITORY)]
    return tuple(sorted(going, key=lambda thing: (_ORDER.index(thing.kind), thing.id)))


class Teardown:
    """Everything of one deployment that its lineage has made."""

    def __init__(self, clients: Clients, settings: Settings, report: Report) -> None:
        self._settings = settings
        self._bucket = settings.require_bucket()
        self._trigger = Trigger(clients, {})
        self._expiry = BucketExpiry(clients.s3, self._bucket, settings.deployment)
        self._alarms = Alarms(clients.cloudwatch, settings.names)
        self._machines = Machines(clients.ec2, settings.deployment)
        self._group = ScalingGroup(clients, settings.names.fleet_group, settings.names.fleet_alarm)
        self._templates = LaunchTemplates(clients)
        self._images = ImageRegions(clients, settings.deployment, settings.ami_regions)
        self._copied_to: tuple[str, ...] = ()
        self._registry = Registry(clients.ecr, settings.ecr_repository)
        self._commands = Commands(clients.ssm)
        self._report = report
        self._foreign_said = False

    def inventory(self) -> list[Thing]:
        """What there is now. Reads only."""
        names, trigger = self._settings.names, self._trigger
        found = [Thing(Kind.ALARM, name) for name in self._alarms.names()]
        if trigger.has_notification(self._bucket, names.uploads_queue):
            found.append(Thing(Kind.NOTIFICATION, names.uploads_queue, f"on {self._bucket}; those of others stay"))
        found += [Thing(Kind.EXPIRY, rule, f"on {self._bucket}; those of others stay") for rule in self._expiry.names()]
        if trigger.has_schedule(names.wake_schedule):
            found.append(Thing(Kind.SCHEDULE, names.wake_schedule))
        found += [Thing(Kind.EVENT_SOURCE, uuid) for uuid in trigger.event_sources(names.wake_function)]
        if trigger.has_function(names.wake_function):
            found.append(Thing(Kind.FUNCTION, names.wake_function))
        found += self._of_fleet()
        found += [Thing(Kind.MACHINE, m.id, f"{m.tags.get(TAG_ROLE, 'no role')}, {m.state}") for m in self._machines.find()]
        for name in (names.uploads_queue, names.jobs_queue, names.uploads_dead_letters, names.jobs_dead_letters):
            found += self._queue(name)
        found += [Thing(Kind.KEY_PAIR, name) for name in self._machines.key_names()]
        found += [Thing(Kind.SECURITY_GROUP, group) for group in self._machines.security_groups()]
        found += self._of_images()
        found += self._repository()
        if self._commands.parameter(names.live_map_parameter):
            found.append(Thing(Kind.PARAMETER, names.live_map_parameter))
        return found

    def _of_fleet(self) -> list[Thing]:
        name, group = self._settings.names.fleet_group, self._group.find()
        held = f"with {len(group.instances)} instances, {len(group.warm)} in its warm pool" if group else "its alarm alone"
        found = [Thing(Kind.SCALING_GROUP, name, held)] if group or self._group.has_alarm() else []
        return [*found, Thing(Kind.LAUNCH_TEMPLATE, name)] if self._templates.find(name) else found

    def _remove_group(self, _: str) -> None:
        found = self._group.find()
        if found and not found.is_going:
            with suppress(CloudError):  # else a group that resists would launch again whatever of it is terminated later
                self._group.suspend(["Launch"])
        self._group.remove_alarm()
        self._group.delete(self._report)
        self._group.wait_gone(MACHINE_SECONDS, self._report)

    def _of_images(self) -> list[Thing]:
        # Once known, a region is looked at until the end: the images at home that tell of it go meanwhile.
        self._copied_to = tuple(dict.fromkeys([*self._copied_to, *self._images.others()]))
        found: list[Thing] = []
        for region in ("", *self._copied_to):
            there = self._images.at(region) if region else self._images.home
            place, image_kind, snapshot_kind = (
                (f"{region}/", Kind.IMAGE_COPY, Kind.SNAPSHOT_COPY) if region else ("", Kind.IMAGE, Kind.SNAPSHOT)
            )
            images = there.all()
            found += [Thing(image_kind, place + image.id, f"with {len(image.snapshots)} snapshots") for image in images]
            of_images = {snapshot for image in images for snapshot in image.snapshots}
            found += [Thing(snapshot_kind, place + snapshot) for snapshot in there.snapshots() if snapshot not in of_images]
        return found

    def _remove_copy(self, image: str) -> None:
        region, _, image_id = image.partition("/")
        self._images.at(region).remove(image_id)

    def _remove_snapshot_copy(self, snapshot: str) -> None:
        region, _, snapshot_id = snapshot.partition("/")
        self._images.at(region).remove_snapshot(snapshot_id)

    def run(self, going: Iterable[Thing], keep_images: bool = False) -> Outcome:
        """Remove, then look again. One thing that resists is reported and does not keep the rest from going."""
        removed: list[Thing] = []
        ending: list[str] = []
        for thing in going:
            if ending and thing.kind is not Kind.MACHINE:
                self._wait_terminated(ending)
                ending = []
            if self._attempt(f"remove {thing}", partial(self._remove, thing)):
                removed.append(thing)
                self._report(f"removed {thing.kind} {thing.id}")
                ending += [thing.id] if thing.kind is Kind.MACHINE else []
        self._wait_terminated(ending)
        return Outcome(tuple(removed), self._left(keep_images))

    def _left(self, keep_images: bool) -> tuple[Thing, ...]:
        return wait_until(
            lambda: plan(self.inventory(), keep_images),
            lambda left: not left,
            VERIFY_SECONDS,
            what=lambda left: f"waiting until AWS no longer shows {len(left)} of them, such as {left[0]}",
            report=self._report,
            pause=3.0,
        )

    def _remove(self, thing: Thing) -> None:
        removers: dict[Kind, Callable[[str], object]] = {
            Kind.ALARM: self._alarms.remove,
            Kind.NOTIFICATION: partial(self._trigger.remove_notification, self._bucket),
            Kind.EXPIRY: self._expiry.remove,
            Kind.SCHEDULE: self._trigger.remove_schedule,
            Kind.EVENT_SOURCE: self._trigger.remove_event_source,
            Kind.FUNCTION: self._trigger.remove_function,
            Kind.SCALING_GROUP: self._remove_group,
            Kind.LAUNCH_TEMPLATE: self._templates.remove,
            Kind.MACHINE: self._machines.terminate,
            Kind.QUEUE: self._trigger.remove_queue,
            Kind.KEY_PAIR: self._machines.delete_key,
            Kind.SECURITY_GROUP: lambda group: self._machines.delete_security_group(group, self._report),
            Kind.IMAGE_COPY: self._remove_copy,
            Kind.SNAPSHOT_COPY: self._remove_snapshot_copy,
            Kind.IMAGE: self._images.home.remove,
            Kind.SNAPSHOT: self._images.home.remove_snapshot,
            Kind.REPOSITORY: lambda _: self._registry.remove(),
            Kind.PARAMETER: self._commands.delete_parameter,
        }
        removers[thing.kind](thing.id)

    def _wait_terminated(self, machines: Iterable[str]) -> None:
        for machine in machines:  # a group cannot go, and a queue is still read, while a machine of it is ending
            self._attempt(f"see {machine} end", partial(self._machines.wait, machine, "terminated", MACHINE_SECONDS, self._report))

    def _attempt(self, what: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except (ClientError, CloudError) as error:
            self._report(f"could not {what}: {error}")
            return False
        return True

    def _queue(self, name: str) -> list[Thing]:
        found = self._trigger.find_queue(name)
        if found is None:
            return []
        waiting = sum(self._trigger.depth(found))
        return [Thing(Kind.QUEUE, name, f"with {waiting} messages; their uploads stay in the bucket" if waiting else "")]

    def _repository(self) -> list[Thing]:
        owner = self._registry.owner()
        if owner == self._settings.deployment:
            return [Thing(Kind.REPOSITORY, self._registry.name, "with all its images")]
        if owner is not None and not self._foreign_said:  # a shared repository holds the MAPs of others
            self._foreign_said = True
            self._report(f"the ECR repository {self._registry.name} carries the tag of {owner or 'no deployment'} and stays")
        return []
