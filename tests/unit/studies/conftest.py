"""A bucket to read from and a Dagster instance to write to, both real code, both gone after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from dagster import DagsterInstance
from moto import mock_aws

from monai_aws_pipeline.contract import processed_key
from tests.unit.studies.records import Bucket, job_of
from tests.unit.studies.rerun_bench import STUDY, Deployment


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield


@pytest.fixture
def bucket(aws: None) -> Bucket:
    return Bucket(boto3.client("s3", region_name="us-east-1"))


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def questions(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """How often an action asks the event log: each time is a connection, which SQLite makes anew."""
    storage: Any = instance.event_log_storage
    connect = storage.index_connection

    def count(action: Callable[[], object]) -> int:
        asked = []
        with monkeypatch.context() as patched:
            patched.setattr(storage, "index_connection", lambda: (asked.append(1), connect())[1])
            action()
        return len(asked)

    return count


@pytest.fixture
def deployment(bucket: Bucket) -> Deployment:
    bucket.put(processed_key(STUDY, job_of(1), "upload.zip"), b"PK first")
    return Deployment(bucket)
