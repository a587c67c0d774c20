"""The upload itself: what kind of source a job names, bringing it to this host, and where the original goes afterwards.

Here belongs the life of the original object or folder: fetched, kept under ``processed/`` or ``quarantine/``, and only then removed from
``input/``. Removal comes last and only when the kept copy exists, so that no crash loses a study. Only what the job's own upload was is
kept or removed: a name under ``input/`` may hold another patient's study at any moment, so each copy and each removal names the version or
ETag of the job's own object. What a folder held is written down when its job first looks (``jobs/JOB/folder.json``), and counts from then
on for every try, on every host.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from monai_aws_pipeline.contract import (
    INPUT_PREFIX,
    JOB_PATTERN,
    PROCESSED_PREFIX,
    QUARANTINE_PREFIX,
    READY_MARKER,
    STUDY_PATTERN,
    ContractError,
    JobMessage,
    Rerun,
    ResultRecord,
    Status,
    folder_key,
    is_folder_part,
    is_marker,
    processed_key,
    quarantine_key,
)
from monai_aws_pipeline.host_agent.aws.bucket import Store, StoredObject
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits, Unpacked, check_size, keep_dicom, unpack

FOLDER_SCHEMA: Final = "monai-aws/folder/1"
_ANSWERED_KEY: Final = re.compile(re.escape(PROCESSED_PREFIX) + rf"({STUDY_PATTERN})/{JOB_PATTERN}/upload\.zip")
_QUARANTINED_KEY: Final = re.compile(re.escape(QUARANTINE_PREFIX) + rf"{JOB_PATTERN}/upload\.zip")
_CONTENT_TYPES: Final = {".zip": "application/zip", ".dcm": "application/dicom"}
_KNOWN_SUFFIXES: Final = (
    ".zip", ".dcm", ".dicom", ".ima", ".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".gz", ".bz2", ".xz",
    ".zst", ".iso", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".raw", ".npy", ".npz", ".h5", ".stl", ".png", ".jpg", ".jpeg", ".tif",
    ".tiff", ".pdf", ".txt", ".csv", ".json", ".xml", ".hl7",
)  # fmt: skip
"""The extensions that a kept copy keeps. Any other is left off: what stands behind the last dot of a name may be a patient's."""


class Kind(StrEnum):
    """What a job's key stands for."""

    ZIP = "zip"
    FOLDER = "folder"
    RERUN = "rerun"


@dataclass(frozen=True)
class Source:
    """Kind of a job's source; ``only_study`` names the study to infer of an original that may hold several (re-runs)."""

    kind: Kind
    only_study: str = ""


@dataclass(frozen=True)
class FetchedUpload:
    """The DICOM files of an upload, the bytes downloaded, and how many files of which kind were passed over."""

    files: tuple[Path, ...]
    bytes: int
    passed_over: Mapping[str, int]


def source_of(message: JobMessage) -> Source:
    """Decide by key and request alone. Raises RefusedError for a key that is no upload and no original."""
    if message.request:
        return Source(Kind.RERUN, _study_of_rerun(message))
    if not message.key.startswith(INPUT_PREFIX):
        raise RefusedError(Code.UPLOAD_TYPE, "The object does not lie under input/.")
    if is_marker(message.key):
        return Source(Kind.FOLDER)
    if message.key.lower().endswith(".zip"):
        return Source(Kind.ZIP)
    raise RefusedError(Code.UPLOAD_TYPE, "The upload is neither a .zip nor a folder with its marker.")


def _study_of_rerun(message: JobMessage) -> str:
    """The one study that a re-run is about: named by the key of an answered original, and by the request where the key names none."""
    try:
        wanted = Rerun.parse(message.request)
    except ContractError as error:
        raise RefusedError(Code.BAD_REQUEST, "The re-run names no MAP digest, or more than one study.") from error
    answered = _ANSWERED_KEY.fullmatch(message.key)
    if not answered and not _QUARANTINED_KEY.fullmatch(message.key):
        raise RefusedError(Code.BAD_REQUEST, "The re-run does not name an original under processed/ or quarantine/.")
    study = answered[1] if answered else wanted.study
    if not study or wanted.study not in ("", study):
        raise RefusedError(Code.BAD_REQUEST, "The re-run does not say which study of the original it means, or says it of another's.")
    return study


def fetch(store: Store, message: JobMessage, kind: Kind, folder: Path, limits: IntakeLimits) -> FetchedUpload:
    """Bring the source here and unpack it. Raises RefusedError or FailedError."""
    files = folder / "unpacked"
    files.mkdir()
    if kind is Kind.FOLDER:
        size, unpacked = _fetch_folder(store, message, files, limits)
    else:
        check_size(message.size, limits)
        archive = folder / "upload.zip"
        size = store.download(message.key, message.version, message.etag, archive)
        unpacked = unpack(archive, files, limits)
    return FetchedUpload(tuple(sorted(files.glob("*.dcm"))), size, unpacked.passed_over)


