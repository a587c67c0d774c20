"""What a look at the source leads to: one run for each change, none where nothing changed, patience where the remote does not answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, build_sensor_context

from monai_aws_pipeline.automation import map_source_changed
from monai_aws_pipeline.deployment.map_source import Watched, application_metadata, observation
from monai_aws_pipeline.maps.source import Observed
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.settings import load_settings


def git(folder: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    environment = {**os.environ, **identity}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


def commit(folder: Path, text: str) -> str:
    (folder / "app.yaml").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    folder = tmp_path / "remote"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "one")
    return folder


class Ticks:
    """The daemon's part: keeps the cursor, and starts a run key once."""

    def __init__(self, source: str, mode: str) -> None:
        self.settings = {"app_source": source, "app_ref": "main", "on_source_change": mode}
        self.cursor: str | None = None
        self.started: dict[str, str] = {}
        self.at_work = ""

    def __call__(self) -> Any:
        with DagsterInstance.ephemeral() as instance:
            if self.at_work:
                instance.add_run(DagsterRun(job_name=self.at_work, status=DagsterRunStatus.STARTED))
            resources = {"settings": SettingsResource(overrides=self.settings)}
            context = build_sensor_context(instance=instance, cursor=self.cursor, resources=resources)
            data = map_source_changed.evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        for request in data.run_requests or []:
            self.started.setdefault(request.run_key, request.job_name)
        return data


@pytest.mark.parametrize(("mode", "job"), [("build", "build_map"), ("promote", "release_map")])
def test_a_push_starts_one_run_and_a_look_at_the_same_commit_none(remote: Path, mode: str, job: str):
    tick = Ticks(f"file://{remote}", mode)
    tick()
    assert list(tick.started.values()) == [job]
    again = tick()
    assert again.run_requests == []
    assert "nothing changed" in again.skip_message
    commit(remote, "two")
    tick()
    assert list(tick.started.values()) == [job, job]


def test_a_tick_that_is_repeated_after_a_crash_asks_for_the_same_run(remote: Path):
    tick = Ticks(f"file://{remote}", "build")
    tick()
    before = tick.cursor
    commit(remote, "two")
    tick()
    tick.cursor = before  # the daemon died before it stored the cursor
    tick()
    assert len(tick.started) == 2


def test_a_commit_that_comes_back_is_built_again(remote: Path):
    tick = Ticks(f"file://{remote}", "build")
    tick()
    commit(remote, "two")
    tick()
    git(remote, "reset", "-q", "--hard", "HEAD~1")
    tick()
    assert len(tick.started) == 3


@pytest.mark.parametrize("at_work", ["build_map", "release_map"])
def test_pushes_during_a_build_are_one_run_of_the_last_of_them_after_it(remote: Path, at_work: str):
    tick = Ticks(f"file://{remote}", "promote")
    tick()
    tick.at_work = at_work
    for text in ("two", "three"):
        commit(remote, text)
        waiting = tick()
        assert len(waiting.asset_events) == 1, "it is recorded at once"
        assert "waits for the build" in waiting.skip_message
    assert len(tick.started) == 1
    tick.at_work = ""
    tick()
    tick()
    assert len(tick.started) == 2
    assert list(tick.started)[1].startswith(f"release_map:{git(remote, 'rev-parse', 'HEAD')}")


def test_by_default_a_push_is_recorded_and_starts_nothing(remote: Path):
    tick = Ticks(f"file://{remote}", "observe")
    first = tick()
    assert [event.metadata["commit"].value for event in first.asset_events] == [git(remote, "rev-parse", "HEAD")]
    commit(remote, "two")
    tick()
    assert tick.started == {}


