"""Launch order and user data of machines."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from monai_aws_pipeline.cloud.errors import CapacityError
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume, Subnet, cloud_config, launch_attempts
from monai_aws_pipeline.cloud.tags import Tags

SUBNETS = [Subnet(f"subnet-{zone}", f"us-east-1{zone}", "vpc-1") for zone in "bac"]


def test_every_zone_of_the_preferred_type_is_tried_before_the_next_type():
    offered = {"g5.xlarge": ["us-east-1a"], "g4dn.xlarge": ["us-east-1b", "us-east-1a"]}
    assert list(launch_attempts(("g4dn.xlarge", "g5.xlarge"), offered, SUBNETS)) == [
        ("g4dn.xlarge", SUBNETS[1]),
        ("g4dn.xlarge", SUBNETS[0]),
        ("g5.xlarge", SUBNETS[1]),
    ]


def test_zones_where_others_are_come_last_and_the_one_with_most_of_them_at_the_end():
    offered = {"g5.xlarge": ["us-east-1a", "us-east-1b", "us-east-1c"]}
    here = ("us-east-1a", "us-east-1b", "us-east-1a")
    order = [subnet.zone for _, subnet in launch_attempts(("g5.xlarge",), offered, SUBNETS, here)]
    assert order == ["us-east-1c", "us-east-1b", "us-east-1a"]


def test_a_zone_without_a_subnet_and_a_type_that_is_not_offered_are_passed_over():
    assert list(launch_attempts(("p9.huge",), {}, SUBNETS)) == []
    assert list(launch_attempts(("g5.xlarge",), {"g5.xlarge": ["us-east-1f"]}, SUBNETS)) == []


@given(st.text(), st.text())
def test_no_value_can_break_out_of_the_user_data(content, command):
    text = cloud_config(host_key=("private\n: [", "public"), files=[{"path": "/etc/x", "content": content}], commands=[command])
    first, _, body = text.partition("\n")
    parsed = json.loads(body)
    assert first == "#cloud-config"
    assert parsed["write_files"][0]["content"] == content
    assert parsed["runcmd"] == [command]
    assert parsed["ssh_deletekeys"] is True


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield boto3.client("ec2", region_name="us-east-1")


class _NoSpot:
    """EC2 that has no spot machine to give."""

    def __init__(self, ec2: Any) -> None:
        self._ec2 = ec2

    def run_instances(self, **request: Any) -> Any:
        if "InstanceMarketOptions" in request:
            raise ClientError({"Error": {"Code": "InsufficientInstanceCapacity", "Message": "none"}}, "RunInstances")
        return self._ec2.run_instances(**request)


def _spec(ec2: Any, markets: tuple[str, ...]) -> LaunchSpec:
    image = ec2.register_image(Name="base", RootDeviceName="/dev/sda1")["ImageId"]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    tags = Tags("ward", "map-build", "me", "run", "name", None)
    boto3.client("iam", region_name="us-east-1").create_instance_profile(InstanceProfileName="builder")
    fields = {"image": image, "types": ("t3.micro",), "profile": "builder", "tags": tags, "user_data": "", "security_group": group}
    return LaunchSpec(**fields, volume=RootVolume(8), markets=markets)


def test_a_spot_machine_is_bought_where_the_settings_say_so(ec2: Any):
    machine = Machines(ec2, "ward").launch(_spec(ec2, ("spot",)), lambda _: None)
    found = ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
    assert found["InstanceLifecycle"] == "spot"


def test_without_spot_capacity_the_next_market_is_tried_where_the_settings_allow_it(ec2: Any):
    said: list[str] = []
    machines = Machines(ec2, "ward", _NoSpot(ec2))  # type: ignore[arg-type]
    spec = _spec(ec2, ("spot", "on-demand"))
    machine = machines.launch(spec, said.append)
    assert "InstanceLifecycle" not in ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
    assert any("trying the next market" in line for line in said)
    with pytest.raises(CapacityError):
        machines.launch(replace(spec, markets=("spot",)), said.append)


def test_a_group_that_may_not_be_deleted_is_said_and_one_that_is_held_is_waited_for(ec2: Any):
    machines = Machines(ec2, "unit")
    group = machines.security_group(Tags("unit", "map-build", "o", "run", "n"), "x")
    refusals = ["DependencyViolation"]

    def refuse(**_: Any) -> None:
        if refusals:
            raise ClientError({"Error": {"Code": refusals.pop(0)}}, "DeleteSecurityGroup")

    ec2.meta.events.register("before-parameter-build.ec2.DeleteSecurityGroup", refuse)
    said: list[str] = []
    machines.delete_security_group(group, said.append)
    assert said == [f"waiting until no machine holds the security group {group} any more"]
    assert machines.security_groups() == []
    refusals.append("UnauthorizedOperation")
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        machines.delete_security_group(group, said.append)
