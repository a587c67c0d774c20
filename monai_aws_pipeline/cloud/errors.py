"""Named errors of AWS-facing work: what happened, why, what to do. Everything a user may see from ``cloud`` is one of these."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as UnreachableError

from monai_aws_pipeline.errors import NamedError


class CloudError(NamedError):
    """Base of all. None goes without a ``remedy``: it tells the user what to do next."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)


class CapacityError(CloudError):
    """No zone and no type of the preference list had a machine to give."""


class QuotaError(CloudError):
    """The account may not run that much."""


class ThrottledError(CloudError):
    """AWS went on refusing calls for their number."""


class MachineError(CloudError):
    """A machine did not get into the state that was waited for."""


class ImageError(CloudError):
    """A machine image is missing or did not become available."""


class RegistryError(CloudError):
    """The registry does not hold what it should."""


class SecretError(CloudError):
    """A secret is missing or is not what it should be."""


class CommandError(CloudError):
    """A command on a host could not be sent or failed there."""


class AgentError(CommandError):
    """The SSM agent of a host does not take commands."""


class NetworkError(CloudError):
    """AWS gave no answer: the way to it is cut, or its name is not found."""


class TriggerError(CloudError):
    """Part of the S3 trigger could not be set up."""


class AccessError(CloudError):
    """AWS refused a call for lack of permission."""


def code_of(error: ClientError) -> str:
    """The AWS error code of a boto3 error, for example ``InsufficientInstanceCapacity``."""
    return str(error.response.get("Error", {}).get("Code", ""))


DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "Client.UnauthorizedOperation"})


def refused(error: ClientError, doing: str) -> AccessError | None:
    """The permission error for a boto3 error, or None where it is another kind."""
    if code_of(error) not in DENIED:
        return None
    return AccessError(
        f"AWS refused {doing} ({code_of(error)}).",
        "Run with the operator role that infra/bootstrap.yaml creates, or let the administrator update that stack.",
    )


def unanswered(error: BotoCoreError, doing: str) -> NetworkError | None:
    """The network error for a boto3 error, or None where it is another kind."""
    if not isinstance(error, (UnreachableError, HTTPClientError)):
        return None
    return NetworkError(
        f"AWS gave no answer to {doing} ({error.__class__.__name__}).",
        "Check this machine's way to AWS: name resolution, route, proxy (HTTPS_PROXY), in a private network the VPC endpoint.",
    )
