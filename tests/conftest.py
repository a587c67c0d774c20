"""What every test shares: nothing of the caller's AWS account, and the fixtures of tests/support.

Here belong settings of the whole suite. Fixtures of one subject live beside its tests; those of many in tests/support, one module
a subject, loaded below as plugins.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.loaders import Loader
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.cloud", "tests.support.postgres", "tests.permissions.passed"]

# A test that forgets to say which account it means must reach none: not the caller's profile, not an instance's role.
for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if name.startswith("MONAI_AWS_")]:
    os.environ.pop(name)
os.environ |= {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",  # hundreds of images of AWS's, made anew for each test
}
# Each session reads the descriptions of services anew, megabytes of JSON, which took a third of the unit tests. None changes them.
_described = Loader([str(Path(boto3.__file__).parent / "data")])
botocore.session.create_loader = lambda _: _described  # type: ignore[attr-defined]
# boto3's sessions add the same folder to it each time.
Loader.search_paths = property(lambda loader: list(loader._search_paths))  # type: ignore[assignment]

# A run that was started in the background ignores Ctrl-C, and so would every process that a test starts to see what Ctrl-C does to it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast a property holds is the machine's affair, and machines of continuous integration are slow now and then. The examples of a
# test are the same in every run, so that what passed once says something of the next run; new ones are looked for on purpose, with
# ``--hypothesis-profile=searching``.
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", settings.get_profile("searching"), derandomize=True, database=None)
settings.load_profile("patient")

# A traceback ends with what was wrong.
_LINES_OF_A_FAILURE = 25


class _FailuresAtOnce:
    """Tells of a failure when it happens: a run that is cut off has not come to its summary, and would have said of it only "F"."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.ensure_newline()
            self.terminal.line(f"FAILED {report.nodeid} ({report.when}, after {report.duration:.0f} s)", red=True)
            for line in report.longreprtext.splitlines()[-_LINES_OF_A_FAILURE:]:
                self.terminal.line(f"  {line}")


@pytest.hookimpl(trylast=True)  # the terminal first, whose plugin this asks for
def pytest_configure(config: pytest.Config) -> None:
    """The process that prints tells of failures; those beside it that run tests report to it."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_FailuresAtOnce(terminal))
