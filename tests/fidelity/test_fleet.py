"""What EC2 Auto Scaling refuses an instance that asks about itself, and how the agent on it lives with that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_aws_pipeline.cloud.autoscaling import FleetError
from monai_aws_pipeline.contract import HOOK_FINISH
from monai_aws_pipeline.deployment.fleet_group import Fleet
from monai_aws_pipeline.host_agent.membership import Step
from monai_aws_pipeline.local_cloud import autoscaling_loop
from monai_aws_pipeline.local_cloud.autoscaling_plan import REFRESH_S
from tests.unit.host_agent.group_bench import IDLE_S, Calls, Instance, acting, one_instance, stays
from tests.unit.host_agent.pipeline_bench import until
from tests.unit.local_cloud.autoscaling_bench import Client, create, launch_template

behaviour = pytest.mark.behaviour
NEXT = {"LaunchTemplate": {"LaunchTemplateName": "own", "Version": "2"}}
LEAVE, PROTECT = "TerminateInstanceInAutoScalingGroup", "SetInstanceProtection"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with launch_template(), one_instance(tmp_path) as made:
        yield made
        made.stop.set()


def refused(instance: Instance, action: str, **parameters: Any) -> str:
    """Words of a refusal, which is a ValidationError."""
    code, words = instance.group.refusal(action, **parameters)
    assert code == "ValidationError"
    return words


@behaviour("hook-that-holds-nowhere")
def test_a_hook_that_holds_an_instance_nowhere_cannot_be_completed_embedded(instance: Instance):
    until(lambda: instance.state == "Pending:Wait", "it was not launched")
    asked = {"AutoScalingGroupName": "g", "LifecycleHookName": HOOK_FINISH, "InstanceId": instance.id}
    assert "No active Lifecycle Action found" in refused(instance, "CompleteLifecycleAction", **asked, LifecycleActionResult="CONTINUE")
    assert "No active Lifecycle Action found" in refused(instance, "RecordLifecycleActionHeartbeat", **asked)


@behaviour("hook-that-holds-nowhere")
def test_an_agent_that_begins_late_goes_on_all_the_same_handled(instance: Instance):
    with closing(instance.in_service()):
        assert instance.state == "InService"
    with closing(instance.in_service()) as again:  # started anew, in service already
        assert again.step(0.0) is Step.WORK


@behaviour("hook-has-a-limit")
def test_no_heartbeat_holds_an_instance_beyond_the_hooks_limit_embedded(instance: Instance):
    with closing(instance.in_service()):
        instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
        until(lambda: instance.state == "Terminating:Wait", "it is to go")
        (group,) = instance.group.service._groups.values()
        group.members[0].waits_since = time.time() - 3000  # 100 times the hook's 30 s
        until(lambda: not instance.state, "the next heartbeat found it at its end")


@behaviour("hook-has-a-limit")
def test_what_does_not_end_before_the_limit_is_given_back_handled(instance: Instance):
    instance.pace = replace(instance.pace, finish=0.2)
    with closing(instance.in_service()):
        instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
        assert instance.stop.wait(10), "every job in hand is handed over"
        assert instance.state == "Terminating:Wait"


@behaviour("group-of-least-size")
def test_a_group_at_its_least_size_does_not_become_smaller_embedded(tmp_path: Path):
    with launch_template(), one_instance(tmp_path, MinSize=1) as instance:
        assert "equals minSize (1)" in refused(instance, LEAVE, InstanceId=instance.id, ShouldDecrementDesiredCapacity=True)


@behaviour("group-of-least-size")
def test_an_idle_instance_of_such_a_group_stays_and_takes_jobs_handled(tmp_path: Path):
    with launch_template(), one_instance(tmp_path, MinSize=1) as instance, closing(instance.in_service()) as member:
        assert member.step(IDLE_S) is Step.LEAVE
        assert not member.leave()
        assert member.step(0.0) is Step.WORK
        assert instance.off == []


@behaviour("instance-of-the-pool")
def test_an_instance_of_a_warm_pool_is_not_ended_by_the_call_for_a_groups_own_embedded(tmp_path: Path):
    with launch_template(), one_instance(tmp_path, pool=True) as instance:
        assert "warm pool" in refused(instance, LEAVE, InstanceId=instance.id, ShouldDecrementDesiredCapacity=False)


@behaviour("instance-of-the-pool")
def test_one_that_waits_in_the_pool_asks_for_no_end_however_long_handled(tmp_path: Path):
    with launch_template(), one_instance(tmp_path, pool=True) as instance, closing(instance.member()) as member:
        waits = threading.Thread(target=member.enter)
        waits.start()
        until(lambda: instance.state == "Warmed:Stopped", "the pool never had it")
        assert member.step(9 * IDLE_S) is Step.GO
        assert stays(lambda: instance.count(LEAVE) == instance.count(PROTECT) == 0)
        assert instance.off == []
        instance.stop.set()
        waits.join(10)


@behaviour("protection-in-service")
def test_protection_is_for_instances_in_service_embedded(instance: Instance):
    until(lambda: instance.state == "Pending:Wait", "it was not launched")
    asked = {"AutoScalingGroupName": "g", "InstanceIds": [instance.id], "ProtectedFromScaleIn": True}
    assert "is not in InService" in refused(instance, PROTECT, **asked)


@behaviour("protection-in-service")
def test_jobs_are_taken_in_service_alone_and_protected_before_the_first_handled(instance: Instance):
    with closing(instance.in_service()) as member:
        member.step(0.0)
        (shown,) = instance.group("DescribeAutoScalingInstances", InstanceIds=[instance.id])["AutoScalingInstances"]
        assert (shown["LifecycleState"], shown["ProtectedFromScaleIn"]) == ("InService", True)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A group of version 1 of its template, which acts on its own; those of version 2 never come, and a refresh has a moment for that.

    Its roll-back has as long as it takes.
    """
    monkeypatch.setattr(autoscaling_loop, "_AGAIN_S", 0.05)
    group = Client()

    def patience() -> float:
        refresh = next(iter(group.service._groups.values())).refresh()
        return REFRESH_S if refresh and refresh["Status"] == "RollbackInProgress" else 0.5

    monkeypatch.setattr(group.service._reconciler, "_patience", patience)
    with launch_template() as template:
        create(group, 1, LaunchTemplate={"LaunchTemplateName": "own", "Version": "1"})
        group.ticks()
        template.create_version({"ImageId": "ami-2", "InstanceType": "t3.small"}, "")
        group.machines.without = {"t3.small"}
        with acting(group):
            yield group


