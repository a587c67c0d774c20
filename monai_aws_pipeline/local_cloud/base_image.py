"""The base file systems, built from this machine's own package sources and kept in the cache.

Two roots: that of a machine (systemd, cloud-init, sshd, an engine: what AWS's GPU images bring along, without the GPU) and that of
a MAP (Python and what numerical wheels link against), the latter kept as a registry that only needs to be linked into place.
Each is keyed by a hash of everything that goes into it. How they become images is machines.py's and registry.py's business.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Final

from .config import BASE_REPOSITORY, CloudConfig
from .engine import unmount_below
from .errors import BaseImageError
from .system import Progress, run_program, take_lock

Run = Callable[..., subprocess.CompletedProcess[str]]
"""``run_program`` with the caller's progress, under the caller's lock."""

MACHINE_PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "cloud-init", "openssh-server", "sudo", "passwd", "procps", "iproute2", "kmod"),
    *("ca-certificates", "curl", "git", "rsync", "unzip", "xz-utils", "python3", "python3-venv", "python3-pip", "docker.io", "pigz"),
)
MACHINE_PACKAGES_WHERE_THERE: Final = ("docker-cli", "docker-buildx", "awscli")
"""Parts of the engine that newer distributions package on their own, and what not every distribution has."""
_ENGINE: Final = ("docker.io", "docker-cli", "docker-buildx", "containerd", "runc", "pigz")
WITHOUT_ENGINE: Final = (
    "set -e; export DEBIAN_FRONTEND=noninteractive; "
    f"there=$(dpkg-query -W -f '${{db:Status-Abbrev}}${{Package}}\\n' {' '.join(_ENGINE)} 2>/dev/null | sed -n 's/^ii *//p'); "
    "apt-get remove --yes --auto-remove -qq $there >/dev/null; ! command -v dockerd"
)
"""What makes a plain image of the machine's root: the engine is removed, and the settings stay that it needs here."""
MAP_PACKAGES: Final = ("python3", "python3-pip", "python3-venv", "ca-certificates", "jq", "libgomp1", "libstdc++6", "passwd")
_MAP_HOOKS: Final = ('touch "$1/etc/hosts"',)
"""A build mounts /etc/hosts; where the file is missing it is made, and then every build gives /etc another time and layer."""
_LEAVE_OUT: Final = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")

_CLOUD_CFG: Final = """\
# cloud-init as a virtual machine's image ships it, without what a machine of the embedded AWS does not have (disks, network, clock).
users: [default]
disable_root: true
preserve_hostname: true
manage_etc_hosts: false
datasource_list: [NoCloud, None]
network: {config: disabled}
apt: {preserve_sources_list: true}
cloud_init_modules: [seed_random, bootcmd, write_files, users_groups, ssh]
cloud_config_modules: [ssh_import_id, set_passwords, apt_configure, timezone, runcmd]
cloud_final_modules: [package_update_upgrade_install, write_files_deferred, scripts_vendor, scripts_per_once, scripts_per_boot,
  scripts_per_instance, scripts_user, final_message, power_state_change]
system_info:
  distro: debian
  default_user: {name: ubuntu, lock_passwd: true, gecos: Ubuntu, groups: [adm, sudo], sudo: ["ALL=(ALL) NOPASSWD:ALL"], shell: /bin/bash}
  paths: {cloud_dir: /var/lib/cloud/, templates_dir: /etc/cloud/templates/}
  ssh_svcname: ssh
"""
REBOOT_MARKER: Final = "/var/lib/local-cloud-reboot"
"""A container ends with the same code for poweroff and reboot; a machine that reboots leaves this file."""
_REBOOT_UNIT: Final = f"""\
[Unit]
Description=Tell the embedded AWS that this machine wants to come back
DefaultDependencies=no
Before=systemd-reboot.service
[Service]
Type=oneshot
ExecStart=/bin/touch {REBOOT_MARKER}
[Install]
WantedBy=reboot.target
"""
SSM_UNIT: Final = "amazon-ssm-agent.service"
_SSM_AGENT: Final = """\
[Unit]
Description=Stands for the SSM agent: the embedded AWS takes commands for this machine while this unit is active
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
_MACHINE_FILES: Final[Mapping[str, str]] = {
    "etc/cloud/cloud.cfg": _CLOUD_CFG,
    "etc/cloud/ds-identify.cfg": "policy: enabled\n",
    # The engine inside has no bridge and no firewall rules, because the machine shares this computer's network.
    "etc/docker/daemon.json": json.dumps({"bridge": "none", "iptables": False, "ip6tables": False, "ip-forward": False}, indent=2) + "\n",
    # Docker does not use containerd's Kubernetes interface, which would listen on a port of this computer.
    "etc/containerd/config.toml": 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n',
    "etc/systemd/system/local-cloud-reboot.service": _REBOOT_UNIT,
    f"etc/systemd/system/{SSM_UNIT}": _SSM_AGENT,
    "etc/sudoers.d/10-aws-network": (
        'Defaults env_keep += "AWS_ENDPOINT_URL AWS_EC2_METADATA_SERVICE_ENDPOINT AWS_DEFAULT_REGION AWS_REGION"\n'
    ),
}
_MASKED: Final = (
    *("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket"),
    *("networking.service", "systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service", "getty@tty1.service"),
    *("console-getty.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer"),
)
_FINISH_MACHINE: Final = "; ".join(
    (
        "set -e",
        f"systemctl mask -q {' '.join(_MASKED)}",
        f"systemctl enable -q local-cloud-reboot.service ssh.service docker.service {SSM_UNIT}",
        "systemctl disable -q ssh.socket 2>/dev/null || true",
        "chmod 440 /etc/sudoers.d/10-aws-network",
        "rm -f /etc/ssh/ssh_host_* /etc/hostname",
        ": > /etc/machine-id",
        "update-ca-certificates >/dev/null 2>&1",
    )
)


@dataclass(frozen=True)
class MachineRoot:
    """The machine's base root: ``archive`` an uncompressed tar, ``key`` twelve hex digits of what it was made from."""

    archive: Path
    key: str
    description: str


