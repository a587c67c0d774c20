"""The Auto Scaling group of hosts on the embedded AWS, as the operator role may make it; no instance of it ever does anything here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import boto3
import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.autoscaling import FleetError, Group, LaunchTemplates, ScalingGroup
from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.contract import HOOK_FINISH, HOOK_READY
from monai_aws_pipeline.deployment.ami import images_of_group
from monai_aws_pipeline.deployment.build_machine import machines_of
from monai_aws_pipeline.deployment.fleet_group import BACKLOG, JOB_AGE, Fleet, GroupPlan
from monai_aws_pipeline.deployment.inference_host import agent_settings, host_spec
from monai_aws_pipeline.deployment.wake_function import switch_wake_function
from monai_aws_pipeline.local_cloud.autoscaling_plan import REFRESH_S
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.teardown import Kind, Teardown
from tests.support.faults import eventually
from tests.support.meanwhile import meanwhile
from tests.support.platform import Platform, environment, platform

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    variables = {"MONAI_AWS_FLEET": "autoscaling", "MONAI_AWS_HOST_COUNT": "3", "MONAI_AWS_INSTANCE_TYPES": "g4dn.xlarge"}
    with platform(local_cloud, "group", tmp_path_factory.mktemp("group"), **variables) as made, environment(made.variables):
        yield made
        fleet_of(made).remove()


def fleet_of(place: Platform) -> Fleet:
    return Fleet(place.clients, place.settings, machines_of(place.clients, place.settings), place.log.append)


def base_image(place: Platform) -> str:
    return str(place.clients.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"])


def bring(place: Platform, **agent: object) -> GroupPlan:
    machines = machines_of(place.clients, place.settings)
    spec = host_spec(machines, place.settings, base_image(place), {**agent_settings(place.settings), **agent}, "made-of", "run")
    plan, aim = fleet_of(place).bring(spec, "made-of")
    fleet_of(place).fill_pool(plan, aim)
    return plan


def asked(place: Platform) -> ScalingGroup:
    return ScalingGroup(place.clients, place.settings.names.fleet_group, place.settings.names.fleet_alarm)


def group(place: Platform) -> Group:
    found = asked(place).find()
    assert found is not None
    return found


def test_the_operator_makes_the_group_with_all_that_belongs_to_it_and_a_second_look_changes_nothing(place: Platform) -> None:
    assert bring(place).create
    made = group(place)
    assert (made.desired, made.most, set(made.hooks), set(made.policies)) == (0, 3, {HOOK_READY, HOOK_FINISH}, {BACKLOG, JOB_AGE})
    assert made.alarm["AlarmActions"] == [made.policies[JOB_AGE]["PolicyARN"]]
    assert made.tags["monai-aws:deployment"] == "group"
    assert made.suspended == ("AZRebalance",)
    assert images_of_group(place.clients, place.settings) == {base_image(place)}, "no instance tells of it"
    assert bring(place).is_nothing
    assert "nothing changed" in place.log[-1]


def test_what_somebody_changed_is_put_right_and_named(place: Platform) -> None:
    bring(place)
    name = place.settings.names.fleet_group
    with environment(place.cloud.environment):  # the operator may do some of this not at all
        api = boto3.Session().client("autoscaling")
        api.update_auto_scaling_group(AutoScalingGroupName=name, MaxSize=9, MinSize=0)
        api.delete_lifecycle_hook(AutoScalingGroupName=name, LifecycleHookName=HOOK_READY)
        api.delete_policy(AutoScalingGroupName=name, PolicyName=JOB_AGE)
        api.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=["Launch"])
        api.resume_processes(AutoScalingGroupName=name, ScalingProcesses=["AZRebalance"])
        boto3.Session().client("cloudwatch").delete_alarms(AlarmNames=[place.settings.names.fleet_alarm])
    said = "; ".join(bring(place).changed)
    for words in ("MaxSize is 9, not 3", HOOK_READY, JOB_AGE, "was forbidden Launch", "not forbidden AZRebalance", "the alarm"):
        assert words in said
    assert bring(place).is_nothing


def test_what_somebody_added_is_removed_and_named_with_the_alarms_that_aws_made_for_it(place: Platform) -> None:
    bring(place)
    name = place.settings.names.fleet_group
    with environment(place.cloud.environment):
        api = boto3.Session().client("autoscaling")
        more = dict(group(place).policies[BACKLOG]["TargetTrackingConfiguration"])
        tracked = api.put_scaling_policy(
            AutoScalingGroupName=name, PolicyName="theirs", PolicyType="TargetTrackingScaling", TargetTrackingConfiguration=more
        )
        api.put_lifecycle_hook(
            AutoScalingGroupName=name, LifecycleHookName="their-hook", LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING"
        )
    ours = group(place).policies[BACKLOG]["Alarms"]
    assert set(bring(place).changed) == {
        "the hook their-hook is none of ours and is removed",
        "the policy theirs is none of ours and is removed",
    }
    left = group(place)
    assert (set(left.hooks), set(left.policies)) == ({HOOK_READY, HOOK_FINISH}, {BACKLOG, JOB_AGE})
    assert left.policies[BACKLOG]["Alarms"] == ours
    names = [each["AlarmName"] for each in (*tracked["Alarms"], *ours)]
    known = place.clients.cloudwatch.describe_alarms(AlarmNames=names)["MetricAlarms"]
    assert [each["AlarmName"] for each in known] == [each["AlarmName"] for each in ours]
    assert bring(place).is_nothing


def version(place: Platform) -> int:
    """Of the launch template that the group names."""
    return int(group(place).settings["LaunchTemplate"]["Version"])


def test_another_setting_is_a_new_version_and_an_empty_group_needs_no_refresh(place: Platform) -> None:
    bring(place)
    before = version(place)
    plan = bring(place, idle_stop_minutes=9)
    assert (plan.refresh, version(place)) == ("", before + 1)
    assert any("needs no instance refresh" in line for line in place.log)
    assert bring(place, idle_stop_minutes=9).is_nothing


def test_beside_spot_aws_is_asked_for_a_pool_each_time_and_its_refusal_is_told(place: Platform) -> None:
    mix = {"MONAI_AWS_INSTANCE_TYPES": "g4dn.xlarge,g5.xlarge", "MONAI_AWS_FLEET_SPOT_PERCENT": "50", "MONAI_AWS_FLEET_WARM_POOL": "1"}
    mixed = place.changed(**mix)
    for _ in range(2):  # AWS may have changed its mind
        assert any("AWS is asked" in line for line in bring(mixed).said)
        assert "no warm pool: AWS keeps none beside Spot instances" in place.log[-1]
    assert "MixedInstancesPolicy" in group(place).settings
    assert bring(mixed).is_nothing
    assert "LaunchTemplate" in bring(place).update


def test_a_pool_comes_and_goes_by_the_settings(place: Platform) -> None:
    assert bring(place.changed(MONAI_AWS_FLEET_WARM_POOL="1")).pool == "put"
    assert group(place).pool["MinSize"] == 1
    assert bring(place).pool == "remove"
    assert not group(place).pool, "it is waited for: beside it AWS may refuse a mix"


@contextmanager
def whatever_happens(act: Callable[[], None]) -> Iterator[None]:
    """Meanwhile somebody does this twice a second, whether or not it succeeds."""

    def look() -> None:
        with suppress(Exception):  # one look that fails is not the last
            act()

    with meanwhile(look, 0.5):
        yield


def answers_hooks(place: Platform) -> Callable[[], None]:
    """Completes the hooks for the agents that these instances do not have."""
    with environment(place.cloud.environment):
        api = boto3.Session().client("autoscaling")

    def answer() -> None:
        for each in group(place).instances:
            hook = {"Pending:Wait": HOOK_READY, "Terminating:Wait": HOOK_FINISH}.get(each.state)
            if hook:
                with suppress(ClientError):  # it waits no more
                    api.complete_lifecycle_action(
                        AutoScalingGroupName=place.settings.names.fleet_group,
                        LifecycleHookName=hook,
                        InstanceId=each.id,
                        LifecycleActionResult="CONTINUE",
                    )

    return answer


def gives_roll_back_time(place: Platform) -> Callable[[], None]:
    """Once a refresh is rolled back, gives that the usual time again: a machine has to boot in it."""

    def give() -> None:
        refresh = group(place).refresh
        if refresh and refresh.status == "RollbackInProgress":
            place.cloud.order_fault(account={"refresh_s": REFRESH_S})

    return give


def test_a_refresh_whose_instances_never_come_is_rolled_back_and_the_run_says_so(place: Platform) -> None:
    bring(place)
    before = version(place)
    try:
        with whatever_happens(answers_hooks(place)), whatever_happens(gives_roll_back_time(place)):
            asked(place).ask_for(1)
            eventually(lambda: group(place).in_service(), 150)
            place.cloud.order_fault(account={"refresh_s": 10})
            no_capacity = {"service": "ec2", "action": "RunInstances", "code": "InsufficientInstanceCapacity"}
            place.cloud.order_fault(**no_capacity, match="InstanceType=g5.xlarge", times=100)
            with pytest.raises(FleetError, match=r"ended as RollbackSuccessful: .*did not become ready"):
                bring(place.changed(MONAI_AWS_INSTANCE_TYPES="g5.xlarge"))
            assert version(place) == before
            assert [(each.version, each.type) for each in group(place).in_service()] == [(str(before), "g4dn.xlarge")]
            asked(place).ask_for(0)
            eventually(lambda: not group(place).instances, 150)
    finally:
        place.cloud.clear_faults()
    assert bring(place).refresh == ""


def test_the_operator_may_switch_the_deployed_function_to_the_other_kind_and_back(place: Platform) -> None:
    place.materialize("s3_trigger")
    name = place.settings.names.wake_function
    for chosen, lifts in ((place.changed(MONAI_AWS_FLEET="hosts"), None), (place, place.settings.names.fleet_group)):
        assert switch_wake_function(chosen.clients, chosen.settings, place.log.append)
        variables = place.clients.functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        assert variables.get("FLEET_GROUP") == lifts
        assert not switch_wake_function(chosen.clients, chosen.settings, place.log.append)


def test_a_group_that_was_not_made_completely_is_deleted(place: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet_of(place).remove()

    def refuse(*_: object) -> str:
        raise CloudError("no", "none")

    with monkeypatch.context() as patched:
        patched.setattr(ScalingGroup, "put_policy", refuse)
        with pytest.raises(CloudError):
            bring(place)
    assert asked(place).find() is None
    assert LaunchTemplates(place.clients).find(place.settings.names.fleet_group) is None
    assert bring(place).create


def test_nothing_of_it_is_left_when_it_is_removed(place: Platform) -> None:
    bring(place)
    assert fleet_of(place).remove()
    of_fleet = (Kind.SCALING_GROUP, Kind.LAUNCH_TEMPLATE)
    assert [thing for thing in Teardown(place.clients, place.settings, place.log.append).inventory() if thing.kind in of_fleet] == []
    assert not fleet_of(place).remove()
