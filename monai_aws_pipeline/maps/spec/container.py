"""A container of the agent's: what it may do and see, as one description that both ways of starting it are written from.

``docker_arguments`` are the words after ``docker``; ``description`` is the body of the Docker Engine API's "create a container" (v1.41).
A test starts both and compares what the engine holds. Here belongs no process and no decision about what a study gets: that is ``run``'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

NO_NETWORK: Final = "none"
"""The network of a study's container: a loopback interface and nothing else."""

_LOG_DRIVER: Final = "none"
"""The agent reads the output itself; a chatty MAP cannot fill the disk."""
_SECURITY: Final = "no-new-privileges"
_SHM_GIB: Final = 1
"""A private /dev/shm instead of --ipc=host: data loaders get their shared memory and the host's stays its own."""
_ULIMITS: Final = (("memlock", -1), ("stack", 67108864))
_DEVICES: Final = re.compile(r'"?device=([A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*)"?')


@dataclass(frozen=True)
class Bind:
    """A file or folder of the host inside of the container."""

    source: Path
    target: str
    writable: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.target}" + ("" if self.writable else ":ro")


@dataclass(frozen=True)
class ContainerSpec:
    """One container. It never pulls, its root is read-only, it has no capabilities and gains no privileges.

    ``memory_mib``: of memory and swap together: Docker would allow as much swap again, which holds a whole host up. ``gpus``: the value of
    ``docker run --gpus``, empty for none. ``scratch``: an empty /tmp in memory. ``stdin``: its standard input is held open for a caller.
    """

    name: str
    image: str
    entrypoint: str
    command: tuple[str, ...]
    uid: int
    gid: int
    memory_mib: int
    pids: int
    network: str = NO_NETWORK
    gpus: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    binds: tuple[Bind, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = ""
    scratch: bool = False
    stdin: bool = False

    def docker_arguments(self) -> list[str]:
        """Words after ``docker`` that run it. Without ``--rm``, so that its end can be read before the agent removes it."""
        memory = f"{self.memory_mib}m"
        words = [
            "run", "--name", self.name, "--network", self.network,
            "--pull", "never",  # only what was pulled by digest and verified before runs here
            "--log-driver", _LOG_DRIVER, "--read-only", "--cap-drop", "ALL", "--security-opt", _SECURITY,
            "--user", f"{self.uid}:{self.gid}", "--memory", memory, "--memory-swap", memory, "--pids-limit", str(self.pids),
        ]  # fmt: skip
        for key, value in self.labels:
            words += ["--label", f"{key}={value}"]
        if self.scratch:
            words += ["--tmpfs", "/tmp"]  # noqa: S108  the one place a MAP may write beside its output
        if self.working_directory:
            words += ["--workdir", self.working_directory]
        for bind in self.binds:
            words += ["--volume", str(bind)]
        if self.gpus:
            words += ["--gpus", self.gpus, "--shm-size", f"{_SHM_GIB}g"]
            words += [word for name, value in _ULIMITS for word in ("--ulimit", f"{name}={value}")]
        for key, value in self.environment:
            words += ["--env", f"{key}={value}"]
        return [*words, *(["--interactive"] if self.stdin else []), "--entrypoint", self.entrypoint, self.image, *self.command]

    def description(self) -> dict[str, Any] | None:
        """What the engine's interface is sent to make it; None where its ``gpus`` are said in a way that only the command understands."""
        devices = _device_request(self.gpus)
        if self.gpus and devices is None:
            return None
        host: dict[str, Any] = {
            "NetworkMode": self.network,
            "LogConfig": {"Type": _LOG_DRIVER},
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": [_SECURITY],
            "Memory": self.memory_mib << 20,
            "MemorySwap": self.memory_mib << 20,
            "PidsLimit": self.pids,
            "Tmpfs": {"/tmp": ""} if self.scratch else {},  # noqa: S108
            "Binds": [str(bind) for bind in self.binds],
            "DeviceRequests": [devices] if devices else [],
        }
        if self.gpus:
            host |= {"ShmSize": _SHM_GIB << 30, "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in _ULIMITS]}
        return {
            "Image": self.image,
            "Entrypoint": [self.entrypoint],
            "Cmd": list(self.command),
            "User": f"{self.uid}:{self.gid}",
            "WorkingDir": self.working_directory,
            "Env": [f"{key}={value}" for key, value in self.environment],
            "Labels": dict(self.labels),
            "AttachStdin": self.stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "OpenStdin": self.stdin,
            "StdinOnce": self.stdin,
            "HostConfig": host,
        }


def _device_request(gpus: str) -> dict[str, Any] | None:
    """The value of ``--gpus`` as the engine's interface has it; None for none, and for what is not known here. Source: docker/cli opts."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    if gpus == "all":
        return {**request, "Count": -1}
    if gpus.isdigit():
        return {**request, "Count": int(gpus)}
    if match := _DEVICES.fullmatch(gpus):
        return {**request, "DeviceIDs": match[1].split(",")}
    return None
