"""What a MAP takes of a host's disk, reckoned from what a registry tells of it. Standard library only: hosts and control plane share it.

A registry knows the compressed size of each layer and not the unpacked one. Engines with containerd's store keep both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

GIB: Final = 1 << 30
UNPACKED: Final = 2.5
"""Unpacked to compressed size of layers with CUDA and torch; libraries alone reach 2, Python alone 3."""
STUDY_BYTES: Final = 8 * GIB
"""What stays free for a study; with less, images that are not live go before it."""


def space_of(compressed: int) -> int:
    """Bytes that layers of this compressed size take, packed and unpacked."""
    return round(compressed * (1 + UNPACKED))


def in_gib(size: int) -> float:
    """Bytes in GiB, rounded up to a tenth, as a person reads them."""
    return math.ceil(size / GIB * 10) / 10


def image_of_index(manifest: Mapping[str, Any], architecture: str = "amd64") -> str:
    """Digest of the image for Linux on an architecture, of an index; empty where it holds none, or is no index."""
    listed = [each for each in manifest.get("manifests") or [] if isinstance(each, dict) and isinstance(each.get("platform"), dict)]
    fitting = (each for each in listed if (each["platform"].get("os"), each["platform"].get("architecture")) == ("linux", architecture))
    return next((str(each.get("digest", "")) for each in fitting), "")


def layers_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Digest and compressed bytes of each layer of an image's manifest. Raises KeyError, TypeError or ValueError for anything else."""
    return {str(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]}
