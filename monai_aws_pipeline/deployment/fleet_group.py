"""The Auto Scaling group of inference hosts (``fleet`` autoscaling): what it is to be, what differs from that, and bringing it there.

``wanted`` and ``plan_group`` are pure. How AWS is asked is in ``cloud/autoscaling.py``; what an instance does in the group, in
``host_agent/membership.py``. Which MAP the instances hold is none of the group's: each pulls the live one before it is in service.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.autoscaling import FleetError, Group, Json, LaunchTemplates, Refresh, ScalingGroup
from monai_aws_pipeline.cloud.errors import CapacityError, CloudError
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machine, Machines
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import wait_until
from monai_aws_pipeline.contract import FINISH_TIMEOUT_S, HOOK_FINISH, HOOK_READY, READY_TIMEOUT_S, TAG_CONTENT, TAG_GROUP, TAG_RUN_ID
from monai_aws_pipeline.operations.live_maps import PULL_SECONDS
from monai_aws_pipeline.operations.status import work_of
from monai_aws_pipeline.settings import Names, Settings

JOBS_PER_INSTANCE: Final = 20
"""Backlog per instance that the group holds: as many waiting jobs as a named host is started for (``lambda_fn/hosts.py``)."""
OLDEST_JOB_S: Final = 300
"""While jobs wait and the oldest, waiting or in hand, is older, one more instance comes."""
WARMUP_S: Final = 60
REFRESH_SECONDS: Final = 2 * 3600.0
"""AWS gives a refresh that comes no further an hour before it fails, or begins to roll back."""
GONE_SECONDS: Final = 600.0
_ANSWERS_S: Final = 300.0
"""So long is a host that does not say what it has in hand taken for one at work."""
BACKLOG: Final = "backlog-per-instance"
JOB_AGE: Final = "job-age"
_SQS: Final = "AWS/SQS"
_PREFERENCES: Final[Json] = {
    "AutoRollback": True,
    "SkipMatching": True,
    # A protected instance is at work; the hook lets it finish. Waiting until it has no work could take for ever.
    "ScaleInProtectedInstances": "Refresh",
    "StandbyInstances": "Terminate",
}


@dataclass(frozen=True)
class Wanted:
    """What the group is to be, in AWS's own terms. ``launch``: template or mix; ``pool``: the warm pool's setting, empty for none.

    ``mix``: what it has that AWS may keep no warm pool beside, in words; empty for On-Demand instances of one type. ``suspended``: what it
    is never to do, in AWS's words. ``types``: that an instance may be of.
    """

    launch: Json
    settings: Json
    hooks: Mapping[str, Json]
    policies: Mapping[str, Json]
    alarm: Json
    pool: Json
    tags: Mapping[str, str]
    version: str
    mix: str = ""
    suspended: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


def wanted(settings: Settings, template: str, version: str, types: Sequence[str], subnets: Sequence[str]) -> Wanted:
    """The group by the settings. ``template``, ``version``: of the launch template; ``types`` in order of preference."""
    names = settings.names
    spec = {"LaunchTemplateId": template, "Version": version}
    mix = "Spot instances" if settings.fleet_spot_percent else f"{len(types)} instance types" if len(types) > 1 else ""
    launch: Json = {"LaunchTemplate": spec}
    if mix:
        launch = {
            "MixedInstancesPolicy": {
                "LaunchTemplate": {"LaunchTemplateSpecification": spec, "Overrides": [{"InstanceType": kind} for kind in types]},
                "InstancesDistribution": {
                    "OnDemandAllocationStrategy": "prioritized",
                    "OnDemandBaseCapacity": settings.fleet_on_demand_base,
                    "OnDemandPercentageAboveBaseCapacity": 100 - settings.fleet_spot_percent,
                    "SpotAllocationStrategy": "price-capacity-optimized",
                },
            }
        }
    size = settings.fleet_warm_pool
    return Wanted(
        launch=launch,
        settings={
            "MinSize": 0,
            "MaxSize": settings.host_count,
            "VPCZoneIdentifier": ",".join(sorted(subnets)),
            "DefaultInstanceWarmup": WARMUP_S,
            "NewInstancesProtectedFromScaleIn": False,
            "HealthCheckType": "EC2",
            "CapacityRebalance": settings.fleet_spot_percent > 0,
        },
        hooks={
            # One that never became ready is ended, one whose agent is gone is not waited for.
            HOOK_READY: _hook("autoscaling:EC2_INSTANCE_LAUNCHING", READY_TIMEOUT_S, "ABANDON"),
            HOOK_FINISH: _hook("autoscaling:EC2_INSTANCE_TERMINATING", FINISH_TIMEOUT_S, "CONTINUE"),
        },
        policies={BACKLOG: _backlog(names), JOB_AGE: _ONE_MORE},
        alarm=_alarm(names),
        pool={"MinSize": size, "MaxGroupPreparedCapacity": size, "PoolState": "Stopped"} if size else {},
        tags={},
        version=version,
        mix=mix,
        types=tuple(types),
        # An idle instance leaves with its place: for the balance of zones AWS would launch another where there are fewer.
        suspended=("AZRebalance",),
    )


def _hook(transition: str, seconds: int, otherwise: str) -> Json:
    return {"LifecycleTransition": transition, "HeartbeatTimeout": seconds, "DefaultResult": otherwise}


_ONE_MORE: Final[Json] = {
    "PolicyType": "StepScaling",
    "Enabled": True,
    "AdjustmentType": "ChangeInCapacity",
    "MetricAggregationType": "Maximum",
    "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
}


def _metric(name: str, namespace: str, metric: str, dimension: tuple[str, str], statistic: str) -> Json:
    named = {"Namespace": namespace, "MetricName": metric, "Dimensions": [{"Name": dimension[0], "Value": dimension[1]}]}
    return {"Id": name, "MetricStat": {"Metric": named, "Period": 60, "Stat": statistic}, "ReturnData": False}


def _waiting(names: Names) -> Json:
    return _metric("waiting", _SQS, "ApproximateNumberOfMessagesVisible", ("QueueName", names.jobs_queue), "Maximum")


def _backlog(names: Names) -> Json:
    """Out only: an instance that is idle leaves by itself, and knows better than a metric that it is."""
    serving = _metric("serving", "AWS/AutoScaling", "GroupInServiceInstances", ("AutoScalingGroupName", names.fleet_group), "Average")
    metrics = [_waiting(names), serving]
    for each in metrics:  # target tracking has the period of its own alarms
        each["MetricStat"].pop("Period")
    each_has = "waiting / IF(FILL(serving, 0) < 1, 1, FILL(serving, 0))"  # a group of none is taken for one
    metrics.append({"Id": "backlog", "Expression": each_has, "ReturnData": True})
    tracked = {"CustomizedMetricSpecification": {"Metrics": metrics}, "TargetValue": float(JOBS_PER_INSTANCE), "DisableScaleIn": True}
    return {"PolicyType": "TargetTrackingScaling", "Enabled": True, "TargetTrackingConfiguration": tracked}


def _alarm(names: Names) -> Json:
    oldest = _metric("oldest", _SQS, "ApproximateAgeOfOldestMessage", ("QueueName", names.jobs_queue), "Maximum")
    late = {"Id": "late", "Expression": "IF(waiting > 0, oldest, 0)", "ReturnData": True}
    # SQS's oldest message may be one in hand: a long study alone brings nobody, and while jobs wait behind it another instance is right.
    told = f"Jobs wait, and the oldest, waiting or in hand, is older than {OLDEST_JOB_S} s: one more instance comes. It tells nobody else."
    return {
        "AlarmDescription": told,
        "ActionsEnabled": True,
        "Metrics": [_waiting(names), oldest, late],
        "EvaluationPeriods": 1,
        "Threshold": float(OLDEST_JOB_S),
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
    }


# ------------------------------------------------------------------------------------------------------------------------------ plan


@dataclass(frozen=True)
class GroupPlan:
    """What is to be done with the group. ``changed``: what differs, in words; ``update``: settings to set.

    ``extra_hooks``, ``extra_policies``: what somebody else has put on the group, by name. ``suspend``, ``resume``: what it is to be
    forbidden, and let do again. ``pool``: whether its warm pool is to be ``put``, to ``remove``, or to be removed before the group becomes
    another mix and put ``anew``. ``refresh``: why its instances are replaced, empty where they are not; ``afterwards``: settings that AWS
    may refuse before that has brought the new mix; ``said``: what a user should know although nothing is done.
    """

    create: bool = False
    update: Json = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    extra_hooks: tuple[str, ...] = ()
    extra_policies: tuple[str, ...] = ()
    alarm: bool = False
    tags: bool = False
    metrics: bool = False
    suspend: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    pool: str = ""
    cancel: bool = False
    refresh: str = ""
    afterwards: Json = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether the group is as it is to be."""
        return not (self.create or self.changed or self.refresh or self.cancel)


