"""The decisions of the platform's assets."""

from dataclasses import replace
from datetime import UTC, datetime

from monai_aws_pipeline.cloud.instances import Machine, RootVolume, Subnet, launch_attempts
from monai_aws_pipeline.cloud.tags import TAG_REPLACE
from monai_aws_pipeline.contract import TAG_CONTENT, TAG_FAILED_STARTS, FailedStarts
from monai_aws_pipeline.deployment.ami import AmiInputs
from monai_aws_pipeline.deployment.inference_host import agent_settings, host_content, plan_hosts
from monai_aws_pipeline.settings import load_settings


def _host(name, content):
    return Machine(name, "stopped", "g4dn.xlarge", "ami-1", "127.0.0.1", {TAG_CONTENT: content}, "")


def test_a_host_made_from_the_same_inputs_is_kept():
    plan = plan_hosts([_host("i-1", "a")], "a", 1)
    assert (plan.keep, plan.retire, plan.create) == ((_host("i-1", "a"),), (), 0)


def test_a_host_made_from_other_inputs_is_replaced():
    plan = plan_hosts([_host("i-1", "old")], "new", 1)
    assert plan.create == 1
    assert [machine.id for machine in plan.retire] == ["i-1"]


def test_more_hosts_than_wanted_are_retired_and_fewer_are_made():
    assert len(plan_hosts([_host(f"i-{n}", "a") for n in range(3)], "a", 1).retire) == 2
    assert plan_hosts([_host("i-1", "a")], "a", 3).create == 2


def _failing(name: str, times: int, zone: str = "us-east-1a", **tags: str) -> Machine:
    counted = FailedStarts(times, datetime(2026, 11, 28, tzinfo=UTC), "InsufficientInstanceCapacity").to_text()
    return replace(_host(name, "a"), tags={TAG_CONTENT: "a", TAG_FAILED_STARTS: counted, **tags}, zone=zone)


def test_a_host_that_could_not_start_so_often_is_replaced_in_another_zone_and_one_that_could_is_kept():
    plan = plan_hosts([_failing("i-1", 3), _failing("i-2", 2, "us-east-1b")], "a", 2, replace_after=3)
    assert ([machine.id for machine in plan.keep], plan.create) == (["i-2"], 1)
    assert plan.reasons == {"i-1": "could not start 3 times in a row, the last time for InsufficientInstanceCapacity"}
    subnets = [Subnet("s-a", "us-east-1a", "v"), Subnet("s-b", "us-east-1b", "v"), Subnet("s-c", "us-east-1c", "v")]
    offered = {"g4dn.xlarge": [subnet.zone for subnet in subnets]}
    tried = launch_attempts(["g4dn.xlarge"], offered, subnets, (*plan.avoid_zones, "us-east-1b"))
    assert [subnet.zone for _, subnet in tried] == ["us-east-1c", "us-east-1b", "us-east-1a"], "the zone that has nothing comes last of all"


def test_no_host_is_replaced_by_itself_unless_the_settings_say_so():
    assert plan_hosts([_failing("i-1", 99)], "a", 1).create == 0


def test_a_host_that_an_operator_named_is_replaced_before_any_other():
    asked = replace(_host("i-1", "a"), tags={TAG_CONTENT: "a", TAG_REPLACE: "2026-11-28T09:00:00.000Z"})
    plan = plan_hosts([asked, _host("i-2", "a")], "a", 1)
    assert ([machine.id for machine in plan.keep], plan.create) == (["i-2"], 0)
    assert "asked for" in plan.reasons["i-1"]


def test_each_input_of_an_image_changes_its_content():
    inputs = AmiInputs("bake", "ami-1", "bundle", "580", 60, True, "")
    changes = {
        **{"base": "ami-2", "bundle": "x", "min_driver": "", "volume_gib": 61, "mode": "stock"},
        **{"encrypted": False, "kms_key": "alias/ours"},
    }
    others = [replace(inputs, **{name: value}) for name, value in changes.items()]
    assert len({each.content for each in [inputs, *others]}) == 8
    assert inputs.content == AmiInputs("bake", "ami-1", "bundle", "580", 60, True, "").content


def test_the_agent_is_told_no_secret_and_a_changed_setting_makes_another_host():
    settings = load_settings(bucket="studies-bucket", deployment="ward")
    agent = agent_settings(settings)
    assert agent["study_key_secret"] == "monai-aws/ward/study-key"
    assert agent["usd_per_hour"]["g4dn.xlarge"] == 0.526
    changed = agent_settings(settings.model_copy(update={"idle_stop_minutes": 9.0}))
    assert host_content("ami-1", agent, RootVolume(150)) != host_content("ami-1", changed, RootVolume(150))


def test_a_larger_root_volume_makes_the_hosts_anew():
    agent = agent_settings(load_settings(bucket="studies-bucket"))
    assert host_content("ami-1", agent, RootVolume(150)) != host_content("ami-1", agent, RootVolume(200))
