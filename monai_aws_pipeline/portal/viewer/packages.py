"""The viewers' own files, which others publish and this repository does not hold: fetched once, checked, unpacked into the cache.

They come by npm where that is installed, with the mirrors and logins that it is configured with; else from the registry that npm's own
settings name. A file that is not the pinned one to the bit is not used. Licences: NOTICE.
"""

from __future__ import annotations

import base64
import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.portal.viewer.study_view import ViewError
from monai_aws_pipeline.scratch import scratch

ADDRESS: Final = "/viewer-files"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".wasm": "application/wasm", ".woff2": "font/woff2",
    ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon", ".jsonc": "application/json",
}  # fmt: skip
_SHRUNK: Final = (".js", ".css", ".wasm")
_TIMEOUT_S: Final = 60
_LARGEST: Final = 256 << 20
_BASE: Final = b'__webpack_require__.p = "/";'
"""How OHIF's bundles say that they lie at the root of their host; nothing else in them can move them below a path."""


class PackageError(NamedError):
    """A viewer's files cannot be fetched, or are not those that are pinned."""


class NotYetError(ViewError):
    """A viewer's files are on their way."""


@dataclass(frozen=True)
class NpmPackage:
    """A package of npm. ``integrity``: as npm publishes it. ``folder``: what of it is used, without ``left_out`` (beginnings of names)."""

    name: str
    version: str
    integrity: str
    folder: str
    left_out: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    @property
    def archive(self) -> str:
        """The name of its file, as ``npm pack`` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def address(self) -> str:
        """The path below which its files are served: another version has another, so that a browser may keep them."""
        return f"{ADDRESS}/{self.archive.removesuffix('.tgz')}/"


OHIF: Final = NpmPackage(
    "@ohif/app",
    "3.13.2",
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
    "package/dist/",
    # Models that segment in the browser, another viewer, logins and samples: 160 MB that no page of ours asks for.
    (
        "ort/", "dicom-microscopy-viewer/", "assets/", "_", "serve.json", "manifest.json", "index.html", "silent-refresh.html", "google.js",
        "oidc-client", "polyfill", "es6-shim", "init-service-worker.js", "app-config.js",
    ),
)  # fmt: skip
NIIVUE: Final = NpmPackage(
    "@niivue/niivue",
    "0.69.0",
    "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA==",
    "package/dist/",
    only=("index.js",),
)
PACKAGES: Final = (OHIF, NIIVUE)


@dataclass(frozen=True)
class PackageFiles:
    """The unpacked files of one package, by their names."""

    folder: Path

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}

    def find(self, name: str, *, shrunk: bool = False) -> tuple[Path, str, bool] | None:
        """A file, its media type, and whether it is compressed by gzip, as it is only where the browser takes that; None for any other."""
        path = self._files.get(name)
        kind = _TYPES.get(Path(name).suffix)
        if path is None or kind is None:
            return None
        small = self._files.get(f"{name}.gz") if shrunk else None
        return (small, kind, True) if small else (path, kind, False)

    def first(self, beginning: str, ending: str) -> str:
        """The name of the one file that begins and ends so. Raises PackageError."""
        for name in self._files:
            if name.startswith(beginning) and name.endswith(ending):
                return name
        raise PackageError(f"The viewer's files lack {beginning}*{ending}.", f"Remove {self.folder}, and start the portal again.")


class Packages:
    """The packages that this process serves, each fetched in the background when first asked for. Safe to use from several threads."""

    def __init__(self, cache: Path, report: Callable[[str], None], packages: Sequence[NpmPackage] = PACKAGES) -> None:
        self._cache, self._report, self._named = cache, report, {package.address: package for package in packages}
        self._ready: dict[str, PackageFiles] = {}
        self._failed: dict[str, PackageError] = {}
        self._fetching: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def files(self, address: str) -> PackageFiles:
        """Those of the package with an address. Raises ViewError while they are not there: NotYetError where waiting helps."""
        package = self._named.get(address)
        if package is None:
            raise ViewError("no_such_viewer")
        with self._lock:
            if found := self._ready.get(address):
                return found
            if error := self._failed.pop(address, None):  # whoever asks next begins anew
                raise ViewError("viewer_failed", status=503, why=error)
            if address not in self._fetching:
                self._fetching[address] = threading.Thread(target=self._fetch, args=(package,), name="viewer", daemon=True)
                self._fetching[address].start()
        raise NotYetError("viewer_on_its_way", status=503, name=package.name)

    def _fetch(self, package: NpmPackage) -> None:
        error: PackageError | None = None
        try:
            found = unpacked(package, self._cache, self._report)
        except PackageError as refusal:
            error = refusal
        except OSError as refusal:
            error = PackageError(f"{package.name} cannot be kept in {self._cache} ({refusal.strerror}).", "Make room there.")
        with self._lock:
            del self._fetching[package.address]
            if error:
                self._failed[package.address] = error
            else:
                self._ready[package.address] = found

    def wait(self) -> None:
        """Until nothing is being fetched."""
        for thread in list(self._fetching.values()):
            thread.join()


def unpacked(package: NpmPackage, cache: Path, report: Callable[[str], None]) -> PackageFiles:
    """The package's files, fetched where they are not there yet. Raises PackageError."""
    place = cache / "viewers"
    place.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(repr((package, _BASE, 1)).encode()).hexdigest()[:12]
    target = place / f"{package.archive.removesuffix('.tgz')}-{digest}"
    with (place / f"{package.archive}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits and finds them
        if not target.is_dir():
            archive = _archive(package, place, report)
            with scratch("unpacking", place) as folder:
                _unpack(package, archive, folder / "files")
                (folder / "files").replace(target)
            archive.unlink()
    return PackageFiles(target)


def _archive(package: NpmPackage, place: Path, report: Callable[[str], None]) -> Path:
    target = place / package.archive
    if not target.is_file():
        report(f"{package.name} {package.version}: fetching it")
        with scratch("fetching", place) as folder:
            if shutil.which("npm"):
                _by_npm(package, folder)
            else:
                _by_registry(package, folder / package.archive, place)
            found = folder / package.archive
            if not found.is_file():
                raise PackageError(f"npm did not leave {package.archive}.", f"Run `npm pack {package.name}@{package.version}` in {place}.")
            found.replace(target)
    with target.open("rb") as stream:
        integrity = "sha512-" + base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()
    if integrity != package.integrity:
        target.unlink()
        raise PackageError(
            f"{package.archive} is not the file that is pinned: it is {integrity}.",
            "Somebody altered it, or the registry serves another; do not use it.",
        )
    return target


def _by_npm(package: NpmPackage, folder: Path) -> None:
    command = ["npm", "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise PackageError(
            f"npm could not fetch {package.name} {package.version}: {said[0] if said else f'exit code {done.returncode}'}.",
            f"Check that `npm view {package.name}` works with your npm configuration.",
        )


def _by_registry(package: NpmPackage, target: Path, place: Path) -> None:
    registry = registry_of(package.name.partition("/")[0])
    if not registry:
        raise PackageError(
            f"{package.name} {package.version} is not here, npm is not installed, and nothing names a registry of npm packages.",
            f"Install npm, or set NPM_CONFIG_REGISTRY (or registry in .npmrc) to your registry's address, or put {package.archive} into "
            f"{place} by hand.",
        )
    address = f"{registry.rstrip('/')}/{package.name}/-/{package.name.rpartition('/')[2]}-{package.version}.tgz"
    try:
        with closing(urllib.request.urlopen(address, timeout=_TIMEOUT_S)) as answer, target.open("wb") as out:  # noqa: S310 - https: below
            shutil.copyfileobj(answer, out)
    except OSError as error:
        raise PackageError(
            f"The registry of npm packages did not give {package.name} ({type(error).__name__}).",
            f"Where it needs a login, install npm, which knows how; or put {package.archive} into {place} by hand.",
        ) from error


def registry_of(scope: str, environment: Mapping[str, str] | None = None, home: Path | None = None) -> str:
    """The registry that npm's own settings name for a scope (``@name``), as npm reads them; empty where none does. Raises PackageError."""
    environment = os.environ if environment is None else environment
    home = home or Path.home()
    files = [Path.cwd() / ".npmrc", home / ".npmrc", Path("/etc/npmrc"), Path("/usr/etc/npmrc")]
    named = next((environment[name] for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry") if environment.get(name)), "")
    lines = [line.strip() for path in files if path.is_file() for line in path.read_text(errors="replace").splitlines()]
    found: dict[str, str] = {}
    for line in lines:
        if told := re.fullmatch(r"(?P<name>registry|@[\w.-]+:registry)\s*=\s*\"?(?P<value>[^\s\"]+)\"?", line):
            found.setdefault(told["name"], told["value"])
    registry = found.get(f"{scope}:registry") or named or found.get("registry", "")
    if registry and urlsplit(registry).scheme != "https":
        raise PackageError(
            "The registry of npm packages is named without encryption.", "Name it by https: in .npmrc or NPM_CONFIG_REGISTRY."
        )
    return registry


def _unpack(package: NpmPackage, archive: Path, target: Path) -> None:
    """What is used of an archive whose every byte is pinned."""
    total = 0
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            name = member.name.removeprefix(package.folder)
            wanted = member.isfile() and member.name.startswith(package.folder) and not name.startswith(package.left_out)
            if not wanted or (package.only and name not in package.only) or ".." in name.split("/"):
                continue
            total += member.size
            source = opened.extractfile(member)
            if source is None or total > _LARGEST:
                raise PackageError(f"{archive.name} holds more than is unpacked of it.")
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = source.read().replace(_BASE, _BASE.replace(b'"/"', f'"{package.address}"'.encode()))
            if path.suffix == ".css":
                content = content.replace(b"url(/", f"url({package.address}".encode())
            path.write_bytes(content)
            if path.suffix in _SHRUNK:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 6, mtime=0))