def plan_group(aim: Wanted, found: Group | None) -> GroupPlan:
    """What brings the group that there is, or none, to what is wanted."""
    pool = _pool(aim, found)
    said = (f"AWS is asked whether it keeps a warm pool beside {aim.mix}",) if aim.mix and pool in ("put", "anew") else ()
    if found is None:
        return GroupPlan(
            create=True,
            policies=tuple(aim.policies),
            alarm=True,
            metrics=True,
            suspend=aim.suspended,
            pool=pool,
            changed=("it is made",),
            said=said,
        )
    changed, update = _settings_changed(aim, found)
    hooks = tuple(name for name, hook in aim.hooks.items() if not covers(found.hooks.get(name), hook))
    policies = tuple(name for name, policy in aim.policies.items() if not covers(found.policies.get(name), policy))
    changed += [f"the hook {name} is {'another' if name in found.hooks else 'not there'}" for name in hooks]
    changed += [f"the policy {name} is {'another' if name in found.policies else 'not there'}" for name in policies]
    # A group scales by our policies alone, and nobody else's hook holds its instances: both cost money, and neither is asked for.
    extra_hooks, extra_policies = (
        tuple(sorted(set(there) - set(ours))) for there, ours in ((found.hooks, aim.hooks), (found.policies, aim.policies))
    )
    changed += [f"the hook {name} is none of ours and is removed" for name in extra_hooks]
    changed += [f"the policy {name} is none of ours and is removed" for name in extra_policies]
    calls = [str(found.policies.get(JOB_AGE, {}).get("PolicyARN", ""))]
    alarm = JOB_AGE in policies or not covers(found.alarm, aim.alarm) or found.alarm.get("AlarmActions") != calls
    suspend = tuple(each for each in aim.suspended if each not in found.suspended)
    resume = tuple(each for each in found.suspended if each not in aim.suspended)
    tags = any(found.tags.get(name) != value for name, value in aim.tags.items())
    changed += [
        words
        for differs, words in (
            (alarm, "the alarm of the age of jobs is not as it was made"),
            (tags, "its tags are others"),
            (not found.counts_itself, "it does not count its instances"),
            (bool(suspend), f"it is not forbidden {', '.join(suspend)}"),
            (bool(resume), f"it was forbidden {', '.join(resume)}"),
            (bool(pool) and not (aim.mix and not found.pool), "its warm pool is another one than the settings say"),
        )
        if differs
    ]
    refresh, cancel, words = _refreshed(aim, found)
    launched = [] if refresh or covers(found.settings, aim.launch) else ["what it launches is another"]
    afterwards = {name: size for name, size in update.items() if refresh and name == "MaxSize" and size < found.on_demand_base}
    return GroupPlan(
        update={name: value for name, value in {**update, **(aim.launch if launched else {})}.items() if name not in afterwards},
        hooks=hooks,
        policies=policies,
        extra_hooks=extra_hooks,
        extra_policies=extra_policies,
        alarm=alarm,
        tags=tags,
        metrics=not found.counts_itself,
        suspend=suspend,
        resume=resume,
        pool=pool,
        cancel=cancel,
        refresh=refresh,
        afterwards=afterwards,
        changed=(*changed, *launched),
        said=(*said, *words),
    )