@dataclass(frozen=True)
class MapBase:
    """The MAP's base as a ready registry folder: repository ``monai-aws/base``, one tag; ``python`` its version (``3.11``)."""

    folder: Path
    tag: str
    digest: str
    size: int
    python: str


def machine_root(config: CloudConfig, on_progress: Progress) -> MachineRoot:
    """The cached machine root, built when absent (about a minute, 0.5 GB)."""
    key = _key("machine", *MACHINE_PACKAGES, *MACHINE_PACKAGES_WHERE_THERE, _FINISH_MACHINE, json.dumps(_MACHINE_FILES))
    archive = config.cache_dir / f"machine-{key}.tar"

    def build(work: Path, run: Run) -> Path:
        on_progress("building the machines' base file system from this machine's package sources (once, a minute or two)")
        packages = (*MACHINE_PACKAGES, *(name for name in MACHINE_PACKAGES_WHERE_THERE if _is_available(name)))
        with _overlay(_MACHINE_FILES) as overlay:
            hooks = [f"tar-in {overlay} /", f"chroot \"$1\" sh -c '{_FINISH_MACHINE}'"]
            return _mmdebstrap(packages, work, hooks, run)

    _once(archive, build, on_progress)
    return MachineRoot(archive, key, f"{_distribution()['PRETTY_NAME']} with cloud-init and a container engine, made on this machine")


def map_base(config: CloudConfig, on_progress: Progress) -> MapBase:
    """The cached MAP base, built when absent (about 40 s, 0.1 GB)."""
    key = _key("map", *MAP_PACKAGES, *_MAP_HOOKS)
    folder = config.cache_dir / f"map-base-{key}"

    def build(work: Path, run: Run) -> Path:
        on_progress("building the base image of MAPs from this machine's package sources (once, about a minute)")
        root = _mmdebstrap(MAP_PACKAGES, work, list(_MAP_HOOKS), run)
        made = work / "registry"
        facts = _write_registry(root, made, tag=f"{_distribution()['VERSION_CODENAME']}-{key}")
        (made / "facts.json").write_text(json.dumps(facts))
        return made

    _once(folder, build, on_progress)
    facts = json.loads((folder / "facts.json").read_text())
    return MapBase(folder, facts["tag"], facts["digest"], facts["size"], facts["python"])


def _once(product: Path, build: Callable[[Path, Run], Path], on_progress: Progress) -> None:
    """Build under a lock, so that two clouds that start together do the work once, and what a killed one left is done anew.

    ``build`` is given an empty folder and what to run long programs with, and returns the product's place in that folder.
    """
    product.parent.mkdir(parents=True, exist_ok=True)
    work = product.with_name(f"{product.name}.part")
    with product.with_suffix(".lock").open("w") as lock:
        take_lock(lock, lambda: on_progress(f"waiting for another start that builds {product.name}"))
        if product.exists():
            return
        _remove(work)
        work.mkdir()
        try:
            build(work, partial(run_program, on_progress=on_progress, hold=lock)).rename(product)
        finally:
            _remove(work)


def _remove(work: Path) -> None:
    """Remove the folder of a build. One that was killed may have left parts of this machine mounted in it."""
    unmount_below(work)
    shutil.rmtree(work, ignore_errors=True)


