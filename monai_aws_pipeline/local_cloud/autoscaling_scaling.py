"""Auto Scaling's calls about scaling policies. A target tracking policy makes its two alarms and takes them along.

Source: Amazon EC2 Auto Scaling API Reference, PutScalingPolicy.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Final

from ministack.core.responses import set_request_region
from ministack.services import cloudwatch

from .autoscaling_policies import math_of
from .autoscaling_protocol import invalid
from .autoscaling_records import Group, Json
from .autoscaling_scope import Call, Scope, paged
from .config import ACCOUNT

_KINDS: Final = ("TargetTrackingScaling", "StepScaling", "SimpleScaling")


def _put(scope: Scope, data: Json) -> Json:
    group, name = scope.group(data), data["PolicyName"]
    kind = data.get("PolicyType", "SimpleScaling")
    _refuse(kind, data)
    before = group.policies.get(name)
    arn = (
        before["PolicyARN"]
        if before
        else (
            f"arn:aws:autoscaling:{scope.region}:{ACCOUNT}:scalingPolicy:{uuid.uuid4()}:autoScalingGroupName/{group.name}:policyName/{name}"
        )
    )
    if before:
        _drop_own_alarms(scope.region, before)
    policy = {"Enabled": True, **data, "PolicyType": kind, "PolicyARN": arn, "Alarms": []}
    if kind == "TargetTrackingScaling":
        policy["Alarms"] = _make_alarms(scope.region, policy)
    group.policies[name] = policy
    return {"PolicyARN": arn, "Alarms": policy["Alarms"]}


def _refuse(kind: str, data: Json) -> None:
    if kind not in _KINDS:
        raise invalid(f"PolicyType {kind} is not emulated here: use one of {', '.join(_KINDS)}.")
    if kind == "TargetTrackingScaling":
        tracking = data.get("TargetTrackingConfiguration", {})
        spec = tracking.get("CustomizedMetricSpecification")
        if not spec:
            raise invalid("TargetTrackingConfiguration needs a CustomizedMetricSpecification; predefined metrics are not emulated here.")
        if float(tracking["TargetValue"]) <= 0:
            raise invalid("TargetValue must be greater than 0.")
        for query in spec.get("Metrics", []):
            if "Expression" in query:
                try:
                    math_of(query["Expression"], lambda _: 1.0)
                except ValueError as error:
                    raise invalid(str(error)) from None
        return
    needed = "StepAdjustments" if kind == "StepScaling" else "ScalingAdjustment"
    if needed not in data:
        raise invalid(f"{needed} is required for the policy type {kind}.")
    if data.get("AdjustmentType") not in ("ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity"):
        raise invalid("AdjustmentType must be ChangeInCapacity, ExactCapacity or PercentChangeInCapacity.")


def _make_alarms(region: str, policy: Json) -> list[Json]:
    tracking = policy["TargetTrackingConfiguration"]
    spec, target = tracking["CustomizedMetricSpecification"], float(tracking["TargetValue"])
    levels = [("High", 3, target, "GreaterThanThreshold")]
    if not tracking.get("DisableScaleIn"):
        levels.append(("Low", 15, 0.9 * target, "LessThanThreshold"))
    made, now = [], int(time.time())
    set_request_region(region)
    for level, periods, threshold, comparison in levels:
        name = f"TargetTracking-{policy['AutoScalingGroupName']}-Alarm{level}-{uuid.uuid4()}"
        arn = f"arn:aws:cloudwatch:{region}:{ACCOUNT}:alarm:{name}"
        cloudwatch.cloudformation_put_metric_alarm({
            "AlarmName": name, "AlarmArn": arn, "ActionsEnabled": True, "OKActions": [], "AlarmActions": [policy["PolicyARN"]],
            "AlarmDescription": f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {policy['PolicyARN']}.",
            "InsufficientDataActions": [], "StateValue": "INSUFFICIENT_DATA", "StateReason": "Unchecked: Initial alarm creation",
            "StateUpdatedTimestamp": now, "AlarmConfigurationUpdatedTimestamp": now, "Period": 60, "EvaluationPeriods": periods,
            "Threshold": threshold, "ComparisonOperator": comparison, "TreatMissingData": "ignore",
            **({"Metrics": spec["Metrics"]} if "Metrics" in spec else {
                "Namespace": spec["Namespace"], "MetricName": spec["MetricName"], "Statistic": spec["Statistic"],
                "Dimensions": spec.get("Dimensions", []),
            }),
        })  # fmt: skip
        made.append({"AlarmName": name, "AlarmARN": arn})
    return made


def _drop_own_alarms(region: str, policy: Json) -> None:
    set_request_region(region)
    for alarm in policy["Alarms"]:
        cloudwatch._alarms.pop(alarm["AlarmName"], None)


def drop_alarms(group: Group) -> None:
    """Remove the alarms that a deleted group's policies made."""
    for policy in group.policies.values():
        _drop_own_alarms(group.region, policy)


def _describe(scope: Scope, data: Json) -> Json:
    groups = [scope.group(data)] if "AutoScalingGroupName" in data else scope.all()
    names, kinds = data.get("PolicyNames"), data.get("PolicyTypes")
    found = [each for group in groups for each in group.policies.values()]
    found = [each for each in found if not names or each["PolicyName"] in names or each["PolicyARN"] in names]
    return paged("ScalingPolicies", [each for each in found if not kinds or each["PolicyType"] in kinds], data, 50)


def _delete(scope: Scope, data: Json) -> Json:
    for group in [scope.group(data)] if "AutoScalingGroupName" in data else scope.all():
        for name, policy in list(group.policies.items()):
            if data["PolicyName"] in (name, policy["PolicyARN"]):
                _drop_own_alarms(scope.region, group.policies.pop(name))
                return {}
    raise invalid(f"No such policy: {data['PolicyName']}")


CALLS: Final[Mapping[str, Call]] = {"PutScalingPolicy": _put, "DescribePolicies": _describe, "DeletePolicy": _delete}
