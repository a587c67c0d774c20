"""The sensor that records a live MAP which something else has changed: once, and with what AWS knows about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest
from dagster import AssetMaterialization, AssetObservation, DagsterInstance, RunConfig, SkipReason, build_sensor_context, materialize
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import parse_utc
from monai_aws_pipeline.deployment.lineage import latest_version
from monai_aws_pipeline.deployment.live_map import (
    LIVE_MAP,
    RECORDED_AT_ONCE,
    VERSION,
    WhichMap,
    change_events,
    change_metadata,
    live_map,
    live_map_changed,
    live_tags,
    rollback_map,
    unrecorded,
)
from monai_aws_pipeline.maps.spec.expectation import Point
from monai_aws_pipeline.operations.golden_check import GoldenCheck
from monai_aws_pipeline.operations.live_map_change import parse_change
from monai_aws_pipeline.operations.live_maps import LiveMaps
from monai_aws_pipeline.operations.promotion import Deployment, Kind
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import load_settings
from tests.unit.studies.records import DIGEST, OTHER_DIGEST

PARAMETER = "/monai-aws/unit/live-map"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


def tick(instance: DagsterInstance) -> Any:
    resources = {
        "settings": SettingsResource(overrides={"deployment": "unit", "bucket": "studies"}),
        "cloud": CloudResource(region="us-east-1"),
    }
    result = live_map_changed(build_sensor_context(instance=instance, resources=resources))
    for event in getattr(result, "asset_events", None) or []:
        instance.report_runless_asset_event(event)
    return result


def test_what_the_command_line_has_changed_is_recorded_once(aws: None):
    ssm = boto3.client("ssm", region_name="us-east-1")
    with DagsterInstance.ephemeral() as instance:
        assert isinstance(tick(instance), SkipReason), "nothing is live yet"
        for digest, note in (
            (DIGEST, "deploy 1.0.0; before: none; by someone"),
            (OTHER_DIGEST, "promote 2.0.0; before: none; by someone; why: better"),
        ):
            ssm.put_parameter(Name=PARAMETER, Value=f"registry/map@{digest}", Description=note, Type="String", Overwrite=True)
            recorded, observed = tick(instance).asset_events
            assert isinstance(recorded, AssetMaterialization)
            assert note.startswith(str(recorded.metadata["kind"].value))
            assert recorded.metadata["golden_study"].value == "not known", "nothing but the parameter's description is kept"
            assert isinstance(observed, AssetObservation)
            assert observed.asset_key.to_user_string() == "inference_host"
            assert latest_version(instance, "live_map") == digest
            assert isinstance(tick(instance), SkipReason), "what is recorded is not recorded again"


OLD = PushedImage("registry/map", OTHER_DIGEST, ("1.0.0-0123456-01234567",), 7, "2026-11-01T00:00:00+00:00")
NEW = PushedImage("registry/map", DIGEST, ("1.1.0-0123456-01234567",), 8, "2026-11-02T00:00:00+00:00")
POINTS = tuple(Point(f"Dice of segment {number}", "0.9 at least", f"0.{number}", ok=number > 8) for number in range(1, 10))
WHY = "recall is better on small lesions; " * 40


@pytest.fixture
def maps(aws: None, monkeypatch: pytest.MonkeyPatch) -> LiveMaps:
    """The live MAP with both images in the registry; a host passes each golden study."""
    images = {image.digest: image for image in (NEW, OLD)}
    monkeypatch.setattr(Registry, "images", lambda _: list(images.values()))
    monkeypatch.setattr(Registry, "require", lambda _, digest: images[digest])
    monkeypatch.setattr(Registry, "find", lambda _, digest: images.get(digest))
    monkeypatch.setattr(LiveMaps, "_prove", lambda *_: GoldenCheck("i-1", "passed", POINTS, 12.5))
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="studies")
    return LiveMaps(Clients("us-east-1"), load_settings(deployment="unit", bucket="studies"), lambda _: None)


def plain(metadata: Any) -> dict[str, Any]:
    return {name: getattr(value, "value", value) for name, value in metadata.items()}


def test_a_change_by_the_command_line_records_what_one_by_a_run_records(maps: LiveMaps):
    with DagsterInstance.ephemeral() as instance:
        for make in (
            lambda: maps.switch(Kind.DEPLOY, OLD, "team, monai-aws promote", ""),
            lambda: maps.promote(DIGEST, "team, monai-aws promote", WHY),
            lambda: maps.rollback("", "team, monai-aws rollback", "volumes are too small"),
        ):
            change = make()
            by_a_run = plain(change_metadata(change))
            recorded, observed = tick(instance).asset_events
            assert plain(recorded.metadata) == by_a_run
            assert set(plain(observed.metadata)) == set(by_a_run)
            if change.kind is Kind.PROMOTE:
                assert by_a_run["why"] == WHY, "whole, although the parameter's description is cut"
                assert [row.data["point"] for row in by_a_run["golden_points"].records] == [point.name for point in POINTS]
                assert (by_a_run["previous"], by_a_run["golden_host"]) == (OTHER_DIGEST, "i-1")


def test_a_change_of_which_nothing_could_be_kept_is_recorded_by_what_the_parameter_says(maps: LiveMaps):
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.delete_bucket(Bucket="studies")
    maps.switch(Kind.DEPLOY, OLD, "team, monai-aws promote", "")
    change = maps.switch(Kind.ROLLBACK, NEW, "team, monai-aws rollback", "too slow")
    with DagsterInstance.ephemeral() as instance:
        recorded, _ = tick(instance).asset_events
    said = plain(recorded.metadata)
    assert (said["previous"], said["by"], said["why"], said["tag"]) == (OTHER_DIGEST, change.who, "too slow", NEW.tags[0])
    assert said["golden_study"] == "not known"


def live_maps_recorded(instance: DagsterInstance) -> list[tuple[str, int]]:
    """Digest and parameter's version of what is recorded of live_map, the first first."""
    records = instance.fetch_materializations(LIVE_MAP, limit=500, ascending=True).records
    found = [plain(record.asset_materialization.metadata) for record in records if record.asset_materialization]
    return [(each["digest"], each.get(VERSION, 0)) for each in found]


