"""A simulated host takes as many jobs as the agent does."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.host_agent.pipeline import Hands
from monai_aws_pipeline.simulation import host


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 8])
def test_it_fetches_ahead_and_publishes_as_many_as_the_agent(at_once: int) -> None:
    hands = Hands(at_once)
    ahead, publishers = host._AHEAD + at_once, host._PUBLISHERS + (at_once - 1) // 2
    assert (ahead, ahead + at_once + publishers) == (hands.ahead, hands.in_hand)
