"""Where images lie in the patient: planes of a series, whether they form a volume, and whether a segmentation lies on its source.

Here belongs geometry that decides; what is only drawn is in ``preview.py``. Millimetres in the patient's coordinates (LPS). Sources:
PS3.3 C.7.6.2 (Image Plane), C.7.6.16.2 (functional groups), C.7.4.1 (Frame of Reference), C.8.20 (Segmentation).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from monai_aws_pipeline.host_agent.dicom import Instance, Study
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError

Array = NDArray[Any]

_TAGS: Final = [
    "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ReferencedSeriesSequence",
]  # fmt: skip
_PLANES: Final = 3
"""Fewer planes are no volume."""
_UNEVEN: Final = 0.05
"""How much a step may differ from the usual one, as a part of it: scanners round positions, a missing plane doubles a step."""
_PARALLEL: Final = 0.999


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

    @property
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
        steps = np.diff(np.unique(np.round(self.along, 3)))
        return float(np.median(steps)) if steps.size else max(self.spacing)


def grids_of(paths: Iterable[Path]) -> tuple[Grid, ...]:
    """The planes of images, classic or multi-frame, together where only the position differs. Planes without geometry are left out."""
    found: list[tuple[Grid, list[Array]]] = []
    for path in paths:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        frame, rows, columns = (
            str(data.get("FrameOfReferenceUID") or "").strip(" \0"),
            int(data.get("Rows") or 0),
            int(data.get("Columns") or 0),
        )
        for position, orientation, spacing in _planes(data):
            one = Grid(position, orientation, (float(spacing[0]), float(spacing[1])), rows, columns, frame)
            for kind, positions in found:
                if _same_kind(kind, one):
                    positions.append(position)
                    break
            else:
                found.append((one, [position]))
    return tuple(replace(kind, positions=np.array(positions)) for kind, positions in found)


def require_volumes(studies: Sequence[Study]) -> None:
    """Refuse an upload in which a study has no series that is a regular volume. Raises RefusedError."""
    for study in studies:
        series: defaultdict[str, list[Path]] = defaultdict(list)
        for item in study.instances:
            series[item.series_uid].append(item.path)
        try:
            grids = [grid for paths in series.values() for grid in grids_of(paths)]
        except Exception as wrong:  # pydicom raises a dozen kinds on damaged values, and each means the same here
            raise RefusedError(Code.DICOM_DAMAGED, "The geometry of a DICOM image cannot be read.") from wrong
        if any(is_volume(grid) for grid in grids):
            continue
        if not grids:
            raise RefusedError(Code.NO_GEOMETRY, "No image of the study tells its position, orientation and pixel spacing.")
        planes = max(len(np.unique(np.round(grid.along, 3))) for grid in grids)
        raise RefusedError(Code.IRREGULAR_VOLUME, f"No series of the study is a regular stack of planes; the largest has {planes}.")


def is_volume(grid: Grid) -> bool:
    """Whether planes form a stack: three places or more, evenly spaced, each taken equally often (once, or once for each echo)."""
    places, counts = np.unique(np.round(grid.along, 3), return_counts=True)
    if len(places) < _PLANES or len(set(counts.tolist())) > 1:
        return False
    steps = np.diff(places)
    return bool(np.abs(steps - np.median(steps)).max() <= _UNEVEN * np.median(steps))


def check_segmentation(path: Path, source: Sequence[Instance]) -> None:
    """Whether a DICOM SEG lies on the series that it refers to. Raises FailedError(OUTPUT_GEOMETRY).

    ``source`` are the instances of the study. A source without geometry (a projection, a photograph) has nothing to lie on.
    """
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        referred = {str(item.SeriesInstanceUID).strip(" \0") for item in data.get("ReferencedSeriesSequence") or []}
        mine = grids_of([path])
    except Exception as wrong:  # the application's object: whatever it is that cannot be read, it means the same
        raise FailedError(Code.OUTPUT_GEOMETRY, "The geometry of a segmentation cannot be read.") from wrong
    if referred and not referred & {item.series_uid for item in source}:
        raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation refers to a series that is not in the study.")
    images = [item.path for item in source if not referred or item.series_uid in referred]
    try:
        theirs = grids_of(images)
    except Exception:  # a source that cannot be placed was good enough for the application
        return
    if not theirs:
        return
    if not mine:
        raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation does not tell where its frames lie, although its source does.")
    for grid in mine:
        same_frame = [other for other in theirs if not other.frame or other.frame == grid.frame]
        if not same_frame:
            raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation has another frame of reference than its source.")
        aligned = [other for other in same_frame if _aligned(grid, other)]
        if not aligned:
            raise FailedError(Code.OUTPUT_GEOMETRY, "The frames of a segmentation are turned against the planes of its source.")
        if not any(_same_spacing(grid, other) for other in aligned):
            raise FailedError(Code.OUTPUT_GEOMETRY, "The pixel spacing of a segmentation is not that of its source.")
        if not any(_within(grid, other) for other in aligned):
            raise FailedError(Code.OUTPUT_GEOMETRY, "Frames of a segmentation lie outside of its source.")


def _same_kind(one: Grid, other: Grid) -> bool:
    """Whether planes differ in nothing but their position; directions and spacings are rounded differently from slice to slice."""
    if (one.frame, one.rows, one.columns) != (other.frame, other.rows, other.columns):
        return False
    return bool(np.abs(one.orientation - other.orientation).max() < 1e-3 and np.allclose(one.spacing, other.spacing, rtol=1e-3))


def _planes(data: Dataset) -> Iterator[tuple[Array, Array, Array]]:
    """Position, orientation and spacing of each plane of an instance that has all of them."""
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if not frames:
        yield from _plane(data, data, data)
    for frame in frames:
        position, orientation, measures = (
            (frame.get(name) or shared.get(name) or [Dataset()])[0]
            for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        )
        yield from _plane(position, orientation, measures)


def _plane(position: Dataset, orientation: Dataset, measures: Dataset) -> Iterator[tuple[Array, Array, Array]]:
    values = position.get("ImagePositionPatient"), orientation.get("ImageOrientationPatient"), measures.get("PixelSpacing")
    if any(value is None for value in values):
        return
    at, directions, spacing = (np.array(value, dtype=float).ravel() for value in values)
    if (at.size, directions.size, spacing.size) != (3, 6, 2) or not all(np.isfinite(part).all() for part in (at, directions, spacing)):
        return
    lengths = np.linalg.norm(directions.reshape(2, 3), axis=1)
    if (spacing > 0).all() and np.allclose(lengths, 1, atol=1e-2) and abs(directions[:3] @ directions[3:]) < 1e-2:
        yield at, directions, spacing


def _aligned(grid: Grid, other: Grid) -> bool:
    """Whether each axis of one grid is an axis of the other: frames may be cut along any of the source's axes."""
    return bool((np.abs(grid.axes @ other.axes.T).max(axis=1) > _PARALLEL).all())


def _same_spacing(grid: Grid, other: Grid) -> bool:
    """Whether planes of the same matrix have the same pixels. Another matrix was resampled, and may have any."""
    if (grid.rows, grid.columns) != (other.rows, other.columns) or abs(grid.normal @ other.normal) < _PARALLEL:
        return True
    return bool(np.allclose(grid.spacing, other.spacing, rtol=0.01))


def _within(grid: Grid, other: Grid) -> bool:
    """Whether all corners of one grid lie in the box of the other, with a pixel and a step to spare."""
    mine, theirs = grid.corners.reshape(-1, 3) @ other.axes.T, other.corners.reshape(-1, 3) @ other.axes.T
    spare = np.array([other.spacing[1], other.spacing[0], other.step])
    return bool((mine >= theirs.min(axis=0) - spare).all() and (mine <= theirs.max(axis=0) + spare).all())
