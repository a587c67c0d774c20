"""The decisions of the platform's assets."""

from dataclasses import replace

from monai_aws_pipeline.cloud.instances import Machine, RootVolume
from monai_aws_pipeline.contract import TAG_CONTENT
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
