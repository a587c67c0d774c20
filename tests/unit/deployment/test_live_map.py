"""The sensor that records a live MAP which something else has changed: once, and with what AWS knows about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from dagster import AssetMaterialization, AssetObservation, DagsterInstance, SkipReason, build_sensor_context
from moto import mock_aws

from monai_aws_pipeline.deployment.lineage import latest_version
from monai_aws_pipeline.deployment.live_map import live_map_changed
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from tests.unit.studies.records import DIGEST, OTHER_DIGEST

PARAMETER = "/monai-aws/unit/live-map"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


def tick(instance: DagsterInstance) -> Any:
    resources = {"settings": SettingsResource(overrides={"deployment": "unit"}), "cloud": CloudResource(region="us-east-1")}
    result = live_map_changed(build_sensor_context(instance=instance, resources=resources))
    for event in getattr(result, "asset_events", None) or []:
        instance.report_runless_asset_event(event)
    return result


def test_what_the_command_line_has_changed_is_recorded_once(aws: None):
    ssm = boto3.client("ssm", region_name="us-east-1")
    with DagsterInstance.ephemeral() as instance:
        assert isinstance(tick(instance), SkipReason), "nothing is live yet"
        for digest, note in ((DIGEST, "deploy 1.0.0; before: none"), (OTHER_DIGEST, "promote 2.0.0; by someone; why: better")):
            ssm.put_parameter(Name=PARAMETER, Value=f"registry/map@{digest}", Description=note, Type="String", Overwrite=True)
            recorded, observed = tick(instance).asset_events
            assert isinstance(recorded, AssetMaterialization)
            assert recorded.metadata["note"].value == note
            assert isinstance(observed, AssetObservation)
            assert observed.asset_key.to_user_string() == "inference_host"
            assert latest_version(instance, "live_map") == digest
            assert isinstance(tick(instance), SkipReason), "what is recorded is not recorded again"