def put(digest: str, note: str = "set by hand") -> None:
    """A change by AWS's console."""
    ssm = boto3.client("ssm", region_name="us-east-1")
    ssm.put_parameter(Name=PARAMETER, Value=f"registry/map@{digest}", Description=note, Type="String", Overwrite=True)


def test_each_change_between_two_ticks_is_recorded_in_its_place_with_all_that_is_kept_of_it(maps: LiveMaps):
    with DagsterInstance.ephemeral() as instance:
        maps.switch(Kind.DEPLOY, OLD, "team", "")
        tick(instance)
        promoted = maps.promote(DIGEST, "team, monai-aws promote", WHY)
        maps.rollback("", "team, monai-aws rollback", "volumes are too small")
        events = tick(instance).asset_events
        assert live_maps_recorded(instance) == [(OTHER_DIGEST, 1), (DIGEST, 2), (OTHER_DIGEST, 3)]
        assert plain(events[0].metadata) == plain(change_metadata(promoted))
        assert latest_version(instance, "live_map") == OTHER_DIGEST
        assert isinstance(tick(instance), SkipReason)


def test_many_changes_are_recorded_over_some_ticks_each_once(maps: LiveMaps):
    with DagsterInstance.ephemeral() as instance:
        put(DIGEST)
        tick(instance)
        for number in range(RECORDED_AT_ONCE + 5):
            put(DIGEST if number % 2 else OTHER_DIGEST)
        assert [len(tick(instance).asset_events) for _ in range(2)] == [2 * RECORDED_AT_ONCE, 2 * 5]
        assert isinstance(tick(instance), SkipReason)
        assert [version for _, version in live_maps_recorded(instance)] == list(range(1, RECORDED_AT_ONCE + 7))


def test_a_lineage_that_begins_anew_begins_with_the_map_that_is_live(maps: LiveMaps):
    for digest in (OTHER_DIGEST, DIGEST, OTHER_DIGEST):
        put(digest)
    with DagsterInstance.ephemeral() as instance:
        tick(instance)
        assert live_maps_recorded(instance) == [(OTHER_DIGEST, 3)]
        assert isinstance(tick(instance), SkipReason)


