"""A mesh of triangles: is it closed, what does it enclose, and the STL file. numpy alone.

Binary STL has no place for a unit or a coordinate system, so the 80-byte header names both: millimetres, DICOM LPS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = b"unit: millimetre; coordinates: DICOM patient LPS; example, not for clinical use"


def is_closed(faces: NDArray[np.int32]) -> bool:
    """Whether each directed edge meets its reverse exactly once: a watertight surface that is oriented the same way everywhere."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    forward, reverse = (np.sort(edges[:, one] << 32 | edges[:, other]) for one, other in ((0, 1), (1, 0)))  # an edge as one number
    return len(faces) > 0 and bool((np.diff(forward) > 0).all()) and np.array_equal(forward, reverse)


def signed_volume(vertices: NDArray[Any], faces: NDArray[np.int32]) -> float:
    """Volume inside the surface in cubic millimetres; negative when normals point inwards."""
    a, b, c = (vertices[faces[:, corner]].astype(float) for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def write_stl(path: Path, vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> None:
    """Write a binary STL file; it appears under its name only when complete."""
    record = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    record["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    record["corners"] = corners
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(HEADER.ljust(80, b" ")[:80] + np.uint32(len(faces)).tobytes() + record.tobytes())
    os.replace(partial, path)  # noqa: PTH105
