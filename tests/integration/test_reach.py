"""Machines in a private subnet, reached through an EC2 Instance Connect Endpoint: the way in, and everything that closes it.

The endpoint is the embedded AWS's: a web socket server that verifies signature and permission and forwards to real machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from monai_aws_pipeline.cloud.connect_endpoint import (
    ConnectEndpoint,
    EndpointError,
    Tunnel,
    TunnelError,
    find_endpoint,
    open_tunnel,
)
from monai_aws_pipeline.cloud.errors import AccessError
from monai_aws_pipeline.cloud.images import Images
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ROLE_MAP_BUILD
from monai_aws_pipeline.deployment.build_machine import BuildMachine, build_machine, machines_of
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.remote import ConnectError, KeyPair, connect
from tests.integration.local_cloud.conftest import Account, unique
from tests.support.platform import Platform, environment, platform

pytestmark = pytest.mark.cloud
ZONE = "us-east-1a"


@dataclass(frozen=True)
class Private:
    """A deployment whose machines go into a private subnet of a VPC of their own, and the administrator of its account."""

    place: Platform
    account: Account
    vpc: str
    subnet: str
    endpoint: str

    def changed(self, **variables: str) -> Private:
        return replace(self, place=self.place.changed(**variables))

    def clients_of(self, statements: list[dict[str, Any]]) -> Clients:
        """Clients of somebody who may do just this."""
        return self.clients_with(*self.account.assume(statements))

    def clients_with(self, access: str, secret: str, token: str | None = None) -> Clients:
        """Clients with these keys."""
        with environment(self.place.cloud.environment):
            made = Clients("us-east-1", boto3.Session(access, secret, token, region_name="us-east-1"))
            assert made.ec2.meta.region_name == "us-east-1"  # made now, for this endpoint
        return made


@pytest.fixture(scope="module")
def private(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    account = Account(local_cloud)
    ec2 = account.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.90.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.90.1.0/24", AvailabilityZone=ZONE)["Subnet"]["SubnetId"]
    made = ec2.create_instance_connect_endpoint(SubnetId=subnet)["InstanceConnectEndpoint"]
    assert made["State"] == "create-in-progress"
    variables = {"MONAI_AWS_SUBNETS": subnet, "MONAI_AWS_REACH": "endpoint", "MONAI_AWS_SSH_PORT": "22"}
    with platform(local_cloud, "reach", tmp_path_factory.mktemp("reach"), **variables) as place:
        yield Private(place, account, vpc, subnet, made["InstanceConnectEndpointId"])
    ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=made["InstanceConnectEndpointId"])


def test_an_endpoint_that_is_still_being_made_is_said(private: Private):
    ec2 = private.account.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.91.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.91.1.0/24", AvailabilityZone=ZONE)["Subnet"]["SubnetId"]
    name = ec2.create_instance_connect_endpoint(SubnetId=subnet)["InstanceConnectEndpoint"]["InstanceConnectEndpointId"]
    other = private.changed(MONAI_AWS_SUBNETS=subnet).place
    subnets = machines_of(other.clients, other.settings).subnets()
    with pytest.raises(EndpointError, match=f"{name} is still being made"):
        find_endpoint(other.clients.ec2, subnets)
    assert find_endpoint(other.clients.ec2, subnets).id == name
    ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=name)
    with pytest.raises(
        EndpointError, match=rf"has no EC2 Instance Connect Endpoint.*create-instance-connect-endpoint.*--subnet-id {subnet}"
    ):
        find_endpoint(other.clients.ec2, subnets)


@pytest.fixture(scope="module")
def built(private: Private) -> Iterator[BuildMachine]:
    """A machine as builds have one: launched and reached by the operator role, in the private subnet."""
    place = private.place
    subnets = machines_of(place.clients, place.settings).subnets()
    with pytest.raises(EndpointError, match="is still being made"):
        find_endpoint(place.clients.ec2, subnets)
    image = Images(place.clients.ec2, place.clients.ssm, place.settings.deployment).base(place.settings.base_ami, "amazon").id
    with build_machine(place.clients, place.settings, role=ROLE_MAP_BUILD, image=image, run_id="reach", report=place.log.append) as made:
        yield made


def test_a_build_machine_is_reached_through_the_endpoint_and_by_no_other_way(private: Private, built: BuildMachine):
    assert built.remote.run("hostname; whoami", lambda _: None, what="Asking", seconds=60)[-1] == "ubuntu"
    described = private.account.client("ec2").describe_instances(InstanceIds=[built.machine.id])["Reservations"][0]["Instances"][0]
    assert "PublicIpAddress" not in described
    assert any(f"{private.endpoint} in {private.subnet}" in line for line in private.place.log)
    groups = [group["GroupId"] for group in described["SecurityGroups"]]
    ec2 = private.account.client("ec2")
    (rule,) = [rule for group in ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"] for rule in group["IpPermissions"]]
    endpoint = ec2.describe_instance_connect_endpoints(InstanceConnectEndpointIds=[private.endpoint])["InstanceConnectEndpoints"][0]
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == endpoint["SecurityGroupIds"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpRanges"]) == (22, 22, [])


def test_its_ssh_server_lets_nobody_in_who_does_not_come_through_the_endpoint(private: Private, built: BuildMachine):
    key, port = KeyPair.fresh(), int(private.place.cloud.environment["MONAI_AWS_SSH_PORT"])
    authorise = f"echo '{key.public}' | sudo tee -a ~/.ssh/authorized_keys >/dev/null; cat /etc/ssh/ssh_host_ed25519_key.pub"
    host_key = built.remote.run(authorise, lambda _: None, what="Letting in", seconds=60)[-1]
    with (
        pytest.raises(ConnectError, match="Authentication"),
        connect(built.machine.address, port=port, user="ubuntu", key=key, host_key=host_key, seconds=1),
    ):
        pass


def test_a_folder_goes_through_and_a_tunnel_that_ends_is_made_anew(
    private: Private, built: BuildMachine, local_cloud: LocalCloud, tmp_path: Path
):
    (tmp_path / "layers.tar").write_bytes(bytes(range(256)) * 40_000)
    assert built.remote.send_folder(tmp_path, "sent", lambda _: None, what="Sending") == 10_240_000
    said: list[str] = []

    def end_it(line: str) -> None:
        said.append(line)
        if line == "begun":
            local_cloud.order_fault(end_tunnels=built.machine.id)
        if "followed through a new one" in line:
            built.remote.run("touch /tmp/go-on", lambda _: None, what="Going on", seconds=60)

    command = "echo begun; while ! test -e /tmp/go-on; do sleep 0.1; done; sha256sum < sent/layers.tar"
    lines = built.remote.run(command, end_it, what="Building", seconds=7200)
    assert lines[-1].split()[0] == hashlib.sha256((tmp_path / "layers.tar").read_bytes()).hexdigest()
    assert any("ordered to end" in line for line in said)
    local_cloud.order_fault(end_tunnels=built.machine.id)
    assert built.remote.run("echo still here", lambda _: None, what="Asking", seconds=60) == ["still here"]


# ------------------------------------------------------------------------------------------------------------------ what is refused


@pytest.fixture
def endpoint(private: Private) -> ConnectEndpoint:
    subnets = machines_of(private.place.clients, private.place.settings).subnets()
    return find_endpoint(private.place.clients.ec2, subnets)


def open_port(port: int = 22, seconds: int = 3600) -> dict[str, Any]:
    """A statement that allows a tunnel under the conditions that AWS's documentation shows."""
    conditions = {
        "NumericEquals": {"ec2-instance-connect:remotePort": str(port)},
        "NumericLessThanEquals": {"ec2-instance-connect:maxTunnelDuration": str(seconds)},
    }
    return {"Effect": "Allow", "Action": "ec2-instance-connect:OpenTunnel", "Resource": "*", "Condition": conditions}


