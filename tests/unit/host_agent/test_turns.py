"""Places at the MAP: in the order they came, as many as may be, one digest at a time, and one study alone where it must be."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from monai_aws_pipeline.host_agent.errors import InterruptedJobError
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.turns import Place, Turns
from monai_aws_pipeline.maps.spec.run import Limits
from tests.unit.host_agent.pipeline_bench import until
from tests.unit.host_agent.test_ahead import READY

OTHER = replace(READY, image=f"{READY.image}0", facts=replace(READY.facts, digest="sha256:" + "9" * 64))


class Numbers:
    """A number that the test chooses, and a share of 100 MiB. ``looks``: how often the share was looked at."""

    def __init__(self, number: int):
        self.chosen, self.rounds = number, list[tuple[int, bool]]()
        self.share, self.shared_mib, self.looks = 10, 100, 0

    def number(self, digest: str) -> int:
        return self.chosen

    def limits(self, digest: str, *, alone: bool = False) -> Limits:
        self.looks += 1
        return Limits(memory_mib=100 if alone else self.share)

    def left(self, digest: str, now: float, running: int, *, awaited: bool) -> None:
        self.rounds.append((running, awaited))


def nothing() -> None:
    """Nobody stops."""


class Gate:
    """Turns with a thread for each who wants in."""

    def __init__(self, number: int, ready_for: int = 9):
        self.numbers, self.ready_for = Numbers(number), ready_for
        self.turns = Turns(self.numbers, lambda ready, wanted: wanted <= self.ready_for)  # type: ignore[arg-type]
        self.threads = ThreadPoolExecutor(16)
        self.inside: list[Place] = []

    def ask(self, ready: ReadyMap = READY, *, alone: bool = False) -> Future[Place]:
        started = threading.Event()

        def go() -> Place:
            place, known = None, None
            started.set()
            with self.turns.door(nothing) as door:
                while place is None:
                    door.wait(known, until_empty=alone)
                    place, known = door.enter(ready, alone=alone), ready
            self.inside.append(place)
            return place

        waiting = len(self.turns._waiting)
        future = self.threads.submit(go)
        started.wait(10)
        until(lambda: future.done() or len(self.turns._waiting) > waiting, "it stands in line")
        return future


def test_as_many_as_may_go_in_and_the_next_in_the_order_they_came() -> None:
    gate = Gate(2)
    first, second = gate.ask().result(10), gate.ask().result(10)
    third = gate.ask()
    fourth = gate.ask()
    assert not third.done()
    assert (first.beside, second.beside) == (1, 1)
    first.leave()
    first.leave()
    first.close()
    assert third.result(10) is gate.inside[2]
    assert not fourth.done()
    second.close()
    assert fourth.result(10) is gate.inside[3]
    third.result().close()
    fourth.result().close()
    assert gate.numbers.rounds == [(2, True), (2, True), (2, False), (1, False)], "how many were inside, and whether somebody waited"


def test_an_engine_that_is_slow_to_say_how_runs_ended_gets_one_more_and_no_other() -> None:
    gate = Gate(1)
    first = gate.ask().result(10)
    first.leave()
    second = gate.ask().result(10)
    second.leave()
    third = gate.ask()
    assert not third.done(), "two ends are not known"
    first.close()
    assert third.result(10)


def test_a_number_that_grows_opens_the_door_to_who_waits_and_one_that_shrinks_closes_it() -> None:
    gate = Gate(1)
    first = gate.ask().result(10)
    second = gate.ask()
    assert not second.done()
    gate.numbers.chosen = 2
    assert second.result(10).beside == 1
    gate.numbers.chosen = 1
    third = gate.ask()
    first.close()
    assert not third.done(), "one is inside still"
    second.result().close()
    assert third.result(10).beside == 0


def test_nobody_goes_in_beside_one_that_may_still_use_what_would_be_its_share() -> None:
    gate = Gate(2)
    gate.numbers.share = 100
    first, second = gate.ask().result(10), gate.ask()
    gate.numbers.share = 50
    looks = gate.numbers.looks
    until(lambda: gate.numbers.looks > looks + 1, "it has looked again")
    assert not second.done(), "the first may still use all of it"
    first.close()
    third = gate.ask().result(10)
    assert (second.result(10).limits.memory_mib, third.limits.memory_mib, third.beside) == (50, 50, 1)


def test_with_room_for_one_more_it_goes_in_and_does_not_wait_for_the_rest() -> None:
    gate = Gate(3)
    gate.numbers.share = 60
    large = gate.ask().result(10)
    gate.numbers.share = 20
    small = gate.ask().result(10)
    gate.numbers.share = 30
    third = gate.ask()
    looks = gate.numbers.looks
    until(lambda: gate.numbers.looks > looks + 1, "it has looked")
    assert not third.done()
    large.close()
    assert third.result(10).beside == 1
    assert small in gate.turns._running


@pytest.mark.parametrize(("name", "value"), [("chosen", 1), ("share", 95)])
def test_a_number_that_fell_or_a_share_that_grew_while_the_map_was_made_ready_is_waited_for(name: str, value: int) -> None:
    gate = Gate(2)
    first = gate.ask().result(10)
    with gate.turns.door(nothing) as door:
        door.wait()
        setattr(gate.numbers, name, value)
        assert door.enter(READY) is None
        first.close()
        door.wait(READY)
        place = door.enter(READY)
    assert place is not None
    assert place.limits.memory_mib == gate.numbers.share


def test_nobody_goes_in_beside_another_before_the_containers_are_ready_for_that() -> None:
    gate = Gate(2, ready_for=1)
    gate.ask().result(10)
    second = gate.ask()
    assert not second.done()
    gate.ready_for = 2
    assert second.result(10).beside == 1


def test_another_digest_waits_until_the_first_has_left_and_those_behind_it_wait_too() -> None:
    gate = Gate(3)
    first, second = gate.ask().result(10), gate.ask().result(10)
    other = gate.ask(OTHER)
    behind = gate.ask()
    first.close()
    assert not other.done()
    assert not behind.done()
    second.close()
    assert other.result(10).beside == 0
    assert not behind.done(), "nor does the first digest run beside the other"
    other.result().close()
    assert behind.result(10).beside == 0


def test_one_that_must_be_alone_waits_for_the_others_and_lets_nobody_in() -> None:
    gate = Gate(3)
    first = gate.ask().result(10)
    alone = gate.ask(alone=True)
    behind = gate.ask()
    assert not alone.done()
    first.close()
    assert alone.result(10).beside == 0
    assert not behind.done()
    alone.result().close()
    assert behind.result(10)
    assert alone.result().beside == 0


def test_who_is_told_to_stop_leaves_the_line_and_holds_up_nobody() -> None:
    gate = Gate(1)
    inside = gate.ask().result(10)
    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise InterruptedJobError("the host is stopping")

    def go() -> None:
        with gate.turns.door(check) as door:
            door.wait()

    waiting = gate.threads.submit(go)
    until(lambda: len(gate.turns._waiting) == 1, "it stands in line")
    behind = gate.ask()
    stopped.set()
    with pytest.raises(InterruptedJobError):
        waiting.result(10)
    inside.close()
    assert behind.result(10)
