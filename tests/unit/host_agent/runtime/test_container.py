"""A container as the engine's interface has it, and what only the docker command understands."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.runtime.docker_api import EngineApi, EngineError
from monai_aws_pipeline.maps.spec.container import ContainerSpec
from monai_aws_pipeline.maps.spec.run import Limits, RunSpec, study_container
from tests.support import pretended_docker

SPEC = RunSpec(("python3", "/opt/holoscan/app"), "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan")


def container(limits: Limits) -> ContainerSpec:
    return study_container("map", SPEC, Path("/in"), Path("/out"), limits, name="one")


def test_every_limit_is_in_the_description() -> None:
    made = container(Limits(memory_mib=100, pids=7, gpus="all", uid=11, gid=12, labels=(("job", "a=b"),))).description()
    assert made
    host = made["HostConfig"]
    assert (made["Image"], made["Entrypoint"], made["Cmd"]) == ("map", ["python3"], ["/opt/holoscan/app"])
    assert (made["User"], made["Labels"], made["OpenStdin"]) == ("11:12", {"job": "a=b"}, False)
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (100 << 20, 100 << 20, 7)
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Binds"] == ["/in:/var/holoscan/input:ro", "/out:/var/holoscan/output"]
    assert host["ShmSize"] == 1 << 30
    assert host["DeviceRequests"][0]["Count"] == -1


@pytest.mark.parametrize(("gpus", "count", "ids"), [("all", -1, None), ("2", 2, None), ("device=0,GPU-1", 0, ["0", "GPU-1"])])
def test_gpus(gpus: str, count: int, ids: list[str] | None) -> None:
    made = container(Limits(gpus=gpus)).description()
    assert made
    (request,) = made["HostConfig"]["DeviceRequests"]
    assert (request["Count"], request["DeviceIDs"], request["Capabilities"]) == (count, ids, [["gpu"]])


@pytest.mark.parametrize("gpus", ["capabilities=utility", "device=", "-1", "all,2"])
def test_gpus_that_are_not_understood_are_not_guessed(gpus: str) -> None:
    assert container(Limits(gpus=gpus)).description() is None


def test_what_is_not_known_is_started_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_docker.engine(tmp_path, monkeypatch) as engine:
        for name in ("input", "output"):
            (tmp_path / name).mkdir()
        (tmp_path / "docker" / "app" / "__main__.py").write_text("raise SystemExit(3)")
        limits = Limits(gpus="capabilities=utility")
        wanted = study_container("map", SPEC, tmp_path / "input", tmp_path / "output", limits, name="one")
        assert engine.run(wanted, timeout_s=60, stop=threading.Event()).exit_code == 3
    assert "capabilities=utility" in (tmp_path / "docker" / "calls").read_text()


def test_an_engine_that_is_not_there_is_named(tmp_path: Path) -> None:
    api = EngineApi(tmp_path / "docker.sock")
    with pytest.raises(EngineError, match="did not answer"):
        api.attach("one")
