"""Whatever goes wrong while a machine is at work for us, nothing of it is left: no machine, no key pair, no security group.

Each failure is a real one on a real machine: capacity refused, SSH server gone, script failing, machine lost, build and push failing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_aws_pipeline.cloud.errors import CapacityError
from monai_aws_pipeline.cloud.tags import tag_filters
from monai_aws_pipeline.contract import ROLE_AMI_BAKE, ROLE_MAP_BUILD
from monai_aws_pipeline.deployment import ami, build_machine, packaging
from monai_aws_pipeline.deployment.host_bundle import Bundle, make_bundle
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.remote import ConnectError, HostKeyMismatchError, KeyPair, Remote, RemoteCommandError, RemoteError
from tests.support.platform import Platform, platform

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with its machine image baked once."""
    with platform(local_cloud, "failures", tmp_path_factory.mktemp("failures")) as made:
        assert made.materialize("gpu_ami").success
        yield made


@pytest.fixture(autouse=True)
def forget_faults(local_cloud: LocalCloud) -> Iterator[None]:
    yield
    local_cloud.clear_faults()


def assert_nothing_left(place: Platform) -> None:
    filters = tag_filters(place.settings.deployment)
    assert [machine.id for role in (ROLE_AMI_BAKE, ROLE_MAP_BUILD) for machine in place.machines(role)] == []
    assert place.clients.ec2.describe_key_pairs(Filters=filters)["KeyPairs"] == []
    assert place.clients.ec2.describe_security_groups(Filters=filters)["SecurityGroups"] == []


def test_a_success_leaves_nothing_but_the_image(place: Platform):
    assert_nothing_left(place)


def test_a_second_bake_with_nothing_changed_launches_nothing(place: Platform):
    before = place.clients.ec2.describe_images(Owners=["self"], Filters=tag_filters(place.settings.deployment))["Images"]
    result = place.materialize("gpu_ami")
    after = place.clients.ec2.describe_images(Owners=["self"], Filters=tag_filters(place.settings.deployment))["Images"]
    metadata = result.asset_materializations_for_node("gpu_ami")[0].metadata
    assert metadata["reused"].value is True
    assert [image["ImageId"] for image in before] == [image["ImageId"] for image in after]


def test_launch_fails_for_lack_of_capacity_everywhere(place: Platform, local_cloud: LocalCloud):
    local_cloud.order_fault(service="ec2", action="RunInstances", code="InsufficientInstanceCapacity", status=500, times=200)
    with pytest.raises(CapacityError, match="MONAI_AWS_INSTANCE_TYPES"):
        place.materialize("map_image")
    assert_nothing_left(place)


def test_capacity_missing_in_one_zone_is_found_in_the_next(place: Platform, local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch):
    local_cloud.order_fault(service="ec2", action="RunInstances", code="InsufficientInstanceCapacity", status=400, times=1)
    monkeypatch.setattr(packaging, "build", _fail_on_purpose)
    with pytest.raises(RemoteCommandError, match="on purpose"):
        place.materialize("map_image")
    assert_nothing_left(place)


def test_the_ssh_server_never_answers(place: Platform, monkeypatch: pytest.MonkeyPatch):
    unreachable = build_machine.connect

    def nobody_listens(address: str, **arguments: object):
        return unreachable(address, **{**arguments, "port": 1, "seconds": 2})  # type: ignore[arg-type]

    monkeypatch.setattr(build_machine, "connect", nobody_listens)
    with pytest.raises(ConnectError, match="MONAI_AWS_SSH_FROM"):
        place.materialize("map_image")
    assert_nothing_left(place)


def test_another_machine_answers_at_the_address(place: Platform, monkeypatch: pytest.MonkeyPatch):
    genuine = build_machine.connect

    def expects_another_host_key(address: str, **arguments: object):
        return genuine(address, **{**arguments, "host_key": KeyPair.fresh().public})  # type: ignore[arg-type]

    monkeypatch.setattr(build_machine, "connect", expects_another_host_key)
    with pytest.raises(HostKeyMismatchError):
        place.materialize("map_image")
    assert_nothing_left(place)


def test_provisioning_fails(place: Platform, monkeypatch: pytest.MonkeyPatch):
    def broken_bundle(settings: object, target: Path, report: object, *, builds: bool) -> Bundle:
        bundle = make_bundle(settings, target, report, builds=builds)  # type: ignore[arg-type]
        (bundle.path / "provision.sh").write_text("echo 'no such package'; exit 7\n")
        return Bundle(bundle.path, "0" * 16)

    monkeypatch.setattr(ami, "make_bundle", broken_bundle)
    with pytest.raises(RemoteCommandError, match="exit code 7") as error:
        place.materialize("gpu_ami")
    assert "no such package" in str(error.value)
    assert_nothing_left(place)


def test_the_machine_is_lost_while_the_source_is_sent(place: Platform, local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch):
    genuine = Remote.send_folder

    def lose_it_first(self: Remote, *arguments: object, **named: object) -> int:
        for machine in place.machines(ROLE_MAP_BUILD):
            local_cloud.lose_instance(machine.id)
        return genuine(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Remote, "send_folder", lose_it_first)
    with pytest.raises((RemoteError, EOFError, OSError)):
        place.materialize("map_image")
    assert_nothing_left(place)


def test_the_build_fails(place: Platform, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packaging, "build", _fail_on_purpose)
    with pytest.raises(RemoteCommandError, match="exit code 3"):
        place.materialize("map_image")
    assert_nothing_left(place)


def test_the_push_is_refused(place: Platform, local_cloud: LocalCloud):
    local_cloud.order_fault(service="registry", action="Push", code="DENIED", status=403, times=200)
    with pytest.raises(RemoteCommandError, match=r"(?s)Pushing the MAP.*403"):
        place.materialize("map_image")
    assert_nothing_left(place)


def _fail_on_purpose(build_host: packaging.BuildHost, *_: object, **__: object) -> None:
    build_host.remote.run("echo on purpose; exit 3", lambda _: None, what="Building the MAP")
