"""What is in an image: distribution packages, Python packages and model files, read from its file system without running any of it.

``docker export`` of a container that is never started gives the flattened file system as one stream, whatever shell or tools the image has.
Only a few files of it are kept, and each size, length and count is bounded: the image is made of other people's packages.
Formats: deb-control(5), the Python core metadata specification.
"""

from __future__ import annotations

import email.parser
import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Final

from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.runtime.engine import find_docker
from monai_aws_pipeline.maps.spec.run import CONTAINER_LABEL

MODELS: Final = "opt/holoscan/models/"
_STATUS: Final = "var/lib/dpkg/status"
_STATUS_FOLDER: Final = "var/lib/dpkg/status.d/"
_OS_RELEASE: Final = ("etc/os-release", "usr/lib/os-release")
_METADATA: Final = re.compile(r"(.*/)?[^/]+\.(dist-info/METADATA|egg-info/PKG-INFO)")
_MAX_STATUS: Final = 32 << 20
_MAX_METADATA: Final = 1 << 20
_MAX_ITEMS: Final = 20_000
_CHUNK: Final = 1 << 20
_SECONDS: Final = 120


@dataclass(frozen=True)
class Package:
    """One installed package. ``license`` as it says itself, empty where it says none."""

    name: str
    version: str
    license: str = ""
    architecture: str = ""


@dataclass(frozen=True)
class ModelFile:
    """One file below the MAP's model folder: its path there, SHA-256 and size in bytes."""

    path: str
    sha256: str
    bytes: int


@dataclass
class Inventory:
    """Everything found. ``system``: ID and VERSION_ID of os-release."""

    system: dict[str, str] = field(default_factory=dict)
    debian: list[Package] = field(default_factory=list)
    python: list[Package] = field(default_factory=list)
    models: list[ModelFile] = field(default_factory=list)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), sort_keys=True)


def take(image: str) -> Inventory:
    """Read the file system of an image of this machine. Raises FailedError."""
    with _exported(image) as stream:
        try:
            return read(stream)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise FailedError(Code.ENGINE_FAILED, f"The image's file system cannot be read ({error.__class__.__name__}).") from error


def read(stream: IO[bytes]) -> Inventory:
    """Read a tar of a file system to its end. Raises TarError, OSError or ValueError for one that is none or too large."""
    found = Inventory()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = member.name.removeprefix("./").lstrip("/")
            if not member.isfile():
                continue
            if name == _STATUS or name.startswith(_STATUS_FOLDER):
                found.debian += _debian(_text(archive, member, _MAX_STATUS))
            elif _METADATA.fullmatch(name) and member.size <= _MAX_METADATA:
                found.python += _python(_text(archive, member, _MAX_METADATA))
            elif name.startswith(MODELS):
                found.models.append(ModelFile(name.removeprefix(MODELS), _sha256(archive, member), member.size))
            elif name in _OS_RELEASE and not found.system:
                found.system = _system(_text(archive, member, _MAX_METADATA))
            if len(found.debian) + len(found.python) + len(found.models) > _MAX_ITEMS:
                raise ValueError(f"more than {_MAX_ITEMS} packages")
    found.debian = sorted(set(found.debian), key=lambda item: (item.name, item.architecture, item.version))
    found.python = sorted(set(found.python), key=lambda item: (item.name.lower(), item.version))
    found.models.sort(key=lambda item: item.path)
    return found


@contextmanager
def _exported(image: str) -> Iterator[IO[bytes]]:
    docker = find_docker()
    create = [docker, "create", "--network", "none", "--label", f"{CONTAINER_LABEL}=inventory", image, "none"]
    made = subprocess.run(create, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if made.returncode:
        raise FailedError(Code.ENGINE_FAILED, f"The image cannot be opened: {' '.join(made.stderr.split())[-200:]}.")
    container = made.stdout.strip()
    process = subprocess.Popen([docker, "export", container], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if process.stdout is None:
            raise FailedError(Code.ENGINE_FAILED, "The container engine exports nothing.")
        yield process.stdout
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        subprocess.run([docker, "rm", "--force", container], capture_output=True, timeout=_SECONDS, check=False)


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> str:
    if member.size > limit:
        raise ValueError("a list of packages is too large")
    content = archive.extractfile(member)
    return content.read().decode("utf-8", "replace") if content else ""


def _sha256(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content, whole = archive.extractfile(member), hashlib.sha256()
    while content and (chunk := content.read(_CHUNK)):
        whole.update(chunk)
    return whole.hexdigest()


def _debian(text: str) -> list[Package]:
    packages = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", paragraph, re.MULTILINE))
        # A package that was removed leaves its configuration, and a paragraph; status.d (distroless) has no Status at all.
        if fields.get("Package") and fields.get("Version") and fields.get("Status", "ok installed").endswith("ok installed"):
            packages.append(Package(_plain(fields["Package"]), _plain(fields["Version"]), "", _plain(fields.get("Architecture", ""))))
    return packages


def _python(text: str) -> list[Package]:
    said = email.parser.HeaderParser().parsestr(text)
    name, version = _plain(str(said.get("Name") or "")), _plain(str(said.get("Version") or ""))
    # License-Expression is SPDX; the older License is free text, of which a whole licence is no name.
    older = str(said.get("License") or "").strip()
    licence = str(said.get("License-Expression") or "").strip() or (older if len(older.splitlines()) == 1 else "")
    if not licence:
        classifiers = [str(each) for each in said.get_all("Classifier") or [] if str(each).startswith("License :: ")]
        licence = classifiers[0].rpartition(" :: ")[2] if classifiers else ""
    return [Package(name, version, _plain(licence))] if name and version else []


def _system(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: _plain(value.strip("\"'")) for name, _, value in pairs if name in ("ID", "VERSION_ID")}


def _plain(text: str) -> str:
    return "".join(char for char in text.strip() if char.isprintable())[:200]
