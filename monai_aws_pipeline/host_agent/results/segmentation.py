"""Reading a DICOM SEG: where its frames lie, what they hold, and how many millilitres each segment has.

Here belongs reading and measuring. Whether a segmentation is an answer to its source is judged in ``segmentation_check.py``; ``preview.py``
draws it. Frames are read one at a time, so that memory does not grow with the file. Sources: PS3.3 A.51 and C.8.20 (Segmentation),
C.7.6.16.2 (functional groups), C.12.1.1.3 (references).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, SegmentationStorage

from monai_aws_pipeline.host_agent.intake.dicom import Instance
from monai_aws_pipeline.host_agent.intake.geometry import (
    Array,
    Grid,
    common_step,
    grid_of,
    kinds_of,
    nearest_planes,
    parallel,
    places_of,
    planes_of,
    together,
)

SEGMENTATIONS: Final = frozenset({SegmentationStorage, UID("1.2.840.10008.5.1.4.1.1.66.7")})
"""SOP classes of segmentations made of pixels: Segmentation Storage, Label Map Segmentation Storage."""

_MAX_PIXELS: Final = 1 << 31
_KEPT_BYTES: Final = 1 << 20
"""There may be a hundred of them; of larger ones the reading takes longer than finding what to read."""
_PLANE_TAGS: Final = [
    "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


class SegmentationError(Exception):
    """A segmentation that this module does not read or measure. The text says why, without any value of a patient."""


@dataclass(frozen=True)
class Image:
    """An instance with one plane for each of its frames; None for a frame that does not tell where it lies.

    ``rewritten``: whether its file says something else than its header did when it came.
    """

    instance: Instance
    rewritten: bool = False

    @cached_property
    def planes(self) -> tuple[Grid | None, ...]:
        """Read when they are first asked for, of one frame from the header that the intake has read. One that cannot be read tells none."""
        header = self.instance.header
        if self.rewritten or header.frames > 1 or header.plane is None:  # frames tell where they lie one by one, also where it is but one
            return _planes(self.instance.path)
        return (grid_of(header.plane, header.frame_of_reference, header.rows, header.columns),)

    @property
    def placed(self) -> tuple[Grid, ...]:
        """The planes that tell where they lie."""
        return tuple(plane for plane in self.planes if plane is not None)


@dataclass(frozen=True)
class Source:
    """The images that a study's application was given, read once for all that is asked of its segmentations, as these are."""

    images: tuple[Image, ...] = ()
    _read: dict[Path, Segmentation] = field(default_factory=dict, compare=False, repr=False)

    def segmentation(self, path: Path) -> Segmentation:
        """A segmentation made from these images. Raises SegmentationError, and what pydicom raises."""
        if path not in self._read:
            self._read[path] = read_segmentation(path, self)
        return self._read[path]

    @property
    def series(self) -> dict[str, tuple[Image, ...]]:
        """The images of each series."""
        found: defaultdict[str, list[Image]] = defaultdict(list)
        for image in self.images:
            found[image.instance.series_uid].append(image)
        return {uid: tuple(images) for uid, images in found.items()}

    def grids(self, series: Iterable[str] = ()) -> tuple[Grid, ...]:
        """The planes of some series, or of all where none is named."""
        named = set(series)
        return together(plane for image in self.images if not named or image.instance.series_uid in named for plane in image.placed)


@dataclass(frozen=True)
class Segment:
    """One segment of a SEG. ``label`` is the segment's own label, ``volume_ml`` millilitres."""

    number: int
    label: str
    volume_ml: float


@dataclass(frozen=True)
class Segmentation:
    """What a SEG says of its frames; their pixels come from ``masks``.

    ``grid``: where each frame lies. ``segment_of_frame``: its segment, 0 in a label map, whose pixels are segment numbers. ``depths``: how
    many mm along the normal each frame stands for. ``slice_distance``: distance of neighbouring planes in mm. ``series``: those that it
    refers to. ``background``: values of a label map that stand for no segment. ``single_bits``: whether there is room for 0 and 1 alone.
    """

    path: Path
    kind: str
    grid: Grid
    segment_of_frame: Array
    labels: dict[int, str]
    depths: Array
    slice_distance: float
    maximum: float
    series: frozenset[str]
    background: tuple[int, ...]
    single_bits: bool
    _packed: list[Array] = field(default_factory=list, compare=False, repr=False)
    """The pixels of single bits, once they were read and where they are few enough to be kept for who asks next."""


def read_source(instances: Sequence[Instance], *, rewritten: bool = False) -> Source:
    """Where the images of a study lie. ``rewritten``: their files say another place than their headers did when they came."""
    return Source(tuple(Image(item, rewritten) for item in instances))


