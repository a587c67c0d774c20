"""Which images of the registry go when only so many MAPs are kept, and which never do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.operations.live_maps import TAG_PREPARED, LiveMaps
from monai_aws_pipeline.operations.promotion import Deployment, Kind, history_of
from monai_aws_pipeline.operations.retention import UNTAGGED_DAYS, lately_live, remove_old_maps, surplus_maps, surplus_stages
from monai_aws_pipeline.settings import Settings

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def image(name: str, days: float = 10, *tags: str) -> PushedImage:
    return PushedImage("registry/unit/map", f"sha256:{name}", (name, *tags), 1, (NOW - timedelta(days=days)).isoformat())


MAPS = [image(name, days) for days, name in enumerate("fedcba", start=2)]
"""Newest first."""


def past(*switches: str) -> list[Deployment]:
    """``a`` was deployed; ``<a`` was gone back to."""
    return [
        Deployment(f"sha256:{each.removeprefix('<')}", Kind.ROLLBACK if each.startswith("<") else Kind.PROMOTE, "", "") for each in switches
    ]


def going(*switches: str, kept: int = 2, in_hand: str = "", maps: list[PushedImage] | None = None) -> str:
    found = surplus_maps(MAPS if maps is None else maps, past(*switches), kept, {f"sha256:{each}" for each in in_hand}, NOW)
    return "".join(each.digest.removeprefix("sha256:") for each in found)


def test_so_many_of_those_pushed_last_stay():
    assert going(kept=2) == "dcba"
    assert going(kept=9) == ""


def test_without_a_number_all_stay():
    assert going("a", kept=0) == ""


def test_the_live_map_and_those_that_were_live_last_stay_however_old():
    assert going("a") == "dcb"
    assert going("a", "b", "c", kept=1) == "eda", "c is live, b was before"
    assert going("a", "b", "c") == "d"


def test_what_a_rollback_would_go_to_next_stays_also_where_later_ones_were_withdrawn():
    history = ("a", "b", "c", "<b")
    assert history_of(past(*history)).before == ("sha256:a",)
    assert "a" not in going(*history)
    assert "b" not in going(*history)


def test_what_a_host_was_given_and_what_an_operator_has_tagged_stays():
    assert going(in_hand="b") == "dca"
    kept = [each if each.digest != "sha256:c" else image("c", 5, "keep-audit-2026") for each in MAPS]
    assert going(maps=kept) == "dba"


def test_what_was_pushed_within_a_day_stays():
    young = [image(name, 0.5) for name in "fedcba"]
    assert going(maps=young) == ""


@given(st.lists(st.sampled_from([*"abcdef", *(f"<{name}" for name in "abcdef")])), st.integers(1, 6))
def test_no_map_goes_that_is_live_or_that_a_rollback_without_a_name_would_choose(history: list[str], kept: int):
    gone = set(going(*history, kept=kept))
    now = history_of(past(*history))
    safe = [now.live, *now.before[:1]]
    assert not {digest.removeprefix("sha256:") for digest in safe} & gone
    assert {*lately_live(past(*history), kept)}.isdisjoint(f"sha256:{each}" for each in gone)


def test_a_stage_stays_as_long_as_a_map_is_made_of_it_and_one_whose_layers_are_not_known_too():
    layers = {"m": {"torch", "model", "app"}, "used": {"torch"}, "old": {"older torch"}, "young": {"newer"}}
    known = {f"sha256:{name}": frozenset(found) for name, found in layers.items()}
    stages = [image("used"), image("old"), image("unknown"), image("young", 0.1)]
    assert [each.digest for each in surplus_stages(stages, known, [image("m")], NOW)] == ["sha256:old"]
    assert surplus_stages(stages, known, [image("m"), image("not read")], NOW) == (), "it may be made of any of them"


# ----------------------------------------------------------------------------------------------------------- with AWS's calls


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield Clients("us-east-1")


SETTINGS = Settings(_env_file=None, deployment="unit", bucket="studies", ecr_repository="unit/map", maps_kept=1)  # type: ignore[call-arg]


def put(clients: Clients, tag: str) -> str:
    layer = {"digest": f"sha256:{hashlib.sha256(tag.encode()).hexdigest()}", "size": 1}  # of which moto makes the image's digest
    media = "application/vnd.docker.distribution.manifest.v2+json"
    text = json.dumps({"schemaVersion": 2, "mediaType": media, "config": layer, "layers": [layer]})
    return str(clients.ecr.put_image(repositoryName="unit/map", imageTag=tag, imageManifest=text)["image"]["imageId"]["imageDigest"])


@pytest.fixture
def digests(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Three MAPs, pushed a day apart, the first of them live."""
    Registry(clients.ecr, "unit/map").ensure("unit", "us")
    made = {tag: put(clients, tag) for tag in ("1.0.0", "2.0.0", "3.0.0")}
    listed = Registry.images

    def aged(registry: Registry) -> list[PushedImage]:
        days = {"1.0.0": 4, "2.0.0": 3, "3.0.0": 2}
        found = [replace(each, pushed_at=(NOW - timedelta(days=days[each.tags[0]])).isoformat()) for each in listed(registry)]
        return sorted(found, key=lambda each: each.pushed_at, reverse=True)

    monkeypatch.setattr(Registry, "images", aged)
    live = LiveMaps(clients, SETTINGS, lambda _: None)
    first = Registry(clients.ecr, "unit/map").require(tag="1.0.0")
    live.switch(Kind.DEPLOY, first, "test", "")
    return made


