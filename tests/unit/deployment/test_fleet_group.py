"""What the Auto Scaling group of hosts is to be, and what is put right of one that is another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from monai_aws_pipeline.cloud.autoscaling import FleetError, Group, Instance, LaunchTemplates, Refresh, ScalingGroup
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import HOOK_FINISH, HOOK_READY
from monai_aws_pipeline.deployment import fleet_group
from monai_aws_pipeline.deployment.ami import images_of_group
from monai_aws_pipeline.deployment.fleet_group import (
    BACKLOG,
    JOB_AGE,
    Fleet,
    GroupPlan,
    Wanted,
    covers,
    named_hosts,
    plan_group,
    wanted,
)
from monai_aws_pipeline.operations.status import HostWork, JobAtWork
from monai_aws_pipeline.settings import SettingsError, load_settings
from tests.unit.deployment.test_plans import _host

SUBNETS = ("subnet-b", "subnet-a")


def aim_of(types: tuple[str, ...] = ("g4dn.xlarge",), version: str = "3", **settings: Any) -> Wanted:
    return wanted(
        load_settings(**{"deployment": "ward", "fleet": "autoscaling", "host_count": 4, **settings}), "lt-1", version, types, SUBNETS
    )


def as_made(aim: Wanted, **changes: Any) -> Group:
    """The group as AWS shows it after it was made so, with defaults that nobody asked for."""
    settings = {
        **copy.deepcopy(dict(aim.settings)),
        **copy.deepcopy(dict(aim.launch)),
        **{"DesiredCapacity": 0, "EnabledMetrics": [{"Metric": "GroupInServiceInstances"}], "Tags": []},
        "SuspendedProcesses": [{"ProcessName": "AZRebalance"}],
    }
    policies = {name: {**policy, "PolicyARN": f"arn:{name}", "Enabled": True} for name, policy in aim.policies.items()}
    hooks = {name: {**hook, "GlobalTimeout": 172_800} for name, hook in aim.hooks.items()}
    alarm = {**aim.alarm, "AlarmActions": [f"arn:{JOB_AGE}"], "StateValue": "OK"}
    found: dict[str, Any] = {"settings": settings, "hooks": hooks, "policies": policies, "alarm": alarm, "pool": dict(aim.pool)}
    return Group(**{**found, "instances": (), "warm": (), "refresh": None, **changes})


def member(version: str) -> Instance:
    return Instance("i-1", "InService", "us-east-1a", "g4dn.xlarge", version)


def test_a_group_that_is_as_the_settings_say_is_left_alone() -> None:
    for aim in (aim_of(), aim_of(("g4dn.xlarge", "g5.xlarge"), fleet_spot_percent=50), aim_of(fleet_warm_pool=2)):
        assert plan_group(aim, as_made(aim, instances=(member("3"),))).is_nothing


def test_the_order_of_subnets_changes_nothing() -> None:
    found = as_made(aim_of())
    found = as_made(aim_of(), settings={**found.settings, "VPCZoneIdentifier": "subnet-b, subnet-a"})
    assert plan_group(aim_of(), found).is_nothing


def test_what_somebody_changed_is_put_right_and_named() -> None:
    aim = aim_of()
    made = as_made(aim)
    found = as_made(
        aim,
        settings={**made.settings, "MaxSize": 9, "SuspendedProcesses": [{"ProcessName": "Launch"}], "EnabledMetrics": []},
        hooks={HOOK_READY: made.hooks[HOOK_READY]},
        policies={JOB_AGE: made.policies[JOB_AGE]},
        pool={"MinSize": 1},
    )
    plan = plan_group(aim, found)
    assert (plan.update, plan.hooks, plan.policies) == ({"MaxSize": 4}, (HOOK_FINISH,), (BACKLOG,))
    assert (plan.resume, plan.metrics, plan.pool, plan.refresh) == (("Launch",), True, "remove", "")
    said = "; ".join(plan.changed)
    for words in ("MaxSize is 9, not 4", f"the hook {HOOK_FINISH} is not there", f"the policy {BACKLOG} is not there", "forbidden Launch"):
        assert words in said


def test_a_group_never_launches_for_the_balance_of_its_zones_and_is_forbidden_nothing_else() -> None:
    aim = aim_of()
    assert plan_group(aim, None).suspend == ("AZRebalance",)
    made = as_made(aim)
    forbidden = [{"ProcessName": "Launch"}, {"ProcessName": "AZRebalance"}, {"ProcessName": "Terminate"}]
    braked = plan_group(aim, as_made(aim, settings={**made.settings, "SuspendedProcesses": forbidden}))
    assert (braked.suspend, braked.resume, braked.changed) == ((), ("Launch", "Terminate"), ("it was forbidden Launch, Terminate",))
    free = plan_group(aim, as_made(aim, settings={**made.settings, "SuspendedProcesses": []}))
    assert (free.suspend, free.resume, free.changed) == (("AZRebalance",), (), ("it is not forbidden AZRebalance",))


def test_what_somebody_has_switched_off_is_switched_on_again() -> None:
    aim = aim_of()
    made = as_made(aim)
    off = {BACKLOG: {**made.policies[BACKLOG], "Enabled": False}, JOB_AGE: made.policies[JOB_AGE]}
    plan = plan_group(aim, as_made(aim, policies=off, alarm={**made.alarm, "ActionsEnabled": False}))
    assert (plan.policies, plan.alarm) == ((BACKLOG,), True)


def test_an_alarm_that_calls_another_policy_is_made_anew() -> None:
    aim = aim_of()
    assert plan_group(aim, as_made(aim, alarm={**as_made(aim).alarm, "AlarmActions": ["arn:gone"]})).alarm


def test_a_new_template_is_brought_in_by_a_refresh_where_there_are_instances_and_by_an_update_where_there_are_none() -> None:
    busy = plan_group(aim_of(version="4"), as_made(aim_of(), instances=(member("3"), member("4"))))
    assert busy.refresh == "1 of 2 instances are of another version of the launch template than 4"
    assert busy.update == {}, "what a refresh brings in it can also take back"
    pooled = plan_group(aim_of(version="4"), as_made(aim_of(), warm=(member("3"),)))
    assert pooled.refresh
    empty = plan_group(aim_of(version="4"), as_made(aim_of()))
    assert (empty.refresh, empty.update) == ("", aim_of(version="4").launch)
    assert empty.said == ("the group has no instance and an empty pool: it needs no instance refresh",)


def test_an_instance_of_a_type_that_the_settings_name_no_more_does_not_stay_in_the_pool() -> None:
    before, after = aim_of(("g4dn.xlarge", "g5.xlarge"), fleet_warm_pool=1), aim_of(("g4dn.xlarge", "g6.xlarge"), fleet_warm_pool=1)
    other = replace(member("3"), type="g5.xlarge")
    assert plan_group(before, as_made(before, warm=(other,))).is_nothing
    plan = plan_group(after, as_made(before, warm=(other,)))
    assert (plan.pool, plan.refresh, plan.update) == ("anew", "", after.launch)
    assert plan_group(after, as_made(before, warm=(member("3"),))).pool == ""


def test_a_refresh_under_way_is_awaited_or_stopped_where_it_goes_elsewhere() -> None:
    def found(version: str) -> Group:
        return as_made(aim_of(), instances=(member("3"),), refresh=Refresh("r", "InProgress", 40, "", version))

    same, other = plan_group(aim_of(version="5"), found("5")), plan_group(aim_of(version="5"), found("4"))
    assert (same.cancel, other.cancel) == (False, True)
    assert "already" in same.refresh


def test_what_somebody_else_has_put_on_the_group_is_removed_and_named_and_what_aws_made_for_ours_is_left_alone() -> None:
    aim = aim_of()
    made = as_made(aim)
    alarms = [{"AlarmName": "TargetTracking-monai-aws-ward-inference-hosts-AlarmHigh-1"}]
    ours = {**made.policies, BACKLOG: {**made.policies[BACKLOG], "Alarms": alarms}}
    assert plan_group(aim, as_made(aim, policies=ours)).is_nothing
    theirs = {"PolicyType": "StepScaling", "StepAdjustments": [{"ScalingAdjustment": 5}]}
    plan = plan_group(aim, as_made(aim, policies={**ours, "more": theirs}, hooks={**made.hooks, "inspect": made.hooks[HOOK_READY]}))
    assert (plan.extra_policies, plan.extra_hooks, plan.policies, plan.hooks, plan.alarm) == (("more",), ("inspect",), (), (), False)
    assert plan.changed == ("the hook inspect is none of ours and is removed", "the policy more is none of ours and is removed")


POOL = {"MinSize": 2, "MaxGroupPreparedCapacity": 2, "PoolState": "Stopped"}
MIXES: tuple[tuple[Wanted, str], ...] = (
    (aim_of(("g4dn.xlarge", "g5.xlarge"), fleet_warm_pool=2), "2 instance types"),
    (aim_of(fleet_warm_pool=2, fleet_spot_percent=10), "Spot instances"),
)


@pytest.mark.parametrize(("aim", "mix"), MIXES)
def test_beside_a_mix_aws_is_asked_for_a_warm_pool_each_time_and_a_refusal_is_no_difference(aim: Wanted, mix: str) -> None:
    assert (plan_group(aim, None).pool, aim.pool) == ("put", POOL)
    refused = plan_group(aim, as_made(aim, pool={}))
    assert (refused.pool, refused.is_nothing) == ("put", True)
    assert refused.said == (f"AWS is asked whether it keeps a warm pool beside {mix}",)
    kept = plan_group(aim, as_made(aim))
    assert (kept.pool, kept.said, kept.is_nothing) == ("", (), True)


@pytest.mark.parametrize(
    ("aim", "before"),
    [*((aim, aim_of(fleet_warm_pool=2)) for aim, _ in MIXES), (MIXES[0][0], MIXES[1][0]), (MIXES[1][0], MIXES[0][0])],
    ids=["one-to-several", "one-to-spot", "spot-to-several", "several-to-spot"],
)
def test_a_pool_goes_before_its_group_becomes_another_mix_and_is_asked_for_again(aim: Wanted, before: Wanted) -> None:
    plan = plan_group(aim, as_made(before))
    assert (plan.pool, plan.update) == ("anew", {**plan.update, **aim.launch})
    assert "its warm pool is another one than the settings say" in plan.changed


def test_a_pool_stays_where_only_the_number_of_types_or_the_part_of_spot_changes() -> None:
    types, spot = ("g4dn.xlarge", "g5.xlarge", "g6.xlarge"), {"fleet_warm_pool": 2, "fleet_spot_percent": 90}
    assert plan_group(aim_of(types, fleet_warm_pool=2), as_made(MIXES[0][0])).pool == ""
    assert plan_group(aim_of(types, **spot), as_made(MIXES[1][0])).pool == ""
    assert plan_group(aim_of(fleet_warm_pool=2), as_made(MIXES[1][0])).pool == "", "AWS refuses none beside one type On-Demand"


@pytest.mark.parametrize("aim", [aim_of(fleet_warm_pool=2), *(aim for aim, _ in MIXES)])
def test_a_pool_that_is_being_deleted_is_waited_for_and_made_anew(aim: Wanted) -> None:
    going = {**POOL, "Status": "PendingDelete"}
    assert plan_group(aim, as_made(aim, pool=going)).pool == "anew"
    assert plan_group(aim_of(), as_made(aim_of(), pool=going)).pool == "", "nothing is wanted, and it goes by itself"


def test_of_one_type_on_demand_a_pool_that_is_not_there_is_a_difference() -> None:
    aim = aim_of(fleet_warm_pool=2)
    plan = plan_group(aim, as_made(aim, pool={}))
    assert (plan.pool, plan.said, plan.is_nothing) == ("put", (), False)


def test_spot_comes_above_the_base_and_one_type_on_demand_needs_no_mix() -> None:
    mix = aim_of(fleet_spot_percent=30, fleet_on_demand_base=1).launch["MixedInstancesPolicy"]["InstancesDistribution"]
    assert (mix["OnDemandBaseCapacity"], mix["OnDemandPercentageAboveBaseCapacity"]) == (1, 70)
    assert aim_of().launch == {"LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "3"}}


def test_fewer_hosts_than_the_old_on_demand_base_wait_for_the_refresh_that_brings_the_new_one() -> None:
    mixed = {"fleet_spot_percent": 50}
    before = as_made(aim_of(host_count=4, fleet_on_demand_base=3, **mixed), instances=(member("3"),))
    plan = plan_group(aim_of(version="4", host_count=2, fleet_on_demand_base=1, **mixed), before)
    assert (bool(plan.refresh), "MaxSize" in plan.update, plan.afterwards) == (True, False, {"MaxSize": 2})
    empty = plan_group(aim_of(version="4", host_count=2, fleet_on_demand_base=1, **mixed), replace(before, instances=()))
    assert (empty.refresh, empty.update["MaxSize"], empty.afterwards) == ("", 2, {}), "mix and size are told in one call"
    higher = plan_group(aim_of(version="4", host_count=3, fleet_on_demand_base=1, **mixed), before)
    assert (higher.update["MaxSize"], higher.afterwards) == (3, {})


class Asked:
    """A group that answers what it is told to, and keeps what it was asked. ``refreshes``: one for each look; the last one stays."""

    def __init__(self, aim: Wanted, *refreshes: Refresh, pool_refused: str = "") -> None:
        self._aim, self._refreshes, self._refused = aim, list(refreshes), pool_refused
        self.calls: list[str] = []

    def find(self) -> Group:
        refresh = self._refreshes.pop(0) if len(self._refreshes) > 1 else self._refreshes[0]
        return as_made(self._aim, instances=(member("3"),), refresh=refresh)

    def cancel_refresh(self) -> None:
        self.calls.append("cancel_refresh")

    def start_refresh(self, *_: object) -> str:
        self.calls.append("start_refresh")
        return "r"

    def put_pool(self, _: object) -> None:
        self.calls.append("put_pool")

    def ask_pool(self, _: object) -> str:
        self.calls.append("ask_pool")
        return self._refused


def fleet_of(group: object, said: list[str]) -> Fleet:
    clients: Any = None
    fleet = Fleet(clients, load_settings(deployment="ward", fleet="autoscaling"), clients, said.append)
    fleet._group = group  # type: ignore[assignment] - what it asks of AWS
    return fleet


def refresh(status: str, version: str = "4") -> Refresh:
    return Refresh("r", status, 40, "", version)


def test_a_refresh_that_does_not_end_in_time_fails_the_run_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded as made, the lineage would name the new version although AWS may yet roll it back."""
    monkeypatch.setattr(fleet_group, "REFRESH_SECONDS", 0.0)
    group = Asked(aim_of(version="4"), refresh("Successful", "3"), refresh("InProgress"))
    with pytest.raises(FleetError, match=r"version 4 .*instance refresh InProgress, 40 %") as error:
        fleet_of(group, [])._refresh("why", aim_of(version="4"))
    assert "Materialise inference_host again" in error.value.remedy
    assert group.calls == ["start_refresh"]


