"""UIDs in text, by their look: of studies, series, instances, frames of reference, and of anything else.

Here belongs what tells a UID from a version, an address and a decimal number. Sources: PS3.5 section 9 and annex B (UIDs, 2.25), PS3.6
annex A (what DICOM registers under 1.2.840.10008, which names nobody).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from monai_aws_pipeline.host_agent.log_redaction.identifier_forms import Span

_UID: Final = re.compile(r"(?<!\d)(?<!\d\.)\d+(?:\.\d+){2,}")
_UNDERSCORED_UID: Final = re.compile(r"(?<!\d)(?<!\d_)[012](?:_\d+){5,}")
_DIGITS_AND_POINTS: Final = re.compile(r"[\d.]+")
_LONG_NUMBER: Final = re.compile(r"(?<!\d)\d{24,}(?!\d)")
_REGISTERED: Final = "1.2.840.10008."


class Uids:
    """UIDs by their look. Known ones are remembered only where their look does not tell, or where their last part may stand alone."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._tails: set[str] = set()

    def learn(self, uid: str) -> bool:
        """Take in a UID of the study; False for one that is not found by its look or as a whole: so short that only its label tells it from
        a version or a decimal number, or not made of digits and points.
        """
        tail = uid.rpartition(".")[2]
        if len(tail) >= 10:
            self._tails.add(tail)
        if _looks_like_uid(uid):
            return True
        if (len(uid) < 9 and uid.count(".") < 4) or not _DIGITS_AND_POINTS.fullmatch(uid):
            return False
        self._known.add(uid)
        return True

    def spans(self, text: str) -> Iterator[Span]:
        """Where a text holds a UID."""
        for found in _UID.finditer(text):
            if found[0] in self._known or (_looks_like_uid(found[0]) and not _is_section(text, found.start(), found[0])):
                yield found.span()
        for found in _UNDERSCORED_UID.finditer(text):
            if len(found[0]) >= 20 and any(len(part) >= 5 for part in found[0].split("_")):
                yield found.span()
        yield from (found.span() for found in _LONG_NUMBER.finditer(text))
        if self._tails:
            yield from (found.span() for found in re.finditer(r"(?<!\d)\d{10,}(?!\d)", text) if found[0] in self._tails)


def _looks_like_uid(text: str) -> bool:
    """Five parts under one of the three roots, or three of which one is far longer than in a version or an address. PS3.5 section 9."""
    if text.startswith(_REGISTERED):
        return False
    parts = text.split(".")
    if parts[0].lstrip("0") not in ("", "1", "2") or len(parts) < 3:
        return len(text) >= 30 and len(parts) > 4
    return len(parts) > 4 or any(len(part) >= 12 for part in parts) or (text.startswith("2.25.") and len(parts[2]) >= 6)


def _is_section(text: str, start: int, found: str) -> bool:
    """Whether it is a short number behind a letter and a point, as sections of the standard have it: C.7.6.16.2.3."""
    return len(found) < 16 and re.search(r"(?<![a-z0-9])[a-z]\.$", text[max(0, start - 3) : start]) is not None
