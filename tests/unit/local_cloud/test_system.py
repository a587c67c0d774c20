"""Whatever takes long says that it is at work, and what a killed start left at work is waited for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from monai_aws_pipeline.local_cloud import base_image, system
from monai_aws_pipeline.local_cloud.base_image import Run

HOLDER = """
import sys
from pathlib import Path
from monai_aws_pipeline.local_cloud.system import run_program, take_lock
with Path(sys.argv[1]).open("w") as lock:
    take_lock(lock, lambda: None)
    run_program(["sh", "-c", f"echo >'{sys.argv[2]}'; read -r go <'{sys.argv[3]}'"], print, hold=lock)
"""


def test_a_program_that_takes_long_is_told_until_it_ends(tmp_path: Path):
    door = tmp_path / "door"
    os.mkfifo(door)
    told: list[str] = []

    def on_progress(line: str) -> None:
        told.append(line)
        if len(told) == 2:
            door.write_text("go\n")

    done = system.run_program(["sh", "-c", f"read -r go <'{door}'; echo out; echo wrong >&2; exit 3"], on_progress, every_s=0.05)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "wrong\n")
    assert all(line.startswith("sh is still at work after") for line in told)


def test_a_program_is_ended_when_whoever_waits_for_it_is_interrupted(tmp_path: Path):
    ready, put_away = tmp_path / "ready", tmp_path / "put-away"

    def interrupt(line: str) -> None:
        if ready.exists():
            raise KeyboardInterrupt

    program = f"trap 'touch {put_away}; exit' TERM; touch {ready}; while :; do sleep 0.05; done"
    with pytest.raises(KeyboardInterrupt):
        system.run_program(["sh", "-c", program], interrupt, every_s=0.05)
    assert put_away.exists(), "asked to end, not killed"


def test_a_program_that_outlives_its_killed_caller_is_waited_for_and_that_is_told(tmp_path: Path):
    begun, door, lock = tmp_path / "begun", tmp_path / "door", tmp_path / "lock"
    os.mkfifo(begun)
    os.mkfifo(door)
    with subprocess.Popen([sys.executable, "-c", HOLDER, lock, begun, door]) as caller:
        begun.read_text()
        caller.send_signal(signal.SIGKILL)
    waits = threading.Event()

    def let_go() -> None:
        waits.set()
        door.write_text("go\n")

    with lock.open("w") as taken:
        system.take_lock(taken, let_go)
    assert waits.is_set()


def test_what_a_killed_build_left_is_not_used_and_not_kept(tmp_path: Path):
    product = tmp_path / "machine-1.tar"
    left = tmp_path / "machine-1.tar.part"
    (left / "scratch").mkdir(parents=True)
    (left / "root.tar").write_text("half")

    def build(work: Path, run: Run) -> Path:
        assert list(work.iterdir()) == []
        run(["sh", "-c", f"echo whole >'{work}/root.tar'"])
        return work / "root.tar"

    base_image._once(product, build, print)
    assert product.read_text() == "whole\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["machine-1.lock", "machine-1.tar"]
    base_image._once(product, lambda work, run: pytest.fail("it is there"), print)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_what_a_killed_build_left_mounted_is_unmounted_and_not_emptied(tmp_path: Path):
    ours, left = tmp_path / "ours", tmp_path / "machine-1.tar.part" / "scratch" / "dev"
    ours.mkdir()
    (ours / "file").touch()
    left.mkdir(parents=True)
    if subprocess.run(["mount", "--bind", ours, left], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        base_image._remove(tmp_path / "machine-1.tar.part")
        assert (ours / "file").exists()
        assert not (tmp_path / "machine-1.tar.part").exists()
    finally:
        subprocess.run(["umount", left], capture_output=True, check=False)
        shutil.rmtree(tmp_path / "machine-1.tar.part", ignore_errors=True)


@pytest.mark.parametrize(("lies_there", "stays"), [(None, None), ("ours", None), ("#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 0\n")])
def test_services_may_start_again_after_an_installation_also_after_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies_there: str | None, stays: str | None
):
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(system, "_POLICY", policy)
    if lies_there == "ours":
        with system._no_services():
            killed = policy.read_text()
        policy.write_text(killed)
    elif lies_there:
        policy.write_text(lies_there)
    with system._no_services():
        assert policy.exists()
    assert (policy.read_text() if policy.exists() else None) == stays
