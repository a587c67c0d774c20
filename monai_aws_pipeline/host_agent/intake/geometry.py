"""Where images lie in the patient: planes of a series, and how far they are apart.

Here belongs geometry that decides; what is only drawn is in ``preview.py``, what is asked of a segmentation in ``segmentation_check.py``,
and what makes planes a volume in ``stack.py``. Millimetres in the patient's coordinates (LPS). Sources: PS3.3 C.7.6.2 (Image Plane),
C.7.6.16.2 (functional groups), C.7.4.1 (Frame of Reference).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from monai_aws_pipeline.host_agent.intake.image_header import Plane, plane_of

Array = NDArray[Any]

_TAGS: Final = [
    "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_UNEVEN: Final = 0.05
"""How much a step may differ from the usual one, as a part of it: scanners round positions, a missing plane doubles a step."""
_SAME_PLACE: Final = 0.01
"""Planes that are closer (mm) are one plane: positions are rounded and computed, and nothing is cut this thin."""
_LEFT_OUT: Final = 4
"""Down to which part of the smallest distance a common step is looked for, where planes are left out."""
PARALLEL: Final = 0.999
"""Cosine from which on two directions are the same."""
_KINDS: Final = 1000
"""More kinds of planes no study has; a file made to keep a reader busy may."""
_ON_PLANE: Final = 0.25
"""How far from a plane, as a part of the step, something may lie that lies on it."""


@dataclass(frozen=True)
class Grid:
    """Planes of one kind: positions (n, 3) in mm LPS, row and column direction cosines (6), pixel spacing (row, column) in mm."""

    positions: Array
    orientation: Array
    spacing: tuple[float, float]
    rows: int
    columns: int
    frame: str = ""
    """FrameOfReferenceUID; empty where there is none."""

    @cached_property
    def normal(self) -> Array:
        """Unit normal of the planes."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def axes(self) -> Array:
        """Directions of a row, a column and the normal as rows of a (3, 3) matrix."""
        return np.stack([self.orientation[:3], self.orientation[3:], self.normal])

    @property
    def along(self) -> Array:
        """Positions of the planes along the normal, in mm."""
        return np.asarray(self.positions @ self.normal)

    @property
    def corners(self) -> Array:
        """Centres of the four corner pixels of each plane, (n, 4, 3)."""
        row = self.orientation[:3] * self.spacing[1] * (self.columns - 1)
        column = self.orientation[3:] * self.spacing[0] * (self.rows - 1)
        return self.positions[:, None, :] + np.stack([row * 0, row, column, row + column])[None]

    @property
    def step(self) -> float:
        """The usual distance of neighbouring planes in mm; the larger pixel side where there is one plane."""
        places = places_of(self.along)
        return usual_step(places) if len(places) > 1 else max(self.spacing)


def grids_of(paths: Iterable[Path]) -> tuple[Grid, ...]:
    """The planes of images, classic or multi-frame, together where only the position differs. Planes without geometry are left out."""
    return together(
        plane
        for path in paths
        for plane in planes_of(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS))
        if plane is not None
    )


def together(grids: Iterable[Grid]) -> tuple[Grid, ...]:
    """Planes of one kind in one grid, in their order. Directions and spacings are rounded differently from slice to slice."""
    given = list(grids)
    return tuple(replace(given[kind[0]], positions=np.concatenate([given[index].positions for index in kind])) for kind in kinds_of(given))


def kinds_of(grids: Sequence[Grid]) -> list[Array]:
    """Indices of the grids that differ in nothing but their positions, kind by kind; of the first thousand kinds."""
    if not grids:
        return []
    names = np.unique([f"{grid.frame} {grid.rows} {grid.columns}" for grid in grids], return_inverse=True)[1]
    orientation, spacing = np.array([grid.orientation for grid in grids]), np.array([grid.spacing for grid in grids])
    left = np.arange(len(grids))
    kinds: list[Array] = []
    while left.size and len(kinds) < _KINDS:
        same = names[left] == names[left[0]]
        same &= np.abs(orientation[left] - orientation[left[0]]).max(axis=1) < 1e-3
        same &= np.isclose(spacing[left], spacing[left[0]], rtol=1e-3).all(axis=1)
        kinds.append(left[same])
        left = left[~same]
    return kinds


def grid_of(plane: Plane, frame: str, rows: int, columns: int) -> Grid:
    """One plane as a grid."""
    return Grid(np.array([plane.position]), np.array(plane.orientation), plane.spacing, rows, columns, frame)


