"""A short-lived machine is found again and ended although the run broke off between two answers of AWS."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from monai_aws_pipeline.cloud.instances import LaunchSpec, Machine, Machines, RootVolume, short_lived
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import Tags, tag_filters
from monai_aws_pipeline.operations.sweep import short_lived_runs, sweep
from monai_aws_pipeline.remote import KeyPair

EXPIRES = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Interrupted(BaseException):
    """What a cancelled run raises is no Exception either."""


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        boto3.client("iam").create_instance_profile(InstanceProfileName="profile")
        yield Clients("us-east-1")


def left(clients: Clients) -> list[str]:
    filters = tag_filters("unit")
    return [
        *(machine.id for machine in Machines(clients.ec2, "unit").find()),
        *(pair["KeyName"] for pair in clients.ec2.describe_key_pairs(Filters=filters)["KeyPairs"]),
        *(group["GroupId"] for group in clients.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]),
        *(volume["VolumeId"] for volume in clients.ec2.describe_volumes(Filters=filters)["Volumes"]),
    ]


def spec(clients: Clients, run: str = "run") -> LaunchSpec:
    image = clients.ec2.register_image(Name=f"base {run}", RootDeviceName="/dev/sda1")["ImageId"]
    tags = Tags("unit", "map-build", "me", run, "unit", EXPIRES)
    return LaunchSpec(image, ("g4dn.xlarge",), "profile", tags, "#cloud-config\n{}", RootVolume(8), "")


def after(client: Any, operation: str) -> None:
    """Break off when AWS has done this and before the caller knows."""

    def interrupt(**_: Any) -> None:
        raise Interrupted(operation)

    client.meta.events.register(f"after-call.ec2.{operation}", interrupt)


@pytest.mark.parametrize("operation", ["CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "ImportKeyPair", "RunInstances"])
def test_what_was_made_and_not_yet_told_goes_too(clients: Clients, operation: str):
    after(clients.ec2_launches if operation == "RunInstances" else clients.ec2, operation)
    machines, said = Machines(clients.ec2, "unit", clients.ec2_launches), list[str]()
    key = KeyPair.fresh().public
    with (
        pytest.raises(Interrupted, match=operation),
        short_lived(machines, spec(clients), public_key=key, ssh_from="192.0.2.1/32", report=said.append),
    ):
        pytest.fail("the block is not reached")
    assert left(clients) == []


def test_another_blocks_machine_stays(clients: Clients):
    machines = Machines(clients.ec2, "unit", clients.ec2_launches)
    with short_lived(machines, spec(clients, "one"), report=lambda _: None) as outer:
        with short_lived(machines, spec(clients, "two"), report=lambda _: None):
            pass
        found = machines.look(outer.id)
        assert found is not None
        assert found.state == "running"
    assert left(clients) == []


def slow(monkeypatch: pytest.MonkeyPatch, *states: str) -> None:
    """Let a machine that is terminated be seen in these states first."""
    left = list(states)
    genuine = Machines.look

    def look(self: Machines, machine_id: str) -> Machine | None:
        machine = genuine(self, machine_id)
        ended = machine and machine.state == "terminated" and left
        return replace(machine, state=left.pop(0)) if machine and ended else machine

    monkeypatch.setattr(Machines, "look", look)


def test_whoever_waits_for_a_machines_end_is_told_so_at_once(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    slow(monkeypatch, "shutting-down", "shutting-down")
    machines, said = Machines(clients.ec2, "unit", clients.ec2_launches), list[str]()
    with short_lived(machines, spec(clients), report=said.append) as machine:
        pass
    assert f"machine {machine.id} is shutting-down; waiting until it is terminated" in said
    assert said[-1].startswith(f"machine {machine.id} terminated")


def test_whoever_waits_for_a_group_is_told_so_at_once(clients: Clients):
    machines, said, held = Machines(clients.ec2, "unit"), list[str](), [1, 2]
    group = machines.security_group(spec(clients).tags, "x")

    def hold(**_: Any) -> None:
        if held:
            held.pop()
            raise ClientError({"Error": {"Code": "DependencyViolation"}}, "DeleteSecurityGroup")

    clients.ec2.meta.events.register("before-call.ec2.DeleteSecurityGroup", hold)
    machines.delete_security_group(group, said.append)
    assert said == [f"waiting until no machine holds the security group {group} any more"]
    assert left(clients) == []
    held[:] = [1]
    with pytest.raises(ClientError, match="DependencyViolation"):
        machines.delete_security_group(group, seconds=0)


def test_one_step_that_resists_does_not_keep_the_rest_from_going(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    machines, said = Machines(clients.ec2, "unit", clients.ec2_launches), list[str]()

    def refuse(name: str) -> None:
        raise ClientError({"Error": {"Code": "InternalError"}}, "DeleteKeyPair")

    monkeypatch.setattr(machines, "delete_key", refuse)
    with short_lived(machines, spec(clients), public_key=KeyPair.fresh().public, report=said.append):
        pass
    assert len(left(clients)) == 1
    assert said[-1].startswith("left to the sweep: delete key pair")


def test_the_sweep_removes_what_is_overdue_and_leaves_the_rest(clients: Clients):
    machines = Machines(clients.ec2, "unit", clients.ec2_launches)
    for run in ("ended", "running"):
        tags = spec(clients, run).tags
        group = machines.security_group(tags, "x")
        machines.import_key(tags, KeyPair.fresh().public)
        machines.launch(LaunchSpec(**{**spec(clients, f"{run} ").__dict__, "tags": tags, "security_group": group}), lambda _: None)
        clients.ec2.create_volume(
            AvailabilityZone="us-east-1a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": tags.as_list()}]
        )
    assert short_lived_runs(clients, "unit") == {"ended", "running"}
    removed = sweep(clients, "unit", run_ids={"ended"}, report=lambda _: None)
    assert len(removed) == 4
    assert short_lived_runs(clients, "unit") == {"running"}
    assert sweep(clients, "unit", run_ids=None, report=lambda _: None, now=EXPIRES - timedelta(seconds=1)) == []
    assert len(sweep(clients, "unit", run_ids=None, report=lambda _: None, now=EXPIRES + timedelta(seconds=1))) == 4
    assert left(clients) == []
