"""Start, stop, inspect and wipe one embedded AWS. This is what ``monai-aws local …`` and the tests call.

Here belongs the order of things and what is written for the user (``env``, AWS configuration files); each part starts and ends
itself in its own module.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_aws_pipeline.settings import PROJECT_ROOT

from . import base_image, engine, machines, profiles, registry, system
from .base_image import MachineRoot, MapBase
from .config import BASE_REPOSITORY, CloudConfig
from .engine import Engine
from .errors import BusyError, LocalCloudError, ProfileError
from .processes import Daemon
from .system import Progress


@dataclass(frozen=True)
class LocalCloud:
    """A running embedded AWS. ``environment`` makes any AWS SDK, and this project's settings, use it."""

    config: CloudConfig
    environment: Mapping[str, str]
    started: bool
    seconds: float

    @property
    def endpoint(self) -> str:
        """Address of all services."""
        return self.config.endpoint

    @property
    def env_file(self) -> Path:
        """File with ``environment`` as KEY=VALUE lines."""
        return self.config.env_file

    def order_fault(self, **fault: Any) -> dict[str, Any]:
        """Order a fault: the fields of ``faults.Fault``, or another order of docs/local-cloud.md. The answer says what became of some."""
        return control(self.config, "POST", "/_local/faults", fault)

    def faults(self) -> dict[str, Any]:
        """Orders that are still to strike (``pending``), and those whose call is held now (``held``)."""
        return control(self.config, "GET", "/_local/faults")

    def clear_faults(self) -> None:
        """Forget all ordered faults."""
        control(self.config, "DELETE", "/_local/faults")

    def received_bytes(self, repository: str) -> int:
        """Bytes of blobs and manifests that were pushed to an ECR repository since the server started."""
        return int(control(self.config, "GET", "/_local/registry")["received_bytes"].get(repository, 0))

    def plant_scan(self, **scan: Any) -> None:
        """Say what ECR's scan of an image found: ``repository``, ``digest``, ``status``, ``findings`` (``name``, ``severity``)."""
        control(self.config, "POST", "/_local/scans", scan)

    def lose_instance(self, instance_id: str) -> None:
        """Pull a machine's plug."""
        control(self.config, "POST", "/_local/instances/lose", {"instance_id": instance_id})

    def refuse_ssh(self, instance_id: str) -> None:
        """Stop a machine's SSH server."""
        control(self.config, "POST", "/_local/instances/refuse-ssh", {"instance_id": instance_id})


@dataclass(frozen=True)
class CloudStatus:
    """What runs of one embedded AWS. ``memory_mib`` is the resident memory of its processes without the machines'."""

    running: bool
    endpoint: str
    state_dir: Path
    processes: Mapping[str, int | None]
    machines: tuple[Mapping[str, str], ...]
    memory_mib: int
    disk_mib: int


def up(config: CloudConfig, on_progress: Progress = lambda _: None) -> LocalCloud:
    """Start the embedded AWS, or say that it runs. Raises a LocalCloudError with cause and remedy."""
    started = time.monotonic()
    profiles.known(config.profiles)
    system.check_python()
    system.check_machine(config)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    with _alone(config):
        if _answers(config) and server_daemon(config).pid():
            _check_profile(config)
            on_progress(f"the embedded AWS is already running at {config.endpoint}")
            return LocalCloud(config, read_environment(config.env_file), started=False, seconds=time.monotonic() - started)
        _end_everything(config)
        system.check_port(config.port)
        hypervisor = engine.running_engine(config.state_dir)
        system.ensure_system_packages(config, on_progress, engine_wanted=hypervisor is None)
        with ThreadPoolExecutor(2) as pool:  # each keeps one core busy for a minute the first time
            wanted_root = pool.submit(base_image.machine_root, config, on_progress)
            wanted_base = pool.submit(base_image.map_base, config, on_progress)
            root, base = wanted_root.result(), wanted_base.result()
        try:
            _start(config, hypervisor, root, base, on_progress)
        except BaseException:
            _end_everything(config)
            raise
        environment = read_environment(config.env_file)
        seconds = time.monotonic() - started
        on_progress(f"the embedded AWS answers at {config.endpoint} ({seconds:.1f} s); settings in {config.env_file}")
        return LocalCloud(config, environment, started=True, seconds=seconds)


