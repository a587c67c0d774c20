"""What an image says of itself before its pixels: where it lies, how its pixels are written, and what tells it from others of its series.

Here belongs reading these few attributes from the walk over a file (``dicom_structure``), so that no file is opened twice for them;
multi-frame images alone are read by pydicom, because theirs lie in nested groups. No judgement: that is in ``stack`` and
``map_requirements``. Sources: PS3.3 C.7.6.2 (Image Plane), C.7.6.3 (Image Pixel), C.7.6.16 (functional groups), C.8.3 and C.8.13 (MR),
PS3.5 section 6.2 (VRs).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from monai_aws_pipeline.host_agent.intake.dicom_structure import Structure

_CHARSET, _IMAGE_TYPE, _SERIES_NUMBER = 0x00080005, 0x00080008, 0x00200011
_POSITION, _ORIENTATION, _FRAME_OF_REFERENCE, _SPACING = 0x00200032, 0x00200037, 0x00200052, 0x00280030
_SLICE_SPACING, _THICKNESS, _PHOTOMETRIC, _LUT_SHAPE = 0x00180088, 0x00180050, 0x00280004, 0x20500020
_PATIENT_NAME: Final = 0x00100010
_SOP_CLASS: Final = 0x00080016
_DATE, _TIME = re.compile(r"[0-9]{8}"), re.compile(r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?")
_MOMENTS: Final = {0x00080020: _DATE, 0x00080030: _TIME, 0x00100030: _DATE}
_SAMPLES, _FRAMES, _ROWS, _COLUMNS = 0x00280002, 0x00280008, 0x00280010, 0x00280011
_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_FLOAT_PIXELS: Final = (0x7FE00008, 0x7FE00009)

SIEMENS_B_VALUE, GE_B_VALUE, PHILIPS_B_VALUE = 0x0019100C, 0x00431039, 0x20011003
_PRIVATE: Final = {SIEMENS_B_VALUE: "IS", GE_B_VALUE: "IS", PHILIPS_B_VALUE: "FL"}

TYPE_2: Final = (
    0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00080020, 0x00080030, 0x00200010, 0x00080050, 0x00080090,
)  # fmt: skip
"""Attributes of patient and study that every image has, perhaps empty (PS3.3 C.7.1.1, C.7.2.1); writers of results read them unasked."""

TELLING_APART: Final = (
    0x00180081, 0x00180086, 0x00189087, SIEMENS_B_VALUE, GE_B_VALUE, PHILIPS_B_VALUE, 0x00089208, _IMAGE_TYPE, 0x00200100, 0x00181060,
    0x00180082, 0x00180080, 0x00181314, 0x00181210, 0x00180060, 0x00180010, 0x00200012, 0x00541300, 0x00189089, 0x00080032, 0x00080033,
)  # fmt: skip
"""Attributes that tell the stacks of a series apart, the most telling first: echo, b-value, magnitude or phase, time point, acquisition."""
WANTED: Final = frozenset(
    {
        _CHARSET, _IMAGE_TYPE, _SERIES_NUMBER, _POSITION, _ORIENTATION, _FRAME_OF_REFERENCE, _SPACING, _SLICE_SPACING, _PHOTOMETRIC,
        _LUT_SHAPE, _SAMPLES, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _SIGNED, _INTERCEPT, _SLOPE, *TELLING_APART, *TYPE_2,
        _THICKNESS, _SOP_CLASS, _HIGH_BIT,
    }
)  # fmt: skip

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plane:
    """Position (3) in mm LPS, direction cosines of row and column (6), pixel spacing (row, column) in mm."""

    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]


@dataclass(frozen=True)
class ImageHeader:
    """``stored``: bits allocated, bits stored, pixel representation. ``telling``: (keyword, value) of ``TELLING_APART`` that are there."""

    rows: int = 0
    columns: int = 0
    frames: int = 1
    samples: int = 1
    photometric: str = ""
    inverse: bool = False
    """Whether values are not shown as they are: MONOCHROME1, or a presentation LUT that is no identity."""
    float_pixels: bool = False
    stored: tuple[int, int, int] = (0, 0, 0)
    rescale: tuple[float, float] | None = None
    """Slope and intercept; None where it has none, or none that can be used (``odd_rescale``)."""
    odd_rescale: bool = False
    """Whether its rescale changes values in a way that it does not tell: no number, a slope of zero, one of the two alone."""
    high_bit: int = 0
    """HighBit; 0 where it does not tell."""
    syntax: str = ""
    image_type: tuple[str, ...] = ()
    plane: Plane | None = None
    slice_spacing: float | None = None
    """SpacingBetweenSlices in mm as declared, of whatever sign."""
    frame_of_reference: str = ""
    has_series_number: bool = True
    """Whether SeriesNumber is a number."""
    has_class: bool = True
    """Whether it names its SOP class itself, and not its meta information alone."""
    odd_moments: tuple[str, ...] = ()
    """Keywords of dates and times of patient and study whose values are not written as DICOM writes them (PS3.5 section 6.2)."""
    empty_rescale: bool = False
    """Whether RescaleSlope or RescaleIntercept is there and has no value."""
    thickness: float | None = None
    """SliceThickness in mm as declared."""
    missing: tuple[str, ...] = ()
    """Keywords of ``TYPE_2`` that it does not have."""
    divided_name: bool = False
    """Whether the patient's name holds a byte that divides values: two names, or a part of a character of several bytes."""
    charset: str = ""
    """SpecificCharacterSet, several with a backslash between them."""
    telling: Attributes = ()


