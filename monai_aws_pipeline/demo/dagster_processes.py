"""Dagster's webserver and daemon as processes of our own, for one machine: started, found again, ended by their ids.

``dagster dev`` started from a script does not end when told, so the two are started here, and beside them the portal, with the pages that
the lineage links to (``monai-aws portal``), unless the settings switch those off. They listen on loopback only and send no
telemetry (infra/dagster.yaml). A team's installation is described in docs/team.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.settings import PACKAGE_ROOT, PROJECT_ROOT, load_settings

HOST = "127.0.0.1"


class DagsterProcessError(NamedError):
    """Webserver or daemon did not come up. The message names the log file."""


PORTS_TRIED = 10


def free_port(preferred: int, promised: int = 0) -> int:
    """The preferred loopback port, one of the next where it is taken, or any free one; never the one that is ``promised`` to another."""
    for port in (*range(preferred, min(preferred + PORTS_TRIED, 65536) if preferred else 0), 0):
        if port and port == promised:
            continue
        with socket.socket() as probe:
            # As a server does: a port whose last connections are still remembered for a minute is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DagsterProcessError("No free port on the loopback address.")


class DagsterProcesses:
    """The processes of one DAGSTER_HOME. ``home`` also holds their logs and the file with their ids."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._file = home / "processes.json"

    @property
    def address(self) -> str:
        """Where the UI answers, empty when it is not running."""
        return str(self._running().get("address", ""))

    @property
    def portal(self) -> str:
        """Where the portal answers, empty when it is not running."""
        return str(self._running().get("portal", ""))

    def start(
        self,
        environment: Mapping[str, str],
        port: int,
        report: Callable[[str], None],
        seconds: float = 300,
        *,
        inherited: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> str:
        """Start all of them unless they run with the same settings and code, and wait until all answer. Returns the UI's address.

        ``inherited``: what they have of an environment beside their own; by default all of this process's. ``exact``: no other port.
        """
        loaded = _fingerprint(environment)
        as_wanted = self._running().get("loaded") == loaded and (not exact or self.address.endswith(f":{port}"))
        if self.address and as_wanted and not self._silent(self.address, self.portal):
            report(f"the UI is running already at {self.address}")
            return self.address
        from dagster import DagsterInstance

        from monai_aws_pipeline.deployment.build_machine import BUILD_POOL

        self.stop()
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT_ROOT / "infra" / "dagster.yaml", self.home / "dagster.yaml")
        # Made once, here: webserver and daemon that both make it at their start can leave a database that neither opens again.
        with DagsterInstance.from_config(str(self.home)) as instance:
            instance.event_log_storage.set_concurrency_slots(BUILD_POOL, 1)  # the queue itself learns of a pool one run too late
        chosen = free_port(port)
        if exact and chosen != port:
            raise DagsterProcessError(f"Port {port} of this machine is taken.", "Name another one, or none.")
        address = f"http://{HOST}:{chosen}"
        rest = os.environ if inherited is None else inherited
        links = _free_links(environment.get("MONAI_AWS_LINKS_URL", load_settings().links_url), report, chosen)
        own = {"DAGSTER_HOME": str(self.home), "MONAI_AWS_LINKS_URL": links, "MONAI_AWS_PORTAL_LISTEN": HOST}
        env = {"MONAI_AWS_UI_ADDRESS": address, **rest, **environment, **own}
        workspace = ["-w", str(PROJECT_ROOT / "workspace.yaml")]
        programs = {
            "webserver": ["dagster-webserver", "-h", HOST, "-p", str(chosen), *workspace],
            "daemon": ["dagster-daemon", "run", *workspace],
            **({"portal": ["monai-aws", "portal"]} if links else {}),
        }
        started: dict[str, int] = {}
        for name, arguments in programs.items():
            started[name] = self._spawn(name, arguments, env)
            # After each: where this process is killed before the next, what runs is known, and not taken for the whole.
            self._record(address, loaded if len(started) == len(programs) else "", started, links)
        deadline = time.monotonic() + seconds
        while silent := self._silent(address, links):
            dead = [name for name, pid in started.items() if _birth(pid) is None]
            if dead or time.monotonic() > deadline:
                self.stop()
                raise DagsterProcessError(*self._not_up(dead or silent))
            time.sleep(0.3)
        return address

    def _record(self, address: str, loaded: str, started: Mapping[str, int], portal: str) -> None:
        processes = {name: [pid, _birth(pid)] for name, pid in started.items()}
        self._file.write_text(json.dumps({"address": address, "portal": portal, "loaded": loaded, "processes": processes}))

    def _not_up(self, names: list[str]) -> tuple[str, str]:
        """Cause and remedy, from what these processes wrote last."""
        from monai_aws_pipeline.run_failures import last_lines

        said = "\n".join(last_lines(self.home / f"{name}.log") for name in names)
        return f"The {' and '.join(names)} did not come up. The last lines of its log:\n{said}", f"The whole log is in {self.home}."

    def _spawn(self, name: str, arguments: list[str], env: Mapping[str, str]) -> int:
        program = str(Path(sys.executable).parent / arguments[0])
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [program, *arguments[1:]],
                env=dict(env),
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return process.pid

    @staticmethod
    def _silent(address: str, portal: str) -> list[str]:
        """Which of the two that a browser opens do not answer. The portal is asked here, whatever name it has elsewhere."""
        from monai_aws_pipeline.portal.server import port_of

        asked = {"webserver": f"{address}/server_info", **({"portal": f"http://{HOST}:{port_of(portal)}/health"} if portal else {})}
        return [name for name, each in asked.items() if not _answers(each)]

    def _running(self) -> dict[str, object]:
        try:
            noted = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        alive = all(_birth(pid) == birth for pid, birth in noted.get("processes", {}).values())
        return noted if alive and isinstance(noted, dict) else {}

    def stop(self, seconds: float = 20) -> None:
        """End all of them and everything they started; processes that are gone already are fine."""
        try:
            noted = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return
        # The birth time guards against ending a stranger who got the same id since.
        alive = [pid for pid, birth in noted["processes"].values() if birth is not None and _birth(pid) == birth]
        for sign, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            for pid in alive:
                _signal_group(pid, sign)
            deadline = time.monotonic() + patience
            while alive and time.monotonic() < deadline:
                alive = [pid for pid in alive if _group_lives(pid)]
                time.sleep(0.1)
        self._file.unlink(missing_ok=True)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310  # an address we made
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, OSError):
        return False


