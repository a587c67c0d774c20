"""Which test files count as run: those whose tests have all passed, in a session that left none out."""

from __future__ import annotations

import pytest

from tests.permissions import passed
from tests.permissions.record import ROOT

pytest_plugins = ["pytester"]

WHOLE = "tests/e2e/test_whole.py"
TESTS = ("tests/e2e", "tests/integration", "tests/fidelity")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of four test files, two of which pass whole, one of these a unit test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # processes of xdist load the plugin too
    for name, body in {
        WHOLE: "def test_one(): pass\ndef test_two(): pass\n",
        "tests/integration/test_skips.py": "import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('no root')\n",
        "tests/fidelity/test_other.py": "def test_one(): pass\n",
        "tests/unit/test_unit.py": "def test_one(): pass\n",
    }.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True)
        path.write_text(body)
    return pytester


@pytest.mark.parametrize(
    ("arguments", "noted", "begun"),
    [
        (("tests",), {WHOLE, "tests/fidelity/test_other.py"}, [False]),
        ((*TESTS, "tests/unit"), {WHOLE, "tests/fidelity/test_other.py"}, [True]),
        ((WHOLE, "-n", "1", "--dist", "loadfile"), {WHOLE}, [False]),
        ((WHOLE, "-k", "one"), set(), []),
        ((f"{WHOLE}::test_one",), set(), []),
        (("tests", "--collect-only"), set(), []),
    ],
)
def test_a_file_counts_when_all_of_its_tests_have_passed(
    arguments: tuple[str, ...], noted: set[str], begun: list[bool], project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    names: set[str] = set()
    runs: list[bool] = []
    monkeypatch.setattr(passed, "note_passed", names.update)
    monkeypatch.setattr(passed, "begin", lambda *, whole: runs.append(whole))
    project.runpytest_inprocess("-p", "tests.permissions.passed", "-p", "no:cacheprovider", *arguments)
    assert (names, runs) == (noted, begun)


@pytest.mark.parametrize(
    ("arguments", "noted"),
    [((), {"tests/fidelity/test_other.py", WHOLE}), (("-m", "long"), {f"{WHOLE} -m long"}), (("-m", "not x"), set())],
)
def test_the_long_tests_of_a_file_count_for_themselves(
    arguments: tuple[str, ...], noted: set[str], project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    names: set[str] = set()
    monkeypatch.setattr(passed, "note_passed", names.update)
    monkeypatch.setattr(passed, "begin", lambda *, whole: None)
    project.makeini("[pytest]\naddopts = -m 'not long'\nmarkers =\n  long: minutes\n")
    long = "import pytest\n@pytest.mark.long\ndef test_long(): pass\n"
    (project.path / WHOLE).write_text(f"{long}def test_one(): pass\n")
    project.runpytest_inprocess("-p", "tests.permissions.passed", "-p", "no:cacheprovider", *arguments, *TESTS)
    assert names == noted


def test_a_session_with_a_failure_proves_nothing(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    names: set[str] = set()
    monkeypatch.setattr(passed, "note_passed", names.update)
    monkeypatch.setattr(passed, "begin", lambda *, whole: None)
    (project.path / "tests/e2e/test_fails.py").write_text("def test_one(): assert False\n")
    project.runpytest_inprocess("-p", "tests.permissions.passed", "-p", "no:cacheprovider", "-x", *TESTS)
    assert names == set()
