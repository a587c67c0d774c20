"""A simulated day: reckoned by hand where it is small, and held to what must be true of any day where it is not."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_aws_pipeline.simulation.arrivals import Load, uploads
from monai_aws_pipeline.simulation.day import Answer, Day, Job, OnTime, simulate
from monai_aws_pipeline.simulation.fleet import Fleet, Kind
from monai_aws_pipeline.simulation.host import Host, Message, State
from monai_aws_pipeline.simulation.measured import SPEEDS, Hosting, Machine, Speed, Study
from monai_aws_pipeline.simulation.summary import hosts_on, summarise

MACHINE = replace(Machine(), start_s=100, launch_s=50, pull_s=30, stop_s=10, trigger_s=1, repeat_s=2, poll_s=5)
SPEED = Speed((6.0, 10.0), fetch_s=2, publish_s=3)
"""Ten seconds a study alone; two at once take twelve each."""
KINDS = [
    Fleet(Kind.HOSTS, 3),
    Fleet(Kind.AUTOSCALING, 3),
    Fleet(Kind.AUTOSCALING, 3, warm_pool=1),
    Fleet(Kind.AUTOSCALING, 3, spot=True),
    Fleet(Kind.HOSTS, 3, 2),
    Fleet(Kind.AUTOSCALING, 3, 2, warm_pool=2),
]


def jobs_of(*moments: float) -> list[Job]:
    return [Job(moment) for moment in moments]


def answered(day: Day) -> list[float]:
    return [each.answered for each in sorted(day.answers, key=lambda each: each.job)]


# ------------------------------------------------------------------------------------------------------------------- reckoned by hand


def test_three_studies_on_one_host_to_the_second():
    """Message at 1, host ready at 101. Fetched at 103, 105, 107; inferred until 113, 123, 133; published 3 s later.

    Idle from 136 on. It polls every 5 s from 107 on, and 436 s is over at 437; 10 s later it is off.
    """
    day = simulate(jobs_of(0, 0, 0), SPEED, Fleet(), MACHINE)
    assert answered(day) == [116, 126, 136]
    assert day.on == [OnTime(0, 1, 447)]


def test_two_at_once_share_the_host():
    """Fetched at 103 and 105: the first has 2 of its 10 s behind it and 8 left, which take 9.6 s beside the second.

    The second has then 2 s left of its own, alone: it began at 105, went at 10/12 until 114.6 (8 s of it), and ends at 116.6.
    """
    day = simulate(jobs_of(0, 0), SPEED, Fleet(at_once=2), MACHINE)
    assert answered(day) == pytest.approx([117.6, 119.6])


def test_a_job_of_three_studies_is_fetched_inferred_and_published_as_three():
    day = simulate([Job(0, studies=3)], SPEED, Fleet(), MACHINE)
    assert answered(day) == [101 + 6 + 30 + 9]


def test_a_study_that_comes_while_the_only_host_stops_waits_for_the_schedule():
    """Idle from 116; the poll at 418 is the first after five minutes, and at 428 it is off. The message at 426 comes in between."""
    day = simulate(jobs_of(0, 425), SPEED, Fleet(), MACHINE)
    assert day.on[0] == OnTime(0, 1, 428)
    assert answered(day) == [116, 600 + 100 + 15], "started by the wake at 600"


@pytest.mark.parametrize(("waiting", "started"), [(20, 1), (21, 2), (40, 2), (41, 3), (80, 3)])
def test_one_more_host_is_started_for_each_twenty_jobs_that_wait(waiting: int, started: int):
    day = simulate(jobs_of(*[0.0] * waiting), SPEED, Fleet(most=3), MACHINE)
    assert len({each.host for each in day.on}) == started


def test_a_second_message_of_a_job_in_hand_is_removed_and_of_one_answered_costs_a_look():
    alone = simulate([Job(0, messages=(0, 0))], SPEED, Fleet(), MACHINE)
    assert (answered(alone), alone.discarded) == ([116], 0)
    later = simulate([Job(0, messages=(0, 200))], SPEED, Fleet(), MACHINE)
    assert (answered(later), later.discarded) == ([116], 0)
    assert later.on == [OnTime(0, 1, 513)], "idle from 203 on"


def test_two_hosts_with_the_same_job_give_one_answer():
    many = [Job(0, messages=(0, 0)) for _ in range(30)]
    day = simulate(many, SPEED, Fleet(most=2), MACHINE)
    assert len(day.answers) == 30
    assert day.discarded > 0, "the case that this is about"


def test_the_wake_function_lifts_a_group_from_zero_and_more_is_what_its_alarms_see():
    """Message at 1, one of the pool ready at 101. Values of 60, 120 and 180 s are above 20; the last is seen at 240."""
    day = simulate(jobs_of(*[0.0] * 90), SPEED, Fleet(Kind.AUTOSCALING, 2, warm_pool=2), MACHINE)
    assert answered(day)[0] == 101 + 15
    assert [each.begin for each in sorted(day.on, key=lambda each: each.begin)] == [1, 240]


@pytest.mark.parametrize(
    ("fleet", "launched"),
    [
        (Fleet(Kind.AUTOSCALING, spot=True), 80),
        (Fleet(Kind.AUTOSCALING), 80),
        (Fleet(Kind.AUTOSCALING, warm_pool=1), 0),  # it has pulled the MAP already, and never run it
    ],
)
def test_a_machine_that_has_never_run_the_map_proves_it_first(fleet: Fleet, launched: float):
    speed = replace(SPEED, imports_s=4, proof_s=7)
    machine = replace(MACHINE, interruptions_per_hour=0)
    assert answered(simulate(jobs_of(0), speed, fleet, machine)) == [101 + launched + 11 + 15]
    two = replace(fleet, at_once=2)
    together = 12  # two studies side by side, whose answers must be the same
    assert answered(simulate(jobs_of(0), speed, two, machine)) == [101 + launched + 11 + together + 15]
    assert answered(simulate(jobs_of(0), speed, Fleet(at_once=2), machine)) == [101 + 4 + 15], "a named host has proved it before"


def test_what_leaves_the_pool_is_replaced_by_a_launch_and_does_not_come_back():
    """One leaves at 1, and its successor is on until it is stopped with the MAP: 190 s. The next study finds that one in the pool."""
    day = simulate(jobs_of(0, 2000), SPEED, Fleet(Kind.AUTOSCALING, warm_pool=1), MACHINE)
    assert [(each.begin, each.seconds) for each in day.refills] == [(1, 190), (2001, 190)]
    assert answered(day) == [101 + 15, 2101 + 15]
    assert day.machine_seconds == pytest.approx(sum(each.seconds for each in day.on) + 380)


def test_an_empty_pool_helps_nobody():
    """A second study comes when the first one's instance has left, and before another is in the pool."""
    refilled = replace(MACHINE, launch_s=900)
    day = simulate(jobs_of(0, 500), SPEED, Fleet(Kind.AUTOSCALING, warm_pool=1), refilled)
    assert day.on[0].end < 501
    assert answered(day) == [101 + 15, 501 + 100 + 900 + 30 + 15]
    assert len(day.refills) == 1


