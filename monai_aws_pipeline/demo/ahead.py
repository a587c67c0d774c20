"""What a first demo needs later and no AWS is needed for, made while the base file systems are.

Wheels of hosts and of the example, and the compiled modules of Dagster's processes. Each is made where it is wanted all the same: by the
first who comes, and a second one waits for the lock of the first. So nothing rests on this; it fails without a word, and gives way.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings

_MODULES: Final = (
    *("dagster_webserver.cli", "dagster._cli", "dagster._daemon.cli"),
    *("monai_aws_pipeline.definitions", "monai_aws_pipeline.portal.app"),
)
_GIVES_WAY: Final = 10
"""Niceness."""


@contextmanager
def made_ahead(cache: Path) -> Iterator[None]:
    """Have it made beside a block that makes the base file systems, where ``cache`` has none. What is not done at its end goes on."""
    if (cache / "local-cloud").exists():
        yield
        return
    # A process of its own, so that it can give way.
    making = subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=PROJECT_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    except BaseException:
        making.terminate()
        raise


def main() -> None:
    """Make it, one after the other, in the order in which it is wanted."""
    from monai_aws_pipeline.deployment.host_bundle import HOST_REQUIREMENTS
    from monai_aws_pipeline.maps import requirements, wheelhouse

    _give_way()
    compiled = subprocess.Popen([sys.executable, "-c", f"import {', '.join(_MODULES)}"], cwd=PROJECT_ROOT)
    settings = load_settings()
    python = _python_of_the_distribution()
    with tempfile.TemporaryDirectory() as folder, suppress(wheelhouse.WheelhouseError, OSError):
        wheelhouse.collect(HOST_REQUIREMENTS, settings.cache_dir, python, _quietly)
        application = PROJECT_ROOT / settings.app_source / settings.app_dir
        wheelhouse.collect(requirements.requirements_file(application, Path(folder)), settings.cache_dir, python, _quietly)
    compiled.wait()


def _give_way() -> None:
    os.nice(_GIVES_WAY)
    with suppress(OSError):  # Linux shares the processor between sessions first, and asks for the niceness of each
        Path("/proc/self/autogroup").write_text(str(_GIVES_WAY))


def _python_of_the_distribution() -> str:
    """As in ``3.11``: the base file systems are made from this machine's own packages, and so have its Python."""
    said = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"3\.\d+", said)
    return found[0] if found else f"3.{sys.version_info.minor}"


def _quietly(line: str) -> None:
    """A line of detail that nobody waits for."""


if __name__ == "__main__":
    main()
