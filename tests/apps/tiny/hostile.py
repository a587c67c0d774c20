"""What a hostile application would try: write everywhere, reach the network and the metadata service, find secrets and other studies.

Each attempt returns what it got, or None for nothing. The findings go into the log as one JSON line, from which the test reads them.
"""

# ruff: noqa: S108, S310, PTH118  hostile on purpose

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import urllib.request
from collections.abc import Callable
from pathlib import Path

MARK = "hostile-was-here"
FOLDERS = (
    "/",
    "/etc",
    "/usr/bin",
    "/opt/holoscan/app",
    "/opt",
    "/var",
    "/var/holoscan",
    "/var/tmp",
    "/root",
    "/run",
    "/sys",
    "/proc",
    "/dev",
)
SECRETS = ("AWS_", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL", "MONAI_AWS")
HOST_PLACES = (
    "/var/lib/monai-aws",
    "/etc/monai-aws",
    "/opt/monai-aws/lib",
    "/opt/monai-aws/bin",
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/var/lib/docker",
    "/host",
)
CLONE_NEWUSER, MS_BIND = 0x10000000, 4096


def report(source: Path, output: Path, address: str) -> str:
    """Try everything; ``address`` is where the machine's metadata service listens. One line of JSON: what each attempt got."""
    attempts: dict[str, Callable[[], object]] = {
        "writes_outside_output": lambda: [folder for folder in FOLDERS if writes(Path(folder))],
        "writes_input": lambda: writes(source) or removes(source),
        "finds_the_mark_of_another_study": lambda: [str(path) for path in (Path("/tmp", MARK), output / MARK) if path.exists()],
        "network_interfaces": lambda: [name for _, name in socket.if_nameindex() if name != "lo"],
        "connects": lambda: [
            place for place in ((address, 22), (address, 80), ("169.254.169.254", 80), ("8.8.8.8", 53)) if connects(*place)
        ],
        "metadata": lambda: [url for url in (f"http://{address}", "http://169.254.169.254") if fetches(f"{url}/latest/meta-data/")],
        "environment": lambda: [name for name in os.environ if any(word in name.upper() for word in SECRETS)],
        "host_places": lambda: [place for place in HOST_PLACES if Path(place).exists()],
        "foreign_studies": lambda: foreign_studies(source, output),
        "foreign_processes": foreign_processes,
        "root": lambda: os.geteuid() == 0 or succeeds(lambda: os.setuid(0)),
        "capabilities": lambda: int(status("CapEff") or "0", 16) | int(status("CapBnd") or "0", 16),
        "new_privileges": lambda: status("NoNewPrivs") != "1",
        "devices": lambda: succeeds(lambda: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))),
        "namespaces": lambda: libc().unshare(CLONE_NEWUSER) == 0,
        "mounts": lambda: libc().mount(b"/proc", b"/tmp", None, MS_BIND, None) == 0,
        "setuid_programs": lambda: False if status("NoNewPrivs") == "1" else "sudo",
    }
    found = {name: attempt() or None for name, attempt in attempts.items()}
    Path("/tmp", MARK).touch()
    return "hostile: " + json.dumps(found, default=str)


def writes(folder: Path) -> bool:
    """Whether a file can be made in a folder."""
    return succeeds((folder / MARK).touch)


def removes(folder: Path) -> bool:
    """Whether a file of a folder can be removed."""
    return any(succeeds(path.unlink) for path in folder.rglob("*") if path.is_file())


def succeeds(act: Callable[[], object]) -> bool:
    """Whether the kernel allows it."""
    try:
        act()
    except OSError:
        return False
    return True


def connects(host: str, port: int) -> bool:
    """Whether somebody answers there."""
    return succeeds(lambda: socket.create_connection((host, port), timeout=0.5).close())


def fetches(url: str) -> bool:
    """Whether a web server answers at all; urllib's errors are OSErrors."""
    try:
        urllib.request.urlopen(url, timeout=0.5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def foreign_studies(source: Path, output: Path) -> list[str]:
    """DICOM files anywhere but in the own folders."""
    found = []
    for top, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if not (top == "/" and name in ("proc", "sys", "dev"))]
        found += [os.path.join(top, name) for name in names if name.endswith((".dcm", ".zip")) and "site-packages" not in top]
    return [path for path in found if not path.startswith((str(source), str(output)))]


def foreign_processes() -> list[str]:
    """Command lines of processes that are not this application."""
    lines = {path.read_bytes().replace(b"\0", b" ").decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [line for line in lines if any(word in line for word in ("dockerd", "systemd", "host_agent", "monai-aws-agent", "sshd"))]


def status(field: str) -> str:
    """A field of /proc/self/status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return lines.get(field, "").strip()


def libc() -> ctypes.CDLL:
    """The C library, for what Python does not offer."""
    return ctypes.CDLL(None, use_errno=True)
