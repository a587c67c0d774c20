"""A machine on its first day: disks, what is not known yet, machines that end while they start, and what a zone or an account lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import CapacityError, EndedError, LaunchError, MachineError, MarketError, QuotaError
from monai_aws_pipeline.cloud.images import Images, fingerprint
from monai_aws_pipeline.cloud.instances import RootVolume
from monai_aws_pipeline.cloud.tags import TAG_BASE, TAG_BASE_ADDRESS
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.config import DEEP_LEARNING_AMI_PARAMETERS
from monai_aws_pipeline.remote import KeyPair
from monai_aws_pipeline.settings import Settings
from tests.fidelity.conftest import Buyer, refusal
from tests.integration.local_cloud.conftest import Account, unique

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour
PUBLIC = KeyPair.fresh().public
Buy = Callable[..., Buyer]


def root(gib: int) -> list[dict[str, object]]:
    return [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": gib, "DeleteOnTermination": True}}]


def disk_of(buyer: Buyer, machine: str) -> int:
    """GiB of a machine's root disk."""
    found = buyer.ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [machine]}])["Volumes"]
    return int(found[0]["Size"])


# ------------------------------------------------------------------------------------------------------------------------ disks


@behaviour("snapshot-of-base")
def test_a_disk_smaller_than_the_base_images_snapshot_is_refused_embedded(buy: Buy):
    buyer = buy()
    (mapping,) = buyer.ec2.describe_images(ImageIds=[buyer.image])["Images"][0]["BlockDeviceMappings"]
    assert mapping["Ebs"]["VolumeSize"] == 75
    with pytest.raises(ClientError) as error:
        buyer.raw(BlockDeviceMappings=root(60))
    words = f"Volume of size 60GB is smaller than snapshot '{mapping['Ebs']['SnapshotId']}', expect size >= 75GB"
    assert refusal(error) == ("InvalidBlockDeviceMapping", 400, words)


@behaviour("snapshot-of-base")
def test_a_disk_is_made_as_large_as_the_image_and_that_is_said_handled(buy: Buy):
    buyer = buy()
    assert disk_of(buyer, buyer.launch(volume=RootVolume(60))["InstanceId"]) == 75
    assert any("75 GiB" in line and "not 60 GiB" in line for line in buyer.said)


@behaviour("snapshot-of-template")
def test_a_disk_of_a_launch_template_is_held_against_the_snapshot_embedded(buy: Buy):
    buyer, name = buy(), unique("template")
    buyer.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"BlockDeviceMappings": root(74)})
    with pytest.raises(ClientError) as error:
        buyer.raw(LaunchTemplate={"LaunchTemplateName": name})
    assert refusal(error)[0] == "InvalidBlockDeviceMapping"


@behaviour("snapshot-of-template")
def test_the_default_disk_holds_the_base_image_handled(buy: Buy):
    buyer = buy()
    base = Images(buyer.ec2, buyer.ec2, "x").look(buyer.image)  # type: ignore[arg-type]
    assert base is not None
    assert Settings.model_fields["root_volume_gib"].default >= 2 * base.gib


@behaviour("snapshot-of-baked")
def test_an_image_keeps_the_size_of_the_machine_it_was_made_from_embedded(baked: tuple[Buyer, str]):
    buyer, image = baked
    with pytest.raises(ClientError) as error:
        buyer.ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, BlockDeviceMappings=root(79))
    assert "expect size >= 80GB" in refusal(error)[2]


@behaviour("snapshot-of-baked")
def test_a_smaller_setting_does_not_keep_machines_from_a_baked_image_handled(baked: tuple[Buyer, str]):
    buyer, image = baked
    assert disk_of(buyer, buyer.launch(image=image, volume=RootVolume(75))["InstanceId"]) == 80


@pytest.fixture(scope="module")
def baked(local_cloud: LocalCloud) -> Iterator[tuple[Buyer, str]]:
    buyer = Buyer(Account(local_cloud, patient=False))
    machine = buyer.launch(volume=RootVolume(80))["InstanceId"]
    images = Images(buyer.ec2, Account(local_cloud).client("ssm"), buyer.deployment)
    made = images.capture(machine, buyer.tags, "made")
    yield buyer, made.id
    images.remove(made.id)
    buyer.end()