def _free_links(wanted: str, report: Callable[[str], None], promised: int = 0) -> str:
    """Where the portal is to open: as wanted, or at any free port of loopback where that one is taken; empty: nowhere.

    ``promised``: the port of the UI, which nobody listens at yet.
    """
    from monai_aws_pipeline.portal.server import port_of

    if not wanted:
        return ""
    port = port_of(wanted)
    chosen = free_port(port, promised)
    if chosen == port:
        return wanted
    report(f"port {port} is taken, so the portal opens at port {chosen}; MONAI_AWS_LINKS_URL names another")
    return f"http://{HOST}:{chosen}"


def _fingerprint(environment: Mapping[str, str]) -> str:
    """What the processes were started with: their environment, the state of the code they load, and where its packages lie."""
    code = {str(path): path.stat().st_mtime_ns for path in sorted(PACKAGE_ROOT.rglob("*.py"))}
    return hashlib.sha256(json.dumps([dict(environment), code, sys.prefix], sort_keys=True).encode()).hexdigest()[:16]


def _signal_group(pid: int, sign: int) -> None:
    try:
        os.killpg(pid, sign)
    except ProcessLookupError:
        return


def _group_lives(pid: int) -> bool:
    try:
        while os.waitpid(pid, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _birth(pid: int) -> str | None:
    """The process's start time in clock ticks since boot, None where it is gone or a zombie. Source: proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
