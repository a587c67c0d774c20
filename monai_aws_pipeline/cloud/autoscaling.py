"""EC2 Auto Scaling: one group with its launch template, hooks, policies, warm pool and instance refreshes, as AWS has them.

Here belongs how each is asked for and read. What a group is to be, with every number, is decided in ``deployment.fleet_group``.
Source: Amazon EC2 Auto Scaling API Reference; EC2 API Reference, CreateLaunchTemplateVersion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of, message_of, named
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.tags import tags_of
from monai_aws_pipeline.cloud.waiting import retried, silently, wait_until
from monai_aws_pipeline.contract.launches import why_in_vain

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients

Json = Mapping[str, Any]
IN_SERVICE: Final = "InService"
_OPEN: Final = ("Pending", "InProgress", "Cancelling", "RollbackInProgress", "Baking")
_NEW_SECONDS: Final = 60.0
_BUSY_SECONDS: Final = 300.0


class FleetError(CloudError):
    """Auto Scaling refused a change of the group, or did not come to what was asked of it."""


@dataclass(frozen=True)
class Template:
    """The newest version of a launch template. ``content``: what its maker said that it was made of."""

    id: str
    version: str
    content: str


@dataclass(frozen=True)
class Instance:
    """An instance of a group or of its warm pool. ``state`` is that of its lifecycle; ``version`` that of its launch template."""

    id: str
    state: str
    zone: str
    type: str
    version: str
    protected: bool = False


@dataclass(frozen=True)
class Refresh:
    """The newest instance refresh of a group. ``version``: of the launch template that it goes to, empty where it does not say."""

    id: str
    status: str
    percentage: int
    reason: str
    version: str

    @property
    def is_open(self) -> bool:
        """Whether it is under way."""
        return self.status in _OPEN


@dataclass(frozen=True)
class Group:
    """A group as AWS shows it. ``settings``: its description; ``hooks`` and ``policies`` by name; ``pool``: the warm pool's setting."""

    settings: Json
    hooks: Mapping[str, Json]
    policies: Mapping[str, Json]
    alarm: Json
    pool: Json
    instances: tuple[Instance, ...]
    warm: tuple[Instance, ...]
    refresh: Refresh | None

    @property
    def desired(self) -> int:
        """How many instances it is to have."""
        return int(self.settings["DesiredCapacity"])

    @property
    def most(self) -> int:
        """How many instances it may have."""
        return int(self.settings["MaxSize"])

    @property
    def is_going(self) -> bool:
        """Whether it is being deleted."""
        return bool(self.settings.get("Status"))

    @property
    def versions(self) -> frozenset[str]:
        """Of its launch template: the one that it launches from, and the one that a refresh under way brings in or may take back."""
        coming = self.refresh.version if self.refresh and self.refresh.is_open else ""
        return frozenset({_version(self.settings), coming} - {""})

    @property
    def tags(self) -> dict[str, str]:
        """Its tags."""
        return tags_of(self.settings.get("Tags", []))

    @property
    def on_demand_base(self) -> int:
        """Of its instances, how many are On-Demand in any case; 0 where it is no mix. AWS may refuse a ``MaxSize`` below it."""
        return int(self.settings.get("MixedInstancesPolicy", {}).get("InstancesDistribution", {}).get("OnDemandBaseCapacity", 0))

    @property
    def suspended(self) -> tuple[str, ...]:
        """What somebody has forbidden it to do."""
        return tuple(str(each["ProcessName"]) for each in self.settings.get("SuspendedProcesses", []))

    @property
    def counts_itself(self) -> bool:
        """Whether it tells CloudWatch how many instances it has."""
        return any(each["Metric"] == "GroupInServiceInstances" for each in self.settings.get("EnabledMetrics", []))

    def in_service(self) -> tuple[Instance, ...]:
        """Its instances that take work, those that no work keeps first."""
        return tuple(sorted((each for each in self.instances if each.state == IN_SERVICE), key=lambda each: (each.protected, each.id)))


