"""What counts as left behind."""

from datetime import UTC, datetime

import pytest

from monai_aws_pipeline.contract import TAG_EXPIRES_AT, TAG_RUN_ID
from monai_aws_pipeline.operations.sweep import overdue

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expires", "gone"),
    [("2026-01-01T11:59:59.000Z", True), ("2026-01-01T12:00:01.000Z", False), ("", False), ("soon", False), ("2026-01-01T11:00:00", False)],
)
def test_only_what_carries_a_past_time_is_overdue(expires, gone):
    assert overdue({TAG_EXPIRES_AT: expires}, NOW, None) is gone


def test_an_ended_run_takes_its_short_lived_things_with_it_before_their_time():
    tags = {TAG_EXPIRES_AT: "2026-01-01T13:00:00.000Z", TAG_RUN_ID: "r1"}
    assert overdue(tags, NOW, {"r1"})
    assert not overdue(tags, NOW, {"r2"})


def test_an_ended_run_does_not_take_what_is_meant_to_stay():
    assert not overdue({TAG_EXPIRES_AT: "", TAG_RUN_ID: "r1"}, NOW, {"r1"})
