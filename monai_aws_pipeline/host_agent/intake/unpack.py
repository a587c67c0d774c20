"""From an upload on disk to plain DICOM files: safe unpacking within limits, without trusting a single byte of the archive.

Here belong the zip format's dangers, the limits against them, and what is done with files that are no DICOM. Names inside an archive are
checked and then never used on disk: files are numbered, so that no name can reach a path, a log or the MAP. What names and first bytes say
is in ``file_kinds``, the end of a zip in ``zip_directory``, reading DICOM in ``dicom``. Sources: APPNOTE.TXT (zip), PS3.10 section 7.1.

**What is passed over, and what stops an upload.** What is no image does not stop a study; what may be a part of it is never left out
silently, because half a study answered is a wrong answer. So:

- A file that can be read is judged by its first bytes, whatever its name. DICOM is taken, DICOM without preamble stops the upload
  (applications would pass over it), a zip is opened, and what is neither is passed over and counted.
- A file that cannot be read (encrypted, compressed by another method than deflate, damaged; a device) is passed over only where its name
  says that it is no image (an extension of ``file_kinds``, a part of a macOS application) or it is too short to be a DICOM file.
  Otherwise the upload is refused.
- A link holds nothing of its own: it is passed over where what it names is in the zip, or neither it nor its target is named as images
  are. A link to an image that is not in the zip stops the upload.
- A zip inside is opened down to ``IntakeLimits.depth``; below that it is looked through by the same rules, and only a DICOM file or a
  further zip in it stops the upload. One that is no zip at all is passed over, one whose table of contents cannot be read is refused.
- An archive of another kind (7z, RAR, tar, gzip of a DICOM file, …; known by its first bytes) is not opened. It stops the upload, because
  nobody can tell here that the other half of the study is not in it; only in the folder of a program, as a viewer's on a CD, is it
  passed over. A gzip in which a look shows neither DICOM nor an archive (``.nii.gz``) is passed over.
- A folder's files come without their names, so only the rules about first bytes hold for them; a zip among them is looked through.
"""

from __future__ import annotations

import errno
import posixpath
import re
import stat
import time
import zipfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake import file_kinds
from monai_aws_pipeline.host_agent.intake.file_kinds import PassedOver, looks_like_dicom
from monai_aws_pipeline.host_agent.intake.zip_directory import is_zip, open_zip

__all__ = ["IntakeLimits", "Unpacked", "check_size", "keep_dicom", "looks_like_dicom", "unpack", "with_free_space"]

CHUNK: Final = 1 << 20
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Not LZMA, whose header lets the sender choose a dictionary of 4 GiB; not bzip2, of which zipfile expands at once whatever one read
brings, and 4 KiB of it can become 4 GiB."""
_DEFLATE64: Final = 9
_METHOD_NAMES: Final = {_DEFLATE64: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}
_NAME_CHARACTERS: Final = 1024
"""No file system takes a longer path; names are checked and then never used."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LINK_BYTES: Final = 4096
"""PATH_MAX: no link names a longer target."""


class UploadSettings(Protocol):
    """What is set of uploads, alike in the settings of a deployment and in a host's configuration."""

    @property
    def upload_max_mib(self) -> int:
        """Of the upload as it is stored."""

    @property
    def unpacked_max_mib(self) -> int:
        """Of what it unpacks to."""

    @property
    def upload_max_files(self) -> int:
        """Files in it."""

    @property
    def unpack_max_ratio(self) -> int:
        """Unpacked to stored size."""

    @property
    def unpack_max_depth(self) -> int:
        """Zips within zips."""

    @property
    def unpack_max_seconds(self) -> int:
        """Seconds to unpack it."""


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

    @classmethod
    def of(cls, settings: UploadSettings) -> IntakeLimits:
        """As they are set."""
        return cls(
            upload_bytes=settings.upload_max_mib << 20,
            unpacked_bytes=settings.unpacked_max_mib << 20,
            files=settings.upload_max_files,
            ratio=settings.unpack_max_ratio,
            depth=settings.unpack_max_depth,
            seconds=settings.unpack_max_seconds,
        )


@dataclass(frozen=True)
class Unpacked:
    """``files``: DICOM files that were written or kept. ``passed_over``: how many others of which kind, in words of ours."""

    files: int
    passed_over: Mapping[str, int]


