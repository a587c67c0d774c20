"""What the tests of the behaviours showed, as build/fidelity.json says it. Pure: the pytest side is in conftest.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("embedded", "handled")


@dataclass(frozen=True)
class Outcome:
    """How one phase of one test ended: ``passed``, ``failed`` or ``skipped``."""

    behaviour: str
    kind: str
    outcome: str


def kind_of(test: str) -> str:
    """``embedded`` or ``handled``, by how the test's name ends (parameters left out). Raises ValueError for a name that says neither."""
    name = test.partition("[")[0]
    for kind in KINDS:
        if name.endswith(f"_{kind}"):
            return kind
    raise ValueError(f"{test} shows a behaviour: let its name end in {' or '.join(f'_{kind}' for kind in KINDS)}")


def summary(sources: Mapping[str, str], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """The content of fidelity.json. A kind is true where a test of it passed and none failed; whatever is not true is failing."""
    ended: dict[tuple[str, str], set[str]] = {}
    for each in outcomes:
        ended.setdefault((each.behaviour, each.kind), set()).add(each.outcome)

    def holds(behaviour: str, kind: str) -> bool:
        seen = ended.get((behaviour, kind), set())
        return "passed" in seen and "failed" not in seen

    behaviours = [{"id": name, "source": source, **{kind: holds(name, kind) for kind in KINDS}} for name, source in sources.items()]
    failing = [each["id"] for each in behaviours if not all(each[kind] for kind in KINDS)]
    return {"behaviours": behaviours, "count": len(behaviours), "failing": failing}
