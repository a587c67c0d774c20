"""docs/operations.md lists every code of a quarantined study.

When one changes: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/test_operations_page.py
"""

from __future__ import annotations

import os
from pathlib import Path

from monai_aws_pipeline.host_agent.errors import REMEDIES, Code

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
START = "<!-- codes: written by tests/unit/test_operations_page.py -->\n"
END = "<!-- /codes -->"


def table() -> str:
    rows = [f"| `{code}` | {REMEDIES[code]} |" for code in Code]
    return "\n".join(["| Code | What to do |", "|---|---|", *rows]) + "\n"


def test_the_page_lists_every_code_with_its_remedy():
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    page = f"{before}{START}\n{table()}\n{END}{after}"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page
