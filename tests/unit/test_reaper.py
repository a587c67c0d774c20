"""What a test run leaves when it is interrupted, terminated or killed: nothing, and nobody else's is touched.

Real processes throughout. Where a cloud is meant, a sleeping process stands for its server: how a whole one is taken down after a kill is
tested in tests/integration/local_cloud/test_restart.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import wait_ended
from tests.support.reaper import end_orphans, ended_by

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import sys
from pathlib import Path
from tests.support.reaper import ended_by
with ended_by(sys.argv[2:], Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def noting(place: Path) -> list[str]:
    """A command that notes each of its runs."""
    return ["sh", "-c", f"echo run >>'{place}'"]


def runs(place: Path) -> int:
    return len(place.read_text().splitlines()) if place.exists() else 0


@contextmanager
def owner(within: Path, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Another process that has said what ends what it started."""
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", OWNER, str(within), *command]
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def shell_of(within: Path) -> int:
    """The shell of the only owner; the kernel shows its arguments a moment after it has begun."""
    (record,) = within.glob("*.owner")
    found: list[int] = []

    def look() -> bool:
        found.extend(int(entry.name) for entry in Path("/proc").glob("[0-9]*") if f"\0{record}\0".encode() in _line_of(entry))
        return bool(found)

    eventually(look)
    return found[0]


def _line_of(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_the_command_is_run_once_when_the_block_is_left_also_by_an_error(tmp_path: Path):
    with ended_by(noting(tmp_path / "noted"), tmp_path / "owners"):
        assert runs(tmp_path / "noted") == 0
    assert runs(tmp_path / "noted") == 1
    with pytest.raises(ValueError, match="inside"), ended_by(noting(tmp_path / "noted"), tmp_path / "owners"):
        raise ValueError("inside")
    assert runs(tmp_path / "noted") == 2
    assert list((tmp_path / "owners").iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_the_command_is_run_when_the_process_ends_however_it_ends(tmp_path: Path, how: signal.Signals):
    with owner(tmp_path / "owners", noting(tmp_path / "noted")) as process:
        process.send_signal(how)
        process.wait()
        eventually(lambda: runs(tmp_path / "noted") == 1 and list((tmp_path / "owners").iterdir()) == [])


def test_where_the_shell_was_killed_too_the_next_process_runs_the_command_first(tmp_path: Path):
    owners = tmp_path / "owners"
    with owner(owners, noting(tmp_path / "noted")) as process:
        shell = shell_of(owners)
        os.kill(shell, signal.SIGKILL)
        process.kill()
        process.wait()
        wait_ended(shell)
    assert runs(tmp_path / "noted") == 0
    with ended_by(["true"], owners):
        assert runs(tmp_path / "noted") == 1
    assert list(owners.iterdir()) == []


@pytest.mark.parametrize("shell_lives", [True, False], ids=["with its shell", "its shell killed"])
def test_what_has_an_owner_that_lives_is_left_alone(tmp_path: Path, shell_lives: bool):
    owners = tmp_path / "owners"
    with owner(owners, noting(tmp_path / "noted")):
        if not shell_lives:
            os.kill(shell_of(owners), signal.SIGKILL)
        end_orphans(owners)
        assert runs(tmp_path / "noted") == 0


def test_a_command_that_fails_is_told_and_tried_again_the_next_time(tmp_path: Path):
    owners, repaired = tmp_path / "owners", tmp_path / "repaired"
    command = ["sh", "-c", f"echo the mount is busy; test -e '{repaired}'"]
    with pytest.raises(RuntimeError, match="the mount is busy"), ended_by(command, owners):
        pass
    end_orphans(owners)
    assert len(list(owners.glob("*.owner"))) == 1
    repaired.touch()
    end_orphans(owners)
    assert list(owners.iterdir()) == []


INNER_TEST = """
import os, signal
from pathlib import Path
import pytest
from monai_aws_pipeline.local_cloud.commands import server_daemon
from tests.support.cloud import own_cloud

@pytest.fixture(scope="session")
def cloud():
    with own_cloud("inner") as config:
        config.state_dir.mkdir(parents=True)
        server_daemon(config).start(["sh", "-c", "sleep infinity & sleep infinity"], os.environ)
        yield config

def test_that_is_interrupted(cloud):
    (Path(os.environ["READY"]) / cloud.state_dir.name).write_text(str(server_daemon(cloud).pid()))
    while True:
        signal.pause()
"""


def session_members(session: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[3]) == session:
                found.add(int(entry.name))
        except (OSError, IndexError, ValueError):
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="an embedded AWS needs Linux and root")
@pytest.mark.parametrize("how", ["Ctrl-C", "kill of make", "kill -9 of everything"])
def test_the_clouds_of_an_interrupted_test_run_are_taken_down_with_two_workers(tmp_path: Path, how: str):
    ready, cache = tmp_path / "ready", tmp_path / "cache"
    ready.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text(INNER_TEST)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MONAI_AWS_CACHE_DIR": str(cache), "READY": str(ready)}
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        eventually(lambda: len([path for path in ready.iterdir() if path.read_text()]) == 2 or run.poll() is not None)
        assert run.poll() is None, (tmp_path / "output").read_text()
        servers = [int(path.read_text()) for path in ready.iterdir()]
        eventually(lambda: all(len(session_members(server)) == 3 for server in servers))
        if how == "Ctrl-C":
            os.killpg(run.pid, signal.SIGINT)
        elif how == "kill of make":
            run.terminate()  # make hands it on to pytest alone
        else:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        eventually(lambda: not any(session_members(server) for server in servers))
        eventually(lambda: list((cache / "test-clouds").iterdir()) == [])
    finally:
        for member in session_members(run.pid):
            os.kill(member, signal.SIGKILL)
        run.wait()