def test_a_refresh_that_does_not_end_by_its_cancel_is_named_before_anything_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fleet_group, "wait_until", lambda look, done, seconds, **_: waited.append(seconds) or look())
    group = Asked(aim_of(version="4"), refresh("Cancelling", "3"))
    with pytest.raises(FleetError, match="has not ended"):
        fleet_of(group, [])._cancel_refresh()
    assert group.calls == ["cancel_refresh"]
    assert waited[0] > load_settings().map_timeout_s, "a study that ends on the instance that is replaced takes its time"


def test_the_refresh_before_is_not_taken_for_the_one_that_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_group, "wait_until", lambda look, done, *_, **__: next(each for each in iter(look, 0) if done(each)))
    before, said = replace(refresh("Successful", "3"), id="before"), list[str]()
    group = Asked(aim_of(version="4"), before, before, refresh("InProgress"), refresh("Failed"))
    monkeypatch.setattr(group, "last_failure", lambda: "no room", raising=False)
    with pytest.raises(FleetError, match="ended as Failed: no room"):
        fleet_of(group, said)._refresh("why", aim_of(version="4"))


def test_a_refresh_to_the_same_version_that_is_still_at_work_is_waited_for_and_no_other_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_group, "wait_until", lambda look, done, *_, **__: next(each for each in iter(look, None) if done(each)))
    aim, said = aim_of(version="4"), list[str]()
    group = Asked(aim, refresh("InProgress"), refresh("InProgress"), refresh("InProgress"), refresh("Successful"))
    plan = plan_group(aim, group.find())
    fleet_of(group, said)._refresh(plan.refresh, aim)
    assert group.calls == []
    assert "already" in said[0]
    assert said[-1] == "instance refresh done: every instance is of the new version"


