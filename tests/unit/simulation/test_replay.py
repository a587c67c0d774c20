"""A run that has happened, simulated: what a bench is told of it."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.simulation.fleet import Fleet
from monai_aws_pipeline.simulation.replay import Rig, jobs_of, replay

RIG = Rig(start_s=3, study_s=2, fetch_s=0.5, publish_s=1, stop_s=1, trigger_s=0.5)
FLEET = Fleet(most=3, idle_stop_minutes=0.5, wake_every_minutes=1)


def test_one_study_to_the_second():
    """Uploaded at 1,000: message half a second later, ready at 3.5, answered at 7; the poll at 39 finds it idle for half a minute."""
    found = replay([1000.0], RIG, Fleet(idle_stop_minutes=0.5))
    assert (found.answered_s, found.seconds, found.machine_seconds) == (7, 40, 39.5)
    assert (found.answered, found.starts, found.discarded) == (1, 1, 0)


def test_a_second_wave_starts_the_hosts_again():
    found = replay([0.0] * 60 + [500.0] * 60, RIG, FLEET)
    assert (found.answered, found.starts) == (120, 6)
    assert found.machine_seconds == pytest.approx(120 * 2 + 6 * (3 + 30 + 1), rel=0.1)


def test_events_that_come_twice_and_in_reverse_make_one_answer_each():
    once = replay([0.0] * 100, RIG, FLEET)
    twice = replay([0.0] * 100, RIG, FLEET, events=2, group=20)
    assert once.answered == twice.answered == 100
    assert once.discarded == 0 < twice.discarded
    assert twice.machine_seconds > once.machine_seconds, "what two hosts have in hand, both infer"
    assert twice == replay([0.0] * 100, RIG, FLEET, events=2, group=20)


def test_events_of_a_group_come_in_reverse():
    moments = [moment for job in jobs_of([0.0, 1.0, 2.0, 9.0], 2, 3) for moment in job.messages]
    assert moments == pytest.approx([2.004, 2.005, 2.002, 2.003, 2.0, 2.001, 9.0, 9.001]), "the last is a group of its own"


def test_events_come_when_the_last_of_their_group_has_come():
    found = replay([0.0, 100.0], RIG, FLEET, group=2)
    assert found.answered_s == pytest.approx(100 + 0.5 + 3 + 0.5 + 2 + 2 + 1, abs=0.01)