def test_what_an_older_release_has_recorded_is_not_recorded_again(maps: LiveMaps):
    put(DIGEST)
    with DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(AssetMaterialization(LIVE_MAP, tags=live_tags(DIGEST)))
        assert isinstance(tick(instance), SkipReason)
        put(OTHER_DIGEST)
        put(DIGEST)
        put(OTHER_DIGEST)
        tick(instance)
        assert latest_version(instance, "live_map") == OTHER_DIGEST


def test_a_promotion_of_the_map_that_is_live_hides_no_change_before_it(maps: LiveMaps):
    with DagsterInstance.ephemeral() as instance:
        put(DIGEST)
        tick(instance)
        put(OTHER_DIGEST)
        put(DIGEST)
        unchanged = maps.promote(DIGEST, "team, run 0123", "")
        for event in change_events(unchanged):
            instance.report_runless_asset_event(event)
        tick(instance)
        assert live_maps_recorded(instance) == [(DIGEST, 1), (DIGEST, 0), (OTHER_DIGEST, 2), (DIGEST, 3)]


def test_a_parameter_that_was_deleted_and_made_anew_is_recorded_from_its_first_version_on(maps: LiveMaps):
    with DagsterInstance.ephemeral() as instance:
        for digest in (OTHER_DIGEST, DIGEST):
            put(digest)
            tick(instance)
        boto3.client("ssm", region_name="us-east-1").delete_parameter(Name=PARAMETER)
        assert isinstance(tick(instance), SkipReason)
        for digest in (DIGEST, OTHER_DIGEST):
            put(digest)
        tick(instance)
        assert live_maps_recorded(instance)[2:] == [(DIGEST, 1), (OTHER_DIGEST, 2)]


def test_what_fell_out_of_the_history_is_not_waited_for():
    past = [Deployment(DIGEST, Kind.DEPLOY, "", "", version) for version in range(50, 150)]
    assert list(unrecorded(past, OTHER_DIGEST, 49)) == past
    assert list(unrecorded(past, DIGEST, 148)) == past[-1:]


@pytest.mark.parametrize("by", ["promotion", "rollback"])
def test_a_run_records_before_its_own_change_what_the_command_line_has_changed_just_before(maps: LiveMaps, by: str):
    with DagsterInstance.ephemeral() as instance:
        put(OTHER_DIGEST)
        tick(instance)
        put(DIGEST)
        put(OTHER_DIGEST)
        config = WhichMap(map=DIGEST, why="better")
        resources = {
            "settings": SettingsResource(overrides={"deployment": "unit", "bucket": "studies"}),
            "cloud": CloudResource(region="us-east-1"),
        }
        if by == "promotion":
            assert materialize([live_map], instance=instance, resources=resources, run_config=RunConfig({"live_map": config})).success
        else:
            assert rollback_map.execute_in_process(
                instance=instance, resources=resources, run_config=RunConfig({"take_back": config})
            ).success
        assert live_maps_recorded(instance) == [(OTHER_DIGEST, 1), (DIGEST, 2), (OTHER_DIGEST, 3), (DIGEST, 4)]
        assert latest_version(instance, "live_map") == DIGEST
        assert isinstance(tick(instance), SkipReason)


def test_a_record_of_another_change_is_none(maps: LiveMaps):
    change = maps.switch(Kind.DEPLOY, OLD, "team", "")
    switch = maps.history()[-1]
    assert parse_change(change.to_json(), switch) == change
    assert parse_change(change.to_json(), Deployment(DIGEST, Kind.DEPLOY, "", "")) is None
    earlier = (parse_utc(switch.at) - timedelta(hours=1)).isoformat()
    assert parse_change(change.to_json(), replace(switch, at=earlier)) is None, "the same was done before, in the same words"


@given(st.text(max_size=80) | st.dictionaries(st.sampled_from(["schema", "image", "proof"]), st.none() | st.text(max_size=9)).map(str))
def test_what_is_no_record_is_taken_for_none(text: str):
    assert parse_change(text, Deployment(DIGEST, Kind.DEPLOY, "", "")) is None
