"""The kinds of account that the embedded AWS can be: what each lacks and what is made in it, in records of EC2 alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws
from moto.ec2.models import ec2_backends

from monai_aws_pipeline.local_cloud.commands import up
from monai_aws_pipeline.local_cloud.config import ACCOUNT, CloudConfig, configure
from monai_aws_pipeline.local_cloud.errors import ProfileError
from monai_aws_pipeline.local_cloud.faults import Account, FaultBoard
from monai_aws_pipeline.local_cloud.profiles import PROFILES, Region, known, lacking, prepare
from monai_aws_pipeline.settings import Settings

DOCS = Path(__file__).resolve().parents[3] / "docs"


class Endpoints:
    """Remembers the subnets in which endpoints were made."""

    def __init__(self) -> None:
        self.subnets, self.ready = list[str](), False

    def make(self, subnet: Any) -> Endpoints:
        self.subnets.append(subnet.id)
        return self


@pytest.fixture
def region(monkeypatch: pytest.MonkeyPatch) -> Iterator[Region]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        backend = ec2_backends[ACCOUNT]["eu-west-1"]
        backend.reset()
        endpoints: Any = Endpoints()
        yield Region("eu-west-1", backend, endpoints, set(), lambda _: "arn:aws:kms:eu-west-1:123456789012:key/k")


def test_an_organisations_account_has_private_subnets_an_endpoint_and_a_key_and_tells_the_settings(region: Region):
    told = prepare(["organisation"], region)
    subnets = told["MONAI_AWS_SUBNETS"].split(",")
    assert {name.removeprefix("MONAI_AWS_").lower() for name in told} <= set(Settings.model_fields)
    assert [each.id for each in region.ec2.describe_subnets()] == subnets
    assert [vpc.is_default for vpc in region.ec2.describe_vpcs()] != ["true"]
    assert region.private_subnets == set(subnets)
    endpoints: Any = region.endpoints
    assert (endpoints.subnets, endpoints.ready) == ([subnets[0]], True)
    assert (region.ec2.ebs_encryption_by_default, region.ec2.default_kms_key_id) == (True, told["MONAI_AWS_ROOT_VOLUME_KMS_KEY"])


def test_a_zone_may_have_no_default_subnet_or_a_full_one(region: Region):
    prepare(["full-subnet"], region)
    assert {each.availability_zone: each.available_ip_address_count for each in region.default_subnets()}["eu-west-1a"] == 0
    assert all(each.available_ip_address_count > 0 for each in region.default_subnets() if each.availability_zone != "eu-west-1a")
    prepare(["zone-without-subnet"], region)
    assert "eu-west-1a" not in [each.availability_zone for each in region.default_subnets()]


def test_profiles_add_up_and_an_order_changes_them_until_it_is_cleared():
    lacks = Account(**lacking(["zone-without-capacity", "quota-of-4", "no-spot-role", "organisation"], "eu-west-1"))
    assert lacks == Account(("eu-west-1a",), 4, spot_role=False, required_tag="monai-aws:owner")
    board = FaultBoard(1.0, lacks)
    board.order_from({"account": {"vcpus": 8}})
    assert (board.account.vcpus, board.account.spot_role) == (8, False)
    board.clear()
    assert board.account == lacks


def test_a_profile_that_nobody_knows_is_refused_before_anything_starts(tmp_path: Path):
    with pytest.raises(ProfileError, match=r"no account profile nonsense\. Choose among default, organisation"):
        up(configure(tmp_path / "state", profiles=("organisation", "nonsense")))
    assert not (tmp_path / "state").exists()
    assert known(["default"]) == ("default",)


def test_a_setting_names_the_profiles_where_no_option_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_LOCAL_PROFILE", "organisation, no-spot-role")
    assert configure(tmp_path).profiles == ("organisation", "no-spot-role")
    chosen = configure(tmp_path, profiles=("full-subnet",))
    assert chosen.profiles == ("full-subnet",)
    assert CloudConfig.from_json(chosen.to_json()) == chosen


def test_the_page_has_every_profile():
    page = (DOCS / "local-cloud.md").read_text()
    assert [name for name, profile in PROFILES.items() if f"| `{name}` | {profile.what} |" not in page] == []
