"""infra/team/compose.yaml as Docker Compose itself reads it. No test here starts it: its images come from registries on the internet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monai_aws_pipeline.deployment.build_machine import BUILD_POOL
from monai_aws_pipeline.local_cloud.system import install_packages, program
from monai_aws_pipeline.settings import PROJECT_ROOT

TEAM = PROJECT_ROOT / "infra" / "team"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The services with everything filled in, from a copy with the two files that a user makes."""
    if not program("docker-compose"):
        install_packages(["docker-compose"], lambda _: None)
    folder = tmp_path_factory.mktemp("clone") / "infra" / "team"
    shutil.copytree(TEAM, folder)
    (folder / "settings.env").write_text("MONAI_AWS_BUCKET=studies\n")
    (folder / "postgres-password").write_text("only-in-its-file\n")
    done = subprocess.run(
        [str(program("docker-compose")), "-f", str(folder / "compose.yaml"), "config"],
        capture_output=True, text=True, check=False, env={**os.environ, "OPERATOR_ROLE_ARN": "arn:aws:iam::123456789012:role/operator"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "only-in-its-file" not in done.stdout
    found = yaml.safe_load(done.stdout)["services"]
    assert isinstance(found, dict)
    return found


OURS = ("code", "daemon", "webserver", "portal")


def test_the_ui_is_open_to_this_machine_alone_and_nothing_else_is_open(services: dict[str, Any]):
    ports = {name: [str(port) for port in service.get("ports", [])] for name, service in services.items()}
    assert ports.pop("webserver") == ["127.0.0.1:3000:3000/tcp"]
    assert not any(ports.values())
    # The portal is on the machine's network, where it refuses every address but loopback (portal/server.py: balancer_of).
    assert [name for name, service in services.items() if service.get("network_mode")] == ["portal"]
    assert "MONAI_AWS_PORTAL_LISTEN" not in services["portal"]["environment"]
    assert not any(service.get("privileged") for service in services.values())


def test_the_password_comes_from_its_file_everywhere(services: dict[str, Any]):
    for service in services.values():
        environment = service["environment"]
        assert [name for name in environment if "PASSWORD" in name and not name.endswith("_FILE")] == []
        assert any(value == "/run/secrets/postgres-password" for value in environment.values())
        assert [secret["source"] for secret in service["secrets"]] == ["postgres-password"]


def test_each_process_of_ours_may_do_little_on_its_machine(services: dict[str, Any]):
    for name in OURS:
        service = services[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"


def test_what_writes_below_the_clone_may(services: dict[str, Any]):
    for name in ("code", "portal"):
        assert "cache:/opt/monai-aws/.cache" in str(services[name]["volumes"])


def test_dagster_is_given_all_that_its_configuration_reads(services: dict[str, Any]):
    asked = set(re.findall(r"env: (\w+)", (TEAM / "dagster.yaml").read_text() + (TEAM / "workspace.yaml").read_text()))
    for name in OURS:
        given = set(services[name]["environment"]) | {"DAGSTER_POSTGRES_PASSWORD"}  # the entry point reads it from its file
        assert asked <= given


def test_nothing_starts_before_what_it_needs(services: dict[str, Any]):
    assert services["code"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert all(services[name]["depends_on"]["code"] == {"condition": "service_healthy"} for name in ("daemon", "webserver"))
    assert services["code"]["healthcheck"]
    assert services["postgres"]["healthcheck"]


def test_one_image_holds_what_the_clone_needs_and_no_credentials():
    dockerfile = (TEAM / "Dockerfile").read_text()
    ignored = (TEAM / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"  # nothing of the clone but what is named: no .env, no password
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for word in line.split()}
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert {"infra/team/postgres-password", "infra/team/settings.env"} <= set(ignored)
    assert re.search(r"^USER dagster$", dockerfile, re.MULTILINE)
    assert not re.search(r"^(ENV|ARG).*(KEY|SECRET|PASSWORD|TOKEN)", dockerfile, re.MULTILINE)
    assert all((PROJECT_ROOT / name).exists() for name in copied)


def entry(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The entry point with programs in Dagster's place that show what they were started with."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("dagster", "dagster-daemon", "dagster-webserver"):
        (programs / name).write_text('#!/bin/sh\necho "$(basename "$0") $*"\nenv | grep -E "^(AWS_|DAGSTER_POSTGRES_PASSWORD=)" | sort\n')
        (programs / name).chmod(0o755)
    made = {"PATH": f"{programs}:/usr/bin:/bin", "DAGSTER_HOME": str(folder / "home"), **environment}
    return subprocess.run([str(TEAM / "entrypoint.sh"), *arguments], env=made, capture_output=True, text=True, check=False)


def test_the_entry_point_hands_the_password_on_and_shows_it_in_no_argument(tmp_path: Path):
    (tmp_path / "password").write_text("a b'c$d\n")
    done = entry(tmp_path, "daemon", DAGSTER_POSTGRES_PASSWORD_FILE=str(tmp_path / "password"))
    assert done.returncode == 0, done.stderr
    assert "DAGSTER_POSTGRES_PASSWORD=a b'c$d" in done.stdout.splitlines()
    started = [line for line in done.stdout.splitlines() if line.startswith("dagster")]
    assert started == [f"dagster instance concurrency set {BUILD_POOL} 1", f"dagster-daemon run -w {TEAM}/workspace.yaml"]
    assert (tmp_path / "home" / "dagster.yaml").read_text() == (TEAM / "dagster.yaml").read_text()


def test_the_entry_point_becomes_the_role_that_is_named(tmp_path: Path):
    done = entry(tmp_path, "webserver", "127.0.0.1", MONAI_AWS_DAGSTER="dagster-ecs.yaml", MONAI_AWS_BECOME="arn:aws:iam::1:role/operator")
    assert done.stdout.splitlines() == [
        f"dagster-webserver -h 127.0.0.1 -p 3000 -w {TEAM}/workspace.yaml",
        f"AWS_CONFIG_FILE={tmp_path}/home/aws-config",
        "AWS_PROFILE=operator",
    ]
    assert (tmp_path / "home" / "aws-config").read_text().splitlines() == [
        "[profile operator]", "role_arn = arn:aws:iam::1:role/operator", "credential_source = EcsContainer",
    ]  # fmt: skip


def test_the_entry_point_runs_what_ecs_gives_it(tmp_path: Path):
    assert entry(tmp_path, "dagster", "api", "execute_run", "a b").stdout.splitlines() == ["dagster api execute_run a b"]


def test_the_ui_is_not_started_without_a_word_on_who_reaches_it(tmp_path: Path):
    done = entry(tmp_path, "webserver")
    assert done.returncode != 0
    assert "which address" in done.stderr
