"""Calls to AWS's services about things that others refer to: again while AWS does not know what was just made, and named where refused.

Here belongs what queues, functions, schedules and notifications share; each of them has a module of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import TriggerError, code_of, message_of, named
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.waiting import retried, silently

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients

T = TypeVar("T")
NOT_FOUND = "ResourceNotFoundException"


class ServiceCalls:
    """Calls for one deployment. ``tags`` go onto everything that can carry them."""

    settle_seconds: ClassVar[float] = 75.0
    """SQS takes the name of a deleted queue after a minute, S3 sees a queue's policy within one; IAM's roles are known sooner."""

    def __init__(self, clients: Clients, tags: Mapping[str, str], report: Report = silently) -> None:
        self._clients = clients
        self._tags = dict(tags)
        self._report = report

    def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """Make a call, again for a minute while AWS does not know what was just made or is at work on it; what stays refused is named."""
        waiting = f"AWS is not ready yet for {doing}"
        try:
            return retried(call, ClientError, _passes, self.settle_seconds, what=waiting, report=self._report, pause=2.0)
        except ClientError as error:
            raise named(error, doing, TriggerError) from error

    def _find(self, doing: str, call: Callable[[], T], absent: Collection[str] = (NOT_FOUND,)) -> T | None:
        """Make a call about something that need not be there: None for these codes, any other refusal is named."""
        try:
            return call()
        except ClientError as error:
            if code_of(error) in absent:
                return None
            raise named(error, doing, TriggerError) from error


_PASSING: Mapping[str, str] = {
    "InvalidParameterValueException": r"cannot be assumed|role does not have permissions",
    "ValidationException": r"must allow AWS EventBridge Scheduler to assume",
    "InvalidArgument": r"Unable to validate the following destination",
    "ResourceConflictException": r"in progress|in the following state",
    "ResourceInUseException": "",
    "ConflictException": "",
    "OperationAborted": "",
    "OperationAbortedException": "",
    "QueueDeletedRecently": "",
    "AWS.SimpleQueueService.QueueDeletedRecently": "",
}
"""Codes, with words where they say several things, of what AWS takes later: what is new is not known yet, or something is at work."""


def _passes(error: ClientError) -> bool:
    words = _PASSING.get(code_of(error))
    return words is not None and bool(re.search(words, message_of(error)))
