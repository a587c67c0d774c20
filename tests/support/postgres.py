"""A throw-away PostgreSQL of Debian's packages on loopback, for tests and measurements of a team's storage.

Here belongs the server's life: installed where it is missing, a cluster with a folder, a port and a password of its own, run as a user that
is not root, ended with its test process however that ends (tests/support/reaper.py). Each test makes its own database in it.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from monai_aws_pipeline.local_cloud.system import install_packages
from monai_aws_pipeline.settings import load_settings
from tests.support.cloud import free_port
from tests.support.reaper import ended_by

_USER: Final = "postgres"
_NO_CLUSTER: Final = Path("/etc/postgresql-common/createcluster.d/monai-aws-tests.conf")


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    password: str

    def database(self) -> str:
        """Make an empty database; its name."""
        name = f"dagster_{uuid.uuid4().hex[:10]}"
        connection = self.connect("postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"create database {name}")
        finally:
            connection.close()
        return name

    def connect(self, database: str) -> Any:
        """A connection of psycopg2, which only those need who use this."""
        import psycopg2

        return psycopg2.connect(host="127.0.0.1", port=self.port, user=_USER, password=self.password, dbname=database)

    def environment(self, database: str) -> dict[str, str]:
        """What a team's dagster.yaml reads to find this database."""
        return {
            "DAGSTER_POSTGRES_HOST": "127.0.0.1",
            "DAGSTER_POSTGRES_PORT": str(self.port),
            "DAGSTER_POSTGRES_USER": _USER,
            "DAGSTER_POSTGRES_PASSWORD": self.password,
            "DAGSTER_POSTGRES_DB": database,
        }


@contextmanager
def server(*options: str) -> Iterator[Postgres]:
    """A server of its own; ``options`` are settings such as ``fsync=off``."""
    programs = ensure_programs()
    folder = Path(tempfile.mkdtemp(prefix="monai-aws-postgres-"))
    end = [sys.executable, "-m", "tests.support.postgres", str(folder)]
    with ended_by(end, load_settings().cache_dir.resolve() / "test-postgres"):
        yield _start(programs, folder, options)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of the session. It is thrown away, so it need not survive a power cut."""
    with server("fsync=off", "full_page_writes=off", "synchronous_commit=off") as running:
        yield running


def ensure_programs() -> Path:
    """The folder of PostgreSQL's programs, the newest version's; installed from Debian's packages where there is none."""
    if not (found := _programs()):
        # Debian's package makes a cluster that starts with the machine; nobody here asked for one.
        _NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
        _NO_CLUSTER.write_text("create_main_cluster = false\n")
        try:
            install_packages(["postgresql"], lambda line: sys.__stderr__.write(f"postgres: {line}\n") if sys.__stderr__ else None)
        finally:
            _NO_CLUSTER.unlink(missing_ok=True)  # another test process may install as well
        found = _programs()
    return found[-1]


def _programs() -> list[Path]:
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return sorted(folders, key=lambda path: int(path.parent.name))


def _start(programs: Path, folder: Path, options: Sequence[str]) -> Postgres:
    from psycopg2 import OperationalError

    made = Postgres(free_port(), secrets.token_hex(16))
    password, data = folder / "password", folder / "data"
    password.write_text(made.password)
    for path in (folder, password):
        shutil.chown(path, *_owner())
    password.chmod(0o600)
    initialise = [programs / "initdb", "-D", data, "-U", _USER, "--auth=scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-sync"]
    subprocess.run([*initialise, "--locale=C.UTF-8"], check=True, capture_output=True, **_as_user())
    chosen = ["listen_addresses=127.0.0.1", f"port={made.port}", "unix_socket_directories=", "max_connections=200", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *(word for option in chosen for word in ("-c", option))],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **_as_user(),
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while True:
        try:
            made.connect("postgres").close()
        except OperationalError:
            said = (folder / "log").read_text()
            assert process.poll() is None, f"PostgreSQL ended with {process.returncode}: {said[-2000:]}"
            assert time.monotonic() < deadline, f"PostgreSQL does not answer: {said[-2000:]}"
            time.sleep(0.05)
        else:
            return made


def _owner() -> tuple[int, int]:
    user = pwd.getpwnam(_USER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    return user.pw_uid, user.pw_gid


def _as_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    uid, gid = _owner()
    return {"user": uid, "group": gid, "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}


def end(folder: Path) -> None:
    """Stop the server of a folder, by the id that it wrote there, and remove the folder. Fine where either is gone."""
    noted = folder / "data" / "postmaster.pid"
    if noted.exists():
        pid = int(noted.read_text().split()[0])
        deadline = time.monotonic() + 30
        while _is_ours(pid, folder):
            os.kill(pid, signal.SIGINT if time.monotonic() < deadline - 20 else signal.SIGQUIT)
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL {pid} does not end")
            time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether the process lives, is no zombie, and is the server of this folder and not a stranger with its id."""
    try:
        return str(folder / "data").encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


if __name__ == "__main__":
    end(Path(sys.argv[1]))
