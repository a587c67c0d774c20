"""The hypervisor: emulated EC2 instances as containers that boot systemd, each with its own disk, address and container engine.

Here belongs what happens to a machine (create, start, stop, destroy, capture, execute) and nothing about the EC2 API: ec2.py
decides when. A machine is root on this computer's kernel with this computer's network: a test bed for one's own code, no sandbox.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import shlex
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .base_image import REBOOT_MARKER, WITHOUT_ENGINE, MachineRoot
from .config import CloudConfig
from .ec2_images import BaseImage
from .engine import Engine, machine_options, unmount_below
from .errors import EngineError

LABEL: Final = "monai-aws.cloud"
_STOP_SIGNAL: Final = "SIGRTMIN+3"  # systemd(1): halt cleanly
_STOP_TIMEOUT_S: Final = 30
_TIMED_OUT: Final = 124  # timeout(1)
_log: Final = logging.getLogger("local-cloud.machines")


@dataclass(frozen=True)
class MachineSpec:
    """What a machine is made of. ``environment`` is what the network of AWS would tell it: endpoint, metadata service, region.

    ``ssh_from``: the one address that its SSH server lets in, for a machine that only its network reaches; empty: any.
    """

    instance_id: str
    image: str
    address: str
    hostname: str
    ssh_port: int
    public_key: str
    user_data: bytes
    environment: Mapping[str, str] = field(default_factory=dict)
    engine_store: Path | None = None
    ssh_from: str = ""


@dataclass(frozen=True)
class Executed:
    """Outcome of a command inside a machine. ``timed_out`` when its time ran out (``exit_code`` is then -1)."""

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool = False


class Hypervisor:
    """Machines of one cloud on one engine. Every method blocks until it is done; EngineError when the engine refuses."""

    def __init__(self, config: CloudConfig, engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self._base_ready = threading.Event()
        self._base_error = ""
        self._making_plain = threading.Lock()
        self._processes: dict[str, str] = {}

    def wait_for_engine(self, timeout_s: float = 30.0) -> None:
        """Wait until the engine answers; it starts beside the server."""
        deadline = time.monotonic() + timeout_s
        while self._engine.run("version", check=False).returncode:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"The container engine at {self._engine.host} does not answer.", "Look into logs/engine.log of the state folder."
                )
            time.sleep(0.05)

    # ------------------------------------------------------------------------------------------------------------------ images

    def image_name(self, tag: str) -> str:
        """Engine-side name of an AMI or base image."""
        return f"{self._config.image_repository}:{tag}"

    def load_base(self, root: MachineRoot) -> None:
        """Bring the base root into the engine unless it is there (about 8 s the first time); machines wait for it."""
        reference = self.image_name(f"base-{root.key}")
        try:
            self.wait_for_engine()
            if not self._engine.has_image(reference):
                started = time.monotonic()
                self._engine.run("import", root.archive, reference, timeout_s=600)
                _log.info("base image imported in %.1f s", time.monotonic() - started)
        except (EngineError, subprocess.SubprocessError) as failed:
            self._base_error = str(failed)
            _log.exception("the base image could not be imported")
        self._base_ready.set()

    def base_name(self, base: BaseImage) -> str:
        """Engine-side name of an image that exists from the start. The plain one is made of the other when it is first wanted."""
        name = self.image_name(base.tag)
        self._base_ready.wait()
        if base.plain:
            with self._making_plain:
                if not self._engine.has_image(name):
                    self._make_plain(base.tag.replace("plain-", "base-", 1), base.tag)
        return name

    def _make_plain(self, origin: str, tag: str) -> None:
        """The same root without its container engine. That one's settings stay: an engine that is installed later needs them here."""
        container = f"{self._config.container_prefix}{tag}"
        self._engine.run("rm", "--force", container, check=False)
        try:
            self._engine.run(
                *("run", "--name", container, "--network", "none", self.image_name(origin), "sh", "-c", WITHOUT_ENGINE), timeout_s=300
            )
            self._engine.run("commit", container, self.image_name(tag), timeout_s=300)
        finally:
            self._engine.run("rm", "--force", "--volumes", container, check=False)

    def has_image(self, tag: str) -> bool:
        """Whether an AMI's file system is here."""
        return self._engine.has_image(self.image_name(tag))

    def capture(self, instance_id: str, tag: str) -> None:
        """Keep a machine's file system and its engine's images under a new tag. Mounted memory (``/run``) is not part of it."""
        self._engine.run("commit", self._container(instance_id), self.image_name(tag), timeout_s=900)
        store = self._folder(instance_id) / "docker"
        if any((store / "image" / "overlay2" / "imagedb" / "content" / "sha256").glob("*")):
            self._copy_store(store, self.image_store(tag))

    def copy_image(self, source: str, target: str) -> None:
        """Give an image a second tag, as CopyImage does between regions."""
        self._base_ready.wait()
        self._engine.run("tag", self.image_name(source), self.image_name(target))
        if self.image_store(source).exists():
            self._copy_store(self.image_store(source), self.image_store(target))

    def remove_image(self, tag: str) -> None:
        """Forget an image; layers that machines still use stay until those are gone."""
        self._engine.run("rmi", "--force", self.image_name(tag), check=False)
        shutil.rmtree(self.image_store(tag).parent, ignore_errors=True)

    def image_store(self, tag: str) -> Path:
        """Where the engine images captured with an AMI are kept."""
        return self._config.state_dir / "images" / tag / "docker"

    @staticmethod
    def _copy_store(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", "--reflink=auto", f"{source}/.", target], check=True, capture_output=True)

    # ---------------------------------------------------------------------------------------------------------------- machines

    def create(self, spec: MachineSpec) -> None:
        """Make a machine that is not yet running: its folder, its container, its first-boot seed."""
        self._base_ready.wait()
        if self._base_error:
            raise EngineError(self._base_error, "Run monai-aws local reset.")
        folder = self._folder(spec.instance_id)
        folder.mkdir(parents=True)
        if spec.engine_store and spec.engine_store.exists():
            self._copy_store(spec.engine_store, folder / "docker")
        (folder / "docker").mkdir(exist_ok=True)
        (folder / "sshd.conf").write_text(_sshd_config(spec))
        (folder / "systemd.conf").write_text(_systemd_config(spec.environment))
        self._engine.run(
            "create",
            *("--name", self._container(spec.instance_id), "--label", f"{LABEL}={self._config.identity}"),
            *("--hostname", spec.hostname, "--add-host", f"{spec.hostname}:{spec.address}", "--stop-signal", _STOP_SIGNAL),
            *("--log-driver", "none", "--env", "container=docker", *machine_options()),
            *("--volume", f"{folder}/docker:/var/lib/docker"),
            *("--volume", f"{folder}/sshd.conf:/etc/ssh/sshd_config.d/00-aws-network.conf:ro"),
            *("--volume", f"{folder}/systemd.conf:/etc/systemd/system.conf.d/00-aws-network.conf:ro"),
            *(spec.image, "/lib/systemd/systemd"),
        )
        self._engine.run("cp", "-", f"{self._container(spec.instance_id)}:/", stdin=_seed(spec))

    def start(self, instance_id: str) -> None:
        """Power on."""
        self._engine.run("start", self._container(instance_id))
        self._processes[instance_id] = self._engine.text("inspect", "--format", "{{.State.Pid}}", self._container(instance_id))

    def stop(self, instance_id: str) -> None:
        """Shut down cleanly and wait for it; pull the plug after half a minute."""
        self._engine.run("stop", "--time", str(_STOP_TIMEOUT_S), self._container(instance_id), timeout_s=_STOP_TIMEOUT_S + 60)

    def kill(self, instance_id: str) -> None:
        """Pull the plug: how a lost instance looks from outside."""
        self._engine.run("kill", self._container(instance_id), check=False)

    def destroy(self, instance_id: str) -> None:
        """Remove machine and disk, also when it is half made."""
        self._processes.pop(instance_id, None)
        self._engine.run("rm", "--force", "--volumes", self._container(instance_id), check=False)
        folder = self._folder(instance_id)
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)

    def wants_reboot(self, instance_id: str) -> bool:
        """Whether a machine that ended did so to come back; asks once (the mark is erased)."""
        found = self._engine.run("cp", f"{self._container(instance_id)}:{REBOOT_MARKER}", "-", check=False)
        if found.returncode:
            return False
        self.start(instance_id)
        self._engine.run("exec", self._container(instance_id), "rm", "-f", REBOOT_MARKER, check=False)
        return True

    def execute(self, instance_id: str, script: str, environment: Mapping[str, str], *, timeout_s: float, folder: str = "") -> Executed:
        """Run a shell script as root inside a machine, as the SSM agent does; it is written to a file and handed to ``sh``."""
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        place = f"cd {shlex.quote(folder)} && " if folder else ""
        runner = (
            f'f=$(mktemp /run/ssm-XXXXXX) && cat > "$f" && {place}timeout --kill-after=5 {max(1, round(timeout_s))} sh "$f"; '
            'code=$?; rm -f "$f"; exit $code'
        )
        command = self._engine.command("exec", "--interactive", *variables, self._container(instance_id), "sh", "-c", runner)
        try:
            done = subprocess.run(
                command, input=script.encode(), capture_output=True, env=Engine.environment(), timeout=timeout_s + 30, check=False
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return Executed(-1, _text(late.stdout), _text(late.stderr), timed_out=True)
        late_inside = done.returncode == _TIMED_OUT
        return Executed(-1 if late_inside else done.returncode, _text(done.stdout), _text(done.stderr), timed_out=late_inside)

    def is_active(self, instance_id: str, unit: str) -> bool:
        """Whether a unit of a machine's systemd is at work, by the mark systemd keeps of it: no command, because it is asked often."""
        process = self._processes.get(instance_id, "0")
        return Path(f"/proc/{process}/root/run/systemd/units/invocation:{unit}").is_symlink()

    def make_sshd_refuse(self, instance_id: str) -> None:
        """Stop the SSH server inside: an ordered fault."""
        self._engine.run("exec", self._container(instance_id), "systemctl", "stop", "ssh.service", check=False)

    def has_ended(self, instance_id: str, within_s: float = 5.0) -> bool:
        """Whether a machine no longer runs. The engine tells of an end before its own list shows it, hence the patience."""
        deadline = time.monotonic() + within_s
        while True:
            asked = self._engine.run("inspect", "--format", "{{.State.Running}}", self._container(instance_id), check=False)
            if asked.stdout.strip() == b"false":
                return True
            if asked.returncode or time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def watch(self, on_exit: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        """Call ``on_exit`` with the id of each machine that ends, and ``on_gap`` when some may have been missed; in a thread."""
        threading.Thread(target=self._watch, args=(on_exit, on_gap), daemon=True, name="machine-watch").start()

    def _watch(self, on_exit: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        filters = json.dumps({"event": ["die"], "label": [f"{LABEL}={self._config.identity}"]})
        while True:
            try:
                connection = _EngineConnection(self._engine.host.removeprefix("unix://"))
                connection.request("GET", f"/events?filters={filters.replace(' ', '')}")
                response = connection.getresponse()
                on_gap()
                while line := response.readline():
                    name = json.loads(line)["Actor"]["Attributes"]["name"]
                    on_exit(name.removeprefix(self._config.container_prefix))
            except (OSError, ValueError, http.client.HTTPException) as broken:
                _log.warning("watching the machines was interrupted: %s", broken)
            time.sleep(1)

    def _container(self, instance_id: str) -> str:
        return f"{self._config.container_prefix}{instance_id}"

    def _folder(self, instance_id: str) -> Path:
        return self._config.machines_dir / instance_id


def remove_all_machines(config: CloudConfig, engine: Engine) -> int:
    """Destroy every machine of this cloud, known to a server or not; returns how many there were."""
    containers = engine.text("ps", "--all", "--quiet", "--filter", f"label={LABEL}={config.identity}").split()
    if containers:
        engine.run("rm", "--force", "--volumes", *containers, check=False)
    unmount_below(config.machines_dir)
    shutil.rmtree(config.machines_dir, ignore_errors=True)
    return len(containers)


def remove_all_images(config: CloudConfig, engine: Engine) -> None:
    """Remove this cloud's images from an engine that is not its own."""
    images = engine.text("images", "--format", "{{.Repository}}:{{.Tag}}", config.image_repository).split()
    if images:
        engine.run("rmi", "--force", *images, check=False)


class _EngineConnection(http.client.HTTPConnection):
    """HTTP over the engine's Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")


def _sshd_config(spec: MachineSpec) -> str:
    variables = " ".join(f'"{name}={value}"' for name, value in spec.environment.items())
    return (
        f"ListenAddress {spec.address}\nPort {spec.ssh_port}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\nUseDNS no\n{f'SetEnv {variables}' if variables else ''}\n"
        f"{f'AllowUsers *@{spec.ssh_from}' if spec.ssh_from else ''}\n"
    )


def _systemd_config(environment: Mapping[str, str]) -> str:
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return f"[Manager]\nDefaultEnvironment={variables}\n"


def _seed(spec: MachineSpec) -> bytes:
    """The NoCloud seed that cloud-init reads at first boot, and an empty machine id, so that each machine gets its own."""
    meta = {"instance-id": spec.instance_id, "local-hostname": spec.hostname, "public-keys": [spec.public_key] if spec.public_key else []}
    files = {
        "var/lib/cloud/seed/nocloud/meta-data": json.dumps(meta).encode(),
        "var/lib/cloud/seed/nocloud/user-data": spec.user_data or b"#cloud-config\n{}\n",
        "etc/machine-id": b"",
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for folder in ("var/lib/cloud", "var/lib/cloud/seed", "var/lib/cloud/seed/nocloud"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600 if "user-data" in name else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()
