"""A disk that runs short of room for images: what goes, what never goes, and when."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineApi
from monai_aws_pipeline.host_agent.runtime.engine import Engine, ImageFacts
from monai_aws_pipeline.host_agent.runtime.live_map import LOW_BYTES, PULL_BYTES, LiveMap
from tests.support.pretended_docker import serving

REPOSITORY = "127.0.0.1:5000/monai-aws/dev"
OLD, LIVE, NEW, USED = (f"{REPOSITORY}@sha256:{digit * 64}" for digit in "abcd")
APP = '{"command": "[\\"true\\"]", "input": {"path": "input"}, "output": {"path": "output"}}'
STOP = threading.Event()


@dataclass
class Disk:
    """An engine with images on a disk of so many free bytes. Each image takes 10 GiB."""

    free: int
    images: list[str] = field(default_factory=lambda: [OLD, LIVE])
    pulls: int = 0

    def has(self, image: str) -> bool:
        return image in self.images

    def references(self) -> list[str]:
        return list(self.images)

    def pull(self, image: str, *_: Any) -> None:
        self.pulls += 1
        if self.free < 10 << 30:
            raise FailedError(Code.DISK_FULL, "The disk is full.")
        self.images.append(image)
        self.free -= 10 << 30

    def facts(self, image: str) -> ImageFacts:
        return ImageFacts(image, 1, {}, APP)

    def evict(self, keep: set[str]) -> int:
        gone = [image for image in self.images if image not in keep]
        self.images = [image for image in self.images if image in keep]
        self.free += len(gone) * (10 << 30)
        return len(gone)


@pytest.fixture
def parameters(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = boto3.client("ssm", region_name="us-east-1")
        client.put_parameter(Name="/live", Value=LIVE, Type="String")
        yield client


def live_map(disk: Disk, ssm: Any) -> LiveMap:
    return LiveMap(ssm, boto3.client("ecr", region_name="us-east-1"), disk, "/live", lambda: disk.free)  # type: ignore[arg-type]


def test_with_room_an_old_image_stays_because_the_next_one_shares_its_layers(parameters: Any) -> None:
    disk = Disk(free=PULL_BYTES)
    live_map(disk, parameters).make_ready(NEW, STOP)
    assert disk.images == [OLD, LIVE, NEW]


def test_without_room_for_a_pull_all_go_but_the_live_one(parameters: Any) -> None:
    disk = Disk(free=PULL_BYTES - 1)
    live_map(disk, parameters).make_ready(NEW, STOP)
    assert disk.images == [LIVE, NEW]


def test_a_disk_that_is_short_before_a_study_loses_its_old_images_and_a_rerun_keeps_its_own(parameters: Any) -> None:
    disk = Disk(free=LOW_BYTES - 1, images=[OLD, LIVE, NEW])
    assert live_map(disk, parameters).ready("sha256:" + "a" * 64, STOP).image == OLD
    assert disk.images == [OLD, LIVE]


def test_a_pull_that_meets_a_full_disk_is_tried_once_more_after_room_was_made(parameters: Any) -> None:
    disk = Disk(free=1)
    seen = iter([PULL_BYTES])  # other work filled the disk after it was looked at
    LiveMap(parameters, boto3.client("ecr", region_name="us-east-1"), disk, "/live", lambda: next(seen)).make_ready(NEW, STOP)  # type: ignore[arg-type]
    assert (disk.pulls, disk.images) == (2, [LIVE, NEW])


def test_a_disk_that_stays_full_fails_with_a_code_and_keeps_the_live_map(parameters: Any) -> None:
    disk = Disk(free=1, images=[LIVE])
    with pytest.raises(FailedError) as wrong:
        live_map(disk, parameters).make_ready(NEW, STOP)
    assert wrong.value.code is Code.DISK_FULL
    assert disk.images == [LIVE]


def test_nothing_goes_while_it_is_not_known_which_map_is_live(parameters: Any) -> None:
    parameters.delete_parameter(Name="/live")
    disk = Disk(free=PULL_BYTES - 1)
    live_map(disk, parameters).make_ready(NEW, STOP)
    assert disk.images == [OLD, LIVE, NEW]


# ---------------------------------------------------------------------------------------------------- what the registry says of a pull


@dataclass
class Registry:
    """An ECR repository with images of layers of so many compressed GiB, in the form that AWS's API gives them."""

    layers: dict[str, dict[str, int]]
    index_of: dict[str, str] = field(default_factory=dict)

    def get_authorization_token(self) -> dict[str, Any]:
        return {"authorizationData": [{"authorizationToken": "QVdTOnBhc3N3b3Jk"}]}

    def batch_get_image(self, *, imageIds: list[dict[str, str]], **_: Any) -> dict[str, Any]:  # noqa: N803
        asked = [each["imageDigest"] for each in imageIds]
        return {
            "images": [
                {"imageId": {"imageDigest": digest}, "imageManifest": json.dumps(text)} for digest in asked if (text := self._text(digest))
            ]
        }

    def _text(self, digest: str) -> dict[str, Any]:
        if digest in self.index_of:
            attestation = {"digest": "sha256:" + "0" * 64, "platform": {"os": "unknown", "architecture": "unknown"}}
            return {"manifests": [attestation, {"digest": self.index_of[digest], "platform": {"os": "linux", "architecture": "amd64"}}]}
        found = self.layers.get(digest)
        return {"layers": [{"digest": name, "size": gib << 30} for name, gib in found.items()]} if found else {}


