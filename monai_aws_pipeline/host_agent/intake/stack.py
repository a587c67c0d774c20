"""One clean stack of images: which images of a series form a volume, and by which name a series is refused that does not.

Here belongs judging the images of one series by their headers; pixels are looked at only where two images lie at one place. Which series is
judged, and for whom, is in ``map_requirements``. Positions decide about spacing, never SliceThickness or SpacingBetweenSlices.
Millimetres in the patient's coordinates (LPS). Sources: PS3.3 C.7.6.2 (Image Plane), C.7.4.1 (Frame of Reference).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pydicom

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake import series_words
from monai_aws_pipeline.host_agent.intake.dicom import Instance, class_name
from monai_aws_pipeline.host_agent.intake.geometry import Array, usual_step
from monai_aws_pipeline.host_agent.intake.image_header import Attributes, Plane, frames_of
from monai_aws_pipeline.maps.spec.study_contract import Handles, StudyContract

_SAME_DIRECTION: Final = 1e-3
"""How much direction cosines may differ within a stack: writers round them, and some slice by slice."""
_ROUGHLY: Final = 0.05
"""How much direction cosines may differ where it is only asked how large a series is."""
_SAME_PLACE: Final = 0.02
"""Images nearer than this part of the usual step lie at one place."""
_UNEVEN: Final = 0.05
"""How much a step may differ from the usual one, as a part of it: scanners round positions, a missing plane doubles a step."""
_SHEAR: Final = 0.5
"""How far the planes' origins may leave a straight line along the normal, in pixels."""
_ONE_STACK: Final = (
    "EchoTime", "EchoNumbers", "DiffusionBValue", "b-value (Siemens)", "b-value (GE)", "b-value (Philips)", "ComplexImageComponent",
    "ImageType", "TemporalPositionIdentifier", "InversionTime", "ConvolutionKernel", "EffectiveEchoTime", "FrameType",
    "TemporalPositionIndex", "StackID", "InversionTimes",
)  # fmt: skip
"""Attributes that have one value in a stack, even where no two images share a place."""
_IMAGE_TYPES: Final = ("ImageType", "FrameType")
"""Of these a single image may have another: some scanners mark the first or last one."""
_OVERLAPPING: Final = ("AcquisitionNumber", "FrameAcquisitionNumber")
"""Attributes that may change along a stack, as long as each value has a part of it for itself."""
_SHOWN: Final = re.compile(r"[A-Z0-9 _.\\+-]{1,48}", re.IGNORECASE)
_NAMED: Final = frozenset({*_ONE_STACK, *_OVERLAPPING, "RepetitionTime", "FlipAngle", "KVP", "TriggerTime"})
"""Attributes whose values may be said: numbers and codes of an acquisition, none of which tells who or when."""
_VALUES_SHOWN: Final = 4


class NoStackError(RefusedError):
    """Images that are no stack. ``scout``: because they are few, or lie in several directions, as the images of a localizer do."""

    def __init__(self, code: Code, cause: str, *, scout: bool = False):
        super().__init__(code, cause)
        self.scout = scout


@dataclass(frozen=True)
class Stack:
    """Images in the order of their planes, from one end to the other. ``step``: distance of neighbouring planes in mm."""

    instances: tuple[Instance, ...]
    planes: int
    step: float
    orientation: tuple[float, ...]
    doubled: int = 0
    """How many images were left out because an equal one lies at their place."""


@dataclass(frozen=True)
class _Slice:
    """One image, or one frame of a multi-frame image."""

    instance: Instance
    plane: Plane | None
    telling: Attributes


def size_of(images: Sequence[Instance]) -> int:
    """How many planes a series would have as a stack: the most in one direction, with those that tell no direction."""
    placed = [(image.header.plane.orientation, max(1, image.header.frames)) for image in images if image.header.plane]
    frames = np.array([count for _, count in placed])
    largest = max((int(frames[kind].sum()) for kind in _directions([each for each, _ in placed], _ROUGHLY)), default=0)
    unplaced = [max(1, image.header.frames) for image in images if not image.header.plane]
    multi = sum(count for count in unplaced if count > 1)  # their frames tell where they lie
    return max(largest, multi) + unplaced.count(1)


