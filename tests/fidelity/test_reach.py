"""Machines that only their network reaches: the endpoint that leads to them, who may use it, and how its tunnels end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import boto3
import pytest
from botocore.exceptions import ClientError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as web_socket

from monai_aws_pipeline.cloud.connect_endpoint import ConnectEndpoint, EndpointError, Tunnel, TunnelError, find_endpoint, open_tunnel
from monai_aws_pipeline.cloud.errors import AccessError, EndedError
from monai_aws_pipeline.cloud.instances import Machine, Machines, RootVolume, cloud_config
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.profiles import REQUIRED_TAG
from monai_aws_pipeline.remote import ConnectError, HostKeyMismatchError, KeyPair, Remote, connect
from monai_aws_pipeline.remote import Tunnel as Way
from monai_aws_pipeline.settings import SettingsError, load_settings
from tests.fidelity.conftest import Buyer, refusal
from tests.integration.local_cloud.conftest import Account, unique
from tests.support.platform import environment

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour
REGION = "eu-west-2"
USER, HOST = KeyPair.fresh(), KeyPair.fresh()
Buy = Callable[..., Buyer]


@dataclass(frozen=True)
class Private:
    """A machine in a private subnet, the endpoint of its VPC, and the administrator of both."""

    account: Account
    clients: Clients
    endpoint: ConnectEndpoint
    vpc: str
    machine: Machine

    @property
    def ec2(self) -> Any:
        return self.account.client("ec2", region=REGION)

    def clients_with(self, access: str, secret: str, token: str | None = None) -> Clients:
        with environment(self.account.cloud.environment):
            made = Clients(REGION, boto3.Session(access, secret, token, region_name=REGION))
            assert made.ec2.meta.region_name == REGION  # made now, for this cloud
        return made

    def clients_of(self, *statements: dict[str, Any]) -> Clients:
        """Clients of somebody who may do just this."""
        return self.clients_with(*self.account.assume(list(statements)))

    def ssh(self, seconds: float = 60, host_key: str = HOST.public) -> AbstractContextManager[Remote]:
        way = Way(partial(open_tunnel, self.clients, self.endpoint, self.machine.address), 3600, f"the endpoint {self.endpoint.id}")
        return connect(self.machine.address, port=22, user="ubuntu", key=USER, host_key=host_key, tunnel=way, seconds=seconds)

    def refused(self, clients: Clients | None = None, **changes: str) -> tuple[int, str, str]:
        """Status, code and message with which the endpoint refuses a tunnel that is asked for so."""
        query = {
            "instanceConnectEndpointId": self.endpoint.id,
            "maxTunnelDuration": "3600",
            "privateIpAddress": self.machine.address,
            "remotePort": "22",
            **changes,
        }
        address = (clients or self.clients).signed_socket(
            f"{self.endpoint.address}/openTunnel?{urlencode(query)}", "ec2-instance-connect", 60
        )
        with pytest.raises(InvalidStatus) as error:
            web_socket(address, compression=None)
        body = json.loads(error.value.response.body or b"{}")
        return error.value.response.status_code, body["ErrorCode"], body["Message"]


def private_subnet(ec2: Any, second: int) -> tuple[str, str]:
    """A VPC and a subnet of it."""
    vpc = ec2.create_vpc(CidrBlock=f"10.{second}.0.0/16")["Vpc"]["VpcId"]
    return vpc, ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.{second}.1.0/24", AvailabilityZone=f"{REGION}a")["Subnet"]["SubnetId"]


@pytest.fixture(scope="module")
def private(local_cloud: LocalCloud) -> Iterator[Private]:
    account = Account(local_cloud)
    with environment(local_cloud.environment):
        clients = Clients(REGION)
        assert clients.ec2.meta.region_name == REGION
    vpc, subnet = private_subnet(clients.ec2, 90)
    clients.ec2.create_instance_connect_endpoint(SubnetId=subnet)
    clients.ec2.describe_instance_connect_endpoints()  # it is ready now
    buyer = Buyer(account, REGION)
    buyer.machines = machines = Machines(clients.ec2, buyer.deployment, subnets=(subnet,), public=False)
    endpoint = find_endpoint(clients.ec2, machines.subnets())
    spec = buyer.spec(
        group=machines.security_group(buyer.tags, "SSH from the endpoint", endpoint.groups[0]),
        key_name=machines.import_key(buyer.tags, USER.public),
        user_data=cloud_config(host_key=(HOST.private, HOST.public)),
    )
    try:
        yield Private(account, clients, endpoint, vpc, machines.launch(spec, buyer.said.append))
    finally:
        buyer.end()
        clients.ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=endpoint.id)


def first_words(tunnel: Tunnel) -> bytes:
    """What the far side says first; nothing where it says nothing."""
    tunnel.settimeout(60)
    try:
        return tunnel.recv(3)
    finally:
        tunnel.close()


# --------------------------------------------------------------------------------------------------------------------- the endpoint


@behaviour("endpoint-takes-minutes")
def test_a_new_endpoint_is_in_the_making_for_a_while_embedded(private: Private):
    vpc, subnet = private_subnet(private.ec2, 91)
    made = private.ec2.create_instance_connect_endpoint(SubnetId=subnet)["InstanceConnectEndpoint"]
    look = partial(private.ec2.describe_instance_connect_endpoints, Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    states = [made["State"], *(look()["InstanceConnectEndpoints"][0]["State"] for _ in range(2))]
    assert states == ["create-in-progress", "create-in-progress", "create-complete"]
    private.ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=made["InstanceConnectEndpointId"])
    with pytest.raises(ClientError, match=r"InvalidInstanceConnectEndpointId\.NotFound"):
        private.ec2.describe_instance_connect_endpoints(InstanceConnectEndpointIds=[made["InstanceConnectEndpointId"]])


@behaviour("endpoint-takes-minutes")
def test_an_endpoint_in_the_making_and_a_missing_one_are_named_handled(private: Private):
    _, subnet = private_subnet(private.ec2, 92)
    subnets = Machines(private.clients.ec2, "reach", subnets=(subnet,)).subnets()
    with pytest.raises(EndpointError, match=rf"create-instance-connect-endpoint --region {REGION} --subnet-id {subnet}"):
        find_endpoint(private.clients.ec2, subnets)
    name = private.ec2.create_instance_connect_endpoint(SubnetId=subnet)["InstanceConnectEndpoint"]["InstanceConnectEndpointId"]
    with pytest.raises(EndpointError, match=f"{name} is still being made"):
        find_endpoint(private.clients.ec2, subnets)
    assert find_endpoint(private.clients.ec2, subnets).id == name
    private.ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=name)
    with pytest.raises(AccessError, match="looking for EC2 Instance Connect Endpoints"):
        find_endpoint(private.clients_of().ec2, subnets)


@behaviour("machine-without-public-address")
def test_nobody_reaches_a_machine_without_a_public_address_embedded(private: Private):
    found = private.ec2.describe_instances(InstanceIds=[private.machine.id])["Reservations"][0]["Instances"][0]
    assert "PublicIpAddress" not in found
    with private.ssh() as remote:
        assert "public-ipv4" not in remote.run(METADATA, lambda _: None, what="Asking the metadata service", seconds=60)
    port = int(private.account.cloud.environment["MONAI_AWS_SSH_PORT"])
    with (
        pytest.raises(ConnectError, match="Authentication"),
        connect(private.machine.address, port=port, user="ubuntu", key=USER, host_key=HOST.public, seconds=1),
    ):
        pass


METADATA = """at=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -s -X PUT $at/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
curl -s -o /dev/null -w '%{http_code}\\n' -H "X-aws-ec2-metadata-token: $token" $at/meta-data/public-ipv4 | sed s/200/public-ipv4/"""


@behaviour("machine-without-public-address")
def test_a_machine_without_a_public_address_is_worked_with_through_the_endpoint_handled(private: Private):
    with private.ssh() as remote:
        assert remote.run("whoami", lambda _: None, what="Asking", seconds=60) == ["ubuntu"]
    with pytest.raises(HostKeyMismatchError), private.ssh(host_key=KeyPair.fresh().public):
        pass


# ------------------------------------------------------------------------------------------------------------------ who may use it


def may_open(port: int = 22, seconds: int = 3600) -> dict[str, Any]:
    """A statement as AWS's documentation shows it."""
    conditions = {
        "NumericEquals": {"ec2-instance-connect:remotePort": str(port)},
        "NumericLessThanEquals": {"ec2-instance-connect:maxTunnelDuration": str(seconds)},
    }
    return {"Effect": "Allow", "Action": "ec2-instance-connect:OpenTunnel", "Resource": "*", "Condition": conditions}


