"""Two studies run at once only after one was run twice at once and answered as it does alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.runtime import side_by_side
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import Hosting, OnExit, PerStudy, nothing
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.side_by_side import SideBySide, ran_together
from monai_aws_pipeline.maps.spec.run import Limits
from tests.unit.host_agent.bench import WELL, PretendedEngine, answers
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.test_ahead import READY

DIGEST = "sha256:" + "4" * 64
MAP = replace(READY, image=f"host/map@{DIGEST}", facts=replace(READY.facts, digest=DIGEST))


class Meeting:
    """A MAP whose second and third run are the proof, and so on: each waits until the other has begun, so they do run at once."""

    def __init__(self, together: Callable[[Path, Path], RunEnd] = answers):
        self.together, self.runs = together, 0
        self._lock, self._both = threading.Lock(), threading.Barrier(2)

    def __call__(self, source: Path, target: Path) -> RunEnd:
        with self._lock:
            self.runs += 1
            number = self.runs
        if number % 3 != 1:
            self._both.wait(20)
            end = self.together(source, target) if number % 3 == 0 else answers(source, target)
            return replace(end, seconds=60.0)  # that they overlapped is known here, however late a thread comes back
        return answers(source, target)


class Servers:
    """A hosting with one warm server; the second has made its imports when it was asked for so often. A run takes a server and its time."""

    RUN_S = 1.0

    def __init__(self, imports: float):
        self.imports, self.runs = imports, list[tuple[float, float]]()
        self.places = threading.Semaphore(1)
        self.settled = True

    def run(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event, on_exit: OnExit = nothing
    ) -> RunEnd:
        with self.places:
            began = time.monotonic()
            answers(source, target)
            time.sleep(self.RUN_S)
            on_exit()
            self.runs.append((began, time.monotonic()))
        return replace(WELL, seconds=self.RUN_S)

    @property
    def overlaps(self) -> int:
        """How many pairs of runs were at work at the same time."""
        return sum(began < until and since < end for (began, end), (since, until) in combinations(self.runs, 2))

    def ready_for(self, ready: ReadyMap, limits: Limits, number: int) -> bool:
        self.imports -= number - 1
        if number == 2 and self.imports == 0:
            self.places.release()
        return number == 1 or self.imports <= 0

    def is_settled(self, ready: ReadyMap) -> bool:
        return self.settled


class Host:
    def __init__(
        self, folder: Path, the_map: Callable[[Path, Path], RunEnd] = answers, *, room: bool = True, servers: Servers | None = None
    ):
        self.folder, self.engine = folder, PretendedEngine(the_map)
        self.below: Hosting = servers or PerStudy(self.engine)  # type: ignore[assignment,arg-type]
        self.asked: list[RunEnd | None] = []
        self.told: list[bool | None] = []
        self.room = self.room_before = room
        self.stop = threading.Event()
        self.exits = 0
        write_series(folder / "input", "1.2.3", slices=2)
        self.hosting = self.made()

    def made(self) -> SideBySide:
        def may_share(_: str, end: RunEnd | None) -> bool:
            self.asked.append(end)
            return self.room if end else self.room_before

        def tell(digest: str, *, together: bool | None) -> None:
            assert digest == DIGEST
            if self.told[-1:] != [together]:
                self.told.append(together)

        return SideBySide(self.below, self.folder / "verdicts", self.folder / "proof", may_share, tell, shared_mib=3001)

    def run(self, name: str = "one", ready: ReadyMap = MAP) -> RunEnd:
        target = self.folder / f"output-{name}"
        target.mkdir()

        def exited() -> None:
            self.exits += 1

        return self.hosting.run(ready, self.folder / "input", target, Limits(), name=name, stop=self.stop, on_exit=exited)

    def opens(self) -> bool:
        return self.hosting.ready_for(MAP, Limits(), 2)


def test_after_the_proof_two_may_run_and_it_is_made_once(tmp_path: Path) -> None:
    the_map = Meeting()
    host = Host(tmp_path, the_map)
    assert not host.opens(), "nobody has tried"
    assert host.hosting.ready_for(MAP, Limits(), 1)
    assert host.run() == WELL
    assert the_map.runs == 3
    assert [each.memory_mib for each in host.engine.wanted] == [Limits().memory_mib, 1500, 1500], "two share what there is"
    assert host.told == [None, True]
    assert host.opens()
    assert not (tmp_path / "proof").exists()
    host.run("two")
    assert the_map.runs == 4
    host.hosting = host.made()
    assert host.opens(), "the verdict outlives the agent"


def _other(source: Path, target: Path) -> RunEnd:
    (target / "notes.txt").write_text("beside another")
    return answers(source, target)


@pytest.mark.parametrize("together", [_other, lambda *_: WELL])
def test_a_map_that_answers_otherwise_beside_itself_stays_one_at_a_time(tmp_path: Path, together: Callable[[Path, Path], RunEnd]) -> None:
    host = Host(tmp_path, Meeting(together))
    assert host.run() == WELL, "the answer is that of the study alone"
    assert not host.opens()
    assert '"one_at_a_time"' in next((tmp_path / "verdicts").iterdir()).read_text()
    assert host.told == [False]
    host.told.clear()
    host.hosting = host.made()
    assert not host.opens()
    assert host.told == [False], "an agent that has begun again is told"
    next((tmp_path / "verdicts").iterdir()).unlink()
    assert not host.opens()
    assert host.told == [False, None], "and may prove it again where the verdict was removed"


@pytest.mark.parametrize("exit_code", [1, 137])
def test_a_failure_beside_another_is_believed_the_second_time(tmp_path: Path, exit_code: int) -> None:
    host = Host(tmp_path, Meeting(lambda *_: replace(WELL, exit_code=exit_code)))
    assert host.run() == WELL
    assert not host.opens()
    assert host.told == [None], "a full disk would pass"
    host.hosting = host.made()
    assert not host.opens()
    assert host.run("two") == WELL
    assert not host.opens()
    assert host.told == [None, False]
    assert f"exit code {exit_code}" in next((tmp_path / "verdicts").iterdir()).read_text()


def test_one_that_meets_its_share_of_the_memory_proves_nothing_about_the_other(tmp_path: Path) -> None:
    host = Host(tmp_path, Meeting(lambda *_: replace(WELL, exit_code=137, out_of_memory=True)))
    assert host.run() == WELL
    assert not host.opens()
    assert not list((tmp_path / "verdicts").glob("*"))
    assert host.told == [None]


def test_where_the_study_had_no_output_nothing_is_proved(tmp_path: Path) -> None:
    host = Host(tmp_path, lambda *_: WELL)
    assert host.run() == WELL
    assert host.engine.runs == 1
    assert not host.opens()
    assert not list((tmp_path / "verdicts").glob("*"))


def test_a_proof_that_meets_whatever_error_tells_nothing_and_takes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(side_by_side, "differences", unexpected)
    host = Host(tmp_path, Meeting())
    assert host.run() == WELL
    assert not host.opens()
    assert not list((tmp_path / "verdicts").glob("*"))


def test_where_two_would_have_no_room_nothing_is_tried(tmp_path: Path) -> None:
    host = Host(tmp_path, Meeting(), room=False)
    host.room_before = True
    host.run()
    assert host.engine.runs == 1
    assert not list((tmp_path / "verdicts").glob("*"))
    assert not host.opens()


def test_the_proof_waits_for_the_second_server_and_runs_both_at_once(tmp_path: Path) -> None:
    servers = Servers(imports=4)
    host = Host(tmp_path, servers=servers)
    host.run()
    assert servers.overlaps == 1
    assert len(servers.runs) == 3
    assert host.opens()


def test_two_that_ran_one_after_the_other_prove_nothing_and_that_is_tried_thrice(tmp_path: Path) -> None:
    servers = Servers(imports=-1)  # it says that two are ready, and has one
    host = Host(tmp_path, servers=servers)
    for number in range(5):
        assert host.run(str(number)).ended_well
        assert not host.opens()
    assert servers.overlaps == 0
    assert len(servers.runs) == 3 * 3 + 2
    assert host.exits == 2, "a study after which nothing is tried lets the next one begin"
    assert not list((tmp_path / "verdicts").glob("*"))


def test_a_second_server_that_is_never_ready_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_READY_S", 0.3)
    servers = Servers(imports=float("inf"))
    host = Host(tmp_path, servers=servers)
    assert host.run().ended_well
    assert len(servers.runs) == 1
    assert not host.opens()


def test_while_it_is_not_known_how_a_map_is_hosted_no_second_server_is_waited_for(tmp_path: Path) -> None:
    servers = Servers(imports=1)
    servers.settled = False
    host = Host(tmp_path, servers=servers)
    assert host.run().ended_well
    assert (len(servers.runs), servers.imports) == (1, 1), "nobody was asked whether two are ready"
    servers.settled = True
    assert host.run("two").ended_well
    assert len(servers.runs) == 4


def test_a_stop_ends_the_wait_for_the_second_server_and_the_study_is_answered(tmp_path: Path) -> None:
    host = Host(tmp_path, servers=Servers(imports=float("inf")))
    threading.Timer(0.5, host.stop.set).start()
    began = time.monotonic()
    assert host.run().ended_well
    assert time.monotonic() - began < 20
    assert not host.opens()


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ((0, 3), (0.1, 3.2), True),
        ((0, 3), (0.2, 0.4), True),
        ((0, 3), (2.8, 6), False),
        ((0, 3), (3, 6), False),
        ((8, 10), (0, 2.4), False),
    ],
)
def test_two_are_together_for_a_good_part_of_the_shorter(first: tuple[float, float], second: tuple[float, float], together: bool) -> None:
    assert ran_together(first, second) is together


def test_where_no_proof_can_follow_the_next_study_may_begin_at_once(tmp_path: Path) -> None:
    host = Host(tmp_path, servers=Servers(imports=1), room=False)
    host.run()
    assert host.exits == 1
    assert host.asked == [None]


def test_a_study_that_fails_alone_proves_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, lambda *_: replace(WELL, exit_code=1))
    host.run()
    assert host.engine.runs == 1
    assert host.asked == [None]


@pytest.mark.parametrize("error", [FailedError(Code.ENGINE_FAILED, "It broke."), InterruptedJobError("stopping"), OSError("disk")])
def test_an_engine_that_fails_in_the_proof_says_nothing_about_the_map(tmp_path: Path, error: Exception) -> None:
    def breaks(*_: Path) -> RunEnd:
        raise error

    host = Host(tmp_path, Meeting(breaks))
    assert host.run() == WELL
    assert not host.opens()
    host.engine.run_map = Meeting()
    host.run("two")
    assert host.opens(), "the next study tries again"