@behaviour("base-parameter-moves")
def test_the_public_parameter_names_another_image_embedded(moved: tuple[Buyer, str, str]):
    buyer, base, other = moved
    ssm = buyer.account.client("ssm")
    assert [ssm.get_parameter(Name=name)["Parameter"]["Value"] for name in DEEP_LEARNING_AMI_PARAMETERS] == [other, other]
    assert base != other


@behaviour("base-parameter-moves")
def test_the_base_image_is_kept_until_a_run_is_told_to_follow_it_handled(moved: tuple[Buyer, str, str]):
    buyer, base, other = moved
    address, said = f"ssm:{DEEP_LEARNING_AMI_PARAMETERS[0]}", list[str]()
    images = Images(buyer.ec2, buyer.account.client("ssm"), buyer.deployment)
    found = [images.resolve(address, "amazon", anew=anew, report=said.append, former=former).id for anew, former in (
        (False, ""), (False, base), (True, base),
    )]  # fmt: skip
    assert found == [other, base, other]
    assert [line.split()[4] for line in said] == [other, other]
    tags = {TAG_BASE: base, TAG_BASE_ADDRESS: fingerprint(address, "amazon")}
    source = images.look(base)
    assert source is not None
    images.copy_from(source, "us-east-1", replace(buyer.tags, extra=tags), encrypted=True)
    assert images.resolve(address, "amazon", anew=False, report=said.append).id == base, "what the newest baked image was made from"
    assert images.resolve(address, "self", anew=False, report=said.append).id == other, "another setting is followed"


@pytest.fixture
def moved(buy: Buy, local_cloud: LocalCloud) -> Iterator[tuple[Buyer, str, str]]:
    """A buyer, the base image, and the image that AWS publishes after it."""
    buyer = buy()
    home = Images(buyer.ec2, buyer.account.client("ssm"), buyer.deployment).look(buyer.image)
    assert home is not None
    publisher = unique("aws")[:20]
    other = Images(buyer.ec2, buyer.account.client("ssm"), publisher)
    newer = other.copy_from(home, "us-east-1", replace(buyer.tags, deployment=publisher), encrypted=True)
    local_cloud.order_fault(publish_base=newer.id)
    yield buyer, buyer.image, newer.id
    local_cloud.order_fault(publish_base="")
    for images in (other, Images(buyer.ec2, buyer.account.client("ssm"), buyer.deployment)):
        for image in images.all():
            images.remove(image.id)


# -------------------------------------------------------------------------------------------------------------- not known yet


@behaviour("new-instance")
def test_a_new_machine_is_not_known_at_once_embedded(buy: Buy):
    buyer = buy()
    machine = buyer.raw()["Instances"][0]["InstanceId"]
    for _ in range(2):
        with pytest.raises(ClientError) as error:
            buyer.ec2.describe_instances(InstanceIds=[machine])
        assert refusal(error)[:2] == ("InvalidInstanceID.NotFound", 400)
    assert buyer.ec2.describe_instances(InstanceIds=[machine])["Reservations"]
    with pytest.raises(ClientError) as error:
        buyer.ec2.create_tags(Resources=[machine], Tags=[{"Key": "a", "Value": "b"}])
    assert refusal(error)[0] == "InvalidInstanceID.NotFound"


@behaviour("new-instance")
def test_a_new_machine_is_waited_for_and_never_taken_for_gone_handled(buy: Buy):
    buyer = buy()
    machine = buyer.ec2.run_instances(**tagged(buyer))["Instances"][0]["InstanceId"]
    buyer.machines.tag(machine, {"a": "b"})
    assert buyer.machines.wait(machine, "running", 60).tags["a"] == "b"
    other = buyer.ec2.run_instances(**tagged(buyer))["Instances"][0]["InstanceId"]
    buyer.machines.terminate(other)
    assert other not in buyer.left(), "a machine that was just made is ended too"
    buyer.machines.terminate("i-0123456789abcdef0")  # what is really gone is gone at once, and so for who waits for its end
    assert buyer.machines.wait("i-0123456789abcdef0", "terminated", 60).state == "terminated"


def tagged(buyer: Buyer) -> dict[str, object]:
    tags = [{"ResourceType": "instance", "Tags": buyer.tags.as_list()}]
    return {"ImageId": buyer.image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "TagSpecifications": tags}


