"""How a request shows who makes it: SigV4 for HealthImaging, a token or a password for every other archive."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit, urlunsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

SERVICE = "medical-imaging"


class Authentication(Protocol):
    """Signs a request. Asked again for each try: credentials are renewed meanwhile."""

    @property
    def covers_body(self) -> bool:
        """Whether a request has to say the hash of its body before it is signed."""

    def sign(self, request: AWSRequest) -> None:
        """Add the header fields that the archive asks for."""


@dataclass(frozen=True)
class SigV4:
    """``credentials``: botocore's, as ``boto3.Session().get_credentials()`` gives them."""

    credentials: Any
    region: str
    covers_body: ClassVar[bool] = True

    def sign(self, request: AWSRequest) -> None:
        """Sign it, its body included."""
        SigV4Auth(self.credentials.get_frozen_credentials(), SERVICE, self.region).add_auth(request)


@dataclass(frozen=True)
class Bearer:
    """A token."""

    token: str = field(repr=False)
    covers_body: ClassVar[bool] = False

    def sign(self, request: AWSRequest) -> None:
        """Add the token."""
        request.headers["Authorization"] = f"Bearer {self.token}"


@dataclass(frozen=True)
class Basic:
    """A user and a password."""

    user: str
    password: str = field(repr=False)
    covers_body: ClassVar[bool] = False

    def sign(self, request: AWSRequest) -> None:
        """Add both."""
        given = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request.headers["Authorization"] = f"Basic {given}"


@dataclass(frozen=True)
class Nobody:
    """An archive that asks nobody who she is."""

    covers_body: ClassVar[bool] = False

    def sign(self, request: AWSRequest) -> None:
        """Add nothing."""


def from_secret(secret: str) -> Authentication:
    """The authentication that a secret's text means: ``user:password``, or a token. Empty: none."""
    user, colon, password = secret.strip().partition(":")
    if colon:
        return Basic(user, password)
    return Bearer(user) if user else Nobody()


def healthimaging_address(client: Any, datastore: str) -> str:
    """Where the DICOMweb of a data store is, by boto3's client ``medical-imaging``: AWS has a host of its own for it."""
    place = urlsplit(str(client.meta.endpoint_url))
    host = f"dicom-{place.netloc}" if place.netloc.startswith(SERVICE) else place.netloc
    return urlunsplit((place.scheme, host, f"/datastore/{datastore}", "", ""))
