"""The terminal: what users, AWS and machines wrote appears there letter by letter, and an identifier is never cut in two.

Here belongs how rich is set up, once: left to itself it reads words in square brackets as styles and turns words between colons into
pictures, the ``:secret:`` of every secret's ARN among them. A style is given beside a text (``style=``, ``Text``), never within it. And
the one way in which a table is shown, because whoever reads an id in a table copies it, and the bar of what is on its way.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import HEAVY_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import DownloadColumn, Progress
from rich.table import Table
from rich.text import Text

_BORDER = 3
"""Characters that a column takes beside its text: a space on each side, and a line."""


def literal_console(width: int | None = None) -> Console:
    """Standard output. ``width`` in characters; None: the terminal's own."""
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: side by side where the terminal has room for every word, otherwise one value below the other.

    Words are never broken. A word that is longer than the terminal stands on a line of its own, which the terminal may break where it shows
    it and gives back whole. Without a terminal (a pipe, a file) each row is one line, however long.
    """
    cells = [[_plain(cell, one_line=not console.is_terminal) for cell in row] for row in rows]
    widths = _widths(columns, cells, console.width if console.is_terminal else None)
    console.print(Text(title, style="italic"), soft_wrap=True)
    if widths:
        _print_wide(console, columns, cells, widths)
    else:
        _print_stacked(console, columns, cells)


def _plain(cell: str, *, one_line: bool) -> str:
    return " ".join(cell.split()) if one_line else cell


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int | None) -> list[int] | None:
    """Characters for each column: its longest line, or less down to its longest word; None where even the words do not fit."""
    texts = [[name, *(row[number] for row in cells)] for number, name in enumerate(columns)]
    longest = [max(cell_len(line) for text in column for line in [*text.splitlines(), ""]) for column in texts]
    if width is None:
        return longest
    left = width - _BORDER * len(columns) - 1
    given = [max(cell_len(word) for text in column for word in [*text.split(), ""]) for column in texts]
    if (left := left - sum(given)) < 0:
        return None
    order = sorted(range(len(columns)), key=lambda number: longest[number] - given[number])
    for place, number in enumerate(order):  # the one that lacks least first, so that short columns are whole
        more = min(longest[number] - given[number], left // (len(columns) - place))
        given[number] += more
        left -= more
    return given


def _print_wide(console: Console, columns: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    table = Table(box=HEAVY_HEAD, width=sum(widths) + _BORDER * len(columns) + 1)
    for name, width in zip(columns, widths, strict=True):
        table.add_column(Text(name), width=width, overflow="fold")  # every word fits, so nothing is folded
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table, soft_wrap=True, width=table.width)


def _print_stacked(console: Console, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    label = max(map(cell_len, columns)) + 2
    wrap = textwrap.TextWrapper(max(console.width - label, 1), break_long_words=False, break_on_hyphens=False)
    for row in cells:
        console.print()
        for name, cell in zip(columns, row, strict=True):
            lines = [line for paragraph in cell.splitlines() for line in wrap.wrap(paragraph)]
            for number, line in enumerate(lines):
                console.print(Text.assemble((("" if number else name).ljust(label), "bold"), line), soft_wrap=True)


@contextmanager
def progress_bar(console: Console, total: int, what: str) -> Iterator[Callable[[int], object] | None]:
    """A bar of bytes on a terminal; nothing in a log. boto3 calls the function from its own threads, which rich allows."""
    if not console.is_terminal:
        yield None
        return
    with Progress(*Progress.get_default_columns(), DownloadColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
