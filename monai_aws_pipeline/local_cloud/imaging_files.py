"""What HealthImaging makes of one DICOM file: what it groups and searches by, where its frames lie, and why it refuses it.

Pure reading within bounds: the pixels are never in memory, and no element above 1 MiB is. Knows no store and no request.
Sources: HealthImaging Developer Guide, "Understanding import jobs", "DICOM element constraints", "HealthImaging Warning Codes",
"Understanding image sets"; DICOM PS3.18 table I.2-2 (failure reasons), PS3.5 A.4 (encapsulated frames).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from pydicom import config, dcmread
from pydicom.dataset import FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

GROUPING: Final = ("StudyDate", "AccessionNumber", "PatientID", "StudyInstanceUID", "StudyID", "SeriesInstanceUID", "SeriesNumber")
"""Attributes by which instances become image sets, those of the study first."""
_OF_STUDY: Final = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
)  # fmt: skip
_OF_SERIES: Final = (
    "Modality", "SeriesDescription", "BodyPartExamined", "SeriesInstanceUID", "SeriesNumber", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
)  # fmt: skip
_OF_INSTANCE: Final = ("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames")
LEVELS: Final = {"study": _OF_STUDY, "series": _OF_SERIES, "instance": _OF_INSTANCE}
_LONGEST: Final = {
    "PatientName": 256, "PatientID": 256, "PatientBirthDate": 18, "PatientSex": 16, "StudyInstanceUID": 256, "StudyID": 256,
    "StudyDescription": 256, "AccessionNumber": 256, "StudyDate": 18, "StudyTime": 28, "SOPInstanceUID": 256, "SeriesInstanceUID": 256,
}  # fmt: skip
_NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_DEFER: Final = 1 << 20
_PIXELS: Final = b"\xe0\x7f\x10\x00"
_LONG_FORM: Final = (b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"UN")
_ENDLESS: Final = 0xFFFFFFFF
_ITEM, _END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"

CANNOT_UNDERSTAND: Final = 0xC000
NOT_OF_ITS_CLASS: Final = 0xA900
SYNTAX_NOT_SUPPORTED: Final = 0xC122

FRAMES_EXTRACTION: Final = (0xB110, "FRAMES_EXTRACTION_FAILURE", "The pixel data is not as long as the header says.")
FRAME_NUMBER: Final = (0xB111, "FRAME_NUMBER_MISMATCH", "NumberOfFrames does not match the fragments of the pixel data.")
UNKNOWN_SYNTAX: Final = (0xB120, "UNSUPPORTED_TRANSFER_SYNTAX", "The transfer syntax is not supported; the pixel data is kept as it is.")
UID_FORMAT: Final = (0xB201, "INVALID_UID_FORMAT", "A UID is not as its value representation asks.")
Warned = tuple[int, str, str]
"""Reason, type and message."""


class RefusedFile(Exception):  # noqa: N818 - what a file is, not what went wrong here
    """A file that HealthImaging does not import. ``reason`` as in DICOM; its UIDs where they could be read."""

    def __init__(self, message: str, reason: int = CANNOT_UNDERSTAND, sop_class: str = "", sop_instance: str = "") -> None:
        super().__init__(message)
        self.message, self.reason, self.sop_class, self.sop_instance = message, reason, sop_class, sop_instance


@dataclass(frozen=True)
class Frame:
    """Bits of one frame in its file: where they begin and how many they are; several ranges where its fragments are apart."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Instance:
    """One SOP instance. ``attributes``: DICOM JSON of what is searched and shown, by keyword."""

    sop_class: str
    sop_instance: str
    grouping: tuple[str, ...]
    transfer_syntax: str
    attributes: dict[str, dict[str, Any]]
    frames: tuple[Frame, ...]
    warnings: tuple[Warned, ...]


def read_instance(path: Path) -> Instance:
    """Read one file. Raises RefusedFile for what HealthImaging does not import."""
    syntax = _transfer_syntax(path)
    with config.disable_value_validation(), path.open("rb") as file:  # its warnings would print values
        try:
            header = dcmread(file, stop_before_pixels=True, defer_size=_DEFER)  # the file then stands at the pixels' tag
        except Exception:
            raise RefusedFile("DICOM attributes does not exist") from None  # pydicom raises almost anything on a damaged file
        try:
            return _judged(header, syntax, file, path.stat().st_size)
        except RefusedFile as refused:
            uids = _text(header, "SOPClassUID"), _text(header, "SOPInstanceUID")
            raise RefusedFile(refused.message, refused.reason, *uids) from None


def _transfer_syntax(path: Path) -> str:
    try:
        syntax = str(read_file_meta_info(path).get("TransferSyntaxUID") or "")
    except Exception:
        raise RefusedFile("DICOM attributes does not exist") from None
    if not syntax:
        raise RefusedFile("DICOM attribute TransferSyntaxUID does not exist")
    if syntax == DeflatedExplicitVRLittleEndian:  # it could become anything in memory
        raise RefusedFile("Transfer syntax 1.2.840.10008.1.2.1.99 is not supported", SYNTAX_NOT_SUPPORTED)
    return syntax


