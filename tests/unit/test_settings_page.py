"""docs/settings.md lists every setting as it is. When one changes: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/test_settings_page.py"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from monai_aws_pipeline.settings import PROJECT_ROOT, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
HEAD = """# Settings

Read from environment variables and from a file `.env` in the project folder, validated all at once: a wrong one is reported by name, value
and remedy. Credentials are not settings; they come from the AWS SDK's own chain (environment, profile, instance role), and so does the
endpoint (`AWS_ENDPOINT_URL`). Times are in the unit that the name says.

`MONAI_AWS_MONTHLY_BUDGET_USD` is read by `monai-aws bootstrap` alone, and of `MONAI_AWS_PHI_POLICY` only `allow` is taken, because no other
policy is applied yet.

This page is written by a test from `monai_aws_pipeline/settings.py`.

| Variable | Default | Allowed | Meaning |
|---|---|---|---|
"""


def row(name: str, field: FieldInfo) -> str:
    return f"| `MONAI_AWS_{name.upper()}` | {default(field)} | {allowed(field)} | {cell(field.description or '')} |"


def default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, Path):
        value = value.relative_to(PROJECT_ROOT)
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{cell(str(value))}`" if str(value) else "(empty)"


def allowed(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = {name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)}
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{signs[name]} {number(value)}" for name, value in limits.items())


def number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_page_lists_every_setting_as_it_is():
    page = HEAD + "\n".join(row(name, field) for name, field in Settings.model_fields.items()) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def test_every_setting_says_what_it_means():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