def tags(clients: Clients) -> list[str]:
    return sorted(each.tags[0] for each in Registry(clients.ecr, "unit/map").images())


def test_what_is_beyond_the_number_is_removed_and_the_rest_stays(clients: Clients, digests: dict[str, str]):
    assert remove_old_maps(clients, SETTINGS, lambda _: None, now=NOW) == ["image 2.0.0"]
    assert tags(clients) == ["1.0.0", "3.0.0"]
    assert remove_old_maps(clients, SETTINGS, lambda _: None, now=NOW) == []


def test_what_the_lineage_built_last_stays(clients: Clients, digests: dict[str, str]):
    assert remove_old_maps(clients, SETTINGS, lambda _: None, protected=[digests["2.0.0"]], now=NOW) == []


def test_what_a_host_holds_stays(clients: Clients, digests: dict[str, str]):
    image_id = clients.ec2.register_image(Name="any", RootDeviceName="/dev/sda1")["ImageId"]
    named = {"monai-aws:deployment": "unit", "monai-aws:role": "inference", TAG_PREPARED: digests["2.0.0"]}
    spec = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in named.items()]}]
    clients.ec2.run_instances(ImageId=image_id, MinCount=1, MaxCount=1, TagSpecifications=spec)  # type: ignore[arg-type]
    assert remove_old_maps(clients, SETTINGS, lambda _: None, now=NOW) == []


def test_without_a_number_nothing_of_the_repository_is_touched(clients: Clients, digests: dict[str, str]):
    assert remove_old_maps(clients, SETTINGS.model_copy(update={"maps_kept": 0}), lambda _: None, now=NOW) == []
    assert policy(clients) is None


def test_a_repository_of_another_deployment_is_left_alone(clients: Clients, digests: dict[str, str]):
    said: list[str] = []
    assert remove_old_maps(clients, SETTINGS.model_copy(update={"deployment": "other"}), said.append, now=NOW) == []
    assert "carries the tag of unit" in said[0]
    assert len(tags(clients)) == 3


def policy(clients: Clients) -> dict[str, object] | None:
    try:
        return dict(json.loads(clients.ecr.get_lifecycle_policy(repositoryName="unit/map")["lifecyclePolicyText"]))
    except clients.ecr.exceptions.LifecyclePolicyNotFoundException:
        return None


def test_ecr_expires_what_has_no_tag_and_nothing_else(clients: Clients, digests: dict[str, str]):
    remove_old_maps(clients, SETTINGS, lambda _: None, now=NOW)
    found = policy(clients)
    assert found
    (rule,) = found["rules"]  # type: ignore[misc]
    assert rule["selection"] == {
        "tagStatus": "untagged",
        "countType": "sinceImagePushed",
        "countUnit": "days",
        "countNumber": UNTAGGED_DAYS,
    }


def test_a_lifecycle_policy_of_somebody_else_stays(clients: Clients, digests: dict[str, str]):
    selection = {"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 3}
    theirs = {"rules": [{"rulePriority": 5, "description": "ours since 2024", "selection": selection, "action": {"type": "expire"}}]}
    clients.ecr.put_lifecycle_policy(repositoryName="unit/map", lifecyclePolicyText=json.dumps(theirs))
    said: list[str] = []
    remove_old_maps(clients, SETTINGS, said.append, now=NOW)
    assert policy(clients) == theirs
    assert "not ours" in said[-1]


def test_while_a_map_that_was_live_has_no_tag_nothing_expires(clients: Clients, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    remove_old_maps(clients, SETTINGS, lambda _: None, now=NOW)
    monkeypatch.setattr(Registry, "untagged", lambda _: [digests["1.0.0"], "sha256:left by a push"])
    said: list[str] = []
    remove_old_maps(clients, SETTINGS, said.append, now=NOW)
    assert policy(clients) is None, "it would go with the rest"
    assert digests["1.0.0"] in said[-1]
    assert "left by a push" not in said[-1]
