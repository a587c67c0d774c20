"""Where a zip ends and what its table of contents claims, before anything in it is believed.

Here belongs finding the one true end record: behind it may lie a comment that holds another, or padding, and before it another zip. What
zipfile is given ends right behind that record, so that both read the same table. Source: APPNOTE.TXT 4.3.14 to 4.3.16, 8.5 (split zips).
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Final

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake import file_kinds

TRAILING_BYTES: Final = 1 << 20
"""What may lie behind the end of a zip: padding, or what a gateway appends."""
_END, _END64, _LOCATOR64, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_END_BYTES, _LOCATOR_BYTES, _END64_BYTES, _COMMENT_BYTES, _LOCAL_BYTES = 22, 20, 56, 0xFFFF, 30
_CANDIDATES: Final = 64
_PARTS: Final = 999
"""What programs split a zip into at most (``.z999``); larger numbers stand for one that a zip64 record has, or are damaged."""
_DIRECTORY_BYTES_EACH: Final = 1024
"""An entry of the table takes at least 46 bytes, so one that understates its count is caught by its size."""


@dataclass(frozen=True)
class _End:
    """An end record at byte ``at``; counts by it and by the zip64 records it points to, the greedier where they disagree."""

    at: int
    entries: int
    directory_bytes: int
    comment_bytes: int
    is_split: bool
    is_consistent: bool
    """Whether the table of contents begins where the record says."""


class _Front:
    """The first ``size`` bytes of a file, as zipfile reads one."""

    def __init__(self, stream: IO[bytes], size: int):
        self._stream, self._size, self._at = stream, size, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        if self._at < 0:
            raise OSError("a position before the beginning of the file")
        return self._at

    def read(self, count: int = -1, /) -> bytes:
        left = max(0, self._size - self._at)
        self._stream.seek(self._at)
        found = self._stream.read(left if count < 0 else min(count, left))
        self._at += len(found)
        return found


def is_zip(stream: IO[bytes]) -> bool:
    """Whether a file is a zip or wants to be one: it begins as zips do, or (behind a program that unpacks it) has a table of contents."""
    end = _true_end(stream)
    return _head(stream, 2) == b"PK" or (end is not None and end.is_consistent)


def open_zip(stream: IO[bytes], files: int, *, inside: bool) -> zipfile.ZipFile:
    """Open a zip of at most ``files`` entries; ``inside``: it lies in another one, and an error says so. Raises RefusedError.

    Entries that share bytes, a further zip before or behind this one, and parts of a split zip are refused.
    """
    name = "A zip inside the upload" if inside else "The zip"
    end = _true_end(stream)
    head = _head(stream, file_kinds.HEAD_BYTES)
    if end is None:
        if head.startswith(file_kinds.SPLIT_HEADER):
            raise _split(name)
        if head.startswith(b"PK"):
            raise RefusedError(Code.ZIP_TRUNCATED, f"{name} ends before its table of contents, or has more than 1 MiB behind it.")
        kind = file_kinds.described(head)
        raise RefusedError(Code.NOT_A_ZIP, f"The upload is named .zip but is {kind or 'no zip'}.")
    if end.is_split:
        raise _split(name)
    if not end.is_consistent:
        raise RefusedError(Code.ZIP_DAMAGED, f"{name} has a damaged table of contents.")
    if end.entries > files or end.directory_bytes > files * _DIRECTORY_BYTES_EACH:
        raise RefusedError(Code.ZIP_TOO_MANY_FILES, f"The upload holds more than {files} files.")
    stream.seek(end.at + _END_BYTES + end.comment_bytes)
    if file_kinds.LOCAL_HEADER in stream.read(TRAILING_BYTES):
        raise RefusedError(Code.ZIP_DAMAGED, f"{name} has another zip, or a part of one, behind its end.")
    size = end.at + _END_BYTES
    try:
        opened = zipfile.ZipFile(stream if stream.seek(0, 2) == size else _Front(stream, size))
    except Exception as error:  # zipfile raises seven kinds of exception on hostile bytes, and each means the same here
        raise RefusedError(Code.ZIP_DAMAGED, f"{name} has a damaged table of contents.") from error
    _check_places(opened.infolist(), head, name)
    return opened


def _check_places(entries: list[zipfile.ZipInfo], head: bytes, name: str) -> None:
    """Refuse entries that share bytes (a few megabytes listed thousands of times are a bomb without any ratio) and what is not listed."""
    behind = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < 0:
            raise RefusedError(Code.ZIP_DAMAGED, f"{name} has a table of contents that points outside the file.")
        if entry.header_offset < behind:
            raise RefusedError(Code.ZIP_OVERLAP, f"{name} has two entries that share the same bytes.")
        if not behind and entry.header_offset and head.startswith(file_kinds.LOCAL_HEADER):
            raise RefusedError(Code.ZIP_DAMAGED, f"{name} begins with entries that its table of contents does not list.")
        behind = entry.header_offset + _LOCAL_BYTES + entry.compress_size


def _true_end(stream: IO[bytes]) -> _End | None:
    """The last end record whose table of contents is where it says; where none is, the last that looks like one.

    An empty table is believed only where there is no other, because twenty-two bytes in a comment would be one.
    """
    size = stream.seek(0, 2)
    start = max(0, size - _END_BYTES - _COMMENT_BYTES - TRAILING_BYTES)
    stream.seek(start)
    tail = stream.read()
    found: list[_End] = []
    at = len(tail)
    while len(found) < _CANDIDATES and (at := tail.rfind(_END, 0, at + 3)) >= 0:
        if len(tail) - at >= _END_BYTES:
            end = _read_end(stream, start + at)
            if end.is_consistent and end.directory_bytes:
                return end
            found.append(end)
    return next((end for end in found if end.is_consistent), found[0] if found else None)


def _read_end(stream: IO[bytes], at: int) -> _End:
    disk, first_disk, _, entries, directory_bytes, _, comment_bytes = struct.unpack("<4HIIH", _at(stream, at + 4, _END_BYTES - 4))
    is_split = 0 < max(disk, first_disk) <= _PARTS
    starts = {at - directory_bytes}
    locator = _at(stream, at - _LOCATOR_BYTES, _LOCATOR_BYTES)
    if locator.startswith(_LOCATOR64):
        # zip64: the counts above are placeholders. Readers look for the record where the locator points or right before it: judge both.
        _, offset, disks = struct.unpack("<IQI", locator[4:])
        is_split |= disks > 1
        for place in {offset, max(0, at - _LOCATOR_BYTES - _END64_BYTES)}:
            record = _at(stream, place, _END64_BYTES) if place < at else b""
            if record.startswith(_END64) and len(record) == _END64_BYTES:
                more, larger = struct.unpack_from("<QQ", record, 32)
                entries = more if entries == 0xFFFF else max(entries, more)
                directory_bytes = larger if directory_bytes == 0xFFFFFFFF else max(directory_bytes, larger)
                starts.add(place - larger)
    is_consistent = any(_at(stream, start, 4) == _ENTRY for start in starts) if directory_bytes else not entries
    return _End(at, entries, directory_bytes, comment_bytes, is_split, is_consistent)


def _at(stream: IO[bytes], at: int, count: int) -> bytes:
    if at < 0:
        return b""
    stream.seek(at)
    return stream.read(count)


def _head(stream: IO[bytes], count: int) -> bytes:
    return _at(stream, 0, count)


def _split(name: str) -> RefusedError:
    return RefusedError(Code.ZIP_SPLIT, f"{name} is one part of a zip that was split into several files.")
