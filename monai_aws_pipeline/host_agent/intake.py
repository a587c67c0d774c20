"""From an upload on disk to plain DICOM files: safe unpacking within limits, without trusting a single byte of the archive.

Here belong the zip format's dangers and the limits against them. Names inside an archive are checked and then never used on disk:
files are numbered, so that no name can reach a path, a log or the MAP. Reading DICOM belongs in ``dicom.py``. Sources: APPNOTE.TXT
(zip), PS3.10 section 7.1 (128-byte preamble and ``DICM``).
"""

from __future__ import annotations

import errno
import re
import stat
import struct
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError

CHUNK: Final = 1 << 20
_HEAD: Final = 4096
_DICOM_UID: Final = b"1.2.840.10008."
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Not LZMA, whose header lets the sender choose a dictionary of 4 GiB; not bzip2, of which zipfile expands at once whatever one read
brings, and 4 KiB of it can become 4 GiB."""
_NAME_CHARACTERS: Final = 1024
"""No file system takes a longer path; names are checked and then never used."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LOCAL_HEADER: Final = 30
"""Bytes before an entry's name and content."""
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"


@dataclass(frozen=True)
class IntakeLimits:
    """What one upload may hold: bytes as stored and unpacked, files, nested zips, seconds to unpack. settings.py has the same defaults.

    ``ratio``: unpacked to stored bytes, judged once ``ratio_from`` bytes are unpacked, because a small empty image compresses well.
    """

    upload_bytes: int = 8 << 30
    unpacked_bytes: int = 24 << 30
    files: int = 50_000
    ratio: int = 250
    ratio_from: int = 256 << 20
    depth: int = 1
    seconds: float = 900.0
    disk_bytes: int = 0
    """What the host's disk has room for; 0 for any. Meeting this one is the host's fault and not the upload's."""


@dataclass
class _Meter:
    """What was used so far of the limits of one upload, over all of its archives."""

    limits: IntakeLimits
    stored: int
    deadline: float
    files: int = 0
    unpacked: int = 0
    written: int = 0

    def file(self) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise RefusedError(Code.ZIP_TOO_MANY_FILES, f"The upload holds more than {self.limits.files} files.")
        self.time()

    def bytes(self, count: int) -> None:
        self.unpacked += count
        if self.unpacked > self.limits.unpacked_bytes:
            raise RefusedError(Code.ZIP_TOO_LARGE, f"The upload unpacks to more than {self.limits.unpacked_bytes >> 20} MiB.")
        if self.unpacked > self.limits.ratio_from and self.unpacked > self.limits.ratio * max(1, self.stored):
            raise RefusedError(Code.ZIP_RATIO, f"The upload unpacks to more than {self.limits.ratio} times its size.")
        if self.limits.disk_bytes and self.unpacked > self.limits.disk_bytes:
            raise FailedError(Code.DISK_FULL, "The upload unpacks to more than the host's disk has room for.")
        self.time()

    def time(self) -> None:
        if time.monotonic() > self.deadline:
            raise RefusedError(Code.UNPACK_TIME, f"Unpacking took longer than {self.limits.seconds:.0f} s.")


def unpack(archive: Path, target: Path, limits: IntakeLimits | None = None) -> int:
    """Write the DICOM files of a zip into ``target`` as ``000001.dcm`` and so on; returns how many.

    Files that are no DICOM are ignored; one zip inside the zip is opened. Raises RefusedError for anything a study never is,
    FailedError(DISK_FULL) when the disk and not the upload is the reason.
    """
    limits = limits or IntakeLimits()
    size = archive.stat().st_size
    check_size(size, limits)
    meter = _Meter(limits, size, time.monotonic() + limits.seconds)
    _unpack_zip(archive, target, meter, depth=0)
    if not meter.written:
        raise RefusedError(Code.NO_DICOM, f"None of the {meter.files} files in the upload is DICOM.")
    return meter.written


