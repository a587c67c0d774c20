"""The container engine of this host: log in, pull by digest, read a MAP's manifest, run it once with a time limit, measure it.

One class owns a container from its start to its removal, whatever happens between. How a MAP is run is decided in ``maps.hosting``;
here it is done, through the engine's interface and, for what happens seldom, the docker command. No AWS in here: a registry password
comes in as an argument and leaves on standard input.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.runtime.container import AttachedContainer
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineApi, EngineError
from monai_aws_pipeline.host_agent.runtime.gpu import GpuWatch
from monai_aws_pipeline.host_agent.runtime.usage import Meter
from monai_aws_pipeline.host_agent.stopping import Stop
from monai_aws_pipeline.maps.spec.container import ContainerSpec
from monai_aws_pipeline.maps.spec.run import APP_MANIFEST_PATHS, CONTAINER_LABEL

log = logging.getLogger(__name__)

LOG_LINES: Final = 1000
"""Kept of what a MAP prints: its last lines, so many that what it failed of is among them when it goes on to print hundreds more."""
LINE_BYTES: Final = 4096
_TICK_S: Final = 0.01
_LOOK_S: Final = 0.1
_PULL_S: Final = 3600
_OLD_ENGINE: Final = (
    "This host's engine does not read layers of zstd, as Docker before 23 does not: the MAP was built on a newer machine image. "
    "Materialise inference_host, so that hosts are of that image too."
)
_CALL_S: Final = 120
_END_S: Final = 10
_NEVER: Final = "0001-01-01"


RunningContainer = subprocess.Popen[bytes] | AttachedContainer
"""A container that was started, be it by the engine's interface or by the docker command."""


@dataclass(frozen=True)
class ImageFacts:
    """What an image in the local store says about itself. ``bytes`` is its unpacked size, ``environment`` what it sets itself."""

    digest_reference: str
    bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    app_json: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunEnd:
    """How one run ended. ``peak_bytes`` from ``peak_source``; ``log_tail`` the last lines; ``seconds`` wall time of the run.

    ``hosting``: in which of the ways of ``host_agent.hosting`` the MAP ran. ``cpu_seconds`` of all its processes together. ``held_bytes``:
    the most without page cache; ``own_gpu_bytes``: what its processes had, and nobody else's; None where that is not known.
    """

    exit_code: int
    out_of_memory: bool
    timed_out: bool
    seconds: float
    peak_bytes: int
    peak_source: str
    peak_gpu_bytes: int | None
    log_tail: tuple[str, ...]
    cpu_seconds: float = 0.0
    hosting: str = "per_study"
    held_bytes: int | None = None
    own_gpu_bytes: int | None = None

    @property
    def ended_well(self) -> bool:
        """Whether the application said that it had answered."""
        return self.exit_code == 0 and not self.timed_out and not self.out_of_memory


