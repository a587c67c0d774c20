"""What a group does next: a pure function from its records and the states of its machines to steps.

Nothing here calls EC2 or changes a record; autoscaling_loop.py carries the steps out.
Source: Amazon EC2 Auto Scaling User Guide, "Instance lifecycle", "Warm pools", "Control which instances terminate during scale in",
"Capacity Rebalancing", "How an instance refresh works", "Mixed instances groups".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .autoscaling_records import LAUNCHING, TERMINATING, Group, Json, Member, Template, at

REFRESH_S: Final = 600
"""So long an instance refresh comes no further before it fails. AWS gives it an hour; machines boot in seconds here."""
_GONE: Final = ("shutting-down", "terminated", "")
_DOWN: Final = (*_GONE, "stopping", "stopped")
_SETTLED: Final = ("InService", "Warmed:Stopped", "Warmed:Running")


@dataclass(frozen=True)
class Seen:
    """A machine as it is now: EC2's state (empty: there is none), and whether a Spot interruption was announced."""

    state: str
    at_risk: bool = False


@dataclass(frozen=True)
class Launch:
    """Start one new instance, for the group or for its warm pool."""

    warm: bool
    cause: str


@dataclass(frozen=True)
class Move:
    """Bring an instance into a state of its lifecycle. ``wait`` names the transition whose hooks hold it there."""

    id: str
    state: str
    cause: str = ""
    wait: str = ""


@dataclass(frozen=True)
class Machine:
    """Tell an instance's machine to ``start``, ``stop`` or ``terminate``."""

    id: str
    verb: str


@dataclass(frozen=True)
class Forget:
    """An instance's machine is gone: so is its record. ``failed``: it ended before it was in service."""

    id: str
    failed: bool = False


@dataclass(frozen=True)
class Unwell:
    """An instance is unhealthy."""

    id: str


@dataclass(frozen=True)
class RefreshIs:
    """The instance refresh has come to this: instances that are ``left`` to replace, and that are ``ready``; ``why`` it failed."""

    status: str
    percentage: int
    left: int = 0
    ready: int = 0
    why: str = ""


Step = Launch | Move | Machine | Forget | Unwell | RefreshIs


@dataclass(frozen=True)
class Offer:
    """One thing to ask EC2 for: a type in a zone, on demand or Spot."""

    kind: str
    zone: str
    spot: bool


def plan(group: Group, seen: Mapping[str, Seen], template: Template, now: float, patience: float = REFRESH_S) -> list[Step]:
    """Steps for now. ``template``: what new instances are launched from. ``patience``: with a refresh that comes no further."""
    moves = [step for member in group.members for step in _of_member(group, member, seen.get(member.id, Seen("")), now)]
    if moves:
        return moves  # what follows from the new states is asked when they are there
    if cancelled := _cancelled(group):
        return [cancelled]
    # an instance that leaves the pool is the pool's no more: that is counted when it has left
    return _capacity(group, seen, template, now) or [*_warm_pool(group), *_refresh(group, template, now, patience)]


def _of_member(group: Group, member: Member, seen: Seen, now: float) -> list[Step]:  # noqa: PLR0911 - a table of states
    if member.is_leaving:
        return _leaving(group, member, seen)
    if seen.state in _GONE and "Pending" in member.state:
        return [Forget(member.id, failed=True)]
    if not member.healthy and "ReplaceUnhealthy" not in group.suspended:
        return [_end(member, f"At {at(now)} an instance was taken out of service in response to an EC2 instance status check failure.")]
    if seen.state in _DOWN and member.state == "InService" and "HealthCheck" not in group.suspended and member.healthy:
        return [Unwell(member.id)]
    if member.is_warm and seen.state in _GONE:
        return [Forget(member.id)]
    if member.state.endswith("Pending:Wait"):
        return _waiting(member, now)
    if member.state == "Warmed:Pending:Proceed":
        return _settle_in_pool(group, member, seen)
    if member.state == "Pending:Proceed":
        return [Move(member.id, "InService")]
    if member.state in ("Pending", "Warmed:Pending"):
        return _arriving(group, member, seen)
    return []


