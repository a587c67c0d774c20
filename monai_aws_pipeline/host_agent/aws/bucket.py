"""The bucket, in the few words the agent needs: read this upload, write this once, move that.

Here belongs S3 and the translation of its errors; nobody else in the agent sees a ClientError of S3. No decision about jobs in here.
Source: AWS, "Add preconditions to S3 operations with conditional requests".
"""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import S3CopyFailedError

from monai_aws_pipeline.contract import version_of
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError, RefusedError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_T = TypeVar("_T")

_JSON: Final = "application/json"
_SMALL_BYTES: Final = 8 << 20
"""Up to here one request does it. The SDK's transfers do too, but start ten threads and ask for the size first."""
_MISSING: Final = ("404", "NoSuchKey", "NoSuchVersion", "NotFound")
_CHANGED: Final = ("412", "PreconditionFailed")
_CONFLICT: Final = ("409", "ConditionalRequestConflict")
_CONFLICTS: Final = 5
"""So often S3 may say that another conditional write was in flight."""


@dataclass(frozen=True)
class StoredObject:
    """One object: key, ETag without quotes, size in bytes, when the bucket received it; its version where that was asked for (``find``)."""

    key: str
    etag: str
    size: int
    modified: datetime
    version: str = ""


class Store:
    """One bucket. Every method raises FailedError(STORAGE_FAILED) with the service's error code when S3 does not do it."""

    def __init__(self, client: S3Client, bucket: str, stop: threading.Event | None = None):
        self._s3 = client
        self._stop = stop or threading.Event()
        self.bucket = bucket

    def download(self, key: str, version: str, etag: str, target: Path) -> int:
        """Fetch exactly that version (or, in a bucket without versions, that ETag); returns bytes.

        Raises RefusedError(UPLOAD_MISSING or UPLOAD_REPLACED) when it is no longer there, InterruptedJobError when the host is stopping.
        """
        partial = target.with_name(f"{target.name}.partial")

        def fetch() -> int:
            answer = self._s3.get_object(Bucket=self.bucket, Key=key, **_exactly(version, etag))
            with partial.open("wb") as file:
                for chunk in answer["Body"].iter_chunks(1 << 20):
                    if self._stop.is_set():
                        raise InterruptedJobError("the host is stopping")
                    file.write(chunk)
            partial.rename(target)  # under its own name it is whole: it may have to be stored in the original's place
            return target.stat().st_size

        try:
            return self._try(fetch)
        except _Missing as error:
            raise RefusedError(Code.UPLOAD_MISSING, "The upload is no longer in the bucket.") from error
        except _Changed as error:
            raise RefusedError(Code.UPLOAD_REPLACED, "The upload was replaced by another one of the same name.") from error

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects under a prefix."""
        pages = self._try(lambda: list(self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)))
        for page in pages:
            for item in page.get("Contents", []):
                yield StoredObject(item["Key"], item["ETag"].strip('"'), item["Size"], item["LastModified"])

    def find(self, key: str) -> StoredObject | None:
        """The object of a key, None where there is none."""
        try:
            answer = self._try(lambda: self._s3.head_object(Bucket=self.bucket, Key=key))
        except _Missing:
            return None
        version = version_of(answer.get("VersionId"))
        return StoredObject(key, answer["ETag"].strip('"'), answer["ContentLength"], answer["LastModified"], version)

    def read(self, key: str) -> str | None:
        """A small text object, None where there is none."""
        try:
            return self._try(lambda: self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read().decode("utf-8", "replace"))
        except _Missing:
            return None

    def read_tagged(self, key: str) -> tuple[str, str]:
        """A small text object and its ETag for ``put_over``; two empty texts where there is none."""
        try:
            answer = self._try(lambda: self._s3.get_object(Bucket=self.bucket, Key=key))
            return self._try(answer["Body"].read).decode("utf-8", "replace"), answer["ETag"]
        except _Missing:
            return "", ""

    def sha256(self, key: str) -> str:
        """SHA-256 of an object's content in hex, empty where there is none."""

        def digest() -> str:
            found = hashlib.sha256()
            for chunk in self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(1 << 20):
                found.update(chunk)
            return found.hexdigest()

        try:
            return self._try(digest)
        except _Missing:
            return ""

    def put_once(self, key: str, text: str) -> bool:
        """Write a JSON object unless the key exists; whether it is ours.

        A repeated request whose first answer was lost finds its own object: equal text counts as ours.
        """
        for _ in range(_CONFLICTS):
            try:
                self._try(lambda: self._s3.put_object(IfNoneMatch="*", Bucket=self.bucket, Key=key, Body=text.encode(), ContentType=_JSON))
            except _Conflict:
                continue  # another conditional write was in flight; S3 asks to try again
            except _Changed:
                return self.read(key) == text
            return True
        raise _conflicting()

    def put_over(self, key: str, text: str, etag: str) -> bool:
        """Write a JSON object over the one that was read with this ETag (empty: none was there); False where another came first.

        False as well where a repeated request finds its own object: whoever reads it again sees that.
        """
        when: dict[str, Any] = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            self._try(lambda: self._s3.put_object(Bucket=self.bucket, Key=key, Body=text.encode(), ContentType=_JSON, **when))
        except (_Changed, _Conflict, _Missing):
            return False
        return True

    def put(self, key: str, text: str) -> None:
        """Write a small JSON object."""
        self._try(lambda: self._s3.put_object(Bucket=self.bucket, Key=key, Body=text.encode(), ContentType=_JSON))

    def upload(self, path: Path, key: str, content_type: str) -> None:
        """Upload a file, in parts where it is large."""

        def upload() -> None:
            if path.stat().st_size <= _SMALL_BYTES:
                self._put_file(path, key, ContentType=content_type)
            else:
                self._s3.upload_file(str(path), self.bucket, key, ExtraArgs={"ContentType": content_type})

        self._try(upload)

    def upload_once(self, path: Path, key: str, content_type: str) -> bool:
        """Upload a small file unless the key exists; whether it did."""
        try:
            self._try(lambda: self._put_file(path, key, ContentType=content_type, IfNoneMatch="*"))
        except (_Changed, _Conflict):
            return False
        return True

    def copy(self, source: str, version: str, etag: str, size: int, target: str, content_type: str) -> bool:
        """Copy ``size`` bytes of exactly that version or ETag within the bucket, in parts where that is much; whether it was still there.

        Nothing that the uploader wrote beside the bytes is copied along: metadata, content type and disposition, tags and annotations may
        name a patient. A copy in parts asks for the same ETag with each of them.
        """
        where: Any = {"Bucket": self.bucket, "Key": source} | ({"VersionId": version} if version else {})
        how: Any = {
            "ContentType": content_type,
            "MetadataDirective": "REPLACE",
            "TaggingDirective": "REPLACE",
            "AnnotationDirective": "EXCLUDE",
        }
        if etag and not version:
            how["CopySourceIfMatch"] = _quoted(etag)
        try:
            if size <= _SMALL_BYTES:
                self._try(lambda: self._s3.copy_object(CopySource=where, Bucket=self.bucket, Key=target, **how))
            else:
                self._try(lambda: self._s3.copy(where, self.bucket, target, ExtraArgs=how))
        except (_Missing, _Changed):
            return False
        return True

    def delete(self, key: str, version: str = "", etag: str = "") -> None:
        """Delete that version, or the current object while it has that ETag; what is gone already or holds something newer stays as it is.

        With neither it is deleted whatever it is, which is for keys of our own.
        """
        for _ in range(_CONFLICTS):
            try:
                self._try(lambda: self._s3.delete_object(Bucket=self.bucket, Key=key, **_exactly(version, etag)))
            except _Conflict:
                continue
            except (_Missing, _Changed):
                pass
            return
        raise _conflicting()

    def _put_file(self, path: Path, key: str, **more: Any) -> None:
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes(), **more)

    def _try(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            for codes, kind in ((_MISSING, _Missing), (_CHANGED, _Changed), (_CONFLICT, _Conflict)):
                if code in codes:
                    raise kind from error
            raise FailedError(Code.STORAGE_FAILED, f"The bucket answered {code or 'an error without a code'}.") from error
        except S3CopyFailedError as error:  # a part of a copy met another ETag; the text names the key
            raise _Changed from error
        except (BotoCoreError, Boto3Error) as error:
            raise FailedError(Code.STORAGE_FAILED, f"The bucket could not be reached ({error.__class__.__name__}).") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FailedError(Code.DISK_FULL, "The host's disk is full.") from error
            raise FailedError(Code.STORAGE_FAILED, "A file could not be written or read.") from error


def _exactly(version: str, etag: str) -> dict[str, Any]:
    """What makes a request mean one version, or in a bucket without versions one ETag."""
    return {"VersionId": version} if version else {"IfMatch": _quoted(etag)} if etag else {}


def _quoted(etag: str) -> str:
    return f'"{etag.strip(chr(34))}"'


def _conflicting() -> FailedError:
    return FailedError(Code.STORAGE_FAILED, f"The bucket answered ConditionalRequestConflict {_CONFLICTS} times.")


class _Missing(Exception):  # noqa: N818
    """The object or its version does not exist."""


class _Changed(Exception):  # noqa: N818
    """A precondition was not met."""


class _Conflict(Exception):  # noqa: N818
    """Another conditional write was in flight."""
