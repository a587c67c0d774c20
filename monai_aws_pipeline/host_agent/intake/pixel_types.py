"""What is asked of pixels themselves: does the SDK's own way to a volume keep them, and can they be decoded at all.

The first is a trap of MONAI Deploy App SDK 3 and 4 (``DICOMSeriesToVolumeOperator.generate_voxel_data``): each slice is rescaled
to float and made the smallest of uint16, int16, float32 that holds it; then all slices are written into an array of the first one's type.
A first slice of air with whole numbers makes zeros of a fractional rescale, and large values of a later slice overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Instance
from monai_aws_pipeline.host_agent.intake.geometry import Array
from monai_aws_pipeline.host_agent.intake.image_header import ImageHeader
from monai_aws_pipeline.maps.spec.study_contract import Handles

_WHOLE: Final = 1e-9
_TEXT: Final = f"the SDK's operator gives all the type of the first; the application does not say that it handles {Handles.PIXEL_TYPE}."


def check_pixel_types(stack: Sequence[Instance]) -> None:
    """Refuse a stack whose volume the SDK's operator would not hold. ``stack``: in order of its planes. Raises RefusedError."""
    headers = [image.header for image in stack]
    if len({header.stored for header in headers}) == 1 and all(header.rescale is None for header in headers):
        return  # as stored, and so all of one type
    compressed = any(_is_encapsulated(header.syntax) for header in headers)
    try:
        # Of a multi-frame image the SDK would make a volume of its own; such are given to applications alone that read them themselves.
        kept = _type_of(stack[0], _pixels(stack[0]))
        wrong = sum(not (compressed and _holds_all(kept, image.header)) and not _holds(kept, _pixels(image)) for image in stack[1:])
    except RefusedError:
        if not compressed:
            raise
        _check_undecoded(stack)  # what this host has no decoder for, the application may have
        return
    if wrong:
        raise RefusedError(Code.UNSUPPORTED_IMAGE, f"The pixels of {wrong} of {len(stack)} images would be cut off: {_TEXT}")


def _check_undecoded(stack: Sequence[Instance]) -> None:
    """Refuse what the headers alone show: other types of pixels within the stack, or a rescale that differs or has fractions."""
    headers = [image.header for image in stack]
    slopes = {header.rescale for header in headers}
    kinds = {(header.stored[0], header.stored[2]) for header in headers}
    if len(slopes) > 1 or any(abs(value - round(value)) > _WHOLE for pair in slopes if pair for value in pair):
        raise RefusedError(Code.UNSUPPORTED_IMAGE, f"The {len(stack)} compressed images are rescaled by fractions or differently: {_TEXT}")
    if len(kinds) > 1:
        raise RefusedError(Code.UNSUPPORTED_IMAGE, f"The {len(stack)} compressed images have pixels of {len(kinds)} types: {_TEXT}")


def undecodable(instances: Sequence[Instance]) -> int:
    """How many images have damaged pixels, as far as this host has a decoder for them; asked where an application failed on a study."""
    return sum(item.image and _is_damaged(item) for item in instances)


def _is_damaged(image: Instance) -> bool:
    if image.header.syntax == JPEGExtended12Bit and image.header.stored[1] > 8:
        return False  # Pillow, by which pydicom has a decoder, reads its 8 bits alone
    try:
        if not get_decoder(UID(image.header.syntax)).is_available:
            return False
    except NotImplementedError:
        return False
    try:
        _pixels(image)
    except RefusedError:
        return True
    return False


def _pixels(image: Instance) -> Array:
    """Pixels of an image as they are stored, rescaled to float where it says how."""
    try:
        pixels: Array = pydicom.dcmread(image.path).pixel_array
    except Exception as error:  # pydicom raises a dozen kinds, and each means the same here
        raise RefusedError(Code.DICOM_DAMAGED, "The pixels of an image cannot be read.") from error
    if image.header.rescale is None:
        return pixels
    slope, intercept = image.header.rescale
    return np.asarray(pixels.astype(np.float64) * slope + intercept)


def _type_of(image: Instance, values: Array) -> np.dtype[np.generic]:
    if image.header.rescale is None:
        return values.dtype
    if (values > 0).all() and _holds(np.dtype(np.uint16), values):
        return np.dtype(np.uint16)
    return np.dtype(np.int16) if _holds(np.dtype(np.int16), values) else np.dtype(np.float32)


def _holds(kind: np.dtype[np.generic], values: Array) -> bool:
    if kind.kind == "f":
        return True
    limits = np.iinfo(kind.name)
    low, high = float(values.min()), float(values.max())
    return limits.min <= low and high <= limits.max and bool((np.abs(values - np.rint(values)) <= _WHOLE).all())


def _holds_all(kind: np.dtype[np.generic], header: ImageHeader) -> bool:
    """Whether a type holds every value that the image's bits can, so that its pixels need not be decoded."""
    slope, intercept = header.rescale or (1.0, 0.0)
    _, bits, signed = header.stored
    ends = (-(1 << bits >> 1), (1 << bits >> 1) - 1) if signed else (0, (1 << bits) - 1)
    return kind.kind == "f" or (bits > 0 and slope == round(slope) and _holds(kind, np.array(ends) * slope + intercept))


def _is_encapsulated(syntax: str) -> bool:
    try:
        return UID(syntax).is_encapsulated
    except ValueError:  # private or none: read as native
        return False