def wanted_images(images: Sequence[Instance], contract: StudyContract) -> list[Instance]:
    """The images that the application's own rule for a stack takes; all of them where it has none."""
    return [
        image
        for image in images
        if image.header.frames > 1
        or all(_has_value(image, name, value) for name, value in contract.stack)  # a frame is not chosen by itself
    ]


def stack_of(images: Sequence[Instance], contract: StudyContract) -> Stack:
    """The one clean stack that the images of a series form. Raises NoStackError or another RefusedError, naming what is found."""
    chosen = wanted_images(images, contract)
    if not chosen:
        rule = ", ".join(f"{name} {value}" for name, value in contract.stack)
        raise RefusedError(Code.MIXED_SERIES, f"None of the {len(images)} images of the series is of the stack that is wanted ({rule}).")
    _check_kinds(chosen, contract)
    slices = [each for image in chosen for each in _slices(image)]
    placed = _placed(slices)
    origin, normal = np.array(placed[0][1].orientation), _normal(placed[0][1])
    along = np.array([np.array(plane.position) @ normal for _, plane in placed])
    order = np.argsort(along, kind="stable")
    placed, along = [placed[index] for index in order], along[order]
    groups = _places(along)
    kept = _one_each(placed, groups)
    doubled = len(placed) - len(kept)
    placed, along = [placed[index] for index in kept], along[kept]
    _check_even(along, contract.min_slices)
    _check_straight(placed, along, normal, contract)
    _check_one_stack([each for each, _ in placed], along)
    instances = tuple(dict.fromkeys(each.instance for each, _ in placed))
    step = usual_step(along)
    return Stack(instances, len(placed), step, tuple(float(value) for value in origin), doubled)


# ------------------------------------------------------------------------------------------------------------------- kinds of images


def _check_kinds(images: Sequence[Instance], contract: StudyContract) -> None:
    """Refuse kinds of images that the application does not say it reads right."""
    total = len(images)
    foreign = sum(not class_name(image.sop_class) for image in images)
    if foreign:
        raise RefusedError(Code.UNSUPPORTED_IMAGE, f"{foreign} of {total} images are of a SOP class that is not DICOM's own.")
    mosaic = [image for image in images if "MOSAIC" in image.header.image_type]
    if mosaic:
        raise RefusedError(Code.UNSUPPORTED_IMAGE, f"{len(mosaic)} of {total} images are mosaics, which hold a whole volume as tiles.")
    found = (
        (Handles.COLOR, "are in colour", [image for image in images if image.header.samples > 1 or "PALETTE" in image.header.photometric]),
        (Handles.FLOAT_PIXELS, "have floating-point pixels", [image for image in images if image.header.float_pixels]),
        (
            Handles.ENHANCED,
            "hold several frames each (Enhanced or Legacy Converted)",
            [image for image in images if image.header.frames > 1],
        ),
        (Handles.MONOCHROME1, "are inverted (MONOCHROME1)", [image for image in images if image.header.inverse]),
    )
    for kind, what, which in found:
        if which and kind not in contract.handles:
            raise RefusedError(
                Code.UNSUPPORTED_IMAGE, f"{len(which)} of {total} images {what}; the application does not say that it handles {kind}."
            )
    multi = sum(image.header.frames > 1 for image in images)
    if multi and total > 1:
        raise RefusedError(Code.UNSUPPORTED_IMAGE, f"{multi} of {total} images of one series hold several frames; one of them is a stack.")
    if multi and contract.stack:
        raise RefusedError(Code.UNSUPPORTED_IMAGE, "A stack is to be chosen, and the series is one image of several frames.")
    shifted = sum(0 < image.header.stored[1] != image.header.high_bit + 1 for image in images if image.header.high_bit)
    if shifted:
        raise RefusedError(Code.UNSUPPORTED_IMAGE, f"{shifted} of {total} images do not store pixels in the lowest bits (HighBit).")
    odd = sum(image.header.odd_rescale for image in images)
    if odd:
        raise RefusedError(Code.DICOM_DAMAGED, f"RescaleSlope and RescaleIntercept of {odd} of {total} images do not tell what they do.")
    plain = sum(image.header.rescale is None for image in images)
    if plain and any(image.header.rescale not in (None, (1.0, 0.0)) for image in images):
        raise RefusedError(Code.DICOM_DAMAGED, f"{plain} of {total} images have no RescaleSlope and RescaleIntercept, and the rest has.")
    shapes = Counter((image.header.rows, image.header.columns) for image in images)
    if len(shapes) > 1:
        other = total - max(shapes.values())
        raise NoStackError(Code.IRREGULAR_VOLUME, f"{other} of {total} images of the series have another matrix than the rest.")
    formats = Counter(image.header.samples for image in images)
    if len(formats) > 1:
        raise NoStackError(Code.IRREGULAR_VOLUME, f"{total - max(formats.values())} of {total} images of the series are of another kind.")
    if min(next(iter(shapes))) < 2:
        raise NoStackError(Code.IRREGULAR_VOLUME, "The images are less than two pixels wide or high.", scout=True)


