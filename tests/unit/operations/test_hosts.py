"""Inference hosts as an operator sees them, and which of them are to be replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, SkipReason, build_sensor_context
from moto import mock_aws

from monai_aws_pipeline.automation import hosts_to_replace
from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.tags import TAG_REPLACE
from monai_aws_pipeline.contract import TAG_FAILED_STARTS, TAG_GROUP, FailedStarts
from monai_aws_pipeline.operations.hosts import UnknownHostError, cannot_start, lines, replacement_key, why_replaced
from monai_aws_pipeline.resources import CloudResource, SettingsResource

AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)


def host(state: str = "stopped", starts: int = 0, reason: str = "", **tags: str) -> Machine:
    counted = {TAG_FAILED_STARTS: FailedStarts(starts, AT, "InsufficientInstanceCapacity").to_text()} if starts else {}
    return Machine("i-1", state, "g4dn.xlarge", "ami-1", "", {**counted, **tags}, "", zone="us-east-1a", reason=reason)


def test_a_host_is_replaced_after_so_many_failed_starts_and_never_while_it_runs():
    assert "3 times in a row" in why_replaced(host(starts=3), 3)
    assert not why_replaced(host(starts=2), 3)
    assert not why_replaced(host("running", starts=3), 3), "it could start after all"
    assert not why_replaced(host(starts=3), 0)
    assert "asked for at NOON" in why_replaced(host("running", **{TAG_REPLACE: "NOON"}), 0)


def test_a_replacement_that_failed_is_repeated_after_as_many_failures_again():
    assert replacement_key(host(starts=3), 3) == replacement_key(host(starts=5), 3) != replacement_key(host(starts=6), 3)
    assert replacement_key(host(**{TAG_REPLACE: "NOON"}), 0) != replacement_key(host(**{TAG_REPLACE: "EVENING"}), 0)


@pytest.mark.parametrize(
    ("seen", "failed"),
    [
        (host(), False),
        (host(starts=1), True),
        (host(reason="Client.InternalError"), True),
        (host(reason="Client.UserInitiatedShutdown"), False),
        (host("running", starts=1), False),
    ],
)
def test_whose_last_start_failed_is_told_by_its_tag_or_by_aws(seen: Machine, failed: bool):
    assert cannot_start(seen) is failed


def test_an_operator_reads_what_the_last_failed_start_was():
    refused, ended, well = lines([host(starts=2), host(reason="Client.InternalError"), host()], 2)
    assert refused.failure.startswith("2026-11-28T09:30Z InsufficientInstanceCapacity: AWS has no such machine free")
    assert "2 times in a row" in refused.replace
    assert ended.failure.startswith("Client.InternalError: The machine's disk could not be used")
    assert (well.failure, well.replace) == ("", "")


@pytest.mark.parametrize(
    "text", ["", "3", "x y z", "-1 2026-11-28T09:30:00Z A", "3 yesterday A", "3 2026-11-28T09:30:00Z A;B", "9999 2026-11-28T09:30:00Z A"]
)
def test_a_tag_that_somebody_else_has_written_counts_nothing(text: str):
    assert FailedStarts.parse(text) == FailedStarts()


def test_what_is_counted_is_read_as_it_was_written():
    counted = FailedStarts().failed("Server.InternalError", AT)
    assert FailedStarts.parse(counted.to_text()) == counted


# ------------------------------------------------------------------------------------------------------ command line and sensor


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "unit")
    with mock_aws():
        yield boto3.client("ec2", region_name="us-east-1")


def launched(ec2: Any, starts: int = 0) -> str:
    tags = {"monai-aws:deployment": "unit", "monai-aws:role": "inference"} | host(starts=starts).tags
    spec = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
    image = ec2.register_image(Name="any", RootDeviceName="/dev/sda1")["ImageId"]
    name = str(ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=spec)["Instances"][0]["InstanceId"])
    ec2.stop_instances(InstanceIds=[name])
    return name


def marked(ec2: Any) -> set[str]:
    found = ec2.describe_instances(Filters=[{"Name": "tag-key", "Values": [TAG_REPLACE]}])["Reservations"]
    return {instance["InstanceId"] for group in found for instance in group["Instances"]}


def test_hosts_lists_them_for_people_and_programs(ec2: Any):
    name = launched(ec2, starts=2)
    shown = CliRunner().invoke(cli, ["hosts", "--json"])
    (line,) = json.loads(shown.output)
    assert (line["id"], line["state"], line["failed_starts"]) == (name, "stopped", 2)
    assert line["zone"].startswith("us-east-1")
    assert name in CliRunner().invoke(cli, ["hosts"], env={"COLUMNS": "200"}).output


def test_replace_marks_the_named_host_or_all_whose_start_failed_and_no_other(ec2: Any):
    failing, well = launched(ec2, starts=1), launched(ec2)
    done = CliRunner().invoke(cli, ["hosts", "replace", "--all-failed"])
    assert (done.exit_code, marked(ec2)) == (0, {failing})
    assert "hosts_to_replace" in done.output
    assert CliRunner().invoke(cli, ["hosts", "replace", well]).exit_code == 0
    assert marked(ec2) == {failing, well}


def test_replace_names_a_host_that_is_not_there_and_says_when_there_is_nothing_to_do(ec2: Any):
    launched(ec2)
    unknown = CliRunner().invoke(cli, ["hosts", "replace", "i-0123"])
    assert isinstance(unknown.exception, UnknownHostError)
    assert "monai-aws hosts" in str(unknown.exception)
    assert "nothing is to be replaced" in CliRunner().invoke(cli, ["hosts", "replace", "--all-failed"]).output
    assert CliRunner().invoke(cli, ["hosts", "replace"]).exit_code == 2
    assert not marked(ec2)


def test_an_instance_of_a_group_is_not_marked_and_the_remedy_is_one_that_the_operator_may_call(ec2: Any):
    name = launched(ec2, starts=1)
    ec2.create_tags(Resources=[name], Tags=[{"Key": TAG_GROUP, "Value": "monai-aws-unit-inference-hosts"}])
    asked = CliRunner().invoke(cli, ["hosts", "replace", name])
    assert isinstance(asked.exception, UnknownHostError)
    assert "terminate-instance-in-auto-scaling-group --no-should-decrement-desired-capacity" in str(asked.exception)
    assert "nothing is to be replaced" in CliRunner().invoke(cli, ["hosts", "replace", "--all-failed"]).output
    assert not marked(ec2)


def look(instance: DagsterInstance, after: int) -> Any:
    settings = SettingsResource(overrides={"deployment": "unit", "replace_host_after": after})
    resources = {"settings": settings, "cloud": CloudResource(region="us-east-1")}
    return hosts_to_replace(build_sensor_context(instance=instance, resources=resources))


def test_the_sensor_starts_a_run_for_what_is_to_be_replaced_and_none_beside_another(ec2: Any):
    with DagsterInstance.ephemeral() as instance:
        assert isinstance(look(instance, 3), SkipReason)
        name = launched(ec2, starts=3)
        assert isinstance(look(instance, 0), SkipReason), "nobody allowed it"
        request = look(instance, 3)
        assert isinstance(request, RunRequest)
        assert name in str(request.run_key)
        instance.add_run(DagsterRun(job_name="deploy_all", status=DagsterRunStatus.STARTED))
        assert isinstance(look(instance, 3), SkipReason), "that run makes hosts too"
