"""The account that an organisation hands out, on an embedded AWS of its own: settings alone make the system work in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import EndedError
from monai_aws_pipeline.cloud.images import Images
from monai_aws_pipeline.contract import ROLE_MAP_BUILD
from monai_aws_pipeline.deployment.build_machine import build_machine
from monai_aws_pipeline.local_cloud.commands import LocalCloud, up
from monai_aws_pipeline.local_cloud.errors import ProfileError
from monai_aws_pipeline.operations.preflight.answers import State, answer
from monai_aws_pipeline.operations.preflight.machines import machine_type_probes
from tests.fidelity.conftest import refusal
from tests.integration.local_cloud.conftest import Account
from tests.support.cloud import own_cloud, say
from tests.support.platform import Platform, platform

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour("organisation")


@pytest.fixture(scope="module")
def organisation() -> Iterator[LocalCloud]:
    with own_cloud("organisation") as config:
        yield up(replace(config, profiles=("organisation",)), say)


@pytest.fixture(scope="module")
def place(organisation: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(organisation, "org", tmp_path_factory.mktemp("org")) as made:
        yield made


@behaviour
def test_an_organisations_account_has_no_default_vpc_and_denies_what_lacks_its_tag_embedded(organisation: LocalCloud):
    account = Account(organisation)
    ec2 = account.client("ec2")
    assert ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"] == []
    subnets = organisation.environment["MONAI_AWS_SUBNETS"].split(",")
    found = ec2.describe_subnets(SubnetIds=subnets)["Subnets"]
    assert sorted(subnet["AvailabilityZone"][-1] for subnet in found) == ["a", "b", "c"]
    (endpoint,) = ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"]
    assert (endpoint["VpcId"], endpoint["State"]) == (found[0]["VpcId"], "create-complete")
    assert ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is True
    with pytest.raises(ClientError) as error:
        ec2.run_instances(ImageId=account.base_image(), InstanceType="t3.micro", MinCount=1, MaxCount=1, SubnetId=subnets[0])
    assert refusal(error)[0] == "UnauthorizedOperation"
    with pytest.raises(ProfileError, match="has the account profile organisation, not default"):
        up(replace(organisation.config, profiles=()))


@behaviour
def test_a_machine_is_launched_reached_and_left_by_settings_alone_handled(place: Platform):
    settings, clients = place.settings, place.clients
    (way,) = [answer(probe) for probe in machine_type_probes(clients, settings) if probe.check == "way to machines"]
    assert way.state is State.OK, way
    assert "EC2 Instance Connect Endpoint eice-" in way.what
    image = Images(clients.ec2, clients.ssm, settings.deployment).base(settings.base_ami, settings.base_ami_owner).id
    with build_machine(clients, settings, role=ROLE_MAP_BUILD, image=image, run_id="org", report=place.log.append) as built:
        assert built.remote.run("whoami", lambda _: None, what="Asking", seconds=60) == ["ubuntu"]
        found = clients.ec2.describe_instances(InstanceIds=[built.machine.id])["Reservations"][0]["Instances"][0]
        disk = clients.ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [built.machine.id]}])["Volumes"][0]
    assert "PublicIpAddress" not in found
    assert (disk["Encrypted"], disk["KmsKeyId"]) == (True, settings.root_volume_kms_key)
    assert any("EC2 Instance Connect Endpoint" in line and "administrators" in line for line in place.log)
    assert place.machines() == []


@behaviour
def test_a_deployment_whose_administrator_did_not_name_the_key_is_told_handled(
    organisation: LocalCloud, tmp_path_factory: pytest.TempPathFactory
):
    told: Path = tmp_path_factory.mktemp("nokey")
    without = {name: value for name, value in organisation.environment.items() if name != "MONAI_AWS_ROOT_VOLUME_KMS_KEY"}
    with platform(replace(organisation, environment=without), "nokey", told) as place:
        image = Images(place.clients.ec2, place.clients.ssm, "nokey").base(place.settings.base_ami, "amazon").id
        with (
            pytest.raises(EndedError, match=r"Client\.InternalError.*kms:CreateGrant"),
            build_machine(place.clients, place.settings, role=ROLE_MAP_BUILD, image=image, run_id="x", report=place.log.append),
        ):
            pass
        assert place.machines() == []
