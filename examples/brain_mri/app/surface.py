"""From a mask to a closed surface in millimetres, and the STL file. numpy, scipy and scikit-image, no DICOM.

Binary STL has no place for a unit or a coordinate system, so the 80-byte header names both: millimetres, DICOM LPS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

PADDING = 4  # voxels: a mask that touches the edge of the volume still gives a closed surface
HEADER = b"unit: millimetre; coordinates: DICOM patient LPS; example, not for clinical use"


class SurfaceError(RuntimeError):
    """The surface is not closed."""


def closed_surface(mask: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices [n, 3] in LPS millimetres and faces [m, 3] with outward normals. Raises SurfaceError when it has a hole."""
    smooth = ndimage.gaussian_filter(np.pad(mask.astype(np.float32), PADDING), sigma=1.0)
    vertices, faces, _, _ = marching_cubes(smooth, level=0.5, step_size=2 if min(mask.shape) >= 48 else 1)
    vertices = (vertices - PADDING) @ affine[:3, :3].T + affine[:3, 3]
    faces = faces.astype(np.int32)
    if signed_volume(vertices, faces) < 0:  # a left-handed affine turns the surface inside out
        faces = faces[:, ::-1]
    if not is_closed(faces):
        raise SurfaceError("the surface of the mask is not watertight")
    return vertices.astype(np.float32), faces


def is_closed(faces: NDArray[np.int32]) -> bool:
    """Whether each directed edge meets its reverse exactly once: a watertight surface that is oriented the same way everywhere."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    forward, reverse = (np.unique(edges[:, one] << 32 | edges[:, other]) for one, other in ((0, 1), (1, 0)))  # an edge as one number
    return len(faces) > 0 and len(forward) == len(edges) and np.array_equal(forward, reverse)


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
