"""Who asks a host what it does learns jobs, phases and seconds, also after an agent that was killed, and nothing of a study."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.job_status import Board, Phase, read_board
from monai_aws_pipeline.host_agent.pipeline import Pipeline
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.operations.status import HostWork, JobAtWork, parse_work
from tests.unit.host_agent.bench import Bench
from tests.unit.host_agent.pipeline_bench import HeldMap, until, uploads

STOPPED = {"agent": "stopped", "jobs": []}


def test_jobs_phases_and_seconds_are_told_the_longest_first(tmp_path: Path) -> None:
    board = Board(tmp_path / "run" / "at-work.json")
    one = {"number": 1, "why": "no study has had its turn yet"}
    assert read_board(tmp_path / "run" / "at-work.json") == {"agent": "running", "jobs": [], "at_once": one}
    board.say(4, "4 at once; 5 would fit (cores)")
    said = read_board(tmp_path / "run" / "at-work.json")
    assert said["at_once"]["number"] == 4
    assert parse_work(json.dumps(said)) == HostWork("running", at_once="4 at once; 5 would fit (cores)")
    assert parse_work(json.dumps(said | {"at_once": {"why": "\n\x1b[31m"}})) == HostWork("running"), "a line of plain text or nothing"
    board.show("a" * 32, Phase.FETCHING)
    time.sleep(0.3)
    board.show("b" * 32, Phase.FETCHING)
    board.show("a" * 32, Phase.INFERRING)
    first, second = read_board(tmp_path / "run" / "at-work.json")["jobs"]
    assert (first["job"], first["phase"], second["job"]) == ("a" * 32, "inferring", "b" * 32)
    assert 0.3 <= first["seconds"] < 5
    assert first["phase_seconds"] < first["seconds"]
    board.remove("a" * 32)
    assert [each["job"] for each in read_board(tmp_path / "run" / "at-work.json")["jobs"]] == ["b" * 32]


@pytest.mark.parametrize("content", [None, "", "[]", '{"process": "x", "jobs": {}}', '{"process": 99999999, "jobs": {"j": {}}}'])
def test_what_a_dead_agent_left_counts_as_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "at-work.json").write_text(content)
    assert read_board(tmp_path / "at-work.json") == STOPPED


def test_the_pipeline_shows_the_way_of_a_job_and_no_name(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "at-work.json"
    uids, messages, deliveries = uploads(bench, tmp_path, 2)
    bench.engine.run_map = the_map = HeldMap(uids[0])
    pipeline = Pipeline(replace(bench.host(), board=Board(file)))
    for delivery in deliveries:
        pipeline.accept(delivery)
    assert the_map.reached.wait(30)
    assert {each["job"]: each["phase"] for each in read_board(file)["jobs"]} == {messages[0].job: "inferring", messages[1].job: "waiting"}
    assert read_board(file)["at_once"]["why"].startswith("1 at once"), "said before anything has ended: the number may be an earlier one"
    assert not [text for text in (*uids, "input/", "Invented") if text in file.read_text()]
    the_map.released.set()
    until(lambda: not read_board(file)["jobs"], "they end")
    pipeline.close()


def test_a_job_whose_map_is_still_pulled_is_not_said_to_be_inferred(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, shown = tmp_path / "at-work.json", []
    ready = bench.live_map.ready

    def pulls(request: str, stop: threading.Event) -> ReadyMap:
        shown.extend(each["phase"] for each in read_board(file)["jobs"])
        return ready(request, stop)

    monkeypatch.setattr(bench.live_map, "ready", pulls)
    _, _, (delivery,) = uploads(bench, tmp_path, 1)
    pipeline = Pipeline(replace(bench.host(), board=Board(file)))
    pipeline.accept(delivery).result(60)
    pipeline.close()
    assert shown == ["pulling"]


def test_an_operator_reads_what_the_host_says() -> None:
    said = {"agent": "running", "jobs": [{"job": "a" * 32, "phase": "inferring", "seconds": 4.5, "phase_seconds": 2}]}
    assert parse_work(f"a line before\n{json.dumps(said)}\n") == HostWork("running", (JobAtWork("a" * 32, "inferring", 4.5, 2.0),))
    assert parse_work(json.dumps(STOPPED)) == HostWork("stopped")


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "usage: monai-aws-agent",
        "[]",
        '{"agent": "running"}',
        '{"agent": "evil", "jobs": []}',
        json.dumps({"agent": "running", "jobs": [{"job": str(generate_uid()), "phase": "inferring", "seconds": 1, "phase_seconds": 1}]}),
        json.dumps({"agent": "running", "jobs": [{"job": "a" * 32, "phase": "\x1b[31m", "seconds": 1, "phase_seconds": 1}]}),
    ],
)
def test_what_is_no_such_answer_is_unknown(printed: str) -> None:
    assert parse_work(printed).agent == "unknown"
