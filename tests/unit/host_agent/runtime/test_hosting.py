"""How a MAP is run: isolated, by its own manifest, with its own exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.maps.spec.container import Bind
from monai_aws_pipeline.maps.spec.run import (
    WARM_SERVER_PATH,
    AppManifestError,
    Limits,
    PythonCommand,
    RunSpec,
    effective_timeout,
    parse_app_json,
    python_command,
    study_container,
    warm_container,
    with_image_variables,
)

MANIFEST = {
    "apiVersion": "1.0.0",
    "command": '["python3", "/opt/holoscan/app"]',
    "environment": {"HOLOSCAN_INPUT_PATH": "input/", "HOLOSCAN_OUTPUT_PATH": "output/", "HOLOSCAN_MODEL_PATH": "/opt/holoscan/models"},
    "input": {"path": "input/", "formats": None},
    "output": {"path": "output/", "formats": None},
    "sdkVersion": "4.0.0",
    "timeout": 0,
    "version": 1.0,
    "workingDirectory": "/var/holoscan/",
}


def arguments(spec: RunSpec, limits: Limits | None = None) -> list[str]:
    return study_container("host/map@sha256:x", spec, Path("/w/in"), Path("/w/out"), limits or Limits(), name="n").docker_arguments()


def spec(**changes: object) -> RunSpec:
    return parse_app_json(json.dumps(MANIFEST | changes))


def test_a_map_runs_isolated_and_without_its_entry_point() -> None:
    line = " ".join(arguments(spec()))
    for needed in (
        "--read-only", "--tmpfs /tmp", "--cap-drop ALL", "--security-opt no-new-privileges", "--network none", "--user 1000:1000",
        "--memory 12288m", "--memory-swap 12288m", "--pids-limit 512", "--pull never",
        "--volume /w/in:/var/holoscan/input:ro", "--volume /w/out:/var/holoscan/output",
        "--env HOME=/tmp", "--env HOLOSCAN_INPUT_PATH=/var/holoscan/input", "--env HOLOSCAN_MODEL_PATH=/opt/holoscan/models",
    ):  # fmt: skip
        assert needed in line, needed
    assert line.endswith("--entrypoint python3 host/map@sha256:x /opt/holoscan/app")
    assert "--privileged" not in line
    assert "--gpus" not in line
    assert "--ipc" not in line


def test_an_older_manifest_is_read_in_its_own_spelling() -> None:
    older = {
        "api-version": "0.1.0", "sdk-version": "0.5.1", "command": "python3 -u '/opt/monai/my app/app.py'",
        "working-directory": "/var/monai",
        "input": {"path": "input", "formats": []}, "output": {"path": "output", "format": {}}, "version": "1.0.0", "timeout": 60,
    }  # fmt: skip
    assert parse_app_json(json.dumps(older)) == RunSpec(
        command=("python3", "-u", "/opt/monai/my app/app.py"), input_path="/var/monai/input", output_path="/var/monai/output",
        working_directory="/var/monai", timeout_s=60, version="1.0.0", sdk_version="0.5.1",
    )  # fmt: skip
    del older["working-directory"]
    assert parse_app_json(json.dumps(older)).input_path == "/var/monai/input"


def test_a_command_for_a_shell_is_an_error_in_a_manifest_of_today() -> None:
    with pytest.raises(AppManifestError, match="command must be a JSON list"):
        spec(command="python3 /opt/holoscan/app")


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ({"PATH": "/home/holoscan/.local/bin:/opt/nvidia/holoscan/bin:/usr/bin"}, ["--env PYTHONUSERBASE=/home/holoscan/.local"]),
        ({"PATH": "/opt/venv/bin:/usr/bin"}, []),
        ({"PATH": ".local/bin:/a b/.local/bin:/usr/bin"}, []),
        ({"PATH": "/home/monai/.local/bin", "PYTHONUSERBASE": "/opt/packages"}, []),
        ({}, []),
    ],
)
def test_packages_in_the_home_of_the_images_user_are_found_although_the_home_is_another(image: dict[str, str], named: list[str]) -> None:
    line = arguments(with_image_variables(spec(), image))
    assert [f"--env {word}" for word in line if word.startswith("PYTHONUSERBASE=")] == named
    assert "HOME=/tmp" in line


def test_what_app_json_says_of_packages_and_threads_holds() -> None:
    said = spec(environment={"OPENBLAS_THREAD_TIMEOUT": "26", "PYTHONUSERBASE": "/opt/own"})
    assert with_image_variables(said, {"PATH": "/home/monai/.local/bin"}) == said


def test_idle_threads_of_openblas_leave_the_cores_to_others_unless_the_image_says_otherwise() -> None:
    assert "OPENBLAS_THREAD_TIMEOUT=20" in arguments(with_image_variables(spec(), {}))
    assert not any("OPENBLAS" in word for word in arguments(with_image_variables(spec(), {"OPENBLAS_THREAD_TIMEOUT": "26"})))


def test_gpus_are_asked_for_only_where_they_are_wanted() -> None:
    assert arguments(spec(), Limits(gpus="all")).count("--gpus") == 1


def test_the_shorter_timeout_holds() -> None:
    assert effective_timeout(spec(timeout=60), Limits(timeout_s=600)) == 60
    assert effective_timeout(spec(timeout=0), Limits(timeout_s=600)) == 600
    assert effective_timeout(spec(timeout=6000), Limits(timeout_s=600)) == 600


def test_a_command_written_as_a_list_is_read_too() -> None:
    assert spec(command=["python3", "/app"]).command == ("python3", "/app")


@pytest.mark.parametrize(
    ("command", "flags", "kind", "name", "rest"),
    [
        (("python3", "/opt/holoscan/app"), (), "script", "/opt/holoscan/app", ()),
        (("/usr/bin/python3.12", "-u", "-m", "app", "--x"), ("-u",), "module", "app", ("--x",)),
        (("python", "-X", "dev", "-W", "ignore", "main.py", "a"), ("-X", "dev", "-W", "ignore"), "script", "main.py", ("a",)),
    ],
)
def test_a_python_command_is_taken_apart(
    command: tuple[str, ...], flags: tuple[str, ...], kind: str, name: str, rest: tuple[str, ...]
) -> None:
    assert python_command(command) == PythonCommand(command[0], flags, kind, name, rest)


@pytest.mark.parametrize(
    "command",
    [
        ("bash", "-c", "x"),
        ("python3",),
        ("python3", "-c", "x"),
        ("python3", "-m"),
        ("python3", "--version"),
        ("python3-config", "x"),
        ("-",),
    ],
)
def test_any_other_command_is_none(command: tuple[str, ...]) -> None:
    assert python_command(command) is None


def test_a_warm_container_is_isolated_as_one_of_its_own() -> None:
    alone = study_container("host/map@sha256:x", spec(), Path("/w/in"), Path("/w/out"), Limits(gpus="all"), name="n")
    python = python_command(spec().command)
    assert python
    warm = warm_container("host/map@sha256:x", spec(), python, Path("/s.py"), Path("/w/in"), Path("/w/out"), Limits(gpus="all"), name="n")
    server = (*alone.binds, Bind(Path("/s.py"), WARM_SERVER_PATH))
    assert warm == replace(alone, entrypoint="python3", command=(WARM_SERVER_PATH,), binds=server, stdin=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ""}, {"command": "python3 app"}, {"command": "[]"}, {"command": '["a", 1]'}, {"input": None}, {"input": {"path": "/"}},
        {"output": {"path": "/etc"}}, {"output": {"path": "../../etc"}}, {"output": {"path": "input"}}, {"input": {"path": "/var/x:ro"}},
        {"environment": {"A B": "x"}}, {"environment": {"A": 1}}, {"timeout": -1}, {"timeout": "1"}, {"workingDirectory": "relative"},
        {"input": {"path": "/var"}},
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_run_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(AppManifestError):
        spec(**changes)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(AppManifestError, match=r"command.*environment.*input.path.*output.path.*timeout"):
        parse_app_json(json.dumps({"command": 1, "environment": [], "timeout": True}))


@given(st.sampled_from(sorted(MANIFEST)), st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_a_hostile_manifest_is_refused_or_gives_plain_arguments(field: str, value: object) -> None:
    try:
        read = spec(**{field: value})
    except AppManifestError:
        return
    assert all(isinstance(part, str) and "\0" not in part for part in arguments(replace(read, timeout_s=1)))
