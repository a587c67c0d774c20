"""Auto Scaling on the embedded AWS: groups whose instances are real machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.host_agent.aws.instance_metadata import target_lifecycle_state
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.metadata import METADATA_PORT
from tests.integration.local_cloud.conftest import Account, eventually, unique

pytestmark = pytest.mark.cloud
ZONES = ["us-east-1a", "us-east-1b"]


@dataclass
class Scaling:
    """A group of its own for one test."""

    account: Account
    name: str = field(default_factory=lambda: unique("group"))
    made: bool = False

    def __post_init__(self) -> None:
        self.api, self.ec2 = self.account.client("autoscaling"), self.account.client("ec2")

    def template(self, **data: Any) -> str:
        wanted = {"ImageId": self.account.base_image(), "InstanceType": "t3.micro", **data}
        self.ec2.create_launch_template(LaunchTemplateName=self.name, LaunchTemplateData=wanted)
        return self.name

    def create(self, desired: int = 0, largest: int = 2, **options: Any) -> None:
        launched = {} if "MixedInstancesPolicy" in options else {"LaunchTemplate": {"LaunchTemplateName": self.name, "Version": "$Latest"}}
        settings = {"MinSize": 0, "MaxSize": largest, "DesiredCapacity": desired, "AvailabilityZones": ZONES, **launched, **options}
        self.api.create_auto_scaling_group(AutoScalingGroupName=self.name, **settings)
        self.made = True

    def desired(self, number: int) -> None:
        self.api.set_desired_capacity(AutoScalingGroupName=self.name, DesiredCapacity=number)

    def shown(self) -> dict[str, Any]:
        found = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return dict(found[0]) if found else {}

    def in_state(self, state: str = "InService") -> list[str]:
        found = self.api.describe_auto_scaling_instances()["AutoScalingInstances"]
        return [each["InstanceId"] for each in found if each["AutoScalingGroupName"] == self.name and each["LifecycleState"] == state]

    def until(self, number: int, state: str = "InService") -> list[str]:
        return list(eventually(lambda: len(found := self.in_state(state)) == number and (found or ["none"]), 150))

    def until_empty(self) -> None:
        eventually(lambda: not self.shown()["Instances"], 150)

    def machine(self, name: str) -> dict[str, Any]:
        return dict(self.ec2.describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0])

    def activities(self) -> list[dict[str, Any]]:
        return list(self.api.describe_scaling_activities(AutoScalingGroupName=self.name)["Activities"])

    def remove(self) -> None:
        if self.made:
            self.api.delete_auto_scaling_group(AutoScalingGroupName=self.name, ForceDelete=True)
            eventually(lambda: not self.shown(), 150)


@pytest.fixture
def scaling(account: Account, local_cloud: LocalCloud) -> Iterator[Scaling]:
    made = Scaling(account)
    made.template()
    yield made
    local_cloud.clear_faults()
    made.remove()


def refused(call: Callable[..., Any], **request: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as error:
        call(**request)
    return error.value.response["Error"]["Code"], error.value.response["Error"]["Message"]


def test_a_group_is_as_many_real_machines_as_it_is_to_be(scaling: Scaling):
    scaling.create(1, Tags=[{"Key": "kind", "Value": "test", "PropagateAtLaunch": True}])
    (first,) = scaling.until(1)
    machine = scaling.machine(first)
    assert machine["State"]["Name"] == "running"
    tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
    assert (tags["aws:autoscaling:groupName"], tags["kind"]) == (scaling.name, "test")
    assert refused(scaling.api.delete_auto_scaling_group, AutoScalingGroupName=scaling.name)[0] == "ResourceInUse"
    scaling.desired(0)
    scaling.until_empty()
    assert scaling.machine(first)["State"]["Name"] == "terminated"
    done = scaling.activities()
    assert [each["Description"].split(":")[0] for each in done] == ["Terminating EC2 instance", "Launching a new EC2 instance"]
    assert {each["StatusCode"] for each in done} == {"Successful"}
    assert "explicitly set group desired capacity changing the desired capacity from 1 to 0" in done[0]["Cause"]


def test_protected_instances_stay_and_an_idle_one_leaves_by_itself(scaling: Scaling):
    scaling.create(1, NewInstancesProtectedFromScaleIn=True)
    (first,) = scaling.until(1)
    scaling.desired(0)
    scaling.api.set_instance_protection(AutoScalingGroupName=scaling.name, InstanceIds=[first], ProtectedFromScaleIn=True)
    assert scaling.in_state() == [first]
    scaling.desired(1)
    scaling.api.terminate_instance_in_auto_scaling_group(InstanceId=first, ShouldDecrementDesiredCapacity=True)
    scaling.until_empty()
    assert scaling.shown()["DesiredCapacity"] == 0


def test_what_is_terminated_by_hand_is_replaced(scaling: Scaling):
    scaling.create(1)
    (first,) = scaling.until(1)
    scaling.ec2.terminate_instances(InstanceIds=[first])
    second = eventually(lambda: [each for each in scaling.in_state() if each != first], 150)
    assert len(second) == 1


def test_a_zone_without_capacity_fails_an_activity_and_the_next_zone_gives(scaling: Scaling, local_cloud: LocalCloud):
    local_cloud.order_fault(account={"no_capacity": [ZONES[0]]})
    scaling.create(1)
    (first,) = scaling.until(1)
    assert scaling.machine(first)["Placement"]["AvailabilityZone"] == ZONES[1]
    failed = [each for each in scaling.activities() if each["StatusCode"] == "Failed"]
    assert failed, "the first zone was asked first"
    assert "InsufficientInstanceCapacity" in failed[0]["StatusMessage"]


def test_a_queue_that_fills_makes_the_first_instance_from_a_warm_pool(scaling: Scaling):
    sqs, cloudwatch = scaling.account.client("sqs"), scaling.account.client("cloudwatch")
    url = sqs.create_queue(QueueName=scaling.name)["QueueUrl"]
    scaling.create(0, 1)
    scaling.api.put_warm_pool(AutoScalingGroupName=scaling.name)
    (warm,) = scaling.until(1, "Warmed:Stopped")
    assert scaling.machine(warm)["State"]["Name"] == "stopped"
    policy = scaling.api.put_scaling_policy(
        AutoScalingGroupName=scaling.name,
        PolicyName="out",
        PolicyType="StepScaling",
        AdjustmentType="ChangeInCapacity",
        StepAdjustments=[{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
    )
    cloudwatch.put_metric_alarm(
        AlarmName=scaling.name,
        Namespace="AWS/SQS",
        MetricName="ApproximateNumberOfMessagesVisible",
        Dimensions=[{"Name": "QueueName", "Value": scaling.name}],
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        AlarmActions=[policy["PolicyARN"]],
    )
    sqs.send_message(QueueUrl=url, MessageBody="job")
    assert scaling.until(1) == [warm]
    assert "triggered policy out changing the desired capacity from 0 to 1" in scaling.activities()[0]["Cause"]
    sqs.delete_queue(QueueUrl=url)
    cloudwatch.delete_alarms(AlarmNames=[scaling.name])


def test_an_ending_instance_waits_for_its_hook(scaling: Scaling):
    scaling.create(1)
    scaling.api.put_lifecycle_hook(
        LifecycleHookName="leave",
        AutoScalingGroupName=scaling.name,
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        DefaultResult="CONTINUE",
    )
    (first,) = scaling.until(1)
    scaling.desired(0)
    assert scaling.until(1, "Terminating:Wait") == [first]
    assert scaling.machine(first)["State"]["Name"] == "running"
    scaling.api.complete_lifecycle_action(
        LifecycleHookName="leave", AutoScalingGroupName=scaling.name, InstanceId=first, LifecycleActionResult="CONTINUE"
    )
    scaling.until_empty()


def test_a_refresh_replaces_what_is_of_an_older_template(scaling: Scaling):
    scaling.create(1)
    (first,) = scaling.until(1)
    wanted = {"ImageId": scaling.account.base_image(), "InstanceType": "t3.small"}
    scaling.ec2.create_launch_template_version(LaunchTemplateName=scaling.name, SourceVersion="1", LaunchTemplateData=wanted)
    scaling.api.start_instance_refresh(AutoScalingGroupName=scaling.name, Preferences={"SkipMatching": True})
    shown = lambda: scaling.api.describe_instance_refreshes(AutoScalingGroupName=scaling.name)["InstanceRefreshes"][0]  # noqa: E731
    eventually(lambda: shown()["Status"] == "Successful", 150)
    (second,) = scaling.in_state()
    assert second != first
    assert scaling.machine(second)["InstanceType"] == "t3.small"


def test_a_spot_instance_at_risk_is_replaced_before_it_is_taken(scaling: Scaling, local_cloud: LocalCloud):
    spec = {"LaunchTemplateSpecification": {"LaunchTemplateName": scaling.name, "Version": "$Latest"}}
    mix = {"LaunchTemplate": spec, "InstancesDistribution": {"OnDemandPercentageAboveBaseCapacity": 0}}
    scaling.create(1, MixedInstancesPolicy=mix, CapacityRebalance=True)
    (first,) = scaling.until(1)
    assert scaling.machine(first)["InstanceLifecycle"] == "spot"
    local_cloud.order_fault(interrupt_spot=first, seconds=110, action="terminate")
    (second,) = eventually(lambda: [each for each in scaling.in_state() if each != first], 100)
    assert scaling.machine(second)["InstanceLifecycle"] == "spot"
    eventually(lambda: scaling.machine(first)["State"]["Name"] in ("shutting-down", "terminated"), 60)
    assert scaling.in_state() == [second]
    assert scaling.shown()["DesiredCapacity"] == 1
    assert any("instance rebalance recommendation" in each["Cause"] for each in scaling.activities())


def test_a_policy_may_ask_for_the_groups_tag_also_where_an_instance_is_named(scaling: Scaling):
    mine = {"StringEquals": {"autoscaling:ResourceTag/owner": "me"}}
    calls = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup", "autoscaling:SetInstanceProtection"]
    keys = scaling.account.assume([{"Effect": "Allow", "Action": calls, "Resource": "*", "Condition": mine}])
    caller = scaling.account.client("autoscaling", keys)
    scaling.create(1)
    (first,) = scaling.until(1)
    wished = {"AutoScalingGroupName": scaling.name, "DesiredCapacity": 1}
    leaves = {"InstanceId": first, "ShouldDecrementDesiredCapacity": True}
    assert refused(caller.set_desired_capacity, **wished)[0] == "AccessDenied"
    assert refused(caller.terminate_instance_in_auto_scaling_group, **leaves)[0] == "AccessDenied"
    owner = {"Key": "owner", "Value": "me", "PropagateAtLaunch": False, "ResourceId": scaling.name, "ResourceType": "auto-scaling-group"}
    scaling.api.create_or_update_tags(Tags=[owner])
    caller.set_desired_capacity(**wished)
    caller.set_instance_protection(AutoScalingGroupName=scaling.name, InstanceIds=[first], ProtectedFromScaleIn=True)
    caller.terminate_instance_in_auto_scaling_group(**leaves)
    scaling.until_empty()
    assert scaling.shown()["DesiredCapacity"] == 0


def test_a_launch_template_is_refused_to_whoever_may_not_launch_what_it_says(scaling: Scaling):
    profile = scaling.account.profile([])
    version = {"ImageId": scaling.account.base_image(), "InstanceType": "t3.micro", "IamInstanceProfile": {"Name": profile}}
    scaling.ec2.create_launch_template_version(LaunchTemplateName=scaling.name, LaunchTemplateData=version)
    template = scaling.ec2.describe_launch_templates(LaunchTemplateNames=[scaling.name])["LaunchTemplates"][0]["LaunchTemplateId"]
    made = {
        "AutoScalingGroupName": scaling.name,
        "MinSize": 0,
        "MaxSize": 1,
        "AvailabilityZones": ZONES,
        "LaunchTemplate": {"LaunchTemplateId": template, "Version": "$Latest"},
    }

    def may(*more: str) -> Any:
        actions = ["autoscaling:*", "iam:CreateServiceLinkedRole", *more]
        return scaling.account.client("autoscaling", scaling.account.assume([{"Effect": "Allow", "Action": actions, "Resource": "*"}]))

    for caller in (may(), may("ec2:RunInstances"), may("iam:PassRole")):
        assert refused(caller.create_auto_scaling_group, **made) == (
            "AccessDenied",
            f"You are not authorized to use launch template: {template}",
        )
    may("ec2:RunInstances", "iam:PassRole").create_auto_scaling_group(**made)
    scaling.made = True
    assert scaling.shown()["LaunchTemplate"]["LaunchTemplateId"] == template


def test_an_instance_reads_its_target_state_and_a_hook_waits_as_long_as_heartbeats_come(scaling: Scaling):
    scaling.create(0, 1)
    for name, transition in (("come", "LAUNCHING"), ("go", "TERMINATING")):
        scaling.api.put_lifecycle_hook(
            LifecycleHookName=name,
            AutoScalingGroupName=scaling.name,
            LifecycleTransition=f"autoscaling:EC2_INSTANCE_{transition}",
            HeartbeatTimeout=30,
        )
    scaling.desired(1)
    (first,) = scaling.until(1, "Pending:Wait")
    assert target_state(scaling, first) == "InService"
    at = {"AutoScalingGroupName": scaling.name, "InstanceId": first}
    scaling.api.complete_lifecycle_action(LifecycleHookName="come", LifecycleActionResult="CONTINUE", **at)
    scaling.until(1)
    scaling.desired(0)
    scaling.until(1, "Terminating:Wait")
    assert target_state(scaling, first) == "Terminated"
    scaling.api.record_lifecycle_action_heartbeat(LifecycleHookName="go", **at)
    scaling.api.complete_lifecycle_action(LifecycleHookName="go", LifecycleActionResult="CONTINUE", **at)
    scaling.until_empty()
    assert refused(scaling.api.record_lifecycle_action_heartbeat, LifecycleHookName="go", **at)[0] == "ValidationError"


def target_state(scaling: Scaling, instance: str) -> str:
    """What an instance's own metadata service says of where its group wants it."""
    place = scaling.machine(instance)["PrivateIpAddress"]
    return str(target_lifecycle_state(f"http://{place}:{METADATA_PORT}"))
