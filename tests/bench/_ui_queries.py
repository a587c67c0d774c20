"""The GraphQL queries that Dagster's own pages send, read from the pages as they are installed: no copy that can be out of date."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import dagster_webserver

PAGES = Path(dagster_webserver.__file__).parent / "webapp" / "build" / "_next" / "static" / "chunks"
_DEFINITION = re.compile(r"(query|fragment) (\w+)(\([^)]*\))?(?: on \w+)? \{")
_SPREAD = re.compile(r"\.\.\.(\w+)")


def ui_query(name: str, pages: Path = PAGES) -> str:
    """A query by its name, with every fragment that it needs. Raises KeyError where the pages have none of that name."""
    known = _definitions(pages)
    wanted, document = [name], {}
    while wanted:
        each = wanted.pop()
        if each not in document:
            document[each] = known[each]
            wanted += _SPREAD.findall(known[each])
    return "\n".join(document.values())


@cache
def _definitions(pages: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(pages.rglob("*.js")):
        text = file.read_text("utf-8")
        for match in _DEFINITION.finditer(text):
            found.setdefault(match[2], _braced(text, match).replace("\\n", "\n"))
    return found


def _braced(text: str, match: re.Match[str]) -> str:
    """From the first word to the brace that closes the one at its end."""
    depth, end = 1, match.end()
    while depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[match.start() : end]