def first_words(tunnel: Tunnel) -> bytes:
    """What the far side says first; nothing where there is none."""
    tunnel.settimeout(30)
    try:
        return tunnel.recv(3)
    finally:
        tunnel.close()


def test_the_operator_role_may_open_a_tunnel_and_who_lacks_the_permission_is_told(
    private: Private, built: BuildMachine, endpoint: ConnectEndpoint
):
    address = built.machine.address
    assert first_words(open_tunnel(private.place.clients, endpoint, address)) == b"SSH"
    assert first_words(open_tunnel(private.clients_of([open_port()]), endpoint, address)) == b"SSH"
    for statements in ([], [open_port(port=3389)], [open_port(seconds=60)]):
        with pytest.raises(AccessError, match=r"AccessDenied.*bootstrap.yaml.*OpenTunnel"):
            open_tunnel(private.clients_of(statements), endpoint, address)


def test_a_signature_of_somebody_unknown_is_refused(private: Private, built: BuildMachine, endpoint: ConnectEndpoint):
    for access, secret in (("AKIA0000000000000000", "x"), (private.account.admin_keys()[0], "not the administrator's")):
        with pytest.raises(AccessError, match="AccessDenied"):
            open_tunnel(private.clients_with(access, secret), endpoint, built.machine.address)


