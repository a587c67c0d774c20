"""A command that answers as docker does to the calls of the host agent's engine, and runs the MAP as a plain process of this machine.

Not a container: no isolation, no limits. It is for what the engine and the hosting decide, on any machine; what a container adds is tested
end to end. State lies in ``PRETENDED_DOCKER`` (a folder): one JSON file a container; ``app`` is what an image's application folder holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

STATE = Path(os.environ.get("PRETENDED_DOCKER", "."))


def main(arguments: list[str]) -> int:
    """One docker call."""
    with (STATE / "calls").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if arguments[0] == "run":
        return run(arguments[1:])
    if arguments[0] == "rm":
        for name in arguments[2:]:
            kill(name)
            (STATE / f"{name}.json").unlink(missing_ok=True)
        return 0
    if arguments[0] == "kill":
        return kill(arguments[1])
    if arguments[:2] == ["container", "inspect"]:
        return inspect(arguments[-2], arguments[-1])
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
    namespace = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"] if warm else []
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
    return code


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


def kill(name: str) -> int:
    path = STATE / f"{name}.json"
    if not path.exists():
        return 1
    try:
        os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
    except ProcessLookupError:
        return 1
    return 0


def inspect(template: str, name: str) -> int:
    path = STATE / f"{name}.json"
    if not path.exists():
        return 1
    sys.stdout.write(str(json.loads(path.read_text())["pid"]) if "Pid" in template else path.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
