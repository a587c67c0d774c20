"""Two studies run at once only after one was run twice at once and answered as it does alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import PerStudy
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.side_by_side import SideBySide
from monai_aws_pipeline.maps.spec.run import Limits
from tests.unit.host_agent.bench import WELL, PretendedEngine, answers
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.test_ahead import READY

DIGEST = "sha256:" + "4" * 64
MAP = replace(READY, image=f"host/map@{DIGEST}", facts=replace(READY.facts, digest=DIGEST))


class Meeting:
    """A MAP whose second and third run are the proof: each waits until the other has begun, so they do run at once."""

    def __init__(self, together: Callable[[Path, Path], RunEnd] = answers):
        self.together, self.runs = together, 0
        self._lock, self._both = threading.Lock(), threading.Barrier(2)

    def __call__(self, source: Path, target: Path) -> RunEnd:
        with self._lock:
            self.runs += 1
            number = self.runs
        if number in (2, 3):
            self._both.wait(20)
            return self.together(source, target) if number == 3 else answers(source, target)
        return answers(source, target)


class Host:
    def __init__(self, folder: Path, the_map: Callable[[Path, Path], RunEnd], *, room: bool = True):
        self.folder, self.engine = folder, PretendedEngine(the_map)
        self.asked: list[RunEnd] = []
        self.room = room
        write_series(folder / "input", "1.2.3", slices=2)
        self.hosting = self.made()

    def made(self) -> SideBySide:
        def may_share(_: str, end: RunEnd) -> bool:
            self.asked.append(end)
            return self.room

        return SideBySide(PerStudy(self.engine), self.folder / "verdicts", self.folder / "proof", may_share)  # type: ignore[arg-type]

    def run(self, name: str = "one", ready: ReadyMap = MAP) -> RunEnd:
        target = self.folder / f"output-{name}"
        target.mkdir()
        return self.hosting.run(ready, self.folder / "input", target, Limits(), name=name, stop=threading.Event())

    def opens(self) -> bool:
        return self.hosting.ready_for(MAP, Limits(), 2)


def test_after_the_proof_two_may_run_and_it_is_made_once(tmp_path: Path) -> None:
    the_map = Meeting()
    host = Host(tmp_path, the_map)
    assert not host.opens(), "nobody has tried"
    assert host.hosting.ready_for(MAP, Limits(), 1)
    assert host.run() == WELL
    assert the_map.runs == 3
    assert host.opens()
    assert not (tmp_path / "proof").exists()
    host.run("two")
    assert the_map.runs == 4
    host.hosting = host.made()
    assert host.opens(), "the verdict outlives the agent"


def _other(source: Path, target: Path) -> RunEnd:
    (target / "notes.txt").write_text("beside another")
    return answers(source, target)


@pytest.mark.parametrize(
    "together",
    [_other, lambda *_: WELL, lambda *_: replace(WELL, exit_code=1), lambda *_: replace(WELL, exit_code=137, out_of_memory=True)],
)
def test_a_map_that_answers_otherwise_beside_itself_stays_one_at_a_time(tmp_path: Path, together: Callable[[Path, Path], RunEnd]) -> None:
    host = Host(tmp_path, Meeting(together))
    assert host.run() == WELL, "the answer is that of the study alone"
    assert not host.opens()
    assert '"one_at_a_time"' in next((tmp_path / "verdicts").iterdir()).read_text()


def test_where_two_would_have_no_room_nothing_is_tried(tmp_path: Path) -> None:
    host = Host(tmp_path, Meeting(), room=False)
    host.run()
    assert host.engine.runs == 1
    assert not list((tmp_path / "verdicts").glob("*"))
    assert not host.opens()


def test_a_study_that_fails_alone_proves_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, lambda *_: replace(WELL, exit_code=1))
    host.run()
    assert host.engine.runs == 1
    assert not host.asked


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