def _arriving(group: Group, member: Member, seen: Seen) -> list[Step]:
    if seen.state == "stopped" and not member.is_warm:
        return [Unwell(member.id)] if member.started else [Machine(member.id, "start")]
    hook = TERMINATING if member.returning else LAUNCHING
    if seen.state == "running" and group.hooks_at(hook):
        return [Move(member.id, f"{member.state}:Wait", wait=hook)]
    if member.is_warm:
        return _settle_in_pool(group, member, seen)
    return [Move(member.id, "InService")] if seen.state == "running" else []


def _settle_in_pool(group: Group, member: Member, seen: Seen) -> list[Step]:
    if (group.warm_pool or {}).get("PoolState") == "Running":
        return [Move(member.id, "Warmed:Running")] if seen.state == "running" else []
    if seen.state == "running":
        return [Machine(member.id, "stop")]
    return [Move(member.id, "Warmed:Stopped")] if seen.state == "stopped" else []


def _waiting(member: Member, now: float) -> list[Step]:
    if member.abandoned:
        return [_end(member, f"At {at(now)} an instance was taken out of service in response to a lifecycle action that was abandoned.")]
    return [] if member.hooks else [Move(member.id, member.state.replace(":Wait", ":Proceed"))]


def _leaving(group: Group, member: Member, seen: Seen) -> list[Step]:
    if member.state.endswith("Terminating:Wait"):
        return [] if member.hooks and not member.abandoned else [Move(member.id, member.state.replace(":Wait", ":Proceed"))]
    if seen.state in ("terminated", ""):
        return [Forget(member.id)]
    if seen.state == "shutting-down":
        return []
    if member.state.endswith("Terminating") and group.hooks_at(TERMINATING) and seen.state in ("pending", "running"):
        return [Move(member.id, f"{member.state}:Wait", wait=TERMINATING)]
    return [Machine(member.id, "terminate")]


def _end(member: Member, cause: str) -> Move:
    return Move(member.id, "Warmed:Terminating" if member.is_warm else "Terminating", cause)


# -------------------------------------------------------------------------------------------------------------------------- capacity


def _capacity(group: Group, seen: Mapping[str, Seen], template: Template, now: float) -> list[Step]:
    members = group.in_group()
    rebalances = bool(group.settings.get("CapacityRebalance"))
    risky = [each for each in members if rebalances and each.spot and seen.get(each.id, Seen("")).at_risk]
    safe = _without(members, risky)
    working = sum(each.state == "InService" for each in safe)
    steps: list[Step] = []
    if risky and working >= group.desired and "Terminate" not in group.suspended:
        cause = f"At {at(now)} an instance was taken out of service in response to an EC2 instance rebalance recommendation."
        steps += [_end(each, cause) for each in risky]
    missing = group.desired - len(safe)
    because = f"{group.reason} " if group.reason else ""
    if missing > 0 and "Launch" not in group.suspended:
        counts = f"from {len(safe)} to {group.desired}"
        cause = (
            f"{because}At {at(now)} an instance was started in response to a difference between desired and actual capacity, "
            f"increasing the capacity {counts}."
        )
        warm = [each for each in group.members if each.state in ("Warmed:Stopped", "Warmed:Running")]
        taken = sorted(_without(warm, _left(group, template)), key=lambda each: each.launched)[:missing]
        steps += [Move(each.id, "Pending", cause) for each in taken]
        if now >= group.next_launch:
            steps += [Launch(warm=False, cause=cause)] * (missing - len(taken))
    if missing < 0 and "Terminate" not in group.suspended:
        cause = (
            f"{because}At {at(now)} an instance was taken out of service in response to a difference between desired and actual capacity, "
            f"shrinking the capacity from {len(safe)} to {group.desired}."
        )
        reuse = _reuses(group)
        for each in victims(safe, -missing, group.settings.get("TerminationPolicies", [])):
            steps.append(Move(each.id, "Warmed:Pending", cause) if reuse else _end(each, cause))
    return steps


