"""Temporary folders: gone with their block, and those of processes that were killed gone with the next one of their kind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monai_aws_pipeline.scratch import scratch

HOLD = """
import sys
from pathlib import Path
from monai_aws_pipeline.scratch import scratch
with scratch("kind", Path(sys.argv[1])) as folder:
    (folder / "study.zip").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that has such a folder."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip())
        try:
            yield process, folder
        finally:
            process.kill()


def older(folder: Path) -> None:
    past = time.time() - 3600
    os.utime(folder, (past, past))


def test_a_folder_is_gone_with_its_block_also_when_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), scratch("kind", tmp_path) as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_of_its_kind(tmp_path: Path) -> None:
    with holding(tmp_path) as (process, left):
        process.kill()
        process.wait()
        assert (left / "study.zip").exists()
        older(left)
        with scratch("other", tmp_path):
            assert left.exists()
        with scratch("kind", tmp_path):
            assert not left.exists()


def test_the_folder_of_a_process_that_lives_stays_however_old_it_is(tmp_path: Path) -> None:
    with holding(tmp_path) as (_, theirs):
        older(theirs)
        with scratch("kind", tmp_path):
            assert (theirs / "study.zip").exists()


def test_one_that_was_just_made_is_left_because_its_process_may_not_hold_it_yet(tmp_path: Path) -> None:
    young = tmp_path / "kind-young"
    young.mkdir(mode=0o700)
    with scratch("kind", tmp_path):
        assert young.exists()


def test_what_others_may_enter_and_links_are_not_ours_to_remove(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "file").touch()
    shared = tmp_path / "kind-shared"
    shared.mkdir()
    shared.chmod(0o755)
    (tmp_path / "kind-link").symlink_to(elsewhere)
    (tmp_path / "kind-file").touch()
    older(elsewhere)
    older(shared)
    with scratch("kind", tmp_path):
        assert shared.exists()
        assert (elsewhere / "file").exists()
        assert (tmp_path / "kind-file").exists()
