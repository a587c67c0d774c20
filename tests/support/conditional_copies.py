"""What moto's S3 lacks of AWS's: it copies whatever a key holds now, although the request names the ETag that it means.

Here belongs that one refusal, put before a client's calls. ``tests/integration/local_cloud/test_objects.py`` holds the embedded AWS to it.
Source: AWS, CopyObject and UploadPartCopy, ``x-amz-copy-source-if-match``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import ClientError


def refuse_changed_sources(s3: Any) -> None:
    """Have copies by this client end with 412 where the source is no longer the one that they name."""

    def check(params: dict[str, Any], **_: Any) -> tuple[SimpleNamespace, dict[str, Any]] | None:
        wanted = params["headers"].get("x-amz-copy-source-if-match", "")
        source, _mark, version = params["headers"]["x-amz-copy-source"].partition("?versionId=")
        bucket, _slash, key = unquote(source).lstrip("/").partition("/")
        try:
            found = s3.head_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))["ETag"]
        except ClientError:
            return None  # moto says by itself that there is no such key
        if not wanted or wanted.strip('"') == found.strip('"'):
            return None
        about = {"Error": {"Code": "PreconditionFailed", "Message": "changed"}, "ResponseMetadata": {"HTTPStatusCode": 412}}
        return SimpleNamespace(status_code=412), about

    for call in ("CopyObject", "UploadPartCopy"):
        s3.meta.events.register(f"before-call.s3.{call}", check)
