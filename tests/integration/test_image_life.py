"""A machine image from its base to its end: found by name, baked again when the base moved, copied, kept while it is in use, removed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import TAG_COPIES, TAG_COPY_OF, tag_filters, tags_of
from monai_aws_pipeline.contract import TAG_DEPLOYMENT, TAG_EXPIRES_AT
from monai_aws_pipeline.deployment.ami import REFRESH_BASE_TAG
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.teardown import Kind, Teardown
from tests.support.platform import Platform, environment, platform

pytestmark = pytest.mark.cloud

ELSEWHERE = "us-west-2"


@pytest.fixture(scope="module")
def administrator(local_cloud: LocalCloud) -> Iterator[Clients]:
    with environment(local_cloud.environment):
        clients = Clients("us-east-1")
        assert clients.ec2.meta.region_name != clients.elsewhere(ELSEWHERE).ec2.meta.region_name  # both made as the administrator
    yield clients


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, administrator: Clients, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    variables = {
        "MONAI_AWS_BASE_AMI": "name:base of image life *",
        "MONAI_AWS_BASE_AMI_OWNER": "self",
        "MONAI_AWS_AMI_REGIONS": ELSEWHERE,
        "MONAI_AWS_AMI_KEEP": "1",
        "MONAI_AWS_AMI_CHECK": "true",
    }
    with platform(local_cloud, "life", tmp_path_factory.mktemp("life"), **variables) as made:
        yield made


def publish_base(administrator: Clients, name: str) -> str:
    """Someone publishes a newer base image."""
    base = administrator.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    made = administrator.ec2.copy_image(SourceImageId=base, SourceRegion="us-east-1", Name=f"base of image life {name}")["ImageId"]
    administrator.ec2.get_waiter("image_exists").wait(ImageIds=[made], WaiterConfig={"Delay": 1, "MaxAttempts": 120})  # not known at once
    administrator.ec2.get_waiter("image_available").wait(ImageIds=[made], WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    return made


def images(place: Platform, region: str = "us-east-1") -> dict[str, dict[str, str]]:
    found = place.clients.elsewhere(region).ec2.describe_images(Owners=["self"], Filters=tag_filters(place.settings.deployment))["Images"]
    return {image["ImageId"]: tags_of(image["Tags"]) for image in found}


def snapshots(place: Platform, region: str = "us-east-1") -> list[dict[str, str]]:
    found = place.clients.elsewhere(region).ec2.describe_snapshots(OwnerIds=["self"], Filters=tag_filters(place.settings.deployment))
    return [tags_of(snapshot["Tags"]) for snapshot in found["Snapshots"]]


def bake(place: Platform, *, refresh: bool = False) -> dict[str, object]:
    result = place.materialize("gpu_ami", tags={REFRESH_BASE_TAG: "true"} if refresh else {})
    check = result.get_asset_check_evaluations()[0]
    assert check.passed, check.description
    place.log.append(check.description or "")
    if "cost_usd" in check.metadata:  # a machine was started for it: it told what it has, and it is gone
        assert str(check.metadata["engine"].value)[0].isdigit()
        assert float(check.metadata["cost_usd"].value) > 0  # type: ignore[arg-type]
        assert place.machines() == []
    return {name: entry.value for name, entry in result.asset_materializations_for_node("gpu_ami")[0].metadata.items()}


def launch_elsewhere(administrator: Clients, place: Platform, image: str) -> str:
    there = administrator.elsewhere(ELSEWHERE).ec2
    machine = there.run_instances(
        ImageId=image,
        InstanceType="g4dn.xlarge",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": TAG_DEPLOYMENT, "Value": place.settings.deployment}]}],
    )["Instances"][0]["InstanceId"]
    there.get_waiter("instance_running").wait(InstanceIds=[machine], WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    return machine


def test_from_base_to_end(place: Platform, administrator: Clients):
    bases = [publish_base(administrator, "1")]
    first = bake(place)
    assert (first["reused"], first["base_image"], first["retired"]) == (False, bases[0], [])
    assert "is what it should be" in place.log[-1]

    # Copied, tagged there, and told at home where; nothing of it expires any more.
    copy = first["copies"][ELSEWHERE]  # type: ignore[index]
    assert images(place, ELSEWHERE)[copy][TAG_COPY_OF] == first["image_id"]
    assert images(place)[first["image_id"]][TAG_COPIES] == ELSEWHERE  # type: ignore[index]
    everything = [*images(place).values(), *images(place, ELSEWHERE).values(), *snapshots(place), *snapshots(place, ELSEWHERE)]
    assert len(everything) == 4
    assert all(tags[TAG_EXPIRES_AT] == "" for tags in everything)

    # Nothing changed: nothing is made.
    again = bake(place)
    assert (again["reused"], again["image_id"], again["copies"]) == (True, first["image_id"], first["copies"])
    assert "was not started again: it passed at" in place.log[-1]

    # Another base was published: nothing is baked for that alone. When told to follow it, an image is baked anew, and the one before it
    # stays once more: a launch from it may be in progress.
    time.sleep(1.1)  # images are dated in seconds
    bases.append(publish_base(administrator, "2"))
    assert (bake(place)["reused"], bake(place)["base_image"]) == (True, bases[0])
    second = bake(place, refresh=True)
    assert (second["reused"], second["base_image"], second["retired"]) == (False, bases[1], [])
    assert set(images(place)) == {first["image_id"], second["image_id"]}

    # A machine made from a copy, even a stopped one, keeps that copy and what it was copied from.
    machine = launch_elsewhere(administrator, place, copy)
    there = administrator.elsewhere(ELSEWHERE).ec2
    Machines(there, place.settings.deployment).stop(machine)
    there.get_waiter("instance_stopped").wait(InstanceIds=[machine], WaiterConfig={"Delay": 1, "MaxAttempts": 300})
    assert bake(place)["retired"] == []

    # Without it, both go, with their snapshots.
    there.terminate_instances(InstanceIds=[machine])
    there.get_waiter("instance_terminated").wait(InstanceIds=[machine], WaiterConfig={"Delay": 1, "MaxAttempts": 300})
    assert bake(place)["retired"] == [f"{ELSEWHERE}/{copy}", f"us-east-1/{first['image_id']}"]
    assert set(images(place)) == {second["image_id"]}
    assert set(images(place, ELSEWHERE)) == set(second["copies"].values())  # type: ignore[attr-defined]
    assert (len(snapshots(place)), len(snapshots(place, ELSEWHERE))) == (1, 1)

    # Teardown knows the copies without the setting, from the images' own tags.
    forgetful = place.settings.model_copy(update={"ami_regions": ()})
    down = Teardown(place.clients, forgetful, place.log.append)
    going = [thing for thing in down.inventory() if thing.kind in (Kind.IMAGE, Kind.IMAGE_COPY)]
    assert {thing.id for thing in going} == {second["image_id"], *(f"{ELSEWHERE}/{image}" for image in second["copies"].values())}  # type: ignore[attr-defined]
    for thing in sorted(going, key=lambda thing: list(Kind).index(thing.kind)):
        down._remove(thing)
    assert [thing for thing in down.inventory() if "image" in thing.kind or "snapshot" in thing.kind] == []
    for base in bases:
        administrator.ec2.deregister_image(ImageId=base)
