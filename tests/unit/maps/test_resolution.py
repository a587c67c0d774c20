"""pip is really asked, about wheels made by hand; an index that is out of reach is a port where nothing listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import resolution
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.resolution import Answer, Question
from tests.unit.maps.wheels import make_wheel, pip_knows


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels that pip knows: alpha in two versions, of which the newer wants an old gamma, and one that is for another system."""
    packages = tmp_path / "packages"
    packages.mkdir()
    make_wheel(packages, "alpha", "1.0")
    make_wheel(packages, "alpha", "2.0", requires="gamma<2")
    make_wheel(packages, "gamma", "1.5")
    make_wheel(packages, "gamma", "2.0")
    make_wheel(packages, "elsewhere", "1.0", tag="cp312-cp312-win_amd64")
    make_wheel(packages, "native", "1.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    pip_knows(monkeypatch, packages)
    return tmp_path


def answer(place: Path, *requirements: str, constraints: tuple[str, ...] = (), wheels_only: bool = True) -> Answer:
    return resolution.ask(Question(requirements, constraints, "3.12", wheels_only), place / "cache")


def ask(place: Path, *requirements: str, constraints: tuple[str, ...] = (), wheels_only: bool = True) -> list[Finding]:
    return list(answer(place, *requirements, constraints=constraints, wheels_only=wheels_only).findings)


def only(place: Path, *requirements: str, constraints: tuple[str, ...] = (), wheels_only: bool = True) -> Finding:
    (found,) = ask(place, *requirements, constraints=constraints, wheels_only=wheels_only)
    assert found.point == "requirements"
    assert found.remedy
    return found


def test_requirements_that_go_together_hear_nothing_and_nothing_is_installed(place: Path):
    assert ask(place, "alpha==2.0", "gamma", "native==1.0") == [], "also for another Python and system than this one's"
    assert ask(place) == []
    assert not [path for path in place.rglob("*") if path.suffix == ".py"]


def test_an_answer_is_kept_and_another_question_is_asked(place: Path, monkeypatch: pytest.MonkeyPatch):
    assert ask(place, "alpha==2.0", "gamma") == []

    def refuse(*_: object) -> None:
        raise AssertionError("pip was asked")

    monkeypatch.setattr(resolution, "_pip", refuse)
    said: list[str] = []
    question = Question(("gamma", "alpha==2.0"), (), "3.12", wheels_only=True)
    assert resolution.ask(question, place / "cache", report=said.append).findings == ()
    assert said == [], "nobody is told to wait for what is known"
    with pytest.raises(AssertionError, match="pip was asked"):
        ask(place, "alpha==1.0", "gamma")


def test_versions_that_exclude_each_other_are_named(place: Path):
    found = only(place, "alpha==2.0", "gamma==2.0")
    assert found.severity is Severity.ERROR
    assert "alpha 2.0 depends on gamma<2" in found.message


def test_a_constraint_takes_part(place: Path):
    found = only(place, "alpha==2.0", constraints=("gamma==2.0",))
    assert found.severity is Severity.ERROR
    assert "constraint" in found.message


@pytest.mark.parametrize("wanted", ["alpha==9.9", "nothing-of-that-name", "elsewhere==1.0"])
def test_what_there_is_not_is_an_error_where_wheels_are_gathered(place: Path, wanted: str):
    found = only(place, wanted)
    assert found.severity is Severity.ERROR
    assert wanted in found.message


def test_the_versions_that_there_are_are_shown(place: Path):
    assert "2.0, 1.0" in only(place, "alpha==9.9").message


def test_a_machine_whose_pip_has_no_index_does_not_decide_for_another(place: Path):
    assert only(place, "nothing-of-that-name", wheels_only=False).severity is Severity.WARNING


def test_a_package_that_is_only_a_source_is_a_warning_unless_wheels_are_wanted(place: Path):
    (place / "packages" / "delta-1.0.tar.gz").write_bytes(b"never opened")
    found = only(place, "delta==1.0", wheels_only=False)
    assert (found.severity, "only a source" in found.message) == (Severity.WARNING, True)
    assert only(place, "delta==1.0").severity is Severity.ERROR


def test_what_would_be_installed_is_said_with_what_the_requirements_bring_along(place: Path):
    first = answer(place, "alpha==2.0")
    assert (first.packages, first.whole) == ({"alpha": "2.0", "gamma": "1.5"}, True)
    assert answer(place, "alpha==2.0").packages == first.packages, "also where the answer was kept"


def test_a_package_that_is_only_a_source_hides_no_conflict_of_the_others(place: Path):
    (place / "packages" / "delta-1.0.tar.gz").write_bytes(b"never opened")
    source, conflict = ask(place, "delta==1.0", "alpha==2.0", "gamma==2.0", wheels_only=False)
    assert "only a source" in source.message
    assert "alpha 2.0 depends on gamma<2" in conflict.message
    assert (source.severity, conflict.severity) == (Severity.WARNING, Severity.ERROR)


def test_a_source_that_another_package_requires_hides_no_conflict_either(place: Path):
    (place / "packages" / "delta-1.0.tar.gz").write_bytes(b"never opened")
    make_wheel(place / "packages", "epsilon", "1.0", requires="delta>=1")
    make_wheel(place / "packages", "zeta", "1.0", requires="gamma>=2")
    found = [each.message for each in ask(place, "epsilon==1.0", "alpha==2.0", "zeta==1.0", wheels_only=False)]
    assert ["only a source" in found[0], "gamma<2" in found[1], len(found)] == [True, True, 2]


def test_each_name_that_there_is_not_is_said_and_not_the_first_alone(place: Path):
    found = [each.message for each in ask(place, "alpha==9.9", "nothing-of-that-name", "gamma==2.0")]
    assert ["alpha==9.9" in found[0], "nothing-of-that-name" in found[1], len(found)] == [True, True, 2]


def test_what_stands_in_for_a_source_is_no_whole_answer_and_is_not_kept(place: Path):
    (place / "packages" / "delta-1.0.tar.gz").write_bytes(b"never opened")
    found = answer(place, "delta==1.0", "gamma", wheels_only=False)
    assert (found.packages, found.whole) == ({"delta": "1.0", "gamma": "2.0"}, False)
    assert answer(place, "delta==1.0", "gamma", wheels_only=False).findings == found.findings


def test_an_index_out_of_reach_is_a_warning_without_its_address(place: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", address)
    found = only(place, "beta==1.0")
    assert (found.severity, "did not reach" in found.message) == (Severity.WARNING, True)
    assert "127.0.0.1" not in str(found)


def test_pip_may_not_take_for_ever(place: Path):
    (found,) = resolution.ask(Question(("alpha",), (), "3.12"), place / "cache", seconds=0.01).findings
    assert (found.severity, "no answer within" in found.message) == (Severity.WARNING, True)


def test_a_pip_that_does_not_understand_is_a_warning(place: Path):
    (found,) = resolution.ask(Question(("alpha",), ("alpha[extra]==1.0",), "3.12"), place / "cache").findings
    assert (found.severity, "could not be asked" in found.message) == (Severity.WARNING, True)


def test_whoever_waits_for_pip_is_told_each_time_it_is_asked(place: Path):
    said: list[str] = []
    resolution.ask(Question(("elsewhere==1.0", "gamma"), (), "3.12", wheels_only=True), place / "cache", report=said.append)
    assert [line.partition(" (")[0] for line in said] == [
        "asking pip whether the requirements can be met",
        "asking the package index which versions of elsewhere there are",
        "asking pip whether the others can be met, without elsewhere",
    ]
