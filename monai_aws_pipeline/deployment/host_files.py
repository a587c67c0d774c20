"""The folder that makes a machine an inference host: sources of the agent, its unit, the provisioning script, its wheels.

Runs on the control plane, never on a host. Standard library only. The hash covers every byte in the folder, so that an image is baked again
exactly when something in it changed.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_HOST_FOLDER: Final = _PACKAGE.parent / "infra" / "host"
_SOURCES: Final = (
    "__init__.py",
    "errors.py",
    "redaction.py",
    "archive/**/*.py",
    "contract/**/*.py",
    "maps/__init__.py",
    "maps/spec/**/*.py",
    "host_agent/**/*.py",
)
_HOST_FILES: Final = (
    "provision.sh", "gpu.sh", "dead-man.sh", "monai-aws-agent.service", "monai-aws-dead-man.service", "monai-aws-dead-man.timer",
)  # fmt: skip


def write_bundle(target: Path, wheels: Path, sdk: Path | None = None) -> str:
    """Write provision.sh, the unit, agent.tar and wheels/ into ``target``; returns the SHA-256 over names and contents, in hex.

    ``sdk``: wheels of the official packager, for a machine that runs it. The same inputs give the same bytes and the same hash on any
    machine.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in _HOST_FILES:
        shutil.copyfile(_HOST_FOLDER / name, target / name)
    (target / "agent.tar").write_bytes(_agent_tar())
    for name, source in {"wheels": wheels, "sdk": sdk}.items():
        shutil.rmtree(target / name, ignore_errors=True)
        if source:
            (target / name).mkdir()
            for wheel in sorted(source.glob("*.whl")):
                shutil.copyfile(wheel, target / name / wheel.name)
    return content_hash(target)


def content_hash(folder: Path) -> str:
    """SHA-256 over the relative names and contents of all files below a folder, in hex."""
    whole = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest()


def sources_content() -> str:
    """SHA-256 in hex over what of a bundle lies in this project: all of it but the wheels, which its pins decide."""
    whole = hashlib.sha256(_agent_tar())
    for name in _HOST_FILES:
        whole.update(f"\0{name}\0".encode() + (_HOST_FOLDER / name).read_bytes())
    return whole.hexdigest()


def agent_sources() -> Iterator[Path]:
    """The files of this package that run on a host."""
    for pattern in _SOURCES:
        yield from sorted(_PACKAGE.glob(pattern))


def _agent_tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in agent_sources():
            content = path.read_bytes()
            member = tarfile.TarInfo(f"{_PACKAGE.name}/{path.relative_to(_PACKAGE).as_posix()}")
            member.size, member.mode = len(content), 0o644  # owner root, time 0: TarInfo's own defaults
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()
