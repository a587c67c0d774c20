"""Warm hosting from the host's side: proved before it is used, given up where it does not hold, nothing kept from study to study.

The server is the real one in a process namespace; in the container's place stands ``tests/support/pretended_docker.py``.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import MapFacts
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.runtime import warm_runner
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.side_by_side import SideBySide
from monai_aws_pipeline.host_agent.runtime.usage import Meter, control_group
from monai_aws_pipeline.host_agent.runtime.warm_runner import Verdict, Warm, WarmContainer
from monai_aws_pipeline.maps.spec.run import Limits, RunSpec
from tests.support import pretended_docker
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.pipeline_bench import until

DIGEST = "sha256:" + "a" * 64
SPEC = RunSpec(("python3", "/opt/holoscan/app"), "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan")
READY = ReadyMap(f"host/map@{DIGEST}", SPEC, MapFacts(digest=DIGEST), 1, 0.0)

APP = """
import json, os, sys, time
from pathlib import Path
source, output, state = (Path(os.environ[name]) for name in ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH", "PRETENDED_DOCKER"))
is_warm = os.getppid() == 1 and os.getpid() != 1 and "warm_server" in Path("/proc/1/cmdline").read_text()
print("a line", len(list(source.iterdir())), flush=True)
(output / "answer.json").write_text(json.dumps(len(list(source.iterdir()))))
"""


@dataclass
class Host:
    """A host with a MAP whose application a test may rewrite."""

    folder: Path
    hosting: Warm
    stop: threading.Event
    studies: int = 0

    def app(self, more: str = "") -> None:
        (self.folder / "docker" / "app" / "__main__.py").write_text(APP + more)

    def study(self, ready: ReadyMap = READY, limits: Limits | None = None) -> RunEnd:
        self.studies += 1
        folder = self.folder / "work" / f"study-{self.studies}"
        (folder / "output").mkdir(parents=True)
        (folder / "input").mkdir()
        for path in write_series(self.folder / "made" / str(self.studies), generate_uid(), slices=2):
            path.rename(folder / "input" / path.name)
        limits = limits or Limits(uid=os.geteuid(), gid=os.getegid(), timeout_s=20)
        return self.hosting.run(ready, folder / "input", folder / "output", limits, name=f"alone-{self.studies}", stop=self.stop)

    def outputs(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "work" / f"study-{self.studies}" / "output").rglob("*"))

    def verdict(self) -> Verdict | None:
        return warm_runner.Verdicts(self.folder / "state" / "hosting").read(DIGEST)

    def servers(self) -> int:
        calls = (self.folder / "docker" / "calls").read_text().splitlines()
        return sum(1 for call in calls if "--interactive" in json.loads(call))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("a process namespace of one's own needs root")
    with pretended_docker.engine(tmp_path, monkeypatch) as engine:
        hosting = Warm(engine, tmp_path / "state" / "hosting", tmp_path / "state" / "warm")
        made = Host(tmp_path, hosting, threading.Event())
        made.app()
        yield made
        hosting.close()
        engine.settle()
        assert not list((tmp_path / "docker").glob("*.json")), "every container was removed"
        assert not (tmp_path / "state" / "warm" / "study").exists()


def test_the_first_study_is_run_both_ways_and_later_ones_warm(host: Host) -> None:
    first = host.study()
    assert (first.hosting, first.exit_code, host.outputs()) == ("per_study", 0, ["answer.json"])
    verdict = host.verdict()
    assert verdict
    assert (verdict.hosting, verdict.per_study_seconds > 0, verdict.warm_seconds > 0) == ("warm", True, True)
    for _ in range(2):
        later = host.study()
        assert (later.hosting, later.exit_code, host.outputs(), later.log_tail) == ("warm", 0, ["answer.json"], ("a line 2",))
        assert later.seconds > 0
    assert host.servers() == 1


def test_what_a_study_held_and_had_of_the_gpu_is_in_its_end_both_ways(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Meter.sample

    def on_the_gpu(meter: Meter) -> None:
        plain(meter)
        meter.gpu_own = 7

    monkeypatch.setattr(Meter, "sample", on_the_gpu)
    host.app("time.sleep(0.5)")  # it is seen while it lives
    ends = [host.study(), host.study()]
    assert [end.hosting for end in ends] == ["per_study", "warm"]
    says = control_group(os.getpid()).held_bytes() is not None
    assert [(bool(end.held_bytes), end.own_gpu_bytes) for end in ends] == [(says, 7)] * 2


def test_two_prove_side_by_side_only_when_both_servers_have_made_their_imports(host: Host) -> None:
    library = host.folder / "installed"
    library.mkdir()
    (library / "dear.py").write_text("import time; time.sleep(2)")
    ready = replace(READY, spec=replace(SPEC, environment=(("PYTHONPATH", str(library)),)))
    host.app("""
import dear
began = time.time()
time.sleep(2)
(state / f"run-{time.time_ns()}").write_text(json.dumps([began, time.time()]))
""")
    warm = host.hosting
    proofs = host.folder / "state" / "proof"
    host.hosting = SideBySide(warm, host.folder / "beside", proofs, lambda *_: True, lambda *_, **__: None, 1 << 20)  # type: ignore[assignment]
    host.study(ready)
    host.hosting = warm
    assert '"several_at_once"' in next((host.folder / "beside").iterdir()).read_text()
    *_, first, second = [json.loads(path.read_text()) for path in sorted((host.folder / "docker").glob("run-*"))]
    assert min(first[1], second[1]) > max(first[0], second[0]), "they ran at once"


def test_the_verdict_outlives_the_agent_and_ends_with_another_server(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.study()
    host.hosting.close()
    again = Warm(host.hosting._engine, host.folder / "state" / "hosting", host.folder / "state" / "warm")
    host.hosting = again
    assert host.study().hosting == "warm"
    again.close()
    changed = host.folder / "other_server.py"
    changed.write_text(warm_runner._SERVER.read_text() + "\n# another\n")
    monkeypatch.setattr(warm_runner, "_SERVER", changed)
    assert host.verdict() is None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("if is_warm: (output / 'answer.json').write_text('other')", "differ between the two ways (.json: content)"),
        ("if is_warm: (output / 'second.stl').write_text('more')", "differ between the two ways (0 and 1 STL files)"),
        ("if is_warm: sys.exit(5)", "ends with exit code 5 warm"),
        ("if is_warm: os.abort()", "ends with exit code 134 warm"),
    ],
)
def test_a_map_that_answers_differently_is_hosted_a_container_a_study(host: Host, more: str, reason: str) -> None:
    host.app(more)
    for _ in range(2):
        end = host.study()
        assert (end.hosting, end.exit_code, host.outputs()) == ("per_study", 0, ["answer.json"])
    verdict = host.verdict()
    assert verdict
    assert verdict.hosting == "per_study"
    assert reason in verdict.reason
    assert host.servers() == 1


def test_a_first_study_without_outputs_proves_nothing(host: Host) -> None:
    host.app('(output / "answer.json").unlink()')
    assert host.study().ended_well
    assert host.outputs() == []
    assert host.verdict() is None
    assert host.servers() == 0


def test_a_proof_that_meets_whatever_error_takes_no_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(warm_runner, "differences", unexpected)
    assert host.study().ended_well
    assert host.outputs() == ["answer.json"]
    assert host.verdict() is None


def test_of_more_servers_than_may_work_at_once_the_rest_ends(host: Host) -> None:
    host.study()
    limits = Limits(uid=os.geteuid(), gid=os.getegid(), timeout_s=20)
    until(lambda: host.hosting.ready_for(READY, limits, 3), "three have made their imports")
    assert host.hosting.ready_for(READY, limits, 2)
    assert len(host.hosting._idle) == 2


def test_a_map_that_is_no_python_program_is_hosted_a_container_a_study(host: Host) -> None:
    ready = replace(READY, spec=replace(SPEC, command=("/opt/run.sh", "/opt/holoscan/app")))
    assert host.study(ready).hosting == "per_study"
    verdict = host.verdict()
    assert verdict
    assert verdict.reason == "its command is not Python with a script or a module"
    assert host.servers() == 0


def test_what_was_started_ahead_ends_with_the_hosting_and_so_does_its_namespace(host: Host) -> None:
    ready = replace(READY, spec=replace(SPEC, command=("/opt/run.sh", "/opt/holoscan/app")))
    host.study(ready)
    folder = host.folder / "work" / "study-1"
    host.hosting.ahead(ready, folder / "input", folder / "output", Limits(), name="ahead")
    assert list((host.folder / "docker").glob("monai-aws-no-network-*.json"))


def test_a_first_study_that_fails_proves_nothing(host: Host) -> None:
    host.app("sys.exit(3)")
    assert host.study().exit_code == 3
    assert host.verdict() is None


@pytest.mark.parametrize(
    ("more", "code", "timed_out"),
    [("sys.exit(4)", 4, False), ("os.abort()", 134, False), ("time.sleep(99)", 137, True)],
)
def test_the_end_of_a_warm_study_is_the_applications_own(host: Host, more: str, code: int, timed_out: bool) -> None:
    host.study()
    host.app(more)
    end = host.study(limits=Limits(uid=0, gid=0, timeout_s=20 if not timed_out else 1))
    assert (end.hosting, end.exit_code, end.timed_out, end.log_tail[0]) == ("warm", code, timed_out, "a line 2")
    host.app()
    assert host.study().exit_code == 0


def test_nothing_of_a_study_is_in_the_next_ones_folders(host: Host) -> None:
    host.study()
    host.app("(output / 'deep').mkdir(); (output / 'deep' / 'x').write_text('x'); os.setxattr(output, 'user.note', b'x'); output.chmod(0)")
    host.study()
    assert host.outputs() == ["answer.json", "deep", "x"]
    (folder,) = (host.folder / "state" / "warm").iterdir()
    assert [list((folder / name).iterdir()) for name in ("input", "output")] == [[], []]
    assert os.listxattr(folder / "output") == []
    assert (folder / "output").stat().st_mode & 0o777 == 0o700
    host.app("print(os.listxattr(output), sorted(p.name for p in output.iterdir()))")
    assert host.study().log_tail[1:] == ("[] ['answer.json']",)


def test_a_container_is_replaced_when_it_is_worn(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_runner, "_STUDIES", 2)
    for _ in range(5):
        host.study()
    assert host.servers() == 3
    monkeypatch.setattr(warm_runner, "_STUDIES", 200)
    monkeypatch.setattr(warm_runner, "_GROWTH_KIB", -1)
    host.study()
    monkeypatch.setattr(warm_runner, "_GROWTH_KIB", 1 << 20)
    host.study()
    assert host.servers() == 4


def test_a_container_whose_study_has_not_told_all_of_its_log_is_replaced(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.study()
    until = warm_runner.Lines.until
    monkeypatch.setattr(warm_runner.Lines, "until", lambda lines, marker: (until(lines, marker)[0], False))
    host.study()
    monkeypatch.undo()
    host.study()
    assert host.servers() == 2


def test_what_is_lacking_for_another_container_takes_no_study_its_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.study()

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(warm_runner, "_STUDIES", 1)
    monkeypatch.setattr(warm_runner.WarmContainer, "_make_folders", no_room)
    assert host.study().hosting == "warm"
    assert host.hosting._idle == []
    assert not host.hosting.ready_for(READY, Limits(uid=os.geteuid(), gid=os.getegid(), timeout_s=20), 2)


def test_another_digest_gets_another_container(host: Host) -> None:
    host.study()
    other = replace(READY, image=READY.image.replace("a" * 64, "b" * 64), facts=MapFacts(digest="sha256:" + "b" * 64))
    assert host.study(other).hosting == "per_study"
    assert [host.study(other).hosting, host.study().hosting] == ["warm", "warm"]


def killed_once_it_runs(host: Host, container: Any) -> None:
    def kill() -> None:
        until((host.folder / "docker" / "running").exists, "the application runs")
        container._engine._api.kill(container._name)

    threading.Thread(target=kill, daemon=True).start()


def test_a_server_that_ends_fails_the_study_and_is_not_trusted_again(host: Host) -> None:
    host.study()
    (container,) = host.hosting._idle
    host.app("(state / 'running').touch(); time.sleep(30)")
    killed_once_it_runs(host, container)
    with pytest.raises(FailedError) as failed:
        host.study()
    assert failed.value.code is Code.ENGINE_FAILED
    host.app()
    assert host.study().hosting == "per_study"


def test_a_study_that_needs_too_much_memory_ends_as_that_even_if_it_takes_the_server_along(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.study()
    (container,) = host.hosting._idle
    monkeypatch.setattr(host.hosting._engine, "state", lambda name: {"OOMKilled": True, "ExitCode": 137})
    host.app("(state / 'running').touch(); time.sleep(30)")
    killed_once_it_runs(host, container)
    end = host.study()
    monkeypatch.undo()
    assert (end.out_of_memory, end.exit_code) == (True, 137)


def test_a_stopping_host_interrupts_the_study(host: Host) -> None:
    host.study()
    host.app("time.sleep(30)")
    threading.Timer(0.3, host.stop.set).start()
    with pytest.raises(InterruptedJobError):
        host.study()


def test_a_container_that_does_not_start_is_the_hosts_fault_and_says_nothing_about_the_map(host: Host) -> None:
    real = host.hosting._alone.run

    def first_alone(*arguments: object, **options: object) -> RunEnd:
        end = real(*arguments, **options)  # type: ignore[arg-type]
        (host.folder / "docker" / "refuses to start").touch()
        return end

    host.hosting._alone.run = first_alone  # type: ignore[method-assign, assignment]
    assert host.study().exit_code == 0
    assert host.verdict() is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"digest": 1}', "\x00"])
def test_a_damaged_verdict_is_none(host: Host, content: str) -> None:
    host.study()
    (path,) = (host.folder / "state" / "hosting").iterdir()
    path.write_text(content)
    assert host.verdict() is None


def test_a_verdict_whose_imports_are_no_list_is_none(host: Host) -> None:
    host.study()
    (path,) = (host.folder / "state" / "hosting").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "leave": None}))
    assert host.verdict() is None
    assert host.study().hosting == "per_study", "it is proved again"
    assert host.verdict()


def test_what_is_left_to_each_study_is_kept_with_the_verdict_and_told_to_the_next_container(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed beside the application: one library that is dear, and one that starts a thread."""
    library = host.folder / "installed"
    library.mkdir()
    (library / "dear.py").write_text("import time; time.sleep(1)")
    (library / "threaded.py").write_text("import threading, time; threading.Thread(target=time.sleep, args=(999,), daemon=True).start()")
    ready = replace(READY, spec=replace(SPEC, environment=(("PYTHONPATH", str(library)),)))
    host.app("import dear, threaded")
    host.study(ready)
    verdict = host.verdict()
    assert verdict
    assert (verdict.hosting, list(verdict.leave)) == ("warm", ["threaded"]), verdict.reason
    assert "; threaded is imported by each study itself (0." in verdict.reason
    assert verdict.reason.endswith("s): it starts 1 thread")
    host.hosting.close()
    told: list[dict[str, object]] = []
    real = warm_runner.WarmContainer._say

    def say(container: warm_runner.WarmContainer, **order: object) -> None:
        told.append(order)
        real(container, **order)

    monkeypatch.setattr(warm_runner.WarmContainer, "_say", say)
    again = Warm(host.hosting._engine, host.folder / "state" / "hosting", host.folder / "state" / "warm")
    host.hosting = again
    assert host.study(ready).hosting == "warm"
    assert told[0]["leave"] == ["threaded"]
    again.close()


def test_a_study_has_its_own_share_also_where_another_ended_just_before_it_began(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Limits(uid=os.geteuid(), gid=os.getegid(), timeout_s=20)
    others = replace(mine, memory_mib=2048)
    assert host.study(limits=mine).hosting == "per_study"
    given, had = list[int](), list[int]()
    monkeypatch.setattr(host.hosting._engine, "limit_memory", lambda name, mib: given.append(mib))
    begin, run = host.hosting._begin, WarmContainer.run

    def and_another_ends(ready: ReadyMap, limits: Limits, number: int) -> None:
        begin(ready, limits, number)
        if limits is mine and not given:
            begin(ready, others, number)

    def told(container: WarmContainer, *arguments: Any) -> RunEnd:
        had.extend(given)
        return run(container, *arguments)

    monkeypatch.setattr(host.hosting, "_begin", and_another_ends)
    monkeypatch.setattr(WarmContainer, "run", told)
    assert host.study(limits=mine).hosting == "warm"
    assert had == [2048, mine.memory_mib]
