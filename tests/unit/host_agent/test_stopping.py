"""Told to stop while the container engine or the bucket does not answer: the agent ends within its budget, and says what it leaves.

The budget is a fraction of a second here. Without it these calls wait for minutes, so nothing in here is timed tightly.
"""

from __future__ import annotations

import logging
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import MapFacts
from monai_aws_pipeline.host_agent.agent import Agent
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.aws.spot_interruption import MARGIN_S
from monai_aws_pipeline.host_agent.errors import InterruptedJobError
from monai_aws_pipeline.host_agent.job_steps import Outcome
from monai_aws_pipeline.host_agent.membership import NamedHost
from monai_aws_pipeline.host_agent.pipeline import Pipeline
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineApi, EngineError
from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import PerStudy
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.warm_runner import WarmContainer
from monai_aws_pipeline.host_agent.stopping import Budget, Stop, stop_on_signals
from monai_aws_pipeline.maps.spec.run import Limits, PythonCommand, RunSpec, held_container
from tests.unit.host_agent.bench import Bench, zip_of

ROOT = Path(__file__).resolve().parents[3]
SHORT = Budget(engine=0.3, late=0.05)
LONG_S = 60
"""By far longer than the budget, and shorter than any call without it."""
SPEC = RunSpec(("python3", "/opt/holoscan/app"), "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan")
READY = ReadyMap("map@sha256:1", SPEC, MapFacts(), 1, 0.0)
LIMITS = Limits(network="host")


class Silent:
    """An engine that takes every call and answers none, and a docker command that does not end."""

    def __init__(self, folder: Path, listener: socket.socket, place: str):
        self.stop = Stop(SHORT)
        self.listener = listener
        self.called = folder / "called"
        command = folder / "docker-command"
        command.write_text(f"#!/bin/sh\ntouch {self.called}\nexec sleep 300\n")
        command.chmod(0o755)
        interface = EngineApi(Path(place), self.stop)
        interface._prefix = "/v1.44"  # it fell silent after it had said its version
        self.engine = Engine(folder / "credentials", str(command), interface)

    def asked(self) -> str:
        """Take one call; what it asks."""
        connection, _ = self.listener.accept()
        self.kept = connection  # as long as this is here, the caller waits
        return connection.recv(4096).decode()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Silent]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/docker.sock")
        listener.listen(64)
        listener.settimeout(LONG_S)
        made = Silent(tmp_path, listener, f"{folder}/docker.sock")
        yield made
        made.stop.set()


