"""Reading what STOW-RS answers: which instances were stored, which were refused and by which code. Pure.

Source: DICOM PS3.18 10.5.3 (Store response), table 10.5.3-1 (status codes).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .errors import ArchiveAnswerError
from .record import UNSAID

REFERENCED, FAILED, OTHERS = "00081199", "00081198", "0008119A"
_INSTANCE, _FAILURE, _WARNING = "00081155", "00081197", "00081196"
_PER_INSTANCE: Final = (200, 202, 409)
_NO_REASON: Final = 0x0110


@dataclass(frozen=True)
class Answered:
    """Codes by SOP Instance UID; 0 in ``stored`` where nothing was warned of."""

    stored: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)


def is_per_instance(status: int, body: bytes) -> bool:
    """Whether an answer says what became of each instance: 409 is also what AWS says for a conflict that passes."""
    if status not in _PER_INSTANCE:
        return False
    data = _read(body)
    return data is not None and (status != 409 or any(tag in data for tag in (REFERENCED, FAILED, OTHERS)))


def read_answer(body: bytes, sent: Sequence[str]) -> Answered:
    """What became of the instances that were sent, each of them. Raises ArchiveAnswerError.

    Of an instance that the answer does not name, the code of one that it could not name is taken; else it is ``UNSAID``, and no success.
    """
    data = _read(body)
    if data is None:
        raise ArchiveAnswerError("The archive's answer to what was stored is no DICOM JSON.")
    stored = {uid: _code(item, _WARNING, 0) for item in _items(data, REFERENCED) if (uid := _uid(item)) in sent}
    refused = {uid: _code(item, _FAILURE, _NO_REASON) for item in _items(data, FAILED) if (uid := _uid(item)) in sent}
    unnamed = [_code(item, _FAILURE, _NO_REASON) for item in _items(data, OTHERS)]
    for uid in sent:
        if uid not in stored and uid not in refused:
            refused[uid] = unnamed.pop(0) if unnamed else UNSAID
    return Answered({uid: code for uid, code in stored.items() if uid not in refused}, refused)


def _read(body: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(data, list) and len(data) == 1:  # some archives answer a list of one
        data = data[0]
    return data if isinstance(data, dict) else None


def _items(data: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    element = data.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [item for item in values if isinstance(item, dict)] if isinstance(values, list) else []


def _first(item: Mapping[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _uid(item: Mapping[str, Any]) -> str:
    return str(_first(item, _INSTANCE) or "")


def _code(item: Mapping[str, Any], tag: str, usual: int) -> int:
    try:
        return int(_first(item, tag) or usual)
    except (TypeError, ValueError):
        return usual
