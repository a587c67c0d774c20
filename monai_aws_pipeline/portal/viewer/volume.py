"""NIfTI for the 3D page: the images that a segmentation lies on as one volume, and the segmentation as another, each where it lies.

DICOM is LPS and NIfTI is RAS: x and y change their sign, once, in the affine. Each has its own planes and its own affine, so nothing is
resampled here. Sources: PS3.3 C.7.6.2.1.1 (positions), C.11.1 (Modality LUT); NIfTI-1, nifti1.h.
"""

from __future__ import annotations

import gzip
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from monai_aws_pipeline.host_agent.intake.geometry import Array, Grid, common_step, kinds_of, places_of, together
from monai_aws_pipeline.host_agent.results.segmentation import Segmentation, Source, masks, read_source
from monai_aws_pipeline.portal.viewer.bucket_source import StoredStudy
from monai_aws_pipeline.portal.viewer.study_view import ViewError

MOST_VOXELS: Final = 1 << 25
"""Of a larger volume every second pixel is taken in the plane, or every third: a browser draws no more."""
_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_PLACE: Final = 0.01
_KINDS: Final = {np.dtype(np.uint8): 2, np.dtype(np.int16): 4, np.dtype(np.float32): 16}
"""Codes of NIfTI's data types."""


@dataclass(frozen=True)
class Volume:
    """Voxels (i, j, k) and the affine that takes their indices to millimetres, RAS."""

    voxels: Array
    affine: Array