def digest_of(image: str) -> str:
    return image.rpartition("@")[2]


def with_registry(disk: Disk, ssm: Any, layers: dict[str, dict[str, int]], **index_of: str) -> LiveMap:
    registry = Registry({digest_of(image): found for image, found in layers.items()}, {digest_of(NEW): d for d in index_of.values()})
    return LiveMap(ssm, registry, disk, "/live", lambda: disk.free)  # type: ignore[arg-type]


def test_a_pull_for_which_the_disk_is_too_small_is_refused_before_it_with_what_it_needs_and_what_there_is(parameters: Any) -> None:
    disk = Disk(free=30 << 30, images=[LIVE])
    with pytest.raises(FailedError) as refused:
        with_registry(disk, parameters, {NEW: {"torch": 10}}).make_ready(NEW, STOP)
    assert (refused.value.code, disk.pulls) == (Code.DISK_FULL, 0)
    assert "needs about 35.0 GiB" in refused.value.cause
    assert "30.0 GiB are free" in refused.value.cause
    assert "5 GiB too small" in refused.value.cause
    assert "MONAI_AWS_ROOT_VOLUME_GIB" in refused.value.remedy


def test_layers_that_are_there_already_need_no_room(parameters: Any) -> None:
    disk = Disk(free=30 << 30, images=[LIVE])
    with_registry(disk, parameters, {NEW: {"torch": 10, "model": 1}, LIVE: {"torch": 10}}).make_ready(NEW, STOP)
    assert disk.images == [LIVE, NEW]


def test_a_large_pull_makes_room_first_and_counts_anew_what_it_shared_with_the_images_that_went(parameters: Any) -> None:
    layers = {NEW: {"torch": 10, "model": 1}, OLD: {"torch": 10, "older": 1}}
    roomy = Disk(free=38 << 30, images=[OLD, LIVE])
    with_registry(roomy, parameters, layers | {NEW: {"large": 11}}).make_ready(NEW, STOP)
    assert roomy.images == [LIVE, NEW], "11 GiB packed are 38.5 on the disk, and 48 are free without the old image"
    tight = Disk(free=3 << 30, images=[OLD, LIVE])
    with pytest.raises(FailedError, match="disk_full"):
        with_registry(tight, parameters, layers).make_ready(NEW, STOP)
    assert tight.pulls == 0


def test_an_image_stays_whose_layers_make_the_pull_small_enough(parameters: Any) -> None:
    disk = Disk(free=15 << 30, images=[OLD, LIVE])
    layers = {NEW: {"torch": 10, "model": 1}, OLD: {"torch": 10, "older": 1}}
    with_registry(disk, parameters, layers).make_ready(NEW, STOP)
    assert disk.images == [OLD, LIVE, NEW]


def test_of_an_index_with_attestations_the_image_counts(parameters: Any) -> None:
    inner = "sha256:" + "e" * 64
    disk = Disk(free=30 << 30, images=[LIVE])
    registry = {f"{REPOSITORY}@{inner}": {"torch": 10}}
    with pytest.raises(FailedError, match="disk_full"):
        with_registry(disk, parameters, registry, image=inner).make_ready(NEW, STOP)


def test_where_the_registry_does_not_say_the_pull_is_tried(parameters: Any) -> None:
    disk = Disk(free=PULL_BYTES)
    with_registry(disk, parameters, {}).make_ready(NEW, STOP)
    assert disk.pulls == 1


def test_the_engine_removes_by_digest_what_is_not_kept_and_not_in_use_by_its_id(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"""#!/bin/sh
case "$1 $2" in
  "image ls") printf '%s\\n' '{OLD} sha256:1' '{LIVE} sha256:2' 'local/same@<none> sha256:2' '<none>@<none> sha256:3' '{NEW} sha256:4' \\
    '{USED} sha256:5' 'local/other-name@<none> sha256:5' ;;
  "image rm") echo "$3" >> {tmp_path}/removed; test "$3" != '{NEW}' ;;
esac
""")
    docker.chmod(0o755)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "held.json").write_text('{"pid": 0, "image": "sha256:5"}')
    with serving(tmp_path / "state") as socket:
        assert Engine(tmp_path / "config", str(docker), EngineApi(socket)).evict({LIVE}) == 2, "one is refused by the engine"
    assert (tmp_path / "removed").read_text().split() == sorted([OLD, "sha256:3", NEW])
