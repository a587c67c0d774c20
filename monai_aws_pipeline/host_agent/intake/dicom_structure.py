"""The skeleton of a DICOM file: is it whole, and is it built like one. Element headers are walked; no value is kept but the few asked for.

Here belongs everything that a hostile or broken file could do to a reader before any value is looked at: lengths that point outside the
file, nesting without end, elements without number, a deflated dataset that inflates to gigabytes, pixels that are cut off. Memory does
not grow with the file. Sources: PS3.5 section 7 (data elements, nesting), A.4 (encapsulation), A.5 (deflated), PS3.10 section 7.1.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from monai_aws_pipeline.host_agent.errors import Code, RefusedError

MEDIA_SOP_CLASS: Final = 0x00020002
TRANSFER_SYNTAX: Final = 0x00020010
PIXELS: Final = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
"""Pixel Data, Float Pixel Data, Double Float Pixel Data."""

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT: Final = frozenset(
    {
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO",
        b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
    }
)  # fmt: skip
NOTED: Final = frozenset({0x20500010})
"""Sequences of which it is only told whether they are there: Presentation LUT Sequence."""
_VALUE_BYTES: Final = 1024
_GATHERED_BYTES: Final = 1 << 16
"""The longest value of an element with a length of two bytes, as all texts but the unlimited ones have."""
_GATHERED_ALTOGETHER: Final = 16 << 20
_PADDING_BYTES: Final = 1 << 20
_ELEMENT_BYTES: Final = 8
"""No element is shorter: tag and length."""

Buffer = bytes | mmap.mmap
Element = tuple[int, str, bytes]
"""Tag, VR (empty in implicit VR) and value as it stands in the file."""


@dataclass(frozen=True)
class StructureLimits:
    """What one file may be: elements on all levels, levels of nested sequences, bytes that a deflated dataset inflates to."""

    elements: int = 500_000
    depth: int = 64
    inflated_bytes: int = 256 << 20


@dataclass(frozen=True)
class Gather:
    """Elements whose values are gathered wherever they stand: on the first level, in items, more than once. By tag or by explicit VR."""

    tags: frozenset[int] = frozenset()
    vrs: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class Value:
    """A value as it stands in the file; ``vr`` is empty where the encoding has none (implicit VR)."""

    vr: str
    data: bytes


@dataclass(frozen=True)
class Structure:
    """What the walk has seen.

    ``pixel_bytes``: those of native pixel data, or of all fragments of encapsulated ones; -1 where there are none. ``fragments``: how many
    those are, without the offset table; -1 where pixel data is native or absent. ``values``: those of the wanted elements that stand on the
    first level before the pixel data. ``gathered``: each different element that was to be gathered and has a value.
    """

    media_class: str
    syntax: str
    values: Mapping[int, Value]
    little_endian: bool
    pixel_bytes: int
    fragments: int
    elements: int
    noted: frozenset[int] = frozenset()
    """Which elements of ``NOTED`` stand on the first level."""
    pixel_tag: int = 0
    """Which element holds the pixels; 0 where none does."""
    gathered: frozenset[Element] = field(default=frozenset(), repr=False)


def read_structure(
    path: Path, wanted: Collection[int] = (), limits: StructureLimits | None = None, gather: Gather | None = None
) -> Structure:
    """Walk one file to its end; of a DICOMDIR the meta information alone.

    Raises RefusedError: truncated, damaged, too complex or too large.
    """
    size = path.stat().st_size
    if size < 132:
        raise _truncated("A DICOM file ends within its preamble.")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return structure_of(data, wanted, limits, gather)


def media_class_of(path: Path) -> str:
    """The SOP class in a file's meta information; empty where that cannot be read."""
    with path.open("rb") as stream:
        data = stream.read(1 << 16)
    walk = _Walk(data, StructureLimits(), {MEDIA_SOP_CLASS}, little=True)
    with suppress(RefusedError):  # what stood before the damage is read
        walk.group_two(132)
    return walk.text(MEDIA_SOP_CLASS)


