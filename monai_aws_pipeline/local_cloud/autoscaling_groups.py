"""Auto Scaling's calls about groups: made, changed, shown, deleted; capacity, tags, processes and activities.

Source: Amazon EC2 Auto Scaling API Reference.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from moto.ec2.models import ec2_backends

from . import identity
from .authorization import ec2_checks, passed_roles
from .autoscaling_launch import asks_for_spot, find_template, launch_form, request, zones_of
from .autoscaling_loop import METRICS
from .autoscaling_plan import Offer
from .autoscaling_protocol import QueryError, invalid
from .autoscaling_records import LAUNCH_SOURCES, LAUNCHING, TERMINATING, Group, Json, Member, Template, at, template_of
from .autoscaling_scope import Call, Scope, paged
from .config import ACCOUNT

ROLE: Final = "AWSServiceRoleForAutoScaling"
HOOK_RESULTS: Final = ("CONTINUE", "ABANDON")
_ROLE_SERVICE: Final = "autoscaling.amazonaws.com"
_ROLE_PATH: Final = f"/aws-service-role/{_ROLE_SERVICE}/"
PROCESSES: Final = (
    "Launch", "Terminate", "AddToLoadBalancer", "AlarmNotification", "AZRebalance", "HealthCheck", "InstanceRefresh", "ReplaceUnhealthy",
    "ScheduledActions",
)  # fmt: skip
_SETTINGS: Final[tuple[str, ...]] = (
    "MinSize", "MaxSize", "DesiredCapacity", "DefaultCooldown", "AvailabilityZones", "VPCZoneIdentifier", "LaunchTemplate",
    "MixedInstancesPolicy", "HealthCheckType", "HealthCheckGracePeriod", "NewInstancesProtectedFromScaleIn", "TerminationPolicies",
    "CapacityRebalance", "DefaultInstanceWarmup", "MaxInstanceLifetime", "ServiceLinkedRoleARN", "PlacementGroup",
)  # fmt: skip
_NOT_EMULATED: Final = (
    "LaunchConfigurationName", "InstanceId", "LoadBalancerNames", "TargetGroupARNs", "TrafficSources", "DesiredCapacityType",
)  # fmt: skip


def _create(scope: Scope, data: Json) -> Json:
    name = data["AutoScalingGroupName"]
    if (scope.region, name) in scope.groups:
        raise QueryError("AlreadyExists", f"AutoScalingGroup by this name already exists - A group with the name {name} already exists")
    settings = {
        "DesiredCapacity": data["MinSize"], "DefaultCooldown": 300, "HealthCheckType": "EC2", "HealthCheckGracePeriod": 0,
        "NewInstancesProtectedFromScaleIn": False, "TerminationPolicies": ["Default"],
        "ServiceLinkedRoleARN": f"arn:aws:iam::{ACCOUNT}:role{_ROLE_PATH}{ROLE}",
        **{key: data[key] for key in _SETTINGS if key in data},
    }  # fmt: skip
    _refuse_settings(scope, data, settings)
    arn = f"arn:aws:autoscaling:{scope.region}:{ACCOUNT}:autoScalingGroup:{uuid.uuid4()}:autoScalingGroupName/{name}"
    group = Group(name, arn, scope.region, time.time(), settings)
    refuse_launch(scope, group, group.launch())
    hooks = [hook({**each, "AutoScalingGroupName": name}) for each in data.get("LifecycleHookSpecificationList", [])]
    group.hooks, group.tags = {each["LifecycleHookName"]: each for each in hooks}, _tags(name, data.get("Tags", []))
    _make_role(scope)
    group.reason = (
        f"At {at(time.time())} a user request created an AutoScalingGroup changing the desired capacity from 0 to {group.desired}."
    )
    scope.groups[scope.region, name] = group
    return {}


def hook(given: Json) -> Json:
    """A lifecycle hook with AWS's defaults. Raises QueryError."""
    made = {"HeartbeatTimeout": 3600, "DefaultResult": "ABANDON", **given}
    if made.get("LifecycleTransition") not in (LAUNCHING, TERMINATING):
        raise invalid(f"The lifecycle transition must be {LAUNCHING} or {TERMINATING}.")
    if made["DefaultResult"] not in HOOK_RESULTS:
        raise invalid("DefaultResult must be CONTINUE or ABANDON.")
    if not 30 <= int(made["HeartbeatTimeout"]) <= 7200:
        raise invalid("Heartbeat timeout must be between 30 and 7200 seconds.")
    if made.get("NotificationTargetARN"):
        raise invalid("NotificationTargetARN is not emulated here; ask DescribeAutoScalingInstances for the state.")
    return made


