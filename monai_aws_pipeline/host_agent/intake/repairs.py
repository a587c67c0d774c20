"""What is evened out in the copies of images that an application is given, so that what its SDK stumbles over reaches it readable.

Here belong changes that alter no pixel and nothing that tells one study from another; whoever reads the record sees which were made. The
original is kept as it came. Known of MONAI Deploy App SDK 4.0.0 and highdicom 0.28: a series with an empty SeriesNumber is dropped;
several character sets in one header, direction cosines that differ in the fifth digit, or attributes that are to be there and are not, end
the DICOM SEG writer. A SpacingBetweenSlices that contradicts the positions would be copied into results.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import pydicom
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PN_DELIMS

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Instance
from monai_aws_pipeline.host_agent.intake.stack import Stack

SERIES_NUMBER: Final = "SeriesNumber filled in"
CHARACTER_SET: Final = "text written in UTF-8"
ORIENTATION: Final = "direction cosines evened out"
SPACING: Final = "SpacingBetweenSlices taken from the positions"
THICKNESS: Final = "SliceThickness filled in with the distance of the planes"
EMPTY: Final = "attributes of patient and study that were not there added empty"
NAME: Final = "the patient's name read as one value"
CLASS: Final = "SOPClassUID taken from the meta information"
MOMENTS: Final = "dates and times of the study written as DICOM writes them"
RESCALE: Final = "an empty rescale taken out"
_CONTRADICTS: Final = 0.01
_KNOWN_CHARSETS: Final = frozenset(
    {*(f"ISO_IR {number}" for number in (100, 101, 109, 110, 144, 127, 126, 138, 148, 13, 166, 192)), "GB18030", "GBK"}
)
"""Those that stand alone in PS3.3 C.12.1.1.2; anything else, several of them too, is written anew."""


def even_out(instances: Sequence[Instance], stacks: Sequence[Stack]) -> tuple[str, ...]:
    """Even out the files of ``instances`` where they need it; which kinds of changes were made. Raises RefusedError.

    ``stacks``: the volumes among them, by their instances' SOPInstanceUID.
    """
    made: set[str] = set()
    stack_of = {item.sop_uid: stack for stack in stacks for item in stack.instances}
    uneven = {id(stack) for stack in stacks if _is_uneven(stack)}
    for instance in instances:
        stack = stack_of.get(instance.sop_uid)
        wanted = _wanted(instance, stack, uneven=stack is not None and id(stack) in uneven)
        if wanted:
            _rewrite(instance, wanted, stack)
            made |= wanted
    return tuple(sorted(made))


def _wanted(instance: Instance, stack: Stack | None, *, uneven: bool) -> set[str]:
    header = instance.header
    wanted = set()
    if not header.has_series_number:
        wanted.add(SERIES_NUMBER)
    if (header.charset and header.charset not in _KNOWN_CHARSETS) or header.divided_name:
        wanted.add(CHARACTER_SET)
    if not header.has_class:
        wanted.add(CLASS)
    if header.odd_moments:
        wanted.add(MOMENTS)
    if header.empty_rescale:
        wanted.add(RESCALE)
    if header.divided_name:
        wanted.add(NAME)
    if header.missing:
        wanted.add(EMPTY)
    if stack and header.frames <= 1:
        if uneven:
            wanted.add(ORIENTATION)
        if header.slice_spacing is not None and abs(header.slice_spacing - stack.step) > _CONTRADICTS * stack.step:
            wanted.add(SPACING)
        if not header.thickness or header.thickness < 0:
            wanted.add(THICKNESS)
    return wanted


def _is_uneven(stack: Stack) -> bool:
    return len({item.header.plane.orientation for item in stack.instances if item.header.plane}) > 1


def _rewrite(instance: Instance, wanted: set[str], stack: Stack | None) -> None:
    try:
        data = pydicom.dcmread(instance.path)
        name = _whole_name(data) if NAME in wanted else None
        moments = {keyword: _moment(str(data.get_item(keyword).value, "latin-1").strip(" \0")) for keyword in instance.header.odd_moments}
        if CHARACTER_SET in wanted:
            data.decode()
            data.SpecificCharacterSet = "ISO_IR 192"
        if name is not None:
            data.PatientName = name
        if SERIES_NUMBER in wanted:
            _put(data, "SeriesNumber", 1)
        if ORIENTATION in wanted and stack:
            data.ImageOrientationPatient = _decimals(_mean_orientation(stack))
        if CLASS in wanted:
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID
        for keyword, moment in moments.items():
            _put(data, keyword, moment)
        if RESCALE in wanted:
            _without_empty_rescale(data)
        for keyword in instance.header.missing:
            setattr(data, keyword, None)
        if THICKNESS in wanted and stack:
            _put(data, "SliceThickness", _decimals([stack.step])[0])
        if SPACING in wanted and stack:
            _put(data, "SpacingBetweenSlices", _decimals([stack.step])[0])
        written = instance.path.with_suffix(".even")
        data.save_as(written)
    except (RefusedError, OSError, MemoryError):  # a full disk is no fault of the study
        raise
    except Exception as error:  # pydicom raises a dozen kinds on damaged values, and each means the same here
        raise RefusedError(Code.DICOM_DAMAGED, "The header of an image cannot be written anew.") from error
    written.chmod(0o644)
    written.replace(instance.path)


def _put(data: Dataset, keyword: str, value: object) -> None:
    """Set an attribute as the dictionary has it: what stood there may be of another value representation."""
    if keyword in data:
        delattr(data, keyword)
    setattr(data, keyword, value)


def _whole_name(data: Dataset) -> str:
    """The patient's name where a byte of it only looks like what divides values. Raises RefusedError for a name of several values."""
    raw = data.get_item("PatientName")
    encodings = convert_encodings(data.get("SpecificCharacterSet"))
    text = decode_bytes(raw.value, encodings, PN_DELIMS).rstrip(" \0") if isinstance(raw, RawDataElement) and raw.value else "\\"
    if "\\" in text:
        raise RefusedError(Code.DICOM_DAMAGED, "A DICOM header has several values where there is one patient's name.")
    return text


def _moment(text: str) -> str:
    """A date or time of the older forms 2000.01.01 and 12:00:00 (PS3.5 section 6.2) in today's; empty for what is none."""
    if found := re.fullmatch(r"([0-9]{4})[./-]([0-9]{2})[./-]([0-9]{2})", text):
        return "".join(found.groups())
    found = re.fullmatch(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,6})?)?", text)
    return "".join(part or "" for part in found.groups()) if found else ""


def _without_empty_rescale(data: Dataset) -> None:
    """Take out a rescale without values. Raises RefusedError where one of the two has a value that changes pixels."""
    slope, intercept = (data.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope not in (None, "", 1) or intercept not in (None, "", 0):
        raise RefusedError(Code.DICOM_DAMAGED, "RescaleSlope or RescaleIntercept of an image has no value, and the other one has.")
    for name in ("RescaleSlope", "RescaleIntercept"):
        if name in data:
            delattr(data, name)


def _mean_orientation(stack: Stack) -> list[float]:
    """The mean of the directions, as two unit vectors at a right angle."""
    mean = np.mean([item.header.plane.orientation for item in stack.instances if item.header.plane], axis=0)
    row = mean[:3] / np.linalg.norm(mean[:3])
    column = mean[3:] - (mean[3:] @ row) * row
    return [*row, *(column / np.linalg.norm(column))]


def _decimals(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters (VR DS); a zero without a sign."""
    return [f"{value + 0.0:.10f}"[:16] if abs(value) >= 5e-11 else "0" for value in values]
