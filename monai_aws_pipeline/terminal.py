"""The terminal: what users, AWS and machines wrote appears there letter by letter.

Here belongs how rich is set up, once. Left to itself it reads words in square brackets as styles and turns words between colons into
pictures, the ``:secret:`` of every secret's ARN among them. A style is given beside a text (``style=``, ``Text``), never within it.
"""

from __future__ import annotations

from rich.console import Console


def literal_console(width: int | None = None) -> Console:
    """Standard output. ``width`` in characters; None: the terminal's own."""
    return Console(highlight=False, markup=False, emoji=False, width=width)
