"""Wheels are gathered with pip from a local folder: no network, real pip."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from monai_aws_pipeline.maps import wheelhouse
from monai_aws_pipeline.maps.wheelhouse import BrokenWheelhouseError, RequirementsError, WheelhouseError, collect, read, wheelhouse_key
from tests.unit.maps.wheels import make_wheel

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for everything there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    make_wheel(folder, "alpha", "1.0", requires="beta")
    make_wheel(folder, "beta", "1.0")
    make_wheel(folder, "beta", "2.0")
    return folder


@pytest.fixture
def requirements(tmp_path):
    path = tmp_path / "app" / "requirements.txt"
    path.parent.mkdir()
    path.write_text("alpha  # what we import\n")
    return path


def test_wheels_are_gathered_listed_and_reused(index, requirements, tmp_path):
    lines: list[str] = []
    folder = collect(requirements, tmp_path / "cache", RUNNING, lines.append)
    found = read(folder)
    assert [(wheel.name, wheel.version) for wheel in found.wheels] == [("alpha", "1.0"), ("beta", "2.0")]
    assert any("alpha-1.0-py3-none-any.whl" in line for line in lines)
    assert str(index) not in " ".join(lines)
    again: list[str] = []
    assert collect(requirements, tmp_path / "cache", RUNNING, again.append) == folder
    assert again == [again[0]]
    assert "already here" in again[0]


def test_constraints_beside_the_requirements_decide(index, requirements, tmp_path):
    (requirements.parent / "constraints.txt").write_text("beta==1.0\n")
    found = read(collect(requirements, tmp_path / "cache", RUNNING, lambda _: None))
    assert ("beta", "1.0") in [(wheel.name, wheel.version) for wheel in found.wheels]


def test_another_python_takes_wheels_for_that_python(index, requirements, tmp_path):
    make_wheel(index, "delta", "1.0", tag="cp312-none-any")
    requirements.write_text("delta\n")
    other = "3.12" if RUNNING != "3.12" else "3.13"
    found = read(collect(requirements, tmp_path / "cache", other, lambda _: None))
    assert [wheel.file for wheel in found.wheels] == ["delta-1.0-cp312-none-any.whl"]
    assert found.python_version == other


def test_an_impossible_requirement_is_reported_with_pips_words_and_leaves_nothing(index, requirements, tmp_path):
    requirements.write_text("alpha==9.9\n")
    with pytest.raises(RequirementsError, match=r"alpha==9\.9"):
        collect(requirements, tmp_path / "cache", RUNNING, lambda _: None)
    assert [path.suffix for path in (tmp_path / "cache" / "wheelhouses").iterdir()] == [".lock"]


def test_a_damaged_wheelhouse_is_gathered_again(index, requirements, tmp_path):
    folder = collect(requirements, tmp_path / "cache", RUNNING, lambda _: None)
    (folder / "alpha-1.0-py3-none-any.whl").write_bytes(b"cut")
    with pytest.raises(BrokenWheelhouseError):
        read(folder)
    assert len(read(collect(requirements, tmp_path / "cache", RUNNING, lambda _: None)).wheels) == 2


def test_a_list_that_names_files_elsewhere_is_refused(tmp_path):
    listed = {"file": "../../etc/passwd", "name": "x", "version": "1", "sha256": "0", "bytes": 1}
    (tmp_path / "wheels.json").write_text(json.dumps({"schema": "monai-aws/wheelhouse/1", "python": "3.11", "wheels": [listed]}))
    with pytest.raises(BrokenWheelhouseError):
        read(tmp_path)


def test_the_key_changes_with_what_decides_and_with_nothing_else(requirements):
    key = wheelhouse_key(requirements, "3.11", "a")
    requirements.write_text("# another comment\n\nalpha\n")
    assert wheelhouse_key(requirements, "3.11", "a") == key
    assert wheelhouse_key(requirements, "3.12", "a") != key
    assert wheelhouse_key(requirements, "3.11", "b") != key
    (requirements.parent / "constraints.txt").write_text("alpha==1.0\n")
    assert wheelhouse_key(requirements, "3.11", "a") != key


def test_addresses_with_credentials_do_not_reach_the_log(index, requirements, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", f"{index} https://user:planted-secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "1")
    requirements.write_text("nothing-like-this\n")
    lines: list[str] = []
    with pytest.raises(RequirementsError) as caught:
        collect(requirements, tmp_path / "cache", RUNNING, lines.append)
    assert "planted-secret" not in " ".join([*lines, str(caught.value)])


@pytest.mark.parametrize("version", ["3", "2.7", "3.11.4", "3.11; rm"])
def test_a_python_version_of_another_form_is_refused(version, requirements, tmp_path):
    with pytest.raises(WheelhouseError):
        collect(requirements, tmp_path, version, lambda _: None)


def test_a_missing_requirements_file_says_what_belongs_there(tmp_path):
    with pytest.raises(RequirementsError, match=r"requirements\.txt"):
        collect(tmp_path / "requirements.txt", tmp_path, RUNNING, lambda _: None)


def test_a_long_silence_of_pip_still_gives_a_sign_of_life(monkeypatch):
    monkeypatch.setattr(wheelhouse, "_HEARTBEAT_S", 0.05)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.4); print('x')"], stdout=subprocess.PIPE, text=True) as process:
        seen = list(wheelhouse._lines_with_pauses(process.stdout))
    assert seen.count(None) >= 2
    assert [line for line in seen if line] == ["x\n"]