@contextmanager
def _named(doing: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise named(error, doing, FleetError) from error


class LaunchTemplates:
    """Launch templates of one deployment, by name."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def find(self, name: str) -> Template | None:
        """The newest version of the template of a name, None where there is none."""
        ec2 = self._clients.ec2
        with _named(f"looking for the launch template {name}"):
            found = ec2.describe_launch_templates(Filters=[{"Name": "launch-template-name", "Values": [name]}])["LaunchTemplates"]
            if not found:
                return None
            wanted = found[0].get("LaunchTemplateId", "")
            newest = ec2.describe_launch_template_versions(LaunchTemplateId=wanted, Versions=["$Latest"])["LaunchTemplateVersions"][0]
        return Template(wanted, str(newest.get("VersionNumber", "")), newest.get("VersionDescription", ""))

    def images(self, name: str, versions: Collection[str]) -> set[str]:
        """The machine images that these versions of the template of a name launch from, and its newest; none where there is none."""
        if not (newest := self.find(name)):
            return set()
        with _named(f"looking for the images of the launch template {name}"):
            asked = sorted({newest.version, *versions})
            found = self._clients.ec2.describe_launch_template_versions(LaunchTemplateId=newest.id, Versions=asked)
            return {each.get("LaunchTemplateData", {}).get("ImageId", "") for each in found["LaunchTemplateVersions"]}

    def ensure(self, name: str, data: Json, content: str, tags: Sequence[Any]) -> tuple[Template, bool]:
        """The template with its newest version made of this content, and whether that version was made now."""
        found = self.find(name)
        if found and found.content == content:
            return found, False
        request: dict[str, Any] = {"LaunchTemplateData": dict(data), "VersionDescription": content}
        with _named(f"making the launch template {name}"):
            if found:
                made: Any = self._clients.ec2.create_launch_template_version(LaunchTemplateId=found.id, **request)["LaunchTemplateVersion"]
                return Template(found.id, str(made["VersionNumber"]), content), True
            marks: Any = [{"ResourceType": "launch-template", "Tags": list(tags)}]
            first = self._clients.ec2.create_launch_template(LaunchTemplateName=name, TagSpecifications=marks, **request)["LaunchTemplate"]
        return Template(first.get("LaunchTemplateId", ""), str(first.get("LatestVersionNumber", 1)), content), True

    def remove(self, name: str) -> None:
        """Delete the template with all its versions; one that is gone already is fine."""
        if found := self.find(name):
            with _named(f"deleting the launch template {name}"):
                self._clients.ec2.delete_launch_template(LaunchTemplateId=found.id)


class ScalingGroup:
    """The Auto Scaling group of one name, with the alarm of its step policy (``alarm``)."""

    def __init__(self, clients: Clients, name: str, alarm: str) -> None:
        self._clients, self.name, self._alarm = clients, name, alarm

    @property
    def _api(self) -> Any:
        return self._clients.autoscaling

    def find(self) -> Group | None:
        """The group with all that belongs to it, None where there is none."""
        with _named(f"looking at the Auto Scaling group {self.name}"):
            shown = self._shown()
            if shown is None:
                return None
            if shown.get("Status"):  # what belongs to a group that goes cannot be asked for
                return Group(shown, {}, {}, {}, {}, _instances(shown["Instances"]), (), None)
            hooks = self._api.describe_lifecycle_hooks(AutoScalingGroupName=self.name)["LifecycleHooks"]
            policies = self._api.describe_policies(AutoScalingGroupName=self.name)["ScalingPolicies"]
            pooled = self._of_pool(lambda: self._api.describe_warm_pool(AutoScalingGroupName=self.name)) if _has_pool(shown) else None
            refreshes = self._api.describe_instance_refreshes(AutoScalingGroupName=self.name, MaxRecords=1)["InstanceRefreshes"]
            alarms: list[Any] = list(self._clients.cloudwatch.describe_alarms(AlarmNames=[self._alarm])["MetricAlarms"])
        return Group(
            settings=shown,
            hooks={each["LifecycleHookName"]: each for each in hooks},
            policies={each["PolicyName"]: each for each in policies},
            alarm=alarms[0] if alarms else {},
            pool=shown.get("WarmPoolConfiguration", {}),
            instances=_instances(shown["Instances"]),
            warm=_instances(pooled["Instances"] if pooled else []),
            refresh=_refresh(refreshes[0]) if refreshes else None,
        )

    def exists(self) -> bool:
        """Whether AWS still shows the group."""
        with _named(f"looking for the Auto Scaling group {self.name}"):
            return self._shown() is not None

    def _shown(self) -> dict[str, Any] | None:
        listed = self._api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return dict(listed[0]) if listed else None

    def create(self, settings: Json, hooks: Mapping[str, Json], tags: Mapping[str, str], report: Report) -> None:
        """Make the group with its hooks in one call, so that no instance ever comes without them."""
        specs = [{"LifecycleHookName": name, **hook} for name, hook in hooks.items()]
        call = partial(
            self._api.create_auto_scaling_group,
            AutoScalingGroupName=self.name,
            LifecycleHookSpecificationList=specs,
            Tags=self._tags(tags),
            **settings,
        )
        with _named(f"making the Auto Scaling group {self.name}"):
            waiting = "waiting until Auto Scaling knows the launch template"
            retried(call, ClientError, _is_new, _NEW_SECONDS, what=waiting, report=report)

    def update(self, settings: Json) -> None:
        """Change settings of the group."""
        with _named(f"changing the Auto Scaling group {self.name}"):
            self._api.update_auto_scaling_group(AutoScalingGroupName=self.name, **settings)

    def put_hook(self, name: str, hook: Json) -> None:
        """Make a lifecycle hook, or bring it to this."""
        with _named(f"setting the lifecycle hook {name}"):
            self._api.put_lifecycle_hook(AutoScalingGroupName=self.name, LifecycleHookName=name, **hook)

    def remove_hook(self, name: str) -> None:
        """Delete a lifecycle hook. Of the instances that it holds AWS ends those that come, and lets go those that leave."""
        with _named(f"deleting the lifecycle hook {name}"):
            self._api.delete_lifecycle_hook(AutoScalingGroupName=self.name, LifecycleHookName=name)

    def put_policy(self, name: str, policy: Json) -> str:
        """Make a scaling policy, or bring it to this. Returns its ARN."""
        with _named(f"setting the scaling policy {name}"):
            return str(self._api.put_scaling_policy(AutoScalingGroupName=self.name, PolicyName=name, **policy)["PolicyARN"])

    def remove_policy(self, name: str) -> None:
        """Delete a scaling policy. The alarms that AWS made for it go with it; an alarm that somebody made calls nothing then."""
        with _named(f"deleting the scaling policy {name}"):
            self._api.delete_policy(AutoScalingGroupName=self.name, PolicyName=name)

    def put_alarm(self, alarm: Json, policy: str, tags: Mapping[str, str]) -> None:
        """Make the alarm that calls the step policy (by its ARN), or bring it to this."""
        marks: Any = [{"Key": key, "Value": value} for key, value in tags.items()]
        with _named(f"making the alarm {self._alarm}"):
            self._clients.cloudwatch.put_metric_alarm(AlarmName=self._alarm, AlarmActions=[policy], Tags=marks, **alarm)

    def put_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the group, which its new instances get too."""
        with _named(f"tagging the Auto Scaling group {self.name}"):
            self._api.create_or_update_tags(Tags=self._tags(tags))

    def count_itself(self) -> None:
        """Have the group tell CloudWatch how many instances it has."""
        with _named(f"switching on the metrics of the Auto Scaling group {self.name}"):
            self._api.enable_metrics_collection(AutoScalingGroupName=self.name, Granularity="1Minute")

    def suspend(self, processes: Collection[str]) -> None:
        """Forbid the group to do these, in AWS's words, until it is let do them again."""
        with _named(f"suspending {', '.join(processes)} of the Auto Scaling group {self.name}"):
            self._api.suspend_processes(AutoScalingGroupName=self.name, ScalingProcesses=list(processes))

    def resume(self, processes: Collection[str]) -> None:
        """Let the group do these again."""
        with _named(f"resuming {', '.join(processes)} of the Auto Scaling group {self.name}"):
            self._api.resume_processes(AutoScalingGroupName=self.name, ScalingProcesses=list(processes))

    def put_pool(self, pool: Json) -> None:
        """Make the warm pool, or bring it to this."""
        with _named(f"setting the warm pool of {self.name}"):
            self._api.put_warm_pool(AutoScalingGroupName=self.name, **pool)

    def ask_pool(self, pool: Json) -> str:
        """As ``put_pool``, for a group that AWS may keep none for. Returns AWS's words where it refuses."""
        with _named(f"asking for a warm pool of {self.name}"):
            try:
                self._api.put_warm_pool(AutoScalingGroupName=self.name, **pool)
            except ClientError as error:
                if code_of(error) != "ValidationError":
                    raise
                return message_of(error)
        return ""

    def remove_pool(self) -> None:
        """End the warm pool with its instances; one that has gone meanwhile is fine."""
        with _named(f"removing the warm pool of {self.name}"):
            self._of_pool(lambda: self._api.delete_warm_pool(AutoScalingGroupName=self.name, ForceDelete=True))

    def has_pool(self) -> bool:
        """Whether AWS still shows the group with a warm pool, be it one that goes."""
        with _named(f"looking for the warm pool of {self.name}"):
            return _has_pool(self._shown() or {})

    def _of_pool(self, call: Callable[[], Any]) -> Any:
        """The answer of a call about the warm pool; None where there is no pool any more, for which AWS has no code of its own."""
        try:
            return call()
        except ClientError:
            if _has_pool(self._shown() or {}):
                raise
            return None

    def start_refresh(self, launch: Json, preferences: Json) -> str:
        """Replace instances by such that are launched by ``launch``, which becomes the group's. Returns the refresh's id."""
        with _named(f"starting an instance refresh of {self.name}"):
            answer = self._api.start_instance_refresh(
                AutoScalingGroupName=self.name, Strategy="Rolling", DesiredConfiguration=dict(launch), Preferences=dict(preferences)
            )
            return str(answer["InstanceRefreshId"])

    def cancel_refresh(self) -> None:
        """Stop the instance refresh that is under way; one that has just ended is fine."""
        with _named(f"cancelling the instance refresh of {self.name}"):
            try:
                self._api.cancel_instance_refresh(AutoScalingGroupName=self.name)
            except ClientError as error:
                if code_of(error) != "ActiveInstanceRefreshNotFound":
                    raise

    def ask_for(self, number: int) -> None:
        """Have the group get to so many instances, now."""
        with _named(f"asking {self.name} for {number} instances"):
            self._api.set_desired_capacity(AutoScalingGroupName=self.name, DesiredCapacity=number, HonorCooldown=False)

    def let_go(self, instance: str, report: Report) -> None:
        """Have one instance leave by its hook, whatever protects it; the group asks for no other. One that leaves already is fine."""
        call = partial(self._api.terminate_instance_in_auto_scaling_group, InstanceId=instance, ShouldDecrementDesiredCapacity=False)

        def leaves() -> bool:
            listed = _instances((self._shown() or {"Instances": []})["Instances"])
            return all("Terminating" in each.state for each in listed if each.id == instance)

        with _named(f"letting {instance} go"):
            self._accepted(call, leaves, report)

    def delete(self, report: Report) -> None:
        """Delete the group with whatever is still in it; one that is gone, or going, is fine."""
        call = partial(self._api.delete_auto_scaling_group, AutoScalingGroupName=self.name, ForceDelete=True)
        with _named(f"deleting the Auto Scaling group {self.name}"):
            self._accepted(call, lambda: bool((self._shown() or {"Status": "gone"}).get("Status")), report)

    def _accepted(self, call: Callable[[], object], done: Callable[[], bool], report: Report) -> None:
        """Make a call, again while the group is busy; what is done already, or not there, is fine."""

        def once() -> None:
            try:
                call()
            except ClientError as error:
                if "not found" not in message_of(error) and not (_is_busy(error) and done()):
                    raise

        waiting = f"waiting until the Auto Scaling group {self.name} has ended what it is at"
        retried(once, ClientError, _is_busy, _BUSY_SECONDS, what=waiting, report=report)

    def has_alarm(self) -> bool:
        """Whether the step policy's alarm is there."""
        with _named(f"looking for the alarm {self._alarm}"):
            return bool(self._clients.cloudwatch.describe_alarms(AlarmNames=[self._alarm])["MetricAlarms"])

    def remove_alarm(self) -> None:
        """Delete the step policy's alarm."""
        with _named(f"deleting the alarm {self._alarm}"):
            self._clients.cloudwatch.delete_alarms(AlarmNames=[self._alarm])

    def last_failure(self, activities: int = 20) -> str:
        """Of the newest activities, if the latest launch that ended was in vain: why, in AWS's words; else empty."""
        with _named(f"looking at what {self.name} did"):
            found = self._api.describe_scaling_activities(AutoScalingGroupName=self.name, MaxRecords=activities)["Activities"]
        return why_in_vain(found)

    def wait_gone(self, seconds: float, report: Report = silently) -> bool:
        """Wait until AWS shows the group no more; whether it is so."""
        waiting = f"waiting until the Auto Scaling group {self.name} has ended its instances and is gone"
        return not wait_until(self.exists, lambda there: not there, seconds, what=waiting, report=report, pause=3.0)

    def _tags(self, tags: Mapping[str, str]) -> list[dict[str, Any]]:
        of = {"ResourceId": self.name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
        return [{"Key": key, "Value": value, **of} for key, value in tags.items()]


def _is_new(error: ClientError) -> bool:
    """Whether Auto Scaling does not know yet what EC2 has just made."""
    return code_of(error) == "ValidationError" and "does not exist" in message_of(error)


def _is_busy(error: ClientError) -> bool:
    """Whether a group is at something else: the call was not accepted, and may be later."""
    return code_of(error) in ("ScalingActivityInProgress", "ResourceInUse", "ResourceContention")


def _has_pool(shown: Mapping[str, Any]) -> bool:
    """Whether a group, as AWS shows it, has a warm pool, be it one that goes."""
    return "WarmPoolConfiguration" in shown


def _instances(shown: Sequence[Json]) -> tuple[Instance, ...]:
    return tuple(
        Instance(
            id=each["InstanceId"],
            state=each["LifecycleState"],
            zone=each["AvailabilityZone"],
            type=each.get("InstanceType", ""),
            version=str(each.get("LaunchTemplate", {}).get("Version", "")),
            protected=bool(each.get("ProtectedFromScaleIn")),
        )
        for each in shown
    )


def _version(launch: Json) -> str:
    """The version of the launch template that settings name, plainly or in a mix; empty where they name none."""
    mixed = launch.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {}).get("LaunchTemplateSpecification", {})
    return str((launch.get("LaunchTemplate") or mixed).get("Version", ""))


def _refresh(shown: Json) -> Refresh:
    return Refresh(
        id=shown["InstanceRefreshId"],
        status=shown["Status"],
        percentage=int(shown.get("PercentageComplete") or 0),
        reason=str(shown.get("StatusReason") or ""),
        version=_version(shown.get("DesiredConfiguration", {})),
    )
