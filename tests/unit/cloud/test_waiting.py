"""Waiting: until it is done or the time is over, and never in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from monai_aws_pipeline.cloud.waiting import Telling, repeating, retried, wait_until


class Time:
    """A clock that only a nap moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def states(*each: str) -> Callable[[], str]:
    """One after the other, the last for ever."""
    left: Iterator[str] = iter(each)
    last = each[-1]

    def look() -> str:
        return next(left, last)

    return look


def test_what_is_done_already_costs_no_nap_and_no_word() -> None:
    time, said = Time(), []
    assert wait_until(states("up"), lambda seen: seen == "up", 60, what="x", report=said.append, sleep=time.sleep, clock=time.clock) == "up"
    assert (time.naps, said) == ([], [])


def test_it_looks_ever_less_often_up_to_its_pause() -> None:
    time = Time()
    wait_until(states("no"), bool, 0, what="x", sleep=time.sleep, clock=time.clock)
    wait_until(states("no"), lambda _: False, 20, what="x", pause=2, sleep=time.sleep, clock=time.clock)
    assert time.naps[0] < 1
    assert time.naps[:-1] == sorted(time.naps[:-1])
    assert max(time.naps) == 2


def test_the_bound_holds_and_the_last_look_is_at_the_end() -> None:
    time, looks = Time(), []

    def look() -> str:
        looks.append(time.now)
        return "still not"

    assert wait_until(look, lambda _: False, 7, what="x", pause=5, sleep=time.sleep, clock=time.clock) == "still not"
    assert (looks[0], looks[-1]) == (100, 107)


def test_what_is_waited_for_is_said_at_once_when_it_changes_and_every_ten_seconds() -> None:
    time, said = Time(), []

    def report(line: str) -> None:
        said.append((round(time.now - 100), line))

    def look() -> str:
        return "pending" if time.now < 124 else "starting" if time.now < 128 else "up"

    done = "up".__eq__
    wait_until(look, done, 60, what=lambda seen: f"it is {seen}", report=report, sleep=time.sleep, clock=time.clock)
    assert [line for _, line in said] == ["it is pending", "it is pending (for 10 s)", "it is pending (for 20 s)", "it is starting"]
    assert said[0][0] == 0
    assert all(later - earlier <= 11 for (earlier, _), (later, _) in pairwise(said))


def test_what_the_look_raises_ends_the_wait() -> None:
    def look() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wait_until(look, bool, 60, what="x")


def test_work_that_blocks_is_said_again_until_it_ends() -> None:
    time, said, twice = Time(), [], threading.Event()

    def report(line: str) -> None:
        said.append(line)
        time.now += 10  # so the next tick is due
        if len(said) == 3:
            twice.set()

    with repeating(report, tick_s=0.01, clock=time.clock) as say:
        say("asking pip")
        assert twice.wait(30), "it is said again while this thread does nothing"
    count = len(said)
    assert said[0] == "asking pip"
    assert said[1].startswith("asking pip (for ")
    assert not [thread for thread in threading.enumerate() if thread.name == "repeating"]
    assert len(said) == count


class NotYetError(Exception):
    """What passes."""


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter([error] * times)

    def call() -> str:
        for each in left:
            raise each
        return "made"

    return call


def test_what_passes_is_tried_again_and_said() -> None:
    said: list[str] = []
    made = retried(
        failing(2, NotYetError("soon")),
        NotYetError,
        lambda _: True,
        5,
        what=lambda error: f"not yet: {error}",
        report=said.append,
        pause=0.01,
    )
    assert (made, said) == ("made", ["not yet: soon"])


def test_what_does_not_pass_is_raised_at_once_and_what_never_ends_at_the_end() -> None:
    said: list[str] = []
    with pytest.raises(NotYetError, match="for good"):
        retried(failing(1, NotYetError("for good")), NotYetError, lambda _: False, 60, what="x", report=said.append)
    with pytest.raises(KeyError):
        retried(failing(1, KeyError("another")), NotYetError, lambda _: True, 60, what="x", report=said.append)
    assert said == []
    with pytest.raises(NotYetError, match="never"):
        retried(failing(99, NotYetError("never")), NotYetError, lambda _: True, 0, what="x", report=said.append)


def test_a_line_that_a_program_prints_twice_is_said_twice() -> None:
    time, said = Time(), list[str]()
    telling = Telling(said.append, time.clock)
    for _ in range(2):
        telling.say("│ ok")
    time.sleep(9)
    telling.again()
    assert said == ["│ ok", "│ ok"]
    time.sleep(1)
    telling.again()
    assert said[-1] == "│ ok (for 10 s)"
    with repeating(said.append, tick_s=60) as report:
        report("│ same")
        report("│ same")
    assert said[-2:] == ["│ same", "│ same"]