def structure_of(
    data: Buffer, wanted: Collection[int] = (), limits: StructureLimits | None = None, gather: Gather | None = None
) -> Structure:
    """``read_structure`` for a file in memory, preamble included."""
    limits = limits or StructureLimits()
    meta = _Walk(data, limits, {MEDIA_SOP_CLASS, TRANSFER_SYNTAX}, little=True)
    start = meta.group_two(132)
    syntax, media_class = meta.text(TRANSFER_SYNTAX), meta.text(MEDIA_SOP_CLASS)
    if media_class == MediaStorageDirectoryStorage:  # a table of contents that nobody needs, and often a broken one
        return Structure(media_class, syntax, {}, little_endian=True, pixel_bytes=-1, fragments=-1, elements=meta.elements)
    if not re.fullmatch(r"[0-9.]+", syntax):
        # Type 1 in PS3.10 table 7.1-1; without it each reader guesses, and not all guess the same.
        raise RefusedError(Code.DICOM_INCOMPLETE, "A DICOM file does not tell its transfer syntax.")
    if syntax == DeflatedExplicitVRLittleEndian:
        data, start = _inflated(data, start, limits.inflated_bytes), 0
    walk = _Walk(data, limits, wanted, gather, little=syntax != ExplicitVRBigEndian, elements=meta.elements)
    walk.dataset(start, len(data), walk.is_implicit(start, assumed=syntax == ImplicitVRLittleEndian), depth=0)
    gathered = frozenset(walk.gathered)
    return Structure(
        media_class, syntax, walk.values, walk.little, walk.pixel_bytes, walk.fragments, walk.elements, frozenset(walk.noted),
        walk.pixel_tag, gathered,
    )  # fmt: skip