def outcome(group: Client) -> tuple[str, list[str]]:
    """How the refresh is, and which versions of the template the group's instances are."""
    refresh = group("DescribeInstanceRefreshes", AutoScalingGroupName="g")["InstanceRefreshes"][0]
    return str(refresh["Status"]), [each["LaunchTemplate"]["Version"] for each in group.group()["Instances"]]


@behaviour("refresh-that-fails")
def test_a_refresh_that_comes_no_further_is_rolled_back_embedded(broken: Client):
    broken("StartInstanceRefresh", AutoScalingGroupName="g", DesiredConfiguration=NEXT, Preferences={"AutoRollback": True})
    until(lambda: outcome(broken) == ("RollbackSuccessful", ["1"]), "it was not rolled back")


@behaviour("refresh-that-fails")
def test_a_refresh_that_was_rolled_back_fails_the_run_with_the_reason_handled(broken: Client):
    clients: Any = SimpleNamespace(autoscaling=Calls(broken), cloudwatch=SimpleNamespace(describe_alarms=lambda **_: {"MetricAlarms": []}))
    settings: Any = SimpleNamespace(names=SimpleNamespace(fleet_group="g", fleet_alarm="alarm"))
    aim: Any = SimpleNamespace(launch=NEXT, version="2")
    machines: Any = None
    with pytest.raises(FleetError, match=r"ended as RollbackSuccessful: .*did not become ready"):
        Fleet(clients, settings, machines, lambda _: None)._refresh("another version", aim)
    assert outcome(broken)[1] == ["1"]
