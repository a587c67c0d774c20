"""Dagster's processes and the portal beside them: started together, known from the moment they run, also to whoever comes after a start
that was killed, and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from monai_aws_pipeline.demo.dagster_processes import DagsterProcessError, DagsterProcesses, _answers, _birth, free_port
from tests.support.processes import wait_ended

ROOT = Path(__file__).resolve().parents[3]
KILLED_AT_THE_SECOND = """
import os, signal, subprocess, sys
from pathlib import Path
from monai_aws_pipeline.demo.dagster_processes import DagsterProcesses

started = []

def spawn(self, name, arguments, env):
    if started:
        os.kill(os.getpid(), signal.SIGKILL)
    started.append(subprocess.Popen(["sleep", "infinity"], stdout=subprocess.DEVNULL, start_new_session=True))
    print(started[0].pid, flush=True)
    return started[0].pid

DagsterProcesses._spawn = spawn
DagsterProcesses(Path(sys.argv[1])).start({}, 0, print)
"""


def test_what_a_killed_start_had_begun_is_not_taken_for_the_whole_and_is_ended(tmp_path: Path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_SECOND, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert killed.returncode == -9
    pid = int(killed.stdout.split()[-1])  # after what it says of a port that is taken
    processes = DagsterProcesses(tmp_path)
    assert processes._running().get("loaded") == "", "a start would take it for what it wants"
    processes.stop()
    wait_ended(pid)


# ----------------------------------------------------------------------------------------------------------- the portal beside them

WEBSERVER = """
import http.server, sys

class Info(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Info).serve_forever()
"""


class Beside(DagsterProcesses):
    """The portal as it is, beside something that answers like Dagster's webserver and something that runs like its daemon."""

    def _spawn(self, name: str, arguments: list[str], env: Mapping[str, str]) -> int:
        if name == "portal":
            return super()._spawn(name, arguments, env)
        program = [sys.executable, "-c", WEBSERVER, arguments[4]] if name == "webserver" else ["sleep", "infinity"]
        return subprocess.Popen(program, start_new_session=True).pid


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Beside]:
    processes = Beside(tmp_path)
    yield processes
    processes.stop()


def of_the_demo(**changes: str) -> dict[str, str]:
    given = {"MONAI_AWS_BUCKET": "studies", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**given, "MONAI_AWS_LINKS_URL": f"http://127.0.0.1:{free_port(0)}", **changes}


def test_a_start_ends_with_a_portal_that_answers_and_an_end_ends_it(beside: Beside):
    environment = of_the_demo()
    beside.start(environment, 0, lambda _: None)
    portal = beside.portal
    assert portal == environment["MONAI_AWS_LINKS_URL"]
    assert _answers(f"{portal}/health")
    beside.stop()
    assert not _answers(f"{portal}/health")
    assert beside.portal == ""


def test_a_portal_that_has_died_is_started_again_and_one_that_runs_is_left(beside: Beside):
    environment = of_the_demo(MONAI_AWS_PORTAL_LISTEN="192.0.2.1")
    address = beside.start(environment, 0, lambda _: None)
    said: list[str] = []
    port = int(address.rpartition(":")[2])
    assert beside.start(environment, port, said.append) == address
    assert "is running already" in said[-1]
    pid, _ = beside._running()["processes"]["portal"]  # type: ignore[index]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    beside.start(environment, port, said.append)
    assert _answers(f"{beside.portal}/health")
    assert _birth(pid) is None


def test_a_portal_that_does_not_come_up_is_named_with_what_it_said_and_nothing_is_left(beside: Beside):
    with pytest.raises(DagsterProcessError, match=r"(?s)The portal did not come up.*MONAI_AWS_BUCKET"):
        beside.start(of_the_demo(MONAI_AWS_BUCKET=""), 0, lambda _: None)
    assert not beside._file.exists()


def test_where_there_is_to_be_no_portal_there_is_none(beside: Beside):
    assert beside.start(of_the_demo(MONAI_AWS_LINKS_URL=""), 0, lambda _: None)
    assert beside.portal == ""