def _pool(aim: Wanted, found: Group | None) -> str:
    """What is to be done about the warm pool, as GroupPlan has it. Beside a mix that is asked each time: no refusal is to be seen later."""
    there = found.pool if found and not _goes(found.pool) else {}
    if there and not aim.pool:
        return "remove"
    if found and aim.pool and _goes(found.pool):
        return "anew"  # what it was to hold says nothing: it will not
    if there and found and aim.mix and _mix(found.settings) != _mix(aim.launch):
        return "anew"  # AWS may refuse the other mix while there is a pool
    if there and found and any(each.type not in aim.types for each in found.warm):
        return "anew"  # one at work leaves when it is idle; one in the pool would serve again, whenever that may be
    return "put" if aim.pool and not covers(found.pool if found else {}, aim.pool) else ""


def _mix(launch: Json) -> str:
    """What kind of mix instances are launched as, of those that AWS tells apart beside a warm pool; empty for one type On-Demand."""
    if "MixedInstancesPolicy" not in launch:
        return ""
    distribution = launch["MixedInstancesPolicy"].get("InstancesDistribution", {})
    return "types" if distribution.get("OnDemandPercentageAboveBaseCapacity", 100) == 100 else "Spot"


def _goes(pool: Json) -> bool:
    return pool.get("Status") == "PendingDelete"


