"""Carries out what autoscaling_plan.py plans: steps become calls of EC2, changes of records and lines of the group's activities.

Auto Scaling acts some seconds after a call, never within it: ``tick`` is what happens then.
Source: Amazon EC2 Auto Scaling User Guide, "Verify a scaling activity"; activities as users report them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ministack.core.responses import set_request_region
from ministack.services import cloudwatch

from . import identity
from .autoscaling_launch import LaunchError, Machines, find_template, zones_of
from .autoscaling_plan import REFRESH_S, Forget, Launch, Machine, Move, RefreshIs, Unwell, offers, plan
from .autoscaling_policies import LOW_LOOKS, adjusted, stepped, tracked, value_of, within
from .autoscaling_protocol import QueryError
from .autoscaling_records import Group, Json, Member, Template, at, new_token, roll_back, template_of

EVERY_S: Final = 1.0
_AGAIN_S: Final = 5.0
"""How long a group waits after EC2 has refused every offer."""
_METRICS: Final[dict[str, Callable[[Group], float]]] = {
    "GroupMinSize": lambda group: group.smallest,
    "GroupMaxSize": lambda group: group.largest,
    "GroupDesiredCapacity": lambda group: group.desired,
    "GroupInServiceInstances": lambda group: len(group.in_service()),
    "GroupPendingInstances": lambda group: sum(each.state.startswith("Pending") for each in group.members),
    "GroupTerminatingInstances": lambda group: sum(each.state.startswith("Terminating") for each in group.members),
    "GroupTotalInstances": lambda group: sum(not each.is_warm for each in group.members),
}
METRICS: Final = tuple(_METRICS)
_log: Final = logging.getLogger("local-cloud.autoscaling")


class Reconciler:
    """Brings groups to what they are to be. ``patience``: seconds after which an instance refresh that comes no further fails."""

    def __init__(
        self, machines: Machines, clock: Callable[[], float] = time.time, patience: Callable[[], float] = lambda: REFRESH_S
    ) -> None:
        self.machines, self._clock, self._patience = machines, clock, patience
        self._low: dict[str, int] = {}

    def tick(self, group: Group) -> bool:
        """Look at one group and act; returns whether anything changed."""
        identity.as_account()
        set_request_region(group.region)
        now = self._clock()
        expired = self._expire_hooks(group, now)
        changed = self._follow_policies(group, now) or expired
        seen = {each.id: self.machines.seen(each.id) for each in group.members}
        try:
            template = find_template(template_of(group.launch()), group.region)
        except QueryError as error:
            template = Template("", "", "", {})
            if group.desired > len(group.in_group()) and now >= group.next_launch:
                self._not_launched(group, error.message, "the group's launch template cannot be found", now)
        steps = plan(group, seen, template, now, self._patience())
        for step in steps:
            if isinstance(step, Launch):
                if not template.id or now < group.next_launch:
                    continue
                self._launch(group, template, step, now)
            else:
                self._do(group, step, now)
            changed = True
        if not steps and len(group.in_group()) == group.desired:
            group.reason = ""
        if group.warm_pool_ends and not any(each.is_warm for each in group.members):
            group.warm_pool, group.warm_pool_ends, changed = None, False, True
        for name in group.metrics:
            cloudwatch.record_metric("AWS/AutoScaling", name, _METRICS[name](group), "None", {"AutoScalingGroupName": group.name})
        return changed

    # ------------------------------------------------------------------------------------------------------------------- steps

    def _launch(self, group: Group, template: Template, step: Launch, now: float) -> None:
        refused = "There is no subnet in any of the group's Availability Zones."
        for offer in offers(group, template.kind, list(zones_of(group))):
            try:
                name = self.machines.launch(group, template, offer)
            except LaunchError as error:
                refused = f"{'Could not launch Spot Instances' if offer.spot else 'Could not launch On-Demand Instances'}. "
                refused += f"{error.code} - {error.message} Launching EC2 instance failed."
                self._not_launched(group, refused, step.cause, now, offer.zone)
                continue
            into = " into warm pool" if step.warm else ""
            activity = group.begin(f"Launching a new EC2 instance{into}: {name}", step.cause, now, offer.zone)
            state = "Warmed:Pending" if step.warm else "Pending"
            spot = offer.spot or template.is_spot
            group.members.append(Member(name, offer.zone, offer.kind, template.record, state, now, activity["ActivityId"], spot))
            return
        group.next_launch = now + _AGAIN_S

    def _not_launched(self, group: Group, message: str, cause: str, now: float, zone: str = "") -> None:
        activity = group.begin("Launching a new EC2 instance.  Status Reason: " + message, cause, now, zone)
        group.finish(activity["ActivityId"], now, "Failed", message)
        group.next_launch = now + _AGAIN_S
        _log.info("%s: %s", group.name, message)

    def _do(self, group: Group, step: Move | Machine | Forget | Unwell | RefreshIs, now: float) -> None:
        if isinstance(step, RefreshIs):
            _refresh_is(group, step, now)
            return
        member = group.member(step.id)
        if member is None:
            return
        if isinstance(step, Unwell):
            member.healthy = False
        elif isinstance(step, Forget):
            status, message = ("Failed", "Instance failed to launch.") if step.failed else ("Successful", "")
            group.finish(member.activity, now, status, message)
            group.members.remove(member)
            if step.failed:
                group.next_launch = now + _AGAIN_S
        elif isinstance(step, Move):
            enter(group, member, step, now)
        elif isinstance(step, Machine):
            self._tell(group, member, step.verb, now)

    def _tell(self, group: Group, member: Member, verb: str, now: float) -> None:
        try:
            self.machines.tell(group.region, member.id, verb)
        except LaunchError as error:
            if verb == "start":  # a pool's instance that cannot start is replaced
                group.finish(member.activity, now, "Failed", f"{error.code} - {error.message}")
                member.activity, member.healthy = "", False
            else:
                _log.warning("%s could not %s: %s", member.id, verb, error)
            return
        member.started = verb == "start"

    @staticmethod
    def _expire_hooks(group: Group, now: float) -> bool:
        late = [(member, name) for member in group.members for name, until in member.hooks.items() if until <= now]
        for member, name in late:
            complete(member, name, group.hooks.get(name, {}).get("DefaultResult", "ABANDON"))
        return bool(late)

    # ---------------------------------------------------------------------------------------------------------------- policies

    def _follow_policies(self, group: Group, now: float) -> bool:
        if "AlarmNotification" in group.suspended or group.deleting:
            return False
        current, wishes = group.desired, []
        for policy in group.policies.values():
            if not policy.get("Enabled", True):
                continue
            try:
                wanted = self._tracked(group, policy) if policy["PolicyType"] == "TargetTrackingScaling" else _of_alarms(group, policy, now)
            except ValueError as error:
                _log.warning("%s, policy %s: %s", group.name, policy["PolicyName"], error)
                continue
            if wanted is not None:
                wishes.append((within(wanted, group.smallest, group.largest), policy))
        wishes = [each for each in wishes if each[0] != current]
        if not wishes:
            return False
        wanted, policy = max(wishes, key=lambda each: each[0])  # the largest of several wins, as on AWS
        if wanted < current and any(each.state.startswith("Pending") for each in group.members):
            return False
        alarm = next((each["AlarmName"] for each in policy.get("Alarms", [])), "")
        cause = (
            f"At {at(now)} a monitor alarm {alarm} in state ALARM triggered policy {policy['PolicyName']} changing the desired "
            f"capacity from {current} to {wanted}."
        )
        group.settings["DesiredCapacity"] = wanted
        if policy["PolicyType"] == "SimpleScaling":
            group.cooldown_until = now + int(policy.get("Cooldown") or group.settings["DefaultCooldown"])
        group.reason = cause
        return True

    def _tracked(self, group: Group, policy: Json) -> int | None:
        tracking, key = policy["TargetTrackingConfiguration"], policy["PolicyARN"]
        value, target = value_of(queries(tracking["CustomizedMetricSpecification"]), newest), float(tracking["TargetValue"])
        self._low[key] = self._low.get(key, 0) + 1 if value is not None and value < 0.9 * target else 0
        _show_alarms(policy, value, target, low=self._low[key] >= LOW_LOOKS)
        if value is None:
            return None
        if value > target and not any(each.state.startswith("Pending") for each in group.members):
            return max(group.desired, tracked(len(group.in_service()), value, target))
        if self._low[key] >= LOW_LOOKS and not tracking.get("DisableScaleIn"):
            self._low[key] = 0
            return tracked(group.desired, value, target)
        return None


def enter(group: Group, member: Member, move: Move, now: float) -> None:
    """Bring an instance into a state, with what begins and ends there."""
    member.state = move.state
    if move.wait:
        hooks = group.hooks_at(move.wait)
        member.hooks, member.waits_since = {name: now + int(hook["HeartbeatTimeout"]) for name, hook in hooks.items()}, now
        member.token = new_token()
        return
    member.hooks = {}
    described = {
        "Terminating": f"Terminating EC2 instance: {member.id}",
        "Warmed:Terminating": f"Terminating EC2 instance from warm pool: {member.id}",
        "Warmed:Pending": f"Returning EC2 instance to warm pool: {member.id}",
        "Pending": f"Launching a new EC2 instance from warm pool: {member.id}",
    }.get(move.state)
    if described:
        group.finish(member.activity, now, "Cancelled")
        member.activity = group.begin(described, move.cause, now, member.zone)["ActivityId"]
        member.abandoned, member.started, member.returning = False, False, move.state == "Warmed:Pending"
        member.protected = False
    elif move.state in ("InService", "Warmed:Stopped", "Warmed:Running"):
        group.finish(member.activity, now)
        member.activity, member.protected = "", not member.is_warm and bool(group.settings.get("NewInstancesProtectedFromScaleIn"))


def complete(member: Member, hook: str, result: str) -> None:
    """End one hook's wait: CONTINUE waits for the other hooks, ABANDON for none."""
    member.hooks.pop(hook, None)
    if result == "ABANDON":
        member.hooks.clear()
        member.abandoned = True