def _key(*parts: str) -> str:
    sources = [path.read_text() for path in _package_sources()]
    text = json.dumps([*parts, _distribution()["VERSION_CODENAME"], platform.machine(), *sources, *map(str, _LEAVE_OUT)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _distribution() -> dict[str, str]:
    lines = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    facts = {name: value.strip('"') for name, _, value in lines}
    if "VERSION_CODENAME" not in facts:
        raise BaseImageError(
            "This distribution does not name its release.", "The embedded AWS needs Debian, Ubuntu or a relative of theirs."
        )
    return facts


def _package_sources() -> list[Path]:
    """The distribution's own source lists of this machine; those of third parties stay out."""
    folder = Path("/etc/apt/sources.list.d")
    own = [path for name in ("debian", "ubuntu", "raspbian") for path in sorted(folder.glob(f"{name}.sources"))]
    if not own:
        plain = Path("/etc/apt/sources.list")
        own = [plain] if plain.exists() and re.search(r"^\s*deb\s", plain.read_text(), re.MULTILINE) else []
    if not own:
        raise BaseImageError(
            "No package sources of the distribution were found on this machine.", "Check /etc/apt/sources.list and sources.list.d."
        )
    return own


def _is_available(package: str) -> bool:
    done = subprocess.run(["apt-cache", "show", "--no-all-versions", package], capture_output=True, check=False)
    return done.returncode == 0 and bool(done.stdout.strip())


@contextlib.contextmanager
def _overlay(files: Mapping[str, str]) -> Iterator[Path]:
    """A tar of files owned by root, together with this machine's own certificate authorities (hospital networks have them)."""
    with tempfile.TemporaryDirectory(prefix="monai-aws-base-") as folder:
        archive = Path(folder) / "overlay.tar"
        with tarfile.open(archive, "w") as tar:
            for name, text in files.items():
                _add(tar, name, text.encode())
            for certificate in sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt")):
                _add(tar, str(certificate).lstrip("/"), certificate.read_bytes())
        yield archive


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _mmdebstrap(packages: tuple[str, ...], work: Path, hooks: list[str], run: Run) -> Path:
    """Build a root file system in a folder; returns its tar."""
    target = work / "root.tar"
    scratch = work / "scratch"
    scratch.mkdir()
    scratch.chmod(0o755)
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--include={','.join(packages)}"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEAVE_OUT),
        *('--aptopt=APT::Install-Recommends "false"', *(f"--customize-hook={hook}" for hook in hooks)),
        *(_distribution()["VERSION_CODENAME"], str(target), *(str(path) for path in _package_sources())),
    ]
    done = run(command, environment={"TMPDIR": str(scratch)})
    if done.returncode:
        last = [line for line in done.stderr.strip().splitlines() if line][-4:]
        raise BaseImageError(
            f"mmdebstrap failed: {' / '.join(last)}", "Check that this machine's package sources are reachable (apt-get update)."
        )
    return target


# ------------------------------------------------------------------------------------------------------- the MAP base as a registry


def _write_registry(root: Path, target: Path, *, tag: str) -> dict[str, str | int]:
    """Write a root as an image into the on-disk layout of the distribution registry (docker/registry/v2), without an engine."""
    python = _python_version(root)
    blobs = target / "docker/registry/v2/blobs/sha256"
    layer, diff_id, size = _compress(root, blobs)
    made = datetime.now(UTC).isoformat()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": made,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Cmd": ["/bin/bash"],
            "Labels": {"org.opencontainers.image.title": BASE_REPOSITORY, "org.opencontainers.image.version": tag},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
        "history": [{"created": made, "created_by": "monai-aws local up"}],
    }
    described = _put_blob(blobs, json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(json.dumps(config)),
            "digest": f"sha256:{described}",
        },
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": size, "digest": f"sha256:{layer}"}],
    }
    digest = _put_blob(blobs, json.dumps(manifest).encode())
    repository = target / "docker/registry/v2/repositories" / BASE_REPOSITORY
    for blob in (layer, described):
        _link(repository / "_layers/sha256" / blob / "link", blob)
    _link(repository / "_manifests/revisions/sha256" / digest / "link", digest)
    _link(repository / "_manifests/tags" / tag / "current/link", digest)
    _link(repository / "_manifests/tags" / tag / "index/sha256" / digest / "link", digest)
    return {"tag": tag, "digest": f"sha256:{digest}", "size": size, "python": python}


def _python_version(root: Path) -> str:
    with tarfile.open(root) as tar:
        versions = [match[1] for name in tar.getnames() if (match := re.fullmatch(r"\./usr/bin/python(3\.\d+)", name))]
    return versions[0] if versions else "3"


def _compress(root: Path, blobs: Path) -> tuple[str, str, int]:
    """Compress a tar into the blob store; returns blob digest, digest of the uncompressed tar and compressed size in bytes."""
    blobs.mkdir(parents=True, exist_ok=True)
    work = blobs / "layer.part"
    plain = hashlib.sha256()
    with (
        work.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=4, mtime=0, filename="") as packed,
        root.open("rb") as tar,
    ):
        while block := tar.read(1 << 20):
            plain.update(block)
            packed.write(block)
    with work.open("rb") as written:
        digest = _digest(written)
    size = work.stat().st_size
    place = blobs / digest[:2] / digest / "data"
    place.parent.mkdir(parents=True)
    work.rename(place)
    return digest, plain.hexdigest(), size


def _digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _put_blob(blobs: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    place = blobs / digest[:2] / digest / "data"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return digest


def _link(place: Path, digest: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"sha256:{digest}")


def link_map_base(base: MapBase, storage: Path) -> None:
    """Bring the MAP base into a registry's storage by hard links (a copy where the file systems differ)."""
    for source in base.folder.rglob("*"):
        if not source.is_file() or source.name == "facts.json":
            continue
        place = storage / source.relative_to(base.folder)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.name == "link":  # rewritten in place by the registry, so it must not be shared
            shutil.copyfile(source, place)
            continue
        try:
            place.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, place)