@pytest.mark.parametrize(("refused", "has_none"), [("", False), ("You can't add a warm pool to such a group.", True)])
def test_a_pool_that_aws_refuses_beside_a_mix_is_told_and_fails_nothing(refused: str, has_none: bool) -> None:
    (aim, mix), said = MIXES[0], list[str]()
    group = Asked(aim, refresh("Successful"), pool_refused=refused)
    why = fleet_of(group, said).fill_pool(GroupPlan(pool="put"), aim)
    assert group.calls == ["ask_pool"]
    assert said == [why or "the warm pool is to hold 2 stopped instances"]
    assert bool(why) is has_none
    assert not has_none or all(words in why for words in (mix, refused, "launched when they are needed", "MONAI_AWS_INSTANCE_TYPES"))


def test_a_pool_of_one_type_on_demand_is_put_whatever_aws_says() -> None:
    aim = aim_of(fleet_warm_pool=2)
    group = Asked(aim, refresh("Successful"), pool_refused="no")
    assert fleet_of(group, []).fill_pool(GroupPlan(pool="put"), aim) == ""
    assert group.calls == ["put_pool"], "a refusal of that raises"


class Told:
    """A group that notes what it is told. ``looks``: what each look at it finds; the last one stays."""

    def __init__(self, *looks: Group | None) -> None:
        self._looks = list(looks)
        self.calls: list[tuple[str, object]] = []

    def find(self) -> Group | None:
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]

    def wait_gone(self, *_: object) -> bool:
        return True

    def has_alarm(self) -> bool:
        return True

    def start_refresh(self, given: object, *_: object) -> str:
        self.calls.append(("start_refresh", given))
        return "r"

    def __getattr__(self, name: str) -> Any:
        return lambda given=None, *_: self.calls.append((name, given))


