"""The upload itself: what kind of source a job names, bringing it to this host, and where the original goes afterwards.

Here belongs the life of the original object or folder: fetched, kept under ``processed/`` or ``quarantine/``, and only then removed from
``input/``. Removal comes last and only when the kept copy exists, so that no crash loses a study.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from monai_aws_pipeline.contract import (
    INPUT_PREFIX,
    PROCESSED_PREFIX,
    READY_MARKER,
    JobMessage,
    ResultRecord,
    Status,
    is_folder_part,
    is_marker,
    processed_key,
    quarantine_key,
)
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake import IntakeLimits, Unpacked, check_size, keep_dicom, unpack
from monai_aws_pipeline.host_agent.store import Store, StoredObject

_RERUN_KEY = re.compile(re.escape(PROCESSED_PREFIX) + r"([0-9a-f]{16})/[0-9a-f]{32}/upload\.zip")


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
        found = _RERUN_KEY.fullmatch(message.key)
        if not found:
            raise RefusedError(Code.BAD_REQUEST, "The re-run does not name an original under processed/.")
        return Source(Kind.RERUN, found[1])
    if not message.key.startswith(INPUT_PREFIX):
        raise RefusedError(Code.UPLOAD_TYPE, "The object does not lie under input/.")
    if is_marker(message.key):
        return Source(Kind.FOLDER)
    if message.key.lower().endswith(".zip"):
        return Source(Kind.ZIP)
    raise RefusedError(Code.UPLOAD_TYPE, "The upload is neither a .zip nor a folder with its marker.")


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
    parts = _parts_of(store, marker)
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


def keep(store: Store, message: JobMessage, kind: Kind, records: Iterable[ResultRecord], packed: Path) -> None:
    """Copy the original to where its answers say: ``processed/STUDY/JOB/`` of each answered study, ``quarantine/JOB/`` for any other end.

    The original of a re-run stays where it is. A folder is kept as the zip that was packed from it (``packed``), or, when it was refused
    before that, file by file.
    """
    if kind is Kind.RERUN:
        return
    for target in sorted(kept_keys(message, kind, records)):
        if kind is Kind.ZIP:
            store.copy(message.key, message.version, message.size, target)
        elif packed.is_file():
            store.upload(packed, target, "application/zip")
        else:
            marker = _marker(store, message)
            parts = _parts_of(store, marker) if marker and _is_of(store, marker, message) else []
            for number, part in enumerate(parts, start=1):
                store.copy(part.key, "", part.size, quarantine_key(message.job, f"upload/{number:06d}"))


def kept_keys(message: JobMessage, kind: Kind, records: Iterable[ResultRecord]) -> set[str]:
    """Where the original is kept, by how its studies ended."""
    name = upload_name(message, kind)
    return {
        processed_key(record.study, record.job, "upload.zip") if record.status is Status.SUCCEEDED else quarantine_key(record.job, name)
        for record in records
    }


def upload_name(message: JobMessage, kind: Kind) -> str:
    """``upload`` and the extension of the uploader's name where that is a plain one; the name itself may be a patient's."""
    suffix = ".zip" if kind is Kind.FOLDER else PurePosixPath(message.key).suffix.lower()
    return f"upload{suffix}" if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "upload.bin"


def remove(store: Store, message: JobMessage, kind: Kind) -> None:
    """Remove what was answered from ``input/``; what arrived there after the folder's marker is left for its own job.

    The marker goes last: files without one were never answered. Both times compared are the bucket's own, so a host whose clock is wrong
    removes nothing too much.
    """
    if kind is Kind.ZIP:
        store.delete(message.key, message.version, message.etag)
    elif kind is Kind.FOLDER:
        marker = _marker(store, message)
        if marker is None or not _is_of(store, marker, message):
            return  # removed already, or a newer marker has made the folder somebody else's job
        for part in _parts_of(store, marker):
            store.delete(part.key, "", part.etag)
        store.delete(marker.key, message.version, marker.etag)


def _marker(store: Store, message: JobMessage) -> StoredObject | None:
    """The folder's marker as a listing has it, because its time is compared with those of listed files: S3's other answers round."""
    return next((item for item in store.list(message.key) if item.key == message.key), None)


def _is_of(store: Store, marker: StoredObject, message: JobMessage) -> bool:
    """Whether the marker is the one that made the job: in a bucket with versions an equal one may be another upload's."""
    if marker.etag != message.etag:
        return False
    found = store.find(message.key) if message.version else None
    return not message.version or (found is not None and found.version == message.version)


def _parts_of(store: Store, marker: StoredObject) -> list[StoredObject]:
    """What was in the folder when the marker completed it."""
    folder = marker.key.removesuffix(READY_MARKER)
    return [item for item in store.list(folder) if item.size and item.modified <= marker.modified and is_folder_part(item.key)]


def _pack(files: list[Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in files:
            archive.write(path, path.name)
