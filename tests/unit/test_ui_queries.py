"""``make bench BENCH=ui`` asks what Dagster's pages ask: the installed pages still have each of these queries, with all its fragments."""

from __future__ import annotations

import re

import pytest

from tests.bench._ui_queries import ui_query
from tests.bench.ui import asked


@pytest.mark.parametrize(("name", "variables"), asked(1000).values(), ids=asked(1000))
def test_a_query_of_the_pages_is_whole_and_takes_what_is_sent_along(name: str, variables: dict[str, object]):
    document = ui_query(name)
    assert document.startswith(f"query {name}(")
    assert set(re.findall(r"\.\.\.(\w+)", document)) == set(re.findall(r"fragment (\w+) on", document))
    assert document.count("{") == document.count("}")
    declared = dict(re.findall(r"\$(\w+): ([^\s,)]+)", document[: document.index("{")]))
    assert set(variables) <= set(declared)
    assert {each for each, kind in declared.items() if kind.endswith("!")} <= set(variables)


def test_a_query_that_the_pages_do_not_have_is_said():
    with pytest.raises(KeyError):
        ui_query("NoSuchQuery")
