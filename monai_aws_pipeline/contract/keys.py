"""Where everything lies in the bucket, and the identities that keys are made of. The layout is explained in docs/architecture.md."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from datetime import UTC, date, datetime
from typing import Final

from monai_aws_pipeline.contract.parsing import ContractError, hex_digits

INPUT_PREFIX: Final = "input/"
OUTPUT_PREFIX: Final = "output/"
INDEX_PREFIX: Final = "results-index/"
JOBS_PREFIX: Final = "jobs/"
PROCESSED_PREFIX: Final = "processed/"
QUARANTINE_PREFIX: Final = "quarantine/"
GOLDEN_PREFIX: Final = "golden/"
MAPS_PREFIX: Final = "maps/"
DAYS_PREFIX: Final = "days/"
ARCHIVE_PREFIX: Final = "archive/"
READY_MARKER: Final = "_READY"


def study_id(secret: bytes, study_instance_uid: str) -> str:
    """The pseudonym of a study: 16 hex digits of HMAC-SHA256(secret, StudyInstanceUID)."""
    if not secret:
        raise ContractError("the study key secret is empty; a pseudonym without a secret could be reversed")
    return hmac.new(secret, study_instance_uid.strip(" \0").encode(), hashlib.sha256).hexdigest()[:16]


def job_id(bucket: str, key: str, version: str, request: str = "") -> str:
    """The identity of one piece of work: 32 hex digits, the same for every duplicate of the same upload.

    ``version`` is the object's version id, or its ETag where the bucket has no versions. ``request`` is empty for an upload, and
    for a re-run what it asks for (``job.Rerun``). The parts are hashed as a JSON array, so that no two different tuples share a
    serialisation.
    """
    parts = json.dumps([bucket, key, version.strip('"'), request], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def version_of(version_id: str | None) -> str:
    """The version id of an object, empty where its bucket keeps no versions: there S3 says ``null`` or nothing."""
    return "" if version_id in (None, "null") else str(version_id)


def sha256_text(text: str) -> str:
    """SHA-256 of a text in hex, for keys that may hold a person's name and must not be written down.

    A key with an unpaired surrogate is hashed as its escaped form instead of failing.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def output_key(study: str, job: str, name: str) -> str:
    """Key of one output of a study, for example ``output/STUDY/JOB/dicom/seg.dcm``."""
    return f"{OUTPUT_PREFIX}{hex_digits(study, 16, 'study')}/{hex_digits(job, 32, 'job')}/{_safe_name(name)}"


def result_key(study: str, job: str) -> str:
    """Key of the commit record of a study that was answered."""
    return output_key(study, job, "result.json")


def quarantine_key(job: str, name: str, study: str = "") -> str:
    """Key of one file kept aside for a job, or for one study of it, that was refused or failed for good."""
    folder = f"{hex_digits(study, 16, 'study')}/" if study else ""
    return f"{QUARANTINE_PREFIX}{hex_digits(job, 32, 'job')}/{folder}{_safe_name(name)}"


def processed_key(study: str, job: str, name: str) -> str:
    """Key that an answered original is moved to. ``name`` is ours (``upload.zip``): the uploader's name is not carried along."""
    return f"{PROCESSED_PREFIX}{hex_digits(study, 16, 'study')}/{hex_digits(job, 32, 'job')}/{_safe_name(name)}"


def archive_key(study: str, job: str) -> str:
    """Key of what the archive answered for a study and its results."""
    return f"{ARCHIVE_PREFIX}{hex_digits(study, 16, 'study')}/{hex_digits(job, 32, 'job')}.json"


def job_done_key(job: str) -> str:
    """Key of the marker written when every study of a job has committed."""
    return f"{JOBS_PREFIX}{hex_digits(job, 32, 'job')}.json"


def decisions_key(job: str) -> str:
    """Key of the object that says how a job ended, or each study of it: the one place where rival ends of a job meet."""
    return f"{JOBS_PREFIX}{hex_digits(job, 32, 'job')}/decisions.json"


def folder_key(job: str) -> str:
    """Key of the list of what a folder held when its job first looked: what the job may read, keep and remove."""
    return f"{JOBS_PREFIX}{hex_digits(job, 32, 'job')}/folder.json"


def golden_key(sha256: str) -> str:
    """Key of a golden study, its reference or its expectation: named by its content, so that it can be checked and never changes."""
    return f"{GOLDEN_PREFIX}{hex_digits(sha256, 64, 'sha256')}"


def sbom_key(digest: str) -> str:
    """Key of the bill of materials of the MAP with a digest (``sha256:…``)."""
    return f"{MAPS_PREFIX}{hex_digits(digest.removeprefix('sha256:'), 64, 'digest')}/sbom.cdx.json"


def change_key(digest: str, description: str) -> str:
    """Key of what is kept of a change of the live MAP to a digest, beside the description that its parameter has room for."""
    name = sha256_text(description)[:16]
    return f"{MAPS_PREFIX}{hex_digits(digest.removeprefix('sha256:'), 64, 'digest')}/changes/{name}.json"


def index_key(committed_at: datetime, job: str, study: str = "") -> str:
    """Key of the sensor's entry, derived from the commit record alone, so that whoever repairs it writes the same key.

    ``results-index/YYYY/MM/DD/HH/JOB.json``; a job with several studies has ``JOB-STUDY.json`` for each.
    """
    name = hex_digits(job, 32, "job") + (f"-{hex_digits(study, 16, 'study')}" if study else "")
    return f"{index_hour_prefix(committed_at)}{name}.json"


def index_hour_prefix(moment: datetime) -> str:
    """Prefix under which all entries of one UTC hour lie."""
    return f"{INDEX_PREFIX}{moment.astimezone(UTC):%Y/%m/%d/%H}/"


def is_marker(key: str) -> bool:
    """Whether an object completes the folder that it lies in. Directly under ``input/`` there is no folder to complete."""
    return key.startswith(INPUT_PREFIX) and key.endswith(f"/{READY_MARKER}") and key != INPUT_PREFIX + READY_MARKER


def is_folder_part(key: str) -> bool:
    """Whether an object below ``input/FOLDER/`` belongs to the folder: no marker, and no .zip, which is an upload of its own.

    What has no bytes belongs to it too, as S3 consoles create for a folder (``input/FOLDER/``), and is no file of the study.
    """
    return not key.endswith(f"/{READY_MARKER}") and not key.lower().endswith(".zip")


def is_upload(key: str, size: int) -> bool:
    """Whether an object of so many bytes is a job when it arrives: a .zip, a folder's marker, or anything directly under ``input/``.

    What lies in a folder belongs to the folder's job. ``input/`` and ``input/FOLDER/`` without bytes are what consoles create for folders.
    """
    if not key.startswith(INPUT_PREFIX):
        return False
    name = key.removeprefix(INPUT_PREFIX)
    return is_marker(key) or name.lower().endswith(".zip") or ("/" not in name and (name != "" or size > 0))


def _safe_name(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or not all(re.fullmatch(r"[A-Za-z0-9._-]+", part) for part in parts):
        raise ContractError("a file name of ours holds only letters, digits, '.', '_' and '-'")
    return name


def day_key(day: date) -> str:
    """Key of the table of all that ended on one UTC day."""
    return f"{DAYS_PREFIX}{day:%Y/%m/%d}.csv"


def index_day_prefix(day: date) -> str:
    """Prefix under which all entries of one UTC day lie."""
    return f"{INDEX_PREFIX}{day:%Y/%m/%d}/"
