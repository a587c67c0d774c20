"""How a MAP is run: the docker arguments that follow from an image, its ``app.json`` and the limits of the host.

Here belongs the argument list and its reasons, as pure functions. Here belongs no process, no AWS and no file access: the host agent
starts what is described here, and the conformance check compares with it. Standard library only, because the file is shipped to hosts.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from monai_aws_pipeline.errors import NamedError

APP_MANIFEST_PATHS: Final = ("/etc/holoscan/app.json", "/etc/monai/app.json")
"""Where a MAP keeps its application manifest; the second place is the one of MAPs built before the Holoscan packager."""

CONTAINER_LABEL: Final = "monai-aws.job"
"""Label of every container the agent starts, so that one left by a crash is found and removed."""

NO_NETWORK: Final = "none"
"""The network of a study's container: a loopback interface and nothing else."""

WARM_SERVER_PATH: Final = "/opt/monai-aws/warm_server.py"
"""Where the server of a warm container is bound into it."""

_CONFINED: Final = (
    "--pull", "never",      # only what was pulled by digest and verified before runs here
    "--log-driver", "none",  # the agent reads the output itself; a chatty MAP cannot fill the disk
    "--read-only",
    "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges",
)  # fmt: skip

_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?")
_FLAG: Final = re.compile(r"-[bBEIOPqsSu]+")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER_PROGRAMS: Final = re.compile(r"((?:/[A-Za-z0-9._-]+)+/\.local)/bin")
_OURS: Final = re.compile(r"/(var|opt|mnt|data|input|output|home|srv)(/[A-Za-z0-9._-]+)*")


class AppManifestError(NamedError, ValueError):
    """``app.json`` cannot be used to run the MAP. Names the field, what was found and what is expected."""


@dataclass(frozen=True)
class RunSpec:
    """What ``app.json`` says about running the application.

    ``input_path``/``output_path``: absolute paths inside the container. ``timeout_s``: seconds, 0 where the manifest sets none.
    """

    command: tuple[str, ...]
    input_path: str
    output_path: str
    working_directory: str
    environment: tuple[tuple[str, str], ...] = ()
    timeout_s: int = 0
    version: str = ""
    sdk_version: str = ""


@dataclass(frozen=True)
class Limits:
    """What one study may use on this host. ``gpus`` is the value of ``docker run --gpus``, empty where there is no GPU."""

    timeout_s: int = 1800
    memory_mib: int = 12288
    pids: int = 512
    gpus: str = ""
    network: str = NO_NETWORK
    uid: int = 1000
    gid: int = 1000
    labels: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True)
class PythonCommand:
    """A Python command line: interpreter, its own flags, ``script`` or ``module`` with its path or name, and the arguments."""

    interpreter: str
    flags: tuple[str, ...]
    kind: str
    name: str
    arguments: tuple[str, ...]


def parse_app_json(text: str) -> RunSpec:
    """Read a MAP's ``app.json``. Raises AppManifestError naming every wrong field.

    ``command`` is a string that holds a JSON list (Holoscan packager), a list (hand-written MAPs), or a line for a shell (MAPs of MONAI
    Deploy before Holoscan, which also spell the fields otherwise). Input and output paths may be relative to ``workingDirectory``.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AppManifestError("app.json is not JSON") from error
    if not isinstance(data, dict):
        raise AppManifestError("app.json is not a JSON object")
    wrong_fields: list[str] = []
    older = is_older(data)
    data = respelled(data)
    work = data.get("workingDirectory") or ("/var/monai" if older else "/var/holoscan")
    if not isinstance(work, str) or not work.startswith("/"):
        wrong_fields.append("workingDirectory must be an absolute path")
        work = "/var/holoscan"
    command = _command(data.get("command"), wrong_fields, as_line=older)
    environment = _environment(data.get("environment"), wrong_fields)
    input_path = _folder(data, "input", work, wrong_fields)
    output_path = _folder(data, "output", work, wrong_fields)
    if input_path == output_path:
        wrong_fields.append("input.path and output.path must differ")
    timeout = data.get("timeout") or 0
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= 86400:
        wrong_fields.append("timeout must be a number of seconds from 0 to 86400")
        timeout = 0
    if wrong_fields:
        raise AppManifestError("app.json: " + "; ".join(wrong_fields))
    return RunSpec(
        command=command,
        input_path=input_path,
        output_path=output_path,
        working_directory=posixpath.normpath(work),
        environment=environment,
        timeout_s=int(timeout),
        version=_plain(data.get("version")),
        sdk_version=_plain(data.get("sdkVersion")),
    )


def is_older(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has the spelling of MONAI Deploy App SDK 0.5 and before (``api-version``)."""
    return "api-version" in manifest