@dataclass
class _Meter:
    """What was used so far of the limits of one upload, over all of its archives."""

    limits: IntakeLimits
    stored: int
    deadline: float
    files: int = 0
    unpacked: int = 0
    written: int = 0
    passed_over: Counter[PassedOver] = field(default_factory=Counter)

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

    def outcome(self) -> Unpacked:
        """What was unpacked. Raises RefusedError where that is no DICOM file at all, by the most telling reason."""
        if not self.written:
            raise _nothing_left(self.passed_over)
        return Unpacked(self.written, {str(kind): count for kind, count in sorted(self.passed_over.items())})


def unpack(archive: Path, target: Path, limits: IntakeLimits | None = None) -> Unpacked:
    """Write the DICOM files of a zip into ``target`` as ``000001.dcm`` and so on.

    Raises RefusedError for anything a study never is, FailedError(DISK_FULL) when the disk and not the upload is the reason.
    """
    limits = limits or IntakeLimits()
    size = archive.stat().st_size
    check_size(size, limits)
    meter = _Meter(limits, size, time.monotonic() + limits.seconds)
    _unpack_zip(archive, target, meter, depth=0)
    return meter.outcome()


def check_size(size: int, limits: IntakeLimits) -> None:
    """Refuse an upload by its stored size in bytes alone, before it is downloaded."""
    if size == 0:
        raise RefusedError(Code.EMPTY_UPLOAD, "The upload has zero bytes.")
    if size > limits.upload_bytes:
        raise RefusedError(Code.UPLOAD_TOO_LARGE, f"The upload is larger than {limits.upload_bytes >> 20} MiB.")


def keep_dicom(files: Iterable[Path], limits: IntakeLimits | None = None) -> Unpacked:
    """Keep of plain files (a folder upload, one object each) those that are DICOM; removes the others. Raises RefusedError."""
    limits = limits or IntakeLimits()
    paths = [*files]
    meter = _Meter(limits, sum(path.stat().st_size for path in paths), time.monotonic() + limits.seconds)
    for path in paths:
        meter.file()
        with path.open("rb") as stream:
            head = stream.read(file_kinds.HEAD_BYTES)
        _refuse_headless(head)
        if looks_like_dicom(head):
            meter.written += 1
            continue
        if _begins_as_zip(head):
            _unpack_zip(path, path.parent, meter, limits.depth + 1)
        else:
            _pass_over_by_content("", head, meter)
        path.unlink()
    return meter.outcome()


def _refuse_headless(head: bytes) -> None:
    """Refuse a data set that stands without preamble, as archives and old modalities export it, by the first bytes of a file.

    It is refused and not read: applications read DICOM files (PS3.10 section 7.1) and pass over others, which would leave half a study.
    """
    if file_kinds.looks_headless(head):
        raise RefusedError(Code.DICOM_HEADLESS, "A file is DICOM without its preamble.")


def _pass_over_by_content(name: str, head: bytes, meter: _Meter) -> None:
    """Count a file that is neither DICOM nor a zip. Raises RefusedError for an archive that may hold a part of the study."""
    archive = file_kinds.archive_kind(head)
    if archive and not file_kinds.is_no_image(name) and not file_kinds.hides_no_image(head):
        if not file_kinds.in_program(name):
            raise RefusedError(Code.ZIP_NESTED, f"The upload holds {archive} inside, which is not opened and may be a part of the study.")
        meter.passed_over[PassedOver.ARCHIVE] += 1
    elif file_kinds.is_macos(name):
        meter.passed_over[PassedOver.MACOS] += 1
    else:
        meter.passed_over[PassedOver.NO_DICOM if head else PassedOver.EMPTY] += 1


_TELLING: Final = {
    PassedOver.ENCRYPTED: (Code.ZIP_ENCRYPTED, "files in it are encrypted"),
    PassedOver.COMPRESSION: (Code.ZIP_COMPRESSION, "files in it are compressed by a method that is not read here"),
    PassedOver.DAMAGED: (Code.ZIP_DAMAGED, "files in it are damaged"),
    PassedOver.ARCHIVE: (Code.ZIP_NESTED, "it holds an archive inside that is not opened"),
}
"""Why there may be no DICOM in an upload, the most telling first."""


def _nothing_left(passed_over: Counter[PassedOver]) -> RefusedError:
    for kind, (code, cause) in _TELLING.items():
        if passed_over[kind]:
            return RefusedError(code, f"Nothing in the upload is DICOM, and {cause}.")
    total = sum(passed_over.values())
    if not total:
        return RefusedError(Code.NO_DICOM, "The upload holds no files.")
    if passed_over[PassedOver.LINK] == total:
        return RefusedError(Code.ZIP_LINK, "The upload holds nothing but links.")
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(passed_over.items()))
    return RefusedError(Code.NO_DICOM, f"None of the {total} files in the upload is DICOM ({counts}).")


