"""A machine that cannot be had in one place is had in the next, on the embedded AWS: next zone, next type, next quota."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import CapacityError, QuotaError
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.integration.local_cloud.conftest import Account, unique

pytestmark = pytest.mark.cloud

TYPES = ("g4dn.2xlarge", "g4dn.xlarge", "g5.xlarge", "m5.xlarge")


class Buyer:
    """Launches machines of a deployment of its own and keeps what was said."""

    def __init__(self, account: Account):
        self.deployment, self.said = unique("buyer")[:20], list[str]()
        self.ec2 = account.client("ec2")
        self.machines = Machines(self.ec2, self.deployment)
        self.tags = Tags(self.deployment, "map-build", "test", "run", "n")
        self.image, self.profile = account.base_image(), account.profile([])
        self.group = self.machines.security_group(self.tags, "no way in")

    def launch(self, *types: str) -> tuple[str, str]:
        """Type and zone of the machine that was given; it is ended at once."""
        spec = LaunchSpec(self.image, types, self.profile, self.tags, user_data="", volume=RootVolume(8), security_group=self.group)
        machine = self.machines.launch(spec, self.said.append)
        found = self.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
        self.machines.terminate(machine.id)
        return found["InstanceType"], found["Placement"]["AvailabilityZone"]


@pytest.fixture
def buyer(account: Account, local_cloud: LocalCloud) -> Iterator[Buyer]:
    yield Buyer(account)
    local_cloud.clear_faults()


def refuse(cloud: LocalCloud, code: str, *kinds: str, times: int = 50) -> None:
    for kind in kinds:
        cloud.order_fault(service="ec2", action="RunInstances", match=kind, code=code, status=400, times=times)


def test_no_capacity_leads_to_the_next_zone_and_then_to_the_next_type(buyer: Buyer, local_cloud: LocalCloud):
    kind, first = buyer.launch("g4dn.xlarge", "g5.xlarge")
    assert kind == "g4dn.xlarge"
    refuse(local_cloud, "InsufficientInstanceCapacity", "g4dn.xlarge", times=1)
    kind, second = buyer.launch("g4dn.xlarge", "g5.xlarge")
    assert (kind, second != first) == ("g4dn.xlarge", True)
    refuse(local_cloud, "InsufficientInstanceCapacity", "g4dn.xlarge")
    assert buyer.launch("g4dn.xlarge", "g5.xlarge")[0] == "g5.xlarge"
    refuse(local_cloud, "InsufficientInstanceCapacity", "g5.xlarge")
    with pytest.raises(CapacityError, match=r"g4dn.xlarge in .*g5.xlarge in .*MONAI_AWS_INSTANCE_TYPES"):
        buyer.launch("g4dn.xlarge", "g5.xlarge")


def test_a_full_quota_leads_past_everything_that_counts_against_it(buyer: Buyer, local_cloud: LocalCloud):
    refuse(local_cloud, "VcpuLimitExceeded", "g4dn.", "g5.")
    assert buyer.launch(*TYPES)[0] == "m5.xlarge"
    asked = [line for line in buyer.said if "quota" in line]
    assert len(asked) == 2, "the smaller one is asked for too, a g5 of the same size and another zone are not"
    assert asked[0].startswith("no g4dn.2xlarge ")
    assert asked[1].startswith("no g4dn.xlarge ")


def test_a_smaller_machine_may_fit_into_a_quota_that_is_nearly_full(buyer: Buyer, local_cloud: LocalCloud):
    refuse(local_cloud, "VcpuLimitExceeded", "g4dn.2xlarge")
    assert buyer.launch(*TYPES)[0] == "g4dn.xlarge"


def test_when_no_quota_allows_any_the_preferred_ones_is_named_with_what_raises_it(buyer: Buyer, local_cloud: LocalCloud):
    refuse(local_cloud, "VcpuLimitExceeded", "g4dn.", "g5.", "m5.")
    with pytest.raises(QuotaError, match=r"L-DB2E81BA.*request-service-quota-increase.*--quota-code L-DB2E81BA"):
        buyer.launch(*TYPES)
    assert buyer.machines.find() == []


def test_a_version_of_a_launch_template_has_the_rest_from_the_version_it_is_made_from(account: Account):
    ec2, name = account.client("ec2"), unique("template")
    first = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "g4dn.xlarge", "UserData": "aGk="}
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=first)
    for source in ({"SourceVersion": "1"}, {"SourceVersion": "$Latest"}, {}):
        made = ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={"InstanceType": "g5.xlarge"}, **source)
        kept = first if source else {}
        assert made["LaunchTemplateVersion"]["LaunchTemplateData"] == {**kept, "InstanceType": "g5.xlarge"}
    ec2.delete_launch_template(LaunchTemplateName=name)


def test_a_machine_of_no_image_is_refused_be_it_by_a_launch_template(account: Account):
    ec2, name = account.client("ec2"), unique("template")
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"InstanceType": "g4dn.xlarge"})
    for asked in ({"InstanceType": "g4dn.xlarge"}, {"LaunchTemplate": {"LaunchTemplateName": name}}):
        with pytest.raises(ClientError, match=r"\(MissingParameter\).*must contain the parameter ImageId"):
            ec2.run_instances(MinCount=1, MaxCount=1, **asked)
    ec2.delete_launch_template(LaunchTemplateName=name)
