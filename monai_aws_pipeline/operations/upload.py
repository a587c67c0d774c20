"""Putting a study under ``input/`` and waiting for its answer.

Errors and results name jobs by their ids and an argument as the user typed it; nothing from inside an upload is ever repeated.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import stat
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import silently, telling_state, wait_until
from monai_aws_pipeline.contract import (
    INPUT_PREFIX,
    ResultRecord,
    job_id,
    version_of,
)
from monai_aws_pipeline.operations.errors import NotAnsweredError, OperationError
from monai_aws_pipeline.operations.results_store import ResultsStore

ANSWER_ALLOWANCE_SECONDS: Final = 900.0
"""How long an answer may take on top of twice the MAP's time limit: waking a host, pulling the MAP, waiting behind a few studies."""
_STATE_SECONDS: Final = 5.0
"""Between two looks at queues and hosts; a running host is asked through Run Command, which costs nothing."""


class UploadError(OperationError):
    """What should be uploaded is no study."""


@dataclass(frozen=True)
class Uploaded:
    """One upload: the key it has in the bucket, the job it becomes, its size in bytes."""

    key: str
    job: str
    bytes: int


def check_upload(path: Path) -> None:
    """Whether a path can be uploaded: a zip, or a folder with files and without links. Raises UploadError."""
    if not path.exists():
        raise UploadError(f"There is no {path}. Name a .zip of one study, or the folder that holds its DICOM files.")
    if path.is_dir():
        if not sum(size for _, size in _files(path)):
            raise UploadError(f"The folder {path} is empty. Name the folder that holds the study's DICOM files.")
    elif not path.is_file():
        raise UploadError(f"{path} is neither a file nor a folder.")
    elif not path.stat().st_size:
        raise UploadError(f"{path} is empty. Export the study again.")
    elif not zipfile.is_zipfile(path):
        raise UploadError(f"{path} is not a zip. Zip the study's DICOM files, or name the folder that holds them.")


def pack(folder: Path, target: Path) -> None:
    """Zip a folder; the same files give the same zip, so that the same study uploaded twice is one job. Raises UploadError."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, size in _files(folder):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # dated 1980: the files' own times do not count
            info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size  # the size decides about zip64
            # A link put there in the meantime is not followed either.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source, archive.open(info, "w") as member:
                while block := source.read(1 << 20):
                    member.write(block)


def upload_key(archive: Path, again: bool = False) -> str:
    """The key of an upload, from its content alone: the file's own name may be a patient's. ``again`` makes it another job each time."""
    with archive.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()[:20]
    return f"{INPUT_PREFIX}{name}{f'-{secrets.token_hex(4)}' if again else ''}.zip"


def upload_study(
    clients: Clients, bucket: str, archive: Path, again: bool = False, progress: Callable[[int], object] | None = None
) -> Uploaded:
    """Upload a zip, in parts where it is large. ``progress`` is told of bytes that went, from several threads."""
    key = upload_key(archive, again)
    clients.s3.upload_file(str(archive), bucket, key, Callback=progress)
    head = clients.s3.head_object(Bucket=bucket, Key=key)
    return Uploaded(key, job_id(bucket, key, version_of(head.get("VersionId")) or head["ETag"]), head["ContentLength"])


def wait_answer(
    store: ResultsStore,
    job: str,
    seconds: float,
    where: Callable[[], str] = lambda: "",
    report: Report = silently,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ResultRecord, ...]:
    """Wait until every study of a job has its commit record. Raises NotAnsweredError.

    ``where``: where the job is (``whereabouts``), asked every few seconds; told when it changes and every 10 s, also while it is asked.
    """
    asked = -math.inf

    def answers() -> tuple[ResultRecord, ...]:
        nonlocal asked
        if found := store.answers(job):
            return found
        if clock() - asked >= _STATE_SECONDS:
            state, asked = where(), clock()
            tell(f"waiting for job {job}" + (f": {state}" if state else ""))
        tell.again()
        return ()

    with telling_state(report, clock=clock) as tell:
        records = wait_until(answers, bool, seconds, what="", sleep=sleep, clock=clock)
    if not records:
        raise NotAnsweredError(
            f"Job {job} has no result after {seconds:.0f} s. It stays queued and nothing is lost.",
            f"Where it is says: monai-aws status --job {job}",
        )
    return records


def _files(folder: Path) -> list[tuple[Path, int]]:
    """All files below a folder with their sizes, sorted. Raises UploadError for a link or anything else that is no plain file."""
    found = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat()
        if stat.S_ISREG(mode.st_mode):
            found.append((path, mode.st_size))
        elif not stat.S_ISDIR(mode.st_mode):
            kind = "a link" if stat.S_ISLNK(mode.st_mode) else "something that is no file"
            raise UploadError(
                f"The folder {folder} holds {kind}. Upload a folder of plain files: what a link leads to may not be the study's."
            )
    return found
