"""Whether a DICOM SEG is an answer to the images that its application was given: what it refers to, and where its frames lie.

Here belongs judging; reading is in ``segmentation.py``. A doubt is a refusal, with the counts that make it: they identify nobody. Sources:
PS3.3 C.8.20 (Segmentation), C.12.1.1.3 (Common Instance Reference), C.7.6.16.2.6 (Derivation Image), C.7.4.1 (Frame of Reference).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.intake.geometry import (
    PARALLEL,
    Array,
    Grid,
    nearest,
    nearest_planes,
    parallel,
    places_of,
    planes_of,
    planes_under,
    together,
)
from monai_aws_pipeline.host_agent.results.segmentation import (
    Image,
    Segmentation,
    Source,
    frames_of_undescribed_values,
    masks,
    read_segmentation,
)

log = logging.getLogger(__name__)

_TAGS: Final = [
    "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ReferencedSeriesSequence", "SourceImageSequence",
    "SegmentSequence", "SegmentationType",
]  # fmt: skip
_SHORT: Final = 3
"""Planes in a row that a stack has lost and a lesion has not: between two findings there are usually more."""
_BRIDGED: Final = 0.1
"""From which part of all steps on such holes are no accident of a model that looks at one slice after the other."""


@dataclass(frozen=True)
class _References:
    """Instances a SEG names: by series (where it names the series), all with the classes it gives them, and the one of each frame."""

    series: dict[str, frozenset[str]]
    classes: dict[str, set[str]]
    of_frame: tuple[tuple[str, int | None] | None, ...]
    """Instance and frame whose plane a frame claims (no frame: of a single-frame image), None where it names none, several, or says that
    the place was not kept."""


def check_segmentation(path: Path, source: Source) -> None:
    """Judge a DICOM SEG against the images its application was given. Raises FailedError(OUTPUT_GEOMETRY, OUTPUT_NOT_DICOM).

    - Its frames, functional groups and segments belong together, and each value of a frame has a meaning.
    - Each instance and series that it refers to was given, under the class that it has.
    - It refers to the whole stack that it segmented. An SDK that drops slices which it cannot place or stack answers a part of the series
      and refers to that part. Some writers refer only to those images on which a frame lies. So fewer references are taken when exactly
      the planes with frames are referred to, no frame is empty (who writes empty frames leaves none out), and the planes do not have the
      pattern of a thinned stack: short holes, again and again, with the same segment on both sides. What remains undecided is a stack cut
      at its ends, or in one piece, by such a writer: there the count alone says nothing, and the segmentation is taken. Images of another
      class, of another orientation, or in a place that is referred to (an echo) may be left out.
    - Its frames lie on planes of its source where they have its matrix and orientation, each on the plane of the image that it names, and
      inside of its box where they were resampled.

    A source without geometry (a projection, a photograph) has nothing to lie on.
    """
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        frames = planes_of(data)
        referred = _references(data)
        count, groups = int(data.get("NumberOfFrames") or 0), len(data.get("PerFrameFunctionalGroupsSequence") or [])
        unknown = _frames_of_no_segment(data)
    except Exception as error:  # the application's object: whatever it is that cannot be read, it means the same
        raise FailedError(Code.OUTPUT_GEOMETRY, "The geometry of a segmentation cannot be read.") from error
    if count < 1 or count != groups:
        raise FailedError(Code.OUTPUT_NOT_DICOM, f"A segmentation has {count} frames and functional groups of {groups}.")
    if unknown:
        raise FailedError(Code.OUTPUT_NOT_DICOM, f"{unknown} of {count} frames of a segmentation belong to no segment that it describes.")
    if meaningless := _frames_of_undescribed_values(path, source):
        raise FailedError(
            Code.OUTPUT_NOT_DICOM, f"{meaningless} of {count} frames of a segmentation hold values that it does not describe."
        )
    try:
        _check_references(referred, source)
        _check_planes(frames, referred, source)
        _check_whole(path, frames, referred, source)
    except FailedError:
        raise
    except Exception as error:  # values that nothing can be computed with: a doubt is a refusal, and no fault of this host
        log.warning("a segmentation cannot be held against its source (%s)", type(error).__name__)
        raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation cannot be held against the series that it segmented.") from error


# ---------------------------------------------------------------------------------------------------------------------- references


def _references(data: Dataset) -> _References:
    classes: defaultdict[str, set[str]] = defaultdict(set)
    series: defaultdict[str, set[str]] = defaultdict(set)
    for listed in data.get("ReferencedSeriesSequence") or []:
        named = series[_text(listed, "SeriesInstanceUID")]
        named.update(_named(listed.get("ReferencedInstanceSequence") or [], classes))
    list(_named(data.get("SourceImageSequence") or [], classes))
    list(_named(_source_images(data.get("SharedFunctionalGroupsSequence") or []), classes))
    of_frame = []
    for frame in data.get("PerFrameFunctionalGroupsSequence") or []:
        images = list(_source_images([frame]))
        names = list(_named(images, classes))
        kept = len(images) == 1 and str(images[0].get("SpatialLocationsPreserved") or "YES") == "YES"
        of_frame.append((names[0], _frame_number(images[0])) if kept else None)
    return _References({uid: frozenset(named) for uid, named in series.items()}, classes, tuple(of_frame))


def _frame_number(image: Dataset) -> int | None:
    number = image.get("ReferencedFrameNumber")
    return int(number) if isinstance(number, int) else None


def _source_images(groups: Sequence[Dataset]) -> Iterator[Dataset]:
    for group in groups:
        for derivation in group.get("DerivationImageSequence") or []:
            yield from derivation.get("SourceImageSequence") or []


def _named(items: Sequence[Dataset] | Iterator[Dataset], classes: defaultdict[str, set[str]]) -> Iterator[str]:
    for item in items:
        instance = _text(item, "ReferencedSOPInstanceUID")
        classes[instance].add(_text(item, "ReferencedSOPClassUID"))
        yield instance


def _text(data: Dataset, name: str) -> str:
    return str(data.get(name) or "").strip(" \0")


def _frames_of_no_segment(data: Dataset) -> int:
    if str(data.get("SegmentationType")) == "LABELMAP":
        return 0
    described = {int(item.SegmentNumber) for item in data.get("SegmentSequence") or []}
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    missing = 0
    for frame in data.get("PerFrameFunctionalGroupsSequence") or []:
        named = frame.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence") or [Dataset()]
        missing += named[0].get("ReferencedSegmentNumber") not in described
    return missing


def _frames_of_undescribed_values(path: Path, source: Source) -> int:
    try:
        return frames_of_undescribed_values(source.segmentation(path))
    except Exception as error:  # pixels that this host cannot decode say nothing against the application
        log.warning("the values of a segmentation are not judged (%s)", type(error).__name__)
        return 0


def _check_references(referred: _References, source: Source) -> None:
    given = {image.instance.sop_uid: image.instance for image in source.images}
    if set(referred.series) - set(source.series):
        raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation refers to a series that is not in the study.")
    if unknown := len(set(referred.classes) - set(given)):
        raise FailedError(
            Code.OUTPUT_GEOMETRY,
            f"{unknown} of {len(referred.classes)} images that a segmentation refers to were not given to the application.",
        )
    if any(classes - {"", given[uid].sop_class} for uid, classes in referred.classes.items()):
        raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation refers to an image of its source under another SOP class.")
    if any(given[uid].series_uid != series for series, named in referred.series.items() for uid in named):
        raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation refers to an image of its source under another series.")


def _check_whole(path: Path, frames: Sequence[Grid | None], referred: _References, source: Source) -> None:
    for images in source.series.values():
        used = [image for image in images if image.instance.sop_uid in referred.classes]
        classes = {image.instance.sop_class for image in used}
        rest = [image for image in images if image.instance.sop_uid not in referred.classes and image.instance.sop_class in classes]
        stacks = together(plane for image in used for plane in image.placed)
        left_out = [image for image in rest if _left_out(image, stacks)]
        if not left_out or (all(image.placed for image in left_out) and _is_sparse(path, frames, stacks, images)):
            continue
        raise FailedError(
            Code.OUTPUT_GEOMETRY,
            f"A segmentation refers to {len(used)} of {len(used) + len(left_out)} images of the series that it segmented.",
        )


def _left_out(image: Image, stacks: Sequence[Grid]) -> bool:
    """Whether an image belongs to a stack and yet lies where no image of it is referred to."""
    if not stacks:
        return False  # images without geometry: each stands for itself
    if not image.placed:
        return True
    beside = [[stack for stack in stacks if parallel(plane, stack)] for plane in image.placed]
    return any(
        near and all((nearest_planes(stack, plane.positions @ stack.normal) < 0).any() for stack in near)
        for plane, near in zip(image.placed, beside, strict=True)
    )


def _is_sparse(path: Path, frames: Sequence[Grid | None], stacks: Sequence[Grid], images: Sequence[Image]) -> bool:
    """Whether references were left out because there is nothing to see on those images, and not because they were never seen."""
    placed = [plane for plane in frames if plane is not None]
    mine = together(placed)
    if len(placed) != len(frames):
        return False
    for stack in stacks:
        hit = [nearest_planes(stack, grid.positions @ stack.normal) for grid in mine if parallel(stack, grid)]
        if len(places_of(stack.along[np.unique([plane for planes in hit for plane in planes if plane >= 0])])) < len(
            places_of(stack.along)
        ):
            return False
    try:
        segmentation = read_segmentation(path)
        empty = any(not mask.any() for _, _, mask in masks(segmentation))
        return not empty and not (len(stacks) == 1 and _is_thinned(segmentation, stacks[0], images))
    except Exception:  # pixels that this host cannot decode say nothing against the application
        return True


def _is_thinned(segmentation: Segmentation, stack: Grid, images: Sequence[Image]) -> bool:
    """Whether planes with frames are those of a stack from which others were taken out, here and there, in the midst of a segment."""
    beside = [plane.positions for image in images for plane in image.placed if parallel(stack, plane)]
    index = nearest(places_of(np.concatenate(beside) @ stack.normal), segmentation.grid.positions @ stack.normal)
    taken = np.unique(index)
    holes = [(low, high) for low, high in pairwise(taken) if 1 < high - low <= _SHORT + 1]
    often = max(_SHORT - 1, _BRIDGED * (len(taken) - 1))
    return len(holes) > often and sum(_on_both_sides(segmentation, index, low, high) for low, high in holes) > often


def _on_both_sides(segmentation: Segmentation, index: Array, low: int, high: int) -> bool:
    """Whether the same segment lies on both sides of a hole, one above the other."""
    sides: tuple[dict[int, Array], dict[int, Array]] = ({}, {})
    for side, place in zip(sides, (low, high), strict=True):
        for _, number, mask in masks(segmentation, np.flatnonzero(index == place).tolist()):
            side[number] = side[number] | (mask >= 0.5) if number in side else mask >= 0.5
    both = [(sides[0][number], sides[1][number]) for number in sides[0].keys() & sides[1].keys()]
    return any((one & other).sum() > 0.5 * min(one.sum(), other.sum()) for one, other in both)


# -------------------------------------------------------------------------------------------------------------------------- planes


def _check_planes(frames: Sequence[Grid | None], referred: _References, source: Source) -> None:
    theirs = source.grids(referred.series)
    if not theirs:
        return
    placed = [plane for plane in frames if plane is not None]
    if len(placed) < len(frames):
        raise FailedError(Code.OUTPUT_GEOMETRY, "A segmentation does not tell where its frames lie, although its source does.")
    for grid in together(placed):
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
        alike = [other for other in aligned if (grid.rows, grid.columns) == (other.rows, other.columns) and parallel(grid, other)]
        if alike and (beside := min(_beside(grid, other) for other in alike)):
            raise FailedError(
                Code.OUTPUT_GEOMETRY, f"{beside} of {len(grid.positions)} frames of a segmentation lie beside the planes of its source."
            )
    _check_claims(frames, referred, source)


def _beside(grid: Grid, other: Grid) -> int:
    """How many frames of the source's own matrix lie on no plane of it; turned over or round, they need the same distance only."""
    found = planes_under(other, grid) if _cut_alike(grid, other) else nearest_planes(other, grid.positions @ other.normal)
    return int((found < 0).sum())


