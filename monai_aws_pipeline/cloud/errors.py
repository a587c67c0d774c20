"""Named errors of AWS-facing work: what happened, why, what to do. Everything a user may see from ``cloud`` is one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as UnreachableError

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.refusals import Kind, Meaning, meaning_of
from monai_aws_pipeline.cloud.waiting import retried, silently
from monai_aws_pipeline.contract.ec2_refusals import Refusal, Way, ending_of, refusal_of
from monai_aws_pipeline.errors import NamedError

T = TypeVar("T")
NEW_SECONDS = 60.0
"""How long AWS may not know what it has just made. Source: EC2 developer guide, "Eventual consistency in the Amazon EC2 API"."""


class CloudError(NamedError):
    """Base of all. None goes without a ``remedy``: it tells the user what to do next."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)


class CapacityError(CloudError):
    """No zone and no type of the preference list had a machine to give."""


class QuotaError(CloudError):
    """The account has used up a quota."""


class MarketError(CloudError):
    """The account may not buy in one market, such as spot; another may do."""


class LaunchError(CloudError):
    """AWS refuses to launch or start a machine for a reason that only a person can do something about."""


class ThrottledError(CloudError):
    """AWS went on refusing calls for their number."""


class MachineError(CloudError):
    """A machine did not get into the state that was waited for."""


class EndedError(MachineError):
    """A machine ended, or stopped again, instead of what was waited for. ``reason``: AWS's code for it, empty where it gives none."""

    def __init__(self, machine: str, state: str, wanted: str, reason: str) -> None:
        meant = ending_of(reason)
        because = f" ({reason})" if reason else ""
        super().__init__(f"Machine {machine} became {state} instead of {wanted}{because}. {meant.what}", meant.remedy)
        self.reason = reason


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


class SessionError(CloudError):
    """AWS does not (any longer) know who calls."""


class ServiceError(CloudError):
    """A service of AWS failed by itself, again and again."""


def code_of(error: ClientError) -> str:
    """The AWS error code of a boto3 error, for example ``InsufficientInstanceCapacity``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def message_of(error: ClientError) -> str:
    """AWS's own words of a boto3 error."""
    return str(error.response.get("Error", {}).get("Message", ""))


def judged(error: ClientError) -> tuple[str, Refusal]:
    """What EC2 refused: its code, and what that means for a launch or a start."""
    return code_of(error), refusal_of(code_of(error), message_of(error))


_BY_WAY = {
    Way.NEXT_ZONE: CapacityError,
    Way.NEXT_SUBNET: CapacityError,
    Way.NEXT_TYPE: QuotaError,
    Way.NEXT_MARKET: MarketError,
    Way.RETRY: ThrottledError,
}


def refused_launch(error: ClientError | EndedError, doing: str) -> CloudError:
    """The named error for a launch or start that nothing else leads past: what happened, AWS's code and, of an unknown one, its words."""
    if isinstance(error, EndedError):
        return error
    code, refusal = judged(error)
    said = "" if refusal.known else f" It says: {message_of(error)[:300]!r}."
    what = f"{doing[:1].upper()}{doing[1:]} failed ({code}): {refusal.what}{said}"
    if code in DENIED:
        return AccessError(what, refusal.remedy)
    if code.startswith("InvalidAMIID"):
        return ImageError(what, refusal.remedy)
    return _BY_WAY.get(refusal.way, LaunchError)(what, refusal.remedy)


def when_known(call: Callable[[], T], seconds: float, report: Report = silently) -> T:
    """Make a call about something that was just made, again while AWS does not know it yet, and raise its error when it never does."""
    return retried(call, ClientError, _is_not_known, seconds, what="waiting until AWS knows what was just made", report=report)


def remove(call: Callable[[], object], listed: Callable[[], bool], seconds: float = NEW_SECONDS, report: Report = silently) -> None:
    """Make a call that removes something. What AWS does not know is gone, unless a search still finds it: that is new, and waited for."""

    def attempt() -> None:
        try:
            call()
        except ClientError as error:
            if not _is_not_known(error) or listed():
                raise

    retried(attempt, ClientError, _is_not_known, seconds, what="waiting until AWS knows what is to be removed", report=report, pause=1.0)


def _is_not_known(error: ClientError) -> bool:
    return judged(error)[1].way is Way.NOT_YET


DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "Client.UnauthorizedOperation", "AuthorizationError"}
)

_BY_KIND: Mapping[Kind, type[CloudError]] = {
    Kind.ACCESS: AccessError,
    Kind.SESSION: SessionError,
    Kind.THROTTLED: ThrottledError,
    Kind.QUOTA: QuotaError,
    Kind.SERVICE: ServiceError,
}


def refused(error: ClientError, doing: str) -> CloudError | None:
    """The named error for what any call may be told (permission, session, number of calls, quota, AWS's own failure), else None."""
    meaning = meaning_of(code_of(error), message_of(error))
    return of_meaning(meaning, code_of(error), doing) if meaning else None


def of_meaning(meaning: Meaning, code: str, doing: str) -> CloudError:
    """The error for a refusal whose meaning is known."""
    return _BY_KIND[meaning.kind](f"AWS refused {doing} ({code}). {meaning.what}".rstrip(), meaning.remedy)


def named(error: ClientError, doing: str, otherwise: type[CloudError] = CloudError) -> CloudError:
    """The named error for a call that failed: as ``refused``, and for what only this call can be told ``otherwise``, with AWS's words."""
    said = f"AWS refused {doing} ({code_of(error)}). It says: {message_of(error)[:300]!r}."
    return refused(error, doing) or otherwise(
        said, "Correct what it names, or look the code up in the service's API reference; then repeat it."
    )


def unanswered(error: BotoCoreError, doing: str) -> NetworkError | None:
    """The network error for a boto3 error, or None where it is another kind."""
    if not isinstance(error, (UnreachableError, HTTPClientError)):
        return None
    return NetworkError(
        f"AWS gave no answer to {doing} ({error.__class__.__name__}).",
        "Check this machine's way to AWS: name resolution, route, proxy (HTTPS_PROXY), in a private network the VPC endpoint.",
    )