@behaviour("new-group")
def test_a_new_security_group_is_not_known_at_once_embedded(buy: Buy):
    buyer = buy()
    vpc = buyer.machines.subnets()[0].vpc
    group = buyer.ec2.create_security_group(GroupName=unique("group"), Description="x", VpcId=vpc)["GroupId"]
    for call in (buyer.ec2.delete_security_group, lambda GroupId: buyer.ec2.describe_security_groups(GroupIds=[GroupId])):  # noqa: N803
        with pytest.raises(ClientError) as error:
            call(GroupId=group)
        assert refusal(error)[:2] == ("InvalidGroup.NotFound", 400)
    buyer.ec2.delete_security_group(GroupId=group)


@behaviour("new-group")
def test_a_new_security_group_is_opened_used_and_removed_handled(buy: Buy):
    buyer = buy()
    opened = buyer.machines.security_group(buyer.tags, "x", "192.0.2.1/32")
    (found,) = buyer.ec2.describe_security_groups(Filters=[{"Name": "group-id", "Values": [opened]}])["SecurityGroups"]
    assert found["IpPermissions"][0]["IpRanges"][0]["CidrIp"] == "192.0.2.1/32"
    closed = buyer.machines.security_group(buyer.tags, "x")
    for group in (opened, closed):
        buyer.machines.delete_security_group(group)
    assert buyer.machines.security_groups() == []
    buyer.machines.delete_security_group(closed)  # gone is gone


@behaviour("new-key-pair")
def test_a_new_key_pair_is_not_known_at_once_embedded(buy: Buy):
    buyer = buy()
    name = buyer.machines.import_key(buyer.tags, PUBLIC)
    with pytest.raises(ClientError) as error:
        buyer.raw(KeyName=name)
    assert refusal(error)[:2] == ("InvalidKeyPair.NotFound", 400)


@behaviour("new-key-pair")
def test_a_machine_starts_with_a_key_that_was_just_made_handled(buy: Buy):
    buyer = buy()
    name = buyer.machines.import_key(buyer.tags, PUBLIC)
    assert buyer.launch(key_name=name)["KeyName"] == name
    assert any("does not know the key pair" in line for line in buyer.said)
    buyer.machines.delete_key(name)
    assert buyer.machines.key_names() == []


@behaviour("new-image")
def test_a_new_image_is_not_known_at_once_embedded(buy: Buy):
    buyer = buy("us-west-1")
    image = buyer.ec2.copy_image(Name=unique("copy"), SourceImageId=buyer.image, SourceRegion="us-east-1")["ImageId"]
    with pytest.raises(ClientError) as error:
        buyer.ec2.describe_images(ImageIds=[image])
    assert refusal(error)[:2] == ("InvalidAMIID.NotFound", 400)
    with pytest.raises(ClientError) as error:
        buyer.ec2.deregister_image(ImageId=image)
    assert refusal(error)[0] == "InvalidAMIID.NotFound"
    buyer.ec2.deregister_image(ImageId=image)


@behaviour("new-image")
def test_a_new_image_is_waited_for_tagged_and_removed_handled(buy: Buy, account: Account):
    buyer = buy("us-west-1")
    images = Images(buyer.ec2, account.client("ssm", region="us-west-1"), buyer.deployment)
    home = Images(account.client("ec2"), account.client("ssm"), buyer.deployment).look(buyer.image)
    assert home is not None
    made = images.copy_from(home, "us-east-1", buyer.tags, encrypted=True)
    assert (made.whole, made.gib) == (True, 75)
    images.discard(made.tags["Name"])
    assert images.all() == []


# -------------------------------------------------------------------------------------------------- it ends while it starts

ENDS = ["Server.InsufficientInstanceCapacity", "Server.InternalError", "Client.InternalError", "Client.VolumeLimitExceeded"]
AT_LAUNCH = [pytest.param(reason, marks=behaviour(f"launch-ends-{reason}"), id=reason) for reason in ENDS]


@pytest.mark.parametrize("reason", AT_LAUNCH)
def test_a_launch_that_was_taken_ends_as_terminated_with_a_reason_embedded(reason: str, buy: Buy, local_cloud: LocalCloud):
    buyer = buy()
    local_cloud.order_fault(ends_at="launch", reason=reason)
    machine = buyer.raw()["Instances"][0]
    assert machine["State"]["Name"] == "pending"
    with pytest.raises(EndedError, match=reason):
        buyer.machines.wait(machine["InstanceId"], "running", 60)
    found = buyer.ec2.describe_instances(InstanceIds=[machine["InstanceId"]])["Reservations"][0]["Instances"][0]
    assert (found["State"]["Name"], found["StateReason"]["Code"]) == ("terminated", reason)


