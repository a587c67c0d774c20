"""DICOM files built byte by byte, for what no library would write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

EXPLICIT, IMPLICIT, DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
JPEG, JPEG_LS, JPEG_2000, RLE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
DIRECTORY = "1.2.840.10008.1.3.10"

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
STUDY_UID, SERIES_UID, SOP_UID, PATIENT_ID, ROWS, FRAMES, PIXELS = (
    0x0020000D, 0x0020000E, 0x00080018, 0x00100020, 0x00280010, 0x00280008, 0x7FE00010,
)  # fmt: skip
SECRETS = ("Mustermann", "Erika", "MRN-0815")
"""What the files name and no error may repeat."""

_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_SIZE = 8


def element(tag: int, vr: bytes, value: bytes, length: int | None = None, *, implicit: bool = False, big: bool = False) -> bytes:
    """One data element; ``length`` replaces the true one. Items and delimiters have no VR."""
    order = ">" if big else "<"
    stated = len(value) if length is None else length
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if implicit or tag >> 16 == 0xFFFE:
        return head + struct.pack(f"{order}I", stated) + value
    if vr in _LONG:
        return head + vr + b"\0\0" + struct.pack(f"{order}I", stated) + value
    return head + vr + struct.pack(f"{order}H", stated) + value


def item(value: bytes, length: int | None = None) -> bytes:
    """One item of a sequence."""
    return element(ITEM, b"", value, length)


def nested(levels: int, tag: int = 0x00081140) -> bytes:
    """Sequences of undefined length within each other."""
    found = b""
    for _ in range(levels):
        inside = element(ITEM, b"", found, UNDEFINED) + element(ITEM_END, b"", b"")
        found = element(tag, b"SQ", inside, UNDEFINED) + element(SEQUENCE_END, b"", b"")
    return found


def fragments(*parts: bytes, end: bool = True) -> bytes:
    """Encapsulated pixel data: an empty offset table and fragments."""
    inside = item(b"") + b"".join(item(part) for part in parts)
    return element(PIXELS, b"OB", inside, UNDEFINED) + (element(SEQUENCE_END, b"", b"") if end else b"")


def text(value: str, pad: str = " ") -> bytes:
    """A text value, padded to an even length."""
    return (value + pad * (len(value) % 2)).encode()


def us(value: int) -> bytes:
    """A value of VR US, little endian."""
    return struct.pack("<H", value)


def meta(syntax: str, sop_class: str = MR_IMAGE) -> bytes:
    """Preamble and file meta information."""
    found = element(0x00020002, b"UI", text(sop_class, "\0")) + element(0x00020010, b"UI", text(syntax, "\0"))
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(found))) + found


def dataset(
    changes: Mapping[int, bytes | None] | None = None, *, number: int = 1, extra: Mapping[int, bytes] | None = None, implicit: bool = False
) -> bytes:
    """The elements of one small MR image in order of their tags.

    ``changes`` replaces values or (None) leaves elements out; ``extra`` adds whole encoded elements, or replaces those of the same tag.
    """
    values: dict[int, tuple[bytes, bytes]] = {
        0x00080016: (b"UI", text(MR_IMAGE, "\0")),
        SOP_UID: (b"UI", text(f"2.25.1000{number}", "\0")),
        0x00080060: (b"CS", b"MR"),
        0x00100010: (b"PN", text("Mustermann^Erika")),
        PATIENT_ID: (b"LO", text("MRN-0815")),
        STUDY_UID: (b"UI", text("2.25.4711", "\0")),
        SERIES_UID: (b"UI", text("2.25.47111", "\0")),
        0x00200032: (b"DS", text(f"0\\0\\{number}")),
        0x00200037: (b"DS", text("1\\0\\0\\0\\1\\0")),
        0x00280002: (b"US", us(1)),
        0x00280004: (b"CS", text("MONOCHROME2")),
        ROWS: (b"US", us(_SIZE)),
        0x00280011: (b"US", us(_SIZE)),
        0x00280030: (b"DS", text("1\\1")),
        0x00280100: (b"US", us(16)),
        0x00280101: (b"US", us(16)),
        0x00280102: (b"US", us(15)),
        0x00280103: (b"US", us(0)),
        PIXELS: (b"OW", bytes(range(_SIZE * _SIZE * 2))),
    }
    encoded = {tag: element(tag, vr, value, implicit=implicit) for tag, (vr, value) in values.items()}
    for tag, changed in (changes or {}).items():
        if changed is None:
            encoded.pop(tag, None)
        else:
            encoded[tag] = element(tag, values.get(tag, (b"IS", b""))[0], changed, implicit=implicit)
    encoded |= extra or {}
    return b"".join(encoded[tag] for tag in sorted(encoded))


def instance(
    changes: Mapping[int, bytes | None] | None = None, *, number: int = 1, extra: Mapping[int, bytes] | None = None, syntax: str = EXPLICIT
) -> bytes:
    """A DICOM file of one small MR image; as ``dataset``."""
    body = dataset(changes, number=number, extra=extra, implicit=syntax == IMPLICIT)
    return meta(syntax) + (deflated(body) if syntax == DEFLATED else body)


def deflated(body: bytes) -> bytes:
    """A dataset as the deflated transfer syntax stores it."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()
