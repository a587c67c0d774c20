"""What a reader of the lineage sees of a result: volumes measured from DICOM SEG, and one picture of the source with it overlaid.

Here belongs reading geometry and drawing. Both are a courtesy: whatever cannot be measured or drawn is left out and said so in one log
line, and never fails a job. Sources: PS3.3 C.8.20 (Segmentation), C.7.6.16.2.3 (Plane Position), C.7.6.2 (Image Plane).
"""

from __future__ import annotations

import io
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset

from monai_aws_pipeline.host_agent.dicom import Instance
from monai_aws_pipeline.host_agent.geometry import Array, Grid
from monai_aws_pipeline.host_agent.outputs import DICOM_SEG, Produced

log = logging.getLogger(__name__)

PREVIEW_BYTES: Final = 200_000
_MAX_PIXELS: Final = 1 << 31
_MAX_IN_PLANE: Final = 256
_PANE: Final = 256
_COLOURS: Final = ((255, 64, 64), (64, 200, 255), (255, 208, 64), (120, 255, 120), (220, 120, 255), (255, 150, 60))


class NotDrawableError(Exception):
    """Geometry or pixels that this module does not read. The text says which, without any value of a patient."""


@dataclass(frozen=True)
class Segment:
    """One segment of a SEG. ``label`` is the segment's own label, ``volume_ml`` millilitres."""

    number: int
    label: str
    volume_ml: float


@dataclass(frozen=True)
class Segmentation:
    """Frames (n, rows, columns) as values from 0 to 1, which segment each belongs to, and where each lies."""

    grid: Grid
    frames: Array
    segment_of_frame: Array
    labels: dict[int, str]
    slice_distance: float


@dataclass(frozen=True)
class Volume:
    """Source pixels (slices, rows, columns) sorted along the normal, thinned in plane by ``step``, and the full-resolution grid."""

    grid: Grid
    pixels: Array
    step: int


# ------------------------------------------------------------------------------------------------------------------ from the agent


def describe(produced: Sequence[Produced], source: Sequence[Instance], folder: Path) -> list[Path]:
    """Write ``measurements.json`` and ``preview.png`` into ``folder``, as far as possible; returns what was written."""
    written: list[Path] = []
    segmentations: list[Segmentation] = []
    for item in produced:
        if item.kind == DICOM_SEG:
            try:
                segmentations.append(read_segmentation(item.path))
            except Exception as wrong:  # untrusted objects; a result without a volume is still a result
                log.warning("a segmentation was not measured: %s", _reason(wrong))
    if segmentations:
        segments = [segment for segmentation in segmentations for segment in measure(segmentation)]
        path = folder / "measurements.json"
        path.write_text(measurements_json(segments), encoding="ascii")
        written.append(path)
    try:
        picture = render(read_volume(source), segmentations)
    except Exception as wrong:  # untrusted objects; a result without a picture is still a result
        log.warning("no preview was drawn: %s", _reason(wrong))
    else:
        path = folder / "preview.png"
        path.write_bytes(picture)
        written.append(path)
    return written


def measurements_json(segments: Sequence[Segment]) -> str:
    """``{"segments": [{"label", "number", "volume_ml"}]}``; millilitres with four decimals."""
    rows = [{"label": item.label, "number": item.number, "volume_ml": round(item.volume_ml, 4)} for item in segments]
    return json.dumps({"segments": rows}, ensure_ascii=True, sort_keys=True) + "\n"


def measure(segmentation: Segmentation) -> list[Segment]:
    """Volume of each segment: sum of its pixels times pixel area times distance of slices, in millilitres."""
    area = segmentation.grid.spacing[0] * segmentation.grid.spacing[1]
    amounts: defaultdict[int, float] = defaultdict(float)
    for frame, number in zip(segmentation.frames, segmentation.segment_of_frame, strict=True):
        amounts[int(number)] += float(frame.sum(dtype=np.float64))
    pixel_ml = area * segmentation.slice_distance / 1000
    return [Segment(number, label, amounts[number] * pixel_ml) for number, label in sorted(segmentation.labels.items())]


# ------------------------------------------------------------------------------------------------------------------------- reading


