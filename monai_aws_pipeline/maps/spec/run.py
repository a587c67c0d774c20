"""How a MAP is run: the containers that follow from an image, its ``app.json`` and the limits of the host.

Here belongs what a study is given and why, as pure functions. Here belongs no process, no AWS and no file access: the host agent
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
from monai_aws_pipeline.maps.spec.container import NO_NETWORK, Bind, ContainerSpec

APP_MANIFEST_PATHS: Final = ("/etc/holoscan/app.json", "/etc/monai/app.json")
"""Where a MAP keeps its application manifest; the second place is the one of MAPs built before the Holoscan packager."""

CONTAINER_LABEL: Final = "monai-aws.job"
"""Label of every container the agent starts, so that one left by a crash is found and removed."""

WARM_SERVER_PATH: Final = "/opt/monai-aws/warm_server.py"
"""Where the server of a warm container is bound into it."""

_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?")
_FLAG: Final = re.compile(r"-[bBEIOPqsSu]+")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER_PROGRAMS: Final = re.compile(r"((?:/[A-Za-z0-9._-]+)+/\.local)/bin")
_SPIN: Final = "20"
"""A power of two, in processor cycles: a third of a millisecond. By itself each of OpenBLAS's threads, which ``import numpy`` starts, keeps
a core busy for 2^26, two fifths of what that import takes on two cores, while other studies could have it. It changes no result."""
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


def with_image_variables(app: RunSpec, image: Mapping[str, str]) -> RunSpec:
    """The same application, told what its image's own variables (``image``) leave open.

    Where packages lie that were installed for the image's user: the official packager installs with ``pip --user``, into the user's home,
    and names ``HOME/.local/bin`` on PATH. Python looks for them below HOME, which is another folder here (``container_environment``);
    PYTHONUSERBASE names their place (PEP 370). And for how long OpenBLAS's threads spin before they sleep (``_SPIN``).
    """
    found = next((match[1] for entry in image.get("PATH", "").split(":") if (match := _USER_PROGRAMS.fullmatch(entry))), "")
    told = {**({"PYTHONUSERBASE": found} if found else {}), "OPENBLAS_THREAD_TIMEOUT": _SPIN}
    left_open = {name: value for name, value in told.items() if name not in image}
    return replace(app, environment=tuple(sorted({**left_open, **dict(app.environment)}.items())))


def effective_timeout(spec: RunSpec, limits: Limits) -> int:
    """Seconds one study may take: the shorter of the MAP's own timeout and the host's."""
    return min(spec.timeout_s, limits.timeout_s) if spec.timeout_s else limits.timeout_s


def study_container(image: str, app: RunSpec, input_folder: Path, output_folder: Path, limits: Limits, *, name: str) -> ContainerSpec:
    """The container that runs one study in isolation.

    The MAP's own entry point (`tools`) ends with 0 even when the application failed, so the application is started directly.
    """
    return ContainerSpec(
        name=name,
        image=image,
        entrypoint=app.command[0],
        command=app.command[1:],
        uid=limits.uid,
        gid=limits.gid,
        memory_mib=limits.memory_mib,
        pids=limits.pids,
        network=limits.network,
        gpus=limits.gpus,
        labels=limits.labels,
        binds=(Bind(input_folder, app.input_path), Bind(output_folder, app.output_path, writable=True)),
        environment=container_environment(app),
        working_directory=app.working_directory,
        scratch=True,
    )


def held_container(image: str, app: RunSpec, input_folder: Path, output_folder: Path, limits: Limits, *, name: str) -> ContainerSpec:
    """As ``study_container``, but the application begins when a line arrives on standard input, and never when that ends without one.

    So a container can be started while the study before it is still inferred. The shell is replaced by the application (``exec``).
    """
    wait = ("-c", 'IFS= read -r _ && exec "$@" </dev/null', "map", *app.command)
    study = study_container(image, app, input_folder, output_folder, limits, name=name)
    return replace(study, entrypoint="/bin/sh", command=wait, stdin=True)


def warm_container(
    image: str, app: RunSpec, python: PythonCommand, server: Path, input_folder: Path, output_folder: Path, limits: Limits, *, name: str
) -> ContainerSpec:
    """The container that runs ``server`` in the MAP's own Python, in the same isolation as a study of its own.

    The agent speaks with the server through standard input, because the container has no network.
    """
    study = study_container(image, app, input_folder, output_folder, limits, name=name)
    binds = (*study.binds, Bind(server, WARM_SERVER_PATH))
    return replace(study, entrypoint=python.interpreter, command=(*python.flags, WARM_SERVER_PATH), binds=binds, stdin=True)


def namespace_container(image: str, limits: Limits, *, name: str) -> ContainerSpec:
    """A container that only keeps its network namespace, until standard input ends."""
    return ContainerSpec(
        name=name,
        image=image,
        entrypoint="/bin/sh",
        command=("-c", "IFS= read -r _"),
        uid=limits.uid,
        gid=limits.gid,
        memory_mib=limits.memory_mib,
        pids=limits.pids,
        labels=limits.labels,
        stdin=True,
    )


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
