"""How much two segments of two DICOM SEGs overlap in the patient, counted voxel by voxel.

Here belongs the count. Planes are matched by where they lie in patient space, never by their order, and one plane of each file is in
memory at a time. Golden studies are judged by it on a host, and re-runs are compared by it on the control plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np

from monai_aws_pipeline.host_agent.intake.geometry import Array
from monai_aws_pipeline.host_agent.results import segmentation as seg


def dice(found: seg.Segmentation, number: int, reference: seg.Segmentation, its_number: int) -> float:
    """Dice coefficient of two segments on the same grid of voxels, 1.0 where both are empty.

    The planes are matched by their position in patient space alone, so that a mask that is shifted, mirrored or out of order scores badly.
    Raises SegmentationError where voxels do not lie on voxels: then there is nothing to count.
    """
    _require_one_grid(found, reference)
    origin = float(reference.grid.along[0])
    common = total = 0
    for one, other in _side_by_side(_planes(found, number, origin), _planes(reference, its_number, origin)):
        total += sum(int(mask.sum()) for mask in (one, other) if mask is not None)
        if one is not None and other is not None:
            common += int((one & other).sum())
    return 2 * common / total if total else 1.0


def _require_one_grid(found: seg.Segmentation, reference: seg.Segmentation) -> None:
    ours, theirs = found.grid, reference.grid
    same = (
        (ours.rows, ours.columns) == (theirs.rows, theirs.columns)
        and np.allclose(ours.orientation, theirs.orientation, atol=1e-3)
        and np.allclose(ours.spacing, theirs.spacing, rtol=1e-3)
        and np.isclose(found.slice_distance, reference.slice_distance, rtol=1e-3)
    )
    apart = ours.positions[0] - theirs.positions[0]
    along = float(apart @ theirs.normal)
    in_plane = float(np.linalg.norm(apart - along * theirs.normal))
    steps = along / reference.slice_distance
    if not same or in_plane > 0.1 * min(theirs.spacing) or abs(steps - round(steps)) > 0.1:
        raise seg.SegmentationError("lies on another grid than the reference")


def _planes(segmentation: seg.Segmentation, number: int, origin: float) -> Iterator[tuple[int, Array]]:
    """Masks of a segment with the index of their plane, counted from ``origin`` in mm along the normal; in that order, one at a time."""
    steps = (segmentation.grid.along - origin) / segmentation.slice_distance
    of = segmentation.segment_of_frame
    chosen = sorted(np.flatnonzero((of == number) | (of == 0)).tolist(), key=lambda index: float(steps[index]))
    if any(abs(steps[index] - round(steps[index])) > 0.25 for index in chosen):
        raise seg.SegmentationError("its planes are unevenly spaced")
    frames = ((round(steps[index]), values >= 0.5) for index, segment, values in seg.masks(segmentation, chosen) if segment == number)
    for place, together in groupby(frames, key=itemgetter(0)):
        yield place, np.logical_or.reduce([mask for _, mask in together])


def _side_by_side(one: Iterator[tuple[int, Array]], other: Iterator[tuple[int, Array]]) -> Iterator[tuple[Array | None, Array | None]]:
    """The masks of each plane that either has, of both where both have it. Each comes in the order of its planes."""
    ours, theirs = next(one, None), next(other, None)
    while ours or theirs:
        place = min(plane[0] for plane in (ours, theirs) if plane)
        at = [plane[1] if plane and plane[0] == place else None for plane in (ours, theirs)]
        yield at[0], at[1]
        if ours and ours[0] == place:
            ours = next(one, None)
        if theirs and theirs[0] == place:
            theirs = next(other, None)
