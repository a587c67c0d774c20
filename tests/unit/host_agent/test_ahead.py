"""The next study's container, started while another study is run: its application waits for its turn, and never begins without it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from monai_aws_pipeline.contract import MapFacts
from monai_aws_pipeline.host_agent.errors import InterruptedJobError
from monai_aws_pipeline.host_agent.job_steps import StagedStudy, _container
from monai_aws_pipeline.host_agent.runtime import network_namespace
from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import OnExit, PerStudy, nothing
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.maps.spec.run import Limits, RunSpec, held_container, study_container
from tests.support import pretended_docker

SPEC = RunSpec(("python3", "/opt/holoscan/app"), "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan")
READY = ReadyMap("map@sha256:1", SPEC, MapFacts(), 1, 0.0)
PROGRAM = """
import os, pathlib, sys
(pathlib.Path(os.environ["HOLOSCAN_OUTPUT_PATH"]) / "began").write_text(sys.stdin.read())
sys.exit(7)
"""


@dataclass
class Host:
    """A host with a pretended engine, and one study's folders."""

    folder: Path
    hosting: PerStudy
    engine: Engine

    def ahead(self, ready: ReadyMap = READY) -> None:
        self.hosting.ahead(ready, self.folder / "input", self.folder / "output", Limits(), name="one")

    def run(self, ready: ReadyMap = READY, stop: threading.Event | None = None, on_exit: OnExit = nothing) -> RunEnd:
        stop, folders = stop or threading.Event(), (self.folder / "input", self.folder / "output")
        try:
            return self.hosting.run(ready, *folders, Limits(), name="one", stop=stop, on_exit=on_exit)
        finally:
            self.engine.settle()  # the next study here has the same name

    def began(self) -> bool:
        return (self.folder / "output" / "began").exists()

    def containers(self) -> list[Path]:
        self.engine.settle()
        return list((self.folder / "docker").glob("one*.json"))

    def runs(self) -> list[list[str]]:
        path = self.folder / "docker" / "calls"
        return [call for line in path.read_text().splitlines() if (call := json.loads(line))[0] == "run"] if path.exists() else []

    def calls(self) -> list[list[str]]:
        """The containers of studies."""
        return [call for call in self.runs() if "--workdir" in call]

    def namespaces(self) -> list[str]:
        """The containers that only keep a network namespace, by name."""
        return [call[call.index("--name") + 1] for call in self.runs() if "--workdir" not in call]

    def wait_held(self) -> None:
        deadline = time.monotonic() + 20
        while not self.calls():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(network_namespace, "holds_connections", lambda _: False)  # pretended containers are in this test's namespace
    with pretended_docker.engine(tmp_path, monkeypatch) as engine:
        for name in ("input", "output"):
            (tmp_path / name).mkdir()
        (tmp_path / "docker" / "app" / "__main__.py").write_text(PROGRAM)
        yield Host(tmp_path, PerStudy(engine), engine)


def test_a_held_container_has_the_same_isolation_and_the_applications_own_command() -> None:
    plain = study_container("map", SPEC, Path("/in"), Path("/out"), Limits(gpus="all"), name="one")
    held = held_container("map", SPEC, Path("/in"), Path("/out"), Limits(gpus="all"), name="one")
    assert held == replace(plain, entrypoint="/bin/sh", command=held.command, stdin=True)
    assert held.command[-2:] == SPEC.command


def test_the_application_begins_when_its_turn_comes_and_not_before(host: Host) -> None:
    host.ahead()
    host.wait_held()
    assert not host.began()
    assert host.run().exit_code == 7
    assert host.began()
    assert len(host.calls()) == 1, "the container that was started ahead"
    assert host.containers() == []


def test_what_was_started_for_nothing_is_ended_and_its_application_never_began(host: Host) -> None:
    host.ahead()
    host.wait_held()
    host.hosting.drop("one")
    host.hosting.drop("one")
    host.hosting.close()
    assert not host.began()
    assert host.containers() == []


