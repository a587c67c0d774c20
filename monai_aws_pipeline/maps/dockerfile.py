"""The texts a layered MAP image is built from: its Dockerfile and the script of its dependency layer. Pure; nothing is read or written.

Three layers, from the one that changes least: dependencies, model, application. Each is a stage, so that ``--target dependencies``
builds (and a registry can keep) the first alone, and ``--build-arg DEPENDENCIES=IMAGE`` starts from a kept one instead of building it;
the same goes for the stage ``model``.
Works with the BuildKit of Docker 20.10 and later, and pulls no Dockerfile frontend.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from monai_aws_pipeline.errors import NamedError

EPOCH: Final = 315532800
"""1980-01-01: files of the image bear a time that follows from their content, not from the clock, so equal inputs make equal layers."""
VENV: Final = "/opt/venv"
UID: Final = 1000
WORK_DIR: Final = "/var/holoscan"
ENTRY_POINT: Final = "/var/holoscan/tools"

Pairs = tuple[tuple[str, str], ...]

_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")


class RecipeError(NamedError, ValueError):
    """A value cannot be written into a Dockerfile."""


NO_SYSTEM_PACKAGES: Final = "of app.yaml could not be installed"
"""Words of the script where apt fails, by which the failed build's remedy is found."""

_BEGIN_SH: Final = rf"""#!/bin/sh
# Runs as root while the dependency layer is built. /mnt is the build context's folder `dependencies`, mounted read-only, so that
# requirements and wheels are in no layer.
set -eu
VENV={VENV}
touch /tmp/.layer-start

fail() {{ echo "error: $*" >&2; exit 65; }}
"""

_SYSTEM_SH: Final = rf"""
# What app.yaml asks for (monai-aws: system-packages). apt is left alone where the base image has all of it, so that no network is needed.
SYSTEM_PACKAGES=@PACKAGES@
has_all() {{
  dpkg-query -W -f '${{db:Status-Status}}\n' $SYSTEM_PACKAGES >/tmp/.status 2>/dev/null && ! grep -qv '^installed$' /tmp/.status
}}
if ! has_all; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update && apt-get -q install -y --no-install-recommends $SYSTEM_PACKAGES \
    || fail "the system-packages {NO_SYSTEM_PACKAGES} ($SYSTEM_PACKAGES); without a network the base image has to hold them"
  rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
fi
rm -f /tmp/.status
"""

_REST_SH: Final = rf"""
has_python() {{ python3 -c 'import venv' 2>/dev/null && python3 -m pip --version >/dev/null 2>&1; }}
if ! has_python || {{ [ ! -f /mnt/wheels.txt ] && ! command -v jq >/dev/null; }}; then
  echo "the base image lacks python3, pip or jq: installing them"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update && apt-get -q install -y --no-install-recommends python3 python3-pip python3-venv jq ca-certificates libgomp1 || true
  rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
fi
has_python || fail "python3 and pip are not in the base image and could not be installed; choose a base image that has them"
command -v jq >/dev/null || echo "warning: the base image has no jq; the MAP's own entry point needs it (the inference host does not)" >&2

found=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
wanted=$(cat /mnt/python.txt)
[ -z "$wanted" ] || [ "$wanted" = "$found" ] \
  || fail "the base image has Python $found, but the wheels were gathered for $wanted: gather them for $found"

base_python=$(command -v python3)  # from here on `python3` is the new environment's, which has no pip of its own
"$base_python" -m venv --without-pip "$VENV"
pip() {{ "$base_python" -m pip --python "$VENV/bin/python3" --disable-pip-version-check --no-cache-dir "$@"; }}
set -- install --no-compile --progress-bar off --root-user-action=ignore
if [ -f /mnt/wheels.txt ]; then
  # The wheelhouse is a complete, resolved set: exactly these wheels, no index and no second opinion.
  [ ! -s /mnt/wheels.txt ] || pip "$@" --no-index --no-deps --find-links /mnt/wheels --requirement /mnt/wheels.txt
elif [ -s /mnt/constraints.txt ]; then
  pip "$@" --requirement /mnt/requirements.txt --constraint /mnt/constraints.txt
else
  pip "$@" --requirement /mnt/requirements.txt
fi

# holoscan completes its library links at the first start of Python; later there is only a read-only root and another user.
"$VENV/bin/python3" -c 'import sys'
# holoscan needs libcudart also where there is no GPU; LD_LIBRARY_PATH names this fixed place whatever the version of Python.
site=$("$VENV/bin/python3" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [ -d "$site/nvidia/cu13/lib" ]; then ln -s "$site/nvidia/cu13/lib" "$VENV/cuda-lib"; fi

# A fifth of torch that only its own tests and compilers read; the image has no compiler.
rm -rf "$site/torch/test" "$site/torch/include"

# Byte code now, since a read-only root cannot keep it later; by hash and unchecked, so it depends on no file time. Not for tests.
find "$VENV" -depth -type d -name __pycache__ -exec rm -rf {{}} +
"$VENV/bin/python3" -m compileall -q -j 0 -x "/tests?/" --invalidation-mode unchecked-hash "$VENV/lib" >/dev/null 2>&1 || true

mkdir -p /opt/holoscan /etc/holoscan /var/holoscan/input /var/holoscan/output /var/holoscan/logs
chown {UID}:{UID} /var/holoscan/output /var/holoscan/logs
grep -q '^[^:]*:[^:]*:{UID}:' /etc/group || echo 'holoscan:x:{UID}:' >> /etc/group
grep -q '^[^:]*:[^:]*:{UID}:' /etc/passwd || echo 'holoscan:x:{UID}:{UID}::/tmp:/usr/sbin/nologin' >> /etc/passwd

find / -xdev -newer /tmp/.layer-start ! -path /tmp/.layer-start -exec touch -h -d @{EPOCH} {{}} +
rm -f /tmp/.layer-start
touch -d @{EPOCH} /tmp
"""  # noqa: S608  a shell script that says "install"

