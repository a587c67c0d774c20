"""Hosts as an Auto Scaling group, with real machines: from nothing to an answer and back, moved to and from named hosts, and gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.autoscaling import Group, LaunchTemplates, ScalingGroup
from monai_aws_pipeline.contract import HOOK_FINISH, ROLE_INFERENCE, TAG_GROUP, Status
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.teardown import Kind, Teardown
from tests.support.faults import eventually
from tests.support.fleet import OF_A_GROUP, remove_group
from tests.support.platform import Platform, environment, platform
from tests.support.studies import tiny_study_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

SETTINGS = {"MONAI_AWS_FLEET": "autoscaling", "MONAI_AWS_HOST_COUNT": "2", "MONAI_AWS_IDLE_STOP_MINUTES": "1.0"}
"""An instance that is idle outlasts a materialisation."""


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "fleet", tmp_path_factory.mktemp("fleet"), **SETTINGS) as made:
        try:
            made.adopt_image()
            assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
            yield made
        finally:
            remove_group(made)


def asked(place: Platform) -> ScalingGroup:
    return ScalingGroup(place.clients, place.settings.names.fleet_group, place.settings.names.fleet_alarm)


def group_is_there(place: Platform) -> bool:
    return asked(place).find() is not None


def group(place: Platform) -> Group:
    found = asked(place).find()
    assert found is not None
    return found


def hosts(place: Platform) -> dict[str, Any]:
    run = place.materialize("inference_host")
    (event,) = [each for each in run.get_asset_materialization_events() if each.asset_key and each.asset_key.path == ["inference_host"]]
    return {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}


def until_empty(place: Platform) -> None:
    eventually(lambda: not group(place).instances and group(place).desired == 0, 180)


def test_an_upload_brings_one_instance_that_answers_and_leaves(place: Platform) -> None:
    assert (group(place).desired, group(place).most, group(place).instances) == (0, 2, ())
    job = place.upload("input/first.zip", tiny_study_zip())
    (record,) = place.answers([job], 240)[job]
    assert record.status is Status.SUCCEEDED
    (machine,) = place.machines(ROLE_INFERENCE)
    assert machine.tags[TAG_GROUP] == place.settings.names.fleet_group
    with environment(place.variables):
        shown = CliRunner().invoke(cli, ["status"]).output
    assert "2 at most" in shown
    until_empty(place)
    assert place.machines(ROLE_INFERENCE) == []


def test_a_group_that_is_as_it_should_be_is_left_alone_and_one_that_somebody_changed_is_put_right(place: Platform) -> None:
    assert hosts(place)["reused"] is True
    place.clients.autoscaling.update_auto_scaling_group(AutoScalingGroupName=place.settings.names.fleet_group, MaxSize=7)
    # As somebody with an administrator's rights: what the operator does is judged by what its role is for.
    with environment(place.cloud.environment):
        import boto3

        boto3.client("autoscaling").delete_lifecycle_hook(
            AutoScalingGroupName=place.settings.names.fleet_group, LifecycleHookName=HOOK_FINISH
        )
    changes = "; ".join(hosts(place)["group_changes"])
    assert "MaxSize is 7, not 2" in changes
    assert HOOK_FINISH in changes
    assert group(place).most == 2
    assert HOOK_FINISH in group(place).hooks
    assert hosts(place)["reused"] is True


@pytest.mark.long
def test_a_setting_is_brought_in_by_a_refresh_of_what_runs(place: Platform) -> None:
    asked(place).ask_for(1)
    (first,) = eventually(lambda: group(place).in_service(), 180)
    changed = place.changed(MONAI_AWS_IDLE_STOP_MINUTES="0.6")
    made = hosts(changed)
    assert "1 of 1 instances are of another version" in "; ".join(made["group_changes"])
    assert first.id not in [each.id for each in group(place).in_service()]
    until_empty(place)
    assert hosts(place)["launch_template_version"] == "3", "back again: no instance, so no refresh"


@pytest.mark.long
def test_named_hosts_take_the_groups_place_and_the_group_theirs_and_nothing_is_lost(place: Platform) -> None:
    named = place.changed(MONAI_AWS_FLEET="hosts", MONAI_AWS_HOST_COUNT="1")
    hosts(named)
    assert asked(place).find() is None
    assert LaunchTemplates(place.clients).find(place.settings.names.fleet_group) is None
    (host,) = place.machines(ROLE_INFERENCE)
    assert TAG_GROUP not in host.tags
    job = place.upload("input/moved.zip", tiny_study_zip(wish="tiny:sleep=5"))
    eventually(lambda: place.machines(ROLE_INFERENCE)[0].state == "running", 60)
    hosts(place)
    assert [record.status for record in place.answers([job], 240)[job]] == [Status.SUCCEEDED]
    assert host.id not in [each.id for each in place.machines(ROLE_INFERENCE)]
    until_empty(place)


@pytest.mark.parametrize("instances", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_teardown_takes_the_group_first_and_leaves_nothing_of_it(place: Platform, instances: int) -> None:
    if not group_is_there(place):
        hosts(place)
    asked(place).ask_for(instances)
    eventually(lambda: len(group(place).instances) == instances, 120)
    removed = remove_group(place)
    assert removed[0].kind is Kind.SCALING_GROUP
    down = Teardown(place.clients, place.settings, place.log.append)
    assert [thing for thing in down.inventory() if thing.kind in OF_A_GROUP] == []
    assert not asked(place).has_alarm()
