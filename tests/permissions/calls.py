"""What the tests called: the records of their embedded clouds, read back and put together by role."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.permissions.policies import Statement


@dataclass(frozen=True)
class Call:
    """One kind of call on one resource. ``keys``: condition keys that the role's policies name, with the call's values."""

    action: str
    resource: str
    keys: Mapping[str, Any]
    allowed: bool
    statements: tuple[Statement, ...]
    """All statements of the role at that time, rendered."""


def read(files: Iterable[Path], versions: Mapping[str, str]) -> dict[str, list[Call]]:
    """The calls of each role that the template makes, by the last part of its name; other roles' are not ours to judge.

    ``versions``: of the roles' statements, by name. Calls that were judged by others are left out.
    """
    ours = re.compile(rf"monai-aws-[a-z0-9-]+?-({'|'.join(map(re.escape, versions))})")
    found: dict[str, list[Call]] = {}
    for path in files:
        statements: dict[str, tuple[Statement, ...]] = {}
        current: set[str] = set()
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "versions" in entry:
                current = {name for name, version in entry["versions"].items() if versions.get(name) == version}
            elif "policies" in entry:
                statements[entry["role"]] = tuple(Statement.read(written) for written in entry["policies"])
            elif (role := ours.fullmatch(entry["role"])) and role[1] in current:
                call = Call(entry["action"], entry["resource"], entry["keys"], entry["allowed"], statements[entry["role"]])
                found.setdefault(role[1], []).append(call)
    return found
