"""This instance in its Auto Scaling group: where the group wants it, where it holds it, and the five things that an instance may ask of it.

Here belong the calls and what their refusals mean; when each is made is decided in ``membership.py``. No refusal is an error for who
calls: a group that does not answer must not cost a study. Each is said once.
Source: Amazon EC2 Auto Scaling User Guide, "Complete a lifecycle action in an Auto Scaling group", "Use instance scale-in protection"; API
Reference, TerminateInstanceInAutoScalingGroup.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

log = logging.getLogger(__name__)

MEANING: Final = {
    "ValidationError": "the group has no such instance or hook in that state, or may not become smaller",
    "ScalingActivityInProgress": "the group is changing at the moment",
    "ScalingActivityInProgressFault": "the group is changing at the moment",
    "ResourceContention": "the group is changing at the moment",
    "ResourceContentionFault": "the group is changing at the moment",
    "Throttling": "the account asks Auto Scaling too often",
    "RequestLimitExceeded": "the account asks Auto Scaling too often",
    "AccessDenied": "the role of this instance may not; its policy comes with infra/bootstrap.yaml",
    "UnauthorizedOperation": "the role of this instance may not; its policy comes with infra/bootstrap.yaml",
}
"""What a code says about an instance that asked for something."""
_FINAL: Final = ("AccessDenied", "UnauthorizedOperation")


class Leaving(Enum):
    """What became of the wish to leave the group."""

    ACCEPTED = auto()
    KEPT = auto()
    """The group may not become smaller: it wants this instance."""
    LATER = auto()
    """The group does not answer, or changes at the moment: to be asked again."""
    NEVER = auto()
    """This instance is in no group, or may not ask."""


class AutoScaling(Protocol):
    """The calls of boto3's client that an instance makes."""

    def describe_auto_scaling_instances(self, *, InstanceIds: list[str]) -> Any:  # noqa: N803 - boto3's names
        """Where groups have these instances."""

    def complete_lifecycle_action(self, **request: Any) -> Any:
        """End a hook's wait."""

    def record_lifecycle_action_heartbeat(self, **request: Any) -> Any:
        """Begin a hook's timeout anew."""

    def set_instance_protection(self, **request: Any) -> Any:
        """Keep scale-in from instances, or no more."""

    def terminate_instance_in_auto_scaling_group(self, *, InstanceId: str, ShouldDecrementDesiredCapacity: bool) -> Any:  # noqa: N803
        """End one, with its place or for a new one."""


class GroupInstance:
    """One instance of a group, named by its id; the client is one that gives up soon."""

    def __init__(self, client: AutoScaling, group: str, instance_id: str):
        self._client, self._group, self._id = client, group, instance_id
        self._said: set[tuple[str, str]] = set()

    def state(self) -> str | None:
        """The lifecycle state in which the group has it now; empty where no group does, None where that is not known."""
        found: list[str] = []

        def ask() -> None:
            answer = self._client.describe_auto_scaling_instances(InstanceIds=[self._id])
            found.extend(each["LifecycleState"] for each in answer["AutoScalingInstances"])

        return None if self._refused("asked for its state", ask) else next(iter(found), "")

    def complete(self, hook: str) -> bool:
        """Let it go on from where this hook holds it; False where it holds it nowhere."""
        return not self._refused(
            f"completed {hook}", lambda: self._client.complete_lifecycle_action(**self._at(hook), LifecycleActionResult="CONTINUE")
        )

    def heartbeat(self, hook: str) -> bool:
        """Have this hook wait on."""
        return not self._refused(f"asked {hook} to wait on", lambda: self._client.record_lifecycle_action_heartbeat(**self._at(hook)))

    def protect(self, *, on: bool) -> bool:
        """Have scale-in and instance refresh leave it alone, or no more; whether the group has noted it."""
        wanted: Any = {"InstanceIds": [self._id], "AutoScalingGroupName": self._group, "ProtectedFromScaleIn": on}
        return not self._refused("set its protection", lambda: self._client.set_instance_protection(**wanted))

    def leave(self, *, smaller: bool) -> Leaving:
        """Be terminated by the group, which becomes smaller by it or replaces it."""
        code = self._refused(
            "asked to leave",
            lambda: self._client.terminate_instance_in_auto_scaling_group(InstanceId=self._id, ShouldDecrementDesiredCapacity=smaller),
        )
        if not code:
            return Leaving.ACCEPTED
        if code == "ValidationError":
            return Leaving.NEVER if self.state() == "" else Leaving.KEPT
        return Leaving.NEVER if code in _FINAL else Leaving.LATER

    def _at(self, hook: str) -> Any:
        return {"LifecycleHookName": hook, "AutoScalingGroupName": self._group, "InstanceId": self._id}

    def _refused(self, what: str, call: Callable[[], object]) -> str:
        """Make a call; the code of its refusal, empty where there is none."""
        try:
            call()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "")) or "an error without a code"
        except BotoCoreError as error:
            code = error.__class__.__name__
        else:
            return ""
        if (what, code) not in self._said:
            self._said.add((what, code))
            log.warning(
                "the group did not do what this instance %s: %s (%s); said once", what, code, MEANING.get(code, "it did not answer")
            )
        return code
