"""A moment as a person writes it, wherever one is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from monai_aws_pipeline.operations.moment import MomentError, moment

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("12h", NOW - timedelta(hours=12)),
        (" 2d ", NOW - timedelta(days=2)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T08:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T08:00:00Z", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T08:00+01:00", datetime(2026, 1, 31, 7, tzinfo=UTC)),
    ],
)
def test_it_is_read_as_a_person_writes_it(text: str, meant: datetime):
    assert (moment(text, NOW), moment(text, NOW).tzinfo) == (meant, UTC)


@pytest.mark.parametrize("text", ["yesterday", "2", "d", "-2d", "99999d", "2w", "", "0001-01-01T00:00+14:00"])
def test_what_is_none_is_said_with_how_one_is_written(text: str):
    with pytest.raises(MomentError, match="30m, 12h or 2d"):
        moment(text, NOW)
