"""What policies make of metrics."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.local_cloud.autoscaling_policies import adjusted, math_of, stepped, tracked, value_of, within

STEPS = {
    "AdjustmentType": "ChangeInCapacity",
    "StepAdjustments": [
        {"MetricIntervalLowerBound": 0.0, "MetricIntervalUpperBound": 10.0, "ScalingAdjustment": 1},
        {"MetricIntervalLowerBound": 10.0, "ScalingAdjustment": 3},
        {"MetricIntervalUpperBound": 0.0, "ScalingAdjustment": -1},
    ],
}


@pytest.mark.parametrize(("current", "value", "wanted"), [(0, 30, 3), (1, 30, 3), (2, 30, 6), (2, 10, 2), (3, 1, 1)])
def test_a_target_is_met_in_proportion_and_from_zero(current: int, value: float, wanted: int):
    assert tracked(current, value, 10.0) == wanted


@pytest.mark.parametrize(("breach", "wanted"), [(0.0, 1), (9.9, 1), (10.0, 3), (1e9, 3), (-0.5, -1)])
def test_the_step_is_the_one_that_the_breach_falls_into(breach: float, wanted: int):
    assert stepped(5, breach, STEPS) == 5 + wanted


def test_adjustments_are_counted_as_aws_rounds_them():
    assert adjusted(4, 7, {"AdjustmentType": "ExactCapacity"}) == 7
    assert adjusted(10, 25, {"AdjustmentType": "PercentChangeInCapacity"}) == 12
    assert adjusted(3, 10, {"AdjustmentType": "PercentChangeInCapacity"}) == 4
    assert adjusted(3, -10, {"AdjustmentType": "PercentChangeInCapacity"}) == 2
    assert adjusted(3, 10, {"AdjustmentType": "PercentChangeInCapacity", "MinAdjustmentMagnitude": 2}) == 5
    assert [within(wanted, 1, 3) for wanted in (0, 2, 9)] == [1, 2, 3]


def test_backlog_per_instance_has_no_value_without_instances_unless_it_is_filled():
    values = {"queue": 12.0, "hosts": 0.0}
    assert math_of("queue / hosts", values.get) is None
    assert math_of("FILL(queue / hosts, queue)", values.get) == 12.0
    assert math_of("IF(hosts > 0, queue / hosts, queue)", values.get) == 12.0
    assert math_of("MAX([queue / 4, 2]) - 1", values.get) == 2.0


def test_only_what_is_emulated_is_evaluated():
    for wrong in ("__import__('os')", "ANOMALY_DETECTION_BAND(m)", "m..", "m.n", "SEARCH('x')"):
        with pytest.raises(ValueError, match="not emulated"):
            math_of(wrong, lambda _: 1.0)


def test_the_query_that_returns_data_is_the_metric():
    queries = [
        {"Id": "a", "MetricStat": {"Metric": "x"}, "ReturnData": False},
        {"Id": "e", "Expression": "a * 2"},
    ]
    assert value_of(queries, lambda _: 3.0) == 6.0
    with pytest.raises(ValueError, match="Exactly one"):
        value_of([*queries, {"Id": "f", "Expression": "a"}], lambda _: 3.0)
