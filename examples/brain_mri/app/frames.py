"""A series as planes in the order in which they lie: classic images, or the frames of a multi-frame image. pydicom and numpy, no SDK.

Here belongs everything that a series must agree on before its planes are one volume. What the pixels mean is in ``pixels.py``. Sources:
PS3.3 C.7.6.2 (Image Plane), C.7.6.16 (multi-frame functional groups), C.8.13 (Enhanced MR), C.8.15 (Enhanced CT).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from errors import NoAnswerError
from geometry import GeometryError, affine_lps, along_normal, mean_orientation
from instances import number_of_frames
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

MIN_SLICES: Final = 12
"""The model takes thick slices (9 of 20 mm give a Dice of 0.97 with all 181), but fewer than these are a scout or a part of a series."""
MIN_EXTENT_MM: Final = 110.0
"""A brain does not fit into less, along any axis; on a slab of 100 mm the model loses 15 % of the brain that is there."""
SAME_PLACE: Final = 0.1
"""Planes that are nearer than this part of the usual step lie at the same place."""
MULTI_FRAME: Final = "PerFrameFunctionalGroupsSequence"

_STACKS: Final = (
    ("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    ("EchoNumbers", "", ""),
    ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
    ("TemporalPositionIdentifier", "FrameContentSequence", "TemporalPositionIndex"),
    ("InversionTime", "MRModifierSequence", "InversionTimes"),
    ("FlipAngle", "MRTimingAndRelatedParametersSequence", "FlipAngle"),
    ("ComplexImageComponent", "MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("ImageType", "MRImageFrameTypeSequence", "FrameType"),
    ("", "CTImageFrameTypeSequence", "FrameType"),
    ("", "FrameContentSequence", "StackID"),
)
"""What a volume has once: attribute of a classic image; functional group and attribute of a frame."""
_DOUBLES: Final = (
    ("AcquisitionNumber", "FrameContentSequence", "FrameAcquisitionNumber"),
    ("TriggerTime", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("RepetitionTime", "MRTimingAndRelatedParametersSequence", "RepetitionTime"),
)
"""What may differ within a volume, and tells planes apart that lie at one place."""


class SeriesError(NoAnswerError):
    """The images of the series do not belong to one volume. The text names attributes and counts."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One plane of a series, with ``index`` counted from 0 within its image. Millimetres in LPS."""

    image: Dataset
    index: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]

    def group(self, sequence: str) -> Dataset:
        """A functional group of this frame, else of all frames; the image itself where it is a classic one. Empty where there is none."""
        return _group(self.image, self.index, sequence)


@dataclass(frozen=True, eq=False)
class Stack:
    """The planes of a volume in order along their normal, the direction cosines that they share, and their affine (geometry.py)."""

    frames: tuple[Frame, ...]
    orientation: NDArray[np.float64]
    affine: NDArray[np.float64]


def stack_of(images: Sequence[Dataset]) -> Stack:
    """The planes of a series' images, sorted.

    Raises:
        SeriesError: Images differ in what one volume has once, or are no gray images of a patient's planes.
        GeometryError: The planes are no regular volume, or too small a one for a brain.
    """
    _require_one_kind(images)
    frames = list(_frames(images))
    _require_once(frames, _STACKS)
    orientation = mean_orientation(np.array([frame.orientation for frame in frames]))
    spacings = np.array([frame.spacing for frame in frames])
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        raise GeometryError("PixelSpacing differs within the series")
    along = along_normal(np.array([frame.position for frame in frames]), orientation)
    order = np.argsort(along, kind="stable")
    _require_one_at_each_place([frames[int(index)] for index in order], along[order])
    if len(frames) < MIN_SLICES:
        raise GeometryError(f"the series has {len(frames)} slices; this application needs {MIN_SLICES} or more")
    positions = np.array([frames[int(index)].position for index in order])
    affine = affine_lps(positions, orientation, frames[0].spacing)
    shape = (len(frames), int(images[0].Rows), int(images[0].Columns))
    for name, count, step in zip(("slices", "rows", "columns"), shape, np.linalg.norm(affine[:3, :3], axis=0), strict=True):
        if count * step < MIN_EXTENT_MM:
            raise GeometryError(f"the series covers {count * step:.0f} mm with {count} {name}; a brain needs {MIN_EXTENT_MM:.0f} mm")
    return Stack(tuple(frames[int(index)] for index in order), orientation, affine)


def _require_one_kind(images: Sequence[Dataset]) -> None:
    """Raise SeriesError unless all images are gray images of one matrix, one frame of reference, each with a UID of its own."""
    kinds = Counter(str(image.SOPClassUID) for image in images)
    if private := sum(count for kind, count in kinds.items() if UID(kind).is_private):
        raise SeriesError(f"{private} of {len(images)} images are of a private SOP class (SOPClassUID)")
    multi = sum(MULTI_FRAME in image for image in images)
    if multi and len(images) > 1:
        raise SeriesError(f"the series has {len(images)} images, {multi} of them multi-frame; one multi-frame image is a volume")
    if not multi and any(number_of_frames(image) > 1 for image in images):
        raise SeriesError("an image has several frames and no positions for them (PerFrameFunctionalGroupsSequence)")
    doubled = len(images) - len({str(image.SOPInstanceUID) for image in images})
    if doubled:
        raise SeriesError(f"SOPInstanceUID is used twice for different images ({doubled} of {len(images)})")
    if mosaics := sum("MOSAIC" in [str(value).upper() for value in _values(image.get("ImageType"))] for image in images):
        raise SeriesError(f"{mosaics} of {len(images)} images are mosaics (ImageType): many slices in one image, without their positions")
    colours = [
        image for image in images if image.get("SamplesPerPixel") != 1 or not str(image.get("PhotometricInterpretation")).startswith("MONO")
    ]
    if colours:
        raise SeriesError(f"{len(colours)} of {len(images)} images are no gray images (SamplesPerPixel, PhotometricInterpretation)")
    for keywords in (("Rows", "Columns"), ("PhotometricInterpretation",), ("FrameOfReferenceUID",)):
        found = Counter(tuple(str(image.get(keyword) or "").strip(" \0") for keyword in keywords) for image in images)
        if missing := sum(count for values, count in found.items() if "" in values or "0" in values):
            raise SeriesError(f"{' or '.join(keywords)} is missing in {missing} of {len(images)} images")
        if len(found) > 1:
            raise SeriesError(f"the series has more than one {' and '.join(keywords)} ({_counts(found)} images)")


