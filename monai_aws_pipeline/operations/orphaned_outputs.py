"""Outputs that no commit record names: a try uploaded them and died, and the study was then refused or failed for good.

A study that is answered in the end clears its own folder (``host_agent.commit``). One that is not has its record in quarantine, and what an
earlier try left under ``output/`` belongs to nothing. It is found through the quarantine, which is small, instead of by listing every
output there is, and only once nobody can be at work on it any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.contract import JOB_PATTERN, QUARANTINE_PREFIX, STUDY_PATTERN, result_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SETTLED: Final = timedelta(days=1)
"""Nothing younger is touched: another delivery of the job may still be uploading, and would commit."""
LOOKED_AT: Final = timedelta(days=8)
"""Commits older than this were looked at on the days before."""
_FAILED: Final = re.compile(re.escape(QUARANTINE_PREFIX) + rf"({JOB_PATTERN})/({STUDY_PATTERN})/result\.json")


@dataclass(frozen=True)
class Stored:
    """An object of the bucket: its key and when the bucket received it."""

    key: str
    modified: datetime


def folders_to_look_at(quarantine: Iterable[Stored], now: datetime) -> Iterator[str]:
    """The output folders of studies that failed for good between a day and eight days ago."""
    for item in quarantine:
        found = _FAILED.fullmatch(item.key)
        if found and SETTLED <= now - item.modified <= LOOKED_AT:
            yield result_key(found[2], found[1]).removesuffix("result.json")


def strays(folder: Iterable[Stored], now: datetime) -> list[str]:
    """What of an output folder belongs to no result: everything, where it has no commit record and has been quiet for a day."""
    items = list(folder)
    answered = any(item.key.endswith("/result.json") for item in items)
    quiet = all(now - item.modified >= SETTLED for item in items)
    return [item.key for item in items] if quiet and not answered else []


def sweep_outputs(s3: S3Client, bucket: str, report: Callable[[str], None], now: datetime | None = None) -> list[str]:
    """Remove such outputs; returns their keys. What resists is reported and stays for the next time."""
    moment = now or datetime.now(UTC)
    removed: list[str] = []
    try:
        for prefix in folders_to_look_at(_list(s3, bucket, QUARANTINE_PREFIX), moment):
            for key in strays(_list(s3, bucket, prefix), moment):
                s3.delete_object(Bucket=bucket, Key=key)
                removed.append(key)
                report(f"removed {key}, which no result names")
    except ClientError as error:
        report(f"could not look for stray outputs in {bucket}: {code_of(error)}")
    return removed


def _list(s3: S3Client, bucket: str, prefix: str) -> Iterator[Stored]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            yield Stored(item.get("Key", ""), item.get("LastModified", datetime.now(UTC)))
