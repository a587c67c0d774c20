"""What the machine must offer before anything is started: Linux, root, disk, a free port and a few programs.

Missing programs are installed through apt, each with the reason told. Nothing that apt installs is allowed to start a service.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from .config import CloudConfig
from .errors import DiskShortError, NotLinuxError, NotRootError, PackagesError, PortTakenError

Progress = Callable[[str], None]

MINIMUM_FREE_BYTES: Final = 10 * 1024**3
_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT: Final = "#!/bin/sh\n# Of monai-aws local up while it installs packages: their services are not to start.\nexit 101\n"
_LOCK: Final = Path("/run/monai-aws-packages.lock")
"""apt works for one at a time and fails for the second; two clouds that start together wait for each other instead."""


@dataclass(frozen=True)
class Need:
    """A program, the Debian/Ubuntu package that has it, and why it is needed."""

    program: str
    package: str
    why: str


NEEDS: Final = (
    Need("mmdebstrap", "mmdebstrap", "builds the file systems of the machines from this machine's own package sources"),
    Need("ssh-keygen", "openssh-client", "connects to the machines"),
)
ENGINE: Final = Need("dockerd", "docker.io", "runs the machines of the embedded AWS as containers")
REGISTRY: Final = Need("docker-registry", "docker-registry", "keeps pushed container images on disk")


def check_python() -> None:
    """PackagesError when this Python lacks what the extra ``local`` brings: the server would end with that in its log only."""
    missing = [name for name in ("ministack", "moto", "hypercorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise PackagesError(
            f"{', '.join(missing)} of the extra 'local' cannot be imported by {sys.executable}.",
            "Run: make demo, which installs it; or install this project with its extra: pip install -e '.[local]'",
        )


def check_machine(config: CloudConfig) -> None:
    """Raise a named error when this machine cannot carry the embedded AWS."""
    if sys.platform != "linux":
        raise NotLinuxError(
            f"This is {sys.platform}; the embedded AWS runs Linux containers.", "Run it on Linux, or in a Linux virtual machine."
        )
    if os.geteuid() != 0:
        raise NotRootError("The embedded AWS starts machines, which needs root.", "Run the command with sudo -E, or as root.")
    existing = next(path for path in (config.state_dir, *config.state_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < MINIMUM_FREE_BYTES:
        raise DiskShortError(
            f"Only {free / 1024**3:.1f} GiB are free at {existing}; the embedded AWS needs {MINIMUM_FREE_BYTES / 1024**3:.0f}.",
            "Free some space, or choose another folder with --state-dir.",
        )


def check_port(port: int) -> None:
    """PortTakenError when something listens on the front door's port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PortTakenError(f"Another program listens on 127.0.0.1:{port}.", "Stop it, or choose another port with --port.") from None


def free_ssh_port(address: str) -> int:
    """22, or the next of a few ports when something on this machine listens on all addresses at 22."""
    for port in (22, 2222, 22022, 32022):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((address, port))
                return port
    raise PortTakenError("No port is free for the machines' SSH servers (tried 22, 2222, 22022, 32022).", "Free one of them.")


def ensure_system_packages(config: CloudConfig, on_progress: Progress, *, engine_wanted: bool = True) -> None:
    """Install what is missing and say what and why. PackagesError where there is no apt or it fails."""
    with _LOCK.open("w") as lock:
        take_lock(lock, lambda: on_progress("waiting for another command that installs packages"))
        _ensure(config, _Apt(lock, on_progress), engine_wanted)


def install_packages(packages: Sequence[str], on_progress: Progress) -> None:
    """Install Debian packages by name, without starting their services. PackagesError where there is no apt or it fails."""
    with _LOCK.open("w") as lock:
        take_lock(lock, lambda: on_progress("waiting for another command that installs packages"))
        _install(list(packages), _Apt(lock, on_progress))


