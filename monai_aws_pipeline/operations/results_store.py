"""Results as they lie in the bucket: listing the index, reading entries, records and measurements.

Here belongs S3, by reads alone. What is new is decided in ``results_index``; what is said about it in ``record_metadata``. No Dagster.
A damaged or missing object is a ``UnreadableResultError``; trouble of the service (throttling, network, denied) is raised as it is, so that
the caller tries again instead of stepping over a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.contract import (
    INDEX_PREFIX,
    JOB_PATTERN,
    OUTPUT_PREFIX,
    STUDY_PATTERN,
    ContractError,
    ExpectedVolume,
    IndexEntry,
    JobDone,
    Measurements,
    ResultRecord,
    SegmentVolume,
    belongs_together,
    index_hour_prefix,
    job_done_key,
    parse_utc,
)
from monai_aws_pipeline.contract.outputs import MEASUREMENTS
from monai_aws_pipeline.errors import NamedError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
MAX_ENTRY_BYTES: Final = 16 * 1024
_RESULT: Final = re.compile(rf"{OUTPUT_PREFIX}{STUDY_PATTERN}/{JOB_PATTERN}/result\.json")
_MISSING: Final = ("NoSuchKey", "404")
_READERS: Final = 8
_BLOCK: Final = 1 << 20
_ANSWERS_READ: Final = 20
"""So many answers of one study are read for the latest of them: the clocks of hosts and bucket differ by less than that many re-runs."""


class UnreadableResultError(NamedError):
    """An entry or its record is damaged, gone, or larger than any of ours. The message names the key, which holds no identifier."""


class ExpiredResultError(UnreadableResultError):
    """The record that an index entry speaks of is not in the bucket any more: it has expired, or somebody has removed it."""

    def __init__(self, entry: IndexEntry) -> None:
        super().__init__(f"{entry.key}: it has expired, or was removed; its index entry alone is left")
        self.entry = entry


@dataclass(frozen=True)
class StoredResult:
    """A commit record with what was measured on its outputs. ``expected``: the volumes that the MAP declares plausible."""

    record: ResultRecord
    measurements: tuple[SegmentVolume, ...]
    expected: tuple[ExpectedVolume, ...] = ()


@dataclass(frozen=True)
class StoredKey:
    """A key of the bucket and when its object was written."""

    key: str
    modified: datetime


class ResultsStore:
    """Reads results of one bucket through one S3 client. Safe to use from several threads, as boto3 clients are."""

    def __init__(self, s3: S3Client, bucket: str):
        self._s3 = s3
        self.bucket = bucket

    def index_keys(self, start_after: str) -> Iterator[str]:
        """Keys of the index after ``start_after``, lazily, a page of 1,000 a request."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=INDEX_PREFIX, StartAfter=start_after)
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"]

    def objects(self, prefix: str) -> Iterator[StoredKey]:
        """Keys below a prefix with the time they were written, lazily, a page of 1,000 a request. Reads no object."""
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                yield StoredKey(item["Key"], item["LastModified"])

    def folders(self, beginning: str, limit: int) -> list[str]:
        """Names of the folders whose prefix begins so, at most so many, by one request. Reads no object."""
        listed = self._s3.list_objects_v2(Bucket=self.bucket, Prefix=beginning, Delimiter="/", MaxKeys=limit)
        return [item["Prefix"].rstrip("/").rpartition("/")[2] for item in listed.get("CommonPrefixes", [])]

    def newest_keys(self, since: datetime, limit: int) -> list[str]:
        """Keys of the index entries written last, newest first, of the hours from ``since`` on. Reads no entry."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=INDEX_PREFIX, StartAfter=index_hour_prefix(since)
        )
        found = [(item["LastModified"], item["Key"]) for page in pages for item in page.get("Contents", [])]
        return [key for _, key in sorted(found, reverse=True)[:limit]]

    def index_backwards(self, since: datetime, until: datetime) -> Iterator[str]:
        """Keys of the index entries of the hours from ``until`` back to ``since``, newest first, lazily, a listing of one day at a time.

        No day before the first entry is listed, however long ago ``since`` is.
        """
        first, day = index_hour_prefix(since), until.astimezone(UTC)
        oldest = self._s3.list_objects_v2(Bucket=self.bucket, Prefix=INDEX_PREFIX, StartAfter=first, MaxKeys=1).get("Contents", [])
        if not oldest:
            return
        first = max(first, oldest[0]["Key"].rpartition("/")[0] + "/")
        while (prefix := index_hour_prefix(day).rsplit("/", 2)[0] + "/") >= first[: len(prefix)]:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, StartAfter=max(first, prefix))
            listed = (item for page in pages for item in page.get("Contents", []))
            found = [(item["Key"].rpartition("/")[0], item["LastModified"], item["Key"]) for item in listed]
            yield from (key for *_, key in sorted(found, reverse=True))
            day -= timedelta(days=1)

    def entries(self, keys: Iterable[str]) -> list[IndexEntry | UnreadableResultError]:
        """Index entries, several at a time, in the order of their keys."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="entries") as readers:
            return list(readers.map(self._entry_or_error, keys))

    def records(self, entries: Iterable[IndexEntry]) -> list[ResultRecord | UnreadableResultError]:
        """The records that entries point to, several at a time, in their order."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="records") as readers:
            return list(readers.map(self._record_or_error, entries))

    def latest_answer(self, study: str) -> ResultRecord | None:
        """The record of a study that was committed last of those that answer it; None where none does."""
        found = [(item.modified, item.key) for item in self.objects(f"{OUTPUT_PREFIX}{study}/") if _RESULT.fullmatch(item.key)]
        records = [record for _, key in sorted(found, reverse=True)[:_ANSWERS_READ] if (record := self.record(key))]
        return max(records, key=lambda record: parse_utc(record.committed_at), default=None)

    def blocks(self, key: str) -> Iterator[bytes]:
        """An object's bytes, a part at a time. Raises UnreadableResultError where there is none."""
        try:
            body = self._s3.get_object(Bucket=self.bucket, Key=key)["Body"]
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _MISSING:
                raise UnreadableResultError(f"{key}: there is no such object") from error
            raise
        with body:
            yield from body.iter_chunks(_BLOCK)

    def answers(self, job: str) -> tuple[ResultRecord, ...]:
        """The commit records of a job once every study of it has one; none before. Raises UnreadableResultError.

        None as well where they have expired: a job of which an upload has come again is answered anew.
        """
        key = job_done_key(job)
        body = self._read(key, MAX_RECORD_BYTES)
        if not body:
            return ()
        try:
            done = JobDone.from_json(body.decode())
        except (ContractError, UnicodeDecodeError) as error:
            raise UnreadableResultError(f"{key}: {error}") from error
        found = {commit: self.record(commit) for commit in done.commits}
        return tuple(record for record in found.values() if record) if all(found.values()) else ()

    def entry(self, key: str) -> IndexEntry:
        """Read one index entry. Raises UnreadableResultError."""
        try:
            return IndexEntry.from_json(self._text(key, MAX_ENTRY_BYTES))
        except ContractError as error:
            raise UnreadableResultError(f"{key}: {error}") from error

    def record(self, key: str) -> ResultRecord | None:
        """Read one commit record; None when there is none yet. Raises UnreadableResultError."""
        body = self._read(key, MAX_RECORD_BYTES)
        return None if body is None else self._parse(key, body)

    def result(self, entry: IndexEntry) -> StoredResult:
        """Read the record an entry points to, with its measurements. Raises UnreadableResultError."""
        return self.with_outputs(self.result_record(entry))

    def result_record(self, entry: IndexEntry) -> ResultRecord:
        """Read the record an entry points to and nothing else. Raises UnreadableResultError."""
        record = self.record(entry.key)
        if record is None:
            raise ExpiredResultError(entry)
        if not belongs_together(entry, record):
            raise UnreadableResultError(f"{entry.key}: the record is not the one its index entry speaks of")
        return record

    def with_outputs(self, record: ResultRecord) -> StoredResult:
        """Add the measurements: the record's own, of an older host the file's beside it.

        A file that is damaged or missing is left out: it must not keep the result out of the lineage.
        """
        measured = record.measured or self._measurements_beside(record)
        return StoredResult(record, measured.segments, measured.expected)

    def _measurements_beside(self, record: ResultRecord) -> Measurements:
        key = next((output.key for output in record.outputs if output.kind == MEASUREMENTS), "")
        try:
            return Measurements.from_json(self._text(key, MAX_RECORD_BYTES)) if key else Measurements()
        except (UnreadableResultError, ContractError):
            return Measurements()

    def _entry_or_error(self, key: str) -> IndexEntry | UnreadableResultError:
        try:
            return self.entry(key)
        except UnreadableResultError as error:
            return error

    def _record_or_error(self, entry: IndexEntry) -> ResultRecord | UnreadableResultError:
        try:
            return self.result_record(entry)
        except UnreadableResultError as error:
            return error

    def _parse(self, key: str, body: bytes) -> ResultRecord:
        try:
            return ResultRecord.from_json(body.decode())
        except (ContractError, UnicodeDecodeError) as error:
            raise UnreadableResultError(f"{key}: {error}") from error

    def _text(self, key: str, limit: int) -> str:
        body = self._read(key, limit)
        if body is None:
            raise UnreadableResultError(f"{key}: there is no such object")
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise UnreadableResultError(f"{key}: not UTF-8") from error

    def _read(self, key: str, limit: int) -> bytes | None:
        try:
            answer = self._s3.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _MISSING:
                return None
            raise
        with answer["Body"] as body:
            content: bytes = body.read(limit + 1)
        if len(content) > limit:
            raise UnreadableResultError(f"{key}: larger than {limit} bytes")
        return content
