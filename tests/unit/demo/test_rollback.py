"""The demo's second version: the same content is the same commit, and the doctor has nothing against it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from monai_aws_pipeline.demo.rollback import second_version
from monai_aws_pipeline.maps.source import observe


def test_the_second_version_is_one_commit_however_often_it_is_made(tmp_path: Path):
    folder = tmp_path / "second"
    version = second_version(folder)
    first = observe(str(folder), "HEAD")
    assert second_version(folder) == version == "1.1.0"
    assert observe(str(folder), "HEAD") == first
    assert f"version: {version}" in (folder / "app.yaml").read_text()
    status = subprocess.run(["git", "-C", str(folder), "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert status.stdout == ""
