"""axe-core, which looks for what keeps people with disabilities out of a page: fetched by npm once, and used only if it is the pinned one.

Source: https://github.com/dequelabs/axe-core/blob/v4.10.3/doc/API.md.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from monai_aws_pipeline.settings import load_settings
from tests.support.browser import Page

VERSION: Final = "4.10.3"
INTEGRITY: Final = "sha512-Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg=="
"""As npm publishes it."""
SEVERE: Final = ("serious", "critical")


def severe(page: Page) -> list[str]:
    """What axe finds on the page that it calls serious or critical: rule, element, why."""
    page.js(f"void (() => {{ {_source()} }})()" if not page.js("typeof axe === 'object'") else "0")
    found: dict[str, Any] = page.js(
        "axe.run(document, {resultTypes: ['violations']}).then(({violations, passes}) => ({violations, passes: passes.length}))"
    )
    assert found["passes"] > 10, "axe has looked at nothing"
    return [
        f"{each['id']} {node['target']}: {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in SEVERE
        for node in each["nodes"]
    ]


def _source() -> str:
    archive = load_settings().cache_dir / "axe" / f"axe-core-{VERSION}.tgz"
    if not archive.exists():
        _fetch(archive)
    hashed = f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
    assert hashed == INTEGRITY, f"{archive} is not the axe-core that is pinned"
    with tarfile.open(archive) as files:
        member = files.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def _fetch(archive: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("no npm is installed here, which fetches axe-core")
    archive.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "pack", f"axe-core@{VERSION}", "--silent"], cwd=archive.parent, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        pytest.skip(f"npm cannot fetch axe-core: {done.stderr[-300:]}")
