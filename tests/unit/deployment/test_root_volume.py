"""Whether a host's disk is enough for two MAPs, by what the registry says of them."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.cloud.errors import MachineError
from monai_aws_pipeline.cloud.images import Image
from monai_aws_pipeline.cloud.registry import PushedImage
from monai_aws_pipeline.cloud.tags import TAG_BASE
from monai_aws_pipeline.deployment.root_volume import VolumeNeed, check_volume, disk_sizes, volume_need
from monai_aws_pipeline.settings import load_settings

GIB = 1 << 30


def pushed(name: str, gib: float) -> PushedImage:
    return PushedImage("registry/map", f"sha256:{name * 64}", (f"v{name}",), round(gib * GIB), "")


def test_system_two_maps_unpacked_and_a_study_make_the_volume():
    assert volume_need(75, [pushed("a", 4), pushed("b", 6), pushed("c", 1)]) == VolumeNeed(75 + 35 + 8, 75)


def test_the_only_map_counts_twice_however_often_it_is_named():
    assert volume_need(8, [pushed("a", 4), pushed("a", 4)]).gib == 8 + 28 + 8


def test_a_volume_that_is_large_enough_needs_no_word():
    need = volume_need(75, [pushed("a", 6)])
    assert not check_volume(need.gib, need, pushed("a", 6))


def test_a_volume_for_one_map_only_is_warned_of_with_the_number_to_set():
    need = volume_need(75, [pushed("a", 6)])
    warning = check_volume(need.gib - 1, need, pushed("a", 6))
    assert "MONAI_AWS_ROOT_VOLUME_GIB=125" in warning
    assert "about 21 GiB unpacked" in warning


def test_a_volume_that_not_one_map_fits_onto_is_an_error_before_a_host_is_launched():
    need = volume_need(8, [pushed("a", 9)])
    with pytest.raises(MachineError, match="MONAI_AWS_ROOT_VOLUME_GIB=79") as refused:
        check_volume(30, need, pushed("a", 9))
    assert "does not fit onto a host" in refused.value.cause


class Known:
    """The images that a region has."""

    def __init__(self, *images: Image) -> None:
        self._images = {image.id: image for image in images}

    def look(self, image_id: str) -> Image | None:
        return self._images.get(image_id)


def image(name: str, gib: int, **tags: str) -> Image:
    return Image(name, name, "available", "", "/dev/sda1", (), tags, gib)


def test_what_the_system_takes_is_the_snapshot_of_the_base_and_not_of_the_baked_image():
    images, settings = Known(image("base", 75), image("baked", 200, **{TAG_BASE: "base"})), load_settings(root_volume_gib=150)
    assert disk_sizes(images, "baked", settings) == (200, 75)  # type: ignore[arg-type]
    assert disk_sizes(images, "base", settings) == (150, 75)  # type: ignore[arg-type]


def test_a_base_that_was_withdrawn_counts_nothing():
    images = Known(image("baked", 100, **{TAG_BASE: "base"}))
    assert disk_sizes(images, "baked", load_settings()) == (150, 0)  # type: ignore[arg-type]