def test_a_new_instance_begins_with_one_at_a_time_and_finds_its_number_by_its_backlog():
    """Ten studies wait. It infers four alone before it tries two at once; a named host infers two from the first on."""
    jobs = jobs_of(*[0.0] * 10)
    new = answered(simulate(jobs, SPEED, Fleet(Kind.AUTOSCALING, at_once=2, warm_pool=1), MACHINE))
    known = answered(simulate(jobs, SPEED, Fleet(at_once=2), MACHINE))
    assert [round(later - earlier, 6) for earlier, later in pairwise(sorted(new)[:5])] == [10, 10, 10, 12]
    assert max(new) - min(new) > max(known) - min(known)


def test_what_a_spot_machine_cannot_end_in_time_another_answers():
    """Studies of ten minutes, on machines that AWS takes back every ten minutes or so."""
    slow = Speed((0.1,), 2, 3)
    machine = replace(MACHINE, interruptions_per_hour=6)
    day = simulate(jobs_of(*[0.0] * 12), slow, Fleet(Kind.AUTOSCALING, 3, spot=True), machine, seed=3)
    assert sorted(each.job for each in day.answers) == list(range(12))
    assert day.given_back > 0
    assert any(each.taken_back for each in day.on)


def test_a_machine_that_aws_takes_back_begins_nothing_of_what_waits_on_it():
    """One machine, so that the first draw is its notice: what it infers then ends, is published, and it is off."""
    rate = 6
    after = random.Random(5).expovariate(rate / 3600)  # noqa: S311 - repeatable
    machine = replace(MACHINE, interruptions_per_hour=rate)
    day = simulate(jobs_of(*[0.0] * 200), SPEED, Fleet(Kind.AUTOSCALING, 1, spot=True), machine, seed=5)
    first = day.on[0]
    assert first.taken_back
    assert any(each.answered < first.begin + after for each in day.answers), "it was at work"
    assert first.end <= first.begin + after + 10 + SPEED.publish_s + MACHINE.stop_s
    assert len(day.answers) == 200


@pytest.mark.parametrize(("at_once", "waiting", "others", "more"), [(1, 2, 0, True), (1, 3, 0, False), (1, 2, 4, False), (2, 3, 0, True)])
def test_a_host_takes_so_much_ahead_and_no_more(at_once: int, waiting: int, others: int, more: bool):
    host = Host(0, at_once, SPEED, State.ON)
    host.waiting.extend(Message(job, 0) for job in range(waiting))
    host.in_hand = {job: Message(job, 0) for job in range(waiting + others)}
    assert host.has_place is more


