"""Import jobs of HealthImaging: what lies under a prefix of S3 is read with the rights of the job's role, stored, and reported by file.

A job that ends as COMPLETED may have failed files: only the manifests say. Its S3 calls go through the front door, signed with a session of
the data access role, so that IAM and bucket policies mean what they mean on AWS.
Source: HealthImaging Developer Guide, "Understanding import jobs".
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import identity
from .config import CloudConfig
from .imaging_files import Instance, RefusedFile, read_instance
from .imaging_store import ImageStore, Stored

Json = dict[str, Any]
MOST_FOLDERS: Final = 10_000
_SERVICE: Final = "medical-imaging.amazonaws.com"
_log: Final = logging.getLogger("local-cloud.imaging")


class _FailedJob(Exception):  # noqa: N818 - how a job ends
    """Why a job ends as FAILED."""


class ImportJobs:
    """Runs jobs, two at a time."""

    def __init__(self, config: CloudConfig, store: ImageStore) -> None:
        self._config, self._store = config, store
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="imaging-job")

    def start(self, job: str) -> None:
        """Let a job run as soon as there is a place."""
        self._threads.submit(self._run, job)

    def _run(self, job: str) -> None:
        row = self._store.rows("SELECT * FROM jobs WHERE id = ?", job)[0]
        properties: Json = json.loads(row["properties"])
        self._store.update_job(job, "IN_PROGRESS")
        try:
            self._import(job, str(row["datastore"]), properties)
        except (_FailedJob, ClientError, BotoCoreError) as error:
            self._store.update_job(job, "FAILED", endedAt=time.time(), message=_as_message(str(error)))
        except Exception:
            _log.exception("an import job broke")
            self._store.update_job(job, "FAILED", endedAt=time.time(), message="Internal error")
        else:
            self._store.update_job(job, "COMPLETED", endedAt=time.time())

    def _import(self, job: str, datastore: str, properties: Json) -> None:
        s3 = self._s3(properties["dataAccessRoleArn"], str(properties["region"]), job)
        source, prefix = _split(str(properties["inputS3Uri"]))
        keys = list(_keys(s3, source, prefix))
        if nested_folders(keys, prefix) > MOST_FOLDERS:
            raise _FailedJob(f"More than {MOST_FOLDERS} nested folders are below inputS3Uri")
        with TemporaryDirectory(dir=self._store.incoming) as folder:
            taken, failed = _read_all(s3, source, keys, Path(folder))
            stored = self._store.add(datastore, [(instance, path) for _, instance, path in taken])
        by_key = list(zip((key for key, _, _ in taken), stored, strict=True))
        bucket, place = _split(str(properties["outputS3Uri"]))
        for name, body in manifests(job, datastore, properties, by_key, failed).items():
            s3.put_object(Bucket=bucket, Key=f"{place}{name}", Body=body)

    def _s3(self, role: str, region: str, job: str) -> Any:
        given = identity.role_credentials(role.rpartition("/")[2], f"HealthImaging-{job[:16]}", _SERVICE)
        if given is None:
            raise _FailedJob("HealthImaging cannot assume the data access role")
        session = boto3.Session(given.access_key, given.secret_key, given.session_token, region_name=region)
        return session.client("s3", endpoint_url=self._config.endpoint, config=Config(s3={"addressing_style": "path"}))


def manifests(job: str, datastore: str, properties: Json, stored: Sequence[tuple[str, Stored]], failed: Sequence[Json]) -> dict[str, bytes]:
    """What a job writes of itself, by name below its output prefix; ``job-output-manifest.json`` last."""
    sets: dict[str, Json] = {}
    for _, each in stored:
        entry = sets.setdefault(each.image_set, {"imageSetId": each.image_set, "imageSetVersion": each.version})
        entry |= {"isPrimary": each.is_primary, "numberOfMatchedSOPInstances": entry.get("numberOfMatchedSOPInstances", 0) + 1}
    warned = [
        {"inputFile": key, "importResponse": {**_response(each), "warnings": _warnings(each.instance)}}
        for key, each in stored
        if each.instance.warnings
    ]
    lines = {
        "SUCCESS/success.ndjson": [{"inputFile": key, "importResponse": _response(each)} for key, each in stored],
        "FAILURE/failure.ndjson": failed,
        "WARNING/warning.ndjson": warned,
    }
    output = str(properties["outputS3Uri"])
    summary = {
        "jobId": job,
        "datastoreId": datastore,
        "inputS3Uri": properties["inputS3Uri"],
        "outputS3Uri": output,
        "successOutputS3Uri": f"{output}SUCCESS/",
        "failureOutputS3Uri": f"{output}FAILURE/",
        "warningsOutputS3Uri": f"{output}WARNING/",
        "numberOfScannedFiles": len(stored) + len(failed),
        "numberOfImportedFiles": len(stored),
        "numberOfFilesWithCustomerError": len(failed),
        "numberOfFilesWithServerError": 0,
        "numberOfGeneratedImageSets": len(sets),
        "imageSetsSummary": list(sets.values()),
    }
    written = {name: "".join(f"{json.dumps(line)}\n" for line in each).encode() for name, each in lines.items() if each}
    return {**written, "job-output-manifest.json": json.dumps({"jobSummary": summary}).encode()}


def nested_folders(keys: Sequence[str], prefix: str) -> int:
    """How many folders there are below a prefix, at any depth."""
    return len({folder for key in keys for folder in PurePosixPath(key.removeprefix(prefix)).parents} - {PurePosixPath(".")})


def _keys(s3: Any, bucket: str, prefix: str) -> Iterator[str]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from (str(each["Key"]) for each in page.get("Contents", []) if not each["Key"].endswith("/"))


def _read_all(s3: Any, bucket: str, keys: Sequence[str], folder: Path) -> tuple[list[tuple[str, Instance, Path]], list[Json]]:
    """What could be read, and a line for each file that could not."""
    taken: list[tuple[str, Instance, Path]] = []
    failed: list[Json] = []
    for number, key in enumerate(keys):
        path = folder / str(number)
        try:
            s3.download_file(bucket, key, str(path))
            taken.append((key, read_instance(path), path))
        except RefusedFile as refused:
            path.unlink()
            failed.append({"inputFile": key, "exception": {"exceptionType": "ValidationException", "message": refused.message}})
        except ClientError as error:
            failed.append({"inputFile": key, "exception": {"exceptionType": "AccessDeniedException", "message": str(error)}})
    return taken, failed


def _response(stored: Stored) -> Json:
    return {"imageSetId": stored.image_set, "imageSetVersion": stored.version, "isPrimary": stored.is_primary}


def _warnings(instance: Instance) -> list[Json]:
    return [{"warning_reason_code": reason, "type": kind, "message": message} for reason, kind, message in instance.warnings]


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _as_message(text: str) -> str:
    """With the characters that the API's messages may have."""
    return re.sub(r"[^\w -:`]", " ", text)[:2048]