def _judged(header: FileDataset, syntax: str, file: BinaryIO, size: int) -> Instance:
    for name in _NEEDED:
        if not _text(header, name):
            raise RefusedFile(f"DICOM attribute {name} does not exist", NOT_OF_ITS_CLASS)
    for name, most in _LONGEST.items():
        if len(_text(header, name)) > most:
            raise RefusedFile(f"DICOM attribute {name} is longer than {most}", NOT_OF_ITS_CLASS)
    if _number(header, "BitsAllocated") == 1 and syntax != ExplicitVRLittleEndian:
        raise RefusedFile("A binary segmentation is supported in Explicit VR Little Endian only", SYNTAX_NOT_SUPPORTED)
    warnings = [UID_FORMAT] if any(not UID(_text(header, name)).is_valid for name in _NEEDED) else []
    known = UID(syntax)
    if known.is_private or not known.is_transfer_syntax:
        warnings.append(UNKNOWN_SYNTAX)
    frames, warned = _frames(header, file, size)
    return Instance(
        _text(header, "SOPClassUID"),
        _text(header, "SOPInstanceUID"),
        tuple(_text(header, name) for name in GROUPING),
        syntax,
        {name: shown for name in (*_OF_STUDY, *_OF_SERIES, *_OF_INSTANCE) if (shown := _shown(header, name)) is not None},
        frames,
        (*warnings, *warned),
    )


def _text(header: FileDataset, keyword: str) -> str:
    """A value as its file has it; empty for one that is absent."""
    try:
        value = header.get(keyword)
    except Exception:
        return ""  # a value that is not of its representation is none to group by
    original = getattr(value, "original_string", None)
    return str(original if original is not None else "" if value is None else value)


def _number(header: FileDataset, keyword: str) -> int:
    """A number; 0 where a damaged file says none."""
    text = _text(header, keyword).strip()
    return int(text) if text.isascii() and text.isdigit() else 0


def _shown(header: FileDataset, keyword: str) -> dict[str, Any] | None:
    """One attribute in DICOM JSON; None where it is absent or cannot be said in it."""
    try:
        shown: dict[str, Any] = header[keyword].to_json_dict(None, _DEFER)
    except Exception:
        return None
    return shown


# ---------------------------------------------------------------------------------------------------------------------- frames


def _frames(header: FileDataset, file: BinaryIO, size: int) -> tuple[tuple[Frame, ...], list[Warned]]:
    """Where the frames lie; the file stands at the pixels' tag, or at its end where it has none."""
    start = file.read(8)
    if start[:4] != _PIXELS or len(start) < 8:
        return (), []
    if start[4:6] in _LONG_FORM:
        length = struct.unpack("<I", file.read(4).ljust(4, b"\0"))[0]
    elif start[4:6].isalpha():
        length = struct.unpack("<H", start[6:8])[0]
    else:
        length = struct.unpack("<I", start[4:8])[0]  # implicit VR
    count = max(1, _number(header, "NumberOfFrames"))
    if length == _ENDLESS:
        return _encapsulated(_fragments(file, size), count)
    if file.tell() + length > size:
        raise RefusedFile("The pixel data ends before its length")
    return _native(header, file.tell(), length, count)


def _native(header: FileDataset, start: int, length: int, count: int) -> tuple[tuple[Frame, ...], list[Warned]]:
    names = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    rows, columns, samples, bits = (_number(header, name) for name in names)
    each = rows * columns * samples * bits
    needed = (each * count + 7) // 8
    if not each or length not in (needed, needed + needed % 2):
        return (), [FRAMES_EXTRACTION]
    return tuple(Frame(((start * 8 + each * place, each),)) for place in range(count)), []


def _fragments(file: BinaryIO, size: int) -> Sequence[tuple[int, int]]:
    """(first byte, length) of every fragment, the offset table first. Raises RefusedFile for a sequence that ends in the middle."""
    found: list[tuple[int, int]] = []
    while True:
        tag, raw = file.read(4), file.read(4)
        if tag == _END_OF_ITEMS:
            return found
        if tag != _ITEM or len(raw) < 4:
            raise RefusedFile("The pixel data is no sequence of fragments")
        length = struct.unpack("<I", raw)[0]
        if file.tell() + length > size:
            raise RefusedFile("The pixel data ends before its length")
        found.append((file.tell(), length))
        file.seek(length, 1)


def _encapsulated(found: Sequence[tuple[int, int]], count: int) -> tuple[tuple[Frame, ...], list[Warned]]:
    fragments = [(start * 8, length * 8) for start, length in found[1:]]
    if count == 1 and fragments:
        return (Frame(tuple(fragments)),), []
    if len(fragments) == count:
        return tuple(Frame((fragment,)) for fragment in fragments), []
    return (), [FRAME_NUMBER]


def frame_bytes(path: Path, frame: Frame) -> bytes:
    """One frame as it is stored; of one bit a pixel, shifted to begin with a byte."""
    found = b""
    with path.open("rb") as file:
        for start, bits in frame.ranges:
            first, shift = divmod(start, 8)
            file.seek(first)
            raw = file.read((shift + bits + 7) // 8)
            if shift or bits % 8:
                pixels = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[shift : shift + bits]
                raw = np.packbits(pixels, bitorder="little").tobytes()
            found += raw
    return found
