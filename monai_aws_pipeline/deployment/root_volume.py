"""Whether the root volume of the hosts is enough for two MAPs, said before a host is launched.

Two, because a host pulls the next MAP while the present one answers. Sizes are the registry's, unpacked by ``disk_space.py``; what the
system takes is at most the snapshot of its base image. So it is an estimate that warns, and an error only where not one MAP fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai_aws_pipeline.cloud.errors import MachineError
from monai_aws_pipeline.cloud.images import Images
from monai_aws_pipeline.cloud.registry import PushedImage
from monai_aws_pipeline.cloud.tags import TAG_BASE
from monai_aws_pipeline.contract import short_digest
from monai_aws_pipeline.maps.spec.disk_space import GIB, STUDY_BYTES, space_of
from monai_aws_pipeline.settings import Settings


@dataclass(frozen=True)
class VolumeNeed:
    """GiB of a root volume: what system, two MAPs and a study take, and how many of them the system's image."""

    gib: int
    system_gib: int


def volume_need(system_gib: int, maps: Sequence[PushedImage]) -> VolumeNeed:
    """What the two largest of some MAPs need; a single one counts twice, because its successor is about as large."""
    sizes = sorted({image.digest: image.bytes for image in maps}.values(), reverse=True)
    two = sizes[0] + (sizes[1] if len(sizes) > 1 else sizes[0])
    return VolumeNeed(system_gib + math.ceil((space_of(two) + STUDY_BYTES) / GIB), system_gib)


def check_volume(volume_gib: int, need: VolumeNeed, pushed: PushedImage) -> str:
    """A warning where the volume may be too small for two MAPs, empty where it is not. Raises MachineError where not one fits."""
    alone = math.ceil(space_of(pushed.bytes) / GIB)
    numbers = f"about {alone} GiB unpacked, the root volume has {volume_gib} GiB"
    remedy = f"Set MONAI_AWS_ROOT_VOLUME_GIB={need.gib}: room for the system (up to {need.system_gib} GiB), two MAPs and a study"
    if alone >= volume_gib:
        raise MachineError(
            f"The MAP {short_digest(pushed.digest)} does not fit onto a host: it takes {numbers}.", f"{remedy}. Then materialise again."
        )
    if volume_gib < need.gib:
        return (
            "the root volume may be too small for two MAPs at a time, which a change of the live MAP needs: "
            f"{short_digest(pushed.digest)} takes {numbers}. {remedy}"
        )
    return ""


def disk_sizes(images: Images, image_id: str, settings: Settings) -> tuple[int, int]:
    """GiB of the root volume of a host made from an image, and of the base that the image was made from; 0 where that is not known."""
    image = images.look(image_id)
    base = images.look(image.tags[TAG_BASE]) if image and image.tags.get(TAG_BASE) else image
    return max(settings.root_volume_gib, image.gib if image else 0), base.gib if base else 0
