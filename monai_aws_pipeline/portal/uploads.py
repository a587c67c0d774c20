"""Uploads that a browser sends to S3 itself, in parts: begun, signed, held against what was declared, completed or aborted here.

Nothing of a study passes through this process. The key is random and no name; the size of each part is signed into its address, so that
S3 refuses another; content type and metadata are fixed when the upload begins. Source: Amazon S3 User Guide, "Multipart upload".
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import INPUT_PREFIX, job_id, version_of
from monai_aws_pipeline.errors import NamedError

MIB: Final = 1 << 20
LEAST_PART_BYTES: Final = 8 * MIB
MOST_PARTS: Final = 10_000
"""S3's limit."""
SIGNED_SECONDS: Final = 900
MOST_SIGNED_AT_ONCE: Final = 20
KEPT_SECONDS: Final = 24 * 3600
"""For so long an upload may be resumed: then the bucket's rule ``abandoned-uploads`` removes its parts."""
MOST_OPEN: Final = 500
MOST_OF_ONE: Final = 100
"""Open uploads of one client, so that nobody takes the places of all others for a day."""


class UploadRefusedError(NamedError):
    """``code``: a key of ``texts``; ``status``: of HTTP."""

    def __init__(self, code: str, status: int, **values: object) -> None:
        super().__init__(code)
        self.code, self.status, self.values = code, status, values


@dataclass(frozen=True)
class Begun:
    """What a browser has to know: in how many parts of how many bytes; the last one is what is left."""

    token: str
    bytes: int
    part_bytes: int

    @property
    def parts(self) -> int:
        """How many there are."""
        return -(-self.bytes // self.part_bytes)

    def size_of(self, number: int) -> int:
        """Bytes of one part, counted from 1."""
        return min(self.part_bytes, self.bytes - (number - 1) * self.part_bytes)


@dataclass
class _Upload:
    """One that was begun. ``id``: once S3 has given it one; ``job``: once it is complete."""

    begun: Begun
    owner: str
    key: str
    until: float
    id: str = ""
    job: str = ""
    ending: threading.Lock = field(default_factory=threading.Lock)


class Uploads:
    """The uploads that this process has begun, by tokens that only their browsers know. Safe to use from several threads."""

    def __init__(self, clients: Clients, bucket: str, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clients, self._bucket, self._most_bytes, self._clock = clients, bucket, most_bytes, clock
        self._open: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    def begin(self, owner: str, size: int) -> Begun:
        """Begin one of so many bytes. ``owner``: who asks, who alone goes on with it. Raises UploadRefusedError."""
        if size < 1:
            raise UploadRefusedError("upload_empty", 400)
        if size > self._most_bytes:
            raise UploadRefusedError("upload_too_large", 413, most=self._most_bytes // MIB)
        part_bytes = max(LEAST_PART_BYTES, -(-size // MOST_PARTS // MIB) * MIB)
        begun = Begun(secrets.token_urlsafe(24), size, part_bytes)
        key = f"{INPUT_PREFIX}{secrets.token_hex(16)}.zip"
        upload = _Upload(begun, owner, key, self._clock() + KEPT_SECONDS)
        with self._lock:
            self._forget_the_old()
            under_way = [each.owner for each in self._open.values() if not each.job]
            if len(under_way) >= MOST_OPEN or under_way.count(owner) >= MOST_OF_ONE:
                raise UploadRefusedError("too_many_uploads", 429)
            self._open[begun.token] = upload  # has its place while S3 is asked, and nobody knows its token yet
        try:
            made = self._clients.s3.create_multipart_upload(Bucket=self._bucket, Key=key, ContentType="application/zip")
        except BaseException:
            with self._lock:
                self._open.pop(begun.token, None)
            raise
        upload.id = made["UploadId"]
        return begun

    def begun(self, owner: str, token: str) -> tuple[Begun, tuple[int, ...], str]:
        """What was begun, which parts S3 holds whole, and the job if it is complete. Raises UploadRefusedError."""
        upload = self._find(owner, token)
        return upload.begun, () if upload.job else tuple(self._whole_parts(upload)), upload.job

    def addresses(self, owner: str, token: str, numbers: Sequence[int]) -> Mapping[int, str]:
        """Where parts are sent, signed for minutes and for their size. Raises UploadRefusedError."""
        upload = self._find(owner, token)
        if upload.job or not 0 < len(numbers) <= MOST_SIGNED_AT_ONCE or any(not 1 <= number <= upload.begun.parts for number in numbers):
            raise UploadRefusedError("no_such_part", 400)
        return {number: self._address(upload, number) for number in numbers}

    def complete(self, owner: str, token: str) -> str:
        """Make one object of the parts, once all are there as declared; the job it becomes. Raises UploadRefusedError."""
        upload = self._find(owner, token)
        with upload.ending:
            if not upload.job:
                parts = self._whole_parts(upload)
                missing = [number for number in range(1, upload.begun.parts + 1) if number not in parts]
                if missing:
                    raise UploadRefusedError("parts_missing", 409, missing=missing[:MOST_SIGNED_AT_ONCE])
                made = self._clients.s3.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=upload.key,
                    UploadId=upload.id,
                    MultipartUpload={"Parts": [{"PartNumber": number, "ETag": parts[number]} for number in range(1, len(parts) + 1)]},
                )
                upload.job = job_id(self._bucket, upload.key, version_of(made.get("VersionId")) or made["ETag"])
            return upload.job

    def abort(self, owner: str, token: str) -> None:
        """Have S3 forget what was sent. One that is complete stays. Raises UploadRefusedError."""
        upload = self._find(owner, token)
        with upload.ending:
            if upload.job:
                raise UploadRefusedError("upload_complete", 409)
            try:
                self._clients.s3.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.id)
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise
            with self._lock:
                self._open.pop(token, None)

    def _find(self, owner: str, token: str) -> _Upload:
        with self._lock:
            self._forget_the_old()
            upload = self._open.get(token)
        if upload is None or upload.owner != owner:
            raise UploadRefusedError("no_such_upload", 404)
        return upload

    def _forget_the_old(self) -> None:
        now = self._clock()
        for token in [token for token, upload in self._open.items() if upload.until < now]:
            del self._open[token]
        complete = [token for token, upload in self._open.items() if upload.job]
        for token in complete[: max(len(complete) - MOST_OPEN, 0)]:
            del self._open[token]

    def _address(self, upload: _Upload, number: int) -> str:
        return self._clients.s3_presigning.generate_presigned_url(
            "upload_part",
            Params={
                "Bucket": self._bucket,
                "Key": upload.key,
                "UploadId": upload.id,
                "PartNumber": number,
                "ContentLength": upload.begun.size_of(number),
            },
            ExpiresIn=SIGNED_SECONDS,
        )

    def _whole_parts(self, upload: _Upload) -> dict[int, str]:
        """ETags of the parts that S3 holds in the size that was declared, by number. Raises UploadRefusedError where it is gone."""
        listing = self._clients.s3.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=upload.key, UploadId=upload.id)
        try:
            listed = [part for page in listing for part in page.get("Parts", [])]
        except ClientError as error:
            if code_of(error) == "NoSuchUpload":
                raise UploadRefusedError("no_such_upload", 404) from error
            raise
        begun = upload.begun
        return {
            part["PartNumber"]: part["ETag"]
            for part in listed
            if part["PartNumber"] <= begun.parts and part["Size"] == begun.size_of(part["PartNumber"])
        }
