"""``python -m tests.gpu`` run for real: warm servers in namespaces, with an application of a few lines that does what its study tells it.

The card and its driver are stand-ins here: a library that counts what each living process holds, and a program that adds it up.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gpu.__main__ import main
from tests.support.studies import zip_of

APPLICATION = """
import os, sys
from pathlib import Path
source, output = Path(os.environ["HOLOSCAN_INPUT_PATH"]), Path(os.environ["HOLOSCAN_OUTPUT_PATH"])
calls = Path(os.environ["HOLOSCAN_MODEL_PATH"]).with_name("calls")
with calls.open("a") as file:
    file.write("x")
call = calls.stat().st_size
exec((source / "000000.dcm").read_text())
"""
ANSWERS = "(output / 'answer.json').write_text('42')"

LIBRARY = """
import fcntl, os, tempfile
CARD, TOTAL = {card!r}, 1 << 30
uint8, mine = None, None

def used():
    found = 0
    for name in os.listdir(CARD):
        with open(os.path.join(CARD, name)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # can be had where its holder has ended
            except BlockingIOError:
                found += os.fstat(file.fileno()).st_size
    return found

def zeros(size, dtype, device):
    global mine
    if mine is None:
        mine = tempfile.NamedTemporaryFile(dir=CARD, delete=False)
        fcntl.flock(mine, fcntl.LOCK_EX)
    if used() + size > TOTAL:
        raise RuntimeError("CUDA out of memory")
    mine.truncate(os.fstat(mine.fileno()).st_size + size)
"""
DRIVER = """#!{python}
import sys, time
sys.path.insert(0, {library!r})
import torch
if "--query-gpu=memory.total" in sys.argv:
    print(torch.TOTAL >> 20)
elif "--query-gpu=memory.used" in sys.argv:
    print(torch.used() >> 20)
else:
    time.sleep(600)
"""

Try = Callable[..., int]


@pytest.fixture
def attempt(tmp_path: Path) -> Try:
    """Runs it with an application and a study that tells it what to do; the exit code."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a process namespace of one's own needs root, and unshare")
    (tmp_path / "standin").mkdir()
    (tmp_path / "standin" / "__main__.py").write_text(APPLICATION)
    (tmp_path / "model").touch()

    def run(wish: str, *options: str, python: str = sys.executable) -> int:
        (tmp_path / "study.zip").write_bytes(zip_of({"wish": wish.encode()}))
        brought = ["--app", str(tmp_path / "standin"), "--model", str(tmp_path / "model"), "--study", str(tmp_path / "study.zip")]
        return main([python, "--studies", "2", *brought, *options])

    return run


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A card of 1 GiB, which its driver shows; the interpreter that has the library for it."""
    library, programs, held = tmp_path / "lib", tmp_path / "bin", tmp_path / "card"
    for folder in (library, programs, held):
        folder.mkdir()
    (library / "torch.py").write_text(LIBRARY.format(card=str(held)))
    for path, text in {
        programs / "nvidia-smi": DRIVER.format(python=sys.executable, library=str(library)),
        programs / "map-python": f'#!/bin/sh\nPYTHONPATH={library} exec {sys.executable} "$@"\n',
    }.items():
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return str(programs / "map-python")


def lines(printed: str) -> list[list[str]]:
    """The words of each line, less what a table draws."""
    return [[word for word in line.split() if word.strip("┃│┏━┡┗└─┴┛╇┳┓┩┘")] for line in printed.splitlines()]


def test_a_row_for_each_number_and_equal_outputs_are_shown(attempt: Try, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert attempt(ANSWERS, "--cpu", "--at-once", "1,2", "--json", str(tmp_path / "figures.json")) == 0
    printed = capsys.readouterr().out
    shown = lines(printed)
    assert ["application", "at", "once", "studies", "seconds", "a", "minute", "gain", "failed", "GPU", "MiB"] in shown
    (one, two) = (line for line in shown if line[:1] == ["standin"])
    assert (one[1:3], one[5:]) == (["1", "2"], ["1.0", "0", "-"])
    assert (two[1:3], two[6:]) == (["2", "2"], ["0", "-"])
    assert printed.splitlines()[-1] == "standin: outputs are equal"
    (written,) = json.loads((tmp_path / "figures.json").read_text())
    assert [[str(figures["at_once"]), str(figures["seconds"])] for figures in written["rows"]] == [[one[1], one[3]], [two[1], two[3]]]
    assert (written["unlike"], written["wrong"]) == ([], [])


def test_an_output_that_is_another_one_is_named_and_ends_it_with_1(attempt: Try, capsys: pytest.CaptureFixture[str]):
    assert attempt("(output / 'answer.json').write_text(str(call))", "--cpu", "--at-once", "1") == 1
    assert "standin: outputs differ: " in capsys.readouterr().out


def test_a_study_that_fails_is_counted_in_its_row_and_ends_it_with_1(attempt: Try, capsys: pytest.CaptureFixture[str]):
    assert attempt(f"{ANSWERS}\nsys.exit(5 * (call == 3))", "--cpu", "--at-once", "1,2") == 1
    rows = [line for line in lines(capsys.readouterr().out) if line[:1] == ["standin"]]
    assert [line[6] for line in rows] == ["1", "0"], "the second of the first row, before which one study was answered"


def test_an_application_that_answers_nothing_is_told_with_its_last_words(attempt: Try, capsys: pytest.CaptureFixture[str]):
    assert attempt("sys.exit('no lungs in it')", "--cpu") == 1
    assert "exit code 1; it said last: no lungs in it" in capsys.readouterr().out


def test_equal_outputs_are_not_said_of_studies_that_wrote_nothing(attempt: Try, capsys: pytest.CaptureFixture[str]):
    assert attempt("pass", "--cpu", "--at-once", "1") == 1
    assert "wrote nothing" in capsys.readouterr().out


def test_a_study_beside_one_that_fills_the_card_fails_and_is_answered_alone(attempt: Try, card: str, capsys: pytest.CaptureFixture[str]):
    wish = f"import torch\ntorch.zeros(256 << 20, dtype=torch.uint8, device='cuda')\n{ANSWERS}"
    assert attempt(wish, "--at-once", "1,2", python=card) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "the study failed, and was answered when it had the card for itself; exit code 1" in last
    assert last.endswith("RuntimeError: CUDA out of memory")


def test_one_that_answers_although_the_card_is_full_ends_it_with_1(attempt: Try, card: str, capsys: pytest.CaptureFixture[str]):
    assert attempt(ANSWERS, "--at-once", "1", python=card) == 1
    assert "standin: on a full card it was answered" in capsys.readouterr().out


def test_a_card_that_is_not_full_shows_nothing_and_ends_it_with_1(
    attempt: Try, card: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    library = tmp_path / "lib" / "torch.py"
    library.write_text(library.read_text().replace("used() + size > TOTAL", "True"))
    assert attempt(ANSWERS, "--at-once", "1", python=card) == 1
    assert "the card could not be filled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--app", "one", "--model", "two"], "all three"),
        (["--study", "three"], "all three"),
        (["--app", "one", "--model", "two", "--study", "three", "--application", "brain"], "one of the two"),
        (["--at-once", "2,4"], "begins with 1"),
        (["--at-once", "1,two"], "begins with 1"),
        (["--at-once", "1,1"], "each once"),
        (["--studies", "0"], "1 at least"),
        (["--application", "liver"], "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(options: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([sys.executable, *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
