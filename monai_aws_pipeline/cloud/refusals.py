"""What AWS's services beyond EC2 say when they do not do what was asked, and what helps: one table. Launches and starts: ec2_refusals.py.

Here belong codes that mean the same whoever asked. What one call alone can be told, and what is as it should be (``…NotFound``), the
caller knows. Sources: the services' API references, "Errors" and "Common error types". What AWS sends with each is in tests/fidelity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final


class Kind(StrEnum):
    """What kind of error a refusal becomes."""

    ACCESS = auto()
    SESSION = auto()
    THROTTLED = auto()
    QUOTA = auto()
    SERVICE = auto()


@dataclass(frozen=True)
class Meaning:
    """One thing that AWS says: what happened and what a person does about it."""

    kind: Kind
    what: str
    remedy: str


_OPERATOR = "Run with the operator role that infra/bootstrap.yaml creates, or let the administrator update that stack."
_LOG_IN = "Log in again (aws sso login, or as this account gives out credentials) and repeat it: what runs takes the new session by itself."
_AGAIN = "Repeat it in some minutes. If it stays so, look at the AWS Health Dashboard."
_QUOTA = "Remove what nobody needs, or ask for more in Service Quotas."

_DENIED = Meaning(Kind.ACCESS, "", _OPERATOR)
_KEY = Meaning(
    Kind.ACCESS,
    "The KMS key may not be used.",
    "Let the key's policy name the operator role, and check that the key is enabled; or set another.",
)
_OVER = Meaning(Kind.SESSION, "The caller's session is over.", _LOG_IN)
_UNKNOWN_KEY = Meaning(Kind.SESSION, "AWS does not know the caller's access key (any more), or its secret is another.", _LOG_IN)
_CLOCK = Meaning(Kind.SESSION, "This machine's clock is wrong.", "Let it be set (timedatectl set-ntp true), then repeat it.")
_THROTTLED = Meaning(
    Kind.THROTTLED,
    "AWS takes no more such calls at the moment.",
    "Repeat it in some minutes. If it stays so, something in this account calls too often: CloudTrail shows who.",
)
_FULL = Meaning(Kind.QUOTA, "The account has used up a quota.", _QUOTA)
_CHANGING = Meaning(Kind.THROTTLED, "Another change of the Auto Scaling group is at work.", "Repeat it in some minutes.")
_BROKEN = Meaning(Kind.SERVICE, "AWS failed by itself.", _AGAIN)

_CODES: Final[Mapping[str, Meaning]] = {
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "Client.UnauthorizedOperation"), _DENIED
    ),
    **dict.fromkeys(("NotAuthorized", "AuthorizationError", "AuthorizationErrorException"), _DENIED),
    **dict.fromkeys(
        ("KmsException", "KMSAccessDeniedException", "KMSDisabledException", "KMSNotFoundException", "KMSInvalidStateException"), _KEY
    ),
    **dict.fromkeys(
        ("KmsAccessDenied", "KmsDisabled", "KmsNotFound", "KmsInvalidState", "KMS.DisabledException", "KMS.NotFoundException"), _KEY
    ),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), _OVER),
    **dict.fromkeys(("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"), _UNKNOWN_KEY),
    **dict.fromkeys(("InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationToken", "InvalidToken"), _UNKNOWN_KEY),
    "RequestTimeTooSkewed": _CLOCK,
    **dict.fromkeys(
        ("Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded"), _THROTTLED
    ),
    **dict.fromkeys(("RequestThrottled", "RequestThrottledException", "SlowDown", "KmsThrottled", "ThrottlingErrorException"), _THROTTLED),
    **dict.fromkeys(("ScalingActivityInProgress", "ResourceContention", "InstanceRefreshInProgress"), _CHANGING),
    **dict.fromkeys(("LimitExceeded", "LimitExceededException", "LimitExceededFault", "ServiceQuotaExceededException", "OverLimit"), _FULL),
    **dict.fromkeys(("TooManyBuckets", "CodeStorageExceededException", "PolicyLengthExceededException"), _FULL),
    **dict.fromkeys(("InternalError", "InternalFailure", "InternalServerError", "InternalServerException", "ServerException"), _BROKEN),
    **dict.fromkeys(
        ("ServiceException", "ServiceUnavailable", "ServiceUnavailableException", "Unavailable", "InternalServiceFault"), _BROKEN
    ),
}
"""By code. A service that is asked in its old protocol puts its name before (``AWS.SimpleQueueService.…``)."""


def meaning_of(code: str, message: str = "") -> Meaning | None:
    """What a refusal means, None for codes that the table does not have. ``message``: AWS's, for codes that say several things."""
    short = code.removeprefix("AWS.SimpleQueueService.")
    if short == "InvalidSignatureException" and re.search(r"Signature (expired|not yet current)", message):
        return _CLOCK
    return _CODES.get(short)
