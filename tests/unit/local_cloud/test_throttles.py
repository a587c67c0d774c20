"""How often HealthImaging may be asked."""

from __future__ import annotations

from monai_aws_pipeline.local_cloud.throttles import Throttles


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_allowed_and_then_the_rate_each_region_and_action_by_itself():
    clock = Clock()
    throttles = Throttles(clock=clock)
    assert [throttles.allows("us-east-1", "DeleteImageSet") for _ in range(3)] == [True, False, False]
    assert throttles.allows("us-west-2", "DeleteImageSet")
    assert throttles.allows("us-east-1", "GetImageSet")
    clock.now = 3.9
    assert not throttles.allows("us-east-1", "DeleteImageSet")
    clock.now = 4.1
    assert [throttles.allows("us-east-1", "DeleteImageSet") for _ in range(2)] == [True, False]


def test_more_can_be_ordered_and_what_is_not_listed_is_not_limited():
    throttles = Throttles(times=lambda: 3, clock=Clock())
    assert [throttles.allows("us-east-1", "DeleteImageSet") for _ in range(4)] == [True, True, True, False]
    assert all(throttles.allows("us-east-1", "StoreDICOM") for _ in range(1000))