def _slices(image: Instance) -> list[_Slice]:
    if image.header.frames <= 1:
        return [_Slice(image, image.header.plane, image.header.telling)]
    try:
        frames = frames_of(image.path)
    except Exception as error:  # pydicom raises a dozen kinds on damaged values, and each means the same here
        raise RefusedError(Code.DICOM_DAMAGED, "The functional groups of a multi-frame image cannot be read.") from error
    if not frames:  # multi-frame without functional groups: ultrasound, angiography, secondary capture
        return [_Slice(image, None, ()) for _ in range(image.header.frames)]
    if len(frames) != image.header.frames:
        raise RefusedError(Code.DICOM_DAMAGED, "A multi-frame image has another number of frames than of groups that describe them.")
    return [_Slice(image, plane, (*telling, *image.header.telling)) for plane, telling in frames]


# ------------------------------------------------------------------------------------------------------------------------- geometry


def _placed(slices: Sequence[_Slice]) -> list[tuple[_Slice, Plane]]:
    """All images with their planes, which must be parallel and of one spacing, in one frame of reference."""
    placed = [(each, each.plane) for each in slices if each.plane is not None]
    total = len(slices)
    if not placed:
        raise NoStackError(
            Code.NO_GEOMETRY, f"None of the {total} images of the series tells its position, orientation and pixel spacing.", scout=True
        )
    if len(placed) < total:
        raise NoStackError(
            Code.IRREGULAR_VOLUME,
            f"{total - len(placed)} of {total} images of the series have no readable position, orientation or pixel spacing.",
        )
    directions = [len(kind) for kind in _directions([plane.orientation for _, plane in placed], _SAME_DIRECTION)]
    if len(directions) > 1:
        cause = f"The {total} images of the series lie in {len(directions)} directions, {max(directions)} of them in the most frequent one."
        raise NoStackError(Code.IRREGULAR_VOLUME, cause, scout=max(directions) <= total / 2)
    spacings = np.array([plane.spacing for _, plane in placed])
    other = int((~np.isclose(spacings, np.median(spacings, axis=0), rtol=1e-3).all(axis=1)).sum())
    if other:
        raise NoStackError(Code.IRREGULAR_VOLUME, f"{other} of {total} images of the series have another pixel spacing than the rest.")
    frames = Counter(each.instance.header.frame_of_reference for each in slices)
    if len(frames) > 1:
        counts = ", ".join(str(count) for count in sorted(frames.values(), reverse=True))
        raise RefusedError(Code.MIXED_SERIES, f"FrameOfReferenceUID has {len(frames)} values within the series (in {counts} images).")
    if not next(iter(frames)):
        raise NoStackError(Code.NO_GEOMETRY, f"The {total} images of the series do not name their frame of reference.")
    return placed