def test_another_map_that_became_live_meanwhile_gets_a_container_of_its_own(host: Host) -> None:
    host.ahead()
    host.wait_held()
    assert host.run(replace(READY, image="map@sha256:2")).exit_code == 7
    assert ["map@sha256:1" in host.calls()[0], "map@sha256:2" in host.calls()[1]] == [True, True]
    assert host.containers() == []


def test_an_image_without_a_shell_is_started_as_it_is_and_never_ahead_again(host: Host) -> None:
    (host.folder / "docker" / "no shell").touch()
    host.ahead()
    assert host.run().exit_code == 7
    host.ahead()
    assert host.run().exit_code == 7
    assert sum("/bin/sh" in call for call in host.calls()) <= 2
    assert host.containers() == []


def test_a_turn_that_may_go_on_with_the_command_itself_is_not_over_before_that(host: Host) -> None:
    (host.folder / "docker" / "app" / "__main__.py").write_text("import sys, time; time.sleep(0.5); sys.exit(127)")
    slow, begun = host.folder / "docker" / "slow to end", list[int]()
    slow.touch()
    threading.Timer(4.0, slow.unlink).start()
    host.ahead()
    host.wait_held()
    assert host.run(on_exit=lambda: begun.append(len(host.calls()))).exit_code == 127
    assert set(begun) <= {2}, "its container ended long before the engine said how"
    assert len(host.calls()) == 2


def test_an_application_that_ends_like_a_missing_command_is_not_run_again(host: Host) -> None:
    (host.folder / "docker" / "app" / "__main__.py").write_text(PROGRAM.replace("7", "127"))
    host.ahead()
    host.wait_held()
    assert host.run().exit_code == 127
    assert len(host.calls()) == 1, "it would find its own files of before, beside whoever's turn it is"
    host.ahead()
    assert host.run().exit_code == 127
    assert len(host.calls()) == 2, "its shell is known by now, and it is held ahead as ever"


def test_no_container_has_the_name_of_another_try_s(tmp_path: Path) -> None:
    first, second = (
        StagedStudy(None, tmp_path / "job" / "study-0", tmp_path, tmp_path, list)  # type: ignore[arg-type]
        for _ in range(2)
    )
    names = [_container(each, Limits())[0] for each in (first, second, replace(first, runs=1), replace(first, repairs=("x",)))]
    assert len(set(names[:3])) == 3
    assert names[3] == names[0], "ahead and run mean the same one"


def test_a_stopping_host_interrupts_a_study_that_was_started_ahead(host: Host) -> None:
    (host.folder / "docker" / "app" / "__main__.py").write_text("import time; time.sleep(10)")
    host.ahead()
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedJobError):
        host.run(stop=stop)
    assert host.containers() == []


def network(call: list[str]) -> str:
    return call[call.index("--network") + 1]


def test_containers_that_are_started_ahead_join_one_namespace_without_a_network(host: Host) -> None:
    for _ in range(2):
        host.ahead()
        assert host.run().exit_code == 7
    (namespace,) = host.namespaces()
    assert [network(call) for call in host.calls()] == [f"container:{namespace}"] * 2
    assert [network(call) for call in host.runs() if call not in host.calls()] == ["none"]
    host.hosting.close()
    host.engine.settle()
    assert not list((host.folder / "docker").glob("monai-aws-no-network-*.json"))


def test_no_two_containers_share_a_namespace_and_the_next_ones_use_those_again(host: Host) -> None:
    for name in ("one", "two", "three"):
        for part in ("input", "output"):
            (host.folder / name / part).mkdir(parents=True)

    def ahead(name: str) -> None:
        host.hosting.ahead(READY, host.folder / name / "input", host.folder / name / "output", Limits(), name=name)

    def run(name: str) -> None:
        folder = host.folder / name
        end = host.hosting.run(READY, folder / "input", folder / "output", Limits(), name=name, stop=threading.Event())
        assert end.exit_code == 7

    ahead("one")
    ahead("two")
    run("one")
    ahead("three")
    run("three")
    run("two")
    first, second = host.namespaces()
    joined = {call[call.index("--name") + 1]: network(call).removeprefix("container:") for call in host.calls()}
    assert joined == {"one": first, "two": second, "three": first}
    host.hosting.close()
    assert not list((host.folder / "docker").glob("monai-aws-no-network-*.json"))


