"""The engine of a host: ends of runs told apart, credentials that do not stay, and what a container used, from the kernel's own files."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.log_redaction.application_log import last_meaningful_line
from monai_aws_pipeline.host_agent.runtime import engine as engine_module
from monai_aws_pipeline.host_agent.runtime import usage
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineError, spoken_version
from monai_aws_pipeline.host_agent.runtime.engine import LOG_LINES, Engine, RunEnd
from monai_aws_pipeline.host_agent.runtime.usage import Meter, control_group
from monai_aws_pipeline.maps.spec.run import Limits, RunSpec, study_container
from tests.support import pretended_docker

SPEC = RunSpec(("python3", "/opt/holoscan/app"), "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan")
IMAGE = "registry.test/map@sha256:" + "a" * 64


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with pretended_docker.engine(tmp_path, monkeypatch) as made:
        yield made


def run(engine: Engine, folder: Path, program: str, timeout_s: float = 20, stop: threading.Event | None = None) -> RunEnd:
    (folder / "docker" / "app" / "__main__.py").write_text(program)
    wanted = study_container(IMAGE, SPEC, folder, folder, Limits(), name="one")
    try:
        return engine.run(wanted, timeout_s=timeout_s, stop=stop or threading.Event())
    finally:
        engine.settle()
        assert not (folder / "docker" / "one.json").exists(), "the container is removed whatever happens"


def answers(folder: Path, **answer: str) -> None:
    (folder / "docker" / "answers.json").write_text(json.dumps(answer))


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "docker" / "calls").read_text().splitlines()]


def test_the_exit_code_and_the_last_lines_are_the_applications(engine: Engine, tmp_path: Path) -> None:
    end = run(engine, tmp_path, f"import sys\nfor n in range({LOG_LINES + 100}): print('line', n)\nsys.exit(7)")
    assert (end.exit_code, end.timed_out, end.out_of_memory, end.hosting) == (7, False, False, "per_study")
    assert end.log_tail[-1] == f"line {LOG_LINES + 99}"
    assert len(end.log_tail) == LOG_LINES


def test_what_a_map_failed_of_is_kept_although_it_prints_hundreds_of_lines_afterwards(engine: Engine, tmp_path: Path) -> None:
    goes_on = "import atexit\natexit.register(lambda: print('[INFO] releasing', *['\\n[INFO] releasing', '\\n'] * 200))\n"
    end = run(engine, tmp_path, goes_on + "raise ValueError('no series is a volume')")
    assert len(end.log_tail) > 400
    assert last_meaningful_line(end.log_tail) == "ValueError: no series is a volume"


def test_a_line_without_an_end_is_cut(engine: Engine, tmp_path: Path) -> None:
    end = run(engine, tmp_path, "print('x' * 10000)")
    assert max(len(line) for line in end.log_tail) == 4096


def test_a_run_that_hangs_is_killed(engine: Engine, tmp_path: Path) -> None:
    end = run(engine, tmp_path, "import time; time.sleep(100)", timeout_s=0.5)
    assert end.timed_out
    assert ["kill", "one"] in calls(tmp_path)


def test_a_run_is_over_with_its_last_process_and_before_the_engine_is_done_with_it(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "docker" / "app" / "__main__.py").write_text("import time; time.sleep(0.5); print('done')")
    waits = tmp_path / "docker" / "slow to end"  # the engine is done when this is gone
    waits.touch()
    wanted = study_container(IMAGE, SPEC, tmp_path, tmp_path, Limits(), name="one")
    end = engine.run(wanted, timeout_s=30, stop=threading.Event(), on_exit=waits.unlink)
    assert (end.exit_code, end.timed_out, end.log_tail) == (0, False, ("done",)), "and its end is known as ever"


def test_what_a_short_run_used_is_read_at_its_end(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"memory.peak": "100", "memory.current": "90", "memory.stat": "anon 80\nshmem 0\n"}
    group = control_group(7, *cgroup(tmp_path, "0::/x\n", {f"x/{name}": text for name, text in files.items()}))
    monkeypatch.setattr(usage, "control_group", lambda _: group)
    monkeypatch.setattr(usage, "_SAMPLE_S", 3600)  # the next look would come too late
    (tmp_path / "docker" / "app" / "__main__.py").write_text(
        f"import pathlib, time; time.sleep(0.5); folder = pathlib.Path({str(group.now.parent)!r}); "
        "(folder / 'memory.peak').write_text('700'); (folder / 'memory.stat').write_text('anon 99\\nshmem 0\\n')"
    )
    waits = tmp_path / "docker" / "slow to end"
    waits.touch()
    wanted = study_container(IMAGE, SPEC, tmp_path, tmp_path, Limits(), name="one")
    end = engine.run(wanted, timeout_s=30, stop=threading.Event(), on_exit=waits.unlink)
    assert (end.peak_bytes, end.held_bytes) == (700, None), "what is held when it begins and at its end is not what it needed"


def test_a_run_is_not_over_while_it_runs(engine: Engine, tmp_path: Path) -> None:
    over: list[bool] = []
    (tmp_path / "docker" / "app" / "__main__.py").write_text("import time; time.sleep(100)")
    wanted = study_container(IMAGE, SPEC, tmp_path, tmp_path, Limits(), name="one")
    end = engine.run(wanted, timeout_s=1, stop=threading.Event(), on_exit=lambda: over.append(True))
    assert end.timed_out
    assert not over


def test_an_engine_that_never_says_how_a_run_ended_is_its_own_fault(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_CALL_S", 0.5)
    waits = tmp_path / "docker" / "slow to end"
    waits.touch()
    over: list[bool] = []
    (tmp_path / "docker" / "app" / "__main__.py").write_text("import time; time.sleep(0.5)")
    wanted = study_container(IMAGE, SPEC, tmp_path, tmp_path, Limits(), name="one")
    with pytest.raises(FailedError, match="did not say") as failed:
        engine.run(wanted, timeout_s=30, stop=threading.Event(), on_exit=lambda: over.append(True))
    assert (failed.value.code, over) == (Code.ENGINE_FAILED, [True])
    waits.unlink()


def test_a_stopping_host_interrupts_a_run(engine: Engine, tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(InterruptedJobError):
        run(engine, tmp_path, "import time; time.sleep(100)", stop=stop)


def test_a_container_that_never_started_is_the_engines_fault(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "docker" / "refuses to start").touch()
    with pytest.raises(FailedError, match="no such runtime") as failed:
        run(engine, tmp_path, "")
    assert failed.value.code is Code.ENGINE_FAILED


def test_a_container_that_still_runs_has_not_ended_well_whatever_became_of_its_connection(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"Running": True, "StartedAt": "2026-11-30T08:00:00Z", "ExitCode": 0, "Pid": 0}
    monkeypatch.setattr(engine, "state", lambda _: runs)
    with pytest.raises(FailedError, match="still runs") as failed:
        run(engine, tmp_path, "")
    assert failed.value.code is Code.ENGINE_FAILED


def test_credentials_are_gone_after_a_pull_and_never_an_argument(engine: Engine, tmp_path: Path) -> None:
    answers(tmp_path, login="ok", pull="ok")
    engine.pull(IMAGE, "AWS", "a secret", threading.Event())
    assert not (tmp_path / "credentials").exists()
    assert ["login", "--username", "AWS", "--password-stdin", "registry.test"] in calls(tmp_path)
    assert "a secret" not in (tmp_path / "docker" / "calls").read_text()


def test_a_failed_login_is_a_failed_pull(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(FailedError) as failed:
        engine.pull(IMAGE, "AWS", "a secret", threading.Event())
    assert failed.value.code is Code.PULL_FAILED
    assert not (tmp_path / "credentials").exists()


def test_an_images_facts_are_read_without_starting_it(engine: Engine, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("app.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    answers(
        tmp_path,
        image=json.dumps([{"Size": 7, "Config": {"Labels": {"a": "b"}, "Env": ["PATH=/a=b:/c", "EMPTY="]}}]),
        create="container-id\n",
        cp=archive.getvalue().decode("latin-1"),
    )
    facts = engine.facts(IMAGE)
    assert (facts.bytes, facts.labels, facts.app_json) == (7, {"a": "b"}, "{}")
    assert facts.environment == {"PATH": "/a=b:/c", "EMPTY": ""}
    assert ["rm", "--force", "container-id"] in calls(tmp_path)
    assert not [call for call in calls(tmp_path) if call[0] == "run"]


def test_what_an_earlier_agent_left_is_removed(engine: Engine, tmp_path: Path) -> None:
    answers(tmp_path, ps="one two\n")
    assert engine.remove_leftovers() == 2
    assert calls(tmp_path)[-2:] == [["rm", "--force", "one"], ["rm", "--force", "two"]]
    answers(tmp_path)
    with pytest.raises(EngineError):
        engine.remove_leftovers()


# ---------------------------------------------------------------------------------------------------------------------------- meter


def cgroup(tmp_path: Path, text: str, files: dict[str, str]) -> tuple[Path, Path]:
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(text)
    (tmp_path / "proc" / "7" / "status").write_text("Name:\tx\nVmHWM:\t    2048 kB\n")
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "proc", tmp_path / "groups"


def test_both_versions_of_control_groups_are_read(tmp_path: Path) -> None:
    one = control_group(7, *cgroup(
        tmp_path / "v1", "5:cpuacct,cpu:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x\n", {
            "memory/docker/x/memory.max_usage_in_bytes": "100\n", "memory/docker/x/memory.usage_in_bytes": "50\n",
            "memory/docker/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "memory/docker/x/memory.stat": "cache 80\nrss 9\nshmem 9\ntotal_cache 80\ntotal_rss 30\ntotal_rss_huge 7\ntotal_shmem 4\n",
            "cpuacct/docker/x/cpuacct.usage": "2500000000\n",
        }))  # fmt: skip
    two = control_group(7, *cgroup(
        tmp_path / "v2", "0::/system.slice/docker-x.scope\n", {
            "system.slice/docker-x.scope/memory.peak": "100\n", "system.slice/docker-x.scope/memory.current": "50\n",
            "system.slice/docker-x.scope/memory.events": "low 0\noom 3\noom_kill 3\n",
            "system.slice/docker-x.scope/memory.stat": "anon 30\nfile 84\nkernel 2\nshmem 4\nanon_thp 7\ninactive_anon 8\n",
            "system.slice/docker-x.scope/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        }))  # fmt: skip
    for group in (one, two):
        assert (group.peak_bytes(), group.now_bytes(), group.cpu_seconds(), group.kills()) == (100, 50, 2.5, 3)
        assert group.held_bytes() == 34, "without page cache, with what lies in memory's own file systems"
    assert one.peak_source == "cgroup v1 memory.max_usage_in_bytes"
    assert two.peak_source == "cgroup v2 memory.peak"


def test_without_a_mark_of_the_kernel_the_first_process_tells(tmp_path: Path) -> None:
    group = control_group(7, *cgroup(tmp_path, "0::/x\n", {"x/memory.current": "50\n"}))
    assert (group.peak_bytes(), group.peak_source, group.kills()) == (2048 * 1024, "VmHWM of the first process", 0)
    assert group.held_bytes() is None


@pytest.mark.parametrize("warm", [False, True])
def test_of_what_cannot_be_taken_back_the_largest_sample_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    proc, root = cgroup(tmp_path, "0::/x\n", {"x/memory.peak": "900", "x/memory.current": "900", "x/memory.stat": "anon 100\nshmem 5\n"})
    monkeypatch.setattr("monai_aws_pipeline.host_agent.runtime.usage.control_group", lambda pid: control_group(pid, proc, root))
    meter, stat = Meter(lambda: 7, gpu=None, warm=warm), root / "x" / "memory.stat"
    for anonymous in (100, 400, 120):  # a warm server's own; with its study; the study has ended
        stat.write_text(f"anon {anonymous}\nfile 500\nshmem 5\n")
        meter.sample()
    stat.unlink()
    meter.sample()
    assert (meter.held, meter.peak) == (405, 900)


def test_a_warm_study_is_charged_what_it_used_and_not_what_was_used_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("memory.peak", "memory.current", "cpu.stat", "memory.events")

    def kernel(*values: str) -> None:
        for name, value in zip(names, values, strict=True):
            (tmp_path / "groups" / "x" / name).write_text(value)

    proc, root = cgroup(tmp_path, "0::/x\n", dict.fromkeys((f"x/{name}" for name in names), ""))
    monkeypatch.setattr("monai_aws_pipeline.host_agent.runtime.usage.control_group", lambda pid: control_group(pid, proc, root))
    kernel("900", "300", "usage_usec 5000000", "oom_kill 1")
    warm = Meter(lambda: 7, gpu=None, warm=True)
    kernel("900", "500", "usage_usec 6000000", "oom_kill 1")
    warm.sample()
    kernel("900", "400", "usage_usec 6500000", "oom_kill 1")
    warm.sample()
    assert (warm.peak, warm.cpu_seconds, warm.kills, warm.source) == (500, 1.5, 0, "samples of memory.current")
    kernel("950", "400", "usage_usec 6500000", "oom_kill 2")
    warm.sample()
    assert (warm.peak, warm.kills, warm.source) == (950, 1, "cgroup v2 memory.peak")
    alone = Meter(lambda: 7, gpu=None)
    alone.sample()
    assert (alone.peak, alone.cpu_seconds) == (950, 6.5)


def test_a_short_run_is_looked_at_until_it_has_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, root = cgroup(tmp_path, "0::/x\n", {"x/memory.peak": ""})
    monkeypatch.setattr("monai_aws_pipeline.host_agent.runtime.usage.control_group", lambda pid: control_group(pid, proc, root))
    monkeypatch.setattr("monai_aws_pipeline.host_agent.runtime.usage.time.monotonic", lambda: 1000.0)
    meter = Meter(lambda: 7, gpu=None)
    meter.sample()
    assert meter.due(1000.01), "the container is being made"
    (root / "x" / "memory.peak").write_text("100")
    meter.sample()
    assert (meter.peak, meter.due(1000.01), meter.due(1000.11)) == (100, False, True)


def test_nothing_is_measured_before_there_is_a_process() -> None:
    meter = Meter(lambda: 0, gpu=None)
    meter.sample()
    assert (meter.peak, meter.cpu_seconds, meter.gpu_peak) == (0, 0.0, None)


def test_where_the_engine_does_not_answer_no_line_of_the_application_is_quoted(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: str) -> dict[str, object]:
        raise EngineError("no answer")

    monkeypatch.setattr(engine._api, "container", silent)
    with pytest.raises(FailedError) as error:
        run(engine, tmp_path, "print('reading Mustermann^Erika')")
    assert error.value.code is Code.ENGINE_FAILED
    assert "Mustermann" not in str(error.value)


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", (1, 41)), ("1.47", "1.24", (1, 41)), ("1.52", "1.44", (1, 44)), ("1.53", "1.40", (1, 41)), ("2.0", "1.60", (1, 60))],
)
def test_each_engine_is_spoken_with_in_a_version_that_it_takes(newest: str, oldest: str, spoken: tuple[int, int]) -> None:
    assert spoken_version(newest, oldest) == spoken


@pytest.mark.parametrize(("newest", "words"), [("1.40", "too old.*20.10"), ("", "is none"), ("one.two", "is none")])
def test_an_engine_that_is_too_old_or_says_nonsense_is_named(newest: str, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        spoken_version(newest, "1.12")


def test_an_engine_that_refuses_old_versions_runs_a_container(engine: Engine, tmp_path: Path) -> None:
    assert engine._api.prefix() == "/v1.44", "the engine of these tests is as strict as Docker 29"
    assert run(engine, tmp_path, "print('done')").log_tail == ("done",)
