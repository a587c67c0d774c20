"""Results and log of a job, or of a study's latest answer, into a folder of this machine. Behind ``monai-aws get``.

A record is what somebody may have written into the bucket: a key in it counts only where it lies in the record's own folder there, and no
file leaves the folder here. What is fetched is held against the SHA-256 that the record names, and nothing that is there already is written
over.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monai_aws_pipeline.contract import ContractError, OutputFile, ResultRecord, commit_keys, is_job, is_study, quarantine_key
from monai_aws_pipeline.operations.errors import OperationError
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError

RECORD_NAME: Final = "result.json"


class FetchError(OperationError):
    """Results cannot be fetched, or not all of them."""


@dataclass(frozen=True)
class Fetched:
    """One file of a result. ``trouble``: why it was not fetched; ``kept``: it was there already, the same to the byte."""

    path: Path
    bytes: int
    kept: bool = False
    trouble: str = ""


def records_of(store: ResultsStore, wanted: str) -> tuple[ResultRecord, ...]:
    """The records that are meant: of a job all of its studies, of a study its latest answer. Raises FetchError."""
    if is_job(wanted):
        if found := store.answers(wanted):
            return found
        raise FetchError(f"Job {wanted} has no result in the bucket.", f"Where it is says: monai-aws status --job {wanted}")
    if is_study(wanted):
        if latest := store.latest_answer(wanted):
            return (latest,)
        raise FetchError(
            f"Study {wanted} has no answer in the bucket.", "monai-aws failures lists those that failed, with the job that get takes too."
        )
    raise FetchError("That is neither a job nor a study.", "A job has 32 lower-case hex digits, a study 16: see monai-aws status.")


def fetch(store: ResultsStore, record: ResultRecord, folder: Path, advance: Callable[[int], object] = lambda _: None) -> Iterator[Fetched]:
    """Fetch what a record names into ``folder/STUDY/JOB/``, one file after the other. Raises FetchError where the folder cannot be used.

    ``advance`` is told of the bytes as they come. A file that cannot be had is told as ``trouble``, and the others are fetched.
    """
    place = _folder(folder, (*([record.study] if record.study else ()), record.job))
    for output in record.outputs:
        try:
            name = _name(record, output)
            target = _folder(place, name.split("/")[:-1]) / name.rpartition("/")[2]
            yield _put(target, output.sha256, output.bytes, store.blocks(output.key), advance)
        except (FetchError, UnreadableResultError) as error:
            yield Fetched(place, 0, trouble=str(error))
    text = record.to_json().encode()
    yield _put(place / RECORD_NAME, hashlib.sha256(text).hexdigest(), len(text), iter([text]), lambda _: None)


def _name(record: ResultRecord, output: OutputFile) -> str:
    """The name of an output below its record's folder in the bucket. Raises FetchError for a key that lies elsewhere."""
    for commit in commit_keys(record.study, record.job):
        above = commit.removesuffix(RECORD_NAME)
        name = output.key.removeprefix(above)
        if name not in (output.key, RECORD_NAME):
            if commit == quarantine_key(record.job, RECORD_NAME) and "/" in name:
                break  # of another study of the same job
            try:
                quarantine_key(record.job, name)  # it judges names; which folder is ours was judged above
            except ContractError:
                break
            return name
    raise FetchError(f"The record of job {record.job} names an output that is none of its own; it is not fetched.")


def _folder(above: Path, parts: Sequence[str]) -> Path:
    """A folder below another, made where it is missing. Raises FetchError for a link, which may lead elsewhere, and for a file."""
    here = above
    try:
        here.mkdir(parents=True, exist_ok=True)
        for part in parts:
            here = here / part
            here.mkdir(exist_ok=True)
            if here.is_symlink():
                raise FetchError(f"{here} is a link; nothing is written through it.", "Name another folder: --to FOLDER")
    except OSError as error:
        raise FetchError(f"{here} cannot be used as a folder ({error.strerror}).", "Name another folder: --to FOLDER") from error
    return here


def _put(target: Path, sha256: str, size: int, blocks: Iterator[bytes], advance: Callable[[int], object]) -> Fetched:
    """Write a file that is what its record says, or none. Raises FetchError."""
    if _is_there(target, sha256):
        advance(size)
        return Fetched(target, size, kept=True)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            digest = hashlib.sha256()
            for block in blocks:
                if file.tell() + len(block) > size:
                    break  # longer than its record says; its SHA-256 tells
                file.write(block)
                digest.update(block)
                advance(len(block))
        if (digest.hexdigest(), part.stat().st_size) != (sha256, size):
            raise FetchError(f"{target.name} in the bucket is not what its record names (SHA-256); it is not kept.")
        os.link(part, target)  # unlike a rename it never takes another file's place
    except FileExistsError as error:
        raise _taken(target) from error
    except OSError as error:
        raise FetchError(f"{target} cannot be written ({error.strerror}).") from error
    finally:
        part.unlink(missing_ok=True)
    return Fetched(target, size)


def _is_there(target: Path, sha256: str) -> bool:
    """Whether a file is there already. Raises FetchError where something else has its name."""
    try:
        if not stat.S_ISREG(target.lstat().st_mode):
            raise _taken(target)
        with target.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FetchError(f"{target} cannot be read ({error.strerror}).") from error
    if not same:
        raise _taken(target)
    return True


def _taken(target: Path) -> FetchError:
    return FetchError(f"{target} is there already and is something else; it stays as it is.", "Name another folder: --to FOLDER")
