"""Dagster's processes are known from the moment they run, also to whoever comes after a start that was killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from monai_aws_pipeline.demo.dagster_processes import DagsterProcesses

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
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
