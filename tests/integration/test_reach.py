"""The machine image is baked through an EC2 Instance Connect Endpoint as the operator role: provisioned for real, in a private subnet.

What the endpoint refuses and how it ends is in tests/fidelity.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_aws_pipeline.cloud.tags import tag_filters
from monai_aws_pipeline.contract import ROLE_AMI_BAKE
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.remote import Remote
from tests.integration.local_cloud.conftest import Account
from tests.support.platform import Platform, platform

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    ec2 = Account(local_cloud).client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.90.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.90.1.0/24", AvailabilityZone="us-east-1a")["Subnet"]["SubnetId"]
    name = ec2.create_instance_connect_endpoint(SubnetId=subnet)["InstanceConnectEndpoint"]["InstanceConnectEndpointId"]
    ec2.describe_instance_connect_endpoints()  # it is ready now
    variables = {"MONAI_AWS_SUBNETS": subnet, "MONAI_AWS_REACH": "endpoint", "MONAI_AWS_SSH_PORT": "22"}
    with platform(local_cloud, "reach", tmp_path_factory.mktemp("reach"), **variables) as made:
        yield made
    ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=name)


def test_an_image_is_baked_through_the_endpoint_although_its_tunnel_ends_meanwhile(
    place: Platform, local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
):
    genuine, ended, addresses = Remote.run, list[str](), set[str]()

    def end_the_tunnel_once(self: Remote, command: str, on_line: object, **named: object) -> list[str]:
        def hear(line: str) -> None:
            if "provision.sh" in command and not ended:
                (machine,) = place.machines(ROLE_AMI_BAKE)
                ended.append(machine.id)
                found = place.clients.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
                addresses.add(found.get("PublicIpAddress", "none"))
                local_cloud.order_fault(end_tunnels=machine.id)
            ended.extend(["followed"] if "followed through a new one" in line else [])
            on_line(line)  # type: ignore[operator]

        return genuine(self, command, hear, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Remote, "run", end_the_tunnel_once)
    assert place.materialize("gpu_ami").success
    assert (ended[1:], addresses) == (["followed"], {"none"})
    filters = tag_filters(place.settings.deployment)
    assert place.machines(ROLE_AMI_BAKE) == []
    assert place.clients.ec2.describe_key_pairs(Filters=filters)["KeyPairs"] == []
    assert place.clients.ec2.describe_security_groups(Filters=filters)["SecurityGroups"] == []
    (image,) = place.clients.ec2.describe_images(Owners=["self"], Filters=filters)["Images"]
    assert image["State"] == "available"
