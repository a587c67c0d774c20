"""Where the records of calls are kept between a test run and the report: one file an embedded cloud, named by the template they are of."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from monai_aws_pipeline.local_cloud.call_record import FILE
from monai_aws_pipeline.local_cloud.config import CloudConfig
from tests.permissions.policies import TEMPLATE

ROOT = TEMPLATE.parents[1]
FOLDER = ROOT / "build" / "iam-calls"


def keep(config: CloudConfig) -> None:
    """Keep a cloud's record before its state is deleted, and drop those of other versions of the template."""
    record = config.state_dir / FILE
    if not record.is_file():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for other in set(FOLDER.glob("*.jsonl")) - set(files()):
        other.unlink(missing_ok=True)
    shutil.copyfile(record, FOLDER / f"{_version()}-{config.state_dir.name}.jsonl")


def files() -> list[Path]:
    """The records of the template as it is."""
    return sorted(FOLDER.glob(f"{_version()}-*.jsonl"))


def _version() -> str:
    return hashlib.sha256(TEMPLATE.read_bytes()).hexdigest()[:12]
