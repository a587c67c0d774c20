"""One MAP at a time on a machine, also where another process than the agent runs one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent import __main__ as agent_main
from monai_aws_pipeline.host_agent.at_once import one_at_a_time
from monai_aws_pipeline.host_agent.errors import InterruptedJobError
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.job_steps import run_study
from monai_aws_pipeline.host_agent.pipeline import Pipeline
from monai_aws_pipeline.host_agent.runtime import hosting as hosting_module
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import OneAtATime, PerStudy
from monai_aws_pipeline.maps.spec.run import Limits
from tests.unit.host_agent.bench import WELL, Bench, PretendedEngine, answers
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.golden_bench import READY
from tests.unit.host_agent.pipeline_bench import HeldMap, until, uploads

ROOT = Path(__file__).parents[3]
HOLDS = """
import sys, threading, time
from pathlib import Path
from monai_aws_pipeline.host_agent.runtime.hosting import OneAtATime
with OneAtATime(None, Path(sys.argv[1]))._turn(threading.Event()):
    print("has it", flush=True)
    time.sleep(60)
"""


def run(hosting: OneAtATime, stop: threading.Event | None = None) -> RunEnd:
    return hosting.run(READY, Path("in"), Path("out"), Limits(), name="n", stop=stop or threading.Event())


def hosting(the_map: Callable[[Path, Path], RunEnd], folder: Path) -> OneAtATime:
    return OneAtATime(PerStudy(PretendedEngine(the_map)), folder)  # type: ignore[arg-type]


def test_a_candidate_is_proved_between_two_studies_of_a_backlog_and_beside_none(bench: Bench, tmp_path: Path) -> None:
    uids, _, deliveries = uploads(bench, tmp_path, 3)
    bench.engine.run_map = studies = HeldMap(uids[0])
    done: list[str] = []

    def study(source: Path, target: Path) -> RunEnd:
        end = studies(source, target)
        done.append("study")
        return end

    def candidate(source: Path, target: Path) -> RunEnd:
        assert not studies.running
        done.append("candidate")
        time.sleep(0.3)  # long enough for a study that would not wait
        assert not studies.running
        return answers(source, target)

    bench.engine.run_map = study
    host = bench.host()
    pipeline = Pipeline(replace(host, hosting=OneAtATime(host.hosting, tmp_path / "run", shared=True)))
    ends = [pipeline.accept(delivery) for delivery in deliveries]
    assert studies.reached.wait(30)
    (golden,) = read_studies(write_series(tmp_path / "golden", str(generate_uid()), slices=3))
    (tmp_path / "proved").mkdir()
    with ThreadPoolExecutor(1) as prove:
        proved = prove.submit(
            run_study, hosting(candidate, tmp_path / "run"), Limits(), threading.Event(), READY, golden, tmp_path / "proved"
        )
        until(lambda: locked(tmp_path / "run" / "next-map.lock"), "the candidate waits for its turn")
        studies.released.set()
        assert proved.result(30).end.exit_code == 0
    pipeline.close()
    assert all(end.result(0) for end in ends)
    assert done == ["study", "candidate", "study", "study"], "whoever waits gets the next turn"


def locked(path: Path) -> bool:
    asked = subprocess.run(["flock", "--nonblock", str(path), "true"], check=False)
    return asked.returncode != 0


def test_the_agents_own_studies_share_the_turn_and_nobody_elses_joins_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting_module, "_LONG_S", 0.25)
    both, ends, waited = threading.Barrier(3), threading.Event(), list[bool]()

    def study(source: Path, target: Path) -> RunEnd:
        both.wait(30)
        assert ends.wait(30)
        return WELL

    engine = PretendedEngine(study)
    agent = OneAtATime(PerStudy(engine), tmp_path, shared=True, waited=lambda: waited.append(True))  # type: ignore[arg-type]
    with ThreadPoolExecutor(4) as threads:
        studies = [threads.submit(run, agent) for _ in range(2)]
        both.wait(30)
        assert not waited, "for each other they do not wait long"
        proof = threads.submit(run, hosting(lambda *_: WELL, tmp_path))
        until(lambda: locked(tmp_path / "next-map.lock"), "the proof waits")
        third = threads.submit(run, agent)
        time.sleep(0.3)
        assert not proof.done()
        assert not third.done(), "nor does another study of the agent's get ahead of it"
        ends.set()
        assert [each.result(30) for each in (*studies, proof)] == [WELL] * 3
        both.abort()
        with pytest.raises(threading.BrokenBarrierError):
            third.result(30)
        assert waited == [True], "rates that are measured begin anew"


def test_whoever_waits_stops_waiting_when_told_to_stop(tmp_path: Path) -> None:
    stop, began, ends = threading.Event(), threading.Event(), threading.Event()

    def holds(source: Path, target: Path) -> RunEnd:
        began.set()
        assert ends.wait(30)
        return WELL

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(run, hosting(holds, tmp_path))
        assert began.wait(30)
        second = threads.submit(run, hosting(lambda *_: pytest.fail("it is not its turn"), tmp_path), stop)
        until(lambda: locked(tmp_path / "next-map.lock"), "it waits")
        stop.set()
        with pytest.raises(InterruptedJobError):
            second.result(30)
        assert not locked(tmp_path / "next-map.lock")
        ends.set()
        assert first.result(30) == WELL


def test_a_process_that_is_killed_gives_the_turn_up(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout
    child.stdout.readline()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(run, hosting(lambda *_: WELL, tmp_path))
        until(lambda: locked(tmp_path / "next-map.lock"), "it waits")
        assert not waiting.done()
        child.kill()
        assert waiting.result(30) == WELL
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("way", ["warm", "per_study"])
def test_agent_and_proof_host_the_map_behind_the_same_lock(way: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_main, "RUNTIME_FOLDER", tmp_path / "run")
    monkeypatch.setattr(agent_main, "STATE_FOLDER", tmp_path / "state")
    engine = PretendedEngine(lambda *_: pytest.fail("it is not its turn"))
    config: Any = type("Config", (), {"map_hosting": way})
    stop = threading.Event()
    with OneAtATime(PerStudy(engine), tmp_path / "run")._turn(stop), ThreadPoolExecutor(1) as threads:  # type: ignore[arg-type]
        waiting = threads.submit(run, agent_main._hosting(config, engine, tmp_path / "warm", one_at_a_time(), shared=shared), stop)  # type: ignore[arg-type]
        until(lambda: locked(tmp_path / "run" / "next-map.lock"), "it waits")
        stop.set()
        with pytest.raises(InterruptedJobError):
            waiting.result(30)
