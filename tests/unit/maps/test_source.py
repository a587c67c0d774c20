"""Sources: real git repositories made for the test, and what must be refused before git is even asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import git as git_program
from monai_aws_pipeline.maps.git import NoApplicationError, RefMissingError, SourceError, SourceMissingError, SourceRefusedError
from monai_aws_pipeline.maps.source import checkout, content_hash, observe


def git(folder: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with an application in ``app`` and something else beside it."""
    folder = tmp_path / "repository"
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "app.yaml").write_text("application: {}\n")
    (folder / "app" / "__main__.py").write_text("print('one')\n")
    (folder / "app" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "app" / "run.sh").chmod(0o755)
    (folder / "README").write_text("one\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return folder


def test_a_clean_folder_has_the_commit_that_last_touched_it(repository, tmp_path):
    first = git(repository, "rev-parse", "HEAD")
    (repository / "README").write_text("two\n")
    git(repository, "commit", "-qam", "two")
    assert observe(str(repository / "app"), "HEAD") == first
    found = checkout(str(repository / "app"), "HEAD", ".", tmp_path / "out")
    assert (found.commit, found.dirty) == (first, False)
    assert found.content_hash == content_hash(repository / "app")
    assert os.access(found.path / "run.sh", os.X_OK)


def test_a_change_that_is_not_committed_makes_another_version_and_is_marked(repository, tmp_path):
    clean = observe(str(repository / "app"), "HEAD")
    (repository / "app" / "new.py").write_text("x = 1\n")
    dirty = observe(str(repository / "app"), "HEAD")
    found = checkout(str(repository / "app"), "HEAD", ".", tmp_path / "out")
    assert dirty != clean
    assert found.dirty
    assert found.commit == dirty == found.content_hash[:40]
    assert (found.path / "new.py").exists()


def test_ignored_files_and_caches_are_not_source(repository, tmp_path):
    (repository / ".gitignore").write_text("*.log\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "ignore")
    (repository / "app" / "run.log").write_text("noise\n")
    (repository / "app" / "__pycache__").mkdir()
    (repository / "app" / "__pycache__" / "x.pyc").write_text("noise\n")
    found = checkout(str(repository / "app"), "HEAD", ".", tmp_path / "out")
    assert sorted(path.name for path in found.path.iterdir()) == ["__main__.py", "app.yaml", "run.sh"]


def test_a_folder_outside_git_has_its_content_as_version(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "app.yaml").write_text("a: 1\n")
    before = observe(str(folder), "HEAD")
    (folder / "app.yaml").write_text("a: 2\n")
    found = checkout(str(folder), "HEAD", ".", tmp_path / "out")
    assert len(before) == 40
    assert found.dirty
    assert found.commit != before


def test_an_address_is_observed_and_checked_out_at_branch_tag_and_commit(repository, tmp_path):
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "tag", "-a", "v1", "-m", "one")
    (repository / "app" / "__main__.py").write_text("print('two')\n")
    git(repository, "commit", "-qam", "two")
    second = git(repository, "rev-parse", "HEAD")
    address = f"file://{repository}"
    assert observe(address, "main") == observe(address, "HEAD") == second
    assert observe(address, "v1") == first
    old = checkout(address, "v1", "app", tmp_path / "old")
    new = checkout(address, second, "app", tmp_path / "new")
    assert (old.path / "__main__.py").read_text() == "print('one')\n"
    assert (new.path / "__main__.py").read_text() == "print('two')\n"
    assert (old.commit, old.dirty, new.commit) == (first, False, second)


def test_a_ref_of_a_local_folder_ignores_what_lies_there(repository, tmp_path):
    git(repository, "tag", "v1")
    (repository / "app" / "__main__.py").write_text("print('changed')\n")
    found = checkout(str(repository / "app"), "v1", ".", tmp_path / "out")
    assert (found.path / "__main__.py").read_text() == "print('one')\n"
    assert not found.dirty


def test_a_missing_ref_folder_repository_or_app_yaml_has_its_own_error(repository, tmp_path):
    with pytest.raises(RefMissingError):
        observe(str(repository / "app"), "no-such-branch")
    with pytest.raises(RefMissingError):
        observe(f"file://{repository}", "no-such-branch")
    with pytest.raises(RefMissingError):
        checkout(f"file://{repository}", "0" * 40, "app", tmp_path / "a")
    with pytest.raises(SourceMissingError):
        observe(str(tmp_path / "nowhere"), "HEAD")
    with pytest.raises(SourceMissingError):
        observe(f"file://{tmp_path}/nowhere", "HEAD")
    with pytest.raises(NoApplicationError, match=r"app\.yaml lies in: app"):
        checkout(str(repository), "HEAD", ".", tmp_path / "b")
    with pytest.raises(NoApplicationError):
        checkout(f"file://{repository}", "main", "other", tmp_path / "c")


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c touch% /tmp/owned",
        "--upload-pack=touch /tmp/owned",
        "http://git.example.org/a.git",
        "ftp://git.example.org/a.git",
        "https://user:secret@git.example.org/a.git",
        "https://token@git.example.org/a.git",
        "file:///tmp/a\nb",
    ],
)
def test_an_address_that_runs_commands_or_holds_a_secret_is_refused_without_asking_git(address, monkeypatch):
    monkeypatch.setattr(git_program, "run", lambda *_, **__: pytest.fail("git was asked"))
    with pytest.raises(SourceRefusedError) as caught:
        observe(address, "HEAD")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ref", ["--output=/tmp/x", "-x", "a b", "a..b", "", "a;b", "a\nb"])
def test_a_ref_that_is_an_option_or_no_ref_is_refused(ref, repository):
    with pytest.raises(SourceRefusedError):
        observe(str(repository), ref)


@pytest.mark.parametrize("folder", ["../outside", "/etc", "app/../.."])
def test_a_folder_outside_the_source_is_refused(folder, repository, tmp_path):
    with pytest.raises(SourceRefusedError):
        checkout(str(repository), "HEAD", folder, tmp_path / "out")


def test_a_link_out_of_the_application_is_refused(repository, tmp_path):
    (repository / "app" / "leak").symlink_to("/etc/hostname")
    with pytest.raises(SourceRefusedError, match="link"):
        checkout(str(repository / "app"), "HEAD", ".", tmp_path / "a")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "leak")
    with pytest.raises(SourceRefusedError):
        checkout(f"file://{repository}", "main", "app", tmp_path / "b")


def test_a_repository_cannot_make_git_run_its_own_programs(repository, tmp_path):
    marker = tmp_path / "owned"
    git(repository, "config", "core.fsmonitor", f"touch {marker}")
    observe(str(repository / "app"), "HEAD")
    assert not marker.exists()


def test_git_never_waits_for_a_password(repository):
    """The message of a server that asks for a login becomes an error of its own."""
    error = git_program.named("fatal: could not read Username for 'https://git.example.org': terminal prompts disabled")
    assert type(error).__name__ == "CredentialsMissingError"
    assert issubclass(type(error), SourceError)


def test_the_example_of_this_project_is_a_source(tmp_path):
    found = checkout("examples/brain_mri/app", "HEAD", ".", tmp_path / "out")
    assert (found.path / "app.yaml").is_file()
    assert len(found.commit) == 40
    assert found.commit == observe("examples/brain_mri/app", "HEAD")
