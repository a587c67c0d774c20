"""What the manifest of an image in a registry says: the image within an index, and its layers. Standard library only: hosts read it too.

Source: OCI Image Format Specification, "Image Index" and "Image Manifest"; Docker's schema 2 has the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def image_of_index(manifest: Mapping[str, Any], architecture: str = "amd64") -> str:
    """Digest of the image for Linux on an architecture, of an index; empty where it holds none, or is no index."""
    listed = [each for each in manifest.get("manifests") or [] if isinstance(each, dict) and isinstance(each.get("platform"), dict)]
    fitting = (each for each in listed if (each["platform"].get("os"), each["platform"].get("architecture")) == ("linux", architecture))
    return next((str(each.get("digest", "")) for each in fitting), "")


def layers_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Digest and compressed bytes of each layer of an image's manifest. Raises KeyError, TypeError or ValueError for anything else."""
    return {str(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]}
