"""Signed DICOMweb calls for the tests of the embedded HealthImaging, made as anybody makes them: with botocore's signature."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.integration.local_cloud.conftest import Account

MULTIPART = 'multipart/related; type="application/dicom"; boundary=mark'


def body_of(paths: Sequence[Path]) -> bytes:
    parts = (b"--mark\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n" for path in paths)
    return b"".join(parts) + b"--mark--\r\n"


@dataclass(frozen=True)
class Answered:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class DicomWebClient:
    account: Account
    datastore: str
    region: str = "us-east-1"
    keys: tuple[str, str, str | None] | None = None

    def call(
        self, method: str, path: str, body: bytes = b"", *, hashed: bool = True, sent: bytes | None = None, **headers: str
    ) -> Answered:
        """``sent``: the body that goes over the line, where another one is signed."""
        place, mark, asked = path.partition("?")  # a signature covers the query as it is encoded
        url = f"{self.account.cloud.endpoint}/datastore/{self.datastore}{place}{mark}{urlencode(parse_qsl(asked), quote_via=quote)}"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST" and hashed:
            given["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
        signed = AWSRequest(method, url, data=body, headers=given)
        access, secret, token = self.keys or (*self.account.admin_keys(), None)
        SigV4Auth(Credentials(access, secret, token), "medical-imaging", self.region).add_auth(signed)
        data = (sent if sent is not None else body) if method == "POST" else None
        request = urllib.request.Request(url, data=data, method=method, headers=dict(signed.headers.items()))  # noqa: S310
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return Answered(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return Answered(error.code, error.read(), dict(error.headers))

    def store(self, *paths: Path, study: str = "", **options: Any) -> Answered:
        return self.call("POST", f"/studies{f'/{study}' if study else ''}", body_of(paths), content_type=MULTIPART, **options)

    def found(self, path: str) -> list[Any]:
        answered = self.call("GET", path)
        assert answered.status == 200, answered
        return list(answered.json)
