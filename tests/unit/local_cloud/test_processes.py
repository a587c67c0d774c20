"""Background processes are found again by their pid file, whoever was killed meanwhile, and nobody else is ever signalled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monai_aws_pipeline.local_cloud.errors import StartError
from monai_aws_pipeline.local_cloud.processes import Daemon
from tests.support.processes import wait_ended

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
KILLED_STARTER = """
import os, signal, subprocess, sys
from pathlib import Path
from monai_aws_pipeline.local_cloud.errors import StartError
from monai_aws_pipeline.local_cloud.processes import Daemon

class Killed(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

subprocess.Popen = Killed
folder = Path(sys.argv[1])
Daemon("sleeper", folder / "sleeper.pid", folder / "sleeper.log").start(["sleep", "infinity"], os.environ)
"""


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon("sleeper", tmp_path / "sleeper.pid", tmp_path / "sleeper.log")


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own that is not ours to end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(["cat"], stdin=pipe, stdout=pipe, start_new_session=True) as process:
        yield process
        process.kill()


def answers(process: subprocess.Popen[bytes]) -> bool:
    """Whether it is at work; one with a signal on its way is not."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"there?\n")
    process.stdin.flush()
    return process.stdout.readline() == b"there?\n"


def test_one_is_ended_with_the_children_that_it_leaves(daemon: Daemon):
    pid = daemon.start(["sh", "-c", "sleep infinity & echo $!; exec sleep infinity"], os.environ)
    until(daemon.log_file.read_text)
    child = int(daemon.log_file.read_text())
    assert daemon.pid() == pid
    daemon.stop()
    assert daemon.pid() is None
    wait_ended(child)
    assert not daemon.pid_file.exists()


def test_one_whose_starter_was_killed_before_it_wrote_anything_is_known(daemon: Daemon):
    assert subprocess.run([sys.executable, "-c", KILLED_STARTER, daemon.pid_file.parent], check=False).returncode == -9
    until(lambda: daemon.pid() is not None)
    pid = daemon.pid()
    assert pid
    daemon.stop()
    wait_ended(pid)


def test_one_that_cannot_start_ends_at_once_and_says_why(daemon: Daemon):
    daemon.start(["/no/such/program"], os.environ)
    with pytest.raises(StartError, match=r"sleeper ended at once.*/no/such/program"):
        daemon.wait_until(lambda: False, 60)


@pytest.mark.parametrize(
    "recorded",
    ["{pid} 1 {boot}", "{pid} 1", "{pid} {start} 00000000-0000-0000-0000-000000000000", "{pid}", ""],
    ids=["the number was given away", "of an older version, given away", "of another boot", "cut off", "empty"],
)
def test_a_number_that_belongs_to_somebody_else_is_not_signalled(daemon: Daemon, stranger: subprocess.Popen[bytes], recorded: str):
    daemon.pid_file.write_text(recorded.format(pid=stranger.pid, start=start_of(stranger.pid), boot=BOOT) + "\n")
    assert daemon.pid() is None
    daemon.stop()
    assert answers(stranger)
    assert not daemon.pid_file.exists()


def test_one_that_an_older_version_started_is_still_ended(daemon: Daemon, stranger: subprocess.Popen[bytes]):
    daemon.pid_file.write_text(f"{stranger.pid} {start_of(stranger.pid)}\n")
    daemon.stop()
    assert stranger.wait() == -15