def find_docker() -> str:
    """The docker command to use: the distribution's own first, because another one on PATH may be newer than the engine."""
    for candidate in ("/usr/bin/docker", shutil.which("docker")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise FailedError(Code.ENGINE_FAILED, "There is no docker command on this host.")


class Engine:
    """The docker command with a credentials folder of its own (on tmpfs, see the unit's RuntimeDirectory).

    ``stop``: past it no call to the engine waits longer than its budget says; what was not removed is left to the next agent.
    """

    def __init__(self, config_folder: Path, docker: str | None = None, api: EngineApi | None = None, stop: Stop | None = None):
        self._docker = docker or find_docker()
        self._api = api or EngineApi(stop=stop)
        self.stop = self._api.stop
        self.gpu = GpuWatch()
        self._removals = ThreadPoolExecutor(1, "removals")
        self._config = config_folder
        self._environment = {**os.environ, "DOCKER_CONFIG": str(config_folder)}

    # -- images ------------------------------------------------------------------------------------------------------------

    def has(self, image: str) -> bool:
        """Whether the image (by digest) is in the local store."""
        try:
            return self._api.has_image(image)
        except EngineError as error:
            raise FailedError(Code.ENGINE_FAILED, f"The engine's images cannot be read: {_one_line(str(error))}.") from error

    def pull(self, image: str, username: str, password: str, stop: threading.Event) -> None:
        """Pull ``registry/repository@sha256:…`` with credentials that exist on tmpfs only while the pull lasts. Raises FailedError."""
        registry = image.partition("/")[0]
        self._config.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._run(["login", "--username", username, "--password-stdin", registry], text=password)
            self._pull(image, stop)
        except EngineError as error:
            said = str(error).lower()
            code = Code.DISK_FULL if "no space left" in said else Code.PULL_FAILED
            why = f" {_OLD_ENGINE}" if "invalid tar header" in said else ""
            raise FailedError(code, f"The MAP image could not be pulled: {_one_line(str(error))}.{why}") from error
        finally:
            shutil.rmtree(self._config, ignore_errors=True)

    def evict(self, keep: Collection[str]) -> int:
        """Remove images that are none of ``keep`` (by digest) and that no container uses; how many. Layers of a kept image stay."""
        images = self._images()
        # By id: one of several names of an image that a container uses is removed by the engine without a word.
        kept = {found for reference, found in images if reference in keep} | self._api.images_in_use()
        unwanted = {found if "<none>" in reference else reference for reference, found in images if found not in kept}
        # Without --force: the engine itself refuses the last name of an image that a container has been made from meanwhile.
        return sum(self._run(["image", "rm", name], check=False).returncode == 0 for name in sorted(unwanted))

    def references(self) -> list[str]:
        """``registry/repository@sha256:…`` of every image here that has one. Raises FailedError."""
        try:
            return [reference for reference, _ in self._images() if "<none>" not in reference]
        except EngineError as error:
            raise FailedError(Code.ENGINE_FAILED, f"The engine's images cannot be read: {_one_line(str(error))}.") from error

    def _images(self) -> list[tuple[str, str]]:
        lines = self._run(["image", "ls", "--digests", "--no-trunc", "--format", "{{.Repository}}@{{.Digest}} {{.ID}}"]).stdout.decode()
        return [(reference, found) for reference, _, found in (line.partition(" ") for line in lines.splitlines())]

    def _pull(self, image: str, stop: threading.Event) -> None:
        started = spoken = time.monotonic()
        process = subprocess.Popen([self._docker, "pull", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self._environment)
        tail: deque[str] = deque(maxlen=20)
        reader = _read_into(process.stdout, tail)
        try:
            while process.poll() is None:
                if stop.wait(_LOOK_S):
                    raise InterruptedJobError("the host is stopping")
                now = time.monotonic()
                if now - started > _PULL_S:
                    raise EngineError(f"no end after {_PULL_S} s")
                if now - spoken > 5 and tail:
                    spoken = now
                    log.info("pulling the MAP, %.0f s: %s", now - started, tail[-1])
        finally:
            self._end(process)
            reader.join(5)
        if process.returncode:
            raise EngineError(tail[-1] if tail else "no message")

    def facts(self, image: str) -> ImageFacts:
        """Read size, labels and app.json of an image in the local store. Raises FailedError."""
        try:
            found = json.loads(self._run(["image", "inspect", image]).stdout)[0]
            config = found.get("Config") or {}
            environment = dict(str(item).partition("=")[::2] for item in config.get("Env") or [])
            return ImageFacts(image, int(found.get("Size", 0)), config.get("Labels") or {}, self._read_manifest(image), environment)
        except (EngineError, ValueError, LookupError) as error:
            raise FailedError(Code.ENGINE_FAILED, f"The MAP image cannot be inspected: {_one_line(str(error))}.") from error

    def _read_manifest(self, image: str) -> str:
        # Created and never started: works for an image without a shell, and runs nothing of it. "none": an image may name no command.
        create = ["create", "--network", "none", "--label", f"{CONTAINER_LABEL}=manifest", image, "none"]
        container = self._run(create).stdout.decode().strip()
        try:
            for path in APP_MANIFEST_PATHS:
                copied = self._run(["cp", "--follow-link", f"{container}:{path}", "-"], check=False)
                if copied.returncode == 0:
                    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
                        member = next(item for item in archive if item.isfile() and item.size < 1 << 20)
                        content = archive.extractfile(member)
                        return content.read().decode("utf-8", "replace") if content else ""
        except (tarfile.TarError, StopIteration) as error:
            raise EngineError("app.json is not a file") from error
        finally:
            self.remove(container)
        raise FailedError(Code.MAP_MANIFEST, f"The image has no {APP_MANIFEST_PATHS[0]}, so it is not a MAP.")

    # -- containers --------------------------------------------------------------------------------------------------------

    def remove_leftovers(self) -> int:
        """Remove containers that an agent before this one left behind, and the login of its pull; returns how many containers."""
        shutil.rmtree(self._config, ignore_errors=True)
        names = self._run(["ps", "--all", "--quiet", "--filter", f"label={CONTAINER_LABEL}"]).stdout.decode().split()
        for name in names:
            self.remove(name)
        return len(names)

    def hold(self, wanted: ContainerSpec) -> RunningContainer:
        """Start a container. The caller ends it with ``run`` or ``drop``. Raises OSError."""
        if description := wanted.description():
            return AttachedContainer(self._api, wanted.name, description)
        log.warning("a container is started by the docker command, because its GPUs are %r", wanted.gpus)
        return self._command(wanted, stderr=subprocess.STDOUT)

    def drop(self, name: str, held: RunningContainer) -> None:
        """End a held container whose application never began. One that is only being made is not waited for."""
        self._abandon(name, held)

    def run(
        self,
        wanted: ContainerSpec,
        *,
        timeout_s: float,
        stop: threading.Event,
        gpu: bool = False,
        held: RunningContainer | None = None,
        on_exit: Callable[[], None] = lambda: None,
    ) -> RunEnd:
        """Run one container to its end, or let the held one begin. Raises FailedError(ENGINE_FAILED) when it never started,
        InterruptedJobError on ``stop``.

        ``on_exit`` is called when all its processes have ended, a while before the engine has taken the container down and says how.
        """
        name, started = wanted.name, time.monotonic()
        tail: deque[str] = deque(maxlen=LOG_LINES)
        meter = self.meter(name, gpu)
        process = held or self.hold(wanted)
        _close_input(process, b"\n" if held else b"")
        reader = _read_into(process.stdout, tail)
        timed_out, told, ends_by = False, False, started + timeout_s
        try:
            while process.poll() is None:
                if told or timed_out or not meter.wait(_LOOK_S):
                    stop.wait(_TICK_S)
                if stop.is_set():
                    raise InterruptedJobError("the host is stopping")
                now = time.monotonic()
                over = not told and not timed_out and meter.over()
                if over or meter.due(now):  # at its end, too: the kernel's marks stay until the engine takes the container down
                    meter.sample()
                if over:
                    told, ends_by = True, now + _CALL_S
                    on_exit()
                if now > ends_by:
                    if told or timed_out:
                        raise FailedError(Code.ENGINE_FAILED, f"The engine did not say within {_CALL_S} s how a container ended.")
                    timed_out, ends_by = True, now + _CALL_S
                    self._quietly(self._api.kill, name)
            seconds = time.monotonic() - started
            reader.join(5)
            return self._judge(name, process.wait(), meter, tuple(tail), timed_out=timed_out, seconds=seconds)
        finally:
            meter.close()
            if process.poll() is None:
                self._abandon(name, process)
            else:
                self._end(process)
                self._removals.submit(self.remove, name)  # all its processes have ended; the next study need not wait for the rest

    def _abandon(self, name: str, process: RunningContainer) -> None:
        process.terminate()  # one that is only being made is not started
        self.remove(name)
        self._end(process)
        self.remove(name)  # it may have been made until then

    def _end(self, process: RunningContainer) -> None:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(self.stop.left(time.monotonic(), _END_S))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def settle(self) -> None:
        """Wait until every container that ended is removed as well."""
        self._removals.submit(lambda: None).result()

    def _judge(self, name: str, returned: int, meter: Meter, tail: tuple[str, ...], *, timed_out: bool, seconds: float) -> RunEnd:
        state = self.state(name)
        if state.get("Running"):  # its connection was cut: its exit code is yet to come, and reads as 0
            self.remove(name)  # before the next study's turn
            raise FailedError(Code.ENGINE_FAILED, "The engine did not say how a container ended, which still runs.")
        never_started = str(state.get("StartedAt", _NEVER)).startswith(_NEVER)
        if never_started and returned not in (126, 127):  # 126 and 127: the image has no such command, which is the MAP's fault
            # Where the engine does not answer, the lines may be the application's, which name whoever it was about to name.
            said = tail[0] if tail and tail[0].startswith("docker: ") else "no message"
            raise FailedError(Code.ENGINE_FAILED, f"The container did not start: {_one_line(said)}.")
        return RunEnd(
            exit_code=returned if never_started else int(state.get("ExitCode", returned)),
            out_of_memory=bool(state.get("OOMKilled")),
            timed_out=timed_out,
            seconds=seconds,
            peak_bytes=meter.peak,
            peak_source=meter.source,
            peak_gpu_bytes=meter.gpu_peak,
            log_tail=tail,
            cpu_seconds=meter.cpu_seconds,
            held_bytes=meter.held,
            own_gpu_bytes=meter.gpu_own,
        )

    def start(self, wanted: ContainerSpec) -> subprocess.Popen[bytes]:
        """Start a container that stays, with pipes to its standard streams. The caller ends it with ``remove``."""
        return self._command(wanted, stderr=subprocess.PIPE)

    def _command(self, wanted: ContainerSpec, stderr: int) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen([self._docker, *wanted.docker_arguments()], stdin=pipe, stdout=pipe, stderr=stderr, env=self._environment)

    def meter(self, name: str, gpu: bool, *, warm: bool = False) -> Meter:
        """A meter of a container by name."""
        return Meter(lambda: int(self.state(name).get("Pid", 0)), self.gpu if gpu else None, warm=warm)

    def state(self, name: str) -> dict[str, Any]:
        """Docker's State of a container, empty where there is none, or where the engine does not say."""
        try:
            state = self._api.container(name).get("State")
        except EngineError:
            return {}
        return state if isinstance(state, dict) else {}

    def limit_memory(self, name: str, mib: int) -> None:
        """Give a container that runs another limit of memory, swap included. Raises EngineError, also where it uses more than that now."""
        self._api.limit_memory(name, mib << 20)

    def remove(self, name: str) -> None:
        """Kill and remove a container; none of that name is fine."""
        self._quietly(self._api.remove, name)

    def _quietly(self, do: Callable[[str], None], name: str) -> None:
        try:
            do(name)
        except EngineError as error:
            log.warning("a container was not ended (%s); what is left of it is removed when the agent starts", _one_line(str(error)))

    def _run(self, arguments: Iterable[str], *, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[bytes]:
        command, pipe = [self._docker, *arguments], subprocess.PIPE
        source = subprocess.DEVNULL if text is None else pipe
        try:
            with subprocess.Popen(command, stdin=source, stdout=pipe, stderr=pipe, env=self._environment) as process:
                said, complained = self._communicate(process, None if text is None else text.encode())
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"docker did not answer ({error.__class__.__name__})") from error
        if check and process.returncode:
            raise EngineError(complained.decode("utf-8", "replace").strip()[-400:])
        return subprocess.CompletedProcess(command, process.returncode, said, complained)

    def _communicate(self, process: subprocess.Popen[bytes], given: bytes | None) -> tuple[bytes, bytes]:
        """What a command of docker prints, with a look now and then whether a stop has shortened the wait. Raises TimeoutExpired."""
        began = time.monotonic()
        while True:
            left = self.stop.left(began, _CALL_S)
            try:
                return process.communicate(given, max(0.0, min(left, _LOOK_S)))
            except subprocess.TimeoutExpired:
                given = None
                if left <= 0:
                    process.kill()
                    raise


def _read_into(stream: IO[bytes] | None, tail: deque[str]) -> threading.Thread:
    def read() -> None:
        while stream is not None and (line := stream.readline(LINE_BYTES)):  # bounded: a MAP may print without ever ending a line
            tail.append(line.decode("utf-8", "replace").rstrip("\r\n"))

    thread = threading.Thread(target=read, name="output", daemon=True)
    thread.start()
    return thread


def _close_input(process: RunningContainer, last: bytes) -> None:
    with contextlib.suppress(OSError):  # it ended already, which its exit code tells
        if process.stdin:
            process.stdin.write(last)
            process.stdin.close()


def _one_line(text: str) -> str:
    return " ".join(text.split())[-300:].rstrip(".")