def down(config: CloudConfig, on_progress: Progress = lambda _: None) -> None:
    """End every process, machine and mount of this cloud. S3 objects, pushed images and machine images stay in the state folder."""
    if not config.state_dir.exists() and not config.run_dir.exists():
        on_progress("there is no embedded AWS here")
        return
    if os.geteuid() != 0:
        system.check_machine(config)
    with _alone(config):
        count = _end_everything(config)
    on_progress(f"the embedded AWS is down{f'; {count} machine(s) destroyed' if count else ''}; its data stays in {config.state_dir}")


def reset(config: CloudConfig, on_progress: Progress = lambda _: None) -> None:
    """Stop, and delete the state folder. The cached base roots stay."""
    down(config)
    shutil.rmtree(config.state_dir, ignore_errors=True)
    on_progress(f"{config.state_dir} is deleted")


def status(config: CloudConfig) -> CloudStatus:
    """What runs now."""
    daemons = {daemon.name: daemon.pid() for daemon in _daemons(config)}
    answer: dict[str, Any] = {}
    with contextlib.suppress(LocalCloudError):
        answer = control(config, "GET", "/_local/health")
    return CloudStatus(
        running=bool(answer) and daemons[server_daemon(config).name] is not None,
        endpoint=config.endpoint,
        state_dir=config.state_dir,
        processes=daemons,
        machines=tuple(answer.get("machines", ())),
        memory_mib=sum(_resident_mib(pid) for pid in daemons.values() if pid),
        disk_mib=_disk_mib(config.state_dir),
    )