def _refresh_is(group: Group, step: RefreshIs, now: float) -> None:
    refresh = group.refresh()
    if refresh is None:
        return
    if step.status == "RollbackInProgress" and refresh["Status"] != step.status:
        roll_back(refresh, len(group.members), step.why, now)
        return
    if step.status == "Successful" and "DesiredConfiguration" in refresh:
        group.configure(refresh["DesiredConfiguration"])
    refresh.update(Status=step.status, PercentageComplete=step.percentage, Progressed=now, Left=step.left, Ready=step.ready)
    if step.why:
        refresh["StatusReason"] = step.why
    if group.refresh() is not refresh:
        refresh["EndTime"] = now


def queries(spec: Mapping[str, Any]) -> list[Json]:
    """The metric of a target or an alarm, as queries of metric math."""
    if "Metrics" in spec:
        return list(spec["Metrics"])
    metric = {"Namespace": spec["Namespace"], "MetricName": spec["MetricName"], "Dimensions": spec.get("Dimensions", [])}
    return [{"Id": "m", "MetricStat": {"Metric": metric, "Stat": spec["Statistic"]}}]


def newest(stat: Mapping[str, Any]) -> float | None:
    """The newest value of a metric; None where there has been none for a minute. AWS aggregates minutes, here nobody waits for one."""
    metric = stat["Metric"]
    wanted = {each["Name"]: each["Value"] for each in metric.get("Dimensions", [])}
    points = [
        point
        for (namespace, name, _), kept in list(cloudwatch._metrics.items())
        if (namespace, name) == (metric["Namespace"], metric["MetricName"])
        for point in kept
        if (point.get("Dimensions") or {}) == wanted and point["Timestamp"] > time.time() - 60
    ]
    return float(max(points, key=lambda point: point["Timestamp"])["Value"]) if points else None


