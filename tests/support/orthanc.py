"""A throw-away Orthanc of Debian's packages on loopback: an archive that is not AWS's.

Packages are unpacked into the cache and not installed, so that no service is left on the machine. It asks for a password and ends with the
block that started it.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from monai_aws_pipeline.settings import load_settings
from tests.support.cloud import free_port

USER, PASSWORD = "archive", "invented"
_PACKAGES: Final = ("orthanc", "orthanc-dicomweb")


class Orthanc:
    """A server; ``address`` is its DICOMweb's. It keeps what it has while it is stopped."""

    def __init__(self, folder: Path) -> None:
        self._root, self._folder, self._port = _unpacked(), folder, free_port()
        self.address = f"http://127.0.0.1:{self._port}/dicom-web"
        settings = {
            "StorageDirectory": f"{folder}/db",
            "IndexDirectory": f"{folder}/db",
            "HttpPort": self._port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,  # it answers this computer alone
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(next(self._root.glob("usr/lib/orthanc/libOrthancDicomWeb.so*")))],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers."""
        places = (root / "usr/share/libdcmtk17" for root in (self._root, Path("/")))  # unpacked, or installed on this machine already
        dictionaries = ":".join(str(path) for path in next(place for place in places if place.is_dir()).glob("*.dic"))
        libraries = f"{self._root}/usr/lib/x86_64-linux-gnu"
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "DCMDICTPATH": dictionaries}
        with (self._folder / "log").open("ab") as log:
            command = [str(self._root / "usr/sbin/Orthanc"), f"{self._folder}/orthanc.json"]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _until_it_answers(self._port, self._process, self._folder / "log")

    def stop(self) -> None:
        """Its port refuses from now on."""
        if self._process:
            self._process.terminate()
            self._process.wait(30)


@contextmanager
def orthanc() -> Iterator[Orthanc]:
    """An empty Orthanc that runs."""
    with tempfile.TemporaryDirectory(prefix="monai-aws-orthanc-") as folder:
        server = Orthanc(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


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
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:  # another test process may fetch as well
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole").exists():
            (place / "archives" / "partial").mkdir(parents=True, exist_ok=True)
            options = ["-o", f"Dir::Cache::archives={place}/archives", "-o", "Debug::NoLocking=1"]
            flags = ["--download-only", "--reinstall", "--no-install-recommends", "-y"]
            subprocess.run(["apt-get", *options, "install", *flags, *_PACKAGES], check=True, capture_output=True)
            for package in sorted((place / "archives").glob("*.deb")):
                subprocess.run(["dpkg", "-x", package, root], check=True)
            (place / "whole").touch()
    return root