@behaviour("tunnel-needs-permission")
def test_a_tunnel_needs_a_signature_and_the_permission_with_its_conditions_embedded(private: Private):
    assert first_words(open_tunnel(private.clients_of(may_open()), private.endpoint, private.machine.address)) == b"SSH"
    for statements in ((), (may_open(port=3389),), (may_open(seconds=60),)):
        status, code, message = private.refused(private.clients_of(*statements))
        assert (status, code) == (403, "AccessDenied")
        assert "is not authorized to perform: ec2-instance-connect:OpenTunnel" in message
    access, _ = private.account.admin_keys()
    for keys in ((access, "not the secret"), ("AKIA0000000000000000", "x")):
        assert private.refused(private.clients_with(*keys))[:2] == (403, "AccessDenied")


@behaviour("tunnel-needs-permission")
def test_a_missing_permission_for_tunnels_is_named_handled(private: Private):
    with pytest.raises(AccessError, match=r"AccessDenied.*bootstrap\.yaml.*ec2-instance-connect:OpenTunnel") as error:
        open_tunnel(private.clients_of(), private.endpoint, private.machine.address)
    assert "X-Amz" not in str(error.value)
    assert error.value.__cause__ is None, "what the library says may hold the signed address"


@behaviour("tunnel-to-port-22")
def test_an_endpoint_carries_to_two_ports_and_private_addresses_alone_embedded(private: Private):
    status, code, message = private.refused(remotePort="80")
    assert (status, code) == (400, "InvalidParameter")
    assert message.startswith("The specified RemotePort is not valid. Specify either 22 or 3389")
    for outside in ("127.0.0.1", "169.254.169.254", "192.0.2.7"):
        assert private.refused(privateIpAddress=outside)[:2] == (400, "InvalidParameter")
    assert private.refused(instanceConnectEndpointId="eice-0123456789abcdef0")[:2] == (400, "InvalidParameter")