@pytest.mark.parametrize("reason", AT_LAUNCH)
def test_a_machine_that_ends_while_it_starts_leads_to_the_next_zone_or_is_named_handled(reason: str, buy: Buy, local_cloud: LocalCloud):
    buyer = buy()
    local_cloud.order_fault(ends_at="launch", reason=reason)
    if reason.startswith("Server."):
        zone = buyer.launch()["Placement"]["AvailabilityZone"]
        assert any(reason in line and "us-east-1a" in line for line in buyer.said)
        assert zone != "us-east-1a"
    else:
        with pytest.raises(EndedError) as error:
            buyer.launch()
        assert {"Client.InternalError": "kms:CreateGrant", "Client.VolumeLimitExceeded": "Service Quotas"}[reason] in error.value.remedy
        assert buyer.left() == []


@behaviour("start-ends-Client.InternalError")
def test_a_start_that_was_taken_ends_as_stopped_again_embedded(stopped: Buyer, local_cloud: LocalCloud):
    (machine,) = stopped.left()
    local_cloud.order_fault(ends_at="start", reason="Client.InternalError")
    assert stopped.ec2.start_instances(InstanceIds=[machine])["StartingInstances"][0]["CurrentState"]["Name"] == "pending"
    with pytest.raises(EndedError):
        stopped.machines.wait(machine, "running", 60)
    found = stopped.machines.look(machine)
    assert found is not None
    assert (found.state, found.reason) == ("stopped", "Client.InternalError")


@behaviour("start-ends-Client.InternalError")
def test_a_start_without_a_grant_for_the_key_is_named_at_once_handled(stopped: Buyer, local_cloud: LocalCloud):
    (machine,) = stopped.left()
    local_cloud.order_fault(ends_at="start", reason="Client.InternalError")
    stopped.machines.start(machine)
    with pytest.raises(EndedError, match=r"stopped instead of running .Client.InternalError.*kms:CreateGrant"):
        stopped.machines.wait(machine, "running", 300)


@pytest.fixture(scope="module")
def stopped(local_cloud: LocalCloud) -> Iterator[Buyer]:
    buyer = Buyer(Account(local_cloud, patient=False))
    machine = buyer.launch()["InstanceId"]
    buyer.machines.stop(machine)
    buyer.machines.wait(machine, "stopped", 120)
    yield buyer
    buyer.end()


# ------------------------------------------------------------------------------------------------- what a place or account lacks


@behaviour("zone-without-capacity")
def test_a_zone_without_capacity_refuses_launches_and_starts_again_and_again_embedded(stopped: Buyer, local_cloud: LocalCloud):
    (machine,) = stopped.left()
    found = stopped.machines.look(machine)
    assert found is not None
    local_cloud.order_fault(account={"no_capacity": [found.zone]})
    for _ in range(2):
        with pytest.raises(ClientError) as error:
            stopped.raw(Placement={"AvailabilityZone": found.zone})
        assert refusal(error)[:2] == ("InsufficientInstanceCapacity", 500)
    with pytest.raises(ClientError) as error:
        stopped.ec2.start_instances(InstanceIds=[machine])
    assert refusal(error)[0] == "InsufficientInstanceCapacity"


@behaviour("zone-without-capacity")
def test_hosts_of_one_deployment_start_in_different_zones_and_around_an_empty_one_handled(buy: Buy, local_cloud: LocalCloud):
    buyer = buy()
    local_cloud.order_fault(account={"no_capacity": ["us-east-1a"]})
    first = buyer.launch()["Placement"]["AvailabilityZone"]
    second = buyer.launch(avoid_zones=(first,))["Placement"]["AvailabilityZone"]
    assert len({first, second, "us-east-1a"}) == 3


@behaviour("zone-without-default-subnet")
def test_a_zone_without_a_default_subnet_refuses_embedded(buy: Buy):
    buyer = without_default_subnet(buy("us-west-2"), "us-west-2a")
    with pytest.raises(ClientError) as error:
        buyer.raw(Placement={"AvailabilityZone": "us-west-2a"})
    assert refusal(error) == ("InvalidInput", 400, "No default subnet for availability zone: 'us-west-2a'.")