class _Walk:
    """One walk over one dataset: positions go in and come back, and what was counted stays here."""

    def __init__(
        self,
        data: Buffer,
        limits: StructureLimits,
        wanted: Collection[int],
        gather: Gather | None = None,
        *,
        little: bool,
        elements: int = 0,
    ):
        self._data, self._limits, self._wanted, self.little = data, limits, wanted, little
        self._gather = gather or Gather()
        self.gathered: set[Element] = set()
        self._gathered_bytes = 0
        order = "<" if little else ">"
        self._tag, self._long, self._short = struct.Struct(f"{order}HHI"), struct.Struct(f"{order}I"), struct.Struct(f"{order}H")
        self.values: dict[int, Value] = {}
        self.noted: set[int] = set()
        self.elements, self.pixel_bytes, self.fragments, self.pixel_tag = elements, -1, -1, 0

    def text(self, tag: int) -> str:
        found = self.values.get(tag)
        return found.data.decode("ascii", "replace").strip(" \0") if found else ""

    def group_two(self, at: int) -> int:
        """The file meta information: elements of group 0002, explicit VR little endian. Returns where the dataset begins."""
        end = len(self._data)
        while self._data[at : at + 2] == b"\x02\0":
            tag, vr, length, value = self._header(at, end, implicit=False)
            if length == _UNDEFINED:
                raise _damaged("The meta information of a DICOM file has an element without a length.")
            at = self._value(tag, vr, value, length, end)
        return at

    def is_implicit(self, at: int, *, assumed: bool) -> bool:
        """Whether a dataset is written without VRs, by its first element: not all writers do what their transfer syntax says."""
        vr = self._data[at + 4 : at + 6]
        return assumed if len(vr) < 2 else not (0x40 < vr[0] < 0x5B and 0x40 < vr[1] < 0x5B)

    def dataset(self, at: int, end: int, implicit: bool, depth: int, *, open_item: bool = False) -> int:
        """Walk elements up to ``end``, the pixel data, or (``open_item``) the item's delimiter; returns the position behind."""
        while at < end:
            if depth == 0 and self._is_padding(at, end):
                return end
            tag, vr, length, value = self._header(at, end, implicit)
            if tag == _ITEM_END and open_item:
                return value
            if tag >> 16 == 0xFFFE:
                raise _damaged("A DICOM file has an item or a delimiter where an element should be.")
            if depth == 0 and tag in NOTED:
                self.noted.add(tag)
            if depth == 0 and tag in PIXELS:
                self.pixel_tag = tag
                at = self._pixels(value, length, end)
                self._behind_pixels(at, end, implicit)
                return at
            if length == _UNDEFINED:
                if vr in (b"OB", b"OW") or (not vr and tag in PIXELS):
                    at, _, _ = self._fragments(value, end)
                else:
                    at = self._items(value, end, implicit or vr == b"UN", depth + 1, open_end=True)
            else:
                is_sequence = vr == b"SQ" or (not vr and _is_sequence(tag))
                if is_sequence and value + length <= end:
                    self._items(value, value + length, implicit or not vr, depth + 1, open_end=False)
                at = self._value(tag, vr, value, length, end, keep=depth == 0, inside=depth > 0)
        if open_item:
            raise _truncated("A DICOM file ends within a sequence.")
        return at

    def _header(self, at: int, end: int, implicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and the position of the value."""
        self.elements += 1
        if self.elements > self._limits.elements:
            raise RefusedError(Code.DICOM_TOO_COMPLEX, f"A DICOM file has more than {self._limits.elements} elements.")
        if at + 8 > end:
            raise _truncated("A DICOM file ends within an element.")
        group, element, length = self._tag.unpack_from(self._data, at)
        tag = group << 16 | element
        if implicit or group == 0xFFFE:
            return tag, b"", length, at + 8
        vr = self._data[at + 4 : at + 6]
        if vr in _SHORT:
            return tag, vr, self._short.unpack_from(self._data, at + 6)[0], at + 8
        if vr in _LONG:
            if at + 12 > end:
                raise _truncated("A DICOM file ends within an element.")
            return tag, vr, self._long.unpack_from(self._data, at + 8)[0], at + 12
        if vr.isalpha() and vr.isupper():
            raise _damaged("A DICOM file has an element of an unknown value representation.")
        return tag, b"", length, at + 8  # some writers switch to implicit VR for single elements

    def _value(self, tag: int, vr: bytes, at: int, length: int, end: int, *, keep: bool = True, inside: bool = False) -> int:
        if at + length > end:
            if inside:
                raise _damaged("A DICOM file has an element that is longer than the item it stands in.")
            raise _truncated("A DICOM file ends before one of its elements does.")
        if keep and tag in self._wanted:
            if length > _VALUE_BYTES:
                raise _damaged("A DICOM file has an identifying element that is far too long.")
            found = Value(vr.decode("ascii"), bytes(self._data[at : at + length]))
            if self.values.setdefault(tag, found) != found:  # readers differ in which of the two they take
                raise _damaged("A DICOM file has one of its identifying elements twice.")
        if length and (tag in self._gather.tags or vr in self._gather.vrs):
            self._keep(tag, vr, at, length)
        return at + length

    def _keep(self, tag: int, vr: bytes, at: int, length: int) -> None:
        """Gather a value. One that would have to be cut is refused: its rest would not be known."""
        if length > _GATHERED_BYTES:
            raise _damaged("A DICOM file has an identifying element that is far too long.")
        element = (tag, vr.decode("ascii"), bytes(self._data[at : at + length]).strip(b" \0"))
        if element[2] and element not in self.gathered:
            self._gathered_bytes += length
            if self._gathered_bytes > _GATHERED_ALTOGETHER:
                raise RefusedError(Code.DICOM_TOO_COMPLEX, "A DICOM file holds more names, numbers and dates than any image does.")
            self.gathered.add(element)

    def _items(self, at: int, end: int, implicit: bool, depth: int, *, open_end: bool) -> int:
        """Walk the items of a sequence; ``open_end``: its length is undefined and a delimiter ends it."""
        if depth > self._limits.depth:
            raise RefusedError(Code.DICOM_TOO_COMPLEX, f"A DICOM file nests sequences deeper than {self._limits.depth} levels.")
        while at < end:
            tag, _, length, value = self._header(at, end, implicit=True)
            if tag == _SEQUENCE_END and open_end:
                return value
            if tag != _ITEM:
                raise _damaged("A DICOM file has a sequence whose items cannot be told apart.")
            # Items may be implicit within an explicit dataset (PS3.5 section 6.2.2), never the other way round.
            inner = implicit or self.is_implicit(value, assumed=False)
            if length == _UNDEFINED:
                at = self.dataset(value, end, inner, depth, open_item=True)
            elif value + length > end:
                raise _damaged("A DICOM file has an item that is longer than its sequence.")
            else:
                at = self.dataset(value, value + length, inner, depth)
        if open_end:
            raise _truncated("A DICOM file ends within a sequence.")
        return at

    def _pixels(self, at: int, length: int, end: int) -> int:
        if length == _UNDEFINED:
            at, self.fragments, self.pixel_bytes = self._fragments(at, end)
            return at
        if at + length > end:
            raise _truncated("A DICOM file ends before its pixels do.")
        self.pixel_bytes = length
        return at + length

    def _behind_pixels(self, at: int, end: int, implicit: bool) -> None:
        """Judge what follows the pixels: elements of higher tags, as padding and signatures are, or bytes that are none.

        Bytes that are no elements are left: readers stop there, and the image is whole. But an element that reads well and belongs before
        the pixels is a second data set behind the first, or a second value of what was read already: readers would take the later one.
        """
        while end - at >= _ELEMENT_BYTES and not self._is_padding(at, end):
            try:
                tag, vr, length, value = self._header(at, end, implicit)
                if tag >> 16 == 0xFFFE:
                    return
                if length == _UNDEFINED:
                    at = self._items(value, end, implicit or vr == b"UN", 1, open_end=True)
                else:
                    at = self._value(tag, vr, value, length, end, keep=False)
            except RefusedError as error:
                if error.code in (Code.DICOM_TRUNCATED, Code.DICOM_DAMAGED):
                    return
                raise
            if tag <= self.pixel_tag:
                raise _damaged("A DICOM file has elements behind its pixels that belong before them.")

    def _fragments(self, at: int, end: int) -> tuple[int, int, int]:
        """The fragments of encapsulated pixel data: the position behind them, their number without the offset table, their bytes."""
        count, total = -1, 0
        while True:
            if at + 8 > end:
                raise _truncated("A DICOM file ends before its compressed pixels do.")
            tag, _, length, value = self._header(at, end, implicit=True)
            if tag == _SEQUENCE_END:
                return value, max(count, 0), total
            if tag != _ITEM or length == _UNDEFINED:
                raise _damaged("A DICOM file has compressed pixels whose fragments cannot be told apart.")
            if value + length > end:
                raise _truncated("A DICOM file ends before its compressed pixels do.")
            total += length if count >= 0 else 0
            count, at = count + 1, value + length

    def _is_padding(self, at: int, end: int) -> bool:
        """Whether nothing but NULs follow, as some writers pad their files with. No element begins with eight of them."""
        if any(self._data[at : min(at + _ELEMENT_BYTES, end)]):
            return False
        if end - at > _PADDING_BYTES or any(self._data[at:end]):
            raise _damaged("A DICOM file has NULs where an element should be.")
        return True


def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:  # private, or newer than this dictionary
        return False


def _inflated(data: Buffer, start: int, limit: int) -> bytes:
    """The dataset of a deflated file, up to ``limit`` bytes."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    found = bytearray()
    try:
        while not stream.eof:
            packed = stream.unconsumed_tail or bytes(data[start : start + (1 << 20)])
            start += 0 if stream.unconsumed_tail else len(packed)
            part = stream.decompress(packed, 1 << 20)
            if not part and not packed:
                raise _truncated("A deflated DICOM file ends before its dataset does.")
            found += part
            if len(found) > limit:
                raise RefusedError(Code.DICOM_TOO_LARGE, f"A deflated DICOM file inflates to more than {limit >> 20} MiB.")
    except zlib.error as error:
        raise _damaged("A deflated DICOM file cannot be inflated.") from error
    return bytes(found)


def _damaged(cause: str) -> RefusedError:
    return RefusedError(Code.DICOM_DAMAGED, cause)


def _truncated(cause: str) -> RefusedError:
    return RefusedError(Code.DICOM_TRUNCATED, cause)
