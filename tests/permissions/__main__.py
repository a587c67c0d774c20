"""Holds what the tests called against infra/bootstrap.yaml: ``make permissions``, after ``make test`` (and ``make faults``).

Writes ``build/iam-report.json``: ``{roles: {NAME: {used, unused, explained, denied, findings}}}``. Exit code 1 where a call had no allowing
statement, where nothing called what a statement allows and no reason is written for it, or where AWS's tables speak against it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from tests.permissions.calls import read
from tests.permissions.judge import Verdict, judge
from tests.permissions.policies import roles
from tests.permissions.record import ROOT, files
from tests.permissions.refused_on_purpose import REFUSED

REPORT = ROOT / "build" / "iam-report.json"


def main() -> int:
    """Judge every role; returns the exit code."""
    found = roles()
    records = files()
    if not records:
        sys.stderr.write("No calls are recorded for this infra/bootstrap.yaml. Run make test first.\n")
        return 2
    called = read(records, found)
    verdicts = {name: judge(role, called, REFUSED.get(name, ())) for name, role in sorted(found.items())}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps({"roles": {name: asdict(verdict) for name, verdict in verdicts.items()}}, indent=2) + "\n")
    for name, verdict in verdicts.items():
        _tell(name, verdict)
    wrong = any(verdict.denied or verdict.unused or verdict.findings for verdict in verdicts.values())
    sys.stdout.write(f"{'wrong' if wrong else 'all in order'}; {len(records)} records judged; {REPORT.relative_to(ROOT)}\n")
    return int(wrong)


def _tell(name: str, verdict: Verdict) -> None:
    counts = f"{len(verdict.used)} permissions used, {len(verdict.explained)} for a written reason"
    sys.stdout.write(f"{name}: {counts}, {len(verdict.unused)} unused, {len(verdict.denied)} calls denied\n")
    for what, lines in (("unused", verdict.unused), ("denied", verdict.denied), ("finding", verdict.findings)):
        for line in lines:
            sys.stdout.write(f"  {what}: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
