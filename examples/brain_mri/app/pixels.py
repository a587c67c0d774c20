"""What the pixels of planes mean: from stored values, compressed or not, to one float32 volume. pydicom and numpy, no SDK.

The SDK's own operator is not used: it gives the volume the pixel type of the first slice, inverts MONOCHROME1 by the largest value of each
slice, and keeps bits above BitsStored. Sources: PS3.3 C.7.6.3 (Image Pixel), C.11.1 (Modality LUT), C.7.6.16.2.9 (Pixel Value
Transformation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import jpeg12
import numpy as np
from errors import NoAnswerError
from frames import Frame
from instances import PIXELS
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

DECODERS: Final = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), "gdcm"),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "pylibjpeg"),
    RLELossless: "pydicom",
}
"""The one decoder of each compressed syntax, so that a study has the same values everywhere; pydicom would try all that it finds."""

JPEG_XL: Final = dict.fromkeys((f"1.2.840.10008.1.2.4.{last}" for last in (110, 111, 112)), "JPEG XL")
"""Syntaxes that pydicom has no name for yet."""

Array = NDArray[Any]


class PixelError(NoAnswerError):
    """The pixels of the series cannot be read as one gray volume."""


def volume_of(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """The planes as float32 [slice, row, column], bright where the image is shown bright.

    Each plane has its own rescale. MONOCHROME1 is inverted over the whole volume, and padding becomes its darkest value.

    Raises:
        PixelError: Pixels are missing, damaged, compressed in an unknown way, or not of one kind.
    """
    first = frames[0].image
    _require_one_rescale(frames)
    places = {(id(frame.image), frame.index): place for place, frame in enumerate(frames)}
    inverted = first.PhotometricInterpretation == "MONOCHROME1"
    voxels = np.empty((len(frames), int(first.Rows), int(first.Columns)), np.float32)
    padded = np.zeros(voxels.shape, bool) if any(_padding(frame.image) for frame in frames) else None
    ends: list[float] = []
    read = 0
    for image in {id(frame.image): frame.image for frame in frames}.values():
        for index, stored in enumerate(stored_frames(image)):
            frame = frames[place := places[id(image), index]]
            voxels[place] = _rescaled(stored, frame)
            read += 1
            if padded is not None and (limits := _padding(image)):
                padded[place] = (stored >= limits[0]) & (stored <= limits[1])
            if inverted:
                ends.extend(_rescaled(_ends(image, stored), frame).tolist())
    if read != len(frames):
        raise PixelError(f"{len(frames) - read} of {len(frames)} frames hold no pixels")
    if not np.isfinite(voxels).all():
        raise PixelError("pixels are not finite numbers")
    if inverted:
        np.subtract(min(ends) + max(ends), voxels, out=voxels)
    if padded is not None and padded.any() and not padded.all():
        _darken(voxels, padded)
    return voxels


def stored_frames(image: Dataset) -> Iterator[Array]:
    """The stored values of each frame of an image, [row, column], without the bits beside BitsStored.

    Raises:
        PixelError: There are none, or they cannot be decoded.
    """
    if not any(keyword in image for keyword in PIXELS):
        raise PixelError("an image of the series holds no pixels (PixelData)")
    syntax = UID(str(image.file_meta.get("TransferSyntaxUID") or ""))
    encapsulated = syntax.is_encapsulated if syntax.is_transfer_syntax else False
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise PixelError(f"pixels are stored as {_name(syntax)}, which this application cannot decode") from None
    try:
        if syntax == JPEGExtended12Bit and image.BitsStored > 8:
            arrays: Iterator[Array] = jpeg12.frames_of(image)
        else:
            found = decoder.iter_array(image, raw=True, correct_unused_bits=False, decoding_plugin=DECODERS.get(syntax, ""))
            arrays = (array for array, _ in found)
        for array in arrays:
            yield _stored(array, image, checked=encapsulated and syntax != RLELossless)
    except NoAnswerError:
        raise
    except Exception as error:  # each decoder has its own; their texts quote tags and lengths, and the kind says enough
        raise PixelError(f"pixels stored as {_name(syntax)} cannot be decoded: {type(error).__name__}") from None


def _name(syntax: UID) -> str:
    """Name of a transfer syntax of the standard; a private one is not said."""
    if not syntax.startswith("1.2.840.10008."):
        return "a private transfer syntax"
    return JPEG_XL.get(syntax, syntax.name)


def _stored(array: Array, image: Dataset, *, checked: bool) -> Array:
    """Stored values of a frame: shifted down to bit 0, bits above removed (overlays, PS3.5 8.1.1), the sign extended.

    Args:
        array: Pixel cells as decoded.
        image: The image, for its bits.
        checked: A code stream holds no other bits; values that need more than BitsStored are an error then.
    """
    if array.ndim != 2:
        raise PixelError("a frame is not one plane of gray values")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "f":
        return array
    bits, width = int(image.BitsStored), array.dtype.itemsize * 8
    if bits >= width:
        return array
    shift = 0 if checked else int(image.get("HighBit", bits - 1)) + 1 - bits
    if not 0 <= shift <= width - bits:
        raise PixelError("HighBit does not fit BitsStored")
    cells = (array.view(f"u{array.dtype.itemsize}") >> shift) & ((1 << bits) - 1)
    signed = bool(image.PixelRepresentation)
    values = cells.astype(np.int64 if bits > 31 else np.int32)
    if signed:
        values -= (values >> (bits - 1)) << bits
    if checked and not (np.array_equal(values, array) or np.array_equal(cells, array)):
        raise PixelError(f"stored values need more bits than BitsStored says ({bits})")
    return values


def _require_one_rescale(frames: Sequence[Frame]) -> None:
    """Raise PixelError where some planes have a rescale that changes values and others have none."""
    found = [_rescale(frame) for frame in frames]
    missing = sum(item is None for item in found)
    if missing and any(item is not None and item != (1.0, 0.0) for item in found):
        raise PixelError(f"RescaleSlope is missing in {missing} of {len(frames)} slices")


def _rescale(frame: Frame) -> tuple[float, float] | None:
    """RescaleSlope and RescaleIntercept of a plane; None where it has neither. Raises PixelError for a slope that erases the image."""
    group = frame.group("PixelValueTransformationSequence")
    try:
        slope, intercept = (group.get(keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
        if slope in (None, "") and intercept in (None, ""):
            return None
        pair = float(1 if slope in (None, "") else slope), float(intercept or 0)
    except (ValueError, TypeError):
        raise PixelError("RescaleSlope or RescaleIntercept is no number") from None
    if not np.isfinite(pair).all() or pair[0] == 0:
        raise PixelError("RescaleSlope is 0 or not finite")
    return pair


def _rescaled(stored: Array, frame: Frame) -> Array:
    """Values after the Modality LUT or the rescale of the plane."""
    if frame.image.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(stored, frame.image))
    pair = _rescale(frame)
    return stored if pair in (None, (1.0, 0.0)) else stored * pair[0] + pair[1]


def _ends(image: Dataset, stored: Array) -> Array:
    """Smallest and largest value that the image's bits can hold; of a frame of floats, that it does hold."""
    if stored.dtype.kind == "f":
        return np.array([stored.min(), stored.max()])
    bits = int(image.BitsStored)
    return np.array([-(1 << bits - 1), (1 << bits - 1) - 1]) if image.PixelRepresentation else np.array([0, (1 << bits) - 1])


def _padding(image: Dataset) -> tuple[float, float] | None:
    """First and last stored value that means "no image here" (PixelPaddingValue, PixelPaddingRangeLimit)."""
    for keywords in (("PixelPaddingValue", "PixelPaddingRangeLimit"), ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit")):
        value = image.get(keywords[0])
        if isinstance(value, int | float):
            limit = image.get(keywords[1])
            ends = [_signed(image, value), _signed(image, limit if isinstance(limit, int | float) else value)]
            return min(ends), max(ends)
    return None


def _signed(image: Dataset, value: float) -> float:
    """The value as the pixels mean it: its own type in the file (US or SS) is often the other one."""
    if not image.get("PixelRepresentation") or value < 1 << int(image.BitsAllocated) - 1:
        return value
    return value - (1 << int(image.BitsAllocated))


def _darken(voxels: NDArray[np.float32], padded: NDArray[np.bool_]) -> None:
    """Give padding the darkest value of the image. Padding lies at an end of the values; elsewhere the header is mistaken."""
    image = voxels[~padded]
    darkest, brightest = image.min(), image.max()
    values = voxels[padded]
    if ((values <= darkest) | (values >= brightest)).all():
        voxels[padded] = darkest