def read_segmentation(path: Path, source: Source | None = None) -> Segmentation:
    """Read a BINARY, FRACTIONAL or LABELMAP segmentation, as far as its header goes.

    Args:
        path: The DICOM file.
        source: The images it was made from. A segmentation leaves out frames without voxels, so that only its source tells for sure how
            far neighbouring planes are apart.

    Raises:
        SegmentationError: It has no plane geometry, frames of several kinds, no distance of planes, or is too large.
    """
    data = pydicom.dcmread(path, stop_before_pixels=True)
    kind = str(data.get("SegmentationType"))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise SegmentationError("only BINARY, FRACTIONAL and LABELMAP segmentations are measured")
    count = int(data.NumberOfFrames)
    if not 0 < count * int(data.Rows) * int(data.Columns) <= _MAX_PIXELS:
        raise SegmentationError("its pixels are too many to be measured")
    maximum = float(data.MaximumFractionalValue) if kind == "FRACTIONAL" else 1.0
    if not maximum > 0:
        raise SegmentationError("its largest fractional value is not positive")
    planes = [plane for plane in planes_of(data) if plane is not None]
    if len(planes) != count:
        raise SegmentationError("not every frame tells where it lies")
    if len(kinds_of(planes)) != 1:
        raise SegmentationError("its frames differ in orientation or pixel spacing")
    (grid,) = together(planes)
    series = frozenset(str(item.get("SeriesInstanceUID")).strip(" \0") for item in data.get("ReferencedSeriesSequence") or [])
    distance, depths = _depths(grid, source or Source(), series, data)
    labels = {int(item.SegmentNumber): str(item.get("SegmentLabel") or f"segment {item.SegmentNumber}") for item in data.SegmentSequence}
    if kind == "LABELMAP":
        labels.pop(0, None)  # the background, which some writers describe as a segment
        numbers = np.zeros(count, dtype=int)
    else:
        numbers = np.array([_segment_number(data, frame) for frame in data.PerFrameFunctionalGroupsSequence])
    background = (0, int(data.get("PixelPaddingValue") or 0))
    single_bits = kind == "BINARY" and int(data.get("BitsAllocated") or 0) == 1
    return Segmentation(path, kind, grid, numbers, labels, depths, distance, maximum, series, background, single_bits)


def masks(segmentation: Segmentation, frames: Sequence[int] | None = None) -> Iterator[tuple[int, int, Array]]:
    """Index of a frame, number of a segment, and its pixels (rows, columns) as values from 0 to 1; of all frames where none are named.

    A label map gives one triple for each segment of a frame. Raises what pydicom raises on pixels that cannot be decoded.
    """
    wanted = range(len(segmentation.grid.positions)) if frames is None else frames
    if not len(wanted):
        return
    pixels = _frames(segmentation, wanted)
    for index, frame in zip(wanted, pixels, strict=True):
        if segmentation.kind == "LABELMAP":
            for number in sorted(set(np.unique(frame).tolist()) & set(segmentation.labels)):
                yield index, int(number), frame == number
        elif segmentation.kind == "FRACTIONAL":
            yield index, int(segmentation.segment_of_frame[index]), frame.astype(np.float32) / segmentation.maximum
        else:
            yield index, int(segmentation.segment_of_frame[index]), frame


def frames_of_undescribed_values(segmentation: Segmentation) -> int:
    """How many frames hold values that the SEG gives no meaning: numbers of no segment, or more than its largest value.

    Raises what pydicom raises on pixels that cannot be decoded.
    """
    if segmentation.single_bits:
        return 0
    frames = _frames(segmentation, range(len(segmentation.grid.positions)))
    if segmentation.kind == "LABELMAP":
        known = [*segmentation.labels, *segmentation.background]
        return sum(not np.isin(np.unique(frame), known).all() for frame in frames)
    return sum(bool(frame.max() > segmentation.maximum) for frame in frames)


