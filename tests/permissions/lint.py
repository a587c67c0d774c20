"""The policy linter of ``make lint``: the policies of infra/bootstrap.yaml against AWS's published tables and its limits of size.

``make permissions`` judges more, but needs the calls of a whole test run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.permissions.judge import static_findings
from tests.permissions.policies import documents, roles

# Source: IAM User Guide, "IAM and AWS STS quotas": characters without white space.
MANAGED: Final = 6144
OF_A_ROLE: Final = 10240
LONGEST_NAME: Final = 20
"""A deployment's own names are longer than the variables that stand for them, by so many characters each at most."""


def main() -> int:
    """Say what is wrong; returns the exit code."""
    found = [f"{name}: {line}" for name, role in roles().items() for line in static_findings(role.statements)] + too_large(documents())
    sys.stdout.write("".join(f"infra/bootstrap.yaml: {line}\n" for line in found) or "The policies are in order.\n")
    return 1 if found else 0


def too_large(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The policies, by the name of their resource in the template, that AWS would refuse for their size."""
    lines = []
    for name, policies in found.items():
        limit = MANAGED if name.startswith("Operator") and name != "OperatorRole" else OF_A_ROLE
        text = json.dumps(policies, separators=(",", ":"))
        size = len(text) + LONGEST_NAME * text.count("${")
        if size > limit:
            lines.append(f"{name}: its policy may have {size} characters; AWS takes {limit}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