def test_a_start_that_aws_refuses_is_tried_again_by_the_schedule():
    machine = replace(MACHINE, refused_starts=0.9)
    day = simulate(jobs_of(0), SPEED, Fleet(), machine, seed=1)
    assert day.refused_starts > 0
    assert answered(day) == [day.refused_starts * 300 + 115], "a wake every five minutes"


# ---------------------------------------------------------------------------------------------------------------- true of every day


@given(
    moments=st.lists(st.floats(0, 5000), min_size=1, max_size=60),
    fleet=st.sampled_from(KINDS),
    events=st.integers(1, 2),
    seed=st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_each_job_is_answered_once_and_none_before_it_can_be(moments: list[float], fleet: Fleet, events: int, seed: int):
    jobs = [Job(moment, messages=(moment,) * events) for moment in moments]
    machine = replace(MACHINE, interruptions_per_hour=4, refused_starts=0.2)
    day = simulate(jobs, SPEED, fleet, machine, seed=seed)
    assert sorted(each.job for each in day.answers) == list(range(len(jobs)))
    least = MACHINE.trigger_s + SPEED.fetch_s + 10 + SPEED.publish_s
    assert all(each.answered - each.arrived >= least - 1e-6 for each in day.answers)
    assert all(any(on.host == each.host and on.begin < each.answered <= on.end for on in day.on) for each in day.answers)
    assert day.machine_seconds >= len(jobs) / SPEED.rate(fleet.at_once) - 1e-6
    assert max(count for _, count in hosts_on(day)) <= fleet.most
    assert hosts_on(day)[-1][1] == 0


@pytest.mark.parametrize("fleet", KINDS)
def test_the_same_seed_makes_the_same_day(fleet: Fleet):
    jobs = [Job(each.at) for each in uploads(Load(5000), 5)]
    speed = SPEEDS[Study.CT, Hosting.COLD]
    first, again, other = (simulate(jobs, speed, fleet, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def poisson(rate: float, count: int) -> list[Job]:
    """Arrivals as queueing theory has them."""
    drawn, moment, found = random.Random(1), 0.0, []  # noqa: S311 - repeatable
    for _ in range(count):
        moment += drawn.expovariate(rate)
        found.append(Job(moment))
    return found


def mean_wait(day: Day) -> float:
    return sum(each.answered - each.arrived for each in day.answers) / len(day.answers)


ALWAYS_ON = replace(MACHINE, start_s=0, trigger_s=0)


@pytest.mark.parametrize("used", [0.3, 0.7])
def test_one_at_a_time_waits_as_a_queue_with_one_server_does(used: float):
    """M/D/1 (Pollaczek and Khinchine): mean time = s + s used / 2 (1 - used), with s = 1 s."""
    day = simulate(poisson(used, 30_000), Speed((60.0,), 0, 0), Fleet(idle_stop_minutes=1440), ALWAYS_ON)
    assert mean_wait(day) == pytest.approx(1 + used / (2 * (1 - used)), rel=0.05)


@pytest.mark.parametrize("used", [0.3, 0.7])
def test_many_at_once_wait_as_a_shared_server_does(used: float):
    """M/G/1 with processor sharing: mean time = s / (1 - used), however many are there; the host is no faster for it."""
    day = simulate(poisson(used, 30_000), Speed((60.0,) * 200, 0, 0), Fleet(at_once=200, idle_stop_minutes=1440), ALWAYS_ON)
    assert mean_wait(day) == pytest.approx(1 / (1 - used), rel=0.05)


@pytest.mark.parametrize("kind", [*Kind])
def test_more_hosts_hardly_ever_make_a_day_worse(kind: Kind):
    """The 99th percentile: an idle host that has stopped elsewhere may cost a start, so that it is no law."""
    jobs = [Job(each.at) for each in uploads(Load(6000), 4)]
    speed = SPEEDS[Study.CT, Hosting.COLD]
    waits = [summarise(simulate(jobs, speed, Fleet(kind, most)), jobs, speed, Fleet(kind, most)).wait_p99_s for most in (2, 4, 6, 8, 12)]
    assert all(more <= fewer * 1.1 for fewer, more in pairwise(waits))
    assert waits[-1] < waits[0] / 10


def test_a_faster_machine_never_takes_longer_for_a_backlog():
    jobs = jobs_of(*[0.0] * 100)
    ends = [simulate(jobs, Speed((rate,), 0.1, 0.1), Fleet(most=3), MACHINE).end for rate in (2, 4, 8, 16)]
    assert ends == sorted(ends, reverse=True)
    assert len(set(ends)) == 4


def test_an_answer_names_its_host():
    assert simulate(jobs_of(0), SPEED, Fleet(), MACHINE).answers == [Answer(0, 0, 116, 0)]
