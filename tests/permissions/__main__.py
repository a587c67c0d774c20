"""Holds what the tests called against infra/bootstrap.yaml: ``make permissions``, after ``make test`` and ``make faults``.

Writes ``build/iam-report.json``: ``{whole, roles: {NAME: {used, unused, explained, denied, findings}}}``. A call that no statement allows
is wrong whichever tests made it; that nothing calls what a statement allows is known only when all of them have run.
Exit codes: 0 all in order; 1 a call had no allowing statement, nothing called what a statement allows and no reason is written for it, or
AWS's tables speak against it; 2 not all tests have run, so that it cannot be said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict

from tests.permissions.calls import read
from tests.permissions.judge import Verdict, judge
from tests.permissions.policies import roles
from tests.permissions.record import ROOT, files, not_passed
from tests.permissions.refused_on_purpose import REFUSED

REPORT = ROOT / "build" / "iam-report.json"


def main() -> int:
    """Judge every role; returns the exit code."""
    found = dict(sorted(roles().items()))
    called = read(files(), {name: role.version for name, role in found.items()})
    verdicts = {name: judge(role, called, REFUSED.get(name, ())) for name, role in found.items()}
    missing = sorted({test for name, role in found.items() for test in not_passed(name, role.version)})
    code, text = summary(verdicts, missing)
    REPORT.parent.mkdir(exist_ok=True)
    report = {"whole": not missing, "roles": {name: asdict(verdict) for name, verdict in verdicts.items()}}
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(f"{text}\nReport: {REPORT.relative_to(ROOT)}\n")
    return code


def summary(verdicts: Mapping[str, Verdict], missing: list[str]) -> tuple[int, str]:
    """The exit code and what is shown. ``missing``: test files that have not passed whole since the statements are what they are."""
    lines = [f"{'role':16}{'used':>6}{'unused':>8}{'explained':>11}{'denied':>8}{'findings':>10}"]
    for name, verdict in verdicts.items():
        unused = "?" if missing else len(verdict.unused)
        counts = f"{len(verdict.used):>6}{unused:>8}{len(verdict.explained):>11}{len(verdict.denied):>8}{len(verdict.findings):>10}"
        lines.append(f"{name:16}{counts}")
    wrong = [
        f"{name}: {what}: {line}"
        for name, verdict in verdicts.items()
        for what, found in (("denied", verdict.denied), ("finding", verdict.findings), ("unused", () if missing else verdict.unused))
        for line in found
    ]
    lines += wrong
    if missing:
        lines += [
            "What is unused cannot be said: only whole runs of make test and make faults show it.",
            "These have not passed with the policies as they are:",
            *(f"  {name}" for name in missing),
        ]
    if not (wrong or missing):
        lines.append("All in order: every call is allowed, and every permission is called or has its reason.")
    return (1 if wrong else 2 if missing else 0), "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
