"""The archive that settings name, ready to be asked: HealthImaging by the role of whoever asks, any other by the secret of its name.

A connection is made for each study: secrets are exchanged, and what one study took is counted by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .dicomweb import DicomWebArchive
from .errors import ArchiveAccessError, ArchiveAwayError
from .healthimaging import HealthImagingArchive
from .signing import SERVICE, from_secret

NONE: Final = "none"
HEALTHIMAGING: Final = "healthimaging"
DICOMWEB: Final = "dicomweb"


@dataclass(frozen=True)
class ArchivePlace:
    """Which archive. ``secret``: the name or ARN of its secret. ``correct``: whether copies of results may be changed to agree."""

    kind: str = NONE
    address: str = ""
    datastore: str = ""
    secret: str = ""
    correct: bool = False

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self.kind != NONE


def connect(place: ArchivePlace, client: Callable[[str], Any], credentials: Any, **options: Any) -> DicomWebArchive:
    """The archive. ``client``: gives boto3's client of a service; ``credentials``: botocore's; ``options``: of ``DicomWebArchive``.

    Raises ArchiveError where its secret cannot be read.
    """
    if place.kind == HEALTHIMAGING:
        return HealthImagingArchive(client(SERVICE), place.datastore, credentials, **options)
    return DicomWebArchive(place.address, from_secret(_secret(place.secret, client) if place.secret else ""), **options)


def _secret(name: str, client: Callable[[str], Any]) -> str:
    try:
        return str(client("secretsmanager").get_secret_value(SecretId=name).get("SecretString", ""))
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("ThrottlingException", "InternalServiceError"):
            raise ArchiveAwayError(f"The archive's secret cannot be read now ({code}).") from None
        raise ArchiveAccessError(
            f"The archive's secret {name} cannot be read ({code}).",
            "Create it with user:password or a token as its text, and run bootstrap with MONAI_AWS_ARCHIVE_SECRET set.",
        ) from None
    except BotoCoreError as error:
        raise ArchiveAwayError(f"The archive's secret cannot be read now ({type(error).__name__}).") from None
