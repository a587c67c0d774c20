"""What a first demo has made ahead is what its assets look for later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_aws_pipeline.demo import ahead
from monai_aws_pipeline.deployment.host_bundle import HOST_REQUIREMENTS
from monai_aws_pipeline.maps import requirements, wheelhouse
from monai_aws_pipeline.settings import PROJECT_ROOT

APPLICATION = PROJECT_ROOT / "examples" / "brain_mri" / "app"


def test_wheels_of_hosts_and_of_the_example_for_the_python_of_the_base_file_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    made: list[str] = []
    monkeypatch.setattr(wheelhouse, "collect", lambda wanted, _cache, python, _report: made.append(wheelhouse.name_of(wanted, python)))
    monkeypatch.setattr(ahead, "_give_way", lambda: None)
    monkeypatch.setattr(ahead, "_MODULES", ("sys",))
    ahead.main()
    said = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True, check=True).stdout
    python = said.split()[1].rpartition(".")[0]
    wanted = (HOST_REQUIREMENTS, requirements.requirements_file(APPLICATION, tmp_path))
    assert made == [wheelhouse.name_of(each, python) for each in wanted]


def test_what_is_compiled_can_be_imported():
    subprocess.run([sys.executable, "-c", f"import {', '.join(ahead._MODULES)}"], check=True)


def test_a_machine_that_has_its_base_file_systems_starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "local-cloud").mkdir()
    monkeypatch.setattr(ahead.subprocess, "Popen", lambda *_, **__: pytest.fail("nothing is to be made"))
    with ahead.made_ahead(tmp_path):
        pass


def test_where_the_start_fails_nothing_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    begun: list[subprocess.Popen[bytes]] = []
    genuine = subprocess.Popen

    def sleeping(_: list[str], **options: object) -> subprocess.Popen[bytes]:
        begun.append(genuine(["sleep", "60"], **options))  # type: ignore[call-overload]
        return begun[0]

    monkeypatch.setattr(ahead.subprocess, "Popen", sleeping)
    with pytest.raises(RuntimeError), ahead.made_ahead(tmp_path):
        raise RuntimeError
    assert begun[0].wait(timeout=10) < 0
