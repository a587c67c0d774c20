"""From a mask to a closed surface in millimetres. numpy, scipy and scikit-image, no DICOM."""

from __future__ import annotations

from typing import Any

import numpy as np
from errors import NoAnswerError
from mesh import is_closed, signed_volume
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

PADDING = 4  # voxels: a mask that touches the edge of the volume still gives a closed surface
LEVEL = 0.5
CLEARANCE = 1e-3
"""No voxel is nearer to the level: there the surface passes a voxel's centre, and corners of triangles become one when rounded."""


class SurfaceError(NoAnswerError):
    """The surface is not closed."""


def closed_surface(mask: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices [n, 3] in LPS millimetres and faces [m, 3] with outward normals. Raises SurfaceError when it has a hole."""
    box = _box_of(mask)
    smooth = ndimage.gaussian_filter(np.pad(mask[box].astype(np.float32), PADDING), sigma=1.0)
    near = np.abs(smooth - LEVEL) < CLEARANCE
    smooth[near] = np.where(smooth[near] < LEVEL, LEVEL - CLEARANCE, LEVEL + CLEARANCE)
    vertices, faces, _, _ = marching_cubes(smooth, level=LEVEL, step_size=2 if min(mask.shape) >= 48 else 1)
    vertices = (vertices - PADDING + [side.start for side in box]) @ affine[:3, :3].T + affine[:3, 3]
    faces = faces.astype(np.int32)
    if signed_volume(vertices, faces) < 0:  # a left-handed affine turns the surface inside out
        faces = faces[:, ::-1]
    if not is_closed(faces):
        raise SurfaceError("the surface of the mask is not watertight")
    return vertices.astype(np.float32), faces


def _box_of(mask: NDArray[Any]) -> tuple[slice, ...]:
    """The part of the volume that holds all of the mask, from even places on: every second plane is the same one in the whole volume."""
    found = ndimage.find_objects(mask)
    if not found:
        raise SurfaceError("the mask is empty")
    return tuple(slice(side.start - side.start % 2, side.stop) for side in found[0])