def _settings_changed(aim: Wanted, found: Group) -> tuple[list[str], Json]:
    def plain(name: str, value: Any) -> Any:
        return ",".join(sorted(part.strip() for part in str(value).split(","))) if name == "VPCZoneIdentifier" else value

    other = {name: value for name, value in aim.settings.items() if not covers(plain(name, found.settings.get(name)), value)}
    return [f"{name} is {found.settings.get(name)}, not {value}" for name, value in other.items()], other


def _refreshed(aim: Wanted, found: Group) -> tuple[str, bool, tuple[str, ...]]:
    """Why instances are replaced, whether a refresh to something else is stopped before, and what is said where none is needed."""
    members = [*found.instances, *found.warm]
    old = [each for each in members if each.version != aim.version]
    under_way = found.refresh is not None and found.refresh.is_open
    if under_way and found.refresh is not None and found.refresh.version == aim.version:
        return f"version {aim.version} of the launch template is being brought in already", False, ()
    if not old:
        fresh = covers(found.settings, aim.launch)
        return "", under_way, () if fresh or members else ("the group has no instance and an empty pool: it needs no instance refresh",)
    return f"{len(old)} of {len(members)} instances are of another version of the launch template than {aim.version}", under_way, ()


def covers(found: Any, asked: Any) -> bool:
    """Whether what AWS shows says all that was asked for; it may say more, as defaults do."""
    if isinstance(asked, Mapping):
        return isinstance(found, Mapping) and all(covers(found.get(name), value) for name, value in asked.items())
    if isinstance(asked, list | tuple):
        return isinstance(found, list | tuple) and len(found) == len(asked) and all(map(covers, found, asked))
    if isinstance(asked, bool) or isinstance(found, bool):
        return bool(found) == bool(asked)
    if isinstance(asked, int | float):
        return isinstance(found, int | float) and float(found) == float(asked)
    return bool(found == asked)


# ----------------------------------------------------------------------------------------------------------------------------- apply


