"""What several tests of the portal stand on: an AWS in this process, and a bucket in it."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from tests.unit.studies.records import Bucket


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


@pytest.fixture
def bucket(aws: None) -> Bucket:
    return Bucket(boto3.client("s3", region_name="us-east-1"))