# ------------------------------------------------------------------------------------------------------------------------------- a zip


@dataclass(frozen=True)
class _Zip:
    """One open zip: the upload itself (``depth`` 0), or one inside. Below the allowed depth nothing is taken out of it."""

    opened: zipfile.ZipFile
    target: Path
    meter: _Meter
    depth: int

    @property
    def words(self) -> str:
        return "A zip inside the upload" if self.depth else "The zip"

    @property
    def is_too_deep(self) -> bool:
        return self.depth > self.meter.limits.depth

    def take(self, entry: zipfile.ZipInfo) -> None:
        """Write an entry that is DICOM, open one that is a zip, pass over what is neither. Raises RefusedError."""
        self.meter.file()
        name = _checked_name(entry, self.words)
        if name.endswith("/") and not entry.file_size:
            return
        if not (entry.file_size or entry.compress_size or entry.CRC or _mode(entry) not in (0, stat.S_IFREG)):
            self._take_content(name, b"", iter(()))  # nothing to open: a zip of 40,000 empty files is read in no time
        elif _mode(entry) == stat.S_IFLNK:
            self._pass_over_link(entry, name)
        elif unreadable := self._unreadable(entry):
            self._pass_over_unreadable(entry, name, *unreadable)
        else:
            with closing(_chunks(self.opened, entry, self.meter, self.words)) as chunks:
                try:
                    head = next(chunks, b"")
                except RefusedError as error:
                    if error.code is not Code.ZIP_DAMAGED:
                        raise
                    self._pass_over_unreadable(entry, name, error, PassedOver.DAMAGED)
                else:
                    self._take_content(name, head, chunks)

    def _take_content(self, name: str, head: bytes, chunks: Iterator[bytes]) -> None:
        _refuse_headless(head)
        if looks_like_dicom(head):
            if self.is_too_deep:
                raise self._too_deep()
            self.meter.written += 1
            _write(head, chunks, self.target / f"{self.meter.written:06d}.dcm")
        elif _is_zip_to_open(name, head):
            self._open_inside(name, head, chunks)
        else:
            _pass_over_by_content(name, head, self.meter)

    def _open_inside(self, name: str, head: bytes, chunks: Iterator[bytes]) -> None:
        if self.is_too_deep:
            raise self._too_deep()
        inner = self.target / f"nested-{self.meter.files}.zip"
        try:
            _write(head, chunks, inner)
            with inner.open("rb") as stream:
                opens = is_zip(stream)
            if opens:
                _unpack_zip(inner, self.target, self.meter, self.depth + 1)
            elif file_kinds.archive_kind(head) or file_kinds.is_macos(name):
                _pass_over_by_content(name, head, self.meter)
            else:
                self.meter.passed_over[PassedOver.FALSE_ZIP] += 1
        finally:
            inner.unlink(missing_ok=True)

    def _unreadable(self, entry: zipfile.ZipInfo) -> tuple[RefusedError, PassedOver] | None:
        """Why an entry cannot be read by what the table of contents says of it, and what it counts as where it is no image."""
        if _mode(entry) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            return RefusedError(Code.ZIP_LINK, f"{self.words} has an entry that is a device, a pipe or a socket."), PassedOver.DEVICE
        if entry.flag_bits & 0x41:
            return RefusedError(Code.ZIP_ENCRYPTED, f"{self.words} is encrypted."), PassedOver.ENCRYPTED
        if entry.compress_type in _METHODS:
            return None
        method = _METHOD_NAMES.get(entry.compress_type, "a method")
        cause = f"{self.words} uses {method} (compression method {entry.compress_type}), which is not read here."
        if entry.compress_type == _DEFLATE64:
            cause += " Windows Explorer does so for files over 2 GB; other zip programs use deflate."
        return RefusedError(Code.ZIP_COMPRESSION, cause), PassedOver.COMPRESSION

    def _pass_over_unreadable(self, entry: zipfile.ZipInfo, name: str, error: RefusedError, kind: PassedOver) -> None:
        too_short = kind in (PassedOver.ENCRYPTED, PassedOver.COMPRESSION) and entry.file_size < file_kinds.DICOM_BYTES
        is_file = kind is PassedOver.DEVICE and entry.file_size > 0  # nobody knows what it is: a device holds nothing
        if is_file or not (too_short or file_kinds.is_no_image(name)):
            raise error
        self.meter.passed_over[kind] += 1

    def _pass_over_link(self, entry: zipfile.ZipInfo, name: str) -> None:
        to = self._target(entry)
        if (file_kinds.is_image_name(name) or file_kinds.is_image_name(to)) and not file_kinds.is_no_image(name):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(name), to))
            if not to or place not in self._places:
                raise RefusedError(Code.ZIP_LINK, f"{self.words} has a link to what may be an image and is not in the zip.")
        self.meter.passed_over[PassedOver.LINK] += 1

    def _target(self, entry: zipfile.ZipInfo) -> str:
        """What a link names; empty where that cannot be read."""
        to = b""
        if not self._unreadable(entry):
            with closing(_chunks(self.opened, entry, self.meter, self.words)) as chunks:
                to = next(chunks, b"")
        if entry.file_size > _LINK_BYTES or b"\0" in to:
            raise RefusedError(Code.ZIP_LINK, f"{self.words} has a file that claims to be a link and holds more than a name.")
        return to.decode("utf-8", "replace")

    @cached_property
    def _places(self) -> frozenset[str]:
        """Every file and folder of the zip, without its links."""
        paths = [PurePosixPath(posixpath.normpath(_name(entry))) for entry in self.opened.infolist() if _mode(entry) != stat.S_IFLNK]
        return frozenset(str(place) for path in paths for place in (path, *path.parents))

    @staticmethod
    def _too_deep() -> RefusedError:
        return RefusedError(Code.ZIP_NESTED, "A zip inside the upload that is not opened holds DICOM files or a further zip.")


