"""How long work tells what it does: a line at a time, to whoever shows or keeps it."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]
"""Takes one line, without its end. Never raises."""