def _show_alarms(policy: Json, value: float | None, target: float, *, low: bool) -> None:
    """Let the two alarms of a target show what it does; those on metric math are evaluated nowhere else."""
    for named in policy.get("Alarms", []):
        alarm = cloudwatch._alarms.get(named["AlarmName"])
        if alarm is None:
            continue
        fires = value is not None and (value > target if "-AlarmHigh-" in named["AlarmName"] else low)
        state = "INSUFFICIENT_DATA" if value is None else "ALARM" if fires else "OK"
        if alarm["StateValue"] != state:
            alarm.update(StateValue=state, StateReason=f"Threshold Crossed: {value}", StateUpdatedTimestamp=int(time.time()))


def _of_alarms(group: Group, policy: Json, now: float) -> int | None:
    """The capacity that a step or simple policy wants while one of the alarms that name it is in ALARM."""
    if any(each.state.startswith("Pending") for each in group.members) or now < group.cooldown_until:
        return None  # what is warming up counts as capacity; nothing more is added meanwhile
    current = group.desired
    for alarm in list(cloudwatch._alarms.values()):
        if policy["PolicyARN"] not in (alarm.get("AlarmActions") or []) or alarm["StateValue"] != "ALARM":
            continue
        if not alarm.get("ActionsEnabled", True):
            continue
        if policy["PolicyType"] == "SimpleScaling":
            return adjusted(current, int(policy["ScalingAdjustment"]), policy)
        value = value_of(queries(alarm), newest)
        breach = math.inf if value is None else value - float(alarm.get("Threshold", 0))
        return stepped(current, breach, policy)
    return None