def test_an_address_that_no_machine_of_the_vpc_has_is_not_reached(private: Private, built: BuildMachine, endpoint: ConnectEndpoint):
    nobody = built.machine.address.rpartition(".")[0] + ".249"
    tunnel = open_tunnel(private.place.clients, endpoint, nobody)
    assert (first_words(tunnel), tunnel.ended) == (b"", "Unable to connect to target")
    for outside in ("127.0.0.1", "169.254.169.254", "192.0.2.7"):
        with pytest.raises(EndpointError, match="PrivateIpAddress is not valid"):
            open_tunnel(private.place.clients, endpoint, outside)


def test_a_machine_whose_group_does_not_let_the_endpoint_in_is_not_reached(
    private: Private, built: BuildMachine, endpoint: ConnectEndpoint
):
    ec2 = private.account.client("ec2")
    closed = ec2.create_security_group(GroupName=unique("closed"), Description="no way in", VpcId=private.vpc)["GroupId"]
    before = [group["GroupId"] for group in described(private, built.machine)["SecurityGroups"]]
    ec2.modify_instance_attribute(InstanceId=built.machine.id, Groups=[closed])
    tunnel = open_tunnel(private.place.clients, endpoint, built.machine.address)
    assert (first_words(tunnel), tunnel.ended) == (b"", "Unable to connect to target")
    ec2.modify_instance_attribute(InstanceId=built.machine.id, Groups=before)
    assert first_words(open_tunnel(private.place.clients, endpoint, built.machine.address)) == b"SSH"


def described(private: Private, machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = private.account.client("ec2").describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
    return found


def test_an_endpoint_that_is_gone_or_silent_is_said_without_the_signed_address(private: Private, endpoint: ConnectEndpoint):
    with pytest.raises(EndpointError, match="InstanceConnectEndpointId is not valid") as error:
        open_tunnel(private.place.clients, replace(endpoint, id="eice-0123456789abcdef0"), "127.64.0.10")
    assert "X-Amz" not in str(error.value)
    with pytest.raises(TunnelError, match="does not answer") as silent:
        open_tunnel(private.place.clients, replace(endpoint, address="127.0.0.1:9"), "127.64.0.10")
    assert "X-Amz" not in str(silent.value)
    assert silent.value.__cause__ is None


def test_a_tunnel_lasts_as_long_as_was_asked_for(private: Private, built: BuildMachine, endpoint: ConnectEndpoint):
    tunnel = open_tunnel(private.place.clients, endpoint, built.machine.address, seconds=1)
    tunnel.settimeout(60)
    heard = b""
    while part := tunnel.recv(1 << 16):  # an SSH server says its version and its algorithms, and waits then
        heard += part
    assert heard.startswith(b"SSH")
    assert tunnel.ended == "The maximum tunnel duration is over"
    with pytest.raises(EndpointError, match="MaxTunnelDuration"):
        open_tunnel(private.clients_of([open_port(seconds=9999)]), endpoint, built.machine.address, seconds=3601)
