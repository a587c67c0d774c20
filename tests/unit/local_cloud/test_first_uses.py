"""What services do not know at once: counted by use, for what was made since the cloud started."""

from __future__ import annotations

import pytest

first_uses = pytest.importorskip("monai_aws_pipeline.local_cloud.first_uses")
START = 1_000_000.0


def test_the_first_use_by_each_service_is_refused_and_no_other():
    known = first_uses.FirstUses(clock=lambda: START)
    assert [known.refuse("lambda", "role", START + 1) for _ in range(3)] == [True, False, False]
    assert known.refuse("scheduler", "role", START + 1)
    assert known.refuse("lambda", "another", START + 1)


def test_what_was_there_before_the_cloud_started_is_known():
    known = first_uses.FirstUses(clock=lambda: START)
    assert not known.refuse("lambda", "role", START - 1)
    assert not known.refuse("lambda", "role", "1970-01-01T00:00:00Z")
    assert known.refuse("lambda", "role", "2100-01-01T00:00:00.000Z")
