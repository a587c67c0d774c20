"""Auto Scaling's calls as they come over the wire, and what groups do of themselves, on machines that exist in EC2's states only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from ministack.services import cloudwatch
from moto.ec2.models import ec2_backends

from monai_aws_pipeline.local_cloud import identity
from monai_aws_pipeline.local_cloud.authorization import ec2_resources
from monai_aws_pipeline.local_cloud.autoscaling_launch import request
from monai_aws_pipeline.local_cloud.autoscaling_plan import Offer
from monai_aws_pipeline.local_cloud.autoscaling_protocol import request_tags
from monai_aws_pipeline.local_cloud.config import ACCOUNT
from tests.unit.local_cloud.autoscaling_bench import REGION, Client, create, launch_template


@pytest.fixture
def template() -> Iterator[Any]:
    with launch_template() as made:
        yield made


def test_nothing_happens_within_a_call_and_everything_afterwards(template: Any):
    client = Client()
    create(client, 2)
    assert client.states() == []
    client.ticks()
    assert client.states() == ["InService", "InService"]
    assert {each["AvailabilityZone"] for each in client.group()["Instances"]} == {"us-east-1a", "us-east-1b"}
    client("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
    client.ticks()
    assert client.states() == []
    assert {state.state for state in client.machines.states.values()} == {"terminated"}


def test_requests_beyond_the_limits_are_refused_in_awss_words(template: Any):
    client = Client()
    create(client, 1, largest=1)
    above = ("ValidationError", "New SetDesiredCapacity value 2 is above max value 1 for the AutoScalingGroup.")
    assert client.refusal("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=2) == above
    assert client.refusal("UpdateAutoScalingGroup", AutoScalingGroupName="g", MinSize=4)[0] == "ValidationError"
    assert create(client)["Error"]["Code"] == "AlreadyExists"
    tag = {"ResourceId": "g", "ResourceType": "auto-scaling-group", "Key": "aws:x", "Value": "", "PropagateAtLaunch": True}
    assert "reserved" in client.refusal("CreateOrUpdateTags", Tags=[tag])[1]
    assert "must not be null" in client.refusal("SetDesiredCapacity", AutoScalingGroupName="g")[1]
    client.ticks()
    assert client.refusal("DeleteAutoScalingGroup", AutoScalingGroupName="g")[0] == "ResourceInUse"
    client("DeleteAutoScalingGroup", AutoScalingGroupName="g", ForceDelete=True)
    client.ticks()
    assert client.group() == {}


def test_a_template_is_for_those_who_may_launch_it_and_pass_its_role(template: Any):
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "owner", "Value": "me"}]}]
    group = {"ImageId": "ami-1", "InstanceType": "t3.micro", "SecurityGroupIds": ["sg-1"], "TagSpecifications": tags}
    template.create_version(group, "")
    kinds = ("launch-template", "instance", "image", "subnet", "security-group", "network-interface", "volume")
    needed = [("ec2:RunInstances", f":{kind}/") for kind in kinds] + [("ec2:CreateTags", ":instance/")]
    for forbidden, on in needed:
        client = Client(may=lambda _key, action, _region, arn, _context: (action, on in arn) != (forbidden, True))  # noqa: B023
        error = create(client)["Error"]
        assert (error["Code"], error["Message"]) == ("AccessDenied", f"You are not authorized to use launch template: {template.id}")


def test_what_a_launch_is_asked_with_is_judged_with_the_tags_of_the_template(template: Any):
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "owner", "Value": "me"}]}]
    template.create_version({"ImageId": "ami-1", "InstanceType": "t3.micro", "TagSpecifications": tags}, "")
    asked: dict[str, dict[str, Any]] = {}
    create(Client(may=lambda _key, action, _region, arn, context: not asked.update({f"{action} {arn.rpartition(':')[2]}": context})))
    assert asked["ec2:CreateTags volume/*"]["ec2:CreateAction"] == "RunInstances"
    assert asked["ec2:RunInstances volume/*"]["aws:RequestTag/owner"] == "me"
    assert "aws:RequestTag/owner" not in asked["ec2:RunInstances instance/*"]


def test_a_refresh_to_a_template_is_for_those_who_may_launch_it(template: Any):
    client = Client()
    create(client, 0, LaunchTemplate=version("1"))
    client.may = lambda _key, action, *_: action != "ec2:RunInstances"
    assert client.refusal("StartInstanceRefresh", AutoScalingGroupName="g", DesiredConfiguration={"LaunchTemplate": version("1")}) == (
        "AccessDenied",
        f"You are not authorized to use launch template: {template.id}",
    )


def test_the_first_group_makes_the_service_linked_role_for_those_who_may(template: Any):
    error = create(Client(may=lambda _key, action, *_: action != "iam:CreateServiceLinkedRole"))["Error"]
    assert (error["Code"], "Service-Linked Role" in error["Message"]) == ("AccessDenied", True)
    assert identity.role("AWSServiceRoleForAutoScaling") is None
    assert "Error" not in create(Client())
    assert identity.role("AWSServiceRoleForAutoScaling") is not None


def test_capacity_is_sought_through_zones_and_types_and_each_refusal_is_an_activity(template: Any):
    client = Client()
    client.machines.without = {"g5.xlarge", "us-east-1a"}
    spec = {
        "LaunchTemplateSpecification": {"LaunchTemplateName": "own"},
        "Overrides": [{"InstanceType": "g5.xlarge"}, {"InstanceType": "t3.micro"}],
    }
    share = {"OnDemandBaseCapacity": 0, "OnDemandPercentageAboveBaseCapacity": 0}
    create(client, 1, MixedInstancesPolicy={"LaunchTemplate": spec, "InstancesDistribution": share})
    client.ticks()
    assert client.machines.offers[-1] == Offer("t3.micro", "us-east-1b", spot=True)
    activities = client("DescribeScalingActivities", AutoScalingGroupName="g")["Activities"]
    assert [each["StatusCode"] for each in activities] == ["Successful", "Failed", "Failed", "Failed"]
    assert "Could not launch Spot Instances. InsufficientInstanceCapacity - " in activities[1]["StatusMessage"]
    assert "Spot" in client.refusal("PutWarmPool", AutoScalingGroupName="g")[1]


def test_a_warm_pool_holds_on_demand_instances_of_several_types(template: Any):
    """AWS announced in November 2025 that it keeps one beside a mixed instances policy; beside Spot it keeps none."""
    client = Client()
    client.machines.without = {"g5.xlarge"}
    spec = {
        "LaunchTemplateSpecification": {"LaunchTemplateName": "own"},
        "Overrides": [{"InstanceType": "g5.xlarge"}, {"InstanceType": "t3.micro"}],
    }
    create(client, 0, MixedInstancesPolicy={"LaunchTemplate": spec})
    client("PutWarmPool", AutoScalingGroupName="g", MinSize=1, MaxGroupPreparedCapacity=1)
    client.ticks()
    assert client.states() == ["Warmed:Stopped"]
    assert client.machines.offers[-1].kind == "t3.micro"


def test_an_idle_instance_leaves_with_the_capacity_and_never_below_the_least(template: Any):
    client = Client()
    create(client, 2, MinSize=1)
    client.ticks()
    first, second = (each["InstanceId"] for each in client.group()["Instances"])
    client("TerminateInstanceInAutoScalingGroup", InstanceId=first, ShouldDecrementDesiredCapacity=True)
    client.ticks()
    assert (client.group()["DesiredCapacity"], client.states()) == (1, ["InService"])
    refused = client.refusal("TerminateInstanceInAutoScalingGroup", InstanceId=second, ShouldDecrementDesiredCapacity=True)
    assert refused[1].startswith("Currently, desiredSize equals minSize (1).")


def test_hooks_and_the_warm_pool_lead_through_awss_states(template: Any):
    client = Client()
    create(client, 0, 1)
    hook = {"AutoScalingGroupName": "g", "LifecycleHookName": "ready"}
    client("PutLifecycleHook", **hook, LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING")
    client("PutWarmPool", AutoScalingGroupName="g", InstanceReusePolicy={"ReuseOnScaleIn": True})
    client.ticks()
    assert client.states() == ["Warmed:Pending:Wait"]
    (name,) = client.machines.states
    wanted = lambda: client.service.target_state(REGION, name)  # noqa: E731
    assert wanted() == "Warmed:Stopped"
    client("CompleteLifecycleAction", **hook, InstanceId=name, LifecycleActionResult="CONTINUE")
    client.ticks()
    assert (client.states(), wanted()) == (["Warmed:Stopped"], "Warmed:Stopped")
    leave = {"InstanceId": name, "ShouldDecrementDesiredCapacity": False}
    assert "warm pool" in client.refusal("TerminateInstanceInAutoScalingGroup", **leave)[1]
    client("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=1)
    client.ticks()
    assert (client.states(), wanted()) == (["Pending:Wait"], "InService")
    client("CompleteLifecycleAction", **hook, InstanceId=name, LifecycleActionResult="CONTINUE")
    client.ticks()
    assert client.states() == ["InService"]
    client("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
    client.ticks()
    assert (client.states(), list(client.machines.states)) == (["Warmed:Stopped"], [name])
    assert "No active Lifecycle Action" in client.refusal("RecordLifecycleActionHeartbeat", **hook, InstanceId=name)[1]


def test_a_target_on_backlog_scales_from_zero_up_to_the_most_and_has_its_two_alarms(template: Any):
    client = Client()
    create(client, 0, 2)
    queue = {
        "Namespace": "AWS/SQS",
        "MetricName": "ApproximateNumberOfMessagesVisible",
        "Dimensions": [{"Name": "QueueName", "Value": "q"}],
    }
    hosts = {
        "Namespace": "AWS/AutoScaling",
        "MetricName": "GroupInServiceInstances",
        "Dimensions": [{"Name": "AutoScalingGroupName", "Value": "g"}],
    }
    metrics = [
        {"Id": "q", "MetricStat": {"Metric": queue, "Stat": "Sum"}, "ReturnData": False},
        {"Id": "h", "MetricStat": {"Metric": hosts, "Stat": "Average"}, "ReturnData": False},
        {"Id": "b", "Expression": "IF(h > 0, q / h, q)", "ReturnData": True},
    ]
    tracking = {"TargetValue": 10.0, "CustomizedMetricSpecification": {"Metrics": metrics}}
    client("EnableMetricsCollection", AutoScalingGroupName="g", Granularity="1Minute")
    put = client(
        "PutScalingPolicy",
        AutoScalingGroupName="g",
        PolicyName="p",
        PolicyType="TargetTrackingScaling",
        TargetTrackingConfiguration=tracking,
    )
    assert len(put["Alarms"]) == 2
    cloudwatch.record_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", 500, "Count", {"QueueName": "q"})
    client.ticks()
    assert client.states() == ["InService", "InService"]
    assert cloudwatch._alarms[put["Alarms"][0]["AlarmName"]]["StateValue"] == "ALARM"
    cloudwatch.record_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", 0, "Count", {"QueueName": "q"})
    client.ticks(30)
    assert client.states() == []
    client("DeletePolicy", AutoScalingGroupName="g", PolicyName="p")
    assert not [name for name in cloudwatch._alarms if name.startswith("TargetTracking-g-")]


def version(number: str) -> dict[str, str]:
    return {"LaunchTemplateName": "own", "Version": number}


def mix(share: int = 100, base: int = 0, number: str = "1") -> dict[str, Any]:
    """A mixed instances policy with so many per cent On-Demand above so many."""
    distribution = {"OnDemandBaseCapacity": base, "OnDemandPercentageAboveBaseCapacity": share}
    return {"LaunchTemplate": {"LaunchTemplateSpecification": version(number)}, "InstancesDistribution": distribution}


def refreshing(template: Any, desired: int = 1, **preferences: Any) -> Client:
    """A group of version 1, whose refresh to version 2, of another type, has begun."""
    client = Client()
    create(client, desired, LaunchTemplate=version("1"))
    client.ticks()
    template.create_version({"ImageId": "ami-2", "InstanceType": "t3.small"}, "")
    wanted = {"LaunchTemplate": version("2")}
    client(
        "StartInstanceRefresh",
        AutoScalingGroupName="g",
        DesiredConfiguration=wanted,
        Preferences={"SkipMatching": True, "MinHealthyPercentage": 0, **preferences},
    )
    return client


def refresh_of(client: Client) -> dict[str, Any]:
    return dict(client("DescribeInstanceRefreshes", AutoScalingGroupName="g")["InstanceRefreshes"][0])


def versions(client: Client) -> tuple[str, list[str]]:
    """Of the launch template: the one that the group names, and those of its instances."""
    group = client.group()
    return group["LaunchTemplate"]["Version"], [each["LaunchTemplate"]["Version"] for each in group["Instances"]]


def test_a_refresh_can_be_rolled_back(template: Any):
    client = refreshing(template)
    assert client.refusal("StartInstanceRefresh", AutoScalingGroupName="g")[0] == "InstanceRefreshInProgress"
    client.ticks(4)
    client("RollbackInstanceRefresh", AutoScalingGroupName="g")
    not_again = client.refusal("RollbackInstanceRefresh", AutoScalingGroupName="g")[0]
    assert (not_again, refresh_of(client)["Status"]) == ("ActiveInstanceRefreshNotFound", "RollbackInProgress")
    client.ticks(16)
    assert (refresh_of(client)["Status"], versions(client)) == ("RollbackSuccessful", ("1", ["1"]))
    assert client.refusal("CancelInstanceRefresh", AutoScalingGroupName="g")[0] == "ActiveInstanceRefreshNotFound"


def test_a_desired_configuration_is_the_groups_when_its_refresh_has_succeeded(template: Any):
    client = refreshing(template, 2)
    said = client.refusal("UpdateAutoScalingGroup", AutoScalingGroupName="g", LaunchTemplate=version("2"))
    assert said[0] == "ValidationError"
    assert said[1].startswith("An active instance refresh with a desired configuration exists.")
    assert "Error" not in client("UpdateAutoScalingGroup", AutoScalingGroupName="g", MaxSize=4)
    client.ticks(3)
    assert versions(client)[0] == "1"
    client.ticks(16)
    assert (refresh_of(client)["Status"], refresh_of(client)["PercentageComplete"]) == ("Successful", 100)
    assert versions(client) == ("2", ["2", "2"])
    assert "Error" not in client("UpdateAutoScalingGroup", AutoScalingGroupName="g", LaunchTemplate=version("1"))


def test_a_refresh_that_is_cancelled_leaves_the_group_its_own_configuration(template: Any):
    client = refreshing(template, 2, MinHealthyPercentage=50)
    client.machines.without = {"t3.small"}
    client.ticks(4)
    client("CancelInstanceRefresh", AutoScalingGroupName="g")
    client.at_once()
    client.ticks()
    assert (refresh_of(client)["Status"], versions(client)) == ("Cancelled", ("1", ["1", "1"]))


@pytest.mark.parametrize("lacks", ["capacity", "Launch", "InstanceRefresh"])
def test_a_cancelled_refresh_ends_also_where_the_group_does_not_become_whole(template: Any, lacks: str):
    client = refreshing(template)
    client.machines.without = {"t3.micro", "t3.small"}
    client.ticks(6)
    if lacks != "capacity":
        client("SuspendProcesses", AutoScalingGroupName="g", ScalingProcesses=[lacks])
    client("CancelInstanceRefresh", AutoScalingGroupName="g")
    assert refresh_of(client)["Status"] == "Cancelling"
    client.ticks(1)
    assert (refresh_of(client)["Status"], "EndTime" in refresh_of(client)) == ("Cancelled", True)
    assert "Error" not in client("UpdateAutoScalingGroup", AutoScalingGroupName="g", LaunchTemplate=version("2"))


def test_a_cancel_waits_for_those_in_flight_unless_it_is_told_not_to(template: Any):
    hook = {"AutoScalingGroupName": "g", "LifecycleHookName": "ready"}
    client = refreshing(template)
    client("PutLifecycleHook", **hook, LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING")
    client.ticks(8)
    client("CancelInstanceRefresh", AutoScalingGroupName="g")
    client.ticks()
    assert (refresh_of(client)["Status"], client.states()) == ("Cancelling", ["Pending:Wait"])
    assert client.refusal("RollbackInstanceRefresh", AutoScalingGroupName="g")[0] == "ActiveInstanceRefreshNotFound"
    client("CancelInstanceRefresh", AutoScalingGroupName="g", WaitForTransitioningInstances=False)
    client.ticks(1)
    assert refresh_of(client)["Status"] == "Cancelled"


def test_a_refresh_is_not_blamed_for_the_time_that_the_server_was_away(template: Any):
    client = refreshing(template)
    client.machines.without = {"t3.small"}
    client.ticks(8)
    saved = client.service.state()
    saved["groups"][0]["refreshes"][0]["Progressed"] -= 86_400
    other = Client()
    other.machines.without = {"t3.small"}
    ec2_backends[ACCOUNT][REGION].delete_launch_template("own", None)
    other.service.restore(saved)
    other.ticks()
    assert refresh_of(other)["Status"] == "InProgress"


def test_a_refresh_whose_instances_never_come_fails_and_says_so(template: Any):
    client = refreshing(template)
    client.machines.without = {"t3.small"}
    client.ticks(6)
    assert refresh_of(client)["Status"] == "InProgress"
    client.refresh_patience = 0.0
    client.ticks(1)
    failed = refresh_of(client)
    assert (failed["Status"], failed["PercentageComplete"], "EndTime" in failed) == ("Failed", 0, True)
    assert "did not become ready" in failed["StatusReason"]
    client.at_once()
    client.ticks()
    assert versions(client) == ("1", ["1"]), "the group launches by its own configuration again"


def test_a_refresh_that_fails_is_rolled_back_where_that_was_asked_for(template: Any):
    hook = {"LifecycleHookName": "ready", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING"}
    client = refreshing(template, AutoRollback=True)
    client("PutLifecycleHook", AutoScalingGroupName="g", **hook)
    client.ticks()
    assert client.states() == ["Pending:Wait"], "it never becomes ready"
    client.refresh_patience = 0.0
    client.ticks(1)
    client.refresh_patience = 600.0
    under_way = refresh_of(client)
    assert (under_way["Status"], under_way["RollbackDetails"]["PercentageCompleteOnRollback"]) == ("RollbackInProgress", 0)
    client("DeleteLifecycleHook", AutoScalingGroupName="g", LifecycleHookName="ready")
    client.at_once()
    client.ticks(16)
    ended = refresh_of(client)
    assert (ended["Status"], ended["PercentageComplete"], versions(client)) == ("RollbackSuccessful", 0, ("1", ["1"]))
    assert "did not become ready" in ended["StatusReason"]


def test_a_roll_back_that_comes_no_further_fails_too(template: Any):
    client = refreshing(template, AutoRollback=True)
    client.machines.without = {"t3.small", "t3.micro"}
    client.ticks(6)
    client.refresh_patience = 0.0
    client.ticks(2)
    assert refresh_of(client)["Status"] == "RollbackFailed"


def test_a_refresh_waits_for_protected_instances_and_then_fails(template: Any):
    client = Client()
    create(client, 1, LaunchTemplate=version("1"), NewInstancesProtectedFromScaleIn=True)
    client.ticks()
    client("StartInstanceRefresh", AutoScalingGroupName="g")
    client.ticks()
    assert (refresh_of(client)["Status"], client.states()) == ("InProgress", ["InService"])
    client.refresh_patience = 0.0
    client.ticks(1)
    assert refresh_of(client)["Status"] == "Failed"


def test_a_refresh_is_at_work_while_an_instance_finishes(template: Any):
    hook = {"LifecycleHookName": "finish", "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING"}
    client = refreshing(template)
    client("PutLifecycleHook", AutoScalingGroupName="g", **hook)
    client.ticks(4)
    client.refresh_patience = 0.0
    client.ticks()
    assert (refresh_of(client)["Status"], client.states()[0]) == ("InProgress", "Terminating:Wait")


def test_an_automatic_roll_back_needs_something_to_go_back_to(template: Any):
    client = Client()
    create(client)
    asked = {"AutoScalingGroupName": "g", "Preferences": {"AutoRollback": True}}
    assert "when the DesiredConfiguration parameter is empty" in client.refusal("StartInstanceRefresh", **asked)[1]
    wanted = {"DesiredConfiguration": {"LaunchTemplate": version("1")}}
    assert "$Latest or $Default" in client.refusal("StartInstanceRefresh", **asked, **wanted)[1]


def test_a_refresh_replaces_the_warm_pool_after_what_is_in_service(template: Any):
    client = Client()
    create(client, 1, 2, LaunchTemplate=version("1"))
    client("PutWarmPool", AutoScalingGroupName="g")
    client.ticks()
    template.create_version({"ImageId": "ami-2", "InstanceType": "t3.small"}, "")
    client("StartInstanceRefresh", AutoScalingGroupName="g", DesiredConfiguration={"LaunchTemplate": version("2")})
    seen = []
    for _ in range(20):
        client.ticks(1)
        seen += [each for each in client.states() if each.endswith("Terminating") and each not in seen]
    assert (seen, client.states()) == (["Terminating", "Warmed:Terminating"], ["InService", "Warmed:Stopped"])
    assert refresh_of(client)["Status"] == "Successful"


def test_spot_is_refused_beside_a_warm_pool_however_it_comes(template: Any):
    client = Client()
    create(client, 0, 1, LaunchTemplate=version("1"))
    client("PutWarmPool", AutoScalingGroupName="g")
    spot = {"MixedInstancesPolicy": mix(share=50)}
    assert "warm pool" in client.refusal("UpdateAutoScalingGroup", AutoScalingGroupName="g", **spot)[1]
    assert "warm pool" in client.refusal("StartInstanceRefresh", AutoScalingGroupName="g", DesiredConfiguration=spot)[1]
    assert "Error" not in client("UpdateAutoScalingGroup", AutoScalingGroupName="g", MixedInstancesPolicy=mix())


def test_a_mix_takes_no_template_that_requests_spot_by_itself(template: Any):
    template.create_version({"ImageId": "ami-1", "InstanceType": "t3.micro", "InstanceMarketOptions": {"MarketType": "spot"}}, "")
    error = create(Client(), MixedInstancesPolicy=mix(number="2"))["Error"]
    assert (error["Code"], "set to request Spot Instances (InstanceMarketOptions)" in error["Message"]) == ("ValidationError", True)


def test_an_on_demand_base_is_no_larger_than_the_group(template: Any):
    client = Client()
    words = "Max bound, 0, must be greater than or equal to OnDemandBaseCapacity, 1."
    assert create(client, 0, 0, MixedInstancesPolicy=mix(base=1))["Error"]["Message"] == words
    create(client, 0, 2, MixedInstancesPolicy=mix(base=1))
    for change in ({"MaxSize": 0}, {"MaxSize": 0, "MixedInstancesPolicy": mix(base=1)}):
        assert client.refusal("UpdateAutoScalingGroup", AutoScalingGroupName="g", **change)[1] == words
    assert "Error" not in client("UpdateAutoScalingGroup", AutoScalingGroupName="g", MaxSize=0, LaunchTemplate=version("1"))


def test_protection_is_for_what_is_in_service_and_begins_anew_with_it(template: Any):
    client = Client()
    create(client, 0, 1, NewInstancesProtectedFromScaleIn=True)
    client("PutWarmPool", AutoScalingGroupName="g", InstanceReusePolicy={"ReuseOnScaleIn": True})
    client.ticks()
    (name,) = client.machines.states
    flag = {"AutoScalingGroupName": "g", "InstanceIds": [name], "ProtectedFromScaleIn": False}
    shown = lambda: client("DescribeAutoScalingInstances")["AutoScalingInstances"][0]["ProtectedFromScaleIn"]  # noqa: E731
    assert (client.refusal("SetInstanceProtection", **flag)[0], shown()) == ("ValidationError", False)
    client("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=1)
    client.ticks()
    assert (client.states(), shown()) == (["InService"], True)
    client("SetInstanceProtection", **flag)
    client("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
    client.ticks()
    assert client.states() == ["Warmed:Stopped"]


def test_members_within_members_are_held_against_the_model(template: Any):
    client = Client()
    create(client)
    broken = {"Preferences": {"ScaleInProtectedInstances": "", "MinHealthyPercentage": 101}}
    assert client.refusal("StartInstanceRefresh", AutoScalingGroupName="g", **broken)[1] == (
        "2 validation errors detected: Value '101' at 'preferences.minHealthyPercentage' failed to satisfy constraint: Member must have "
        "value less than or equal to 100; Value '' at 'preferences.scaleInProtectedInstances' failed to satisfy constraint: Member must "
        "satisfy enum value set: [Refresh, Ignore, Wait]"
    )
    said = client.refusal("CreateOrUpdateTags", Tags=[{"ResourceId": "g", "Key": "k"}, {"ResourceId": "g"}])[1]
    assert said == "1 validation error detected: Value null at 'tags.2.member.key' failed to satisfy constraint: Member must not be null"
    assert client.refusal("PutWarmPool", AutoScalingGroupName="g", PoolState="Cold")[0] == "ValidationError"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"HeartbeatTimeout": 29}, "30"), ({"LifecycleTransition": "x"}, "transition"), ({"DefaultResult": "x"}, "CONTINUE or ABANDON"),
     ({"NotificationTargetARN": "arn:x"}, "not emulated")],
)  # fmt: skip
def test_hooks_that_come_with_a_group_are_held_against_the_same_rules(template: Any, wrong: dict[str, Any], words: str):
    hook = {"LifecycleHookName": "h", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING", **wrong}
    assert words in create(Client(), LifecycleHookSpecificationList=[hook])["Error"]["Message"]


def test_a_process_that_is_suspended_is_shown_until_it_is_resumed(template: Any):
    client = Client()
    create(client)
    client("SuspendProcesses", AutoScalingGroupName="g", ScalingProcesses=["AZRebalance"])
    assert [each["ProcessName"] for each in client.group()["SuspendedProcesses"]] == ["AZRebalance"]
    client("ResumeProcesses", AutoScalingGroupName="g", ScalingProcesses=["AZRebalance"])
    assert client.group()["SuspendedProcesses"] == []


def test_groups_and_templates_survive_as_they_are_written_down(template: Any):
    client = Client()
    create(client, 1, Tags=[{"Key": "owner", "Value": "me", "PropagateAtLaunch": True}])
    client.ticks()
    saved = client.service.state()
    ec2_backends[ACCOUNT][REGION].delete_launch_template("own", None)
    other = Client()
    other.service.restore(saved)
    assert other.group()["Instances"] == client.group()["Instances"]
    other.ticks()  # its machines are not there: they are made anew from the template, which is
    assert other.states() == ["InService"]
    assert other.service.tags_of(other.group()["AutoScalingGroupARN"]) == {"owner": "me"}


def test_what_is_launched_is_the_template_in_the_place_and_with_the_tags_of_the_group(template: Any):
    client = Client()
    create(
        client, 0, Tags=[{"Key": "owner", "Value": "me", "PropagateAtLaunch": True}, {"Key": "no", "Value": "", "PropagateAtLaunch": False}]
    )
    from monai_aws_pipeline.local_cloud.autoscaling_launch import find_template

    found = find_template({"LaunchTemplateName": "own"}, REGION)
    (group,) = client.service._groups.values()
    asked = request(group, found, Offer("g5.xlarge", "us-east-1a", spot=True), "subnet-1")
    assert asked["TagSpecifications"] == [{"ResourceType": "instance", "Tags": [{"Key": "owner", "Value": "me"}]}]
    assert (asked["InstanceType"], asked["SubnetId"], asked["InstanceMarketOptions"]) == ("g5.xlarge", "subnet-1", {"MarketType": "spot"})


def test_a_warm_pool_goes_with_its_instances(template: Any):
    client = Client()
    create(client, 0, 1)
    client("PutWarmPool", AutoScalingGroupName="g")
    client.ticks()
    assert client.refusal("DeleteWarmPool", AutoScalingGroupName="g")[0] == "ResourceInUse"
    client("DeleteWarmPool", AutoScalingGroupName="g", ForceDelete=True)
    client.ticks()
    assert (client.states(), "WarmPoolConfiguration" in client.group()) == ([], False)
    assert {state.state for state in client.machines.states.values()} == {"terminated"}


def test_iam_asks_for_the_group_by_its_arn_and_its_tags(template: Any):
    client = Client()
    create(client, 1, Tags=[{"Key": "owner", "Value": "me", "PropagateAtLaunch": True}])
    client.ticks()
    (member,) = client.group()["Instances"]
    arn = client.group()["AutoScalingGroupARN"]
    assert client.service.resource({"Action": ["SetDesiredCapacity"], "AutoScalingGroupName": ["g"]}, REGION) == arn
    by_instance = {"Action": ["TerminateInstanceInAutoScalingGroup"], "InstanceId": [member["InstanceId"]]}
    assert client.service.resource(by_instance, REGION) == arn
    assert client.service.resource({"Action": ["DescribeAutoScalingGroups"]}, REGION) == "*"
    assert client.service.tags_of(arn) == {"owner": "me"}
    assert request_tags({"Tags.member.1.Key": ["owner"], "Tags.member.1.Value": ["me"]}) == {"owner": "me"}


def test_launch_templates_are_resources_of_their_own_for_iam():
    any_template = f"arn:aws:ec2:{REGION}:{ACCOUNT}:launch-template/*"
    assert ec2_resources("CreateLaunchTemplate", {"LaunchTemplateName": ["t"]}, REGION) == [any_template]
    assert ec2_resources("DeleteLaunchTemplate", {"LaunchTemplateId": ["lt-1"]}, REGION) == [any_template.replace("*", "lt-1")]


def test_a_hook_that_nobody_answers_ends_in_its_default(template: Any):
    client = Client()
    create(client, 1)
    hook = {"AutoScalingGroupName": "g", "LifecycleHookName": "ready", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING"}
    client("PutLifecycleHook", **hook, HeartbeatTimeout=30, DefaultResult="CONTINUE")
    client.ticks()
    assert client.states() == ["Pending:Wait"]
    (group,) = client.service._groups.values()
    group.members[0].hooks["ready"] = 0.0
    client.ticks()
    assert client.states() == ["InService"]


def test_heartbeats_hold_an_instance_for_a_hundred_times_the_hooks_timeout(template: Any):
    client = Client()
    create(client, 1)
    hook = {"AutoScalingGroupName": "g", "LifecycleHookName": "finish"}
    client("PutLifecycleHook", **hook, LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING", HeartbeatTimeout=30)
    assert client("DescribeLifecycleHooks", AutoScalingGroupName="g")["LifecycleHooks"][0]["GlobalTimeout"] == 3000
    client.ticks()
    (name,) = client.machines.states
    client("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
    client.ticks()
    (group,) = client.service._groups.values()
    (member,) = group.members
    assert (member.state, client.service.target_state(REGION, name)) == ("Terminating:Wait", "Terminated")
    member.waits_since -= 2990
    client("RecordLifecycleActionHeartbeat", **hook, InstanceId=name)
    assert member.hooks["finish"] == pytest.approx(time.time() + 10, abs=5), "a heartbeat gives 30 s, and of the hook's 3000 s 10 are left"
    member.waits_since -= 10
    client("RecordLifecycleActionHeartbeat", **hook, InstanceId=name)
    client.ticks()
    assert (client.states(), client.service.target_state(REGION, name)) == ([], "")
