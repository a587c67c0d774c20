"""A throw-away Orthanc of Debian's packages on loopback: an archive that is not AWS's.

Packages are unpacked into the cache and not installed, so that no service is left on the machine. It asks for a password and ends with the
block that started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monai_aws_pipeline.settings import load_settings
from tests.support.cloud import free_port

USER, PASSWORD = "archive", "invented"
_PACKAGES: Final = ("orthanc", "orthanc-dicomweb")


@dataclass(frozen=True)
class Orthanc:
    """A running server; ``address`` is its DICOMweb's."""

    address: str


@contextmanager
def orthanc() -> Iterator[Orthanc]:
    """An empty Orthanc."""
    root = _unpacked()
    with tempfile.TemporaryDirectory(prefix="monai-aws-orthanc-") as folder:
        port = free_port()
        settings = {
            "StorageDirectory": f"{folder}/db",
            "IndexDirectory": f"{folder}/db",
            "HttpPort": port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,  # it answers this computer alone
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(next(root.glob("usr/lib/orthanc/libOrthancDicomWeb.so*")))],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (Path(folder) / "orthanc.json").write_text(json.dumps(settings))
        dictionaries = ":".join(str(path) for path in root.glob("usr/share/libdcmtk17/*.dic"))
        libraries = f"{root}/usr/lib/x86_64-linux-gnu"
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "DCMDICTPATH": dictionaries}
        with (Path(folder) / "log").open("wb") as log:
            command = [str(root / "usr/sbin/Orthanc"), f"{folder}/orthanc.json"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _until_it_answers(port, process, Path(folder) / "log")
            yield Orthanc(f"http://127.0.0.1:{port}/dicom-web")
        finally:
            process.terminate()
            process.wait(30)


def _until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/system")
        except urllib.error.HTTPError as error:
            assert error.code == 401
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


def _unpacked() -> Path:
    """The packages' files, fetched once."""
    place = load_settings().cache_dir.resolve() / "test-orthanc"
    root = place / "root"
    if not (place / "whole").exists():
        (place / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::Cache::archives={place}/archives", "-o", "Debug::NoLocking=1"]
        flags = ["--download-only", "--reinstall", "--no-install-recommends", "-y"]
        subprocess.run(["apt-get", *options, "install", *flags, *_PACKAGES], check=True, capture_output=True)
        for package in sorted((place / "archives").glob("*.deb")):
            subprocess.run(["dpkg", "-x", package, root], check=True)
        (place / "whole").touch()
    return root
