"""The GitHub workflows are well formed, ask for no more than they need, and name only what exists here. They are not run by this test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> dict[Any, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def commands(workflow: dict[Any, Any]) -> list[str]:
    return [line.strip() for job in workflow["jobs"].values() for step in job["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_workflow_has_what_github_asks_for_and_ends_by_itself(path: Path):
    workflow = load(path)
    assert {"name", "permissions", "jobs", True} <= set(workflow), "YAML reads `on` as true"
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        assert job["runs-on"] == "ubuntu-24.04"
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_workflow_holds_a_key_or_more_rights_than_it_needs(path: Path):
    text = path.read_text()
    assert not re.search(r"secrets\.|ACCESS_KEY|SECRET|password", text, re.IGNORECASE)
    permissions = load(path)["permissions"]
    assert permissions.pop("contents") == "read"
    assert permissions in ({}, {"id-token": "write"})
    assert ("id-token" in permissions) == ("role-to-assume" in text)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_exists(path: Path):
    for command in commands(load(path)):
        for word in shlex.split(command):
            if word.startswith((".ci/", "infra/")):
                assert (ROOT / word).exists(), command
        if "monai-aws" in command:
            arguments = shlex.split(command.partition("monai-aws ")[2])
            names = [word for word in arguments if not word.startswith("-")][:1]
            assert CliRunner().invoke(cli, [*names, "--help"]).exit_code == 0, command
        if match := re.search(r"dagster job execute -m (\S+) -j (\S+)", command):
            from monai_aws_pipeline.definitions import build_defs

            assert match[1] == "monai_aws_pipeline.definitions"
            assert build_defs().get_repository_def().get_job(match[2])


def test_the_rebuild_hands_over_settings_that_there_are():
    environment = load(ROOT / ".github" / "workflows" / "rebuild-map.yml")["jobs"]["rebuild"]["env"]
    named = {name.removeprefix("MONAI_AWS_").lower() for name in environment if name.startswith("MONAI_AWS_")}
    assert named <= set(Settings.model_fields)
    assert {"deployment", "region", "bucket", "app_source", "model_uri", "model_sha256"} <= named


@pytest.mark.parametrize(
    ("subject", "taken"),
    [
        ("", True),
        ("repo:you/your-app:ref:refs/heads/main", True),
        ("repo:you/your-app:environment:production", True),
        ("repo:you/*:ref:refs/heads/main", False),
        ("repo:you/your-app:*", False),
        ("repo:you/your-app:pull_request", False),
        ("*", False),
    ],
)
def test_the_operator_role_trusts_one_branch_or_environment_and_never_a_pattern(subject: str, taken: bool):
    parameter = re.search(r'GitHubSubject:.*?AllowedPattern: "([^"]+)"', (ROOT / "infra" / "bootstrap.yaml").read_text(), re.DOTALL)
    assert parameter is not None
    assert bool(re.fullmatch(parameter[1], subject)) == taken