def _fetch_folder(store: Store, message: JobMessage, files: Path, limits: IntakeLimits) -> tuple[int, Unpacked]:
    marker = _marker(store, message)
    if marker is None:
        raise RefusedError(Code.UPLOAD_MISSING, "The folder's marker is no longer in the bucket.")
    if not _is_of(store, marker, message):
        raise RefusedError(Code.UPLOAD_REPLACED, "The folder was completed again by another marker.")
    contents = _contents(store, message, marker)
    parts = [part for part in contents.files if part]
    if len(parts) < len(contents.files):
        raise RefusedError(Code.UPLOAD_REPLACED, "A file of the folder was replaced or removed after the folder was completed.")
    if not parts:
        others = "a .zip in it is an upload of its own, and so is a subfolder with a marker"
        raise RefusedError(Code.EMPTY_UPLOAD, f"The folder held no file with content when it was completed; {others}.")
    size = sum(part.size for part in parts)
    check_size(size, limits)
    if len(parts) > limits.files:
        raise RefusedError(Code.ZIP_TOO_MANY_FILES, f"The folder holds more than {limits.files} files.")
    if limits.disk_bytes and 2 * size > limits.disk_bytes:  # its files, and the zip that is kept of them
        raise FailedError(Code.DISK_FULL, "The folder is larger than what the host's disk has room for.")
    local = []
    for number, part in enumerate(parts, start=1):
        local.append(files / f"{number:06d}.dcm")
        store.download(part.key, "", part.etag, local[-1])
    _pack(local, files.parent / "upload.zip")
    return size, keep_dicom(local, limits)


# ---------------------------------------------------------------------------------------------------------------------------- kept


def keep(store: Store, message: JobMessage, kind: Kind, records: Iterable[ResultRecord], fetched: Path) -> None:
    """Store the original where its answers say: ``processed/STUDY/JOB/`` of each answered study, ``quarantine/JOB/`` for any other end.

    An object is copied within the bucket while it is still the one of the job; where something newer has its name, or nothing, the file
    that this host has (``fetched``) is stored in its place, and without one nothing is: what is newer is another job's. A folder is kept as
    the zip that was made of it (``fetched`` too), or, when it was refused before that, file by file. The original of a re-run stays.
    """
    if not _is_ours_to_move(message, kind):
        return
    records = tuple(records)
    for target in sorted(kept_keys(message, kind, records)):
        content_type = _content_type(target)
        if kind is Kind.ZIP and store.copy(message.key, message.version, message.etag, message.size, target, content_type):
            continue
        if fetched.is_file() and (kind is Kind.FOLDER or store.find(target) is None):
            store.upload(fetched, target, content_type)
    if kind is Kind.FOLDER and not fetched.is_file() and any(record.status is not Status.SUCCEEDED for record in records):
        _keep_parts(store, message)


def kept_keys(message: JobMessage, kind: Kind, records: Iterable[ResultRecord]) -> set[str]:
    """Where the original is kept, by how its studies ended."""
    name = upload_name(message, kind)
    return {
        processed_key(record.study, record.job, "upload.zip") if record.status is Status.SUCCEEDED else quarantine_key(record.job, name)
        for record in records
    }


def upload_name(message: JobMessage, kind: Kind) -> str:
    """``upload`` and the extension of the uploader's name where that is a usual one; anything else of the name may be a patient's."""
    name = message.key.rpartition("/")[2].lower()
    suffixes = [".zip"] if kind is Kind.FOLDER else [suffix for suffix in _KNOWN_SUFFIXES if name.endswith(suffix)]
    return f"upload{max(suffixes, key=len, default='.bin')}"


def _keep_parts(store: Store, message: JobMessage) -> None:
    marker = _marker(store, message)
    if marker is None or not _is_of(store, marker, message):
        return
    for number, part in enumerate(_contents(store, message, marker).files, start=1):
        if part:
            store.copy(part.key, "", part.etag, part.size, _part_key(message, number), _content_type(""))


def _part_key(message: JobMessage, number: int) -> str:
    return quarantine_key(message.job, f"upload/{number:06d}")


def _content_type(key: str) -> str:
    return next((kind for suffix, kind in _CONTENT_TYPES.items() if key.endswith(suffix)), "application/octet-stream")


def _is_ours_to_move(message: JobMessage, kind: Kind) -> bool:
    """The original of a re-run stays, and a message that names anything else outside ``input/`` moves nothing."""
    return kind is not Kind.RERUN and message.key.startswith(INPUT_PREFIX)


# ------------------------------------------------------------------------------------------------------------------------- removed