def respelled(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with its fields as they are spelled today: ``working-directory`` becomes ``workingDirectory``."""
    if not is_older(manifest):
        return dict(manifest)
    words = ((name.split("-"), value) for name, value in manifest.items())
    return {first + "".join(word.capitalize() for word in rest): value for (first, *rest), value in words}


def with_user_packages(app: RunSpec, image: Mapping[str, str]) -> RunSpec:
    """The same application, told where packages lie that were installed for the image's user. ``image``: the image's own variables.

    The official packager installs with ``pip --user``, into the user's home, and names ``HOME/.local/bin`` on PATH. Python looks for them
    below HOME, which is another folder here (``container_environment``); PYTHONUSERBASE names their place (PEP 370).
    """
    found = next((match[1] for entry in image.get("PATH", "").split(":") if (match := _USER_PROGRAMS.fullmatch(entry))), "")
    if not found or "PYTHONUSERBASE" in image:
        return app
    return replace(app, environment=tuple(sorted({"PYTHONUSERBASE": found, **dict(app.environment)}.items())))


def effective_timeout(spec: RunSpec, limits: Limits) -> int:
    """Seconds one study may take: the shorter of the MAP's own timeout and the host's."""
    return min(spec.timeout_s, limits.timeout_s) if spec.timeout_s else limits.timeout_s


def run_arguments(image: str, app: RunSpec, input_folder: Path, output_folder: Path, limits: Limits, *, name: str) -> list[str]:
    """Arguments after ``docker`` that run one study in isolation.

    Without ``--rm``, so that the end (exit code, killed for memory) can be read before the agent removes the container.
    """
    # The MAP's own entry point (`tools`) ends with 0 even when the application failed, so the application is started directly.
    return [*_isolated(app, input_folder, output_folder, limits, name), "--entrypoint", app.command[0], image, *app.command[1:]]


def held_arguments(image: str, app: RunSpec, input_folder: Path, output_folder: Path, limits: Limits, *, name: str) -> list[str]:
    """As ``run_arguments``, but the application begins when a line arrives on standard input, and never when that ends without one.

    So a container can be started while the study before it is still inferred. The shell is replaced by the application (``exec``).
    """
    start = [*_isolated(app, input_folder, output_folder, limits, name), "--interactive", "--entrypoint", "/bin/sh"]
    return [*start, image, "-c", 'IFS= read -r _ && exec "$@" </dev/null', "map", *app.command]


def warm_arguments(
    image: str, app: RunSpec, python: PythonCommand, server: Path, input_folder: Path, output_folder: Path, limits: Limits, *, name: str
) -> list[str]:
    """Arguments after ``docker`` that start ``server`` in the MAP's own Python, in the same isolation as a study of its own.

    ``--interactive``: the agent speaks with the server through standard input, because the container has no network.
    """
    return [
        *_isolated(app, input_folder, output_folder, limits, name),
        "--interactive",
        "--volume", f"{server}:{WARM_SERVER_PATH}:ro",
        "--entrypoint", python.interpreter, image, *python.flags, WARM_SERVER_PATH,
    ]  # fmt: skip


def namespace_arguments(image: str, limits: Limits, *, name: str) -> list[str]:
    """Arguments after ``docker`` that start a container which only keeps its network namespace, until standard input ends."""
    return [
        "run",
        "--name", name,
        "--network", NO_NETWORK,
        *_CONFINED,
        *_bounded(limits),
        "--interactive",
        "--entrypoint", "/bin/sh", image, "-c", "IFS= read -r _",
    ]  # fmt: skip


def _isolated(app: RunSpec, input_folder: Path, output_folder: Path, limits: Limits, name: str) -> list[str]:
    arguments = [
        "run",
        "--name", name,
        "--network", limits.network,
        *_CONFINED,
        *_bounded(limits),
        "--tmpfs", "/tmp",  # noqa: S108  the one place a MAP may write beside its output
        "--workdir", app.working_directory,
        "--volume", f"{input_folder}:{app.input_path}:ro",
        "--volume", f"{output_folder}:{app.output_path}",
    ]  # fmt: skip
    if limits.gpus:
        # A private /dev/shm of 1 GiB instead of --ipc=host: data loaders get their shared memory and the host's stays its own.
        arguments += ["--gpus", limits.gpus, "--shm-size", "1g", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    for key, value in container_environment(app):
        arguments += ["--env", f"{key}={value}"]
    return arguments


def _bounded(limits: Limits) -> list[str]:
    memory = f"{limits.memory_mib}m"
    labels = [word for key, value in limits.labels for word in ("--label", f"{key}={value}")]
    return [
        "--user", f"{limits.uid}:{limits.gid}",
        "--memory", memory,
        "--memory-swap", memory,   # of both together: docker would allow as much swap again, which holds a whole host up
        "--pids-limit", str(limits.pids),
        *labels,
    ]  # fmt: skip


def python_command(command: tuple[str, ...]) -> PythonCommand | None:
    """A command that runs a Python script, folder or module, taken apart; None for any other command."""
    if not _PYTHON.fullmatch(posixpath.basename(command[0])):
        return None
    rest = list(command[1:])
    flags: list[str] = []
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "-m" and rest:
            return PythonCommand(command[0], tuple(flags), "module", rest[0], tuple(rest[1:]))
        if word in ("-W", "-X") and rest:
            flags += [word, rest.pop(0)]
        elif _FLAG.fullmatch(word):
            flags.append(word)
        else:
            return None
    return PythonCommand(command[0], tuple(flags), "script", rest[0], tuple(rest[1:])) if rest else None


def container_environment(app: RunSpec) -> tuple[tuple[str, str], ...]:
    """The variables of ``app.json``, its two folders as absolute paths, and a home that can be written.

    ``HOME=/tmp``: the root is read-only and CuPy, matplotlib and others create a cache folder under HOME when they are imported; without
    it the application ends before its first line.
    """
    ours = {"HOLOSCAN_INPUT_PATH": app.input_path, "HOLOSCAN_OUTPUT_PATH": app.output_path, "HOME": "/tmp"}  # noqa: S108
    return tuple(sorted({**dict(app.environment), **ours}.items()))


def _command(value: Any, wrong: list[str], *, as_line: bool) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = shlex.split(value) if as_line and not value.lstrip().startswith("[") else json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not value or not all(isinstance(part, str) and part and "\0" not in part for part in value):
        wrong.append("command must be a JSON list of non-empty strings, written as a string")
        return ("false",)
    return tuple(value)


def _environment(value: Any, wrong: list[str]) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(
        _VARIABLE.fullmatch(name) and isinstance(text, str) and "\0" not in text for name, text in value.items()
    ):
        wrong.append("environment must map variable names to strings")
        return ()
    return tuple(sorted(value.items()))


def _folder(data: dict[str, Any], which: str, work: str, wrong: list[str]) -> str:
    part = data.get(which)
    path = part.get("path") if isinstance(part, dict) else None
    if not isinstance(path, str) or not path:
        wrong.append(f"{which}.path is missing")
        return f"/var/holoscan/{which}"
    path = posixpath.normpath(posixpath.join(work, path))
    if not _OURS.fullmatch(path) or (path.count("/") < 2 and path not in ("/input", "/output")):
        # A MAP that asks for /etc or / to be mounted over would be run with somebody else's files in place of its own.
        wrong.append(f"{which}.path must lie in a folder of its own such as /var/holoscan/{which}")
    return path


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
