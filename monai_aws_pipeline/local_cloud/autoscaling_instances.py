"""Auto Scaling's calls about instances: protection, health, ends, lifecycle hooks, warm pool and instance refresh.

Source: Amazon EC2 Auto Scaling API Reference.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Final

from .autoscaling_groups import HOOK_RESULTS, hook, instance, refuse_launch, warm_pool
from .autoscaling_launch import asks_for_spot, find_template
from .autoscaling_loop import complete, enter
from .autoscaling_plan import Move
from .autoscaling_protocol import QueryError, invalid
from .autoscaling_records import BRINGS_IN, Group, Json, Member, at, longest_wait, roll_back, template_of
from .autoscaling_scope import Call, Scope, paged


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
        if member.state != "InService":
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
    group.hooks[name] = hook({**group.hooks.get(name, {}), **data})
    return {}


def _describe_hooks(scope: Scope, data: Json) -> Json:
    wanted = data.get("LifecycleHookNames")
    found = [each for name, each in scope.group(data).hooks.items() if not wanted or name in wanted]
    return {"LifecycleHooks": [{**each, "GlobalTimeout": longest_wait(each)} for each in found]}


def _delete_hook(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    if group.hooks.pop(data["LifecycleHookName"], None) is None:
        raise invalid(f"No lifecycle hook found with name {data['LifecycleHookName']}.")
    for member in group.members:
        if data["LifecycleHookName"] in member.hooks:  # AWS: outstanding actions are completed, launching abandoned, terminating continued
            complete(member, data["LifecycleHookName"], "CONTINUE" if member.is_leaving else "ABANDON")
    return {}


def _waiting(scope: Scope, data: Json) -> tuple[Group, Member]:
    group, name = scope.group(data), data["LifecycleHookName"]
    for member in group.members:
        named = data.get("InstanceId") == member.id or ("InstanceId" not in data and data.get("LifecycleActionToken") == member.token)
        if name in member.hooks and named and data.get("LifecycleActionToken", member.token) == member.token:
            return group, member
    wanted = f"instance ID {data['InstanceId']}" if "InstanceId" in data else f"token {data.get('LifecycleActionToken')}"
    raise invalid(f"No active Lifecycle Action found with {wanted}")


def _complete(scope: Scope, data: Json) -> Json:
    if data["LifecycleActionResult"] not in HOOK_RESULTS:
        raise invalid("LifecycleActionResult must be CONTINUE or ABANDON.")
    _, member = _waiting(scope, data)
    complete(member, data["LifecycleHookName"], data["LifecycleActionResult"])
    return {}


def _heartbeat(scope: Scope, data: Json) -> Json:
    group, member = _waiting(scope, data)
    name = data["LifecycleHookName"]
    held_by = group.hooks[name]
    member.hooks[name] = min(time.time() + int(held_by["HeartbeatTimeout"]), member.waits_since + longest_wait(held_by))
    return {}


# -------------------------------------------------------------------------------------------------------------------------- warm pool


def _put_pool(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    if group.warm_pool_ends:
        raise QueryError("ScalingActivityInProgress", "The warm pool is being deleted.")
    if asks_for_spot(group.launch(), find_template(template_of(group.launch()), group.region)):
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
    wanted, preferences = data.get("DesiredConfiguration"), data.get("Preferences", {})
    if preferences.get("AutoRollback"):
        _refuse_auto_rollback(group, wanted)
    if wanted:
        refuse_launch(scope, group, wanted)
    refresh = {
        "InstanceRefreshId": str(uuid.uuid4()), "AutoScalingGroupName": group.name, "Status": "Pending", "StartTime": time.time(),
        "PercentageComplete": 0, "Preferences": {"MinHealthyPercentage": 90, **preferences},
        **({"DesiredConfiguration": wanted} if wanted else {}),
    }  # fmt: skip
    group.refreshes.insert(0, refresh)
    return {"InstanceRefreshId": refresh["InstanceRefreshId"]}


def _refuse_auto_rollback(group: Group, wanted: Json | None) -> None:
    if not wanted:
        raise invalid(
            "The request isn't valid. The AutoRollback parameter cannot be set to true when the DesiredConfiguration parameter is empty. "
            "Set AutoRollback to false or specify a desired configuration and try again."
        )
    if _names_no_fixed_version(group):
        raise invalid("The AutoRollback parameter cannot be set to true when the group names the version $Latest or $Default.")


def _names_no_fixed_version(group: Group) -> bool:
    """Whether its own launch template is another one with each new version, so that nothing says what was there before."""
    return str(template_of(group.settings).get("Version", "$Default")) in ("$Latest", "$Default")


def _describe_refreshes(scope: Scope, data: Json) -> Json:
    wanted = data.get("InstanceRefreshIds")
    found = [each for each in scope.group(data).refreshes if not wanted or each["InstanceRefreshId"] in wanted]
    return paged("InstanceRefreshes", found, data, 50)


def _open_refresh(group: Group, *states: str) -> Json:
    """The refresh that is under way, in one of these states if any are named. Raises QueryError."""
    refresh = group.refresh()
    if refresh is None or (states and refresh["Status"] not in states):
        raise QueryError(
            "ActiveInstanceRefreshNotFound", f"No in progress or pending Instance Refresh found for Auto Scaling group {group.name}"
        )
    return refresh


def _cancel_refresh(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    refresh, waits = _open_refresh(group), data.get("WaitForTransitioningInstances", True)
    refresh.update(Status="Cancelling", WaitsFor=[each.id for each in group.members if waits and each.in_flight])
    return {"InstanceRefreshId": refresh["InstanceRefreshId"]}


def _roll_back(scope: Scope, data: Json) -> Json:
    group = scope.group(data)
    refresh = _open_refresh(group, *BRINGS_IN)
    if "DesiredConfiguration" not in refresh or _names_no_fixed_version(group):
        words = "The instance refresh cannot be rolled back: it has no desired configuration, or the group's own names $Latest or $Default."
        raise QueryError("IrreversibleInstanceRefresh", words)
    roll_back(refresh, len(group.members), "A user request asked for it.", time.time())
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
