"""Frames of a DICOM file as they are stored, one at a time: what is not asked for is not read.

Sources: PS3.5 8.1.1 (frames of single bits), 8.2 (native and encapsulated pixel data), A.4 (fragments).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import get_frame
from pydicom.filebase import ReadableBuffer
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from monai_aws_pipeline.errors import NamedError

_PIXELS: Final = 0x7FE00010
_DEFER: Final = 1024


class FrameError(NamedError):
    """A file that has no such frame, or whose frames cannot be told apart. The text holds nothing of the file."""


@dataclass(frozen=True)
class Frame:
    """The bytes of one frame and the transfer syntax that they are in; uncompressed ones begin with a byte and are little endian."""

    data: bytes
    syntax: str


def read_frames(path: Path, numbers: Sequence[int]) -> list[Frame]:
    """Frames by their numbers, from 1. Raises FrameError."""
    try:
        return _read(path, numbers)
    except FrameError:
        raise
    except Exception as error:  # pydicom and struct raise a dozen kinds on damaged offsets and fragments
        raise FrameError("The frames of this image cannot be told apart.") from error


def _read(path: Path, numbers: Sequence[int]) -> list[Frame]:
    data = dcmread(path, defer_size=_DEFER)
    syntax = UID(data.file_meta.TransferSyntaxUID)
    count = int(data.get("NumberOfFrames") or 1)
    if not numbers or any(not 1 <= number <= count for number in numbers):
        raise FrameError("This image has no such frame.")
    found = data.get_item(_PIXELS)
    if found is None:
        raise FrameError("This object has no frames.")
    if syntax.is_encapsulated:
        with path.open("rb") as file:
            start = found.value_tell if isinstance(found, RawDataElement) else 0
            frames = []
            for number in numbers:
                file.seek(start)
                frames.append(get_frame(cast("ReadableBuffer", file), number - 1, number_of_frames=count))
        return [Frame(frame, str(syntax)) for frame in frames]
    bits = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1) * int(data.BitsAllocated)
    if str(data.get("PhotometricInterpretation")) == "YBR_FULL_422":
        bits = bits * 2 // 3
    if syntax == DeflatedExplicitVRLittleEndian or not (isinstance(found, RawDataElement) and found.value is None):
        whole = bytes(data.PixelData)
        parts = [_bits(whole, (number - 1) * bits, bits) for number in numbers]
    else:
        with path.open("rb") as file:
            parts = [_bits_at(file, found.value_tell, (number - 1) * bits, bits) for number in numbers]
    if syntax == ExplicitVRBigEndian and int(data.BitsAllocated) > 8:
        parts = [np.frombuffer(part, f">u{int(data.BitsAllocated) // 8}").byteswap().tobytes() for part in parts]
    return [Frame(part, str(ExplicitVRLittleEndian)) for part in parts]


def _bits_at(file: object, start: int, first: int, bits: int) -> bytes:
    stream = cast("ReadableBuffer", file)
    stream.seek(start + first // 8)
    return _bits(stream.read(-(-(first % 8 + bits) // 8)), first % 8, bits)


def _bits(data: bytes, first: int, bits: int) -> bytes:
    """So many bits from one on, as bytes: a frame of single bits may begin within one."""
    part = data[first // 8 : -(-(first + bits) // 8)]
    if len(part) * 8 < first % 8 + bits:
        raise FrameError("This image is shorter than it says.")
    if first % 8 == 0 and bits % 8 == 0:
        return part
    pixels = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")[first % 8 : first % 8 + bits]
    return np.packbits(pixels, bitorder="little").tobytes()
