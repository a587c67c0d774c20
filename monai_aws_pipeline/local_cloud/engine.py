"""The container engine that plays the hypervisor: a running one if it is usable, else a private dockerd of the state folder.

Here belong finding, starting and ending an engine and the one function that calls its command line. What is done with it belongs
to machines.py and base_image.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from .config import CloudConfig
from .errors import EngineError
from .processes import Daemon
from .system import program

USUAL_SOCKET: Final = "unix:///var/run/docker.sock"
MACHINE_CAPABILITIES: Final = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE")
"""What systemd and an engine inside a machine need. Naming them works where ``--privileged`` fails for a missing capability."""
_PROBE_IMAGE: Final = "monai-aws-probe:1"


@cache
def docker_program() -> str:
    """The docker command to use: the distribution's own where there is one, because two may be on PATH."""
    for candidate in (Path("/usr/bin/docker"), program("docker")):
        if candidate and candidate.exists():
            return str(candidate)
    raise EngineError("There is no docker command.", "Install docker.io.")


@dataclass(frozen=True)
class Engine:
    """A container engine at a socket address. ``private``: started and ended with the cloud."""

    host: str
    private: bool

    def run(
        self, *arguments: str | Path, stdin: bytes | None = None, timeout_s: float = 300.0, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Call the docker command. EngineError with the engine's own words when it fails and ``check`` is set."""
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, env=self.environment(), timeout=timeout_s, check=False
        )
        if check and done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise EngineError(f"docker {arguments[0]} failed: {said}", "Look into logs/engine.log of the state folder.")
        return done

    def text(self, *arguments: str | Path) -> str:
        """Standard output of a docker command, stripped."""
        return self.run(*arguments).stdout.decode().strip()

    def command(self, *arguments: str | Path) -> list[str]:
        """The argument list of a docker command against this engine."""
        return [docker_program(), "--host", self.host, *(str(part) for part in arguments)]

    @staticmethod
    def environment() -> dict[str, str]:
        """Environment without settings that would redirect the docker command."""
        return {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}

    def has_image(self, reference: str) -> bool:
        """Whether the engine holds an image of that name."""
        return self.run("image", "inspect", reference, check=False).returncode == 0


def running_engine(state_dir: Path) -> Engine | None:
    """The engine at the usual socket, if it answers, shares this file system and may run containers like our machines."""
    if not Path("/var/run/docker.sock").is_socket():
        return None
    engine = Engine(USUAL_SOCKET, private=False)
    try:
        info = json.loads(engine.run("info", "--format", "{{json .}}", timeout_s=10).stdout)
        security = " ".join(info.get("SecurityOptions") or [])
        if info.get("OSType") != "linux" or "rootless" in security or "userns" in security or info.get("ServerErrors"):
            return None
        return engine if _may_run_machines(engine, state_dir) else None
    except (EngineError, OSError, ValueError, subprocess.SubprocessError):
        return None


def _may_run_machines(engine: Engine, state_dir: Path) -> bool:
    """Run docker's own static init as a probe, with the options of a machine and a folder of ours mounted."""
    init = program("docker-init") or program("tini-static")
    if not init:
        return False
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(init.resolve(), arcname="init")
    state_dir.mkdir(parents=True, exist_ok=True)
    engine.run("import", "-", _PROBE_IMAGE, stdin=archive.getvalue(), timeout_s=30)
    try:
        mounted = engine.run(
            "run", "--rm", *machine_options(), "--mount", f"type=bind,source={state_dir},target=/state", _PROBE_IMAGE, "/init", "--version",
            timeout_s=30, check=False,
        )  # fmt: skip
    finally:
        engine.run("rmi", _PROBE_IMAGE, check=False)
    return mounted.returncode == 0


def machine_options() -> list[str]:
    """Options of ``docker create`` that let systemd and an engine run inside, on the host's network."""
    capabilities = [part for name in MACHINE_CAPABILITIES for part in ("--cap-add", name)]
    return [
        *("--network", "host", "--cgroupns", "host", *capabilities),
        *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
        *("--tmpfs", "/run:exec,mode=755", "--tmpfs", "/run/lock", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    ]


def engine_daemon(config: CloudConfig) -> Daemon:
    """The private engine's process."""
    return Daemon("container engine", config.state_dir / "engine.pid", config.logs_dir / "engine.log")


def private_engine(config: CloudConfig) -> Engine:
    """Address of the private engine, running or not."""
    return Engine(f"unix://{config.run_dir}/docker.sock", private=True)


def start_private_engine(config: CloudConfig) -> Engine:
    """Start a dockerd of our own: no bridge, no firewall rules, data in the state folder. About half a second."""
    dockerd = program("dockerd")
    if not dockerd:
        raise EngineError("There is no dockerd on this machine.", "Install docker.io.")
    engine = private_engine(config)
    daemon = engine_daemon(config)
    config.run_dir.mkdir(mode=0o700, exist_ok=True)
    command: Sequence[str | Path] = [
        dockerd,
        *("--host", engine.host, "--data-root", config.state_dir / "engine", "--exec-root", config.run_dir / "engine"),
        *("--pidfile", config.run_dir / "engine.pid", "--bridge", "none", "--iptables=false", "--ip6tables=false", "--log-level", "warn"),
    ]
    if daemon.pid() is None:
        daemon.start(command, Engine.environment())
    socket = config.run_dir / "docker.sock"
    daemon.wait_until(lambda: socket.is_socket() and engine.run("version", check=False).returncode == 0, timeout_s=30)
    return engine


def stop_private_engine(config: CloudConfig) -> None:
    """End the private engine and unmount what it leaves mounted under the folders of this cloud."""
    engine_daemon(config).stop()
    end_orphans(config)
    unmount_below(config.run_dir)
    unmount_below(config.state_dir)
    if config.run_dir.exists():
        shutil.rmtree(config.run_dir, ignore_errors=True)


def end_orphans(config: CloudConfig) -> None:
    """End machines that outlived a killed engine: their shims name our socket folder; their control groups are removed."""
    shims = [pid for pid, line in _command_lines().items() if "containerd-shim" in line and str(config.run_dir) in line]
    groups: set[str] = set()
    for shim in shims:
        for machine in _children(shim):
            with contextlib.suppress(OSError):
                groups |= set(re.findall(r"/docker/[0-9a-f]{64}", Path(f"/proc/{machine}/cgroup").read_text()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(machine, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim, signal.SIGKILL)
    if groups:
        time.sleep(0.5)  # the kernel empties the groups
    for group in groups:
        for top in (*Path("/sys/fs/cgroup").glob(f"*{group}"), Path(f"/sys/fs/cgroup{group}")):
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()


def _command_lines() -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def _children(pid: int) -> list[int]:
    """Children of a process (proc(5), stat field 4)."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def mounts_below(folder: Path) -> list[Path]:
    """Mount points inside a folder, deepest first (proc(5), mountinfo)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if folder in point.parents:
            found.append(point)
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def unmount_below(folder: Path) -> None:
    """Unmount everything inside a folder, lazily where it is still busy."""
    for point in mounts_below(folder):
        with contextlib.suppress(OSError):
            if subprocess.run(["umount", point], capture_output=True, check=False).returncode:
                subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