INSTALL_SH: Final = _BEGIN_SH + _REST_SH
"""The script where nothing but Python packages is installed."""


def install_script(system_packages: Sequence[str] = ()) -> str:
    """The script of the dependency layer. ``system_packages``: names that ``manifest`` has checked."""
    if not system_packages:
        return INSTALL_SH
    return _BEGIN_SH + _SYSTEM_SH.replace("@PACKAGES@", shlex.quote(" ".join(system_packages))) + _REST_SH


def dependency_stage(base_image: str) -> str:
    """The stage that installs the application's packages; a text that changes when the layer must be built anew.

    Raises RecipeError when the base is not an image reference.
    """
    if not _IMAGE.fullmatch(base_image):
        raise RecipeError(f"MONAI_AWS_BASE_IMAGE {base_image!r} is not an image reference; write REPOSITORY:TAG or REPOSITORY@DIGEST")
    return (
        f"FROM {base_image} AS dependencies\n"
        "USER root\n"
        f"ENV PATH={VENV}/bin:$PATH \\\n"
        f"    LD_LIBRARY_PATH={VENV}/cuda-lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} \\\n"
        "    HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1\n"
        'RUN --mount=type=bind,source=dependencies,target=/mnt ["/bin/sh", "/mnt/install.sh"]\n'
    )


def dockerfile(base_image: str, *, has_model: bool, environment: Pairs, labels: Pairs) -> str:
    """The whole Dockerfile. Raises RecipeError when a value cannot be written into it."""
    variables = "".join(f"ENV {_name(name)}={quoted(value)}\n" for name, value in environment)
    marks = "".join(f"LABEL {quoted(name)}={quoted(value)}\n" for name, value in labels)
    return (
        "# A MAP in layers: dependencies, model, application. Written by monai_aws_pipeline; edits are lost.\n"
        "ARG DEPENDENCIES=dependencies\n"
        "ARG MODEL=model\n"
        f"{dependency_stage(base_image)}\n"
        f"{model_stage(has_model=has_model)}\n"
        "FROM ${MODEL} AS application\n"
        f"{_place('app')}"
        f"{variables}{marks}"
        f"WORKDIR {WORK_DIR}\n"
        f"USER {UID}:{UID}\n"
        f'ENTRYPOINT ["{ENTRY_POINT}"]\n'
    )


def model_stage(*, has_model: bool) -> str:
    """The stage that lays the model over the dependencies."""
    return f"FROM ${{DEPENDENCIES}} AS model\n{_place('model') if has_model else ''}"


def _place(folder: str) -> str:
    """A layer that lays a folder of the context onto ``/``.

    Not ``COPY``: it gives every folder it passes the time of the build, so that no two builds make the same layer.
    """
    copy = "cp -r --preserve=mode,timestamps /mnt/. /"
    times = f"cd /mnt && find . -type d -exec sh -c 'cd / && touch -d @{EPOCH} \"$@\"' - {{}} +"
    return f"RUN --mount=type=bind,source={folder},target=/mnt {copy} && {times}\n"


def quoted(value: str) -> str:
    """A value as one quoted word of a Dockerfile. Raises RecipeError for control characters."""
    if not value.isprintable():
        raise RecipeError("a label or variable holds a control character or a line break; correct title and version in app.yaml")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise RecipeError(f"{name!r} is not the name of a variable")
    return name