def _check_claims(frames: Sequence[Grid | None], referred: _References, source: Source) -> None:
    """Each frame that has the matrix and orientation of the one image, or frame of it, that it names lies on the plane of that."""
    plane_of: dict[tuple[str, int | None], Grid | None] = {
        (image.instance.sop_uid, number): plane for image in source.images for number, plane in enumerate(image.planes, start=1)
    }
    plane_of |= {(image.instance.sop_uid, None): image.planes[0] for image in source.images if len(image.planes) == 1}
    stacks = [(stack, stack.step) for stack in source.grids()]
    wrong = 0
    for frame, name in zip(frames, referred.of_frame, strict=True):
        plane = plane_of.get(name) if name else None
        if frame is not None and plane is not None and _cut_alike(frame, plane):
            step = next((step for stack, step in stacks if _cut_alike(plane, stack)), plane.step)
            wrong += abs(float((frame.positions - plane.positions)[0] @ plane.normal)) > step / 4
    if wrong:
        raise FailedError(
            Code.OUTPUT_GEOMETRY, f"{wrong} of {len(frames)} frames of a segmentation name an image of their source that lies elsewhere."
        )


def _cut_alike(grid: Grid, other: Grid) -> bool:
    """Whether planes have the same matrix and directions: such frames were not resampled."""
    return (grid.rows, grid.columns) == (other.rows, other.columns) and np.allclose(grid.orientation, other.orientation, atol=1e-3)


def _aligned(grid: Grid, other: Grid) -> bool:
    """Whether each axis of one grid is an axis of the other: frames may be cut along any of the source's axes."""
    return bool((np.abs(grid.axes @ other.axes.T).max(axis=1) > PARALLEL).all())


def _same_spacing(grid: Grid, other: Grid) -> bool:
    """Whether planes of the same matrix have the same pixels. Another matrix was resampled, and may have any."""
    if (grid.rows, grid.columns) != (other.rows, other.columns) or not parallel(grid, other):
        return True
    return bool(np.allclose(grid.spacing, other.spacing, rtol=0.01))


def _within(grid: Grid, other: Grid) -> bool:
    """Whether all corners of one grid lie in the box of the other, with a pixel and a step to spare."""
    mine, theirs = grid.corners.reshape(-1, 3) @ other.axes.T, other.corners.reshape(-1, 3) @ other.axes.T
    spare = np.array([other.spacing[1], other.spacing[0], other.step])
    return bool((mine >= theirs.min(axis=0) - spare).all() and (mine <= theirs.max(axis=0) + spare).all())