def test_a_namespace_whose_study_was_interrupted_is_nobodys_any_more(host: Host) -> None:
    (host.folder / "docker" / "app" / "__main__.py").write_text("import time; time.sleep(10)")
    host.ahead()
    host.wait_held()
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedJobError):
        host.run(stop=stop)
    (host.folder / "docker" / "app" / "__main__.py").write_text(PROGRAM)
    host.ahead()
    assert host.run().exit_code == 7
    assert [network(call) for call in host.calls()] == [f"container:{name}" for name in host.namespaces()]
    assert len(set(host.namespaces())) == 2


def test_a_namespace_that_remembers_a_connection_is_nobodys_any_more(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_namespace, "holds_connections", lambda _: True)
    for _ in range(2):
        host.ahead()
        assert host.run().exit_code == 7
    first, second = host.namespaces()
    assert [network(call) for call in host.calls()] == [f"container:{first}", f"container:{second}"]
    assert not list((host.folder / "docker").glob("monai-aws-no-network-*.json"))


def test_a_namespace_that_does_not_come_is_tried_three_times_in_a_row(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    network = host.hosting._network

    def comes(image: str, *, may: bool) -> bool:
        with monkeypatch.context() as patched:
            if not may:
                patched.setattr(network_namespace, "_START_S", 0.05)
                patched.setattr(host.engine, "state", lambda _: {})
            taken = network.take(image, Limits())
        network.end(taken)
        return taken is not None

    may = (False, False, True, False, False, False, True, True)
    assert [comes(READY.image, may=each) for each in may] == [False, False, True, False, False, False, False, False]
    assert comes("map@sha256:2", may=True), "another image is another question"


def test_what_the_kernel_says_of_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_namespace, "_PROC", tmp_path)
    assert network_namespace.holds_connections(5), "who cannot say is not believed"
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    (tmp_path / "5" / "net").mkdir(parents=True)
    for name in ("tcp", "tcp6"):
        (tmp_path / "5" / "net" / name).write_text(head)
    assert not network_namespace.holds_connections(5)
    (tmp_path / "5" / "net" / "tcp6").unlink()
    assert not network_namespace.holds_connections(5), "a host without IPv6"
    (tmp_path / "5" / "net" / "tcp6").write_text(f"{head}   0: 0100007F:7531 0100007F:A0E2 06 00000000:00000000 03:00001741\n")
    assert network_namespace.holds_connections(5)


def test_another_image_gets_a_namespace_of_its_own_and_the_one_before_is_ended(host: Host) -> None:
    host.ahead()
    assert host.run().exit_code == 7
    host.ahead(replace(READY, image="map@sha256:2"))
    assert host.run(replace(READY, image="map@sha256:2")).exit_code == 7
    first, second = host.namespaces()
    assert [network(call) for call in host.calls()] == [f"container:{first}", f"container:{second}"]
    assert [path.stem for path in (host.folder / "docker").glob("monai-aws-no-network-*.json")] == [second]


def test_a_namespace_that_is_gone_costs_no_study(host: Host) -> None:
    host.ahead()
    host.wait_held()
    (namespace,) = host.namespaces()
    host.engine.remove(namespace)
    deadline = time.monotonic() + 20
    while (kept := host.hosting._held["one"].namespace) and kept.is_there:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert host.run().exit_code == 7
    assert len(host.calls()) == 1, "the container that was held has its namespace, whoever else has left it"
    host.ahead()
    assert host.run().exit_code == 7
    assert network(host.calls()[-1]) == f"container:{host.namespaces()[1]}"


def test_a_network_that_the_settings_ask_for_is_not_replaced(host: Host) -> None:
    host.hosting.ahead(READY, host.folder / "input", host.folder / "output", Limits(network="host"), name="one")
    host.wait_held()
    assert network(host.calls()[0]) == "host"
    assert host.namespaces() == []
    host.hosting.close()
