"""Where the records of calls are kept between a test run and the report: one file an embedded cloud, and what ran whole.

A record opens with the version of each role's statements, which its calls were judged by: it is evidence for the roles that are still so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from monai_aws_pipeline.local_cloud.call_record import FILE
from monai_aws_pipeline.local_cloud.config import CloudConfig
from tests.permissions.policies import TEMPLATE, roles

ROOT = TEMPLATE.parents[1]
FOLDER = ROOT / "build" / "iam-calls"
TESTS = ("tests/e2e", "tests/integration", "tests/fidelity")
"""What shows together, by ``make test`` and their long ones by ``make faults``, which calls there are."""
LONG = " -m long"
"""What follows the name of a file whose long tests are meant."""
_HAS_LONG = "pytest.mark.long"
_IS_LONG = re.compile(r"^pytestmark = .*\bpytest\.mark\.long\b", re.MULTILINE)


def versions() -> dict[str, str]:
    """The versions of the template's roles as they are."""
    return {name: role.version for name, role in roles().items()}


def keep(config: CloudConfig, folder: Path = FOLDER) -> None:
    """Keep a cloud's record before its state is deleted."""
    record = config.state_dir / FILE
    if record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{config.state_dir.name}.jsonl").write_text(f"{json.dumps({'versions': versions()})}\n{record.read_text()}")


def files(folder: Path = FOLDER) -> list[Path]:
    """The records that are kept."""
    return sorted(folder.glob("*.jsonl"))


def note_passed(names: Iterable[str], folder: Path = FOLDER) -> None:
    """Note test files whose tests have all run and passed."""
    folder.mkdir(parents=True, exist_ok=True)
    now = versions()
    (folder / "passed.json").write_text(json.dumps({**_passed(folder), **dict.fromkeys(names, now)}, indent=1) + "\n")


def not_passed(role: str, version: str, folder: Path = FOLDER, root: Path = ROOT) -> list[str]:
    """Test files that have not passed whole since a role's statements are what they are, their long tests for themselves."""
    passed = _passed(folder)
    there = [name for each in TESTS for path in sorted((root / each).rglob("test_*.py")) for name in _asked_of(path, root)]
    return [name for name in there if passed.get(name, {}).get(role) != version]


def _asked_of(path: Path, root: Path) -> list[str]:
    name, text = str(path.relative_to(root)), path.read_text("utf-8")
    return [*([] if _IS_LONG.search(text) else [name]), *([f"{name}{LONG}"] if _HAS_LONG in text else [])]


def begin(*, whole: bool, folder: Path = FOLDER) -> None:
    """Before a test run: drop what is evidence no longer. ``whole``: all of it, for code too may have changed since."""
    now = versions().items()
    for record in files(folder):
        with record.open() as lines:
            written: Mapping[str, str] = json.loads(lines.readline() or "{}").get("versions", {})
        if whole or not written.items() & now:
            record.unlink(missing_ok=True)
    if whole:
        (folder / "passed.json").unlink(missing_ok=True)


def _passed(folder: Path) -> Mapping[str, Mapping[str, str]]:
    kept = folder / "passed.json"
    found: Mapping[str, Mapping[str, str]] = json.loads(kept.read_text()) if kept.is_file() else {}
    return found
