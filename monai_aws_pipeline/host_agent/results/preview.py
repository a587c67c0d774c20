"""What a reader of the lineage sees of a result: volumes measured from DICOM SEG, and one picture of the source with it overlaid.

Here belongs drawing; segmentations are read and measured in ``segmentation.py``. Both are a courtesy: whatever cannot be measured or drawn
is left out and said so in one log line, and never fails a job. Sources: PS3.3 C.7.6.2 (Image Plane), C.7.6.3.1.2 (Photometric
Interpretation), C.7.6.16.2.9 (Pixel Value Transformation).
"""

from __future__ import annotations

import io
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels.utils import iter_pixels

from monai_aws_pipeline.contract import ExpectedVolume
from monai_aws_pipeline.contract.outputs import DICOM_SEG
from monai_aws_pipeline.host_agent.intake.geometry import Array, Grid, kinds_of, nearest, places_of, planes_under, together
from monai_aws_pipeline.host_agent.results import segmentation as seg
from monai_aws_pipeline.host_agent.results.outputs import Produced
from monai_aws_pipeline.host_agent.results.segmentation import Segment, Segmentation, SegmentationError, Source

log = logging.getLogger(__name__)

PREVIEW_BYTES: Final = 200_000
_MAX_PIXELS: Final = 1 << 28
"""Values of a volume after thinning, 1 GiB of them."""
_MAX_IN_PLANE: Final = 256
_PANE: Final = 256
_COLOURS: Final = ((255, 64, 64), (64, 200, 255), (255, 208, 64), (120, 255, 120), (220, 120, 255), (255, 150, 60))


class NotDrawableError(Exception):
    """Geometry or pixels that this module does not draw. The text says which, without any value of a patient."""


@dataclass(frozen=True)
class Volume:
    """Source pixels (slices, rows, columns) sorted along the normal, thinned in plane by ``step``, and the full-resolution grid."""

    grid: Grid
    pixels: Array
    step: int


@dataclass(frozen=True)
class _Plane:
    """A frame of a file and where it lies."""

    path: Path
    frame: int
    grid: Grid


# ------------------------------------------------------------------------------------------------------------------ from the agent


def describe(
    produced: Sequence[Produced],
    source: Source,
    folder: Path,
    without_identifiers: Callable[[str], str] = str,
    expected: Sequence[ExpectedVolume] = (),
) -> list[Path]:
    """Write ``measurements.json`` and ``preview.png`` into ``folder``, as far as possible; returns what was written.

    ``without_identifiers`` cleans a segment's label, which is the application's own text and goes into the lineage. ``expected``: the
    volumes that the MAP declares plausible, written beside those that were measured.
    """
    written: list[Path] = []
    measured: list[tuple[Segmentation, list[Segment]]] = []
    for item in produced:
        if item.kind == DICOM_SEG:
            try:
                segmentation = source.segmentation(item.path)
                measured.append((segmentation, seg.measure(segmentation)))
            except Exception as error:  # untrusted objects; a result without a volume is still a result
                log.warning("a segmentation was not measured: %s", _reason(error))
    if measured:
        path = folder / "measurements.json"
        named = [replace(segment, label=without_identifiers(segment.label)) for _, segments in measured for segment in segments]
        path.write_text(measurements_json(named, expected), encoding="ascii")
        written.append(path)
    # The largest first: it says which series is drawn.
    measured.sort(key=lambda one: -sum(segment.volume_ml for segment in one[1]))
    segmentations = [segmentation for segmentation, _ in measured]
    try:
        picture = render(read_volume(source, segmentations), segmentations)
    except Exception as error:  # untrusted objects; a result without a picture is still a result
        log.warning("no preview was drawn: %s", _reason(error))
    else:
        path = folder / "preview.png"
        path.write_bytes(picture)
        written.append(path)
    return written