def begin(work: Callable[[], object]) -> Callable[[], None]:
    """Begin work on a thread; what waits for its end, and fails where that does not come."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def ends() -> None:
        thread.join(LONG_S)
        assert not thread.is_alive(), "it still waits for what does not answer"
        if errors:
            raise errors[0]

    return ends


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_budget_leaves_room_below_the_units_own_limit() -> None:
    unit = (ROOT / "infra" / "host" / "monai-aws-agent.service").read_text()
    killed_at = float(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])  # type: ignore[index]
    budget = Budget()
    assert budget.late < budget.engine < budget.jobs
    assert budget.jobs + budget.engine <= budget.last, "what is held is ended after the jobs"
    assert budget.last + 5 <= killed_at
    assert budget.engine < MARGIN_S, "a spot machine is gone by then"


def test_a_held_container_that_is_only_being_made_is_left(silent: Silent, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hosting = PerStudy(silent.engine)
    for name in ("one", "two", "three"):
        hosting.ahead(READY, tmp_path, tmp_path, LIMITS, name=name)
    silent.stop.set()
    begin(hosting.close)()
    assert "is removed when the agent starts" in caplog.text


def test_a_drop_that_is_under_way_when_the_stop_comes_ends_with_the_budget(silent: Silent, tmp_path: Path) -> None:
    held = silent.engine.hold(held_container("map@sha256:1", SPEC, tmp_path, tmp_path, LIMITS, name="one"))
    ends = begin(lambda: silent.engine.drop("one", held))
    while "DELETE" not in silent.asked():
        pass
    silent.stop.set()
    ends()


def test_a_call_that_is_under_way_when_the_stop_comes_ends_with_the_budget(silent: Silent) -> None:
    ends = begin(lambda: silent.engine.has("map"))
    silent.asked()
    silent.stop.set()
    with pytest.raises(Exception, match="did not answer"):
        ends()


def test_a_docker_command_that_is_under_way_when_the_stop_comes_ends_with_the_budget(silent: Silent) -> None:
    ends = begin(silent.engine.remove_leftovers)
    until(silent.called.exists)
    silent.stop.set()
    with pytest.raises(EngineError, match="did not answer"):
        ends()


def test_a_warm_container_is_left(silent: Silent, tmp_path: Path) -> None:
    container = WarmContainer(silent.engine, READY, PythonCommand("python3", (), "script", "/app", ()), LIMITS, tmp_path / "warm")
    silent.stop.set()
    begin(container.close)()
    assert not (tmp_path / "warm").exists()


def test_an_engine_that_answers_has_its_time_also_after_the_stop() -> None:
    stop = Stop(Budget(engine=100, late=7))
    began = time.monotonic()
    assert stop.left(began, 120) == pytest.approx(120, abs=5)
    stop.set()
    assert stop.left(began, 120) == pytest.approx(100, abs=5)
    assert stop.left(began, 3) <= 3
    late = Stop(Budget(engine=0, late=7))
    late.set()
    assert stop.over(0)
    assert not stop.over(100)
    assert late.left(time.monotonic(), 120) == pytest.approx(7, abs=5)


# ------------------------------------------------------------------------------------------------------------------- the whole agent


def test_an_agent_whose_engine_does_not_answer_stops_and_hands_its_job_over(bench: Bench, silent: Silent, tmp_path: Path) -> None:
    message = bench.upload("input/one.zip", zip_of(tmp_path, str(generate_uid())))
    silent.engine.remove_leftovers = lambda: 0  # type: ignore[method-assign]
    host = replace(bench.host(), engine=silent.engine, hosting=PerStudy(silent.engine), stop=silent.stop)
    agent = Agent(host, NamedHost(60, lambda: None), SimpleNamespace(seconds=0.0), lambda: False)  # type: ignore[arg-type]
    ends = begin(agent.run)
    while "create" not in silent.asked():
        pass
    silent.stop.set()
    ends()
    begin(host.hosting.close)()
    again = host.queue.take(0)
    assert again
    assert (again.body, again.receives) == (message.to_json(), 1), "handed over, its try not counted"


@pytest.mark.parametrize("told", ["stop", "leave"])
def test_a_job_that_is_handed_over_to_the_very_host_that_stops_is_not_lost(bench: Bench, tmp_path: Path, told: str) -> None:
    """The host still waits for messages when it hands one over, and is given it back while the job is in hand."""
    reached, released = threading.Event(), threading.Event()

    def held(*_: Path) -> RunEnd:
        reached.set()
        released.wait(LONG_S)
        raise InterruptedJobError("the host is stopping")

    bench.engine.run_map = held
    message, host = bench.upload("input/one.zip", zip_of(tmp_path, str(generate_uid()))), bench.host()
    pipeline = Pipeline(host)
    first = host.queue.take(0)
    assert first
    pipeline.accept(first)
    assert reached.wait(LONG_S)
    getattr(host, told).set()
    bench.send(message)  # what a hand-over sends, before it removes what it was given
    copy = host.queue.take(0)
    assert copy
    assert pipeline.accept(copy).result(0).outcome is Outcome.INTERRUPTED
    assert bench.messages() == 1, "another host is given it"
    released.set()
    pipeline.close()


def test_a_bucket_that_takes_nothing_does_not_hold_up_the_stop(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reached, released = threading.Event(), threading.Event()

    class HangingStore(Store):
        def upload(self, path: Path, key: str, content_type: str) -> None:
            reached.set()
            released.wait(2 * LONG_S)
            super().upload(path, key, content_type)

    bench.upload("input/one.zip", zip_of(tmp_path, str(generate_uid())))
    host = replace(bench.host(), store=HangingStore(bench.s3, "studies"), stop=Stop(Budget(jobs=0.3)))
    pipeline = Pipeline(host)
    delivery = host.queue.take(0)
    assert delivery
    ended = pipeline.accept(delivery)
    assert reached.wait(LONG_S)
    host.stop.set()
    try:
        begin(pipeline.close)()
        assert not ended.done()
        assert "1 job(s) did not end within" in caplog.text
    finally:
        released.set()
    assert ended.result(LONG_S), "and what goes on may still end well"


def test_a_process_that_does_not_end_is_ended_and_says_who_was_at_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    codes: list[int] = []
    over, ended = threading.Event(), threading.Event()
    stuck = threading.Thread(target=over.wait, args=(LONG_S,), name="publishing_1")
    stuck.start()
    try:
        stop = stop_on_signals(lambda code: (codes.append(code), ended.set()), Budget(last=0.3))
        assert not ended.wait(0.6), "nobody has asked for it"
        with caplog.at_level(logging.ERROR):
            handlers[15](15, None)
            assert ended.wait(LONG_S)
    finally:
        over.set()
        stuck.join()
    assert stop.is_set()
    assert codes == [1]
    assert "publishing_1" in caplog.text
