"""Services do not know at once what IAM and SQS were just told: the first use of a new role, instance profile or queue policy is refused.

Counted, not timed, so that tests are the same each time. EC2's own new things are in ec2_new_things.py.
Sources: IAM User Guide, "Changes that I make are not always immediately visible"; SQS, SetQueueAttributes (up to 60 seconds).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from ministack.services import sqs

from . import identity
from .config import ACCOUNT


class FirstUses:
    """What was made since this cloud started, and how many uses of it are still refused. Thread-safe."""

    def __init__(self, uses: int = 1, clock: Callable[[], float] = time.time) -> None:
        self._uses, self._since = uses, int(clock())
        self._lock = threading.Lock()
        self._left: dict[tuple[str, str], int] = {}

    def refuse(self, user: str, thing: str, made: str | float) -> bool:
        """Whether ``user``, a service, does not know a thing yet; uses one up. ``made``: its creation, ISO 8601 or seconds.

        ``thing`` is an id or text that no other thing had before: a role that is made anew under its name is another one.
        """
        if _seconds(made) < self._since:
            return False
        with self._lock:
            left = self._left.setdefault((user, thing), self._uses)
            self._left[user, thing] = max(0, left - 1)
        return left > 0

    def role(self, user: str, arn: str) -> bool:
        """Whether a service may not assume a role (yet): it is new, or does not trust the service."""
        role = identity.role(arn)
        if role is None or not identity.trusts(role, f"{user}.amazonaws.com"):
            return True
        return self.refuse(user, str(role["RoleId"]), str(role["CreateDate"]))

    def profile(self, name_or_arn: str) -> tuple[str, str] | None:
        """Code and message of a launch with an instance profile that EC2 does not know yet."""
        profile = identity.instance_profile(name_or_arn)
        if profile is None or not self.refuse("ec2", str(profile["InstanceProfileId"]), str(profile["CreateDate"])):
            return None
        words = f"Value ({name_or_arn}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
        return "InvalidParameterValue", words

    def queue_policy(self, queue_arn: str) -> bool:
        """Whether S3 does not see a queue's policy yet."""
        queue = sqs._queue_by_arn(queue_arn)
        attributes = queue["attributes"] if queue else {}
        changed = float(attributes.get("LastModifiedTimestamp", 0))
        return self.refuse("s3", f"{ACCOUNT}:{queue_arn}:{attributes.get('Policy', '')}", changed)


def _seconds(made: str | float) -> float:
    return datetime.fromisoformat(made).timestamp() if isinstance(made, str) else made
