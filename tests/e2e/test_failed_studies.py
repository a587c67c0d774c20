"""A study that a MAP fails on is asked again in vain, and answered once the MAP is mended: by the UI's own jobs, on real machines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import ExecuteInProcessResult, SensorResult, TableMetadataValue, build_sensor_context

from monai_aws_pipeline.contract import Status
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from tests.support.platform import TINY_APP, Platform, platform
from tests.support.studies import tiny_study_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "mend", tmp_path_factory.mktemp("mend")) as made:
        made.adopt_image()
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


def record(place: Platform) -> None:
    """What the sensor does with all that has ended."""
    definitions = build_defs(place.settings)
    resources = {"cloud": CloudResource(region=place.settings.region), "settings": SettingsResource()}
    with build_sensor_context(instance=place.instance, cursor=None, resources=resources, definitions=definitions) as context:
        result = definitions.get_sensor_def("study_results")(context)
    if isinstance(result, SensorResult):
        for event in result.asset_events:
            place.instance.report_runless_asset_event(event)


def mended(place: Platform, folder: Path) -> Platform:
    """The application without what it failed on, built and live."""
    source = shutil.copytree(TINY_APP, folder / "app")
    main = source / "__main__.py"
    text = main.read_text()
    assert 'if wish == "tiny:fail":' in text
    main.write_text(text.replace('if wish == "tiny:fail":', 'if wish == "tiny:never":'))
    changed = place.changed(MONAI_AWS_APP_SOURCE=str(source))
    assert changed.materialize("map_image", "inference_host").success
    return changed


def changes(result: ExecuteInProcessResult) -> list[dict[str, Any]]:
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    table = event.step_output_data.metadata["changes"]
    assert isinstance(table, TableMetadataValue)
    return [dict(row.data) for row in table.records]


def test_a_failed_study_is_retried_in_vain_and_answered_by_the_mended_map(place: Platform, tmp_path: Path):
    jobs = [place.upload("input/good.zip", tiny_study_zip()), place.upload("input/bad.zip", tiny_study_zip(wish="tiny:fail"))]
    found = place.answers(jobs, seconds=240)
    (good,), (bad,) = found[jobs[0]], found[jobs[1]]
    assert (good.status, bad.status) == (Status.SUCCEEDED, Status.FAILED)
    record(place)

    failed = place.rerun(bad.study, raise_on_error=False)
    (failure,) = [event for event in failed.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "map_failed" in str(told.description)
    assert "tiny: failing as the study asks" in str(told.description)
    record(place)
    entries = [entry for entries in place.entries().values() for entry in entries if entry.study == bad.study]
    assert {entry.request for entry in entries} == {"", f"{good.map.digest}/{bad.study}"}

    after = mended(place, tmp_path)
    again = after.rerun_studies({"which": {"failed": {"since": bad.committed_at, "code": "map_failed"}}})
    (row, *_) = changes(again)
    assert (row["study"], row["end"], row["note"]) == (bad.study, "answered", "never answered before")
    record(after)

    (row, *_) = changes(after.rerun_studies({"which": {"stale": {}}}))
    assert (row["study"], row["end"], row["Dice"], row["before (ml)"]) == (good.study, "answered", "1.0000", row["after (ml)"])
    assert row["MAP before"] != row["MAP after"]
    record(after)
    listed = after.rerun_studies({"which": {"stale": {}}, "dry_run": True})
    (event,) = [event for event in listed.all_events if event.event_type_value == "STEP_OUTPUT"]
    assert str(event.step_output_data.metadata["meant"].value) == "0 studies are meant"
    after.wait_stopped()
