"""What others wrote is shown as they wrote it, and no word of it is cut."""

from __future__ import annotations

import ast
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.terminal import literal_console, print_table

TEXTS = [
    "arn:aws:secretsmanager:us-east-1:123456789012:secret:monai-aws/dev/study-key-AbCdEf",
    "a key :lock: in [bold]brackets[/bold]",
    "[/no] opening",
]


@pytest.mark.parametrize("text", TEXTS)
def test_words_between_colons_are_no_pictures_and_brackets_no_styles(text: str, capsys: pytest.CaptureFixture[str]):
    console = literal_console(width=200)
    console.print(text, soft_wrap=True)
    console.print(text, style="bold")
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    assert capsys.readouterr().out.count(text) == 5


COLUMNS = ("host", "state", "digest", "what to do")
HOST, DIGEST = "i-0123456789abcdef0", f"sha256:{'0123456789abcdef' * 4}"
ADVICE = "Materialise inference_host, and look at arn:aws:kms:us-east-1:123456789012:key/0f-1e [whole] :key: afterwards."
ROWS = [(HOST, "stopped", DIGEST, ADVICE), ("i-0fedcba9876543210", "", "", "")]
WIDTHS = [40, 80, 120, 200]


def printed(width: int, *, terminal: bool = True, columns: tuple[str, ...] = COLUMNS, rows: list[tuple[str, ...]] = ROWS) -> list[str]:
    screen = io.StringIO()
    console = Console(
        file=screen, width=width, force_terminal=terminal, color_system=None, highlight=False, markup=False, emoji=False, _environ={}
    )
    print_table(console, "hosts", columns, rows)
    return screen.getvalue().splitlines()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_cut_however_wide_the_terminal_is(width: int):
    words = " ".join(printed(width)).split()
    assert {HOST, DIGEST, *ADVICE.split()} <= set(words)


@pytest.mark.parametrize("width", WIDTHS)
def test_only_a_word_that_is_longer_than_the_terminal_leaves_it(width: int):
    long = [word for word in (DIGEST, *ADVICE.split()) if len(word) > width - len("what to do  ")]
    wide = [line for line in printed(width) if cell_len(line.rstrip()) > width]
    assert all(any(line.endswith(word) for word in long) for line in wide)


def test_what_fits_side_by_side_stands_so_and_what_does_not_is_stacked():
    assert any(all(name in line for name in COLUMNS) for line in printed(200))
    assert any(HOST in line and DIGEST in line for line in printed(200))
    assert [line.split() for line in printed(40) if DIGEST in line] == [["digest", DIGEST]]
    assert ["host", HOST] in [line.split() for line in printed(80)]
    assert not any("state" in line for line in printed(40)[-2:]), "what has no value is left out of a stack"


@pytest.mark.parametrize("width", WIDTHS)
def test_without_a_terminal_a_row_is_one_line(width: int):
    (line,) = (line for line in printed(width, terminal=False, rows=[(HOST, "stopped", DIGEST, f"first\n{ADVICE}")]) if HOST in line)
    assert f"first {ADVICE}" in line
    assert DIGEST in line


WORD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=90)
CELL = st.lists(WORD, max_size=6).map(" ".join)


@given(st.integers(20, 220), st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=4))
def test_whatever_the_cells_hold_each_word_is_there_whole(width: int, rows: list[tuple[str, ...]]):
    for terminal in (True, False):
        shown = printed(width, terminal=terminal, columns=("one", "two", "three"), rows=rows)
        seen = {word for line in shown for word in line.split()}
        assert {word for row in rows for cell in row for word in cell.split()} <= seen


def test_every_table_is_shown_that_way():
    for path in (PROJECT_ROOT / "monai_aws_pipeline").rglob("*.py"):
        imported = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert "rich.table" not in imported or path.name == "terminal.py", path