def planes_of(data: Dataset) -> list[Grid | None]:
    """Each frame of an image as a grid of one plane, None where it does not tell its position, orientation and pixel spacing."""
    frame, rows, columns = (
        str(data.get("FrameOfReferenceUID") or "").strip(" \0"),
        int(data.get("Rows") or 0),
        int(data.get("Columns") or 0),
    )
    own = data.get("PerFrameFunctionalGroupsSequence") or []
    if not own:
        return [_plane(data, data, data, frame, rows, columns)]
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found = []
    for groups in own:
        position, orientation, measures = (
            (groups.get(name) or shared.get(name) or [Dataset()])[0]
            for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        )
        found.append(_plane(position, orientation, measures, frame, rows, columns))
    return found


def places_of(along: Array) -> Array:
    """Where planes lie along their normal, in mm, ascending. Frames of several segments, echoes and time points share a place."""
    ordered = np.sort(along)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered) > _SAME_PLACE) + 1])
    return np.asarray(np.add.reduceat(ordered, starts) / np.diff(np.append(starts, len(ordered))))


def common_step(places: Array) -> float | None:
    """The distance of neighbouring planes in mm where some may be left out: the step of which every distance is a multiple.

    None for one place, and where there is no such step: the planes are unevenly spaced. What a header declares (SpacingBetweenSlices,
    SliceThickness) has no say: exporters and converters leave both as they were when they take planes out.
    """
    gaps = np.diff(places)
    if not gaps.size:
        return None
    smallest = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    for part in range(1, _LEFT_OUT + 1):
        step = smallest / part
        counts = np.rint(gaps / step)
        if (np.abs(gaps - counts * step) <= np.minimum(_UNEVEN * counts, 2 * _UNEVEN) * step).all():
            return float(gaps.sum() / counts.sum())
    return None


def usual_step(places: Array) -> float:
    """The distance of neighbouring planes in mm, of two places or more: the common step, and where there is none the middle one."""
    return common_step(places) or float(np.median(np.diff(places)))


def parallel(grid: Grid, other: Grid) -> bool:
    """Whether planes are cut in the same direction, perhaps turned over."""
    return bool(abs(grid.normal @ other.normal) > PARALLEL)


def nearest(places: Array, along: Array) -> Array:
    """For each value the index of the nearest place; ``places`` are ascending and not empty."""
    after = np.clip(np.searchsorted(places, along), 1, max(1, len(places) - 1))
    before = after - 1
    after = np.minimum(after, len(places) - 1)
    return np.where(np.abs(places[before] - along) <= np.abs(places[after] - along), before, after)


def nearest_planes(source: Grid, along: Array) -> Array:
    """For each place along the normal of ``source`` the index of its plane there; -1 more than a quarter of a step from any."""
    order = np.argsort(source.along, kind="stable")
    found = order[nearest(source.along[order], along)]
    return np.where(np.abs(source.along[found] - along) <= _ON_PLANE * source.step, found, -1)


def planes_under(source: Grid, grid: Grid) -> Array:
    """For each plane of ``grid`` the index of the plane of ``source`` on which it lies pixel on pixel, -1 where it lies on none.

    Half a pixel in the plane and a quarter of a step along the normal are the tolerance. Two frames of reference have no common place.
    """
    nowhere = np.full(len(grid.positions), -1)
    if source.frame and grid.frame and source.frame != grid.frame:
        return nowhere
    if (source.rows, source.columns) != (grid.rows, grid.columns) or not np.allclose(source.orientation, grid.orientation, atol=1e-3):
        return nowhere
    if not np.allclose(source.spacing, grid.spacing, rtol=0.01):
        return nowhere
    found = nearest_planes(source, grid.positions @ source.normal)
    apart = (grid.positions - source.positions[found]) @ source.axes[:2].T
    return np.where((found >= 0) & (np.linalg.norm(apart, axis=1) <= 0.5 * min(source.spacing)), found, -1)


def _plane(position: Dataset, orientation: Dataset, measures: Dataset, frame: str, rows: int, columns: int) -> Grid | None:
    values = position.get("ImagePositionPatient"), orientation.get("ImageOrientationPatient"), measures.get("PixelSpacing")
    if any(value is None for value in values):
        return None
    plane = plane_of(*(tuple(np.array(value, dtype=float).ravel().tolist()) for value in values))
    return None if plane is None else grid_of(plane, frame, rows, columns)