def _make_role(scope: Scope) -> None:
    """The role that Auto Scaling acts by is made at the first group, by whoever makes that one."""
    if identity.role(ROLE) is not None:
        return
    arn = f"arn:aws:iam::{ACCOUNT}:role{_ROLE_PATH}{ROLE}"
    if not scope.caller.may("iam:CreateServiceLinkedRole", scope.region, arn, iam__AWSServiceName=_ROLE_SERVICE):
        words = "The default Service-Linked Role for Auto Scaling could not be created: the caller may not create it."
        raise QueryError("AccessDenied", words, 403)
    identity.make_role(ROLE, _ROLE_PATH, _ROLE_SERVICE)


def _update(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    changes = {key: data[key] for key in _SETTINGS if key in data}
    launch = {name: changes[name] for name in LAUNCH_SOURCES if name in changes}
    if launch and "DesiredConfiguration" in (group.refresh() or {}):
        raise invalid(
            "An active instance refresh with a desired configuration exists. All configuration options derived from the desired "
            "configuration are not available for update while the instance refresh is active."
        )
    if "MinSize" in changes and "DesiredCapacity" not in changes:
        changes["DesiredCapacity"] = max(group.desired, changes["MinSize"])
    if "MaxSize" in changes and "DesiredCapacity" not in data:
        changes["DesiredCapacity"] = min(changes.get("DesiredCapacity", group.desired), changes["MaxSize"])
    settings = {**group.settings, **changes}
    for name in [name for name in LAUNCH_SOURCES if launch and name not in launch]:
        settings.pop(name, None)
    if "VPCZoneIdentifier" in changes and "AvailabilityZones" not in changes:
        settings.pop("AvailabilityZones", None)
    _refuse_settings(scope, data, settings)
    if launch:
        refuse_launch(scope, replace(group, settings=settings), launch)
    if (wanted := settings["DesiredCapacity"]) != group.desired:
        group.reason = (
            f"At {at(time.time())} a user request update of AutoScalingGroup constraints to min: {settings['MinSize']}, max: "
            f"{settings['MaxSize']}, desired: {wanted} changing the desired capacity from {group.desired} to {wanted}."
        )
    group.settings = settings
    group.next_launch = 0.0
    return {}


def _refuse_settings(scope: Scope, data: Mapping[str, Any], settings: Json) -> None:
    if given := [name for name in _NOT_EMULATED if data.get(name)]:
        raise invalid(f"{', '.join(given)}: not emulated here; name a launch template.")
    smallest, largest, desired = (int(settings[name]) for name in ("MinSize", "MaxSize", "DesiredCapacity"))
    if smallest > largest:
        raise invalid("Max bound, " + str(largest) + ", must be greater than or equal to min bound, " + str(smallest))
    if not smallest <= desired <= largest:
        raise invalid(f"Desired capacity:{desired} must be between the specified min size:{smallest} and max size:{largest}")
    # also where a size alone changes: what AWS does then is not known, and this is the stricter reading
    distribution = settings.get("MixedInstancesPolicy", {}).get("InstancesDistribution", {})
    if (base := int(distribution.get("OnDemandBaseCapacity", 0))) > largest:
        raise invalid(f"Max bound, {largest}, must be greater than or equal to OnDemandBaseCapacity, {base}.")
    if bool(settings.get("LaunchTemplate")) == bool(settings.get("MixedInstancesPolicy")):
        raise invalid(
            "Valid requests must contain either LaunchTemplate, LaunchConfigurationName, InstanceId or MixedInstancesPolicy parameter."
        )
    if not settings.get("AvailabilityZones") and not settings.get("VPCZoneIdentifier"):
        raise invalid("At least one Availability Zone or VPC Subnet is required.")
    _refuse_places(scope, settings)


def _refuse_places(scope: Scope, settings: Json) -> None:
    subnets = ec2_backends[ACCOUNT][scope.region].describe_subnets()
    zones = {str(each.availability_zone) for each in subnets}
    if missing := [each for each in settings.get("AvailabilityZones") or [] if each not in zones]:
        raise invalid(f"Invalid Availability Zone: [{missing[0]}]")
    ids = [each.strip() for each in str(settings.get("VPCZoneIdentifier") or "").split(",") if each.strip()]
    if missing := [each for each in ids if each not in {str(each.id) for each in subnets}]:
        raise invalid(f"The subnet ID '{missing[0]}' does not exist")


def refuse_launch(scope: Scope, group: Group, launch: Json) -> None:
    """Hold what a group is to launch against what AWS takes from this caller, for this group. Raises QueryError."""
    template, mixed = find_template(template_of(launch), scope.region), "MixedInstancesPolicy" in launch
    if not template.data.get("ImageId"):
        raise invalid("You must use a valid fully-formed launch template. The request must contain the parameter ImageId")
    if not mixed and not template.kind:
        raise invalid("You must use a valid fully-formed launch template. The request must contain the parameter InstanceType")
    if mixed and template.data.get("InstanceMarketOptions"):
        raise invalid(
            "You cannot use a launch template that is set to request Spot Instances (InstanceMarketOptions) when you configure an Auto "
            "Scaling group with a mixed instances policy. Add a different launch template to the group and try again."
        )
    spot = asks_for_spot(launch, template)
    if spot and group.warm_pool is not None:
        raise invalid("You can't request Spot Instances for an Auto Scaling group that has a warm pool.")
    if not all(_may_launch(scope, group, template, Offer("", zone, spot), subnet) for zone, subnet in zones_of(group).items()):
        raise QueryError("AccessDenied", f"You are not authorized to use launch template: {template.id}", 403)


def _may_launch(scope: Scope, group: Group, template: Template, offer: Offer, subnet: str) -> bool:
    """Whether the caller may do all by itself that a launch is."""
    itself = f"arn:aws:ec2:{scope.region}:{ACCOUNT}:launch-template/{template.id}"
    asked = request(replace(group, tags=[]), template, offer, subnet)  # the group's own tags are set by Auto Scaling
    form = {name: [value] for name, value in launch_form(asked).items()}
    needed = [("ec2:RunInstances", itself, {}), *ec2_checks("RunInstances", form, scope.region)]
    roles = passed_roles("ec2", "RunInstances", form, b"", identity.roles_of_profile)
    needed += [("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"}) for role in roles]
    return all(scope.caller.may(action, scope.region, arn, **context, ec2__LaunchTemplate=itself) for action, arn, context in needed)