def header_of(found: Structure) -> ImageHeader:
    """The header of an image by the walk over its file; what cannot be read counts as not there."""
    texts = {tag: _text(found, tag) for tag in WANTED if tag in found.values}
    position, orientation, spacing = (_numbers(texts.get(tag, "")) for tag in (_POSITION, _ORIENTATION, _SPACING))
    slope, intercept = _number(texts.get(_SLOPE, "")), _number(texts.get(_INTERCEPT, ""))
    photometric = texts.get(_PHOTOMETRIC, "").upper()
    return ImageHeader(
        rows=_whole(texts.get(_ROWS, "")),
        columns=_whole(texts.get(_COLUMNS, "")),
        frames=max(1, _whole(texts.get(_FRAMES, "1"))),
        samples=max(1, _whole(texts.get(_SAMPLES, "1"))),
        photometric=photometric,
        inverse=photometric == "MONOCHROME1" or texts.get(_LUT_SHAPE, "").upper() == "INVERSE" or bool(found.noted),
        float_pixels=found.pixel_tag in _FLOAT_PIXELS,
        stored=(_whole(texts.get(_ALLOCATED, "")), _whole(texts.get(_STORED, "")), _whole(texts.get(_SIGNED, ""))),
        rescale=None if slope is None or intercept is None else (slope, intercept),
        odd_rescale=_is_odd(texts.get(_SLOPE, ""), texts.get(_INTERCEPT, "")),
        high_bit=_whole(texts.get(_HIGH_BIT, "")),
        syntax=found.syntax,
        image_type=tuple(part.strip().upper() for part in texts.get(_IMAGE_TYPE, "").split("\\")),
        plane=plane_of(position, orientation, spacing),
        slice_spacing=_number(texts.get(_SLICE_SPACING, "")),
        frame_of_reference=texts.get(_FRAME_OF_REFERENCE, ""),
        has_series_number=bool(re.fullmatch(r"[+-]?[0-9]{1,10}(\.0*)?", texts.get(_SERIES_NUMBER, ""))),
        has_class=_SOP_CLASS in found.values and bool(texts.get(_SOP_CLASS)),
        odd_moments=tuple(
            keyword_for_tag(tag) for tag, form in _MOMENTS.items() if (text := texts.get(tag, "")) and not form.fullmatch(text)
        ),
        empty_rescale=any(tag in found.values and not texts.get(tag) for tag in (_SLOPE, _INTERCEPT)),
        thickness=_number(texts.get(_THICKNESS, "")),
        missing=tuple(keyword_for_tag(tag) for tag in TYPE_2 if tag not in found.values),
        divided_name=_PATIENT_NAME in found.values and b"\\" in found.values[_PATIENT_NAME].data,
        charset=texts.get(_CHARSET, ""),
        telling=tuple((name_of(tag), texts[tag]) for tag in TELLING_APART if texts.get(tag)),
    )


