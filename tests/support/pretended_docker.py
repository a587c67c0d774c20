"""A docker that answers the calls of the host agent's engine, and runs the MAP as a plain process of this machine: command and interface.

Not a container: no isolation, no limits. It is for what the engine and the hosting decide, on any machine; what a container adds is tested
end to end. State lies in ``PRETENDED_DOCKER`` (a folder): one JSON file a container; ``app`` is what an image's application folder holds.
``serving`` is the engine's interface on a socket, over the same state; its calls are noted as the commands that do the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from monai_aws_pipeline.host_agent.runtime.engine import Engine

OLDEST = "1.44"
"""Docker 29.0 takes no older version of its interface."""
STATE = Path(os.environ.get("PRETENDED_DOCKER", "."))


def main(arguments: list[str]) -> int:
    """One docker call."""
    with (STATE / "calls").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if arguments[0] == "run":
        return run(arguments[1:])
    answers = json.loads((STATE / "answers.json").read_text()) if (STATE / "answers.json").exists() else {}
    answer = answers.get(arguments[0])
    if answer is None:
        return 1
    sys.stdout.write(answer)
    return 0


def run(words: list[str]) -> int:
    """``docker run``: the environment and folders that it was told, the application in this machine's Python."""
    options: dict[str, list[str]] = {}
    while words[0].startswith("--"):
        option = words.pop(0)
        options.setdefault(option, []).append("" if option in ("--read-only", "--interactive") else words.pop(0))
    name = options["--name"][0]
    if "--env" not in options:
        return keep_namespace(name)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(STATE / "tmp"), "PRETENDED_DOCKER": str(STATE)}
    environment |= dict(pair.split("=", 1) for pair in options["--env"])
    for volume in options["--volume"]:
        place, inside = volume.split(":")[:2]
        for variable in ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"):
            if environment[variable] == inside:
                environment[variable] = place
        if "--interactive" in options and inside == words[-1]:
            words[-1] = place
    (STATE / "tmp").mkdir(exist_ok=True)
    if (STATE / "refuses to start").exists():
        sys.stderr.write("docker: Error response from daemon: no such runtime.\n")
        return 125
    if options["--entrypoint"] == ["/bin/sh"]:
        if (STATE / "no shell").exists():
            return 127
        if not sys.stdin.readline():
            return 1
        del options["--interactive"], words[1:5]
    warm = "--interactive" in options
    # Its own System V objects, like a container's: the server removes all that it sees, a database server's of this machine too.
    namespace = ["unshare", "--fork", "--pid", "--ipc", "--mount-proc", "--kill-child"] if warm else []
    process = subprocess.Popen(
        [*namespace, sys.executable, *(str(STATE / "app") if word == "/opt/holoscan/app" else word for word in words[1:])],
        env=environment, stdin=subprocess.PIPE if warm else subprocess.DEVNULL,
    )  # fmt: skip
    (STATE / f"{name}.json").write_text(state(process.pid, 0))
    if warm:
        forward(process)
    code = process.wait()
    code = 128 - code if code < 0 else code
    with contextlib.suppress(FileNotFoundError), (STATE / f"{name}.json").open("r+") as file:  # removed meanwhile: stays removed
        file.write(state(process.pid, code))
        file.truncate()
    while (STATE / "slow to end").exists():
        time.sleep(0.02)
    return code


def keep_namespace(name: str) -> int:
    """A container that waits for the end of its standard input, to lend its network namespace meanwhile."""
    if (STATE / "no shell").exists():
        return 127
    place = STATE / f"{name}.json"
    place.write_text(state(os.getpid(), 0))
    sys.stdin.read()
    place.unlink(missing_ok=True)
    return 0


def forward(process: subprocess.Popen[bytes]) -> None:
    """Hand over what the agent says. The first order gets what differs here from a container: the application's place and its scratch."""
    assert process.stdin
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    order = {**json.loads(line), "name": str(STATE / "app"), "scratch": [str(STATE / "tmp")]}
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.flush()
    threading.Thread(target=copy, args=(process.stdin,), daemon=True).start()


def copy(target: IO[bytes]) -> None:
    """Standard input to another stream, to the end."""
    while data := os.read(0, 4096):
        target.write(data)
        target.flush()
    target.close()


def state(pid: int, code: int) -> str:
    """What ``container inspect`` says of a container, with its process."""
    return json.dumps({"pid": pid, "StartedAt": "2026-01-01T00:00:00Z", "ExitCode": code})


@contextlib.contextmanager
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine of the agent over this docker; ``folder/docker`` is its state. Afterwards it has settled."""
    command = folder / "docker-command"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    command.chmod(0o755)
    (folder / "docker" / "app").mkdir(parents=True)
    monkeypatch.setenv("PRETENDED_DOCKER", str(folder / "docker"))
    from monai_aws_pipeline.host_agent.runtime.docker_api import EngineApi
    from monai_aws_pipeline.host_agent.runtime.engine import Engine  # not for the command, whose start is to be quick

    with serving(folder / "docker") as socket:
        made = Engine(folder / "credentials", str(command), EngineApi(socket))
        yield made
        made.settle()


@contextlib.contextmanager
def serving(state_folder: Path) -> Iterator[Path]:
    """The engine's interface over the containers in a folder, while the block lasts; yields its socket."""
    with tempfile.TemporaryDirectory() as folder, Server(str(Path(folder) / "docker.sock"), Interface) as server:
        server.state, server.made = state_folder, {}
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield Path(folder) / "docker.sock"
        finally:
            server.shutdown()
            thread.join()


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    state: Path
    made: dict[str, Made]

    def handle_error(self, *_: object) -> None:
        """Say nothing of a caller that is gone."""


