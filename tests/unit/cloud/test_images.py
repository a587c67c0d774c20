"""Which base image is chosen, which baked images go, and what a launch says of its disk and its metadata service."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from monai_aws_pipeline.cloud.errors import ImageError, QuotaError, ThrottledError
from monai_aws_pipeline.cloud.images import Image, ImageRegions, Images, surplus
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume, quota_error, size_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.contract import TAG_CONTENT, TAG_DEPLOYMENT, TAG_EXPIRES_AT
from monai_aws_pipeline.operations.sweep import short_lived_runs, sweep


def image(name: str) -> Image:
    return Image(name, name, "available", "", "/dev/sda1", (), {})


NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(NAMES, st.integers(1, 9), NAMES, NAMES)
def test_what_goes_is_neither_new_nor_protected_nor_in_use_and_all_else_goes(names, keep, protected, in_use):
    images = [image(name) for name in names]
    going = {each.id for each in surplus(images, keep, protected, in_use)}
    assert not going & (set(names[:keep]) | set(protected) | set(in_use))
    assert set(names) - going <= set(names[:keep]) | set(protected) | set(in_use)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        yield Clients("us-east-1")


def publish(name: str) -> str:
    ec2 = boto3.client("ec2", region_name="us-east-1")
    return ec2.register_image(Name=name, RootDeviceName="/dev/sda1")["ImageId"]


def images(clients: Clients) -> Images:
    return Images(clients.ec2, clients.ssm, "unit")


def test_the_newest_image_of_a_name_is_taken_and_only_from_its_owner(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    for name in ("ours 1", "ours 2", "other 3"):
        publish(name)
    described = clients.ec2.describe_images

    def dated(**asked: Any) -> Any:  # moto dates all of one second alike
        answer = described(**asked)
        for each in answer["Images"]:
            each["CreationDate"] = f"2026-01-0{each['Name'][-1]}T00:00:00.000Z"
        return answer

    monkeypatch.setattr(clients.ec2, "describe_images", dated)
    assert images(clients).base("name:ours *", "self").name == "ours 2"
    with pytest.raises(ImageError, match=r"No available image of amazon is called 'ours \*'.*MONAI_AWS_BASE_AMI_OWNER"):
        images(clients).base("name:ours *", "amazon")


def test_a_parameter_is_followed_to_its_image_and_refused_when_it_holds_none(clients: Clients):
    image_id = publish("base")
    for name, value in {"/ours/base": image_id, "/ours/text": "latest"}.items():
        clients.ssm.put_parameter(Name=name, Value=value, Type="String")
    assert images(clients).base("ssm:/ours/base").id == image_id
    assert images(clients).base(image_id).id == image_id
    with pytest.raises(ImageError, match="'latest', which is no image id"):
        images(clients).base("ssm:/ours/text")
    with pytest.raises(ImageError, match=r"/ours/none could not be read \(ParameterNotFound\)"):
        images(clients).base("ssm:/ours/none")
    with pytest.raises(ImageError, match="does not exist in this region"):
        images(clients).base("ami-0123456789abcdef0")


def spec(image_id: str, group: str, volume: RootVolume) -> LaunchSpec:
    tags = Tags("unit", "map-build", "me", "run", "unit", datetime(2026, 1, 1, tzinfo=UTC))
    return LaunchSpec(image_id, ("g4dn.xlarge",), "profile", tags, "#cloud-config\n{}", volume, group)


def test_a_launch_says_how_its_disk_is_kept_and_that_no_container_reaches_the_metadata_service(clients: Clients):
    boto3.client("iam").create_instance_profile(InstanceProfileName="profile")
    machines, seen = Machines(clients.ec2, "unit", clients.ec2_launches), list[dict[str, Any]]()
    clients.ec2_launches.meta.events.register("provide-client-params.ec2.RunInstances", lambda params, **_: seen.append(dict(params)))
    group = machines.security_group(spec("", "", RootVolume(1)).tags, "x")
    volume = RootVolume(33, "gp2", kms_key="alias/ours")
    assert machines.launch(spec(publish("base"), group, volume), lambda _: None).state
    assert seen[0]["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"}
    assert seen[0]["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/sda1",
            "Ebs": {"VolumeSize": 33, "VolumeType": "gp2", "Encrypted": True, "DeleteOnTermination": True, "KmsKeyId": "alias/ours"},
        }
    ]
    assert "KmsKeyId" not in RootVolume(8, encrypted=False, kms_key="alias/ours").as_ebs()


def test_an_image_that_went_meanwhile_is_named_with_what_to_do(clients: Clients):
    machines = Machines(clients.ec2, "unit", clients.ec2_launches)
    with pytest.raises(ImageError, match="Materialise gpu_ami"):
        machines.launch(spec("ami-0123456789abcdef0", "sg-1", RootVolume(8)), lambda _: None)


def refuse_launches(clients: Clients, code: str) -> None:
    def refuse(params: Any, **_: Any) -> None:
        raise clients.ec2.exceptions.ClientError({"Error": {"Code": code}}, "RunInstances")

    clients.ec2_launches.meta.events.register("provide-client-params.ec2.RunInstances", refuse)


def test_throttling_backs_off_and_then_says_what_to_do(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    refuse_launches(clients, "RequestLimitExceeded")
    pauses: list[float] = []
    monkeypatch.setattr("monai_aws_pipeline.cloud.instances.time", SimpleNamespace(sleep=pauses.append))  # and nobody else's sleep
    with pytest.raises(ThrottledError, match=r"six attempts.*Materialise again in some minutes"):
        Machines(clients.ec2, "unit", clients.ec2_launches).launch(spec(publish("base"), "sg-1", RootVolume(8)), lambda _: None)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_full_quota_is_named_with_the_command_that_raises_it(clients: Clients):
    refuse_launches(clients, "VcpuLimitExceeded")
    with pytest.raises(QuotaError, match=r"L-DB2E81BA.*request-service-quota-increase --region us-east-1 .*--quota-code L-DB2E81BA"):
        Machines(clients.ec2, "unit", clients.ec2_launches).launch(spec(publish("base"), "sg-1", RootVolume(8)), lambda _: None)


@pytest.mark.parametrize(
    ("full", "given", "asked"),
    [
        (("g4dn.2xlarge",), "g4dn.xlarge", ["g4dn.2xlarge", "g4dn.xlarge"]),  # a smaller one may fit
        (("g4dn.2xlarge", "g4dn.xlarge"), "m5.xlarge", ["g4dn.2xlarge", "g4dn.xlarge", "m5.xlarge"]),  # a g5 of that size cannot
    ],
)
def test_a_full_quota_leads_past_what_counts_against_it(clients: Clients, full: tuple[str, ...], given: str, asked: list[str]):
    seen: list[str] = []

    def refuse(params: Any, **_: Any) -> None:
        seen.append(params["InstanceType"])
        if params["InstanceType"] in full:
            raise clients.ec2.exceptions.ClientError({"Error": {"Code": "VcpuLimitExceeded"}}, "RunInstances")

    boto3.client("iam").create_instance_profile(InstanceProfileName="profile")
    clients.ec2_launches.meta.events.register("provide-client-params.ec2.RunInstances", refuse)
    machines = Machines(clients.ec2, "unit", clients.ec2_launches)
    group = machines.security_group(spec("", "", RootVolume(1)).tags, "x")
    wanted = replace(spec(publish("base"), group, RootVolume(8)), types=("g4dn.2xlarge", "g4dn.xlarge", "g5.xlarge", "m5.xlarge"))
    assert machines.launch(wanted, lambda _: None).type == given
    assert seen == asked


@pytest.mark.parametrize(
    ("kind", "size"), [("g4dn.xlarge", 4), ("g4dn.12xlarge", 48), ("m5.large", 2), ("g4dn.metal", float("inf")), ("odd", float("inf"))]
)
def test_sizes_of_types_can_be_compared(kind: str, size: float):
    assert size_of(kind) == size


@pytest.mark.parametrize(
    ("kind", "code", "quota"),
    [
        ("g4dn.xlarge", "VcpuLimitExceeded", "L-DB2E81BA"),
        ("g6e.xlarge", "VcpuLimitExceeded", "L-DB2E81BA"),
        ("g5.xlarge", "MaxSpotInstanceCountExceeded", "L-3819A6DF"),
        ("p4d.24xlarge", "VcpuLimitExceeded", "L-417A185B"),
        ("m5.large", "VcpuLimitExceeded", "L-1216C47A"),
    ],
)
def test_each_family_has_its_quota(kind: str, code: str, quota: str):
    assert quota in str(quota_error(kind, code, "us-east-1"))


# ------------------------------------------------------------------------------------------------------- the life of an image


def with_tags_of_snapshots(clients: Clients) -> Clients:
    """moto takes neither CreateImage's tags for a snapshot nor any of CopyImage's: what AWS does with them is done here."""
    wanted: list[dict[str, list[Any]]] = []

    def take(params: dict[str, Any], **_: Any) -> None:
        wanted.append({each["ResourceType"]: each["Tags"] for each in params.pop("TagSpecifications", [])})

    def give(parsed: dict[str, Any], **_: Any) -> None:
        tags = wanted.pop()
        clients.ec2.create_tags(Resources=[parsed["ImageId"]], Tags=tags["image"])
        (mapping,) = clients.ec2.describe_images(ImageIds=[parsed["ImageId"]])["Images"][0]["BlockDeviceMappings"]
        clients.ec2.create_tags(Resources=[mapping["Ebs"]["SnapshotId"]], Tags=tags["snapshot"])

    for operation in ("CreateImage", "CopyImage"):
        clients.ec2.meta.events.register_first(f"provide-client-params.ec2.{operation}", take)
        clients.ec2.meta.events.register_first(f"after-call.ec2.{operation}", give)
    return clients


@pytest.fixture
def regions(clients: Clients) -> ImageRegions:
    for region in ("us-east-1", "us-west-2"):
        with_tags_of_snapshots(clients.elsewhere(region))
    return ImageRegions(clients, "unit", ("us-west-2",))


def image_tags(content: str) -> Tags:
    expires = datetime(2026, 1, 1, tzinfo=UTC)
    return Tags("unit", "ami-bake", "me", "run", "unit-gpu", expires, {TAG_CONTENT: content})


def machine_of(clients: Clients, image_id: str) -> str:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": TAG_DEPLOYMENT, "Value": "unit"}]}]
    started = clients.ec2.run_instances(ImageId=image_id, MinCount=1, MaxCount=1, TagSpecifications=tags)  # type: ignore[arg-type]
    return started["Instances"][0]["InstanceId"]


def bake(clients: Clients, regions: ImageRegions, content: str) -> tuple[Image, str]:
    machine = machine_of(clients, publish(f"base {content}"))
    made = regions.home.capture(machine, image_tags(content), "made")
    clients.ec2.terminate_instances(InstanceIds=[machine])
    return made, regions.spread(made, image_tags(content), encrypted=True, report=lambda _: None)["us-west-2"]


def all_there_is(regions: ImageRegions) -> dict[str, tuple[int, int]]:
    return {region: (len(there.all()), len(there.snapshots())) for region, there in regions.all()}


def test_an_image_is_copied_kept_while_it_is_used_and_removed_with_copies_and_snapshots(clients: Clients, regions: ImageRegions):
    said: list[str] = []
    old, old_copy = bake(clients, regions, "a" * 16)
    time.sleep(1.1)  # moto dates images in seconds
    new, _ = bake(clients, regions, "b" * 16)
    assert all_there_is(regions) == {"us-west-2": (2, 2), "us-east-1": (2, 2)}
    everything = [tags for _, there in regions.all() for tags in (*(each.tags for each in there.all()), *there.snapshots().values())]
    assert {tags[TAG_EXPIRES_AT] for tags in everything} == {""}
    assert regions.home.find("a" * 16) == regions.home.look(old.id)
    # Copied once; known from the image's own tags to one who has no such setting.
    assert regions.spread(old, image_tags("a" * 16), encrypted=True, report=said.append) == {"us-west-2": old_copy}
    assert ImageRegions(clients, "unit").others() == ("us-west-2",)
    # Protected, or in use anywhere, also by a stopped machine: it stays.
    assert regions.retire(1, {new.id, old.id}, said.append) == []
    west = clients.elsewhere("us-west-2")
    user = machine_of(west, old_copy)
    west.ec2.stop_instances(InstanceIds=[user])
    assert regions.retire(1, {new.id}, said.append) == []
    west.ec2.terminate_instances(InstanceIds=[user])
    assert regions.retire(2, {new.id}, said.append) == []
    assert regions.retire(1, {new.id}, said.append) == [f"us-west-2/{old_copy}", f"us-east-1/{old.id}"]
    assert all_there_is(regions) == {"us-west-2": (1, 1), "us-east-1": (1, 1)}


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2"])
def test_a_capture_or_copy_that_breaks_off_leaves_nothing(
    clients: Clients, regions: ImageRegions, monkeypatch: pytest.MonkeyPatch, region: str
):
    class Interrupted(BaseException):
        """What a cancelled run raises is no Exception either."""

    genuine = Images._wait

    def interrupt(self: Images, image_id: str, *rest: Any) -> Image:
        if self._ec2.meta.region_name == region:
            raise Interrupted
        return genuine(self, image_id, *rest)

    monkeypatch.setattr(Images, "_wait", interrupt)
    with pytest.raises(Interrupted):
        bake(clients, regions, "a" * 16)
    assert all_there_is(regions)[region] == (0, 0)


def test_a_half_made_image_is_nobodys_and_the_sweep_removes_it_in_every_region(
    clients: Clients, regions: ImageRegions, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as killed:  # a killed process gives nothing its last tag and removes nothing
        killed.setattr(Images, "tag", lambda *_: None)
        killed.setattr(Images, "discard", lambda *_: None)
        bake(clients, regions, "a" * 16)
    assert all_there_is(regions) == {"us-west-2": (1, 1), "us-east-1": (1, 1)}
    assert regions.home.baked() == []
    assert regions.home.find("a" * 16) is None
    assert short_lived_runs(clients, "unit", ("us-west-2",)) == {"run"}
    removed = sweep(clients, "unit", run_ids={"run"}, report=lambda _: None, regions=("us-west-2",))
    assert [name.rpartition("/")[0] for name in removed] == ["machine image us-west-2", "machine image us-east-1"]
    assert all_there_is(regions) == {"us-west-2": (0, 0), "us-east-1": (0, 0)}