def test_a_remote_that_does_not_answer_is_asked_less_and_less_and_forgotten_when_it_is_back(remote: Path):
    away = remote.with_name("away")
    tick = Ticks(f"file://{remote}", "build")
    tick()
    remote.rename(away)
    failed = tick()
    assert "could not be looked at" in failed.skip_message
    assert "next look" in tick().skip_message.lower(), "not asked before the pause is over"
    away.rename(remote)
    tick.cursor = replace(Watched.parse(tick.cursor), not_before=0.0).to_text()  # the pause is over
    commit(remote, "two")
    tick()
    assert len(tick.started) == 2
    assert Watched.parse(tick.cursor).failures == 0


def test_the_pause_doubles_up_to_an_hour():
    state, pauses = Watched("v", 1, pending=True), []
    for _ in range(9):
        state = state.missed(1000.0)
        pauses.append(state.not_before - 1000.0)
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert state.pending, "what was to be started is not forgotten"


def test_a_changed_folder_without_git_is_a_change_too(tmp_path: Path):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.yaml").write_text("one")
    tick = Ticks(str(folder), "build")
    tick.settings["app_ref"] = "HEAD"
    tick()
    tick()
    (folder / "app.yaml").write_text("two")
    tick()
    assert len(tick.started) == 2
    shutil.rmtree(folder)
    assert "could not be looked at" in tick().skip_message


@pytest.mark.parametrize("cursor", [None, "", "4df28b3", "[]", '{"version": 1}', '{"version": "v", "count": "x"}'])
def test_a_cursor_of_another_time_is_nothing_seen(cursor: str | None):
    assert Watched.parse(cursor) == Watched()


APP_YAML = """application:
  title: Brain volumes
  version: 1.0.0
  input-formats: [DICOM]
  output-formats: [DICOM]
resources:
  cpu: 1
  gpu: 0
  memory: 1Gi
"""


def shown(**settings: Any) -> tuple[str, dict[str, Any]]:
    seen = observation(load_settings(**settings))
    return seen.description or "", {name: value.value for name, value in seen.metadata.items()}


def test_the_lineage_says_which_application_it_is_and_of_which_commit(remote: Path):
    commit(remote, APP_YAML)
    head = git(remote, "rev-parse", "HEAD")
    for source, ref in ((f"file://{remote}", "main"), (str(remote), "main"), (str(remote), "HEAD")):
        said, metadata = shown(app_source=source, app_ref=ref)
        assert metadata == {"application": "Brain volumes", "repository": source, "ref": ref, "commit": head}
        assert said == f"commit {head[:7]}"


def test_a_folder_that_is_no_commit_is_not_called_one(remote: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "app.yaml").write_text(APP_YAML)
    (remote / "app.yaml").write_text(APP_YAML)
    for folder in (outside, remote):
        said, metadata = shown(app_source=str(folder), app_ref="HEAD")
        assert "commit" not in metadata
        assert len(metadata["content"]) == 40
        assert metadata["application"] == "Brain volumes"
        assert said.startswith(f"content {metadata['content'][:7]} (no commit")
    tick = Ticks(str(outside), "observe")
    tick.settings["app_ref"] = "HEAD"
    tick()
    assert "no commit" in tick().skip_message


def test_an_application_that_cannot_be_read_is_observed_without_its_title(remote: Path):
    _, metadata = shown(app_source=f"file://{remote}", app_ref="main")
    assert "application" not in metadata
    assert metadata["commit"] == git(remote, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("address", "shown_as"),
    [
        ("https://user:s3cret@git.example.org/team/app.git?private_token=abc#x", "https://git.example.org/team/app.git"),
        ("ssh://git@git.example.org:2222/team/app.git", "ssh://git.example.org:2222/team/app.git"),
        ("git@git.example.org:team/app.git", "git@git.example.org:team/app.git"),
        ("examples/brain_mri/app", "examples/brain_mri/app"),
        ("/srv/apps/brain", "/srv/apps/brain"),
    ],
)
def test_a_repository_is_shown_without_credentials(address: str, shown_as: str):
    seen = Observed("1" * 40, dirty=False)
    assert application_metadata(load_settings(app_source=address), "", seen)["repository"] == shown_as