def _frames(images: Sequence[Dataset]) -> Iterator[Frame]:
    """Every plane of the images. Raises SeriesError where one of them does not say where it lies."""
    missing: Counter[str] = Counter()
    planes = [(image, index) for image in images for index in range(number_of_frames(image))]
    if MULTI_FRAME in images[0] and len(images[0][MULTI_FRAME].value) != len(planes):
        raise SeriesError(f"{MULTI_FRAME} has {len(images[0][MULTI_FRAME].value)} items for {len(planes)} frames")
    found = []
    for image, index in planes:
        geometry = [
            _numbers(_group(image, index, sequence), keyword, count)
            for sequence, keyword, count in (
                ("PlanePositionSequence", "ImagePositionPatient", 3),
                ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
                ("PixelMeasuresSequence", "PixelSpacing", 2),
            )
        ]
        names = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        missing.update(name for name, value in zip(names, geometry, strict=True) if value is None)
        position, orientation, spacing = geometry
        if position is not None and orientation is not None and spacing is not None:
            if (spacing <= 0).any():
                missing["PixelSpacing"] += 1
            found.append(Frame(image, index, position, orientation, (float(spacing[0]), float(spacing[1]))))
    for name, count in missing.items():
        raise SeriesError(f"{name} is missing or unreadable in {count} of {len(planes)} slices")
    yield from found


def _require_once(frames: Sequence[Frame], attributes: Sequence[tuple[str, str, str]]) -> None:
    """Raise SeriesError where the planes differ in an attribute that one volume has once."""
    for attribute in attributes:
        found = Counter(_value(frame, *attribute) for frame in frames)
        if len(found) > 1:
            raise SeriesError(f"the series holds more than one stack: {_described(attribute, found)}")


def _require_one_at_each_place(frames: Sequence[Frame], along: NDArray[np.float64]) -> None:
    """Raise SeriesError where planes share a place; ``along`` is sorted. Names the attributes that tell them apart."""
    steps = np.diff(along)
    usual = float(np.median(steps[steps > SAME_PLACE * steps.max()])) if len(steps) and steps.max() > 0 else 0.0
    doubled = int((steps <= SAME_PLACE * usual).sum())
    if not doubled:
        return
    apart = []
    for attribute in _DOUBLES:
        found = Counter(_value(frame, *attribute) for frame in frames)
        if 1 < len(found) <= len(frames) // 2:
            apart.append(_described(attribute, found))
    said = "; they differ in " + ", ".join(apart) if apart else ""
    raise SeriesError(f"{doubled} of {len(frames)} slices lie where another one lies (ImagePositionPatient){said}")


def _described(attribute: tuple[str, str, str], found: Counter[str]) -> str:
    """Name of an attribute and how often it has each value. A value is said where it is a number: a text could be anybody's."""
    name = next(part for part in (attribute[0], attribute[2]) if part)
    if all(_is_number(value) for value in found) and len(found) <= 6:
        return f"{name} ({', '.join(f'{value}: {count}' for value, count in sorted(found.items(), key=lambda item: float(item[0])))})"
    return f"{name} has {len(found)} values ({_counts(found)})"


def _counts(found: Counter[Any]) -> str:
    counts = sorted(found.values(), reverse=True)
    return " and ".join(str(count) for count in counts[:3]) + (" and less" if len(counts) > 3 else "")


def _value(frame: Frame, classic: str, sequence: str, keyword: str) -> str:
    """An attribute of a plane as a text that is equal where the value is; empty where there is none."""
    if MULTI_FRAME not in frame.image:
        item, keyword = frame.image, classic
    else:
        item = _group(frame.image, frame.index, sequence) if sequence else Dataset()
    try:
        values = _values(item.get(keyword)) if keyword else []
        return "\\".join(_rounded(value) for value in values)
    except (ValueError, TypeError, NotImplementedError):  # a value that cannot be read tells nothing apart
        return ""


def _rounded(value: Any) -> str:
    return f"{float(value):.4g}" if _is_number(value) else str(value).strip().upper()


def _is_number(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (ValueError, TypeError):
        return False


def _values(value: Any) -> list[Any]:
    """The values of an attribute as a list, whatever its multiplicity."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


def _group(image: Dataset, index: int, sequence: str) -> Dataset:
    if MULTI_FRAME not in image:
        return image
    for groups in (image[MULTI_FRAME].value[index : index + 1], image.get("SharedFunctionalGroupsSequence") or []):
        for item in groups:
            if found := item.get(sequence):
                return found[0]
    return Dataset()


def _numbers(item: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    """``count`` finite numbers; None where they are not there."""
    try:
        values = np.array([float(value) for value in _values(item.get(keyword))])
    except (ValueError, TypeError, OverflowError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None