def volume_of(stored: StoredStudy, segmentation: Segmentation | None) -> Volume:
    """The images that a segmentation refers to, or the largest series. Raises ViewError."""
    source = read_source(stored.originals)
    series = source.series
    referred = [uid for uid in series if segmentation and uid in segmentation.series] or list(series)
    if not referred:
        raise ViewError("volume_no_images")
    images = series[max(referred, key=lambda uid: len(series[uid]))]
    planes = [(plane, image.instance.path, frame) for image in images for frame, plane in enumerate(image.planes) if plane is not None]
    if not planes:
        raise ViewError("volume_no_place")
    kinds = kinds_of([plane for plane, *_ in planes])
    taken = [planes[index] for index in max(kinds, key=len)]
    (grid,) = together([plane for plane, *_ in taken])
    places, step = places_of(grid.along), common_step(places_of(grid.along))
    if step is None or len(places) != round((places[-1] - places[0]) / step) + 1:
        raise ViewError("volume_uneven")
    first = np.searchsorted(places, grid.along - _SAME_PLACE)
    chosen = {int(place): index for index, place in reversed(list(enumerate(first)))}
    order = [chosen[place] for place in range(len(places))]
    every = _every(grid, len(order))
    voxels = np.zeros((-(-grid.columns // every), -(-grid.rows // every), len(order)), np.float32)
    files: defaultdict[Path, list[tuple[int, int]]] = defaultdict(list)
    for place, index in enumerate(order):
        files[taken[index][1]].append((place, taken[index][2]))
    for path, wanted in files.items():
        for (place, _), values in zip(wanted, _values(path, [frame for _, frame in wanted]), strict=True):
            voxels[:, :, place] = values[::every, ::every].T
    return Volume(_compact(voxels), _affine(grid, grid.positions[order[0]], grid.positions[order[-1]], len(order), every, step))


def segmentations_of(stored: StoredStudy) -> list[Segmentation]:
    """The segmentations of an answer; what cannot be read is left out, because hosts accept what they cannot measure."""
    source: Source = read_source(stored.originals)
    found = []
    for each in stored.results:
        try:
            found.append(source.segmentation(each.path))
        except Exception:  # noqa: S112 - SegmentationError, and whatever pydicom raises
            continue
    return found


def mask_of(segmentation: Segmentation) -> Volume:
    """The numbers of its segments; where two overlap, of the later one. Raises ViewError."""
    grid = segmentation.grid
    places, step = places_of(grid.along), segmentation.slice_distance
    step = common_step(places) or step
    numbers = np.rint((grid.along - places[0]) / step).astype(int)
    count = int(numbers.max()) + 1
    every = _every(grid, count)
    voxels = np.zeros((-(-grid.columns // every), -(-grid.rows // every), count), np.uint8)
    try:
        for index, number, mask in masks(segmentation):
            plane = voxels[:, :, numbers[index]]
            plane[(mask[::every, ::every] >= 0.5).T] = min(number, 255)
    except Exception as error:  # pydicom raises almost anything on pixels that it cannot decode
        raise ViewError("volume_mask_compressed", status=415) from error
    first, last = int(np.argmin(grid.along)), int(np.argmax(grid.along))
    return Volume(voxels, _affine(grid, grid.positions[first], grid.positions[last], count, every, step))


def nifti(volume: Volume) -> bytes:
    """A NIfTI-1 file, compressed."""
    voxels = np.asarray(volume.voxels)
    shape = [3, *voxels.shape, 1, 1, 1, 1]
    sides = np.linalg.norm(volume.affine[:3, :3], axis=0)
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *shape)
    struct.pack_into("<2h", header, 70, _KINDS[voxels.dtype], voxels.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, 1.0, *sides, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352.0, 1.0, 0.0)
    header[123] = 2  # millimetres
    struct.pack_into("<2h", header, 252, 0, 1)  # no quaternion; the affine is in scanner coordinates
    struct.pack_into("<12f", header, 280, *volume.affine[:3].ravel())
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + voxels.tobytes(order="F"), 1, mtime=0)


def _every(grid: Grid, count: int) -> int:
    every = 1
    while (grid.rows // every) * (grid.columns // every) * count > MOST_VOXELS:
        every += 1
        if every > min(grid.rows, grid.columns):
            raise ViewError("volume_too_large", status=413)
    return every


def _affine(grid: Grid, first: Array, last: Array, count: int, every: int, step: float) -> Array:
    affine = np.eye(4)
    affine[:3, 0] = grid.orientation[:3] * grid.spacing[1] * every
    affine[:3, 1] = grid.orientation[3:] * grid.spacing[0] * every
    affine[:3, 2] = (last - first) / (count - 1) if count > 1 else grid.normal * step
    affine[:3, 3] = first
    return np.asarray(_TO_RAS @ affine)


def _values(path: Path, frames: Sequence[int]) -> Iterator[Array]:
    """Frames of one file as values (rows, columns), one after the other. Raises ViewError."""
    try:
        data = dcmread(path, stop_before_pixels=True)
        _refuse_colour(data)
        for frame, pixels in zip(frames, iter_pixels(path, indices=list(frames)), strict=True):
            slope, intercept = _rescale(data, frame)
            yield np.asarray(pixels, np.float32) * slope + intercept
    except ViewError:
        raise
    except Exception as error:  # a codec that is not here, or pixels that no codec reads
        raise ViewError("volume_compressed", status=415) from error


def _refuse_colour(data: Dataset) -> None:
    if int(data.get("SamplesPerPixel") or 1) != 1:
        raise ViewError("volume_colour")


def _rescale(data: Dataset, frame: int) -> tuple[float, float]:
    groups: Sequence[Dataset] = data.get("PerFrameFunctionalGroupsSequence") or []
    shared: Sequence[Dataset] = data.get("SharedFunctionalGroupsSequence") or []
    holders = [data, *groups[frame : frame + 1], *shared[:1]]
    for holder in holders:
        for item in (holder, *(holder.get("PixelValueTransformationSequence") or [])):
            if item.get("RescaleSlope") is not None:
                return float(item.RescaleSlope), float(item.get("RescaleIntercept") or 0)
    return 1.0, 0.0


def _compact(voxels: Array) -> Array:
    """In 16 bits where that loses nothing."""
    whole: Callable[[Array], bool] = lambda part: bool((part == np.rint(part)).all())  # noqa: E731
    if voxels.min() >= -32768 and voxels.max() <= 32767 and all(whole(voxels[:, :, place]) for place in range(voxels.shape[2])):
        return voxels.astype(np.int16)
    return voxels