class Fleet:
    """The group of one deployment, with its launch template."""

    def __init__(self, clients: Clients, settings: Settings, machines: Machines, report: Report) -> None:
        self._clients, self._settings, self._machines, self._report = clients, settings, machines, report
        self._name = settings.names.fleet_group
        self._templates = LaunchTemplates(clients)
        self._group = ScalingGroup(clients, self._name, settings.names.fleet_alarm)

    def bring(self, spec: LaunchSpec, content: str) -> tuple[GroupPlan, Wanted]:
        """Bring template and group to the settings, all but the warm pool. What was made anew and did not come to an end is deleted.

        ``content``: what a host is made from, as a hash. Raises FleetError among others.
        """
        types, subnets = self._places(spec.types)
        request = self._machines.template_request(spec, types[0])
        made_of = hashlib.sha256(json.dumps(_without_run(request), sort_keys=True).encode()).hexdigest()[:16]
        self._wait_deleted()
        template, is_new = self._templates.ensure(self._name, request, f"{content} {made_of}", spec.tags.as_list())
        self._report(f"launch template {self._name}, version {template.version}{' (made now)' if is_new else ' (as before)'}")
        own = {name: value for name, value in spec.tags.as_dict().items() if value and name not in (TAG_RUN_ID, TAG_CONTENT)}
        aim = replace(wanted(self._settings, template.id, template.version, types, subnets), tags=own)
        found = self._group.find()
        plan = plan_group(aim, found)
        for line in plan.said:
            self._report(line)
        for line in plan.changed:
            self._report(f"group {self._name}: {line}")
        if plan.is_nothing:
            self._report(f"nothing changed: the group {self._name} of up to {self._settings.host_count} instances is as the settings say")
            return plan, aim
        with self._discarded_on_failure(plan.create):
            self._apply(plan, aim, found)
        return plan, aim

    def _apply(self, plan: GroupPlan, aim: Wanted, found: Group | None) -> None:
        if plan.create:
            self._group.create({**aim.launch, **aim.settings, "DesiredCapacity": 0}, aim.hooks, aim.tags, self._report)
        for name in plan.extra_policies:
            self._group.remove_policy(name)
        for name in plan.hooks:
            self._group.put_hook(name, aim.hooks[name])
        for name in plan.extra_hooks:
            self._group.remove_hook(name)
        if plan.cancel:
            self._cancel_refresh()
        if plan.pool in ("remove", "anew"):
            self._remove_pool(is_going=bool(found and _goes(found.pool)))
        if plan.update:
            self._group.update(plan.update)
        if plan.tags:
            self._group.put_tags(aim.tags)
        if plan.metrics:
            self._group.count_itself()
        arns = {name: self._group.put_policy(name, aim.policies[name]) for name in plan.policies}
        if plan.alarm:
            arn = arns.get(JOB_AGE) or (str(found.policies[JOB_AGE]["PolicyARN"]) if found else "")
            self._group.put_alarm(aim.alarm, arn, aim.tags)
        self._permit(plan)
        if plan.refresh:
            self._refresh(plan.refresh, aim)
        if plan.afterwards:
            self._group.update(plan.afterwards)

    def _permit(self, plan: GroupPlan) -> None:
        if plan.suspend:  # of none AWS takes all to be meant
            self._group.suspend(plan.suspend)
        if plan.resume:
            self._group.resume(plan.resume)

    def fill_pool(self, plan: GroupPlan, aim: Wanted) -> str:
        """Make the warm pool where it is to be another one: after a MAP is live, because its instances hold it when they stop.

        Returns why there is none, where AWS keeps none beside such a mix; else nothing.
        """
        if plan.pool not in ("put", "anew"):
            return ""
        if not aim.mix:
            self._group.put_pool(aim.pool)
        elif words := self._group.ask_pool(aim.pool):
            why = f"no warm pool: AWS keeps none beside {aim.mix} and says {words!r}, so instances are launched when they are needed. "
            why += "Where one is needed, set MONAI_AWS_FLEET_SPOT_PERCENT=0 or name one type alone in MONAI_AWS_INSTANCE_TYPES."
            self._report(why)
            return why
        self._report(f"the warm pool is to hold {aim.pool['MinSize']} stopped instances")
        return ""

    def _remove_pool(self, *, is_going: bool) -> None:
        if not is_going:
            self._group.remove_pool()
        waiting = f"waiting until the warm pool of {self._name} has ended its instances and is gone"
        if wait_until(self._group.has_pool, lambda there: not there, GONE_SECONDS, what=waiting, report=self._report, pause=3.0):
            raise FleetError(f"The warm pool of {self._name} is still being deleted.", "Materialise inference_host again in some minutes.")

    def _refresh(self, why: str, aim: Wanted) -> None:
        self._report(f"instance refresh: {why}")
        found = self._group.find()
        under_way = found.refresh if found and found.refresh and found.refresh.is_open else None
        asked = under_way.id if under_way else self._group.start_refresh(aim.launch, _PREFERENCES)

        def look() -> Refresh | None:
            now = self._group.find()
            return now.refresh if now and now.refresh and now.refresh.id == asked else None  # AWS may show the one before for a moment

        def waiting(refresh: Refresh | None) -> str:
            return f"instance refresh {refresh.status}, {refresh.percentage} %" if refresh else "instance refresh: nothing to be seen of it"

        seen = wait_until(
            look, lambda each: each is not None and not each.is_open, REFRESH_SECONDS, what=waiting, report=self._report, pause=5.0
        )
        if seen is None or seen.is_open:
            # Not recorded as made: it may yet be rolled back, and then another version is in service than the lineage would say.
            raise FleetError(
                f"The instance refresh of {self._name} to version {aim.version} of its launch template has not ended within "
                f"{REFRESH_SECONDS / 60:.0f} minutes ({waiting(seen)}).",
                "It goes on by itself; monai-aws status shows how far it is. Materialise inference_host again to see its end.",
            )
        if seen.status != "Successful":
            because = seen.reason or self._group.last_failure() or "AWS gives no reason"
            raise FleetError(
                f"The instance refresh of {self._name} ended as {seen.status}: {because}",
                "After RollbackSuccessful what was there before is in service. Correct the cause, then materialise inference_host.",
            )
        self._report("instance refresh done: every instance is of the new version")

    def _cancel_refresh(self) -> None:
        self._group.cancel_refresh()
        self._report("the instance refresh to an older version is cancelled")

        def ended() -> bool:
            found = self._group.find()
            return not (found and found.refresh and found.refresh.is_open)

        # A study that ends, or a MAP that is pulled, on the instance that is being replaced is not cut short.
        seconds = max(self._settings.study_seconds, PULL_SECONDS) + GONE_SECONDS
        if not wait_until(ended, bool, seconds, what="waiting until the instance refresh has ended", report=self._report):
            raise FleetError(
                f"The instance refresh of {self._name} is cancelled and has not ended within {seconds / 60:.0f} minutes.",
                "AWS changes nothing of what the group launches meanwhile. Materialise inference_host again in some minutes.",
            )

    def _places(self, types: Sequence[str]) -> tuple[list[str], list[str]]:
        """The types that the region has, and the subnets in zones that have any of them."""
        offered = self._machines.offered(types)
        zones = {zone for found in offered.values() for zone in found}
        subnets = [subnet.id for subnet in self._machines.subnets() if subnet.zone in zones]
        known = [kind for kind in types if offered.get(kind)]
        if not known or not subnets:
            raise CapacityError(
                f"None of the types {', '.join(types)} is offered where this deployment has a subnet.",
                "Set MONAI_AWS_INSTANCE_TYPES to types that the region has, or MONAI_AWS_SUBNETS to subnets in zones that have them.",
            )
        return known, subnets

    @contextmanager
    def _discarded_on_failure(self, created: bool) -> Iterator[None]:
        try:
            yield
        except BaseException:  # a cancelled run raises KeyboardInterrupt's kin; a half-made group must go then too
            if created:
                with suppress(CloudError, ClientError, BotoCoreError):  # the first error is the one to be seen
                    self._group.delete(self._report)
                    self._group.remove_alarm()
                    self._group.wait_gone(GONE_SECONDS, self._report)
                    self._templates.remove(self._name)
                    self._report(f"deleted the group {self._name}: it was not made completely")
            raise

    def _wait_deleted(self) -> None:
        found = self._group.find()
        if found and found.is_going:
            self._wait_gone()

    def _wait_gone(self) -> None:
        if not self._group.wait_gone(GONE_SECONDS, self._report):
            raise FleetError(f"The group {self._name} is still being deleted.", "Materialise inference_host again in some minutes.")

    def remove(self) -> bool:
        """Let every instance finish what it has in hand, then delete group, pool, alarm and template. Whether there was a group."""
        if self._group.has_alarm():
            self._group.remove_alarm()  # first, and also where it alone is left: it asks a group for more
        found = self._group.find()
        if found is None:
            self._templates.remove(self._name)
            return False
        if not found.is_going:
            self._empty(found)
            self._group.delete(self._report)
        self._wait_gone()
        self._templates.remove(self._name)
        self._report(f"the group {self._name} is gone, with its launch template and alarms")
        return True

    def _empty(self, found: Group) -> None:
        """Have every instance finish what it has in hand and leave. Whoever asks for another one meanwhile gets none."""
        self._group.suspend(["Launch"])
        for name in found.policies:
            self._group.remove_policy(name)
        if found.pool:
            self._group.remove_pool()
        self._group.update({"MinSize": 0, "DesiredCapacity": 0})  # not MaxSize: of a mix AWS takes none below its On-Demand base
        for instance in found.instances:
            self._group.let_go(instance.id, self._report)  # also one that is protected: its hook lets it finish

        def left() -> int:
            now = self._group.find()
            return len(now.instances) if now else 0  # what is in the pool has nothing in hand

        wait_until(
            left,
            lambda number: not number,
            float(self._settings.study_seconds) + GONE_SECONDS,
            what=lambda number: f"{number} instances of {self._name} finish what they have in hand",
            report=self._report,
            pause=3.0,
        )