def _unpack_zip(archive: Path, target: Path, meter: _Meter, depth: int) -> None:
    with archive.open("rb") as stream, open_zip(stream, meter.limits.files, inside=depth > 0) as opened:
        found = _Zip(opened, target, meter, depth)
        for entry in opened.infolist():
            found.take(entry)


def _is_zip_to_open(name: str, head: bytes) -> bool:
    """Whether an entry is named as a zip, or is one and not a document or a program that is built as one (``.docx``, ``.jar``)."""
    return name.lower().endswith(".zip") or (_begins_as_zip(head) and not file_kinds.is_no_image(name))


def _begins_as_zip(head: bytes) -> bool:
    return head.startswith((file_kinds.LOCAL_HEADER, file_kinds.SPLIT_HEADER))


def _checked_name(entry: zipfile.ZipInfo, words: str) -> str:
    """The name of an entry with slashes. Refuses names that leave the folder and those with control characters."""
    name = _name(entry)
    control = _CONTROL.search(name)
    if len(name) > _NAME_CHARACTERS or (control and not (file_kinds.is_icon(name) and control.end() == len(name))):
        raise RefusedError(Code.ZIP_UNSAFE_NAME, f"{words} has an entry whose name is far too long or holds control characters.")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/") or not name.strip("/"):
        raise RefusedError(Code.ZIP_UNSAFE_NAME, f"{words} has an entry whose name is absolute or leads out of its folder.")
    return name


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.orig_filename.replace("\\", "/")


def _mode(entry: zipfile.ZipInfo) -> int:
    """The kind of file as unix writes it; 0 where the zip was made elsewhere."""
    return stat.S_IFMT(entry.external_attr >> 16)


def _chunks(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, meter: _Meter, words: str) -> Generator[bytes]:
    """The content of an entry, its head first, counted as it comes: declared sizes are claims. zipfile checks the CRC at the end."""
    try:
        with opened.open(entry) as source:
            size = file_kinds.HEAD_BYTES
            while chunk := source.read(size):
                meter.bytes(len(chunk))
                yield chunk
                size = CHUNK
    except (RefusedError, FailedError, GeneratorExit):
        raise
    except Exception as error:  # zlib.error, EOFError, BadZipFile, struct.error: the content is damaged
        _raise_if_disk(error)
        raise RefusedError(Code.ZIP_DAMAGED, f"{words} has a damaged file (checksum or length is wrong).") from error


def _write(head: bytes, rest: Iterator[bytes], path: Path) -> None:
    try:
        with path.open("xb") as target:
            target.write(head)
            for chunk in rest:
                target.write(chunk)
    except OSError as error:
        _raise_if_disk(error)
        raise


def _raise_if_disk(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise FailedError(Code.DISK_FULL, "The host's disk is full.") from error


def with_free_space(limits: IntakeLimits, free_bytes: int) -> IntakeLimits:
    """The same limits on a disk with ``free_bytes`` left: a tenth stays free, so that nobody else on the host meets a full disk."""
    return replace(limits, disk_bytes=max(1, free_bytes * 9 // 10))
