"""Folders and their markers: who completes a folder that nobody completed, and how the uses of one folder name are told apart.

Here belongs reading ``input/`` and deciding; what the marker leads to is the ordinary way of an upload. Times are the bucket's own.
Nothing is logged but counts: a folder's name may be a patient's. An uploader who knows that a folder is complete does not wait until it is
quiet and puts the marker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from lambda_fn.hosts import code_of
from monai_aws_pipeline.contract import INPUT_PREFIX, READY_MARKER, JobMessage, is_folder_part, utc_text
from monai_aws_pipeline.errors import NamedError

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.paginator import ListObjectsV2Paginator

FOLDERS_PER_RUN: Final = 500
"""How many folders are looked at in one run. Completed ones leave ``input/`` when they are answered, so the next run sees others."""
SECONDS_PER_RUN: Final = 25.0
ABANDONED: Final = timedelta(days=1)
"""What has been on its way for longer comes no more: the bootstrap's bucket throws it away then."""
_TAKEN: Final = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
STAMP: Final = b"monai-aws: complete "
"""How a marker begins that was put here."""


class MarkerError(NamedError):
    """A marker could not be read or replaced. The service's own text is left out, because it names the key."""


@dataclass(frozen=True)
class Seen:
    """One object of a folder: key, size in bytes, when the bucket received it."""

    key: str
    size: int
    modified: datetime


def is_quiet(objects: Iterable[Seen], now: datetime, quiet: timedelta) -> bool:
    """Whether a folder holds files, has no marker anywhere in it, and received nothing for the quiet period.

    A marker deeper inside means that the uploader completes parts of this folder, and will complete the others. What consoles create for a
    folder, with a slash at its end and without bytes, is no file; one whose transfer failed is, and its folder must end as well.
    """
    newest = None
    for item in objects:
        if item.key.endswith(f"/{READY_MARKER}"):
            return False
        if is_folder_part(item.key) and (item.size or not item.key.endswith("/")):
            newest = max(newest or item.modified, item.modified)
    return newest is not None and now - newest >= quiet


class Folders:
    """The folders directly under ``input/`` of one bucket."""

    def __init__(self, bucket: str, quiet: timedelta, logger: Logger):
        self._bucket, self._quiet, self._log = bucket, quiet, logger

    def complete(self) -> int:
        """Put the marker into each quiet folder; returns how many. Raises nothing: the next schedule looks again."""
        put = 0
        deadline = time.monotonic() + SECONDS_PER_RUN
        try:
            for number, folder in enumerate(self._folders()):
                if number >= FOLDERS_PER_RUN or time.monotonic() > deadline:
                    self._log.info("more folders than one run looks at; left to the schedule", extra={"looked_at": number})
                    break
                try:
                    put += self._complete(folder)
                except (ClientError, BotoCoreError) as error:  # one that cannot be completed keeps none of the others waiting
                    self._log.warning("a folder cannot be completed now; left to the schedule", extra={"code": code_of(error)})
        except (ClientError, BotoCoreError) as error:
            self._log.warning("folders cannot be listed now; left to the schedule", extra={"code": code_of(error)})
        if put:
            self._log.info("quiet folders completed", extra={"folders": put})
        return put

    def _complete(self, folder: str) -> bool:
        # The marker is looked for first and the files after it: a host that clears an answered folder removes the marker last, so files
        # without a marker were never answered.
        if any(item.key == folder + READY_MARKER for _, item in self._objects(folder + READY_MARKER)):
            return False
        objects, now = [], datetime.now(UTC)
        for now, item in self._objects(folder):  # noqa: B007  the time of the last answer counts
            objects.append(item)
        if not is_quiet(objects, now, self._quiet) or self._is_receiving(folder, now):
            return False
        body = stamp(f"after {self._quiet.total_seconds() / 60:g} quiet minutes, {len(objects)} objects")
        try:
            s3().put_object(Bucket=self._bucket, Key=folder + READY_MARKER, Body=body, IfNoneMatch="*")
        except ClientError as error:
            if code_of(error) in _TAKEN:
                return False  # somebody else completed it in this very moment
            raise
        return True

    def _is_receiving(self, folder: str, now: datetime) -> bool:
        """Whether a file of a folder is on its way in parts: S3 lists it when it is complete, and dates it at the start of its upload."""
        uploads = s3().list_multipart_uploads(Bucket=self._bucket, Prefix=folder).get("Uploads", [])
        return any(now - upload["Initiated"] < ABANDONED for upload in uploads)

    def _folders(self) -> Iterator[str]:
        for page in _pages().paginate(Bucket=self._bucket, Prefix=INPUT_PREFIX, Delimiter="/"):
            yield from (entry["Prefix"] for entry in page.get("CommonPrefixes", []))

    def _objects(self, prefix: str) -> Iterator[tuple[datetime, Seen]]:
        """The objects under a prefix, each with the bucket's own time of the answer that named it."""
        for page in _pages().paginate(Bucket=self._bucket, Prefix=prefix):
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for item in page.get("Contents", []):
                yield now, Seen(item["Key"], item["Size"], item["LastModified"])


def job_of_marker(named: JobMessage) -> JobMessage | None:
    """The job of the folder whose marker an event names, in a bucket without versions; None where another event makes it.

    An upload is known there by its content, and what somebody writes into a marker, often nothing, is the same each time. So a marker that
    was not put here is replaced by one with the time in it, and the event of that one makes the job. Raises MarkerError.
    """
    try:
        # Listed first: for a key that is not there this role is told AccessDenied, because its right to list is bound to a prefix.
        listed = _pages().paginate(Bucket=named.bucket, Prefix=named.key)
        if named.key not in (item["Key"] for page in listed for item in page.get("Contents", [])):
            return None  # the folder was answered and cleared, and this event comes late
        found = s3().get_object(Bucket=named.bucket, Key=named.key)
        if found["Body"].read(len(STAMP)) == STAMP:
            return JobMessage.for_object(bucket=named.bucket, key=named.key, version="", etag=found["ETag"], size=found["ContentLength"])
        s3().put_object(Bucket=named.bucket, Key=named.key, Body=stamp("as its uploader said"), IfMatch=found["ETag"])
    except (ClientError, BotoCoreError) as error:
        if code_of(error) not in _TAKEN:  # another delivery of this event was faster
            raise MarkerError(f"a folder's marker cannot be read or replaced ({code_of(error)})") from None
    return None


def stamp(how: str) -> bytes:
    """The content of a marker: like no other's, because of the time in it."""
    return STAMP + f"{how}, {utc_text(datetime.now(UTC))}\n".encode()


def _pages() -> ListObjectsV2Paginator:
    return s3().get_paginator("list_objects_v2")


@cache
def s3() -> S3Client:
    """The S3 client, made once for each execution environment."""
    return boto3.client("s3")