def _directions(orientations: Sequence[tuple[float, ...]], apart: float) -> list[Array]:
    """Indices of the planes that lie in one direction, direction by direction."""
    cosines = np.array(orientations)
    left = np.arange(len(cosines))
    found = []
    while left.size:
        same = np.abs(cosines[left] - cosines[left[0]]).max(axis=1) < apart
        found.append(left[same])
        left = left[~same]
    return found


def _normal(plane: Plane) -> Array:
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def _places(along: Array) -> list[list[int]]:
    """Indices of images by the place they lie at; ``along`` is sorted.

    The usual step is looked for among steps that are some: of a stack that is there twice, half of all steps are next to none.
    """
    steps = np.diff(along)
    real = steps[steps > max(1e-6, _SAME_PLACE * float(steps.max(initial=0.0)))]
    near = max(1e-3, _SAME_PLACE * float(np.median(real))) if real.size else math.inf
    groups = [[0]]
    for index, step in enumerate(steps, start=1):
        if step <= near:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _one_each(placed: Sequence[tuple[_Slice, Plane]], groups: Sequence[Sequence[int]]) -> list[int]:
    """One image of each place: where several lie there they must be the same image. Raises RefusedError(MIXED_SERIES)."""
    doubled = [group for group in groups if len(group) > 1]
    for group in doubled:
        each = [placed[index][0] for index in group]
        if any(one.instance.header.frames > 1 for one in each) or len({_content(one.instance) for one in each}) > 1:
            raise RefusedError(Code.MIXED_SERIES, _difference([[placed[index][0] for index in one] for one in doubled], len(groups)))
    return [min(group, key=lambda index: placed[index][0].instance.path.name) for group in groups]


def _check_even(along: Array, minimum: int) -> None:
    if len(along) < minimum:
        count = f"{len(along)} plane" if len(along) == 1 else f"{len(along)} planes"
        raise NoStackError(Code.IRREGULAR_VOLUME, f"The series has {count}; the application needs at least {minimum}.", scout=True)
    steps = np.diff(along)
    usual = float(np.median(steps))
    other = int((np.abs(steps - usual) > _UNEVEN * usual).sum())
    if other:
        raise NoStackError(
            Code.IRREGULAR_VOLUME,
            f"{other} of {len(steps)} steps between the planes of the series differ from the usual {usual:.3g} mm (from "
            f"{steps.min():.3g} to {steps.max():.3g} mm).",
        )


def _check_straight(placed: Sequence[tuple[_Slice, Plane]], along: Array, normal: Array, contract: StudyContract) -> None:
    """Refuse a stack whose planes are shifted against each other within their plane."""
    positions = np.array([plane.position for _, plane in placed])
    within = positions - along[:, None] * normal
    if np.linalg.norm(within - within.mean(axis=0), axis=1).max() <= _SHEAR * min(placed[0][1].spacing):
        return
    shift = (within[-1] - within[0]) / (along[-1] - along[0])
    even = np.abs(within - within[0] - (along - along[0])[:, None] * shift).max() <= _SHEAR * min(placed[0][1].spacing)
    degrees = math.degrees(math.atan(float(np.linalg.norm(shift))))
    if not even:
        raise NoStackError(Code.IRREGULAR_VOLUME, "The planes of the series are shifted unevenly against each other within their plane.")
    if Handles.GANTRY_TILT not in contract.handles:
        raise RefusedError(Code.GANTRY_TILT, f"The stack is tilted by {degrees:.1f} degrees: each plane is shifted against the one before.")


# ---------------------------------------------------------------------------------------------------------------- stacks in one series


def _check_one_stack(slices: Sequence[_Slice], along: Array) -> None:
    """Refuse images at places of their own that are of several stacks all the same: one behind the other, or one between the other's."""
    told = {name for each in slices for name, _ in each.telling}
    for name in (name for name in (*_ONE_STACK, *_OVERLAPPING) if name in told):
        values = [_value(each, name) for each in slices]
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, value in enumerate(values):
            if value:
                groups[value].append(index)
        if len(groups) < 2 or (name in _IMAGE_TYPES and min(map(len, groups.values())) < 2):
            continue
        if name in _ONE_STACK or _overlap([along[group] for group in groups.values()]):
            raise RefusedError(Code.MIXED_SERIES, _said(name, Counter(value for value in values if value)))


