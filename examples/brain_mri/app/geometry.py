"""Where voxels lie: the affine of a stack of planes, and turning a volume into RAS order and back. Pure numpy.

Millimetres throughout. A volume is an array [slice, row, column]; its affine maps (slice, row, column, 1) to the DICOM patient
coordinate system, LPS (PS3.3 C.7.6.2.1.1). The SDK's own affine is not used: it takes the two pixel spacings in swapped order.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from errors import NoAnswerError
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNEVEN = 0.05
"""How much a step between planes may differ from the usual one, as a part of it: scanners round positions to 0.01 mm, a missing plane
doubles a step."""
SHEARED = 0.01
"""How far planes may wander sideways on their way along the normal, as a part of the way. More is a tilted gantry."""
PARALLEL = 1e-3
"""How much a direction cosine may differ from plane to plane; 0.1 mm at the edge of a head."""
ORTHOGONAL = 1e-2
"""How much a direction may differ from length 1, and two directions from a right angle."""


class GeometryError(NoAnswerError):
    """The planes of the series are not one regular volume."""


def mean_orientation(orientations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row and column direction cosines, 6 numbers, of planes whose own (n, 6) differ by rounding alone.

    Raises:
        GeometryError: Planes are not parallel, or a direction is none.
    """
    rows, columns = orientations[:, :3], orientations[:, 3:]
    lengths = np.linalg.norm(orientations.reshape(-1, 2, 3), axis=2)
    if np.abs(lengths - 1).max() > ORTHOGONAL or np.abs((rows * columns).sum(axis=1)).max() > ORTHOGONAL:
        raise GeometryError("ImageOrientationPatient does not hold two unit vectors at a right angle")
    middle = np.median(orientations, axis=0)
    astray = int((np.abs(orientations - middle).max(axis=1) > PARALLEL).sum())
    if astray:
        raise GeometryError(f"slices are not parallel (ImageOrientationPatient differs in {astray} of {len(orientations)} slices)")
    row = middle[:3] / np.linalg.norm(middle[:3])
    column = middle[3:] - (middle[3:] @ row) * row
    return np.concatenate([row, column / np.linalg.norm(column)])


def along_normal(positions: NDArray[np.float64], orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place of each plane on the normal of the planes, in mm. ``positions`` (n, 3), ``orientation`` (6)."""
    return np.asarray(positions @ np.cross(orientation[:3], orientation[3:]))


def affine_lps(positions: NDArray[np.float64], orientation: NDArray[np.float64], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Affine, 4 by 4, of planes that are sorted along their normal.

    Args:
        positions: Centre of the first pixel of each plane, (n, 3) in mm LPS.
        orientation: Direction cosines of a row and of a column, 6 numbers.
        spacing: Distance of rows and of columns in mm, as in PixelSpacing.

    Raises:
        GeometryError: Planes are missing, doubled, unevenly spaced or sheared.
    """
    if len(positions) < 2:
        raise GeometryError("a volume needs at least two slices")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    length = float(np.linalg.norm(step))
    steps = np.diff(positions, axis=0)
    usual = np.median(steps, axis=0)
    uneven = int((np.abs(steps - usual).max(axis=1) > UNEVEN * float(np.linalg.norm(usual))).sum())
    if length == 0 or uneven:
        raise GeometryError(
            f"slices are missing, doubled or unevenly spaced (ImagePositionPatient: {uneven or len(steps)} of {len(steps)} steps)"
        )
    along = abs(float(step @ np.cross(orientation[:3], orientation[3:])))
    sideways = float(np.sqrt(max(length**2 - along**2, 0.0)))
    if sideways > SHEARED * along:
        angle = np.degrees(np.arctan2(sideways, along))
        raise GeometryError(f"slices are sheared against their normal by {angle:.1f} degrees (gantry tilt); the model needs right angles")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = orientation[3:] * spacing[0]
    affine[:3, 2] = orientation[:3] * spacing[1]
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
