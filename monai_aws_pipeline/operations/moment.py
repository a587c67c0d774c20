"""A moment as a person writes it: so long ago, a date, or a time. The same for every ``--since`` and every job's config."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from monai_aws_pipeline.operations.errors import OperationError

_AGO: Final = re.compile(r"(\d{1,4})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


class MomentError(OperationError):
    """What was written is no moment."""


def moment(text: str, now: datetime) -> datetime:
    """``30m``, ``12h`` or ``2d`` before now, or ISO 8601: a date or a time, UTC where it says no offset. Raises MomentError."""
    if ago := _AGO.fullmatch(text.strip()):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text.strip())
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise MomentError(
            "That is no moment.",
            "Write 30m, 12h or 2d for so long ago, a date, or a time like 2026-01-31T08:00+01:00; without an offset it is UTC.",
        ) from error
