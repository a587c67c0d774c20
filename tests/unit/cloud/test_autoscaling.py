"""What the adapter of Auto Scaling makes of an answer that comes too late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from monai_aws_pipeline.cloud.autoscaling import FleetError, ScalingGroup
from monai_aws_pipeline.cloud.errors import CloudError

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