def complete(store: Store, message: JobMessage, kind: Kind, records: Sequence[ResultRecord]) -> None:
    """Complete what a crash left undone after the job was marked done; ``input/`` may hold the very same upload once more as well.

    In a bucket without versions the same bytes under the same key are the same job, which has its end. One that ended without its upload
    (``upload_replaced``) keeps it now.
    """
    if not _is_ours_to_move(message, kind):
        return
    if kind is Kind.ZIP:
        for target in sorted(kept_keys(message, kind, records)):
            if store.find(target) is None:
                store.copy(message.key, message.version, message.etag, message.size, target, _content_type(target))
    remove(store, message, kind, records)


def remove(store: Store, message: JobMessage, kind: Kind, records: Sequence[ResultRecord]) -> None:
    """Remove from ``input/`` what was answered and is kept, each object only while it is the one that was.

    Of a folder go the files and empty objects that its job found; what arrived later is left for its own job. The marker goes last: files
    without one were never answered. In a bucket with versions an upload's own version is removed, and files are hidden behind a delete
    marker: taking their version away would bring an older file of that name back.
    """
    if not _is_ours_to_move(message, kind):
        return
    wanted = kept_keys(message, kind, records)
    kept = bool(wanted) and all(store.find(key) for key in wanted)
    if kind is Kind.FOLDER:
        _remove_folder(store, message, kept)
    elif kept:
        store.delete(message.key, message.version, message.etag)


def _remove_folder(store: Store, message: JobMessage, kept: bool) -> None:
    marker = _marker(store, message)
    if marker is None or not _is_of(store, marker, message):
        if message.version:  # a newer marker has made the folder another job's; this one's own version must not come back when that goes
            store.delete(message.key, message.version)
        return
    contents = _contents(store, message, marker, first_look=False)
    by_part = set() if kept else {item.key for item in store.list(_part_key(message, 1).removesuffix("000001"))}
    left = False
    for number, part in enumerate(contents.files, start=1):
        if part and (kept or _part_key(message, number) in by_part):
            store.delete(part.key, "", part.etag)
        elif part:
            left = True
    for empty in contents.empty:
        if empty:
            store.delete(empty.key, "", empty.etag)
    if not left:
        store.delete(marker.key, message.version, marker.etag)


# ------------------------------------------------------------------------------------------------------------------------- folders


@dataclass(frozen=True)
class _Contents:
    """What of a folder's first look is still there, in that order: its files, and its objects without bytes; None for what is not."""

    files: tuple[StoredObject | None, ...] = ()
    empty: tuple[StoredObject | None, ...] = ()


def _contents(store: Store, message: JobMessage, marker: StoredObject, *, first_look: bool = True) -> _Contents:
    """What was in the folder when the marker completed it, by the list that the job's first look left.

    Without a list this is the first look, unless that may not be (``first_look``): then nothing was read. By times alone a later look could
    find more: S3 dates an object that is uploaded in parts at the beginning of its upload and lists it at the end.
    """
    there = list(store.list(marker.key.removesuffix(READY_MARKER)))
    # Both times are the bucket's own, so no host's clock matters.
    listed = {_fingerprint(item): item for item in there if item.modified <= marker.modified and is_folder_part(item.key)}
    text = store.read(folder_key(message.job))
    if not text and not first_look:
        return _Contents()
    if not text:
        # A marker deeper inside makes a job of the subfolder that it lies in, and what is in there is that job's alone.
        others = tuple(item.key.removesuffix(READY_MARKER) for item in there if is_marker(item.key) and item.key != marker.key)
        own = {mark: item for mark, item in listed.items() if not item.key.startswith(others)}
        found = {
            name: [mark for mark, item in own.items() if bool(item.size) is sized] for name, sized in (("files", True), ("empty", False))
        }
        text = json.dumps({"schema": FOLDER_SCHEMA, "job": message.job, **found}, separators=(",", ":"), sort_keys=True)
        if not store.put_once(folder_key(message.job), text):
            text = store.read(folder_key(message.job)) or text
    data = json.loads(text)
    return _Contents(*(tuple(listed.get(mark) for mark in data[name]) for name in ("files", "empty")))


def _fingerprint(item: StoredObject) -> str:
    """Tells one object of a folder from every other, also from a later one of the same name, and tells nobody its name."""
    about = json.dumps([item.key, item.etag, item.size, item.modified.isoformat()])
    return hashlib.sha256(about.encode()).hexdigest()[:32]


def _marker(store: Store, message: JobMessage) -> StoredObject | None:
    """The folder's marker as a listing has it, because its time is compared with those of listed files: S3's other answers round."""
    return next((item for item in store.list(message.key) if item.key == message.key), None)


def _is_of(store: Store, marker: StoredObject, message: JobMessage) -> bool:
    """Whether the marker is the one that made the job: in a bucket with versions an equal one may be another upload's."""
    if marker.etag != message.etag:
        return False
    found = store.find(message.key) if message.version else None
    return not message.version or (found is not None and found.version == message.version)


def _pack(files: list[Path], target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in files:
            archive.write(path, path.name)
    partial.rename(target)  # a pack that fails half-way must never be kept as the original
