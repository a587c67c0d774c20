"""The bill of materials of a MAP that never lay on the machine: packages of its dependency image, models of its own layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from monai_aws_pipeline.deployment.bill_of_materials import of_dependencies, with_models

BUCKET = "studies-bucket"
DIGEST = f"sha256:{'d' * 64}"
PACKAGES = {"system": {"ID": "debian"}, "debian": [], "python": [{"name": "torch", "version": "2.13.0"}], "models": []}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def test_the_packages_of_a_dependency_image_are_listed_once(s3: Any):
    assert of_dependencies(s3, BUCKET, DIGEST, lambda: PACKAGES) == PACKAGES
    assert of_dependencies(s3, BUCKET, DIGEST, lambda: pytest.fail("the image was pulled again")) == PACKAGES


def test_a_damaged_list_is_made_again(s3: Any):
    of_dependencies(s3, BUCKET, DIGEST, lambda: PACKAGES)
    (key,) = (item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"])
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"[")
    assert of_dependencies(s3, BUCKET, DIGEST, lambda: PACKAGES) == PACKAGES


def test_the_models_are_those_of_the_layer_that_is_put_on_top(tmp_path: Path):
    file = tmp_path / "opt/holoscan/models/net/net.ts"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    listed = with_models(PACKAGES, tmp_path)
    assert listed["models"] == [{"path": "net/net.ts", "sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7}]
    assert listed["python"] == PACKAGES["python"]
    assert with_models(PACKAGES, tmp_path / "none")["models"] == []