def _delete(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    if group.members and not data.get("ForceDelete"):
        if any(each.in_flight for each in group.members):
            words = "You cannot delete an AutoScalingGroup while there are scaling activities in progress for that group."
            raise QueryError("ScalingActivityInProgress", words)
        words = "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) still in the group."
        raise QueryError("ResourceInUse", words)
    group.deleting, group.hooks, group.warm_pool_ends = True, {}, group.warm_pool is not None
    group.settings.update(MinSize=0, MaxSize=0, DesiredCapacity=0)
    group.suspended = []
    for member in group.members:
        member.protected = False
        if member.hooks:
            member.hooks, member.abandoned = {}, True
    for refresh in [each for each in group.refreshes if each["Status"] in ("Pending", "InProgress", "RollbackInProgress")]:
        refresh["Status"] = "Cancelling"
    return {}


def _describe(scope: Scope, data: Json) -> Json:
    groups = [each for each in scope.all(data.get("AutoScalingGroupNames")) if _passes(each, data.get("Filters", []))]
    return paged("AutoScalingGroups", [_shown(each) for each in groups], data, 50)


def _passes(group: Group, filters: list[Json]) -> bool:
    tags = {tag["Key"]: tag.get("Value", "") for tag in group.tags}
    for each in filters:
        name, values = each["Name"], each.get("Values", [])
        if name == "tag-key":
            fits = any(value in tags for value in values)
        elif name == "tag-value":
            fits = any(value in tags.values() for value in values)
        else:
            fits = name.startswith("tag:") and tags.get(name[4:]) in values
        if not fits:
            return False
    return True


def _shown(group: Group) -> Json:
    settings, known = group.settings, ec2_backends[ACCOUNT][group.region]
    ids = [each.strip() for each in str(settings.get("VPCZoneIdentifier") or "").split(",") if each.strip()]
    zones = sorted({str(each.availability_zone) for each in known.describe_subnets() if each.id in ids})
    shown = {
        **settings,
        "AutoScalingGroupName": group.name, "AutoScalingGroupARN": group.arn, "CreatedTime": group.created, "LoadBalancerNames": [],
        "AvailabilityZones": settings.get("AvailabilityZones") or zones, "Tags": group.tags,
        "Instances": [instance(each) for each in group.members if not each.is_warm],
        "SuspendedProcesses": [{"ProcessName": name, "SuspensionReason": "User suspended"} for name in group.suspended],
        "EnabledMetrics": [{"Metric": name, "Granularity": "1Minute"} for name in group.metrics],
    }  # fmt: skip
    if group.deleting:
        shown["Status"] = "Delete in progress"
    if group.warm_pool is not None:
        shown["WarmPoolConfiguration"] = warm_pool(group)
        shown["WarmPoolSize"] = sum(each.is_warm for each in group.members)
    return shown


def warm_pool(group: Group) -> Json:
    """A warm pool's configuration as it is shown."""
    return {**(group.warm_pool or {}), **({"Status": "PendingDelete"} if group.warm_pool_ends else {})}


def instance(member: Member) -> Json:
    """An instance as a group shows it."""
    return {
        "InstanceId": member.id, "InstanceType": member.kind, "AvailabilityZone": member.zone, "LifecycleState": member.state,
        "HealthStatus": "Healthy" if member.healthy else "Unhealthy", "LaunchTemplate": member.template,
        "ProtectedFromScaleIn": member.protected,
    }  # fmt: skip


def _set_desired(scope: Scope, data: Json) -> Json:
    group, wanted = scope.group(data), int(data["DesiredCapacity"])
    if wanted > group.largest:
        raise invalid(f"New SetDesiredCapacity value {wanted} is above max value {group.largest} for the AutoScalingGroup.")
    if wanted < group.smallest:
        raise invalid(f"New SetDesiredCapacity value {wanted} is below min value {group.smallest} for the AutoScalingGroup.")
    if data.get("HonorCooldown") and time.time() < group.cooldown_until:
        raise QueryError("ScalingActivityInProgress", "Scaling activity is in progress: the group's cooldown is not over.")
    if wanted != group.desired:
        group.reason = (
            f"At {at(time.time())} a user request explicitly set group desired capacity changing the desired capacity from "
            f"{group.desired} to {wanted}."
        )
    group.settings["DesiredCapacity"], group.next_launch = wanted, 0.0
    return {}


def _activities(scope: Scope, data: Json) -> Json:
    groups = [scope.groups[key]] if (key := (scope.region, data.get("AutoScalingGroupName", ""))) in scope.groups else []
    if "AutoScalingGroupName" not in data:
        groups = scope.all()
    wanted = data.get("ActivityIds")
    found = [each for group in groups for each in group.activities if not wanted or each["ActivityId"] in wanted]
    return paged("Activities", found, data)


def _tags(name: str, given: list[Json]) -> list[Json]:
    for tag in given:
        if tag["Key"].lower().startswith("aws:"):
            raise invalid("Tag keys starting with 'aws:' are reserved for internal use")
    return [{"Value": "", "PropagateAtLaunch": False, **tag, "ResourceId": name, "ResourceType": "auto-scaling-group"} for tag in given]


def _set_tags(scope: Scope, data: Json) -> Json:
    for tag in data["Tags"]:
        group = scope.group({"AutoScalingGroupName": tag.get("ResourceId", "")})
        new = _tags(group.name, [tag])
        group.tags = [each for each in group.tags if each["Key"] != tag["Key"]] + new
    return {}


def _delete_tags(scope: Scope, data: Json) -> Json:
    for tag in data["Tags"]:
        group = scope.group({"AutoScalingGroupName": tag.get("ResourceId", "")})
        group.tags = [each for each in group.tags if each["Key"] != tag["Key"]]
    return {}


def _describe_tags(scope: Scope, data: Json) -> Json:
    fields = {"auto-scaling-group": "ResourceId", "key": "Key", "value": "Value"}
    tags = [
        tag
        for group in scope.all()
        for tag in group.tags
        if all(tag.get(fields.get(each["Name"], "")) in each.get("Values", []) for each in data.get("Filters", []))
    ]
    return paged("Tags", tags, data)


def _suspend(scope: Scope, data: Json) -> Json:
    group, names = scope.group(data), data.get("ScalingProcesses") or list(PROCESSES)
    if unknown := [name for name in names if name not in PROCESSES]:
        raise invalid(f"Invalid process name: {unknown[0]}")
    group.suspended = [*group.suspended, *(name for name in names if name not in group.suspended)]
    return {}


def _resume(scope: Scope, data: Json) -> Json:
    group, names = scope.group(data), data.get("ScalingProcesses") or list(PROCESSES)
    group.suspended = [name for name in group.suspended if name not in names]
    return {}


def _collect(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    group.metrics = [*group.metrics, *(name for name in data.get("Metrics") or METRICS if name in METRICS and name not in group.metrics)]
    return {}


def _collect_no_more(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    group.metrics = [name for name in group.metrics if data.get("Metrics") and name not in data["Metrics"]]
    return {}


CALLS: Final[Mapping[str, Call]] = {
    "CreateAutoScalingGroup": _create,
    "UpdateAutoScalingGroup": _update,
    "DeleteAutoScalingGroup": _delete,
    "DescribeAutoScalingGroups": _describe,
    "SetDesiredCapacity": _set_desired,
    "DescribeScalingActivities": _activities,
    "CreateOrUpdateTags": _set_tags,
    "DeleteTags": _delete_tags,
    "DescribeTags": _describe_tags,
    "SuspendProcesses": _suspend,
    "ResumeProcesses": _resume,
    "EnableMetricsCollection": _collect,
    "DisableMetricsCollection": _collect_no_more,
}
