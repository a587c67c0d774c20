"""A folder with every wheel an application needs, gathered once and re-used: the build host then installs without an index.

Here belongs pip as a child process and the folder's life: one lock, one atomic rename, one list of what is inside. pip runs with the user's
own configuration, so mirrors, proxies, credentials and a preferred build of torch are the ones configured on this machine; what pip
says about them is not repeated in the log.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from monai_aws_pipeline.errors import NamedError

LIST_NAME: Final = "wheels.json"
_SCHEMA: Final = "monai-aws/wheelhouse/1"
_HEARTBEAT_S: Final = 10.0
_PROGRESS: Final = re.compile(r"^\s*(Collecting|Downloading|Processing|Building wheel|Created wheel|ERROR|error:)")
_ADDRESS: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_LOGIN: Final = re.compile(r"(?<=://)[^/@\s'\"]*@")
_FOLDER: Final = re.compile(r"(?<=\s)/\S*/")
# The parts of pip's configuration that decide which file is taken for a requirement.
_DECIDING: Final = frozenset(
    {"index-url", "extra-index-url", "find-links", "constraint", "no-index", "pre", "only-binary", "no-binary", "prefer-binary"}
)

OnLine = Callable[[str], None]


class WheelhouseError(NamedError):
    """The wheels could not be gathered. The message says why and what to do."""


class RequirementsError(WheelhouseError):
    """pip found no set of wheels that satisfies the requirements."""


class PipMissingError(WheelhouseError):
    """This Python has no pip."""


class BrokenWheelhouseError(WheelhouseError):
    """A folder is not a complete wheelhouse."""


@dataclass(frozen=True)
class Wheel:
    """One file of a wheelhouse. ``bytes`` is its size."""

    file: str
    name: str
    version: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Wheelhouse:
    """A complete wheelhouse."""

    path: Path
    python_version: str
    wheels: tuple[Wheel, ...]

    @property
    def bytes(self) -> int:
        """Size of all wheels."""
        return sum(wheel.bytes for wheel in self.wheels)


def collect(requirements: Path, cache: Path, python_version: str, on_line: OnLine) -> Path:
    """Gather the wheels of a requirements file and return their folder; re-use it when nothing that decides about it changed.

    ``constraints.txt`` beside the requirements is applied when it exists. For the running Python version, packages that come as sources
    only are built; for another version only wheels are taken.

    Args:
        requirements: Requirements file of pip.
        cache: Folder that holds ``wheelhouses/``; two processes may share it.
        python_version: ``3.11`` or the like: the Python of the image, not of this process.
        on_line: Receives progress lines, without addresses.

    Raises:
        RequirementsError: pip's resolver or a download failed; with pip's last words.
        PipMissingError: This Python cannot run pip.
    """
    key = name_of(requirements, python_version)
    folder = cache / "wheelhouses"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / key
    with _locked(folder / f"{key}.lock", on_line):
        try:
            found = read(target)
        except BrokenWheelhouseError:
            shutil.rmtree(target, ignore_errors=True)
        else:
            on_line(f"wheelhouse: {len(found.wheels)} wheels already here ({_size(found.bytes)})")
            return target
        for left in folder.glob(f"{key}.partial-*"):  # of a process that was killed: whoever lives holds the lock
            shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{key}.partial-", dir=folder))
        try:
            _gather(requirements, partial, python_version, on_line)
            made = _write_list(partial, python_version)
            if not made.wheels:
                on_line("wheelhouse: the application needs no packages")
            partial.chmod(0o755)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return target


def is_collected(requirements: Path, cache: Path, python_version: str) -> bool:
    """Whether ``collect`` would gather nothing, because all of it is here. Raises what ``name_of`` does."""
    try:
        read(cache / "wheelhouses" / name_of(requirements, python_version))
    except BrokenWheelhouseError:
        return False
    return True


def name_of(requirements: Path, python_version: str) -> str:
    """The name that ``collect`` gives the wheelhouse of a requirements file here, with nothing gathered.

    Raises RequirementsError when there is no such file, WheelhouseError for a version that is none.
    """
    if not re.fullmatch(r"3\.\d{1,2}", python_version):
        raise WheelhouseError(f"python_version {python_version!r} is not of the form 3.11")
    if not requirements.is_file():
        raise RequirementsError(f"{requirements.name} is missing in the application folder; list there what the application imports")
    return wheelhouse_key(requirements, python_version, pip_configuration())


def wheelhouse_key(requirements: Path, python_version: str, pip_configuration: str = "") -> str:
    """32 hex digits that name a wheelhouse: requirements, constraints, Python, machine, and pip's own configuration."""
    constraints = requirements.with_name("constraints.txt")
    parts = [
        _significant(requirements.read_text("utf-8")),
        _significant(constraints.read_text("utf-8")) if constraints.is_file() else None,
        python_version,
        platform.machine(),
        pip_configuration,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read(folder: Path) -> Wheelhouse:
    """Read a wheelhouse and check that each listed wheel is there in full size. Raises BrokenWheelhouseError."""
    try:
        data = json.loads((folder / LIST_NAME).read_text("utf-8"))
        wheels = tuple(Wheel(**item) for item in data["wheels"])
        version = str(data["python"])
        if data["schema"] != _SCHEMA:
            raise BrokenWheelhouseError(f"{folder.name} was written by another version; remove it")
        for wheel in wheels:
            if Path(wheel.file).name != wheel.file or (folder / wheel.file).stat().st_size != wheel.bytes:
                raise BrokenWheelhouseError(f"{folder.name} lacks {wheel.file}; remove the folder, it is gathered again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenWheelhouseError(f"{folder.name} is not a complete wheelhouse; remove it, it is gathered again") from error
    return Wheelhouse(folder, version, wheels)


def _gather(requirements: Path, target: Path, python_version: str, on_line: OnLine) -> None:
    ours = python_version == f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    if ours:
        command += ["wheel", "--wheel-dir", str(target)]
    else:
        command += ["download", "--dest", str(target), "--python-version", python_version, "--only-binary=:all:"]
    command += ["--progress-bar", "off", "--requirement", str(requirements)]
    constraints = requirements.with_name("constraints.txt")
    if constraints.is_file():
        command += ["--constraint", str(constraints)]
    on_line(f"wheelhouse: gathering wheels for Python {python_version} with pip")
    started = time.monotonic()
    tail: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, encoding="utf-8", errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        try:
            for line in _lines_with_pauses(process.stdout):
                if line is None:
                    on_line(f"wheelhouse: {_size(_folder_bytes(target))} after {time.monotonic() - started:.0f} s")
                    continue
                shown = without_addresses(line.rstrip())
                tail = [*tail[-19:], shown]
                if _PROGRESS.match(line):
                    on_line(shown.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        if any("No module named pip" in line for line in tail):
            raise PipMissingError(f"{sys.executable} has no pip; create the environment with `python3 -m venv`")
        wrong = [line for line in tail if line.lower().startswith("error")] or tail[-5:]
        hint = "" if ours else f" Only wheels are taken for Python {python_version}, because this process runs another version."
        raise RequirementsError(
            f"pip could not gather the wheels of {requirements.name}.{hint} pip said: "
            + " | ".join(wrong[-5:])
            + ". Correct the requirements, or pip's configuration here; monai-aws doctor app says more"
        )
    on_line(f"wheelhouse: {_size(_folder_bytes(target))} in {time.monotonic() - started:.0f} s")


def _write_list(folder: Path, python_version: str) -> Wheelhouse:
    wheels = []
    for path in sorted(folder.iterdir()):
        if path.suffix != ".whl":
            raise RequirementsError(f"{path.name} is not a wheel; the package has none for Python {python_version}")
        name, version = path.name.split("-")[:2]
        path.chmod(0o644)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        wheels.append(Wheel(path.name, re.sub(r"[-_.]+", "-", name).lower(), version, digest, path.stat().st_size))
    house = Wheelhouse(folder, python_version, tuple(wheels))
    data = {"schema": _SCHEMA, "python": python_version, "wheels": [asdict(wheel) for wheel in wheels]}
    (folder / LIST_NAME).write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    return house


def _lines_with_pauses(stream: IO[str] | None) -> Iterator[str | None]:
    """The lines of a stream, and None after each pause of some seconds, so that a long download still shows progress."""
    if stream is None:
        return
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_HEARTBEAT_S)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


@contextmanager
def _locked(path: Path, on_line: OnLine) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_line("wheelhouse: waiting for another process that gathers the same wheels")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # the lock ends with the handle, also when the process is killed


def pip_configuration() -> str:
    """Hash of pip's deciding options; hashed because index addresses tell of a hospital's network. Logins in them decide nothing."""
    lines = [f"{name}={value}" for name, value in _pip_options() if name.rpartition(".")[2] in _DECIDING]
    return hashlib.sha256("\n".join(sorted(_LOGIN.sub("", line) for line in lines)).encode()).hexdigest()


def has_no_index() -> bool:
    """Whether pip is told here to ask no index at all."""
    return any(name.endswith(".no-index") and value.strip("'\"").lower() in ("1", "true", "yes", "on") for name, value in _pip_options())


def _pip_options() -> list[tuple[str, str]]:
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True)
    return [(name, value) for name, sign, value in (line.partition("=") for line in done.stdout.splitlines()) if sign]


def without_addresses(text: str) -> str:
    """A line of pip's as it may be shown: addresses tell of a hospital's network, and folders of a machine."""
    return _FOLDER.sub("", _ADDRESS.sub("…", text))


def _significant(text: str) -> list[str]:
    """Lines without comments and blank lines, so that a comment does not cost a download."""
    stripped = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in stripped if line]


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
