"""Auto Scaling's calls about instances: protection, health, ends, lifecycle hooks, warm pool and instance refresh.

Source: Amazon EC2 Auto Scaling API Reference.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Final

from .autoscaling_groups import instance, warm_pool
from .autoscaling_launch import find_template
from .autoscaling_loop import complete, enter
from .autoscaling_plan import Move
from .autoscaling_protocol import QueryError, invalid
from .autoscaling_records import Group, Json, Member, at, longest_wait
from .autoscaling_scope import Call, Scope, paged

_RESULTS: Final = ("CONTINUE", "ABANDON")
_TRANSITIONS: Final = ("autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING")


def _describe(scope: Scope, data: Json) -> Json:
    wanted = data.get("InstanceIds")
    found = [
        {**instance(member), "AutoScalingGroupName": group.name, "HealthStatus": "HEALTHY" if member.healthy else "UNHEALTHY"}
        for group in scope.all()
        for member in group.members
        if not wanted or member.id in wanted
    ]
    return paged("AutoScalingInstances", found, data, 50)


def _protect(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    for name in data["InstanceIds"]:
        member = group.member(name)
        if member is None:
            raise invalid(f"The instance {name} is not part of Auto Scaling group {group.name}.")
        if member.state != "InService" and not member.is_warm:
            raise invalid(f"The instance {name} is not in InService or EnteringStandby or Standby.")
    for name in data["InstanceIds"]:
        if member := group.member(name):
            member.protected = bool(data["ProtectedFromScaleIn"])
    return {}


def _set_health(scope: Scope, data: Json) -> Json:
    if data["HealthStatus"] not in ("Healthy", "Unhealthy"):
        raise invalid(f"Invalid health status: {data['HealthStatus']}. Valid values are Healthy and Unhealthy.")
    group, member = scope.member(data["InstanceId"])
    grace = float(group.settings.get("HealthCheckGracePeriod", 0))
    if data.get("ShouldRespectGracePeriod", True) and time.time() < member.launched + grace:
        return {}
    member.healthy = data["HealthStatus"] == "Healthy"
    return {}


def _terminate(scope: Scope, data: Json) -> Json:
    group, member = scope.member(data["InstanceId"])
    if member.is_leaving:
        raise QueryError("ScalingActivityInProgress", f"Instance {member.id} is already being terminated.")
    if member.is_warm:
        raise invalid(
            f"The instance {member.id} is in the warm pool of Auto Scaling group {group.name} and cannot be terminated by this call."
        )
    words = ""
    if data["ShouldDecrementDesiredCapacity"]:
        if group.desired <= group.smallest:
            raise invalid(
                f"Currently, desiredSize equals minSize ({group.smallest}). Terminating instance without replacement will violate group's "
                "min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size."
            )
        words = f", shrinking the capacity from {group.desired} to {group.desired - 1}"
        group.settings["DesiredCapacity"] = group.desired - 1
    now = time.time()
    cause = f"At {at(now)} instance {member.id} was taken out of service in response to a user request{words}."
    enter(group, member, Move(member.id, "Terminating", cause), now)
    return {"Activity": group.activities[0]}


# ------------------------------------------------------------------------------------------------------------------------------ hooks


def _put_hook(scope: Scope, data: Json) -> Json:
    group, name = scope.group(data), data["LifecycleHookName"]
    hook = {"HeartbeatTimeout": 3600, "DefaultResult": "ABANDON", **group.hooks.get(name, {}), **data}
    if hook.get("LifecycleTransition") not in _TRANSITIONS:
        raise invalid("The lifecycle transition must be autoscaling:EC2_INSTANCE_LAUNCHING or autoscaling:EC2_INSTANCE_TERMINATING.")
    if hook["DefaultResult"] not in _RESULTS:
        raise invalid("DefaultResult must be CONTINUE or ABANDON.")
    if not 30 <= int(hook["HeartbeatTimeout"]) <= 7200:
        raise invalid("Heartbeat timeout must be between 30 and 7200 seconds.")
    if hook.get("NotificationTargetARN"):
        raise invalid("NotificationTargetARN is not emulated here; ask DescribeAutoScalingInstances for the state.")
    group.hooks[name] = hook
    return {}


def _describe_hooks(scope: Scope, data: Json) -> Json:
    wanted = data.get("LifecycleHookNames")
    hooks = scope.group(data).hooks
    return {
        "LifecycleHooks": [{**hook, "GlobalTimeout": longest_wait(hook)} for name, hook in hooks.items() if not wanted or name in wanted]
    }


def _delete_hook(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    if group.hooks.pop(data["LifecycleHookName"], None) is None:
        raise invalid(f"No lifecycle hook found with name {data['LifecycleHookName']}.")
    for member in group.members:
        if data["LifecycleHookName"] in member.hooks:  # AWS: outstanding actions are completed, launching abandoned, terminating continued
            complete(member, data["LifecycleHookName"], "CONTINUE" if member.is_leaving else "ABANDON")
    return {}


def _waiting(scope: Scope, data: Json) -> tuple[Group, Member]:
    group, hook = scope.group(data), data["LifecycleHookName"]
    for member in group.members:
        named = data.get("InstanceId") == member.id or ("InstanceId" not in data and data.get("LifecycleActionToken") == member.token)
        if hook in member.hooks and named and data.get("LifecycleActionToken", member.token) == member.token:
            return group, member
    wanted = f"instance ID {data['InstanceId']}" if "InstanceId" in data else f"token {data.get('LifecycleActionToken')}"
    raise invalid(f"No active Lifecycle Action found with {wanted}")


def _complete(scope: Scope, data: Json) -> Json:
    if data["LifecycleActionResult"] not in _RESULTS:
        raise invalid("LifecycleActionResult must be CONTINUE or ABANDON.")
    _, member = _waiting(scope, data)
    complete(member, data["LifecycleHookName"], data["LifecycleActionResult"])
    return {}


def _heartbeat(scope: Scope, data: Json) -> Json:
    group, member = _waiting(scope, data)
    name = data["LifecycleHookName"]
    hook = group.hooks[name]
    member.hooks[name] = min(time.time() + int(hook["HeartbeatTimeout"]), member.waits_since + longest_wait(hook))
    return {}


# -------------------------------------------------------------------------------------------------------------------------- warm pool


def _put_pool(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    if group.warm_pool_ends:
        raise QueryError("ScalingActivityInProgress", "The warm pool is being deleted.")
    distribution = group.settings.get("MixedInstancesPolicy", {}).get("InstancesDistribution", {})
    asked = find_template(group.template(), group.region).data.get("InstanceMarketOptions", {}).get("MarketType")
    if asked == "spot" or int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100)) < 100:
        raise invalid("You can't add a warm pool to an Auto Scaling group that requests Spot Instances.")
    if data.get("PoolState") == "Hibernated":
        raise invalid("PoolState Hibernated is not emulated here.")
    given = {name: value for name, value in data.items() if name != "AutoScalingGroupName"}
    group.warm_pool = {"MinSize": 0, "PoolState": "Stopped", **(group.warm_pool or {}), **given}
    return {}


def _describe_pool(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    page = paged("Instances", [instance(each) for each in group.members if each.is_warm], data, 50)
    return {**page, **({"WarmPoolConfiguration": warm_pool(group)} if group.warm_pool is not None else {})}


def _delete_pool(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    if group.warm_pool is None:
        raise invalid(f"No warm pool found for Auto Scaling group {group.name}.")
    if not data.get("ForceDelete") and any(each.is_warm for each in group.members):
        raise QueryError("ResourceInUse", "You cannot delete a warm pool while there are instances in it.")
    group.warm_pool_ends = True
    return {}


# ---------------------------------------------------------------------------------------------------------------------------- refresh


def _start_refresh(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    if open_one := group.refresh():
        words = (
            f"An Instance Refresh is already in progress and blocks the execution of this Instance Refresh: {open_one['InstanceRefreshId']}"
        )
        raise QueryError("InstanceRefreshInProgress", words)
    before = {name: group.settings[name] for name in ("LaunchTemplate", "MixedInstancesPolicy") if name in group.settings}
    if wanted := data.get("DesiredConfiguration"):
        for spec in (
            wanted.get("LaunchTemplate"),
            wanted.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {}).get("LaunchTemplateSpecification"),
        ):
            if spec:
                find_template(spec, group.region)
        _configure(group, wanted)
    refresh = {
        "InstanceRefreshId": str(uuid.uuid4()), "AutoScalingGroupName": group.name, "Status": "Pending", "StartTime": time.time(),
        "PercentageComplete": 0, "Preferences": {"MinHealthyPercentage": 90, **data.get("Preferences", {})},
        **({"DesiredConfiguration": wanted} if wanted else {}), "Before": before, "Since": time.time(),
    }  # fmt: skip
    group.refreshes.insert(0, refresh)
    return {"InstanceRefreshId": refresh["InstanceRefreshId"]}


def _configure(group: Group, wanted: Json) -> None:
    for name in ("LaunchTemplate", "MixedInstancesPolicy"):
        group.settings.pop(name, None)
    group.settings.update({name: wanted[name] for name in ("LaunchTemplate", "MixedInstancesPolicy") if name in wanted})


def _describe_refreshes(scope: Scope, data: Json) -> Json:
    wanted = data.get("InstanceRefreshIds")
    found = [each for each in scope.group(data).refreshes if not wanted or each["InstanceRefreshId"] in wanted]
    return paged("InstanceRefreshes", found, data, 50)


def _open_refresh(group: Group) -> Json:
    refresh = group.refresh()
    if refresh is None:
        raise QueryError(
            "ActiveInstanceRefreshNotFound", f"No in progress or pending Instance Refresh found for Auto Scaling group {group.name}"
        )
    return refresh


def _cancel_refresh(scope: Scope, data: Json) -> Json:
    refresh = _open_refresh(scope.group(data))
    refresh["Status"] = "Cancelling"
    return {"InstanceRefreshId": refresh["InstanceRefreshId"]}


def _roll_back(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    refresh = _open_refresh(group)
    template = Group("", "", group.region, 0, refresh["Before"]).template()
    if "DesiredConfiguration" not in refresh or str(template.get("Version", "$Default")) in ("$Latest", "$Default"):
        words = "The instance refresh cannot be rolled back: it has no desired configuration, or the group's own names $Latest or $Default."
        raise QueryError("IrreversibleInstanceRefresh", words)
    _configure(group, refresh["Before"])
    refresh.update(Status="RollbackInProgress", PercentageComplete=0, Preferences={**refresh["Preferences"], "SkipMatching": True})
    return {"InstanceRefreshId": refresh["InstanceRefreshId"]}


CALLS: Final[Mapping[str, Call]] = {
    "DescribeAutoScalingInstances": _describe,
    "SetInstanceProtection": _protect,
    "SetInstanceHealth": _set_health,
    "TerminateInstanceInAutoScalingGroup": _terminate,
    "PutLifecycleHook": _put_hook,
    "DescribeLifecycleHooks": _describe_hooks,
    "DeleteLifecycleHook": _delete_hook,
    "CompleteLifecycleAction": _complete,
    "RecordLifecycleActionHeartbeat": _heartbeat,
    "PutWarmPool": _put_pool,
    "DescribeWarmPool": _describe_pool,
    "DeleteWarmPool": _delete_pool,
    "StartInstanceRefresh": _start_refresh,
    "DescribeInstanceRefreshes": _describe_refreshes,
    "CancelInstanceRefresh": _cancel_refresh,
    "RollbackInstanceRefresh": _roll_back,
}
