"""The images that exist from the start, told to moto before moto is imported. Imports nothing of moto."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEEP_LEARNING_GIB: Final = 75
"""The snapshot of AWS's Deep Learning Base AMI (Ubuntu 24.04)."""
PLAIN_GIB: Final = 8
"""The snapshot of Canonical's Ubuntu Server 24.04."""


@dataclass(frozen=True)
class BaseImage:
    """An image that exists from the start: its AMI id, the same in every region, the engine's tag of its root, the GiB of its snapshot."""

    id: str
    tag: str
    gib: int
    owner: str
    plain: bool = False
    """Without a container engine, as a distribution publishes its image."""


def base_image(root_key: str) -> BaseImage:
    """The image that stands for AWS's Deep Learning Base AMI, of the machine root with this key."""
    return BaseImage(_ami_id(root_key), f"base-{root_key}", DEEP_LEARNING_GIB, "898082745236")


def plain_image(root_key: str) -> BaseImage:
    """The image that stands for Canonical's, of the same root."""
    return BaseImage(_ami_id(f"plain {root_key}"), f"plain-{root_key}", PLAIN_GIB, "099720109477", plain=True)


def base_images(root_key: str) -> dict[str, BaseImage]:
    """Both by their AMI ids."""
    return {image.id: image for image in (base_image(root_key), plain_image(root_key))}


def _ami_id(name: str) -> str:
    return "ami-" + hashlib.sha256(name.encode()).hexdigest()[:17]


def base_images_file(folder: Path, root_key: str, description: str) -> Path:
    """Write the file from which moto takes the images that exist from the start: ours alone."""
    place = folder / "moto-images.json"
    place.write_text(json.dumps([_described(image, description) for image in base_images(root_key).values()]))
    return place


def _described(image: BaseImage, description: str) -> dict[str, object]:
    return {
        "ami_id": image.id,
        "name": f"local-{image.tag}",
        "description": f"{description}, without the engine" if image.plain else description,
        "owner_id": image.owner,
        "public": True,
        "virtualization_type": "hvm",
        "architecture": "x86_64",
        "state": "available",
        "platform": None,
        "image_type": "machine",
        "image_location": f"amazon/local-{image.tag}",
        "hypervisor": "xen",
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
        "sriov": "simple",
        "creation_date": "2026-01-01T00:00:00.000Z",
    }
