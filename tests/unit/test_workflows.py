"""The GitHub workflows are well formed, ask for no more than they need, and name only what exists here. They are not run by this test."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
EVERY_SETTING = load_settings(
    _env_file=None, deployment="other", region="eu-central-1", owner="a team", bucket="studies", ecr_repository="other/map",
    instance_types=("g5.xlarge", "g5.2xlarge"), app_source="https://git.example.org/team/app.git", app_ref="v1", app_dir="map",
    app_source_secret="app-login", model_uri="s3://models/net.ts", model_sha256="1" * 64, golden_study="s3://models/study.zip",
    golden_study_sha256="2" * 64, golden_reference="s3://models/seg.dcm", golden_reference_sha256="3" * 64, packager="monai-deploy",
    base_image="ubuntu:24.04", gpus="", promote_on_deploy=False, build_ttl_minutes=60,
)  # fmt: skip
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


REBUILD = ROOT / ".github" / "workflows" / "rebuild-map.yml"


def rebuild_steps() -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in load(REBUILD)["jobs"]["rebuild"]["steps"] if "name" in step}


def test_the_rebuild_has_every_setting_that_a_deployment_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its step is run as it stands, with the lines of an ``.env`` that sets each setting to something."""
    values: dict[str, Any] = json.loads(EVERY_SETTING.model_dump_json())
    shown = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}
    lines = "".join(f"MONAI_AWS_{name.upper()}={value}\n" for name, value in shown.items()) + '# $(touch harm) `touch harm` "quoted"\n'
    step = rebuild_steps()["Settings"]
    assert step["env"] == {"LINES": "${{ vars.MONAI_AWS_SETTINGS }}"}, "never pasted into the script, which would run what is in it"
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env={**os.environ, "LINES": lines}, check=True)
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
    assert load_settings() == EVERY_SETTING
    assert not [name for name in load(REBUILD)["jobs"]["rebuild"]["env"] if name.startswith("MONAI_AWS_")], "it would win over .env"


def test_the_rebuild_is_examined_before_it_costs_anything_and_promotes_only_what_it_built_and_a_host_has_proved():
    names = list(rebuild_steps())
    order = ["Install", "Settings", "Ask whether account and settings allow it", "Examine the application", "Build and push", "Promote"]
    assert [name for name in names if name in order] == order
    promote = rebuild_steps()["Promote"]
    assert {"--built", "--require-golden"} <= set(shlex.split(promote["run"]))
    assert promote["if"] == "github.event_name == 'push' || inputs.promote"
    assert "monai-aws doctor app" in rebuild_steps()["Examine the application"]["run"]
    options = {option for parameter in cli.commands["promote"].params for option in parameter.opts}
    assert {"--built", "--require-golden"} <= options


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
