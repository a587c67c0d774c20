"""The one image that exists from the start, told to moto before moto is imported. Imports nothing of moto."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def base_image_id(root_key: str) -> str:
    """The AMI id of the machine root with this key, the same in every region."""
    return "ami-" + hashlib.sha256(root_key.encode()).hexdigest()[:17]


def base_images_file(folder: Path, root_key: str, description: str) -> Path:
    """Write the file from which moto takes the images that exist from the start: ours alone."""
    image = {
        "ami_id": base_image_id(root_key),
        "name": f"local-base-{root_key}",
        "description": description,
        "owner_id": "898082745236",
        "public": True,
        "virtualization_type": "hvm",
        "architecture": "x86_64",
        "state": "available",
        "platform": None,
        "image_type": "machine",
        "image_location": f"amazon/local-base-{root_key}",
        "hypervisor": "xen",
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
        "sriov": "simple",
        "creation_date": "2026-01-01T00:00:00.000Z",
    }
    place = folder / "moto-images.json"
    place.write_text(json.dumps([image]))
    return place
