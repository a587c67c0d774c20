"""Where voxels lie: affines from DICOM attributes, and turning a volume into RAS order and back. Pure numpy.

Millimetres throughout. A volume is an array [slice, row, column]; its affine maps (slice, row, column, 1) to the DICOM patient
coordinate system, LPS (PS3.3 C.7.6.2.1.1). The SDK's own affine is not used: it takes the two pixel spacings in swapped order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class GeometryError(ValueError):
    """The series is not one regular volume."""


def affine_lps(instances: Sequence[Any]) -> NDArray[np.float64]:
    """Affine, 4 by 4, of a series whose instances (pydicom datasets) are sorted along the slice normal.

    Raises GeometryError when slices are not parallel, or their spacing varies by more than 1 %.
    """
    if len(instances) < 2:
        raise GeometryError("a volume needs at least two slices")
    orientation = np.array(instances[0].ImageOrientationPatient, dtype=float)
    positions = np.array([instance.ImagePositionPatient for instance in instances], dtype=float)
    if any(not np.allclose(np.array(i.ImageOrientationPatient, dtype=float), orientation, atol=1e-4) for i in instances):
        raise GeometryError("slices of the series are not parallel (ImageOrientationPatient differs)")
    steps = np.diff(positions, axis=0)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if np.linalg.norm(step) == 0 or np.abs(steps - step).max() > 0.01 * np.linalg.norm(step):
        raise GeometryError("slices are missing, doubled or unevenly spaced (ImagePositionPatient)")
    row_spacing, column_spacing = (float(value) for value in instances[0].PixelSpacing)  # between rows, between columns
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = orientation[3:] * row_spacing
    affine[:3, 2] = orientation[:3] * column_spacing
    affine[:3, 3] = positions[0]
    return affine


def ras_order(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Which array axis runs along R, A and S, and which of the reordered axes must be flipped to run that way."""
    directions = (LPS_TO_RAS @ affine)[:3, :3]
    directions = directions / np.linalg.norm(directions, axis=0)
    best = max(permutations(range(3)), key=lambda order: sum(abs(directions[world, axis]) for world, axis in enumerate(order)))
    flips = tuple(world for world, axis in enumerate(best) if directions[world, axis] < 0)
    return (best[0], best[1], best[2]), flips


def to_ras(volume: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """The volume as [x, y, z] running right, anterior, superior; a view, nothing is resampled."""
    order, flips = ras_order(affine)
    return np.flip(volume.transpose(order), flips) if flips else volume.transpose(order)


def from_ras(volume: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """The reverse of ``to_ras`` for the same affine."""
    order, flips = ras_order(affine)
    turned = np.flip(volume, flips) if flips else volume
    return turned.transpose(tuple(int(axis) for axis in np.argsort(order)))


def voxel_millilitres(affine: NDArray[np.float64]) -> float:
    """Volume of one voxel in millilitres."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0
