"""S3 dates an object that was sent in parts at the start of its upload, however long that took; ministack dates it at its end.

Source: S3 API Reference, CreateMultipartUpload and HeadObject ("LastModified"); reports of users.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any, Final

from ministack.services import s3

_started: Final[ContextVar[str]] = ContextVar("started", default="")
"""When the upload that is being completed began."""


def install() -> None:
    """Put this into ministack's S3."""
    now, complete, tell = s3.now_iso, s3._complete_multipart_upload, s3._fire_s3_event_async

    @functools.wraps(complete)
    def complete_as_of_its_start(bucket: str, key: str, body: bytes, query: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        upload = s3._multipart_uploads.get(s3._qp(query, "uploadId"))
        token = _started.set(upload["created"] if upload else "")
        try:
            return complete(bucket, key, body, query, headers)
        finally:
            _started.reset(token)

    @functools.wraps(tell)
    def tell_at_its_end(*arguments: Any, **options: Any) -> Any:
        token = _started.set("")  # the event happens now
        try:
            return tell(*arguments, **options)
        finally:
            _started.reset(token)

    s3.now_iso = lambda: _started.get() or now()
    s3._complete_multipart_upload, s3._fire_s3_event_async = complete_as_of_its_start, tell_at_its_end
