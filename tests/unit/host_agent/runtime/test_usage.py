"""GPU memory as nvidia-smi says it: the largest reading of a run, nothing where there is no GPU or no answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.runtime import usage
from monai_aws_pipeline.host_agent.runtime.usage import Meter

MIB = 1 << 20


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH for a stub of nvidia-smi, which prints the file ``used``."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"""#!/bin/sh
[ "$*" = "--query-gpu=memory.used --format=csv,noheader,nounits" ] || exit 2
cat {tmp_path}/used
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def sampled(folder: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch, *, gpu: bool = True) -> int | None:
    """The peak of a run whose samples meet these answers of nvidia-smi, each more than a second after the one before."""
    seconds = iter(range(10, 10_000, 2))
    monkeypatch.setattr(usage.time, "monotonic", lambda: float(next(seconds)))
    found = Meter(os.getpid, gpu)
    for reading in readings:
        (folder / "used").write_text(reading)
        found.sample()
    return found.gpu_peak


def test_the_largest_reading_of_any_gpu_counts(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampled(smi, ["3\n0\n", "512\n4100\n", "900\n2\n"], monkeypatch) == 4100 * MIB


@pytest.mark.parametrize("said", ["", "[N/A]\n", "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.\n"])
def test_an_answer_without_a_number_is_no_measurement(smi: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    assert sampled(smi, [said], monkeypatch) is None


def test_a_map_without_gpu_has_none(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampled(smi, ["512\n"], monkeypatch, gpu=False) is None


def test_a_host_without_the_program_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sampled(tmp_path, ["512\n"], monkeypatch) is None


def test_it_is_asked_once_a_second_and_not_at_every_sample(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 10.4, 11.6])
    monkeypatch.setattr(usage.time, "monotonic", lambda: next(moments))
    found = Meter(os.getpid, True)
    (smi / "used").write_text("100\n")
    found.sample()
    (smi / "used").write_text("200\n")
    found.sample()
    assert found.gpu_peak == 100 * MIB
    found.sample()
    assert found.gpu_peak == 200 * MIB