def test_the_settings_that_wait_for_a_refresh_are_told_when_it_is_done_and_not_where_it_failed() -> None:
    mixed = {"fleet_spot_percent": 50}
    before = as_made(aim_of(host_count=4, fleet_on_demand_base=3, **mixed), instances=(member("3"),))
    aim = aim_of(version="4", host_count=2, fleet_on_demand_base=1, **mixed)
    plan = plan_group(aim, before)
    for status in ("Successful", "Failed"):
        group = Told(before, replace(before, refresh=refresh(status)))
        with nullcontext() if status == "Successful" else pytest.raises(FleetError):
            fleet_of(group, [])._apply(plan, aim, before)
        told = [name if name != "update" else given for name, given in group.calls]
        assert {"MaxSize": 2} not in told[: told.index("start_refresh")]
        assert (told[-1] == {"MaxSize": 2}) is (status == "Successful")


def removing(group: Told) -> Fleet:
    fleet = fleet_of(group, [])
    fleet._templates = Told()  # type: ignore[assignment]
    return fleet


def test_a_group_that_goes_launches_nothing_from_the_first_moment_and_may_keep_its_most() -> None:
    """The wake function and the policies go on asking meanwhile, and a mix refuses a most below its base."""
    aim = aim_of(("g4dn.xlarge", "g5.xlarge"), fleet_on_demand_base=2, fleet_warm_pool=1)
    group = Told(as_made(aim, instances=(member("3"),)), as_made(aim))
    assert removing(group).remove()
    assert group.calls[:7] == [
        *[("remove_alarm", None), ("suspend", ["Launch"]), ("remove_policy", BACKLOG), ("remove_policy", JOB_AGE)],
        *[("remove_pool", None), ("update", {"MinSize": 0, "DesiredCapacity": 0}), ("let_go", "i-1")],
    ]
    assert [name for name, _ in group.calls[7:]] == ["delete"]