@behaviour("tunnel-to-port-22")
def test_another_port_is_refused_with_the_settings_and_another_endpoint_is_named_handled(private: Private):
    with pytest.raises(SettingsError, match="carries SSH to no other"):
        load_settings(reach="endpoint", ssh_port=2222)
    with pytest.raises(EndpointError, match="InstanceConnectEndpointId is not valid"):
        open_tunnel(private.clients, replace(private.endpoint, id="eice-0123456789abcdef0"), private.machine.address)
    with pytest.raises(TunnelError, match="does not answer") as silent:
        open_tunnel(private.clients, replace(private.endpoint, address="127.0.0.1:9"), private.machine.address)
    assert "X-Amz" not in str(silent.value)


@behaviour("tunnel-through-groups")
def test_a_machine_whose_group_lets_no_endpoint_in_is_not_reached_embedded(private: Private):
    nobody = private.machine.address.rpartition(".")[0] + ".249"
    tunnel = open_tunnel(private.clients, private.endpoint, nobody)
    assert (first_words(tunnel), tunnel.ended) == (b"", "Unable to connect to target")
    with closed(private):
        tunnel = open_tunnel(private.clients, private.endpoint, private.machine.address)
        assert (first_words(tunnel), tunnel.ended) == (b"", "Unable to connect to target")


@behaviour("tunnel-through-groups")
def test_the_group_of_a_machine_names_the_endpoints_group_and_a_closed_way_is_named_handled(private: Private):
    found = private.ec2.describe_instances(InstanceIds=[private.machine.id])["Reservations"][0]["Instances"][0]
    (group,) = private.ec2.describe_security_groups(GroupIds=[each["GroupId"] for each in found["SecurityGroups"]])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert ([pair["GroupId"] for pair in rule["UserIdGroupPairs"]], rule["IpRanges"]) == (list(private.endpoint.groups), [])
    assert first_words(open_tunnel(private.clients, private.endpoint, private.machine.address)) == b"SSH"
    with (
        closed(private),
        pytest.raises(ConnectError, match=r"Unable to connect to target.*security group"),
        private.ssh(seconds=1),
    ):
        pass


@contextmanager
def closed(private: Private) -> Iterator[None]:
    """While the machine is in a group without a way in."""
    ec2, machine = private.ec2, private.machine.id
    before = ec2.describe_instances(InstanceIds=[machine])["Reservations"][0]["Instances"][0]["SecurityGroups"]
    group = ec2.create_security_group(GroupName=unique("closed"), Description="no way in", VpcId=private.vpc)["GroupId"]
    ec2.modify_instance_attribute(InstanceId=machine, Groups=[group])
    try:
        yield
    finally:
        ec2.modify_instance_attribute(InstanceId=machine, Groups=[each["GroupId"] for each in before])


# ----------------------------------------------------------------------------------------------------------------------- how it ends


