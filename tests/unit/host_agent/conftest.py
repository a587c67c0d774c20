"""What the agent's tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from tests.support.conditional_copies import refuse_changed_sources
from tests.unit.host_agent.bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        s3, sqs = boto3.client("s3"), boto3.client("sqs")
        refuse_changed_sources(s3)
        s3.create_bucket(Bucket="studies")
        dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
        url = sqs.create_queue(QueueName="monai-aws-dev-jobs", Attributes={"RedrivePolicy": redrive})["QueueUrl"]
        yield Bench(s3, sqs, url, tmp_path)
