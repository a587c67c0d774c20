"""One embedded AWS for the whole test session, and what tests need to use it.

Its state lies in the cache folder under the pid of the session, so that sessions run side by side and a killed one is cleaned up
by the next. Base file systems come from the same cache as those of ``monai-aws local up``.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_aws_pipeline.local_cloud.commands import LocalCloud, reset, up
from monai_aws_pipeline.local_cloud.config import CloudConfig, configure
from monai_aws_pipeline.settings import load_settings
from tests.permissions.record import keep


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def session_config(name: str) -> CloudConfig:
    """Configuration of a cloud of this test session."""
    return configure(_folder() / f"{os.getpid()}-{name}", free_port())


def _folder() -> Path:
    return load_settings().cache_dir.resolve() / "test-clouds"


def _sweep() -> None:
    """Wipe the clouds of sessions that were killed."""
    for left in _folder().glob("*-*"):
        pid = left.name.partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            reset(configure(left, free_port()))


def say(line: str) -> None:
    """Show progress where the user looks while pytest captures output."""
    sys.__stderr__.write(f"local cloud: {line}\n") if sys.__stderr__ else None


@pytest.fixture(scope="session")
def local_cloud() -> Iterator[LocalCloud]:
    """A running embedded AWS shared by all tests of the session; every name a test uses in it should be the test's own."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("the embedded AWS needs Linux and root")
    _sweep()
    config = session_config("shared")
    try:
        yield up(config, say)
    finally:
        keep(config)
        reset(config)


@pytest.fixture
def cloud_environment(local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> LocalCloud:
    """The shared cloud, with its variables set for the test: plain ``boto3.Session()`` is the administrator."""
    for name, value in local_cloud.environment.items():
        monkeypatch.setenv(name, value)
    return local_cloud
