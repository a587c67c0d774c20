"""What the adapter of Auto Scaling makes of an answer that comes too late, and of a group that is at something else."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from monai_aws_pipeline.cloud import autoscaling
from monai_aws_pipeline.cloud.autoscaling import FleetError, ScalingGroup
from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.waiting import silently

GROUP = {
    "AutoScalingGroupName": "hosts",
    "MinSize": 0,
    "MaxSize": 1,
    "DesiredCapacity": 0,
    "DefaultCooldown": 300,
    "AvailabilityZones": ["us-east-1a"],
    "HealthCheckType": "EC2",
    "CreatedTime": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(("pool", "is_refused"), [({}, False), ({"WarmPoolConfiguration": {"MinSize": 1}}, True)])
def test_a_warm_pool_that_has_gone_meanwhile_is_removed_and_one_that_is_kept_from_us_is_not(pool: dict[str, Any], is_refused: bool):
    api = boto3.client("autoscaling", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    clients: Any = SimpleNamespace(autoscaling=api)
    with Stubber(api) as answers:
        answers.add_client_error("delete_warm_pool", "ValidationError", "it is not there, or it is busy")
        answers.add_response("describe_auto_scaling_groups", {"AutoScalingGroups": [{**GROUP, **pool}]})
        group = ScalingGroup(clients, "hosts", "alarm")
        if is_refused:
            with pytest.raises(FleetError):
                group.remove_pool()
        else:
            group.remove_pool()
        answers.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("code", "words"), [("ValidationError", "no pool beside Spot"), ("AccessDenied", None), ("ScalingActivityInProgress", None)]
)
def test_what_aws_says_against_a_pool_beside_a_mix_is_an_answer_and_any_other_refusal_an_error(code: str, words: str | None):
    api = boto3.client("autoscaling", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    clients: Any = SimpleNamespace(autoscaling=api)
    with Stubber(api) as answers:
        answers.add_client_error("put_warm_pool", code, "no pool beside Spot")
        group = ScalingGroup(clients, "hosts", "alarm")
        if words is None:
            with pytest.raises(CloudError):
                group.ask_pool({"MinSize": 1})
        else:
            assert group.ask_pool({"MinSize": 1}) == words


# --------------------------------------------------------------------------------------------------------------- a group that is busy


@pytest.fixture
def answers() -> Iterator[Stubber]:
    api = boto3.client("autoscaling", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(api) as stubbed:
        yield stubbed
        stubbed.assert_no_pending_responses()


def asking(answers: Stubber) -> ScalingGroup:
    clients: Any = SimpleNamespace(autoscaling=answers.client)
    return ScalingGroup(clients, "hosts", "alarm")


def in_state(state: str) -> dict[str, Any]:
    """What the group shows with its one instance in a state, or without it."""
    member = {"InstanceId": "i-1", "AvailabilityZone": "us-east-1a", "LifecycleState": state, "HealthStatus": "Healthy"}
    return {"AutoScalingGroups": [{**GROUP, "Instances": [{**member, "ProtectedFromScaleIn": False}] if state else []}]}


@pytest.mark.parametrize("code", ["ScalingActivityInProgress", "ResourceInUse", "ResourceContention"])
def test_a_deletion_that_a_busy_group_refuses_is_asked_for_until_it_is_accepted(answers: Stubber, code: str):
    said: list[str] = []
    answers.add_client_error("delete_auto_scaling_group", code, "busy")
    answers.add_response("describe_auto_scaling_groups", {"AutoScalingGroups": [GROUP]})
    answers.add_response("delete_auto_scaling_group", {}, {"AutoScalingGroupName": "hosts", "ForceDelete": True})
    asking(answers).delete(said.append)
    assert said == ["waiting until the Auto Scaling group hosts has ended what it is at"]


@pytest.mark.parametrize("shown", [[], [{**GROUP, "Status": "Delete in progress"}]])
def test_a_group_that_goes_already_is_deleted(answers: Stubber, shown: list[dict[str, Any]]):
    answers.add_client_error("delete_auto_scaling_group", "ScalingActivityInProgress", "pending delete")
    answers.add_response("describe_auto_scaling_groups", {"AutoScalingGroups": shown})
    asking(answers).delete(silently)


@pytest.mark.parametrize("code", ["ScalingActivityInProgress", "AccessDenied"])
def test_a_deletion_that_is_never_accepted_is_an_error(answers: Stubber, monkeypatch: pytest.MonkeyPatch, code: str):
    monkeypatch.setattr(autoscaling, "_BUSY_SECONDS", 0.0)
    answers.add_client_error("delete_auto_scaling_group", code, "no")
    if code != "AccessDenied":
        answers.add_response("describe_auto_scaling_groups", {"AutoScalingGroups": [GROUP]})
    with pytest.raises(CloudError, match=code):
        asking(answers).delete(silently)


@pytest.mark.parametrize("then", ["Terminating:Wait", ""])
def test_an_instance_is_let_go_until_that_is_accepted_or_it_leaves(answers: Stubber, then: str):
    for state in ("InService", then):
        answers.add_client_error("terminate_instance_in_auto_scaling_group", "ScalingActivityInProgress", "busy")
        answers.add_response("describe_auto_scaling_groups", in_state(state))
    asking(answers).let_go("i-1", silently)


def test_an_instance_that_is_in_no_group_has_gone(answers: Stubber):
    answers.add_client_error("terminate_instance_in_auto_scaling_group", "ValidationError", "Instance Id not found - No managed instance")
    asking(answers).let_go("i-1", silently)