class Made:
    """A container that was made through the interface: its description, its streams, its end."""

    def __init__(self, description: dict[str, Any]):
        self.description = description
        self.streams = socket.socket()  # until one is attached
        self.over = threading.Event()
        self.code = 0
        self.end: Callable[[], None] = self.over.set  # one that never starts has ended

    def words(self, name: str) -> list[str]:
        """``docker run`` as it would be called for it."""
        host = self.description["HostConfig"]
        words = ["run", "--name", name, "--network", host["NetworkMode"]]
        for option, values in (("--env", self.description["Env"]), ("--volume", host["Binds"])):
            words += [word for value in values for word in (option, value)]
        words += ["--workdir", self.description["WorkingDir"]] if self.description["WorkingDir"] else []
        words += ["--interactive"] if self.description["OpenStdin"] else []
        return [*words, "--entrypoint", *self.description["Entrypoint"], self.description["Image"], *self.description["Cmd"]]

    def take_input(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        with contextlib.suppress(OSError), process.stdin:
            while data := self.streams.recv(4096):
                process.stdin.write(data)
                process.stdin.flush()

    def give_output(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with contextlib.suppress(OSError):
            while data := process.stdout.read1(4096):
                self.streams.sendall(b"\1\0\0\0" + len(data).to_bytes(4, "big") + data)
        self.code = process.wait()
        with contextlib.suppress(OSError):
            self.streams.shutdown(socket.SHUT_RDWR)
        self.over.set()


class Interface(BaseHTTPRequestHandler):
    """Containers by name; of images it knows what ``answers.json`` holds under ``image``."""

    def do_GET(self) -> None:
        if self.path == "/version":
            self.say(200, {"ApiVersion": "1.52", "MinAPIVersion": OLDEST})
            return
        if self.is_too_old():
            return
        if self.path.partition("?")[0].endswith("/containers/json"):
            self.say(200, [{"ImageID": json.loads(path.read_text()).get("image", "")} for path in self.state.glob("*.json")])
            return
        _, _, what, name = self.path.removesuffix("/json").split("/", 3)
        if what == "images":
            self.note(["image", "inspect", name])
            answers = self.state / "answers.json"
            self.say(200 if answers.exists() and "image" in json.loads(answers.read_text()) else 404, {})
            return
        path = self.state / f"{name}.json"
        if not path.exists():
            self.say(404, {"message": f"No such container: {name}"})
            return
        found = json.loads(path.read_text())
        self.say(200, {"State": {**found, "Pid": found["pid"]}})

    def is_too_old(self) -> bool:
        """As Docker 29 refuses a client that speaks an older version of the interface."""
        spoken = self.path.split("/")[1].removeprefix("v")
        if tuple(map(int, spoken.split("."))) >= tuple(map(int, OLDEST.split("."))):
            return False
        self.say(400, {"message": f"client version {spoken} is too old. Minimum supported API version is {OLDEST}"})
        return True

    def do_POST(self) -> None:
        if self.is_too_old():
            return
        place, _, query = self.path.partition("?")
        if place.endswith("/containers/create"):
            name = query.removeprefix("name=")
            self.server.made[name] = Made(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
            self.say(201, {"Id": name})
            return
        _, _, _, name, what = place.split("/")
        if what != "kill":
            if made := self.server.made.get(name):  # type: ignore[attr-defined]
                getattr(self, what)(name, made)
            else:
                self.say(404, {"message": f"No such container: {name}"})
            return
        self.note(["kill", name])
        self.say(204 if kill(self.state, name) else 409)

    def do_DELETE(self) -> None:
        if self.is_too_old():
            return
        name = self.path.split("/")[3].partition("?")[0]
        self.note(["rm", "--force", name])
        kill(self.state, name)
        if made := self.server.made.pop(name, None):  # type: ignore[attr-defined]
            with contextlib.suppress(ProcessLookupError):
                made.end()
        (self.state / f"{name}.json").unlink(missing_ok=True)
        self.say(204)

    def attach(self, _: str, made: Made) -> None:
        self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        made.streams = self.connection
        made.over.wait()

    def start(self, name: str, made: Made) -> None:
        words, pipe = made.words(name), subprocess.PIPE
        command = [sys.executable, __file__, *words]
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True)
        made.end = lambda: os.killpg(process.pid, signal.SIGKILL)
        threading.Thread(target=made.take_input, args=(process,), daemon=True).start()
        threading.Thread(target=made.give_output, args=(process,), daemon=True).start()
        self.say(204)

    def wait(self, _: str, made: Made) -> None:
        made.over.wait()
        self.say(200, {"StatusCode": made.code})

    def note(self, call: list[str]) -> None:
        with (self.state / "calls").open("a") as log:
            log.write(json.dumps(call) + "\n")

    @property
    def state(self) -> Path:
        return self.server.state  # type: ignore[attr-defined]

    def say(self, status: int, content: object = None) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def address_string(self) -> str:
        return "unix socket"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def kill(state_folder: Path, name: str) -> bool:
    path = state_folder / f"{name}.json"
    if not path.exists():
        return False
    try:
        os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