def control(config: CloudConfig, method: str, path: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Send a control request to the server (``/_local/…``). LocalCloudError when it does not answer or refuses."""
    request = urllib.request.Request(  # noqa: S310 - our own loopback address
        config.endpoint + path, method=method, data=json.dumps(data).encode() if data is not None else None, headers={"x-local-cloud": "1"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            answer: dict[str, Any] = json.loads(response.read())
            return answer
    except urllib.error.HTTPError as refused:
        raise LocalCloudError(f"The embedded AWS refused {path}: {refused.read().decode(errors='replace')}", "Check the request.") from None
    except (OSError, ValueError) as silent:
        raise LocalCloudError(
            f"The embedded AWS does not answer at {config.endpoint} ({silent}).", "Start it with monai-aws local up."
        ) from None


def read_environment(place: Path) -> dict[str, str]:
    """The variables of an ``env`` file."""
    lines = (line for line in place.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


# ----------------------------------------------------------------------------------------------------------------------------- parts


def server_daemon(config: CloudConfig) -> Daemon:
    """The front door's process."""
    return Daemon("front door", config.state_dir / "server.pid", config.logs_dir / "server.log")


def _daemons(config: CloudConfig) -> tuple[Daemon, ...]:
    return (server_daemon(config), registry.registry_daemon(config), engine.engine_daemon(config))


def _start(config: CloudConfig, running: Engine | None, root: MachineRoot, base: MapBase, on_progress: Progress) -> None:
    config.run_dir.mkdir(mode=0o700, exist_ok=True)
    config.logs_dir.mkdir(exist_ok=True)
    ssh_port = system.free_ssh_port(f"{config.subnet}.1")
    if running:
        on_progress("using the container engine that runs on this machine")
    hypervisor = running or engine.private_engine(config)
    (config.state_dir / "engine.json").write_text(json.dumps(asdict(hypervisor)))
    orders = {
        "config": config.to_json(),
        "engine": asdict(hypervisor),
        "root": {**asdict(root), "archive": str(root.archive)},
        "base": {**asdict(base), "folder": str(base.folder)},
        "ssh_port": ssh_port,
    }
    place = config.state_dir / "server.json"
    place.write_text(json.dumps(orders))
    daemon = server_daemon(config)
    environment = {**Engine.environment(), "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])}
    daemon.start([sys.executable, "-m", "monai_aws_pipeline.local_cloud.server", place], environment)
    with ThreadPoolExecutor(2) as pool:  # engine and registry start while the server imports
        storing = pool.submit(registry.start_registry, config)
        hosting = pool.submit(engine.start_private_engine, config) if running is None else None
        storing.result()
        if hosting:
            hosting.result()
    daemon.wait_until(lambda: _answers(config), timeout_s=60)
    _write_environment(config, base, ssh_port)


def _check_profile(config: CloudConfig) -> None:
    """Raises ProfileError where the embedded AWS that runs is another kind of account than is wanted."""
    runs = CloudConfig.from_json(json.loads((config.state_dir / "server.json").read_text())["config"]).profiles
    if runs != config.profiles:
        has, wanted = (",".join(names) or "default" for names in (runs, config.profiles))
        raise ProfileError(
            f"The embedded AWS that runs has the account profile {has}, not {wanted}.",
            "End it first (monai-aws local down, or make demo-down), or name the profile that it has (MONAI_AWS_LOCAL_PROFILE).",
        )


def _end_everything(config: CloudConfig) -> int:
    """End what runs, whoever started it and however its starter ended. Returns the number of machines destroyed."""
    server_daemon(config).stop()
    known = config.state_dir / "engine.json"
    count = 0
    if known.exists():
        hypervisor = Engine(**json.loads(known.read_text()))
        if not hypervisor.private:
            with contextlib.suppress(LocalCloudError):
                count = machines.remove_all_machines(config, hypervisor)
                machines.remove_all_images(config, hypervisor)
        elif config.machines_dir.exists() and system.program("dockerd"):
            if engine.engine_daemon(config).pid() is None:
                engine.stop_private_engine(config)  # sockets and mounts of an engine that was killed
            with contextlib.suppress(LocalCloudError):  # what an engine that does not answer leaves is ended with it, below
                engine.start_private_engine(config)  # it alone can end the machines that outlived it; one that just started is waited for
                count = machines.remove_all_machines(config, hypervisor)
    registry.registry_daemon(config).stop()
    engine.stop_private_engine(config)
    shutil.rmtree(config.machines_dir, ignore_errors=True)
    shutil.rmtree(config.state_dir / "tmp", ignore_errors=True)
    known.unlink(missing_ok=True)
    return count


@contextlib.contextmanager
def _alone(config: CloudConfig) -> Iterator[None]:
    """Keep two commands from working on the same cloud at once."""
    config.state_dir.mkdir(parents=True, exist_ok=True)
    with (config.state_dir / "command.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(
                f"Another command is starting or stopping the embedded AWS in {config.state_dir}.", "Wait for it to end."
            ) from None
        yield


def _answers(config: CloudConfig) -> bool:
    try:
        return bool(control(config, "GET", "/_local/health"))
    except LocalCloudError:
        return False


def _write_environment(config: CloudConfig, base: MapBase, ssh_port: int) -> None:
    """Write ``env`` and the AWS files it names; all of them readable by their owner only."""
    keys = json.loads((config.state_dir / "admin-keys.json").read_text())
    folder = config.state_dir / "aws"
    folder.mkdir(mode=0o700, exist_ok=True)
    environment = {
        "AWS_ENDPOINT_URL": config.endpoint,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",  # some HealthImaging calls would go to runtime-127.0.0.1
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_PROFILE": "admin",
        "AWS_DEFAULT_REGION": config.region,
        "MONAI_AWS_REGION": config.region,
        "MONAI_AWS_SSH_PORT": str(ssh_port),
        "MONAI_AWS_SSH_FROM": "127.0.0.0/8",
        "MONAI_AWS_BASE_IMAGE": f"{config.registry_host}/{BASE_REPOSITORY}:{base.tag}",
        "MONAI_AWS_WHEELHOUSE": "collect",
        "MONAI_AWS_GPUS": "",
        "MONAI_AWS_HOST_PYTHON": base.python,
        "MONAI_AWS_MAP_PYTHON": base.python,
        "MONAI_AWS_CONSOLE_URL": "",
        **control(config, "GET", "/_local/health")["settings"],
    }
    lines = [
        "# Written by monai-aws local up: the embedded AWS as any AWS SDK and this project's settings see it.",
        *(f"{name}={value}" for name, value in environment.items()),
    ]
    _write_private(config.env_file, "\n".join(lines) + "\n")
    _write_private(
        folder / "credentials", f"[admin]\naws_access_key_id = {keys['access_key']}\naws_secret_access_key = {keys['secret_key']}\n"
    )
    _write_private(folder / "config", f"[profile admin]\nregion = {config.region}\noutput = json\n")


def _write_private(place: Path, text: str) -> None:
    work = place.with_name(f"{place.name}.part")
    with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    work.replace(place)


def _resident_mib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:")), 0)


def _disk_mib(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).lstat().st_blocks * 512
    return total // 1024**2