def read_segmentation(path: Path) -> Segmentation:
    """Read a BINARY or FRACTIONAL SEG. Raises NotDrawableError for what has no plane geometry or is too large."""
    data = pydicom.dcmread(path)
    kind = str(data.get("SegmentationType"))
    if kind not in ("BINARY", "FRACTIONAL"):
        raise NotDrawableError("only BINARY and FRACTIONAL segmentations are measured")
    count = int(data.NumberOfFrames)
    _check_size(count, data)
    frames = np.reshape(data.pixel_array, (count, int(data.Rows), int(data.Columns)))
    if kind == "FRACTIONAL":
        frames = frames.astype(np.float32) / float(data.MaximumFractionalValue)
    shared = data.SharedFunctionalGroupsSequence[0]
    own = list(data.PerFrameFunctionalGroupsSequence)
    measures = _group(shared, own[0], "PixelMeasuresSequence")
    orientation = np.array(_group(shared, own[0], "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
    positions = np.array([_group(frame, shared, "PlanePositionSequence").ImagePositionPatient for frame in own], dtype=float)
    numbers = np.array([int(_group(frame, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber) for frame in own])
    grid = Grid(positions, orientation, _spacing(measures), int(data.Rows), int(data.Columns))
    if len(positions) != count:
        raise NotDrawableError("the frames do not match their functional groups")
    labels = {int(item.SegmentNumber): str(item.get("SegmentLabel") or f"segment {item.SegmentNumber}") for item in data.SegmentSequence}
    return Segmentation(grid, frames, numbers, labels, slice_distance(grid.along, measures))


def slice_distance(along: Array, measures: Dataset) -> float:
    """Distance of neighbouring slices in mm: as declared, else the smallest step between frames, else the slice thickness.

    Thickness comes last: slices may overlap or leave gaps, and a volume is made of distances (PS3.3 C.7.6.2.1).
    """
    declared = measures.get("SpacingBetweenSlices")
    steps = np.diff(np.unique(np.round(along, 3)))
    for value in (declared, steps.min() if steps.size else None, measures.get("SliceThickness")):
        if value is not None and float(value) > 0:
            return float(value)
    raise NotDrawableError("the segmentation states no slice distance")


def read_volume(instances: Sequence[Instance]) -> Volume:
    """Read the image series with the most instances as one volume, sorted along its normal."""
    series: defaultdict[str, list[Instance]] = defaultdict(list)
    for item in instances:
        series[item.series_uid].append(item)
    for uid in sorted(series, key=lambda uid: (-len(series[uid]), uid)):
        slices = [data for item in series[uid] if "Rows" in (data := pydicom.dcmread(item.path, defer_size=1024)) and "PixelData" in data]
        if slices:
            return _stack(slices)
    raise NotDrawableError("the study has no image series")


def _stack(slices: list[pydicom.FileDataset]) -> Volume:
    first = slices[0]
    rows, columns = int(first.Rows), int(first.Columns)
    slices = [item for item in slices if (int(item.Rows), int(item.Columns)) == (rows, columns)]
    _check_size(len(slices) * int(first.get("NumberOfFrames") or 1), first)
    step = max(1, -(-max(rows, columns) // _MAX_IN_PLANE))
    flat = "ImagePositionPatient" not in first or "ImageOrientationPatient" not in first
    if flat:
        slices = slices[:1]  # a projection or a photograph: one plane, no geometry
    orientation = np.array([1, 0, 0, 0, 1, 0] if flat else first.ImageOrientationPatient, dtype=float)
    positions = np.array([[0, 0, 0] if flat else item.ImagePositionPatient for item in slices], dtype=float)
    order = np.argsort(positions @ np.cross(orientation[:3], orientation[3:]), kind="stable")
    spacing = _spacing(first) if "PixelSpacing" in first else (1.0, 1.0)
    pixels = np.stack([_plane(slices[index])[::step, ::step] for index in order])
    return Volume(Grid(positions[order], orientation, spacing, rows, columns), pixels, step)


def _plane(data: pydicom.FileDataset) -> Array:
    pixels = data.pixel_array
    if int(data.get("NumberOfFrames") or 1) > 1:
        pixels = pixels[len(pixels) // 2]
    if int(data.get("SamplesPerPixel") or 1) > 1:
        pixels = pixels.mean(axis=-1)
    values = pixels.astype(np.float32) * float(data.get("RescaleSlope") or 1) + float(data.get("RescaleIntercept") or 0)
    return -values if data.get("PhotometricInterpretation") == "MONOCHROME1" else values


def _group(first: Dataset, second: Dataset, name: str) -> Dataset:
    for part in (first, second):
        if part.get(name):
            found: Dataset = part[name][0]
            return found
    raise NotDrawableError(f"{name} is missing")


def _spacing(data: Dataset) -> tuple[float, float]:
    row, column = (float(value) for value in data.PixelSpacing)
    if not (row > 0 and column > 0):
        raise NotDrawableError("the pixel spacing is not positive")
    return row, column


def _check_size(frames: int, data: Dataset) -> None:
    if not 0 < frames * int(data.Rows) * int(data.Columns) <= _MAX_PIXELS:
        raise NotDrawableError("the pixels would not fit into memory")


# ------------------------------------------------------------------------------------------------------------------------- drawing


def label_map(volume: Volume, segmentations: Sequence[Segmentation]) -> Array:
    """Segment colours (1…) on the volume's thinned grid, 0 elsewhere. Frames that do not lie on a source plane are left out."""
    labels = np.zeros(volume.pixels.shape, dtype=np.uint8)
    colour = 0
    for segmentation in segmentations:
        places = frame_places(volume.grid, segmentation.grid)
        if off := int((places < 0).sum()):
            log.warning("%d of %d segmentation frames do not lie on the source planes and are not drawn", off, len(places))
        for number in sorted(segmentation.labels):
            colour += 1
            for index in np.flatnonzero((segmentation.segment_of_frame == number) & (places >= 0)):
                mask = segmentation.frames[index][:: volume.step, :: volume.step] >= 0.5
                labels[places[index]][mask] = (colour - 1) % len(_COLOURS) + 1
    return labels


def frame_places(source: Grid, segmentation: Grid) -> Array:
    """For each segmentation frame the index of the source plane it lies on, -1 where it lies on none (half a pixel is the tolerance)."""
    nowhere = np.full(len(segmentation.positions), -1)
    if (source.rows, source.columns) != (segmentation.rows, segmentation.columns):
        return nowhere
    if not np.allclose(source.orientation, segmentation.orientation, atol=1e-3):
        return nowhere
    places = np.abs(source.along[None, :] - segmentation.along[:, None]).argmin(axis=1)
    apart = np.linalg.norm(source.positions[places] - segmentation.positions, axis=1)
    return np.where(apart <= 0.5 * min(source.spacing), places, -1)


def render(volume: Volume, segmentations: Sequence[Segmentation]) -> bytes:
    """A PNG of at most 200 KB: the plane with most of the segmentation, and for a volume the two orthogonal planes beside it."""
    labels = label_map(volume, segmentations)
    at = _centre(labels)
    low, high = np.percentile(volume.pixels[:: max(1, len(volume.pixels) // 16)], (1, 99.5))
    grey = np.clip((volume.pixels - low) / max(float(high - low), 1e-6), 0, 1)
    row, column = (value * volume.step for value in volume.grid.spacing)
    panes = [_pane(grey[at[0]], labels[at[0]], row, column)]
    if len(grey) > 1:
        between = float(np.median(np.diff(volume.grid.along))) or row
        # Flipped, because planes are sorted along the normal and pictures are read from the top: for axial slices the head is up.
        panes.append(_pane(grey[::-1, at[1], :], labels[::-1, at[1], :], between, column))
        panes.append(_pane(grey[::-1, :, at[2]], labels[::-1, :, at[2]], between, row))
    for size in (_PANE, 192, 128, 64):
        picture = _side_by_side(panes, size)
        if len(picture) <= PREVIEW_BYTES:
            break
    return picture


def _centre(labels: Array) -> tuple[int, int, int]:
    """Indices of the plane, row and column to show: where the segmentation has most area, the middle where there is none."""
    found = labels > 0
    if not found.any():
        return labels.shape[0] // 2, labels.shape[1] // 2, labels.shape[2] // 2
    return int(found.sum((1, 2)).argmax()), int(found.sum((0, 2)).argmax()), int(found.sum((0, 1)).argmax())


def _pane(grey: Array, labels: Array, height_mm: float, width_mm: float) -> tuple[Image.Image, float]:
    """One plane as a picture with its segmentation blended in, and its height divided by its width in patient space."""
    colours = np.repeat((grey * 255).astype(np.float32)[..., None], 3, axis=-1)
    for value, colour in enumerate(_COLOURS, start=1):
        chosen = labels == value
        colours[chosen] = 0.55 * colours[chosen] + 0.45 * np.array(colour, dtype=np.float32)
    return Image.fromarray(colours.astype(np.uint8)), grey.shape[0] * height_mm / (grey.shape[1] * width_mm)


def _side_by_side(panes: list[tuple[Image.Image, float]], size: int) -> bytes:
    scaled = []
    for picture, shape in panes:
        width, height = (size, max(1, round(size * shape))) if shape <= 1 else (max(1, round(size / shape)), size)
        scaled.append(picture.resize((width, height), Image.Resampling.BILINEAR))
    sheet = Image.new("RGB", (size * len(scaled), size))
    for index, picture in enumerate(scaled):
        sheet.paste(picture, (index * size + (size - picture.width) // 2, (size - picture.height) // 2))
    target = io.BytesIO()
    sheet.save(target, "PNG")
    return target.getvalue()


def _reason(wrong: Exception) -> str:
    # Texts of other exceptions may quote a DICOM value; only ours are known not to.
    return str(wrong) if isinstance(wrong, NotDrawableError) else wrong.__class__.__name__
