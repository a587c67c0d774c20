"""GPU memory as nvidia-smi says it: of a run's own processes, of the whole GPU where the driver does not say that, else nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.at_once import AtOnce, Machine
from monai_aws_pipeline.host_agent.runtime import usage
from monai_aws_pipeline.host_agent.runtime.gpu import GpuWatch
from monai_aws_pipeline.host_agent.runtime.usage import ControlGroup, Meter
from monai_aws_pipeline.maps.spec.run import Limits
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.unit.host_agent.bench import WELL
from tests.unit.host_agent.pipeline_bench import until

MIB = 1 << 20


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH for a stub of nvidia-smi, which prints the files ``used``, ``total`` and, again and again, ``apps``."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"""#!/bin/sh
case "$*" in
"--query-gpu=memory.used --format=csv,noheader,nounits") cat {tmp_path}/used ;;
"--query-gpu=memory.total --format=csv,noheader,nounits") cat {tmp_path}/total ;;
"--query-compute-apps=pid,used_memory,gpu_uuid --format=csv,noheader,nounits --loop-ms=100")
    echo $$ >> {tmp_path}/started
    while cat {tmp_path}/apps; do sleep 0.05; done ;;
*) exit 2 ;;
esac
""")
    program.chmod(0o755)
    (tmp_path / "apps").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def gpu() -> Iterator[GpuWatch]:
    watch = GpuWatch()
    yield watch
    watch.close()


def sampled(folder: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch, gpu: GpuWatch | None) -> int | None:
    """The peak of a run whose samples meet these answers about the whole GPU, each more than a second after the one before.

    None of it is known to be the run's own.
    """
    seconds = iter(range(10, 10_000, 2))
    found = Meter(os.getpid, gpu)
    for reading in readings:
        (folder / "used").write_text(reading)
        found._gpu_at = -float(next(seconds))
        found.sample()
    assert found.gpu_own is None
    return found.gpu_peak


def test_the_largest_reading_of_any_gpu_counts_where_no_process_is_named(smi: Path, monkeypatch: pytest.MonkeyPatch, gpu: GpuWatch) -> None:
    assert sampled(smi, ["3\n0\n", "512\n4100\n", "900\n2\n"], monkeypatch, gpu) == 4100 * MIB


@pytest.mark.parametrize("said", ["", "[N/A]\n", "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.\n"])
def test_an_answer_without_a_number_is_no_measurement(smi: Path, monkeypatch: pytest.MonkeyPatch, said: str, gpu: GpuWatch) -> None:
    (smi / "apps").write_text(said)
    assert sampled(smi, [said], monkeypatch, gpu) is None


def test_a_map_without_gpu_has_none(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampled(smi, ["512\n"], monkeypatch, None) is None
    assert not (smi / "started").exists()


def test_a_host_without_the_program_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: GpuWatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sampled(tmp_path, ["512\n"], monkeypatch, gpu) is None
    assert gpu.total_bytes() is None


def test_the_whole_gpu_is_asked_once_a_second_and_not_at_every_sample(smi: Path, monkeypatch: pytest.MonkeyPatch, gpu: GpuWatch) -> None:
    now = [10.0]
    monkeypatch.setattr(usage.time, "monotonic", lambda: now[0])
    found = Meter(os.getpid, gpu)
    (smi / "used").write_text("100\n")
    found.sample()
    (smi / "used").write_text("200\n")
    now[0] = 10.4
    found.sample()
    assert found.gpu_peak == 100 * MIB
    now[0] = 11.6
    found.sample()
    assert found.gpu_peak == 200 * MIB


def test_of_several_processes_on_the_gpu_a_runs_own_count_and_nobody_elses(smi: Path, gpu: GpuWatch) -> None:
    (smi / "used").write_text("9000\n")
    assert gpu.used_by({os.getpid()}) is None, "nothing is known before the first look"
    (smi / "apps").write_text(f"{os.getpid()}, 700, GPU-1\n{os.getppid()}, 5000, GPU-1\n1, [N/A], GPU-1\n")
    until(lambda: gpu.used_by({os.getpid()}) == 700 * MIB, "its own")
    until(lambda: gpu.used_by({os.getpid(), os.getppid()}) == 5700 * MIB, "both together")
    assert gpu.used_by({1}) is None, "the driver does not say"


def test_of_several_gpus_the_one_counts_on_which_a_run_has_most(smi: Path, gpu: GpuWatch) -> None:
    (smi / "apps").write_text(f"{os.getpid()}, 9000, GPU-1\n{os.getppid()}, 800, GPU-1\n{os.getpid()}, 300, GPU-2\n")
    assert gpu.used_by({os.getpid()}) is None
    until(lambda: gpu.used_by({os.getpid()}) == 9000 * MIB, "not what the last line says")
    until(lambda: gpu.used_by({os.getpid(), os.getppid()}) == 9800 * MIB, "both on one card")
    (smi / "apps").write_text(f"{os.getpid()}, 300\n")
    until(lambda: gpu.used_by({os.getpid()}) == 300 * MIB, "what it has now")
    until(lambda: gpu.used_by({os.getppid()}) is None, "one that has left is forgotten")
    assert (smi / "started").read_text().count("\n") == 1, "one program, however often it is asked"


def test_the_peak_of_a_run_is_that_of_its_processes(smi: Path, gpu: GpuWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlGroup, "pids", lambda _: {os.getpid()})
    (smi / "used").write_text("9000\n")
    found = Meter(os.getpid, gpu)
    found.sample()
    assert (found.gpu_own, found.gpu_peak) == (None, 9000 * MIB), "before it has begun with the GPU, others may have it"
    (smi / "apps").write_text(f"{os.getpid()}, 700\n{os.getppid()}, 5000\n")
    until(lambda: gpu.used_by({os.getpid()}) is not None, "the first look")
    found.sample()
    assert (found.gpu_own, found.gpu_peak) == (700 * MIB, 700 * MIB)
    (smi / "apps").write_text(f"{os.getpid()}, 200\n")
    until(lambda: gpu.used_by({os.getpid()}) == 200 * MIB, "it gives some back")
    found.sample()
    assert (found.gpu_own, found.gpu_peak) == (700 * MIB, 700 * MIB)


@pytest.mark.parametrize("apps", ["", "{pid}, [N/A]\n"])
def test_where_no_figure_is_a_studys_own_it_stays_one_at_a_time(
    smi: Path, gpu: GpuWatch, monkeypatch: pytest.MonkeyPatch, apps: str
) -> None:
    monkeypatch.setattr(ControlGroup, "pids", lambda _: {os.getpid()})
    (smi / "used").write_text("700\n")
    (smi / "apps").write_text(apps.format(pid=os.getpid()))
    found = Meter(os.getpid, gpu)
    found.sample()
    end = replace(WELL, peak_gpu_bytes=found.gpu_peak, own_gpu_bytes=found.gpu_own)
    assert end.peak_gpu_bytes == 700 * MIB, "the record says what is known"
    at_once = AtOnce("4", Machine(64 << 30, 8, 1 << 20, 16 << 30), Limits(gpus="all"))
    at_once.used("sha256:" + "1" * 64, end)
    assert at_once.number("sha256:" + "1" * 64) == 1


def test_the_smallest_gpu_is_what_a_machine_has(smi: Path, gpu: GpuWatch) -> None:
    (smi / "total").write_text("15360\n24576\n")
    assert gpu.total_bytes() == 15360 * MIB


def test_the_program_ends_with_the_process_that_asked_it(smi: Path) -> None:
    script = f"""
import pathlib, time
from monai_aws_pipeline.host_agent.runtime.gpu import GpuWatch
GpuWatch().used_by({{1}})
started = pathlib.Path({str(smi / "started")!r})
while not (started.exists() and started.read_text().endswith("\\n")):
    time.sleep(0.05)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PROJECT_ROOT, timeout=60)
    pid = int((smi / "started").read_text())
    until(lambda: not Path(f"/proc/{pid}").exists(), "it ends too, though it prints nothing")


def test_the_program_ends_with_the_watch(smi: Path) -> None:
    watch = GpuWatch()
    watch.used_by({1})
    until((smi / "started").exists, "it started")
    process = watch._process
    assert process
    watch.close()
    assert process.poll() is not None


def test_the_end_of_a_run_is_waited_for_and_nothing_stays_open() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        meter = Meter(lambda: process.pid, None)
        assert not meter.wait(5), "there is nothing to wait for before the first sample"
        before = set(Path("/proc/self/fd").iterdir())
        meter.sample()
        assert meter.wait(0.01)
        assert not meter.over()
        process.communicate(b"\n")
        assert meter.wait(60)
        assert meter.over()
    meter.close()
    meter.close()
    assert set(Path("/proc/self/fd").iterdir()) <= before