def test_an_alarm_without_its_group_goes_too() -> None:
    group = Told(None)
    assert not removing(group).remove()
    assert group.calls == [("remove_alarm", None)]


def templates(name: str, number: int) -> list[str]:
    """A launch template of so many versions, each of another image; these, in order."""
    ec2 = boto3.client("ec2", region_name="us-east-1")
    images = [f"ami-{each:08x}" for each in range(1, number + 1)]
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": images[0]})
    for image in images[1:]:
        ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={"ImageId": image})
    return images


@pytest.mark.parametrize("types", [("g4dn.xlarge",), ("g4dn.xlarge", "g5.xlarge")])
@pytest.mark.parametrize(("status", "kept"), [("InProgress", {2, 3, 5}), ("Successful", {2, 5})])
@pytest.mark.parametrize("fleet", ["autoscaling", "hosts"])
def test_the_images_that_a_group_without_instances_launches_from_and_goes_back_to_are_kept(
    monkeypatch: pytest.MonkeyPatch, types: tuple[str, ...], status: str, kept: set[int], fleet: str
) -> None:
    settings = load_settings(deployment="ward", fleet=fleet)
    found = as_made(aim_of(types, version="2"), refresh=refresh(status, "3"))
    monkeypatch.setattr(ScalingGroup, "find", lambda _: found)
    with mock_aws():
        images = templates(settings.names.fleet_group, 5)
        assert images_of_group(Clients("us-east-1"), settings) == {images[number - 1] for number in kept}