def _overlap(groups: Sequence[Array]) -> bool:
    """Whether two groups of places lie between each other for more than half of the smaller one."""
    spans = sorted((float(group.min()), float(group.max())) for group in groups)
    for number, (low, high) in enumerate(spans):
        for other_low, other_high in spans[number + 1 :]:
            if other_low >= high:
                break  # each slice may be an acquisition of its own, and there are thousands
            if min(high, other_high) - other_low > 0.5 * min(high - low, other_high - other_low):
                return True
    return False


def _difference(places: Sequence[Sequence[_Slice]], planes: int) -> str:
    """What tells the images at one place apart, in words."""
    every = [each for place in places for each in place]
    for name in dict.fromkeys(name for each in every for name, _ in each.telling):
        values = [[_value(each, name) for each in place] for place in places]
        apart = sum(len(set(place)) == len(place) for place in values)
        if apart > len(places) / 2:
            return _said(name, Counter(value for place in values for value in place))
    count = len(every)
    return f"{count} images lie at {len(places)} of {planes} places, and no attribute tells them apart, only their pixels."


def _said(name: str, counts: Counter[str]) -> str:
    if name not in _NAMED or len(counts) > _VALUES_SHOWN or not all(_SHOWN.fullmatch(value) for value in counts if value):
        return f"The series holds several stacks: {name} takes {len(counts)} values."
    said = ", ".join(f"{value or 'nothing'} in {count} images" for value, count in sorted(counts.items()))
    return f"The series holds several stacks: {name} is {said}."


def _value(each: _Slice, name: str) -> str:
    """The value of an attribute in one spelling for equal numbers; echo times to a hundredth, as slices of one echo may differ."""
    text = next((value for known, value in each.telling if known == name), "")
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text.strip().upper()


def _has_value(image: Instance, name: str, wanted: str) -> bool:
    text = next((value for known, value in image.header.telling if known == name), None)
    if text is None:
        text = _read(image, name)
    parts = [part.strip() for part in (text, *text.split("\\"))]
    try:
        number = float(wanted)
    except ValueError:
        return wanted.strip().casefold() in (part.casefold() for part in parts)
    return any(_near(part, number) for part in parts)


def _near(text: str, number: float) -> bool:
    try:
        return math.isclose(float(text), number, rel_tol=1e-3, abs_tol=1e-6)
    except ValueError:
        return False


def _read(image: Instance, name: str) -> str:
    try:
        value = pydicom.dcmread(image.path, stop_before_pixels=True, specific_tags=[name]).get(name)
    except Exception as error:  # see _slices
        raise RefusedError(Code.DICOM_DAMAGED, f"{name} of an image cannot be read.") from error
    return "\\".join(map(str, value)) if isinstance(value, pydicom.multival.MultiValue) else str(value if value is not None else "")


def _content(image: Instance) -> str:
    """SHA-256 of the pixels as they are stored."""
    try:
        data = pydicom.dcmread(image.path)
        pixels = next(data[name].value for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in data)
    except Exception as error:  # see _slices
        raise RefusedError(Code.DICOM_DAMAGED, "The pixels of an image cannot be read.") from error
    described = (image.header.syntax, image.header.stored, image.header.rescale, image.header.photometric)
    return hashlib.sha256(repr(described).encode() + pixels).hexdigest()


def summary(images: Iterable[Instance]) -> str:
    """A series in a few words without its identity, for records and messages: modality and number of images."""
    listed = list(images)
    modality = series_words.modality(next((image.modality for image in listed if image.modality), ""))
    frames = sum(max(1, image.header.frames) for image in listed)
    more = f" with {frames} frames" if frames != len(listed) else ""
    return f"{modality} of {len(listed)} image{'s' if len(listed) != 1 else ''}{more}"