def check_size(size: int, limits: IntakeLimits) -> None:
    """Refuse an upload by its stored size in bytes alone, before it is downloaded."""
    if size == 0:
        raise RefusedError(Code.EMPTY_UPLOAD, "The upload has zero bytes.")
    if size > limits.upload_bytes:
        raise RefusedError(Code.UPLOAD_TOO_LARGE, f"The upload is larger than {limits.upload_bytes >> 20} MiB.")


def keep_dicom(files: Iterable[Path]) -> int:
    """Keep of plain files (a folder upload, one object each) those that are DICOM; removes the others. Returns how many were kept."""
    kept = seen = 0
    for path in files:
        seen += 1
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        refuse_headless(head)
        is_dicom = looks_like_dicom(head)
        if is_dicom:
            kept += 1
        else:
            path.unlink()
    if not kept:
        raise RefusedError(Code.NO_DICOM, f"None of the {seen} files in the folder is DICOM.")
    return kept


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes are a preamble followed by ``DICM``."""
    return len(head) >= 132 and head[128:132] == b"DICM"


def refuse_headless(head: bytes) -> None:
    """Refuse a data set that stands without preamble, as archives and old modalities export it, by the first bytes of a file.

    It is refused and not read: applications read DICOM files (PS3.10 section 7.1) and pass over others, which would leave half a study.
    It starts with group 2 or 8, whatever its transfer syntax, and names a class of DICOM's own soon after.
    """
    if head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00" and _DICOM_UID in head:
        raise RefusedError(Code.DICOM_HEADLESS, "A file is DICOM without its preamble.")


def _unpack_zip(archive: Path, target: Path, meter: _Meter, depth: int) -> None:
    with archive.open("rb") as stream:
        _check_directory(stream, meter.limits)
        with _opened(stream) as opened:
            check_overlap(opened.infolist())
            for entry in opened.infolist():
                _take_entry(opened, entry, target, meter, depth)


def _take_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, meter: _Meter, depth: int) -> None:
    meter.file()
    check_entry(entry)
    if entry.is_dir():
        return
    if entry.filename.lower().endswith(".zip"):
        if depth >= meter.limits.depth:
            raise RefusedError(Code.ZIP_NESTED, f"The upload nests zips deeper than {meter.limits.depth} level(s).")
        inner = target / f"nested-{meter.files}.zip"
        try:
            _write(_chunks(opened, entry, meter), inner)
            _unpack_zip(inner, target, meter, depth + 1)
        finally:
            inner.unlink(missing_ok=True)
        return
    chunks = _chunks(opened, entry, meter)
    first = next(chunks, b"")
    refuse_headless(first[:_HEAD])
    if not looks_like_dicom(first):
        return  # a report, a picture, __MACOSX: not ours to judge
    meter.written += 1
    _write(_joined(first, chunks), target / f"{meter.written:06d}.dcm")


def check_entry(entry: zipfile.ZipInfo) -> None:
    """Refuse what a zip of a study never holds: names that leave the folder, links and devices, encryption, exotic compression."""
    name = entry.orig_filename.replace("\\", "/")
    if len(name) > _NAME_CHARACTERS or _CONTROL.search(name):
        raise RefusedError(Code.ZIP_UNSAFE_NAME, "The zip has an entry whose name is far too long or holds control characters.")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/") or not name.strip("/"):
        raise RefusedError(Code.ZIP_UNSAFE_NAME, "The zip has an entry whose name is absolute or leads out of its folder.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise RefusedError(Code.ZIP_LINK, "The zip has an entry that is a link, a device or a socket.")
    if entry.flag_bits & 0x41:
        raise RefusedError(Code.ZIP_ENCRYPTED, "The zip is encrypted.")
    if entry.compress_type not in _METHODS:
        raise RefusedError(Code.ZIP_COMPRESSION, f"The zip uses compression method {entry.compress_type}, which is not read here.")


def check_overlap(entries: list[zipfile.ZipInfo]) -> None:
    """Refuse entries that share bytes: a few megabytes of one entry, listed thousands of times, are a bomb without any ratio."""
    behind = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < 0:
            raise RefusedError(Code.ZIP_DAMAGED, "The zip's table of contents points outside the file.")
        if entry.header_offset < behind:
            raise RefusedError(Code.ZIP_OVERLAP, "Two entries of the zip share the same bytes.")
        behind = entry.header_offset + _LOCAL_HEADER + entry.compress_size


def _check_directory(stream: IO[bytes], limits: IntakeLimits) -> None:
    """Refuse by the end-of-central-directory record, before zipfile loads a directory of millions of entries into memory."""
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(max(0, size - 65557))
    tail = stream.read(65557)
    stream.seek(0)
    head = stream.read(4)
    stream.seek(0)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        if head[:2] == b"PK":
            raise RefusedError(Code.ZIP_TRUNCATED, "The zip ends before its table of contents.")
        raise RefusedError(Code.NOT_A_ZIP, "The upload is named .zip but is no zip.")
    entries, directory_bytes = struct.unpack_from("<HI", tail, at + 10)
    if tail[at - 20 : at - 16] == _LOCATOR64 and at >= 20:
        # zip64: the counts above are placeholders. Readers look for the record where the locator points or right before it: judge both.
        (offset,) = struct.unpack_from("<Q", tail, at - 12)
        before = size - len(tail) + at - 20 - 56
        if offset + 56 > size:
            raise RefusedError(Code.ZIP_DAMAGED, "The zip's table of contents points outside the file.")
        for place in {offset, max(0, before)}:
            stream.seek(place)
            record = stream.read(56)
            if record[:4] == _END64 and len(record) == 56:
                more, larger = struct.unpack_from("<QQ", record, 32)
                entries = more if entries == 0xFFFF else max(entries, more)
                directory_bytes = larger if directory_bytes == 0xFFFFFFFF else max(directory_bytes, larger)
        stream.seek(0)
    # An entry takes at least 46 bytes, so a directory that understates its count is caught by its size (1 KiB an entry is generous).
    if entries > limits.files or directory_bytes > limits.files * 1024:
        raise RefusedError(Code.ZIP_TOO_MANY_FILES, f"The upload holds more than {limits.files} files.")


def _opened(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except Exception as wrong:  # zipfile raises seven kinds of exception on hostile bytes, and each means the same here
        _raise_if_disk(wrong)
        raise RefusedError(Code.ZIP_DAMAGED, "The zip's table of contents is damaged.") from wrong


def _chunks(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, meter: _Meter) -> Iterator[bytes]:
    """The content of an entry, counted as it comes: declared sizes are claims. zipfile checks the CRC at the end."""
    try:
        with opened.open(entry) as source:
            while chunk := source.read(CHUNK):
                meter.bytes(len(chunk))
                yield chunk
    except (RefusedError, FailedError, GeneratorExit):
        raise
    except Exception as wrong:  # zlib.error, EOFError, BadZipFile, OSError of bz2, struct.error: the content is damaged
        _raise_if_disk(wrong)
        raise RefusedError(Code.ZIP_DAMAGED, "A file in the zip is damaged (checksum or length is wrong).") from wrong


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _write(chunks: Iterator[bytes], path: Path) -> None:
    try:
        with path.open("xb") as target:
            for chunk in chunks:
                target.write(chunk)
    except OSError as wrong:
        _raise_if_disk(wrong)
        raise


def _raise_if_disk(wrong: BaseException) -> None:
    if isinstance(wrong, OSError) and wrong.errno in (errno.ENOSPC, errno.EDQUOT):
        raise FailedError(Code.DISK_FULL, "The host's disk is full.") from wrong


def with_free_space(limits: IntakeLimits, free_bytes: int) -> IntakeLimits:
    """The same limits on a disk with ``free_bytes`` left: a tenth stays free, so that nobody else on the host meets a full disk."""
    return replace(limits, disk_bytes=max(1, free_bytes * 9 // 10))