def test_a_template_without_a_group_keeps_its_newest_image_and_none_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(deployment="ward")
    monkeypatch.setattr(ScalingGroup, "find", lambda _: None)
    with mock_aws():
        assert images_of_group(Clients("us-east-1"), settings) == set()
        images = templates(settings.names.fleet_group, 2)
        assert images_of_group(Clients("us-east-1"), settings) == {images[1]}
        assert LaunchTemplates(Clients("us-east-1")).images("of nobody", ["1"]) == set()


def test_what_aws_adds_by_default_is_no_difference() -> None:
    assert covers({"a": 1.0, "b": [{"c": True, "more": 2}]}, {"a": 1, "b": [{"c": True}]})
    assert not covers({"a": [1, 2]}, {"a": [1]})
    assert covers({}, {"CapacityRebalance": False})
    assert not covers({}, {"MaxSize": 0})


def test_instances_of_a_group_are_no_named_hosts() -> None:
    grouped = _host("i-2", "a")
    grouped.tags["aws:autoscaling:groupName"] = "g"
    assert [each.id for each in named_hosts([_host("i-1", "a"), grouped])] == ["i-1"]


def test_the_on_demand_base_is_at_most_the_most_instances() -> None:
    assert load_settings(fleet="autoscaling", host_count=2, fleet_on_demand_base=2).fleet_on_demand_base == 2
    assert load_settings(host_count=1, fleet_on_demand_base=2).fleet == "hosts"
    with pytest.raises(SettingsError, match="fleet_on_demand_base is 2, and host_count is 1"):
        load_settings(fleet="autoscaling", host_count=1, fleet_on_demand_base=2)


def test_a_group_needs_a_baked_image() -> None:
    with pytest.raises(SettingsError, match="baked image"):
        load_settings(fleet="autoscaling", ami_mode="stock")


def test_a_named_host_that_does_not_say_what_it_has_is_asked_again_before_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, ended = list[int](), dict[str, int]()
    at_work, silence = HostWork("running", jobs=(JobAtWork("a" * 32, "inferring", 9.0, 3.0),)), HostWork("unknown")
    said = {
        "i-off": [HostWork("stopped")],
        "i-busy": [silence, at_work, at_work, at_work, silence, at_work, HostWork("running")],
        "i-silent": [silence],
    }
    hosts = [replace(_host(name, "a"), state="stopped" if name == "i-off" else "running") for name in said]

    class Pretended:
        def look(self, name: str) -> Machine:
            return next(host for host in hosts if host.id == name)

        def terminate(self, name: str) -> None:
            ended[name] = len(looks)

    def asked(_: object, running: list[Machine]) -> dict[str, HostWork]:
        looks.append(len(running))
        monkeypatch.setattr(fleet_group.time, "monotonic", lambda: len(looks) * 100.0)
        return {host.id: said[host.id][min(len(looks), len(said[host.id])) - 1] for host in running}

    def at_once(look: Callable[[], list[str]], done: Callable[[list[str]], bool], seconds: float, **_: Any) -> list[str]:
        while not done(left := look()) and len(looks) < seconds / 100:
            pass
        return left

    monkeypatch.setattr(fleet_group.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(fleet_group, "wait_until", at_once)
    monkeypatch.setattr(fleet_group, "work_of", asked)
    retired = fleet_group.retire_hosts(Any, Pretended(), hosts, 1000.0, lambda _: None)  # type: ignore[arg-type]
    assert ended == {"i-off": 1, "i-silent": 3, "i-busy": 7}
    assert set(retired) == set(said)