def _ensure(config: CloudConfig, apt: _Apt, engine_wanted: bool) -> None:
    wanted = [need for need in (*NEEDS, *((ENGINE,) if engine_wanted else ())) if not program(need.program)]
    if wanted:
        for need in wanted:
            apt.on_progress(f"installing {need.package}: it {need.why}")
        _install([need.package for need in wanted], apt)
    if not registry_program(config).exists():
        apt.on_progress(f"fetching {REGISTRY.package}: it {REGISTRY.why} (unpacked into the cache, not installed)")
        _unpack_registry(config, apt)


def take_lock(lock: IO[Any], on_wait: Callable[[], None]) -> None:
    """Wait for an exclusive lock of a file; ``on_wait`` is called when somebody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(lock, fcntl.LOCK_EX)


def run_program(
    command: Sequence[str],
    on_progress: Progress,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    hold: IO[Any] | None = None,
    every_s: float = 15.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program that may take minutes and say every ``every_s`` seconds that it is still at work.

    ``hold`` is a locked file: the program holds it too, so that one that outlives this process is waited for by whoever takes it next.
    """
    began = time.monotonic()
    held = (hold.fileno(),) if hold else ()
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, pass_fds=held,
    ) as process:  # fmt: skip
        try:
            while True:
                try:
                    out, errors = process.communicate(timeout=every_s)
                    return subprocess.CompletedProcess(command, process.returncode, out, errors)
                except subprocess.TimeoutExpired:
                    on_progress(f"{command[0]} is still at work after {time.monotonic() - began:.0f} s")
        except BaseException:
            process.terminate()  # not killed: it has temporary folders and mounts to put away
            raise


def program(name: str) -> Path | None:
    """Path of a program, also where root's PATH lacks the sbin folders."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


def registry_program(config: CloudConfig) -> Path:
    """The registry server: the installed one, else the one unpacked into the cache.

    Debian's package enables a service on all addresses, so it is unpacked instead of installed.
    """
    return program(REGISTRY.program) or config.cache_dir / "programs" / "docker-registry"


def _require_apt() -> None:
    if not program("apt-get") or not program("dpkg-deb"):
        names = ", ".join(need.package for need in (*NEEDS, ENGINE, REGISTRY))
        raise PackagesError(
            "Programs are missing and this system has no apt to install them with.", f"Install the equivalents of: {names}."
        )


def _install(packages: list[str], apt: _Apt) -> None:
    _require_apt()
    with _no_services():
        apt.run("update", "-qq")
        # A machine that has just booted runs its own upgrades for some minutes.
        apt.run("install", "-y", "-qq", "-o", "DPkg::Lock::Timeout=600", "--no-install-recommends", *packages)


def _unpack_registry(config: CloudConfig, apt: _Apt) -> None:
    _require_apt()
    folder = config.cache_dir / "programs"
    work = folder / f"unpack-{os.getpid()}"
    work.mkdir(parents=True, exist_ok=True)
    try:
        work.chmod(0o755)
        try:
            apt.run("download", "-qq", "-o", "APT::Sandbox::User=root", REGISTRY.package, folder=work)
        except PackagesError:
            apt.run("update", "-qq")
            apt.run("download", "-qq", "-o", "APT::Sandbox::User=root", REGISTRY.package, folder=work)
        archive = next(work.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, work / "root"], check=True, capture_output=True)
        (work / "root/usr/bin/docker-registry").rename(folder / "docker-registry")
    finally:
        shutil.rmtree(work, ignore_errors=True)


@dataclass(frozen=True)
class _Apt:
    """apt-get, which works for one at a time: under a lock, and with word of what takes long."""

    lock: IO[Any]
    on_progress: Progress

    def run(self, *arguments: str, folder: Path | None = None) -> None:
        """Run a command of it. PackagesError with its last words where it fails."""
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        done = run_program(["apt-get", *arguments], self.on_progress, folder=folder, environment=quiet, hold=self.lock)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise PackagesError(
                f"apt-get {' '.join(arguments)} failed: {' / '.join(last)}", "Check the network and the package sources, then try again."
            )


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting their services during installation (Debian policy, invoke-rc.d)."""
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:  # ours is there where an installation was killed
        yield
        return
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