@behaviour("zone-without-default-subnet")
def test_a_zone_without_a_default_subnet_is_passed_over_handled(buy: Buy):
    buyer = without_default_subnet(buy("us-west-2"), "us-west-2a")
    assert buyer.launch()["Placement"]["AvailabilityZone"] == "us-west-2b"
    assert [line for line in buyer.said if "us-west-2a" in line] == []


def without_default_subnet(buyer: Buyer, zone: str) -> Buyer:
    filters = [{"Name": "default-for-az", "Values": ["true"]}, {"Name": "availability-zone", "Values": [zone]}]
    for subnet in buyer.ec2.describe_subnets(Filters=filters)["Subnets"]:
        buyer.ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    return buyer


@behaviour("no-default-vpc")
def test_an_account_without_a_default_vpc_refuses_embedded(buy: Buy):
    buyer = without_default_vpc(buy("eu-west-1"))
    with pytest.raises(ClientError) as error:
        buyer.raw(Placement={"AvailabilityZone": "eu-west-1a"})
    code, status, message = refusal(error)
    assert (code, status) == ("VPCIdNotSpecified", 400)
    assert message.startswith("No default VPC for this user")


@behaviour("no-default-vpc")
def test_an_account_without_a_default_vpc_is_told_what_to_set_and_works_with_it_handled(buy: Buy):
    buyer = without_default_vpc(buy("eu-west-1"))
    with pytest.raises(MachineError, match=r"no default subnet.*MONAI_AWS_SUBNETS"):
        buyer.launch()
    subnet = own_subnet(buyer, "eu-west-1b")
    mine = buy("eu-west-1", (subnet,))
    found = mine.launch()
    assert (found["SubnetId"], found["Placement"]["AvailabilityZone"]) == (subnet, "eu-west-1b")
    assert [group["GroupId"] for group in found["SecurityGroups"]] == mine.machines.security_groups()


def without_default_vpc(buyer: Buyer) -> Buyer:
    for vpc in buyer.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]:
        for subnet in buyer.ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]:
            buyer.ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        buyer.ec2.delete_vpc(VpcId=vpc["VpcId"])
    return buyer


def own_subnet(buyer: Buyer, zone: str, size: str = "10.77.0.0/24", vpc: str = "") -> str:
    vpc = vpc or buyer.ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    return str(buyer.ec2.create_subnet(VpcId=vpc, CidrBlock=size, AvailabilityZone=zone)["Subnet"]["SubnetId"])


@behaviour("full-subnet")
def test_a_subnet_without_a_free_address_refuses_embedded(buy: Buy):
    buyer = buy("eu-central-1")
    subnet = fill(buyer, own_subnet(buyer, "eu-central-1a", "10.77.0.0/28"))
    with pytest.raises(ClientError) as error:
        buyer.raw(SubnetId=subnet)
    words = f"There are not enough free addresses in subnet '{subnet}' to satisfy the requested number of instances."
    assert refusal(error) == ("InsufficientFreeAddressesInSubnet", 400, words)


@behaviour("full-subnet")
def test_a_full_subnet_leads_to_the_next_and_is_named_when_there_is_none_handled(buy: Buy):
    buyer = buy("eu-central-1")
    full = fill(buyer, own_subnet(buyer, "eu-central-1a", "10.77.0.0/28"))
    vpc = buyer.ec2.describe_subnets(SubnetIds=[full])["Subnets"][0]["VpcId"]
    other = own_subnet(buyer, "eu-central-1b", "10.77.1.0/24", vpc)
    assert buy("eu-central-1", (full, other)).launch(types=("t3.micro", "t3.small"))["SubnetId"] == other
    alone = buy("eu-central-1", (full,))
    with pytest.raises(CapacityError, match=r"InsufficientFreeAddressesInSubnet.*MONAI_AWS_SUBNETS"):
        alone.launch(types=("t3.micro", "t3.small"))
    assert len([line for line in alone.said if "InsufficientFreeAddressesInSubnet" in line]) == 1, "no other type fits there either"


