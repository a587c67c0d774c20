"""How many studies at once: what fits, how the best number is found by rates alone, and what a failure beside others closes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent import at_once as module
from monai_aws_pipeline.host_agent.at_once import (
    AUTO,
    GPU_RESERVE_BYTES,
    MOST,
    RECONSIDER,
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
        (replace(BRAIN, gpu_bytes=None), GPU, 1, "memory of the GPU (the driver does not say that a study has any of it)"),
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


def test_where_nobody_knows_how_much_the_gpu_has_one_fits() -> None:
    unknown = replace(G4DN, gpu_bytes=None)
    assert most_that_fit(unknown, BRAIN, GPU) == (1, "memory of the GPU (the driver does not say how much there is)")
    assert most_that_fit(unknown, BRAIN, CPU)[0] == 4


def test_what_a_study_needs_is_neither_page_cache_nor_what_others_have_of_the_gpu() -> None:
    use = Use().and_of(replace(end(memory=9 * GIB), held_bytes=GIB, peak_gpu_bytes=9 * GIB, own_gpu_bytes=3 * GIB))
    assert (use.memory_bytes, use.gpu_bytes) == (GIB, 3 * GIB)
    use = use.and_of(replace(end(memory=2 * GIB), peak_gpu_bytes=9 * GIB))
    assert use.gpu_bytes == 3 * GIB, "it was never on the GPU: the figure is that of the three beside it"
    assert use.memory_bytes == 2 * GIB, "the kernel says no more than its mark"


def test_a_study_that_ended_before_its_memory_was_measured_says_nothing() -> None:
    assert Use().and_of(replace(end(memory=0), held_bytes=None)) == Use()
    assert BRAIN.and_of(replace(end(memory=0), held_bytes=0)) == BRAIN
    assert not AtOnce(AUTO, G4DN, CPU).may_share(DIGEST, end(memory=0)), "nobody knows whether two have room"


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


def test_studies_that_take_a_moment_are_measured_for_seconds_and_not_for_a_moment() -> None:
    at_once = AtOnce(AUTO, G4DN, CPU)
    backlog(at_once, lambda _: 10.0, 49)
    assert at_once.number(DIGEST) == 1, "five seconds are not over"
    at_once = AtOnce(AUTO, G4DN, CPU)
    backlog(at_once, lambda _: 10.0, 60)
    assert at_once.number(DIGEST) == 2


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


def test_what_is_worth_proving_is_known_before_a_study_runs_too() -> None:
    at_once = AtOnce(AUTO, G4DN, CPU)
    assert at_once.may_share(DIGEST), "nobody has measured it: perhaps"
    at_once.used(DIGEST, end())
    assert at_once.may_share(DIGEST)
    at_once.used(DIGEST, end(memory=12 * GIB))
    assert not at_once.may_share(DIGEST)
    assert not AtOnce("1", G4DN, CPU).may_share(DIGEST)


@pytest.mark.parametrize("failed", [{"exit_code": 1}, {"exit_code": 137, "out_of_memory": True}, {"timed_out": True}])
def test_what_a_failed_study_took_closes_nothing(tmp_path: Path, failed: dict[str, int]) -> None:
    at_once = AtOnce("4", G4DN, GPU, tmp_path)
    at_once.used(DIGEST, well := replace(end(), own_gpu_bytes=GIB))
    assert at_once.number(DIGEST) == 4
    at_once.used(DIGEST, replace(end(cpu=12.0, memory=12 * GIB), own_gpu_bytes=15 * GIB, **failed))
    for each in (at_once, AtOnce("4", G4DN, GPU, tmp_path)):
        assert each.number(DIGEST) == 4
        assert each._of(DIGEST).use == Use().and_of(well)


def test_a_driver_that_did_not_say_what_the_gpu_has_is_asked_again_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers, asked = [100.0], [None, 16 * GIB], list[float]()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def ask() -> int | None:
        asked.append(now[0])
        return answers.pop(0)

    at_once = AtOnce("4", replace(G4DN, gpu_bytes=None), GPU, gpu_bytes=ask)
    for _ in range(10 * 60):
        now[0] += 0.5
        at_once.used(DIGEST, replace(end(), own_gpu_bytes=GIB))
        if len(asked) < 2:
            assert at_once.number(DIGEST) == 1
            assert "does not say how much" in at_once.why(DIGEST)
    assert asked == [160.0, 220.0]
    assert at_once.number(DIGEST) == 4


def test_a_host_without_a_gpu_asks_nobody_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_S", -1.0)
    at_once = AtOnce(AUTO, replace(G4DN, gpu_bytes=None), CPU, gpu_bytes=lambda: pytest.fail("there is no driver"))
    at_once.used(DIGEST, end())
    assert at_once.may_share(DIGEST)


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


def test_a_share_of_the_memory_stays_what_it_is_while_the_cores_that_studies_use_differ() -> None:
    at_once = AtOnce(AUTO, G4DN, CPU)
    backlog(at_once, float, 20)
    assert at_once.number(DIGEST) > 1
    shares = set()
    for cpu in (1.5, 6.0, 0.1, 3.0) * 10:
        at_once.used(DIGEST, end(cpu=cpu))
        shares.add(at_once.limits(DIGEST).memory_mib)
    assert shares == {14 * 1024 // 8}
    at_once.used(DIGEST, end(cpu=0.3, memory=4 * GIB))
    assert at_once.number(DIGEST) == 2
    assert at_once.limits(DIGEST).memory_mib == 14 * 1024 // 2, "there is no room for more"


def test_each_has_its_share_of_the_memory_and_all_of_it_alone() -> None:
    at_once = AtOnce("4", G4DN, CPU)
    assert at_once.limits(DIGEST) == CPU
    at_once.used(DIGEST, end())
    assert at_once.limits(DIGEST).memory_mib == 14 * 1024 // 4
    assert replace(at_once.limits(DIGEST), memory_mib=CPU.memory_mib) == CPU
    assert at_once.limits(DIGEST, alone=True) == CPU
    assert at_once.shared_mib == 14 * 1024
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


def test_a_study_that_met_its_share_closes_no_more_than_it_takes(tmp_path: Path) -> None:
    at_once = AtOnce(AUTO, G4DN, CPU, tmp_path)
    at_once.used(DIGEST, end(memory=int(2.7 * GIB)))
    backlog(at_once, lambda number: float(min(number, 2)), 10 * ROUNDS)
    assert "2 at once; 4 would fit" in at_once.why(DIGEST)
    share = at_once.limits(DIGEST).memory_mib
    assert share == 3584
    at_once.used(DIGEST, end(memory=4 * GIB))
    at_once.disturbed(DIGEST, 1, limit_mib=share)
    for each in (at_once, AtOnce(AUTO, G4DN, CPU, tmp_path)):
        assert each.number(DIGEST) == 2, "two of 4 GiB fit"
        assert each.limits(DIGEST).memory_mib == 7168


def test_whoever_meets_a_share_takes_at_least_that_whatever_the_samples_say(tmp_path: Path) -> None:
    at_once = AtOnce("4", G4DN, CPU, tmp_path)
    at_once.used(DIGEST, end(memory=GIB))
    share = at_once.limits(DIGEST).memory_mib
    assert (at_once.number(DIGEST), share) == (4, 3584)
    at_once.used(DIGEST, end(memory=2 * GIB))
    at_once.disturbed(DIGEST, 3, limit_mib=share)
    for each in (at_once, AtOnce("4", G4DN, CPU, tmp_path)):
        assert each.number(DIGEST) == 3
        assert each.limits(DIGEST).memory_mib > share


def test_a_map_that_answers_otherwise_beside_itself_has_all_that_one_may_have_and_is_said_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at_once = AtOnce("4", G4DN, CPU, tmp_path)
    at_once.used(DIGEST, end())
    assert at_once.limits(DIGEST).memory_mib < CPU.memory_mib
    with caplog.at_level("INFO"):
        at_once.proved(DIGEST, together=False)
        at_once.proved(DIGEST, together=False)
    assert [record.getMessage() for record in caplog.records].count(
        f"the MAP {DIGEST[7:19]}: 1 at once as MONAI_AWS_STUDIES_AT_ONCE asks, of 4: there is too little "
        "likeness: beside another a study was answered otherwise"
    ) == 1
    assert (at_once.number(DIGEST), at_once.limits(DIGEST)) == (1, CPU)
    at_once.proved(DIGEST, together=True)
    assert at_once.number(DIGEST) == 4
    assert AtOnce("4", G4DN, CPU, tmp_path).number(DIGEST) == 4, "it is kept with the proof and nowhere else"


def test_a_number_that_changes_because_the_driver_answers_now_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = AtOnce("4", replace(G4DN, gpu_bytes=None), GPU, gpu_bytes=lambda: 16 * GIB)
    used = replace(end(), own_gpu_bytes=GIB)
    at_once.used(DIGEST, used)
    monkeypatch.setattr(at_once, "_ask_at", 0.0)
    caplog.clear()
    with caplog.at_level("INFO"):
        at_once.used(DIGEST, used)
    assert any("4 at once" in record.getMessage() for record in caplog.records)


def test_a_study_that_took_more_than_any_before_is_known_after_a_stop(tmp_path: Path) -> None:
    at_once = AtOnce("2", G4DN, GPU, tmp_path)
    for memory, gpu in ((GIB, GIB), (GIB, 2 * GIB), (2 * GIB, 2 * GIB)):
        at_once.used(DIGEST, replace(end(memory=memory), own_gpu_bytes=gpu))
        kept = AtOnce("2", G4DN, GPU, tmp_path)._of(DIGEST).use
        assert (kept.memory_bytes, kept.gpu_bytes) == (memory, gpu)


def test_a_search_that_a_stop_interrupts_goes_on_with_what_it_has_measured(tmp_path: Path) -> None:
    def rate(number: int) -> float:
        return min(number, 3) / 2

    tried: list[int] = []
    for _ in range(40):
        at_once = AtOnce(AUTO, G4DN, CPU, tmp_path)
        tried.append(at_once.number(DIGEST))
        backlog(at_once, rate, ROUNDS * tried[-1] + 1)
    assert tried[:4] == [1, 2, 3, 4]
    assert set(tried[4:]) == {3}, "it is found, and not looked for again at each start"


def test_the_studies_after_which_it_is_looked_at_again_are_counted_over_stops(tmp_path: Path) -> None:
    tried: list[int] = []
    for _ in range(RECONSIDER // ROUNDS + 5):
        at_once = AtOnce(AUTO, G4DN, CPU, tmp_path)
        tried.append(at_once.number(DIGEST))
        backlog(at_once, lambda _: 0.5, ROUNDS * tried[-1] + 1)
    assert [start for start, number in enumerate(tried) if number == 2] == [1, RECONSIDER // ROUNDS + 3]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"number": 3}', "x" * 100, '{"a":' * 3000])
def test_a_file_that_was_damaged_means_that_it_is_measured_again(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{DIGEST.rpartition(':')[2]}.json").write_text(content)
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 1


USED = {"memory_bytes": 1, "gpu_bytes": None, "cores": 0.1, "studies": 9}


@pytest.mark.parametrize(
    "change",
    [
        {"number": 99}, {"number": 0}, {"ceiling": -1}, {"digest": "sha256:" + "0" * 64}, {"use": {}},
        {"rates": {"0": 1.0}}, {"rates": {"9": 1.0}}, {"rates": {"one": 1.0}}, {"rates": {"1": -1.0}}, {"rates": {"1": None}}, {"rates": 7},
        {"rates": {"1": math.nan}}, {"rates": {"1": math.inf}}, {"steady": -1}, {"steady": 501}, {"steady": math.nan}, {"number": 10**400},
        *({"use": USED | {name: value}} for name in USED for value in (-1, math.nan, math.inf, 10**400, "x", [])),
    ],
    ids=lambda change: str(change)[:80],
)  # fmt: skip
def test_a_file_that_says_too_much_is_not_believed(tmp_path: Path, change: dict[str, object]) -> None:
    good = {"digest": DIGEST, "number": 4, "ceiling": 8, "rates": {"3": 60.0, "4": 80.0, "5": 80.0}, "steady": 12, "use": USED}
    file = tmp_path / f"{DIGEST.rpartition(':')[2]}.json"
    file.write_text(json.dumps(good))
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 4
    file.write_text(json.dumps(good | change))
    assert AtOnce(AUTO, G4DN, CPU, tmp_path).number(DIGEST) == 1


def test_while_it_is_not_known_whether_two_are_answered_as_one_alone_one_has_all_that_is_allowed() -> None:
    at_once = AtOnce("4", G4DN, CPU)
    at_once.used(DIGEST, end())
    at_once.proved(DIGEST, together=None)
    assert (at_once.number(DIGEST), at_once.limits(DIGEST)) == (1, CPU)
    assert at_once.why(DIGEST).startswith("1 at once until it is proved that two are answered as one alone; ")
    assert at_once.may_share(DIGEST), "else nobody would try"
    at_once.proved(DIGEST, together=True)
    assert at_once.number(DIGEST) == 4


def test_a_rate_begins_anew_when_another_process_had_the_machine() -> None:
    at_once = AtOnce(AUTO, G4DN, CPU)
    at_once.used(DIGEST, end())
    at_once.left(DIGEST, 0.0, 1, awaited=True)
    at_once.begin_anew()
    for second in range(600, 600 + ROUNDS + 1):
        at_once.left(DIGEST, float(second) * 2, 1, awaited=True)
    assert "1: 30.0 a minute" in at_once.why(DIGEST)


def test_what_others_leave_of_a_machine_is_shared_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "sys" / "kernel").mkdir(parents=True)
    for name in ("pid_max", "threads-max"):
        (tmp_path / "sys" / "kernel" / name).write_text("32768\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {10 << 20} kB\n")
    assert this_machine(None, tmp_path).memory_bytes == 16 * GIB
    assert this_machine(None, tmp_path, is_shared=True).memory_bytes - RESERVE_BYTES == 10 * GIB
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemAvailable: {15 << 20} kB\n")
    assert this_machine(None, tmp_path, is_shared=True).memory_bytes == 16 * GIB


def test_this_machine_is_read_from_its_kernel() -> None:
    here = this_machine(None)
    assert here.memory_bytes > GIB // 2
    assert here.cores >= 1
    assert here.pids > 1000
