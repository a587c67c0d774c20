"""Every code that EC2 refuses a launch or start with ends as next zone, type or market, another try, or a named error with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from monai_aws_pipeline.cloud.errors import CloudError, LaunchError
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.fidelity.conftest import refusal
from tests.fidelity.played import REFUSALS, Played, play
from tests.integration.local_cloud.conftest import Account

TABLE = [pytest.param(each, marks=pytest.mark.behaviour(each.id), id=each.id) for each in REFUSALS]


@pytest.mark.cloud
@pytest.mark.parametrize("played", TABLE)
def test_a_refusal_comes_with_awss_status_and_words_embedded(played: Played, account: Account, local_cloud: LocalCloud):
    local_cloud.order_fault(service="ec2", action=played.call, code=played.code)
    ec2 = account.client("ec2")
    with pytest.raises(ClientError) as error:
        if played.call == "RunInstances":
            ec2.run_instances(ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1)
        else:
            ec2.start_instances(InstanceIds=["i-0123456789abcdef0"])
    code, status, message = refusal(error)
    assert (code, status) == (played.code, played.status)
    assert played.words in message


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    with pytest.MonkeyPatch.context() as patched, mock_aws():
        patched.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        patched.setattr("monai_aws_pipeline.cloud.instances.time.sleep", lambda _: None)
        boto3.client("iam").create_instance_profile(InstanceProfileName="profile")
        yield Clients("us-east-1")


def spec(clients: Clients, machines: Machines, deployment: str, markets: tuple[str, ...] = ("on-demand",)) -> LaunchSpec:
    image = clients.ec2.register_image(Name="base", RootDeviceName="/dev/sda1")["ImageId"]
    tags = Tags(deployment, "map-build", "me", "run", "unit", datetime(2026, 1, 1, tzinfo=UTC))
    group = machines.security_group(tags, "x")
    return LaunchSpec(image, ("g4dn.xlarge", "m5.xlarge"), "profile", tags, "#cloud-config\n{}", RootVolume(150), group, markets=markets)


@pytest.mark.parametrize("played", TABLE)
def test_a_refusal_ends_as_the_next_way_or_as_a_named_error_handled(played: Played, clients: Clients):
    machines = Machines(clients.ec2, played.id, clients.ec2_launches)
    if played.call == "StartInstances":
        play(clients.ec2_launches, played.call, played.code, played.status, f"x {played.words} y")
        with pytest.raises(CloudError) as error:
            machines.start("i-0123456789abcdef0")
        assert_named(error.value, played)
        return
    wanted = spec(clients, machines, played.id, ("spot", "on-demand"))
    asked = play(clients.ec2_launches, played.call, played.code, played.status, f"x {played.words} y")
    if played.end.startswith(("next", "retry")):
        machine = machines.launch(wanted, lambda _: None)
        assert ([each.id for each in machines.find()], machine.state, len(asked)) == ([machine.id], "running", 2)
        assert changed(*asked) == WAYS[played.end]
    else:
        with pytest.raises(CloudError) as error:
            machines.launch(wanted, lambda _: None)
        assert_named(error.value, played)
        assert (len(asked), machines.find()) == (1, [])


WAYS = {"next zone": {"SubnetId"}, "next type": {"InstanceType"}, "next market": {"MarketType"}, "retry": set()}
"""What the second call asks for that the first did not."""


def changed(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    names = {name: name.rpartition(".")[2] for name in first.keys() | second.keys()}
    return {
        short
        for name, short in names.items()
        if short in {"SubnetId", "InstanceType", "MarketType"} and first.get(name) != second.get(name)
    }


def assert_named(error: CloudError, played: Played) -> None:
    assert type(error).__name__ == played.end
    assert played.code in str(error)
    assert played.remedy in error.remedy


@pytest.mark.behaviour("refusal-unknown")
@pytest.mark.cloud
def test_a_code_that_nobody_has_seen_is_passed_on_as_it_is_embedded(account: Account, local_cloud: LocalCloud):
    local_cloud.order_fault(service="ec2", action="RunInstances", code="Quux.Frobnicated", message="The quux was frobnicated.", status=418)
    with pytest.raises(ClientError) as error:
        account.client("ec2").run_instances(ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1)
    assert refusal(error) == ("Quux.Frobnicated", 418, "The quux was frobnicated.")


@pytest.mark.behaviour("refusal-unknown")
def test_a_code_that_nobody_has_seen_is_said_with_awss_words_handled(clients: Clients):
    machines = Machines(clients.ec2, "unit", clients.ec2_launches)
    wanted = spec(clients, machines, "unit")
    play(clients.ec2_launches, "RunInstances", "Quux.Frobnicated", 400, "The quux was frobnicated.")
    with pytest.raises(LaunchError, match=r"map-build machine failed \(Quux.Frobnicated\).*'The quux was frobnicated.'.*Error codes"):
        machines.launch(wanted, lambda _: None)