def measurements_json(segments: Sequence[Segment], expected: Sequence[ExpectedVolume] = ()) -> str:
    """``{"segments": [{"label", "number", "volume_ml"}], "expected": [{"label", "min", "max"}]}``; millilitres with four decimals."""
    rows = [{"label": item.label, "number": item.number, "volume_ml": round(item.volume_ml, 4)} for item in segments]
    data = {"segments": rows, **({"expected": [{"label": each.label, **each.ends} for each in expected]} if expected else {})}
    return json.dumps(data, ensure_ascii=True, sort_keys=True) + "\n"


# ------------------------------------------------------------------------------------------------------------------ the source's pixels


def read_volume(source: Source, segmentations: Sequence[Segmentation] = ()) -> Volume:
    """Read the images to draw as one volume, sorted along its normal.

    They are those on whose planes the first segmentation lies, in a series that it refers to; without one the series with the most
    images. Raises NotDrawableError, and what pydicom raises on pixels that cannot be decoded.
    """
    first = next(iter(segmentations), None)
    series = {uid: images for uid, images in source.series.items() if not first or uid in first.series} or source.series
    stacks = {uid: _stacks(images, first) for uid, images in series.items()}

    def rank(uid: str) -> tuple[int, int, int, str]:
        planes = stacks[uid][0] if stacks[uid] else []
        return -_frames_on(planes, first), -len(series[uid]), -len(planes), uid

    for uid in sorted(series, key=rank):
        if stacks[uid]:
            return _read(stacks[uid][0])
        for image in series[uid]:
            data = pydicom.dcmread(image.instance.path, defer_size=1024)
            if "Rows" in data and "PixelData" in data:
                return _read_flat(image.instance.path, data)
    raise NotDrawableError("the study has no image series")


def _stacks(images: Sequence[seg.Image], first: Segmentation | None) -> list[list[_Plane]]:
    """The planes of a series that lie in one direction, one for each place; those first that are most to be drawn."""
    planes = [
        _Plane(image.instance.path, index, plane)
        for image in images
        if image.instance.sop_class not in seg.SEGMENTATIONS
        for index, plane in enumerate(image.planes)
        if plane is not None and plane.rows and plane.columns
    ]
    stacks = []
    for kind in kinds_of([plane.grid for plane in planes]):
        along = np.concatenate([planes[index].grid.positions for index in kind]) @ planes[kind[0]].grid.normal
        place = nearest(places_of(along), along)
        stacks.append([planes[kind[index]] for index in np.unique(place, return_index=True)[1]])
    return sorted(stacks, key=lambda stack: (-_frames_on(stack, first), -len(stack)))


def _frames_on(planes: Sequence[_Plane], segmentation: Segmentation | None) -> int:
    if not planes or segmentation is None:
        return 0
    (stack,) = together(plane.grid for plane in planes)
    return int((planes_under(stack, segmentation.grid) >= 0).sum())


