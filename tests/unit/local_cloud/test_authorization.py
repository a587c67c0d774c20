"""What ministack would judge on another resource than AWS does."""

from __future__ import annotations

import json

import pytest

from monai_aws_pipeline.local_cloud.authorization import log_resource

GROUP = {"logGroupName": "/aws/lambda/wake"}


# Source: Service Authorization Reference, Amazon CloudWatch Logs.
@pytest.mark.parametrize("action", ["CreateLogStream", "PutLogEvents", "GetLogEvents"])
def test_a_call_on_a_log_stream_is_judged_on_the_stream(action: str):
    body = json.dumps({**GROUP, "logStreamName": "2026/01/01/[$LATEST]1"}).encode()
    expected = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/wake:log-stream:2026/01/01/[$LATEST]1"
    assert log_resource(action, body, "eu-west-1") == expected


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("CreateLogGroup", json.dumps(GROUP).encode()),
        ("DescribeLogStreams", json.dumps({**GROUP, "logStreamNamePrefix": "a"}).encode()),
        ("CreateLogStream", json.dumps(GROUP).encode()),
        ("CreateLogStream", b"[]"),
        ("CreateLogStream", b"no JSON"),
    ],
)
def test_any_other_call_of_logs_is_judged_as_ministack_does(action: str, body: bytes):
    assert log_resource(action, body, "eu-west-1") is None
