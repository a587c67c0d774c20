"""A container that is made through the engine's interface is the one that ``docker run`` makes of the same arguments, isolated alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.host_agent.runtime.container import AttachedContainer
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineApi
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.engine import Engine
from monai_aws_pipeline.maps.spec.run import Limits, RunSpec, held_container, namespace_container, study_container
from tests.integration.local_cloud.conftest import eventually, unique

pytestmark = pytest.mark.cloud

SPEC = RunSpec(("/bin/sh", "-c", "echo said; echo told >&2; exit 7"), "/var/in", "/var/out", "/", (("A", "b c"),))
SETTLED_BY_THE_COMMAND = {"Hostname", "RestartPolicy"}
"""Docker's own random name, and "no" for what is no restart either way."""


@pytest.fixture(scope="module")
def engine(local_cloud: LocalCloud) -> Engine:
    return Engine(json.loads((local_cloud.config.state_dir / "engine.json").read_text())["host"], private=True)


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    found = eventually(lambda: engine.text("images", "--quiet").split(), 300)  # the machines' own, brought there at the cloud's start
    return str(found[0])


def made(engine: Engine, name: str) -> dict[str, Any]:
    """What the engine holds of a container, without what is empty; the container is removed."""
    found = json.loads(engine.text("inspect", name))[0]
    engine.run("rm", "--force", name)
    parts = {**found["Config"], **found["HostConfig"]}
    for listed in ("Env", "Binds"):  # docker's own order of them changes from call to call
        parts[listed] = sorted(parts[listed] or [])
    return {key: value for key, value in parts.items() if value and key not in SETTLED_BY_THE_COMMAND}


@pytest.mark.parametrize("gpus", ["", "all", "2", "device=GPU-1"])
def test_both_ways_make_the_same_container(engine: Engine, image: str, gpus: str, tmp_path: Path) -> None:
    limits = Limits(gpus=gpus, labels=(("monai-aws.job", "x"),))
    folders = tmp_path, tmp_path
    for wanted in (
        study_container(image, SPEC, *folders, limits, name=unique("both")),
        held_container(image, SPEC, *folders, limits, name=unique("both")),
        namespace_container(image, limits, name=unique("both")),
    ):
        description = wanted.description()
        assert description
        engine.run("create", *wanted.docker_arguments()[1:])
        commanded = made(engine, wanted.name)
        EngineApi(Path(engine.host.removeprefix("unix://"))).create(wanted.name, description)
        assert made(engine, wanted.name) == commanded
        assert commanded["ReadonlyRootfs"] is True
        assert commanded["CapDrop"] == ["ALL"]


def test_what_a_container_says_and_how_it_ends_arrives(engine: Engine, image: str, tmp_path: Path) -> None:
    api = EngineApi(Path(engine.host.removeprefix("unix://")))
    wanted = held_container(image, SPEC, tmp_path, tmp_path, Limits(), name=unique("said"))
    container = AttachedContainer(api, wanted.name, wanted.description() or {})
    try:
        container.stdin.write(b"\n")
        container.stdin.close()
        assert sorted(container.stdout.read().decode().split()) == ["said", "told"]
        assert container.wait(60) == 7
    finally:
        engine.run("rm", "--force", wanted.name, check=False)


def test_a_container_without_its_program_ends_as_the_command_says(engine: Engine, image: str, tmp_path: Path) -> None:
    api = EngineApi(Path(engine.host.removeprefix("unix://")))
    nothing = RunSpec(("/no/such/program",), "/var/in", "/var/out", "/")
    wanted = study_container(image, nothing, tmp_path, tmp_path, Limits(), name=unique("nothing"))
    container = AttachedContainer(api, wanted.name, wanted.description() or {})
    try:
        assert container.wait(60) == 127
        assert b"no such file" in container.stdout.read()
    finally:
        engine.run("rm", "--force", wanted.name, check=False)