def _read(planes: Sequence[_Plane]) -> Volume:
    (grid,) = together(plane.grid for plane in planes)
    step = max(1, -(-max(grid.rows, grid.columns) // _MAX_IN_PLANE))
    shape = len(planes), -(-grid.rows // step), -(-grid.columns // step)
    if max(int(np.prod(shape)), grid.rows * grid.columns) > _MAX_PIXELS:
        raise NotDrawableError("the pixels would not fit into memory")
    pixels = np.empty(shape, dtype=np.float32)
    places = defaultdict[Path, list[int]](list)
    for place, plane in enumerate(planes):
        places[plane.path].append(place)
    for path, of_file in places.items():
        for place, values in zip(of_file, _frames(path, [planes[place].frame for place in of_file]), strict=True):
            pixels[place] = values[::step, ::step]
    return Volume(grid, pixels, step)


def _read_flat(path: Path, data: pydicom.FileDataset) -> Volume:
    """A projection or a photograph: one plane, no geometry."""
    rows, columns = int(data.Rows), int(data.Columns)
    if not 0 < rows * columns <= _MAX_PIXELS:
        raise NotDrawableError("the pixels would not fit into memory")
    row, column = (float(value) for value in data.get("PixelSpacing") or (1, 1))
    if not (row > 0 and column > 0):
        raise NotDrawableError("the pixel spacing is not positive")
    step = max(1, -(-max(rows, columns) // _MAX_IN_PLANE))
    (pixels,) = _frames(path, [0])
    grid = Grid(np.zeros((1, 3)), np.array([1.0, 0, 0, 0, 1, 0]), (row, column), rows, columns)
    return Volume(grid, pixels[None, ::step, ::step], step)


def _frames(path: Path, wanted: Sequence[int]) -> Iterator[Array]:
    """Frames of a file as they are to be seen: rescaled, bright where MONOCHROME1 says dark, colours as grey."""
    data = pydicom.dcmread(path, defer_size=1024)
    count = int(data.get("NumberOfFrames") or 1)
    own = data.get("PerFrameFunctionalGroupsSequence") or []
    if count == 1:
        frames = iter([data.pixel_array])
    elif own:
        frames = iter_pixels(data, indices=wanted)
    else:  # a sequence in time has one plane: its middle
        frames = iter_pixels(data, indices=[count // 2])
    for index, pixels in zip(wanted, frames, strict=True):
        grey = pixels.mean(axis=-1) if int(data.get("SamplesPerPixel") or 1) > 1 else pixels
        groups = [*own[index : index + 1], *(data.get("SharedFunctionalGroupsSequence") or [])]
        rescale = next((item for group in groups for item in group.get("PixelValueTransformationSequence") or []), data)
        values = grey.astype(np.float32) * float(rescale.get("RescaleSlope") or 1) + float(rescale.get("RescaleIntercept") or 0)
        yield -values if data.get("PhotometricInterpretation") == "MONOCHROME1" else values


# ------------------------------------------------------------------------------------------------------------------------- drawing


def label_map(volume: Volume, segmentations: Sequence[Segmentation]) -> Array:
    """Segment colours (1…) on the volume's thinned grid, 0 elsewhere. Frames that do not lie on a source plane are left out."""
    labels = np.zeros(volume.pixels.shape, dtype=np.uint8)
    colour = 0
    for segmentation in segmentations:
        places = planes_under(volume.grid, segmentation.grid)
        if off := int((places < 0).sum()):
            log.warning("%d of %d segmentation frames do not lie on the planes that are drawn", off, len(places))
        colours = {number: (colour + index) % len(_COLOURS) + 1 for index, number in enumerate(sorted(segmentation.labels))}
        if off < len(places):
            colour += len(colours)
        for index, number, values in seg.masks(segmentation, np.flatnonzero(places >= 0).tolist()):
            if number in colours:
                labels[places[index]][values[:: volume.step, :: volume.step] >= 0.5] = colours[number]
    return labels


def render(volume: Volume, segmentations: Sequence[Segmentation]) -> bytes:
    """A PNG of at most 200 KB: the plane with most of the segmentation, and for a volume the two orthogonal planes beside it."""
    labels = label_map(volume, segmentations)
    at = _centre(labels)
    low, high = np.percentile(volume.pixels[:: max(1, len(volume.pixels) // 16)], (1, 99.5))

    def grey(pixels: Array) -> Array:
        return np.asarray(np.clip((pixels - low) / max(float(high - low), 1e-6), 0, 1))

    row, column = (value * volume.step for value in volume.grid.spacing)
    panes = [_pane(grey(volume.pixels[at[0]]), labels[at[0]], row, column)]
    if len(volume.pixels) > 1:
        between = float(np.median(np.diff(volume.grid.along))) or row
        # Flipped, because planes are sorted along the normal and pictures are read from the top: for axial slices the head is up.
        panes.append(_pane(grey(volume.pixels[::-1, at[1], :]), labels[::-1, at[1], :], between, column))
        panes.append(_pane(grey(volume.pixels[::-1, :, at[2]]), labels[::-1, :, at[2]], between, row))
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


def _reason(error: Exception) -> str:
    # Texts of other exceptions may quote a DICOM value; only ours are known not to.
    return str(error) if isinstance(error, NotDrawableError | SegmentationError) else error.__class__.__name__
