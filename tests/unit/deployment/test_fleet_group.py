"""What the Auto Scaling group of hosts is to be, and what is put right of one that is another."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from monai_aws_pipeline.cloud.autoscaling import Group, Instance, Refresh
from monai_aws_pipeline.contract import HOOK_FINISH, HOOK_READY
from monai_aws_pipeline.deployment.fleet_group import BACKLOG, JOB_AGE, Wanted, covers, named_hosts, plan_group, wanted
from monai_aws_pipeline.settings import SettingsError, load_settings
from tests.unit.deployment.test_plans import _host

SUBNETS = ("subnet-b", "subnet-a")


def aim_of(types: tuple[str, ...] = ("g4dn.xlarge",), version: str = "3", **settings: Any) -> Wanted:
    return wanted(load_settings(deployment="ward", fleet="autoscaling", host_count=4, **settings), "lt-1", version, types, SUBNETS)


def as_made(aim: Wanted, **changes: Any) -> Group:
    """The group as AWS shows it after it was made so, with defaults that nobody asked for."""
    settings = {
        **copy.deepcopy(dict(aim.settings)),
        **copy.deepcopy(dict(aim.launch)),
        **{"DesiredCapacity": 0, "EnabledMetrics": [{"Metric": "GroupInServiceInstances"}], "SuspendedProcesses": [], "Tags": []},
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
    assert (plan.resume, plan.metrics, plan.pool, plan.refresh) == (True, True, "remove", "")
    said = "; ".join(plan.changed)
    for words in ("MaxSize is 9, not 4", f"the hook {HOOK_FINISH} is not there", f"the policy {BACKLOG} is not there", "forbidden Launch"):
        assert words in said


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


def test_a_refresh_under_way_is_awaited_or_stopped_where_it_goes_elsewhere() -> None:
    def found(version: str) -> Group:
        return as_made(aim_of(), instances=(member("3"),), refresh=Refresh("r", "InProgress", 40, "", version))

    same, other = plan_group(aim_of(version="5"), found("5")), plan_group(aim_of(version="5"), found("4"))
    assert (same.cancel, other.cancel) == (False, True)
    assert "already" in same.refresh


def test_no_warm_pool_where_aws_keeps_none_and_that_is_said() -> None:
    assert aim_of(fleet_warm_pool=2).pool == {"MinSize": 2, "MaxGroupPreparedCapacity": 2, "PoolState": "Stopped"}
    for aim, why in (
        (aim_of(("g4dn.xlarge", "g5.xlarge"), fleet_warm_pool=2), "2 instance types"),
        (aim_of(fleet_warm_pool=2, fleet_spot_percent=10), "Spot instances"),
    ):
        assert aim.pool == {}
        assert why in plan_group(aim, None).said[0]


def test_spot_comes_above_the_base_and_one_type_on_demand_needs_no_mix() -> None:
    mix = aim_of(fleet_spot_percent=30, fleet_on_demand_base=1).launch["MixedInstancesPolicy"]["InstancesDistribution"]
    assert (mix["OnDemandBaseCapacity"], mix["OnDemandPercentageAboveBaseCapacity"]) == (1, 70)
    assert aim_of().launch == {"LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "3"}}


def test_what_aws_adds_by_default_is_no_difference() -> None:
    assert covers({"a": 1.0, "b": [{"c": True, "more": 2}]}, {"a": 1, "b": [{"c": True}]})
    assert not covers({"a": [1, 2]}, {"a": [1]})
    assert covers({}, {"CapacityRebalance": False})
    assert not covers({}, {"MaxSize": 0})


def test_instances_of_a_group_are_no_named_hosts() -> None:
    grouped = _host("i-2", "a")
    grouped.tags["aws:autoscaling:groupName"] = "g"
    assert [each.id for each in named_hosts([_host("i-1", "a"), grouped])] == ["i-1"]


def test_a_group_needs_a_baked_image() -> None:
    with pytest.raises(SettingsError, match="baked image"):
        load_settings(fleet="autoscaling", ami_mode="stock")