def _frames(segmentation: Segmentation, wanted: Sequence[int]) -> Iterator[Array]:
    """The pixels of some frames, one after the other."""
    path, kept = segmentation.path, segmentation._packed
    if kept:
        return _bit_frames(kept[0], segmentation.grid, wanted)
    syntax = UID(str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") or ""))
    if syntax.is_encapsulated:
        return iter_pixels(path, indices=wanted)
    data = pydicom.dcmread(path, defer_size=1024)
    if int(data.BitsAllocated) == 1:
        packed = np.frombuffer(data.PixelData, np.uint8)
        if packed.nbytes <= _KEPT_BYTES:
            kept.append(packed)
        return _bit_frames(packed, segmentation.grid, wanted)
    # A deflated file has no place on disk at which a frame begins.
    return iter_pixels(pydicom.dcmread(path) if syntax == DeflatedExplicitVRLittleEndian else path, indices=wanted)


def _bit_frames(packed: Array, grid: Grid, wanted: Sequence[int]) -> Iterator[Array]:
    """Frames of single bits, which begin within a byte where their size is no multiple of 8 (PS3.5 section 8.1.1).

    pydicom 3.0.2 reads such frames one by one from the byte that they begin in.
    """
    size = grid.rows * grid.columns
    for index in wanted:
        first = index * size
        bits = np.unpackbits(packed[first // 8 : -(-(first + size) // 8)], bitorder="little")
        yield bits[first % 8 : first % 8 + size].reshape(grid.rows, grid.columns)


def measure(segmentation: Segmentation) -> list[Segment]:
    """Volume of each segment: sum of its pixels times pixel area times distance of planes, in millilitres. Raises SegmentationError."""
    seen = np.column_stack([segmentation.segment_of_frame, np.round(segmentation.grid.positions, 2)])
    if len(np.unique(seen, axis=0)) != len(seen):
        raise SegmentationError("two frames of a segment lie in one place")
    amounts: defaultdict[int, float] = defaultdict(float)
    for index, number, mask in masks(segmentation):
        amounts[number] += float(mask.sum(dtype=np.float64)) * float(segmentation.depths[index])
    pixel = segmentation.grid.spacing[0] * segmentation.grid.spacing[1]
    found = [Segment(number, label, amounts[number] * pixel / 1000) for number, label in sorted(segmentation.labels.items())]
    if not all(np.isfinite(segment.volume_ml) for segment in found):
        raise SegmentationError("its measures are no numbers")
    return found


def _planes(path: Path) -> tuple[Grid | None, ...]:
    try:
        return tuple(planes_of(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_PLANE_TAGS)))
    except Exception:  # pydicom raises a dozen kinds on damaged values; an image that cannot be placed was good enough for the application
        return (None,)


def _segment_number(data: Dataset, frame: Dataset) -> int:
    for groups in (frame, *(data.get("SharedFunctionalGroupsSequence") or [])):
        if groups.get("SegmentIdentificationSequence"):
            return int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    raise SegmentationError("a frame belongs to no segment")


def _depths(grid: Grid, source: Source, series: frozenset[str], data: Dataset) -> tuple[float, Array]:
    """Distance of neighbouring planes, and what each frame stands for, in mm.

    The positions decide: those of the source where the frames lie on its planes, else the frames' own. Only a single plane says nothing;
    then the header is believed, its distance before its thickness, because slices may overlap or leave gaps (PS3.3 C.7.6.2.1).
    """
    places = places_of(grid.along)
    for other in source.grids(series & set(source.series)):
        if not _same_pixels(grid, other):
            continue
        on = nearest_planes(other, grid.positions @ other.normal)
        theirs = places_of(other.along)
        if len(theirs) > 1 and (on >= 0).all():
            edges = np.concatenate([theirs[:1], (theirs[1:] + theirs[:-1]) / 2, theirs[-1:]])
            edges[0] -= (theirs[1] - theirs[0]) / 2  # a plane at the end reaches as far out as in
            edges[-1] += (theirs[-1] - theirs[-2]) / 2
            index = np.clip(np.searchsorted(edges, other.along[on]) - 1, 0, len(theirs) - 1)
            return other.step, np.diff(edges)[index]
    if len(places) > 1:
        step = common_step(places)
        if step is None:
            raise SegmentationError("its planes are unevenly spaced")
        return step, np.full(len(grid.positions), step)
    groups = [*(data.get("SharedFunctionalGroupsSequence") or []), data.PerFrameFunctionalGroupsSequence[0]]
    measures = [item for group in groups for item in group.get("PixelMeasuresSequence") or []]
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        for item in measures:
            if (value := abs(float(item.get(name) or 0))) > 0 and np.isfinite(value):
                return value, np.full(len(grid.positions), value)
    raise SegmentationError("it states no distance of planes")


def _same_pixels(grid: Grid, other: Grid) -> bool:
    """Whether planes are cut alike, perhaps turned over: then a frame stands for what its source plane stands for."""
    return (
        (grid.rows, grid.columns) == (other.rows, other.columns)
        and np.allclose(grid.spacing, other.spacing, rtol=0.01)
        and parallel(grid, other)
    )