def _without(members: Sequence[Member], others: Sequence[Member]) -> list[Member]:
    ids = {each.id for each in others}
    return [each for each in members if each.id not in ids]


def _reuses(group: Group) -> bool:
    pool = group.warm_pool or {}
    return bool(pool.get("InstanceReusePolicy", {}).get("ReuseOnScaleIn")) and not group.warm_pool_ends


def victims(members: Sequence[Member], count: int, policies: Sequence[str]) -> list[Member]:
    """Who goes when a group shrinks: from the fullest zone first, never a protected one.

    ``policies``: OldestInstance, NewestInstance and Default or OldestLaunchTemplate (oldest version, then oldest instance).
    """
    left, chosen = list(members), list[Member]()
    while len(chosen) < count:
        free = [each for each in left if not each.protected]
        if not free:
            break
        zones = Counter(each.zone for each in left)
        fullest = max(zones[each.zone] for each in free)
        rule = policies[0] if policies else "Default"
        order = {
            "NewestInstance": lambda each: (-each.launched, each.id),
            "OldestInstance": lambda each: (each.launched, each.id),
        }.get(rule, lambda each: (int(each.template.get("Version", 0)), each.launched, each.id))
        goes = min((each for each in free if zones[each.zone] == fullest), key=order)
        left.remove(goes)
        chosen.append(goes)
    return chosen


def _warm_pool(group: Group) -> list[Step]:
    warm = [each for each in group.members if each.is_warm and not each.is_leaving]
    if group.warm_pool is None or group.warm_pool_ends or group.deleting:
        return [_end(each, "The warm pool is deleted.") for each in warm]
    prepared = int(group.warm_pool.get("MaxGroupPreparedCapacity", -1))
    most = group.largest if prepared < 0 else prepared
    wanted = max(int(group.warm_pool.get("MinSize", 0)), most - max(group.desired, len(group.in_group())))
    missing = wanted - len(warm)
    cause = "an instance was started in response to a difference between the desired and actual size of the warm pool."
    if missing > 0 and "Launch" not in group.suspended:
        return [Launch(warm=True, cause=cause)] * missing
    settled = [each for each in warm if "Pending" not in each.state]
    return [_end(each, "The warm pool shrinks.") for each in settled[: max(0, -missing)]]


# --------------------------------------------------------------------------------------------------------------------------- refresh


def _cancelled(group: Group) -> RefreshIs | None:
    """The end of a refresh that was cancelled: AWS waits for the launches and ends that were in flight then, and for nothing else."""
    refresh = group.refresh()
    if refresh is None or refresh["Status"] != "Cancelling":
        return None
    waits = any(each.in_flight and each.id in refresh.get("WaitsFor", ()) for each in group.members)
    return None if waits else RefreshIs("Cancelled", refresh["PercentageComplete"])


def _refresh(group: Group, template: Template, now: float, patience: float) -> list[Step]:
    refresh = group.refresh()
    if refresh is None or refresh["Status"] == "Cancelling" or "InstanceRefresh" in group.suspended:
        return []
    left = _left(group, template)
    if refresh["Status"] == "Pending":
        return [RefreshIs("InProgress", 0, len(left))]
    whole = len(group.in_service()) == len(group.in_group()) == group.desired and not any(each.is_leaving for each in group.members)
    if whole and not left:
        return [RefreshIs("Successful", 100) if refresh["Status"] == "InProgress" else RefreshIs("RollbackSuccessful", 0)]
    progress = _progress(group, refresh, left)
    # while an instance goes that it replaces, it is at work
    if not progress and refresh["Progressed"] <= now - patience and not any(each.is_leaving for each in left):
        return [_stalled(refresh)]
    return [*progress, *(_replaced(group, refresh, left, now, whole=whole) if template.id else [])]


def _progress(group: Group, refresh: Json, left: Sequence[Member]) -> list[Step]:
    """How far a refresh is, where that is further than before: one more instance has gone, or one of the new ones is ready."""
    ready = sum(each.state in _SETTLED for each in _without(group.members, left))
    if len(left) >= refresh["Left"] and ready <= refresh["Ready"]:
        return []
    updated = ready if refresh["Status"] == "InProgress" else len(left)  # a roll-back counts what is still updated, down to none
    share = round(100 * updated / max(1, len(group.members)))
    return [RefreshIs(refresh["Status"], share, min(len(left), refresh["Left"]), max(ready, refresh["Ready"]))]


