"""The wake function's zip: our sources, the contract, and Powertools as it is installed here. The same inputs give the same bytes.

Runs on the control plane. boto3 is not packed: every Python runtime of Lambda brings it.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Final

from monai_aws_pipeline.errors import NamedError

_ROOT: Final = Path(__file__).resolve().parents[2]
_SOURCES: Final = (
    "lambda_fn/**/*.py",
    "monai_aws_pipeline/__init__.py",
    "monai_aws_pipeline/errors.py",
    "monai_aws_pipeline/contract/**/*.py",
)
_DISTRIBUTION: Final = "aws-lambda-powertools"
_TIME: Final = (1980, 1, 1, 0, 0, 0)


class PackageError(NamedError):
    """The function cannot be packed; names what is not installed."""


def build_zip(target: Path) -> str:
    """Write the function's zip; returns its SHA-256 in hex. Raises PackageError where a dependency is not installed."""
    files = {path.relative_to(_ROOT).as_posix(): path for pattern in _SOURCES for path in _ROOT.glob(pattern)}
    for distribution in required_distributions(_DISTRIBUTION):
        files |= _files_of(distribution)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name].read_bytes())
    return hashlib.sha256(target.read_bytes()).hexdigest()


def required_distributions(name: str) -> list[str]:
    """A distribution and everything it requires without extras, by installed metadata, sorted."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for requirement in _distribution(current).requires or []:
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[\s;<>=!~\[(]", requirement, maxsplit=1)[0].lower().replace("_", "-"))
    return sorted(found)


def _files_of(name: str) -> dict[str, Path]:
    kept = {}
    for file in _distribution(name).files or []:
        inside = file.as_posix()
        about = ".dist-info/" in inside and "license" not in inside.lower()  # licences go along with what they license
        if inside.startswith("..") or about or inside.endswith((".pyc", ".pyi")):
            continue
        kept[inside] = Path(str(file.locate()))
    return kept


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise PackageError(f"{name} is not installed here; install this project's own dependencies first (pip install -e .)") from error
