"""A simulated host takes as many jobs as the agent does, and finds as the agent does how many at once are best."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.host_agent import at_once as agent
from monai_aws_pipeline.host_agent.pipeline import Hands
from monai_aws_pipeline.maps.spec.run import Limits
from monai_aws_pipeline.simulation import host
from monai_aws_pipeline.simulation.host import Host, Message, State
from monai_aws_pipeline.simulation.measured import Speed


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 8])
def test_it_fetches_ahead_and_publishes_as_many_as_the_agent(at_once: int) -> None:
    hands = Hands(at_once)
    ahead, publishers = host._AHEAD + at_once, host._PUBLISHERS + (at_once - 1) // 2
    assert (ahead, ahead + at_once + publishers) == (hands.ahead, hands.in_hand)


@given(st.lists(st.booleans() | st.just(value=True), max_size=200))
def test_a_new_one_finds_its_number_as_the_agent_does(awaited: list[bool]) -> None:
    """On a machine with room for eight that answers more with each more, with or without a study that waits for the place."""
    digest = f"sha256:{'a' * 64}"
    number = agent.AtOnce(agent.AUTO, agent.Machine(1 << 40, 64, 1 << 20), Limits())
    number._of(digest).use = agent.Use(1, None, 0.1, 1)  # one study was measured, and little is what it takes
    one = Host(0, agent.MOST, Speed((60.0,) * agent.MOST, 0, 0), State.ON)
    one.start(0.0, is_new=True)
    now = 0.0
    for job, waits in enumerate(awaited):
        running = one.places
        assert running == number.number(digest)
        one.running = [(0.0, each, Message(each, 0.0)) for each in range(running)]
        one.waiting.clear()
        one.waiting.extend([Message(job, 0.0)] if waits else [])
        now += 1 / running
        one.ended(now)
        number.left(digest, now, running, awaited=waits)
    assert one.places == number.number(digest)


def test_a_host_that_is_kept_begins_with_what_it_has_found() -> None:
    kept = Host(0, 4, Speed((60.0,) * 4, 0, 0))
    kept.start(0.0)
    assert kept.places == 4
