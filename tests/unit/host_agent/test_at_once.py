"""How many studies at once: what fits, how the best number is found by rates alone, and what a failure beside others closes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.at_once import (
    AUTO,
    GPU_RESERVE_BYTES,
    MOST,
    RESERVE_BYTES,
    ROUNDS,
    AtOnce,
    Machine,
    Use,
    best_of,
    most_that_fit,
    this_machine,
    to_try,
)
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.maps.spec.run import Limits
from tests.unit.host_agent.bench import WELL
from tests.unit.host_agent.host_config import DIGEST

GIB = 1 << 30
G4DN = Machine(16 * GIB, 4, 32768, 16 * GIB)
GPU = Limits(gpus="all", memory_mib=12288)
CPU = Limits(memory_mib=12288)
BRAIN = Use(1 * GIB, int(0.8 * GIB), 1.02, 5)
BUNDLE = Use(2 * GIB, int(2.9 * GIB), 1.0, 5)


@pytest.mark.parametrize(
    ("use", "limits", "most", "scarce"),
    [
        (BRAIN, GPU, 4, "cores"),
        (BUNDLE, GPU, 4, "memory of the GPU"),
        (replace(BUNDLE, gpu_bytes=6 * GIB), GPU, 2, "memory of the GPU"),
        (replace(BRAIN, gpu_bytes=None), GPU, 1, "memory of the GPU (the driver does not say what a study takes)"),
        (replace(BRAIN, gpu_bytes=None), CPU, 4, "cores"),
        (replace(BRAIN, cores=0.05), GPU, MOST, f"the {MOST} that are ever tried"),
        (replace(BRAIN, memory_bytes=5 * GIB), GPU, 2, "memory"),
        (replace(BRAIN, memory_bytes=40 * GIB), GPU, 1, "memory"),
        (replace(BRAIN, cores=3.9), GPU, 1, "cores"),
        (Use(), GPU, 1, "nothing of it is measured yet"),
    ],
)
def test_as_many_fit_as_the_scarcest_of_what_the_machine_has_allows(use: Use, limits: Limits, most: int, scarce: str) -> None:
    assert most_that_fit(G4DN, use, limits) == (most, scarce)


def test_the_reserves_are_kept() -> None:
    use = replace(BRAIN, memory_bytes=(16 * GIB - RESERVE_BYTES) // 5, cores=0.1)
    assert most_that_fit(G4DN, use, CPU)[0] == 4, "five would have room but for the margin"
    use = replace(BRAIN, gpu_bytes=(16 * GIB - GPU_RESERVE_BYTES) // 5, cores=0.1, memory_bytes=1)
    assert most_that_fit(G4DN, use, GPU)[0] == 4
    assert most_that_fit(replace(G4DN, pids=2048 + 3 * 512), replace(use, gpu_bytes=1), GPU) == (3, "processes")


def found(rate: Callable[[int], float], most: int = MOST, first: int = 1) -> tuple[int, list[int]]:
    """Where the search comes to rest, and what it tried on the way."""
    rates: dict[int, float] = {}
    number, tried = first, []
    while number not in rates:
        rates[number] = rate(number)
        tried.append(number)
        number = to_try(rates, most)
    assert number == best_of(rates)
    return number, tried


@pytest.mark.parametrize(
    ("rate", "best", "tried"),
    [
        ({1: 22.0, 2: 42.5, 3: 58.8, 4: 71.8, 5: 72.0}, 4, [1, 2, 3, 4, 5]),
        ({1: 10.0, 2: 10.2}, 1, [1, 2]),
        ({1: 10.0, 2: 7.0}, 1, [1, 2]),
        ({1: 10.0, 2: 20.0, 3: 12.0}, 2, [1, 2, 3]),
    ],
)
def test_it_opens_while_more_answers_more_and_goes_back_when_it_does_not(rate: dict[int, float], best: int, tried: list[int]) -> None:
    assert found(lambda number: rate[number]) == (best, tried)


def test_what_was_kept_is_where_it_begins_and_may_be_too_many_by_now() -> None:
    assert found(lambda number: 10.0 * min(number, 2), first=4) == (2, [4, 5, 3, 2, 1])
    assert found(lambda number: 10.0 * number, first=4, most=6) == (6, [4, 5, 6])
    assert found(lambda number: 10.0 * number, first=4, most=4)[0] == 4


def end(seconds: float = 3.0, cpu: float = 0.3, memory: int = GIB // 4) -> RunEnd:
    return replace(WELL, seconds=seconds, cpu_seconds=cpu, peak_bytes=memory)


def backlog(at_once: AtOnce, rate: Callable[[int], float], studies: int, *, awaited: bool = True) -> None:
    """So many studies leave, one after the other, ``rate`` a second."""
    now = 0.0
    for _ in range(studies):
        number = at_once.number(DIGEST)
        now += 1 / rate(number)
        at_once.left(DIGEST, now, number, awaited=awaited)
        at_once.used(DIGEST, end())


def test_a_backlog_of_a_map_that_waits_opens_it_to_what_is_best(tmp_path: Path) -> None:
    at_once = AtOnce(AUTO, G4DN, CPU, tmp_path)
    assert at_once.number(DIGEST) == 1, "nobody has measured it"
    backlog(at_once, lambda number: float(min(number, 4)), 100)
    assert at_once.number(DIGEST) == 4
    assert "4 at once" in at_once.why(DIGEST)
    assert "4: 240.0 a minute" in at_once.why(DIGEST)
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 4, "a host that was stopped goes on with it"
    assert AtOnce(AUTO, replace(G4DN, memory_bytes=3 * GIB), CPU, tmp_path).number(DIGEST) <= 3, "and yet within what another machine has"


def test_without_a_backlog_nothing_is_measured_and_nothing_opened() -> None:
    at_once = AtOnce(AUTO, G4DN, CPU)
    backlog(at_once, float, 10 * ROUNDS, awaited=False)
    assert at_once.number(DIGEST) == 1


def test_a_map_that_takes_every_core_stays_one_without_a_trial() -> None:
    at_once = AtOnce(AUTO, replace(G4DN, cores=2), CPU)
    for _ in range(20):
        at_once.used(DIGEST, end(3.0, 4.8))
        at_once.left(DIGEST, 1.0, 1, awaited=True)
    assert at_once.number(DIGEST) == 1
    assert not at_once.may_share(DIGEST, end(3.0, 4.8))


def test_a_number_is_taken_as_it_is_but_never_beyond_the_memory() -> None:
    at_once = AtOnce("6", replace(G4DN, cores=1), CPU)
    assert at_once.number(DIGEST) == 1, "the first study tells what one takes"
    at_once.used(DIGEST, end(memory=GIB))
    assert at_once.number(DIGEST) == 6, "who names it knows how its application shares the cores"
    at_once.used(DIGEST, end(memory=4 * GIB))
    assert at_once.number(DIGEST) == 2
    assert "too little memory" in at_once.why(DIGEST)
    assert AtOnce("1", G4DN, CPU).number(DIGEST) == 1
    assert not AtOnce("1", G4DN, CPU).may_share(DIGEST, end())


def test_each_has_its_share_of_the_memory_and_all_of_it_alone() -> None:
    at_once = AtOnce("4", G4DN, CPU)
    assert at_once.limits(DIGEST) == CPU
    at_once.used(DIGEST, end())
    assert at_once.limits(DIGEST).memory_mib == 14 * 1024 // 4
    assert replace(at_once.limits(DIGEST), memory_mib=CPU.memory_mib) == CPU
    small = replace(CPU, memory_mib=1024)
    generous = AtOnce("2", G4DN, small)
    generous.used(DIGEST, end())
    assert generous.limits(DIGEST) == small, "never more than is allowed alone"


def test_what_failed_beside_others_and_was_answered_alone_closes_the_number_for_good(tmp_path: Path) -> None:
    at_once = AtOnce("6", G4DN, CPU, tmp_path)
    at_once.used(DIGEST, end())
    at_once.disturbed(DIGEST, 3)
    assert at_once.number(DIGEST) == 3, "four were too many"
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 1
    at_once.disturbed(DIGEST, 1)
    assert AtOnce("6", G4DN, CPU, tmp_path).number(DIGEST) == 1, "kept over a stop"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"number": 3}', "x" * 100, '{"a":' * 3000])
def test_a_file_that_was_damaged_means_that_it_is_measured_again(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{DIGEST.rpartition(':')[2]}.json").write_text(content)
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 1


@pytest.mark.parametrize("change", [{"number": 99}, {"number": 0}, {"ceiling": -1}, {"digest": "sha256:" + "0" * 64}, {"use": {}}])
def test_a_file_that_says_too_much_is_not_believed(tmp_path: Path, change: dict[str, object]) -> None:
    good = {"digest": DIGEST, "number": 4, "ceiling": 8, "use": {"memory_bytes": 1, "gpu_bytes": None, "cores": 0.1, "studies": 9}}
    file = tmp_path / f"{DIGEST.rpartition(':')[2]}.json"
    file.write_text(json.dumps(good))
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 4
    file.write_text(json.dumps(good | change))
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 1


def test_this_machine_is_read_from_its_kernel() -> None:
    here = this_machine(None)
    assert here.memory_bytes > GIB // 2
    assert here.cores >= 1
    assert here.pids > 1000
