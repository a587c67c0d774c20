"""Uploads and what is under their names."""

from __future__ import annotations

from typing import Any

from monai_aws_pipeline.contract import (
    JobMessage,
)
from tests.unit.host_agent.bench import Bench


def content(bench: Bench, key: str) -> bytes:
    return bytes(bench.s3.get_object(Bucket="studies", Key=key)["Body"].read())


def upload(bench: Bench, key: str, body: bytes, **beside: Any) -> JobMessage:
    put = bench.s3.put_object(Bucket="studies", Key=key, Body=body, **beside)
    return JobMessage.for_object(bucket="studies", key=key, version=put.get("VersionId", ""), etag=put["ETag"], size=len(body))
