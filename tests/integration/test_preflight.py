"""The preflight as the operator, on the embedded AWS with IAM enforced: everything is asked, and what is missing is named with a remedy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_aws_pipeline.cloud.preflight import Line, preflight
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.settings import load_settings
from tests.support.platform import Platform, environment, platform

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "preflight", tmp_path_factory.mktemp("preflight")) as made:
        yield made


def look(place: Platform, **settings: object) -> dict[str, Line]:
    with environment(place.variables):
        return {line.what: line for line in preflight(place.clients, load_settings(**settings))}


def test_a_bootstrapped_account_passes_before_anything_is_deployed(place: Platform):
    lines = look(place)
    assert [line for line in lines.values() if not line.ok] == []
    assert place.settings.names.operator_role in lines["identity"].answer
    assert lines[f"queue {place.settings.names.jobs_queue}"].answer == "is made with s3_trigger"


def test_all_that_is_missing_is_named_at_once(place: Platform):
    lines = look(place, bucket="a-bucket-of-nobody", base_ami="ami-0123456789abcdef0", instance_types=("x9.nothing",))
    failed = {what for what, line in lines.items() if not line.ok}
    assert failed == {"bucket", "base image", "instance types"}
    assert all(lines[what].remedy for what in failed)


def test_the_disk_is_held_against_the_snapshot_and_the_zones_against_the_types(place: Platform):
    lines = look(place)
    assert lines["root volume"].answer == "150 GiB, of which the base image's snapshot has 75"
    assert "us-east-1a (3 types)" in lines["subnets"].answer
    small = look(place, root_volume_gib=60)["root volume"]
    assert not small.ok
    assert "60 GiB is less than the 75 GiB" in small.answer
    assert "MONAI_AWS_ROOT_VOLUME_GIB" in small.remedy
    assert not look(place, subnets="subnet-0123456789abcdef0")["subnets"].ok


def test_an_account_without_bootstrap_is_sent_to_the_administrator(place: Platform):
    lines = look(place, deployment="not-there")
    roles = [line for what, line in lines.items() if what.startswith(("role ", "instance profile ", "bootstrap"))]
    assert len(roles) == 8
    assert not any(line.ok for line in roles)


def test_unknown_credentials_are_said_once(place: Platform, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_PROFILE")
    with environment({"AWS_ACCESS_KEY_ID": "AKIA" + "A" * 16, "AWS_SECRET_ACCESS_KEY": "x" * 40}):
        lines = list(preflight(Clients(place.settings.region), place.settings))
    (failed,) = [line for line in lines if not line.ok]
    assert failed.what == "identity"
    assert "AWS_PROFILE" in failed.remedy
