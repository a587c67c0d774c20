"""What a MAP takes of a host's disk, reckoned from what a registry tells of it. Standard library only: hosts and control plane share it.

A registry knows the compressed size of each layer and not the unpacked one. Engines with containerd's store keep both.
"""

from __future__ import annotations

import math
from typing import Final

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
