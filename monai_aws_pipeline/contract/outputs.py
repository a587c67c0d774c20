"""Kinds of files that a result has, as its record names them. The last three are the agent's own."""

from __future__ import annotations

from typing import Final

DICOM_SEG: Final = "dicom-seg"
DICOM: Final = "dicom"
MESH: Final = "mesh"
OTHER: Final = "other"
PREVIEW: Final = "preview"
MEASUREMENTS: Final = "measurements"
LOG: Final = "log"

SOURCE: Final = "source"
SEGMENTATION: Final = "segmentation"
"""What an output was held against, and lies on."""
