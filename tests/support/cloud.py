"""One embedded AWS for the whole test session, and what tests need to use it.

Its state lies in the cache folder under a name of its own, so that sessions run side by side. It ends with its test process, however
that ends (tests/support/reaper.py). Base file systems come from the same cache as those of ``monai-aws local up``.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from monai_aws_pipeline.local_cloud.commands import LocalCloud, up
from monai_aws_pipeline.local_cloud.config import CloudConfig, configure
from monai_aws_pipeline.settings import load_settings
from tests.permissions.record import keep
from tests.support.reaper import ended_by


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def own_cloud(name: str) -> Iterator[CloudConfig]:
    """Configuration of an embedded AWS of the caller's own, to be started by the caller; wiped when the block ends, or the process."""
    clouds = clouds_folder()
    config = configure(clouds / f"{name}-{uuid.uuid4().hex[:10]}", free_port())
    reset = [sys.executable, "-m", "monai_aws_pipeline.local_cloud", "reset", "--state-dir", str(config.state_dir)]
    with ended_by(reset, clouds):
        try:
            yield config
        finally:
            keep(config)


def clouds_folder() -> Path:
    """The folder of all embedded AWSs of tests."""
    return load_settings().cache_dir.resolve() / "test-clouds"


def say(line: str) -> None:
    """Show progress where the user looks while pytest captures output."""
    sys.__stderr__.write(f"local cloud: {line}\n") if sys.__stderr__ else None


@pytest.fixture(scope="session")
def local_cloud() -> Iterator[LocalCloud]:
    """A running embedded AWS shared by all tests of the session; every name a test uses in it should be the test's own."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("the embedded AWS needs Linux and root")
    with own_cloud("shared") as config:
        yield up(config, say)


@pytest.fixture
def cloud_environment(local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> LocalCloud:
    """The shared cloud, with its variables set for the test: plain ``boto3.Session()`` is the administrator."""
    for name, value in local_cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # another test's would know another account
    return local_cloud
