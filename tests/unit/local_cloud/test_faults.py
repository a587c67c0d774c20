"""The board of ordered faults, and alarms as the embedded AWS evaluates them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from monai_aws_pipeline.local_cloud import alarms
from monai_aws_pipeline.local_cloud.faults import Fault, FaultBoard, FaultError


@pytest.fixture
def board() -> FaultBoard:
    return FaultBoard(agent_delay_s=1.0)


def test_a_fault_strikes_the_calls_that_it_matches_and_as_often_as_ordered(board: FaultBoard):
    board.order_from({"service": "s3", "action": "GetObject", "code": "SlowDown", "times": 2, "after": 1, "match": "input/a"})
    struck = [
        board.take("s3", "GetObject", text) is not None for text in ("/b/input/a", "/b/input/b", "/b/input/a", "/b/input/a", "/b/input/a")
    ]
    assert struck == [False, False, True, True, False]
    assert board.pending() == []


@pytest.mark.parametrize(
    "order",
    [
        {"service": "s3", "action": "GetObject"},
        {"service": "s3", "action": "", "code": "x"},
        {"service": "s3", "action": "GetObject", "code": "x", "times": 0},
        {"service": "s3", "action": "GetObject", "code": "x", "colour": "red"},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(board: FaultBoard, order: dict[str, Any]):
    with pytest.raises(FaultError):
        board.order_from(order)
    assert board.pending() == []


def test_orders_about_machines_are_left_to_others(board: FaultBoard):
    assert board.order_from({"cut_network": "i-1", "seconds": 3}) is False


def test_a_held_call_is_seen_and_let_go_when_the_orders_are_cleared(board: FaultBoard):
    fault = Fault("s3", "PutObject", delay_s=60)
    with board.holding(fault):
        assert [entry["action"] for entry in board.held()] == ["PutObject"]
        assert board.is_held(fault)
        board.clear()
        assert not board.is_held(fault)
    assert board.held() == []


def test_a_cut_ends_by_itself_and_a_slow_network_is_no_cut(board: FaultBoard):
    board.cut("i-1", 60)
    board.cut("i-2", 60, delay_s=0.5)
    board.cut("i-3", -1)
    assert [board.is_cut(name) for name in ("i-1", "i-2", "i-3", "i-4")] == [True, False, False, False]
    assert 59 < board.waits("i-1") <= 60
    assert [board.waits(name) for name in ("i-2", "i-3", "i-4")] == [0.5, 0.0, 0.0]


def test_events_are_doubled_and_shuffled_as_often_as_ordered(board: FaultBoard):
    board.order_from({"duplicate_events": 1})
    board.order_from({"shuffle_events": 2})
    assert [board.take_duplicate() for _ in range(2)] == [True, False]
    assert [board.take_shuffled() for _ in range(3)] == [2, 1, 0]


# --------------------------------------------------------------------------------------------------------------------------- alarms


def test_metrics_in_log_lines_are_read_and_other_lines_are_left_alone():
    directive = {"Namespace": "n", "Dimensions": [["deployment"]], "Metrics": [{"Name": "HostMissing", "Unit": "Count"}]}
    line = json.dumps({"_aws": {"CloudWatchMetrics": [directive]}, "deployment": "dev", "HostMissing": [1.0]})
    (datum,) = alarms.embedded_metrics(f'START\n{line}\n{{"_aws": 3}}\nnot "_aws" json\n')
    assert (datum.namespace, datum.name, datum.value, dict(datum.dimensions)) == ("n", "HostMissing", 1.0, {"deployment": "dev"})


def test_a_queue_tells_depth_and_age():
    now = time.time()
    message = {"visible_at": now - 1, "sent_at": now - 90}
    queue = {"attributes": {"QueueArn": "arn:aws:sqs:us-east-1:1:jobs"}, "messages": [message, {"visible_at": now + 9, "sent_at": now - 5}]}
    values = {datum.name: datum.value for datum in alarms.queue_metrics(queue, now)}
    assert values == {
        "ApproximateNumberOfMessagesVisible": 1,
        "ApproximateNumberOfMessagesNotVisible": 1,
        "ApproximateAgeOfOldestMessage": 90,
    }


@pytest.mark.parametrize(
    ("values", "missing", "state"),
    [([0.0, 1.0], "notBreaching", "ALARM"), ([0.0], "missing", "OK"), ([], "notBreaching", "OK"), ([], "missing", "INSUFFICIENT_DATA")],
)
def test_an_alarm_follows_its_points(values: list[float], missing: str, state: str):
    alarm = {
        "Statistic": "Maximum",
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "Threshold": 1,
        "TreatMissingData": missing,
        "StateValue": "INSUFFICIENT_DATA",
    }
    assert alarms.state_of(alarm, [{"Value": value, "Timestamp": 0} for value in values])[0] == state