def named_hosts(machines: Sequence[Machine]) -> list[Machine]:
    """Those inference hosts that are in no group."""
    return [each for each in machines if TAG_GROUP not in each.tags]


def retire_hosts(clients: Clients, machines: Machines, hosts: Sequence[Machine], seconds: float, report: Report) -> dict[str, str]:
    """End named hosts that a group has taken the place of, each when it has nothing in hand. Returns why, by id.

    One that still has work after ``seconds`` is ended all the same: its agent then hands its jobs back, uncounted. One that does not say
    what it has is asked again for a while.
    """
    waiting = {host.id: host for host in hosts}
    answered = dict.fromkeys(waiting, time.monotonic())

    def idle() -> list[str]:
        now = [found for name in waiting if (found := machines.look(name)) is not None]
        work = work_of(clients, now)
        moment = time.monotonic()
        answered.update({name: moment for name, each in work.items() if each.agent != "unknown"})
        silent = {name for name, each in work.items() if each.agent == "unknown" and moment < answered[name] + _ANSWERS_S}
        at_work = {host.id for host in now if host.state == "running" and (work[host.id].jobs or host.id in silent)}
        for name in [name for name in waiting if name not in at_work]:
            machines.terminate(name)
            report(f"retired {name}: a group takes its place")
            del waiting[name]
        return sorted(waiting)

    left = wait_until(
        idle,
        lambda names: not names,
        seconds,
        what=lambda names: f"{', '.join(names)} finish what they have in hand",
        report=report,
        pause=5.0,
    )
    for name in left:
        machines.terminate(name)
        report(f"retired {name}, which was still at work: its jobs go back to their queue")
    return {host.id: "a group takes its place" for host in hosts}


def _without_run(request: Json) -> Json:
    """A launch template's data without what is another in each run."""
    specs = [{**spec, "Tags": [tag for tag in spec["Tags"] if tag["Key"] != TAG_RUN_ID]} for spec in request.get("TagSpecifications", [])]
    return {**request, "TagSpecifications": specs}