def _replaced(group: Group, refresh: Json, left: Sequence[Member], now: float, *, whole: bool) -> list[Step]:
    """The next to go: those in service in batches, then those of the warm pool; in a roll-back first what has not come yet."""
    cause = f"At {at(now)} an instance was taken out of service in response to an instance refresh."
    if not whole:
        arriving = [each for each in left if "Pending" in each.state] if refresh["Status"] == "RollbackInProgress" else []
        return [_end(each, cause) for each in arriving]
    preferences = refresh["Preferences"]
    in_service = [each for each in left if not each.is_warm]
    refreshes = preferences.get("ScaleInProtectedInstances") == "Refresh"
    working = len(group.in_service())
    batch = max(1, working - math.ceil(working * int(preferences.get("MinHealthyPercentage", 90)) / 100))
    free = [each for each in in_service if refreshes or not each.protected][:batch] if in_service else left
    return [_end(each, cause) for each in free]


def _left(group: Group, template: Template) -> list[Member]:
    """Instances that a refresh is to replace and that are still there, be it on their way out."""
    refresh = group.refresh()
    if refresh is None or refresh["Status"] == "Cancelling":
        return []
    ignored = refresh["Preferences"].get("ScaleInProtectedInstances") == "Ignore"
    if refresh["Preferences"].get("SkipMatching") or refresh["Status"] == "RollbackInProgress":
        kinds = _kinds(group, template.kind)
        old = [each for each in group.members if not _matches(each, template, kinds)]
    else:
        old = [each for each in group.members if each.launched < float(refresh["StartTime"])]
    return [each for each in old if not (ignored and each.protected)]


def _matches(member: Member, template: Template, kinds: Sequence[str]) -> bool:
    """Whether an instance is as new ones are: of the same template and version, and of a type that the group takes."""
    of = (member.template.get("LaunchTemplateId"), member.template.get("Version"))
    return of == (template.id, template.version) and member.kind in kinds


def _stalled(refresh: Json) -> RefreshIs:
    """What becomes of a refresh that has come no further for too long."""
    why = "Instances were not replaced in time: new ones did not become ready, or those to replace are protected from scale in."
    status = "RollbackFailed" if refresh["Status"] == "RollbackInProgress" else "Failed"
    if status == "Failed" and refresh["Preferences"].get("AutoRollback"):
        status = "RollbackInProgress"
    return RefreshIs(status, refresh["PercentageComplete"], why=why)


# ---------------------------------------------------------------------------------------------------------------------------- offers


def offers(group: Group, kind: str, zones: Sequence[str]) -> list[Offer]:
    """What to ask EC2 for to get one more instance, best first.

    The emptiest zone comes first; a mix goes through its types in order, each in every zone. ``kind``: the template's type.
    """
    filled = Counter(each.zone for each in group.in_group())
    ordered = sorted(zones, key=lambda zone: (filled[zone], list(zones).index(zone)))
    distribution = group.launch().get("MixedInstancesPolicy", {}).get("InstancesDistribution", {})
    spot = _next_is_spot(distribution, group.in_group())
    return [Offer(each, zone, spot) for each in _kinds(group, kind) for zone in ordered]


def _kinds(group: Group, kind: str) -> list[str]:
    """The types of which new instances are, in the order of a mix. ``kind``: the template's."""
    mixed = group.launch().get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
    return [each["InstanceType"] for each in mixed.get("Overrides", []) if "InstanceType" in each] or [kind]


def _next_is_spot(distribution: Mapping[str, Any], members: Sequence[Member]) -> bool:
    base, share = int(distribution.get("OnDemandBaseCapacity", 0)), int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100))
    on_demand = sum(not each.spot for each in members)
    above = max(0, len(members) + 1 - base)
    return on_demand >= base + math.ceil(above * share / 100)
