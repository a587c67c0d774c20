"""EC2 does not know at once what it has just made: the first calls that name a new thing say NotFound.

Counted, not timed, so that tests are the same each time. Calls that look for tags or other filters find a new thing at once.
Source: EC2 developer guide, "Eventual consistency in the Amazon EC2 API".
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Parameters = Mapping[str, list[str]]

_MADE: Final = {
    "RunInstances": re.compile(rb"<instanceId>(i-[0-9a-f]+)<"),
    "CreateSecurityGroup": re.compile(rb"<groupId>(sg-[0-9a-f]+)<"),
    "CreateImage": re.compile(rb"<imageId>(ami-[0-9a-f]+)<"),
    "CopyImage": re.compile(rb"<imageId>(ami-[0-9a-f]+)<"),
    "ImportKeyPair": re.compile(rb"<keyName>([^<]+)<"),
    "CreateKeyPair": re.compile(rb"<keyName>([^<]+)<"),
}
_UNKNOWN: Final = {
    "i": ("InvalidInstanceID.NotFound", "The instance ID '{}' does not exist"),
    "sg": ("InvalidGroup.NotFound", "The security group '{}' does not exist"),
    "ami": ("InvalidAMIID.NotFound", "The image id '[{}]' does not exist"),
}
_UNKNOWN_KEY: Final = ("InvalidKeyPair.NotFound", "The key pair '{}' does not exist")
_FIELDS: Final = re.compile(
    r"(InstanceId|GroupId|SecurityGroupId|ImageId|KeyName|ResourceId)(\.\d+)?|SourceImageId|NetworkInterface\.\d+\.SecurityGroupId\.\d+"
)
_NEVER: Final = frozenset({"DeleteKeyPair"})
"""Says that a key pair is deleted, whether there was one or not."""


@dataclass
class _Left:
    describes: int
    uses: int


class NewThings:
    """What was just made, and how many calls that name it do not find it yet. Thread-safe."""

    def __init__(self, describes: int = 2, uses: int = 1) -> None:
        self.describes, self.uses = describes, uses
        self._lock = threading.Lock()
        self._left: dict[str, _Left] = {}

    def note(self, action: str, status: int, body: bytes | str) -> None:
        """Look at an answer for things that it has made."""
        made = _MADE.get(action)
        if made is None or status >= 300:
            return
        with self._lock:
            for name in made.findall(body if isinstance(body, bytes) else body.encode()):
                self._left.setdefault(name.decode(), _Left(self.describes, self.uses))  # a repeated launch makes nothing new

    def unknown(self, action: str, parameters: Parameters) -> tuple[str, str] | None:
        """Code and message for a call that names what is not known yet; uses one up."""
        if action in _NEVER or (action in _MADE and action != "RunInstances"):
            return None
        named = [(field, value) for field, values in parameters.items() if _FIELDS.fullmatch(field) for value in values]
        with self._lock:
            for field, value in named:
                left = self._left.get(value)
                kind = "describes" if action.startswith("Describe") else "uses"
                if left is not None and getattr(left, kind) > 0:
                    setattr(left, kind, getattr(left, kind) - 1)
                    code, message = _UNKNOWN_KEY if field.startswith("KeyName") else _UNKNOWN.get(value.partition("-")[0], _UNKNOWN_KEY)
                    return code, message.format(value)
        return None