@behaviour("tunnel-ends-after-an-hour")
def test_a_tunnel_ends_when_its_time_is_over_embedded(private: Private):
    tunnel = open_tunnel(private.clients, private.endpoint, private.machine.address, seconds=5)
    tunnel.settimeout(60)
    heard = b""
    while part := tunnel.recv(1 << 16):  # an SSH server says its version and its algorithms, and waits then
        heard += part
    assert heard.startswith(b"SSH")
    assert tunnel.ended == "The maximum tunnel duration is over"
    assert private.refused(maxTunnelDuration="3601")[:2] == (400, "InvalidParameter")


@behaviour("tunnel-ends-after-an-hour")
def test_work_goes_on_when_a_tunnel_has_ended_handled(private: Private, local_cloud: LocalCloud):
    said: list[str] = []
    with private.ssh() as remote:

        def end_it(line: str) -> None:
            said.append(line)
            if line == "begun":
                local_cloud.order_fault(end_tunnels=private.machine.id)
            if "followed through a new one" in line:
                remote.run("touch go-on", lambda _: None, what="Going on", seconds=60)

        command = "rm -f go-on; echo begun; while ! test -e go-on; do sleep 0.1; done; echo done"
        assert remote.run(command, end_it, what="Building", seconds=7200)[-1] == "done"
        assert said.count("begun") == said.count("done") == 1
        local_cloud.order_fault(end_tunnels=private.machine.id)
        assert remote.run("echo still here", lambda _: None, what="Asking", seconds=60) == ["still here"]


# -------------------------------------------------------------------------------------------------- what an organisation's account asks


@behaviour("disk-key-without-grant")
def test_a_machine_whose_launcher_may_not_grant_its_disks_key_ends_embedded(private: Private, account: Account):
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 150, "Encrypted": True, "KmsKeyId": key}}
    request = {"ImageId": account.base_image(), "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "BlockDeviceMappings": [disk]}
    grant = {"Effect": "Allow", "Action": "kms:CreateGrant", "Resource": key, "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}}
    ends = {}
    for named, statements in (("with", [MAY_LAUNCH, grant]), ("without", [MAY_LAUNCH])):
        ec2 = Account(account.cloud).client("ec2", account.assume(statements))
        machine = ec2.run_instances(**request)["Instances"][0]["InstanceId"]
        machines = Machines(ec2, "reach")
        try:
            ends[named] = machines.wait(machine, "running", 90).state
        except EndedError as error:
            ends[named] = error.reason
        machines.terminate(machine)
    assert ends == {"with": "running", "without": "Client.InternalError"}


MAY_LAUNCH = {"Effect": "Allow", "Action": ["ec2:*", "iam:PassRole"], "Resource": "*"}


@behaviour("disk-key-without-grant")
def test_a_missing_grant_for_the_disks_key_is_named_handled(account: Account, buy: Buy):
    buyer = buy()
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    group = buyer.machines.security_group(buyer.tags, "no way in")
    buyer.machines = Machines(account.client("ec2", account.assume([MAY_LAUNCH])), buyer.deployment)
    with pytest.raises(EndedError, match=r"Client\.InternalError.*kms:CreateGrant") as error:
        buyer.machines.launch(buyer.spec(group=group, volume=RootVolume(150, kms_key=key)), buyer.said.append)
    assert "kms:CreateGrant" in error.value.remedy
    assert buyer.left() == []


@behaviour("tag-policy")
def test_a_policy_of_the_organisation_denies_what_lacks_its_tag_embedded(buy: Buy, local_cloud: LocalCloud):
    local_cloud.order_fault(account={"required_tag": REQUIRED_TAG})
    buyer = buy()
    tag = {"Key": REQUIRED_TAG, "Value": "me"}
    for tagged in ([], ["instance"]):
        with pytest.raises(ClientError) as error:
            buyer.raw(TagSpecifications=[{"ResourceType": kind, "Tags": [tag]} for kind in tagged])
        code, status, message = refusal(error)
        assert (code, status) == ("UnauthorizedOperation", 403)
        assert "with an explicit deny in a service control policy" in message
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        buyer.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)


@behaviour("tag-policy")
def test_launches_bear_the_owners_tag_and_a_denial_of_the_organisation_is_named_handled(buy: Buy, local_cloud: LocalCloud):
    local_cloud.order_fault(account={"required_tag": REQUIRED_TAG})
    assert buy().launch()["State"]["Name"] == "running"
    local_cloud.order_fault(account={"required_tag": "cost-centre"})
    with pytest.raises(AccessError, match="A policy of the account's organisation denies it"):
        buy().launch()