def fill(buyer: Buyer, subnet: str) -> str:
    """Take every address of a subnet of 16 (AWS keeps 5) by network interfaces."""
    for _ in range(buyer.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailableIpAddressCount"]):
        buyer.ec2.create_network_interface(SubnetId=subnet)
    return subnet


@behaviour("subnet-without-public-address")
def test_a_subnet_gives_no_public_address_by_itself_embedded(buy: Buy):
    buyer = buy("ap-southeast-2")
    subnet = own_subnet(buyer, "ap-southeast-2a")
    assert buyer.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["MapPublicIpOnLaunch"] is False
    machine = buyer.raw(SubnetId=subnet)["Instances"][0]["InstanceId"]
    assert buyer.machines.wait(machine, "running", 60).state == "running"
    assert "PublicIpAddress" not in buyer.ec2.describe_instances(InstanceIds=[machine])["Reservations"][0]["Instances"][0]


@behaviour("subnet-without-public-address")
def test_a_public_address_is_asked_for_handled(buy: Buy):
    buyer = buy("ap-southeast-2")
    assert buy("ap-southeast-2", (own_subnet(buyer, "ap-southeast-2a"),)).launch()["PublicIpAddress"]


@behaviour("quota-of-vcpus")
def test_a_quota_counts_the_vcpus_of_what_runs_embedded(buy: Buy, local_cloud: LocalCloud):
    buyer = buy("us-east-2")
    local_cloud.order_fault(account={"vcpus": 4})
    with pytest.raises(ClientError) as error:
        buyer.ec2.run_instances(ImageId=buyer.image, InstanceType="g4dn.2xlarge", MinCount=1, MaxCount=1)
    assert refusal(error)[:2] == ("VcpuLimitExceeded", 400)


@behaviour("quota-of-vcpus")
def test_a_quota_of_four_takes_the_smaller_type_and_is_named_when_nothing_fits_handled(buy: Buy, local_cloud: LocalCloud):
    buyer = buy("us-east-2")
    local_cloud.order_fault(account={"vcpus": 4})
    assert buyer.launch(types=("g4dn.2xlarge", "g4dn.xlarge"))["InstanceType"] == "g4dn.xlarge"
    with pytest.raises(QuotaError, match="request-service-quota-increase --region us-east-2"):
        buyer.launch(types=("g4dn.2xlarge", "g4dn.xlarge"))


@behaviour("no-role-for-spot")
def test_the_first_spot_request_of_an_account_may_be_refused_embedded(buy: Buy, local_cloud: LocalCloud):
    local_cloud.order_fault(account={"spot_role": False})
    with pytest.raises(ClientError) as error:
        buy().raw(InstanceMarketOptions={"MarketType": "spot"})
    assert refusal(error)[0] == "AuthFailure.ServiceLinkedRoleCreationNotPermitted"


@behaviour("no-role-for-spot")
def test_without_the_role_for_spot_another_market_is_taken_or_the_command_named_handled(buy: Buy, local_cloud: LocalCloud):
    buyer = buy()
    local_cloud.order_fault(account={"spot_role": False})
    assert "InstanceLifecycle" not in buyer.launch(markets=("spot", "on-demand"))
    with pytest.raises(MarketError, match=r"create-service-linked-role --aws-service-name spot\.amazonaws\.com"):
        buyer.launch(markets=("spot",))


@behaviour("profile-not-known-yet")
def test_a_new_instance_profile_is_not_known_to_ec2_embedded(buy: Buy):
    buyer = buy()
    with pytest.raises(ClientError) as error:
        buyer.raw(IamInstanceProfile={"Name": buyer.profile})
    assert refusal(error)[:2] == ("InvalidParameterValue", 400)
    assert "Invalid IAM Instance Profile name" in refusal(error)[2]
    assert buyer.raw(IamInstanceProfile={"Name": buyer.profile})["Instances"]


@behaviour("profile-not-known-yet")
def test_a_profile_of_this_second_is_waited_for_handled(buy: Buy):
    buyer = buy()
    assert buyer.launch()["IamInstanceProfile"]["Arn"].endswith(f"/{buyer.profile}")


@behaviour("profile-not-known-yet")
def test_a_profile_that_does_not_become_known_is_named_handled(buy: Buy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monai_aws_pipeline.cloud.instances.time.sleep", lambda _: None)
    with pytest.raises(LaunchError, match=r"does not know the instance profile.*monai-aws bootstrap"):
        buy().launch(profile="nobody-made-this")
