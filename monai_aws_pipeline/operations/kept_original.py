"""Where the original of a study is kept, by the record of how it ended: the one answer for archive, viewer and portal.

An upload's original lies below its own job, in ``processed/`` or in ``quarantine/``. A re-run leaves the original where it read it, which
may be below any job: its record has the hash of that key, so that no other upload of the study is ever taken for it. No Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from monai_aws_pipeline.contract import PROCESSED_PREFIX, QUARANTINE_PREFIX, ResultRecord, processed_key, quarantine_key, sha256_text

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_PARTS: Final = 100
"""So many files are listed of a folder that was refused before it was made a zip."""


@dataclass(frozen=True)
class KeptObject:
    """An object of an original: its key and size in bytes."""

    key: str
    bytes: int


def kept_original(s3: S3Client, bucket: str, record: ResultRecord) -> tuple[KeptObject, ...]:
    """What a study was read from: one object, or the first hundred files of a refused folder; empty where nothing is kept any more."""
    places = [quarantine_key(record.job, "upload")]
    if record.study:
        places.insert(0, processed_key(record.study, record.job, "upload"))
    found = next((kept for place in places if (kept := _below(s3, bucket, place))), ())
    if found or not record.request:
        return found
    return next((_below(s3, bucket, key) for key in _uploads(s3, bucket, record.study) if sha256_text(key) == record.input.key_sha256), ())


def _below(s3: S3Client, bucket: str, place: str) -> tuple[KeptObject, ...]:
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=place, MaxKeys=MAX_PARTS).get("Contents", [])
    return tuple(KeptObject(item["Key"], item["Size"]) for item in listed)


def _uploads(s3: S3Client, bucket: str, study: str) -> Iterator[str]:
    """Where a re-run may have read a study: its own answered uploads, and then every refused one, as no key there names a study."""
    for place in (*([f"{PROCESSED_PREFIX}{study}/"] if study else []), QUARANTINE_PREFIX):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=place, Delimiter="/"):
            yield from (f"{item['Prefix']}upload.zip" for item in page.get("CommonPrefixes", []))