def plane_of(position: tuple[float, ...], orientation: tuple[float, ...], spacing: tuple[float, ...]) -> Plane | None:
    """A plane of values that make one: finite, two unit vectors at a right angle, positive spacing. None for others."""
    if (len(position), len(orientation), len(spacing)) != (3, 6, 2) or not np.isfinite([*position, *orientation, *spacing]).all():
        return None
    directions = np.array(orientation).reshape(2, 3)
    right = abs(float(directions[0] @ directions[1])) < 1e-2
    if not np.allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-2) or not right or min(spacing) <= 0:
        return None
    return Plane((position[0], position[1], position[2]), orientation, (spacing[0], spacing[1]))


def name_of(tag: int) -> str:
    """What an attribute is called; the makers' own b-values by the maker's name."""
    private = {SIEMENS_B_VALUE: "b-value (Siemens)", GE_B_VALUE: "b-value (GE)", PHILIPS_B_VALUE: "b-value (Philips)"}
    return private.get(tag) or keyword_for_tag(tag)


# -------------------------------------------------------------------------------------------------------------------- multi-frame

_FRAME_ATTRIBUTES: Final = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "StackID"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("MRModifierSequence", "InversionTimes"),
    ("CTReconstructionSequence", "ConvolutionKernel"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
)
"""(functional group, attribute), the most telling first."""
_GROUPS: Final = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]


def frames_of(path: Path) -> list[tuple[Plane | None, Attributes]]:
    """Plane and telling attributes of each frame of a multi-frame image; empty where it has no functional groups."""
    data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_GROUPS)
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    return [(_frame_plane(frame, shared), tuple(_frame_attributes(frame, shared))) for frame in data.get(_GROUPS[1]) or []]


def _frame_plane(frame: Dataset, shared: Dataset) -> Plane | None:
    position, orientation, spacing = (
        _group(frame, shared, group).get(name)
        for group, name in (
            ("PlanePositionSequence", "ImagePositionPatient"),
            ("PlaneOrientationSequence", "ImageOrientationPatient"),
            ("PixelMeasuresSequence", "PixelSpacing"),
        )
    )
    if position is None or orientation is None or spacing is None:
        return None
    return plane_of(*(tuple(float(value) for value in values) for values in (position, orientation, spacing)))


def _frame_attributes(frame: Dataset, shared: Dataset) -> Iterator[tuple[str, str]]:
    for group, name in _FRAME_ATTRIBUTES:
        value = _group(frame, shared, group).get(name)
        if value not in (None, ""):
            yield name, "\\".join(map(str, value)) if isinstance(value, pydicom.multival.MultiValue) else str(value)


def _group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    found: Dataset = (frame.get(name) or shared.get(name) or [Dataset()])[0]
    return found


# -------------------------------------------------------------------------------------------------------------------------- values

_BINARY: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


def _text(found: Structure, tag: int) -> str:
    """A value as text; several, of binary VRs too, with a backslash between them."""
    value = found.values[tag]
    vr = value.vr if value.vr not in ("", "UN") else _PRIVATE.get(tag) or dictionary_VR(tag)
    kind = _BINARY.get(vr)
    if kind is None:
        return value.data.decode("latin-1").strip(" \0")
    each = struct.calcsize(kind)
    order = "<" if found.little_endian else ">"
    values = struct.unpack(f"{order}{len(value.data) // each}{kind}", value.data[: len(value.data) // each * each])
    return "\\".join(f"{number:g}" if isinstance(number, float) else str(number) for number in values)


def _is_odd(slope: str, intercept: str) -> bool:
    """Whether a rescale does not tell what it does; one of 1 and 0 does nothing, also alone."""
    values = [_number(text) if text else neutral for text, neutral in ((slope, 1.0), (intercept, 0.0))]
    return None in values or values[0] == 0 or (bool(slope) != bool(intercept) and values != [1.0, 0.0])


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _numbers(text: str) -> tuple[float, ...]:
    """Decimal strings; empty where one of them is none."""
    values = [_number(part) for part in text.split("\\")]
    return tuple(value for value in values if value is not None) if None not in values else ()


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"\+?[0-9]{1,10}", text) else 0
