"""One deployment for all faults, with two hosts, and a line a case: what happened, and whether all was well afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.faults import Waking
from tests.support.platform import Platform, platform


@pytest.fixture(scope="session")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    variables = {
        "MONAI_AWS_MAP_TIMEOUT_S": "60",  # twice as long as anything sleeps that is to be struck meanwhile
        "MONAI_AWS_MAP_MEMORY_MIB": "256",
        "MONAI_AWS_HOST_COUNT": "2",
        "MONAI_AWS_IDLE_STOP_MINUTES": "0.5",  # longer than a test takes to come back to a host that has answered
    }
    with platform(local_cloud, "faults", tmp_path_factory.mktemp("faults"), **variables) as made:
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


@pytest.fixture(scope="class")
def waking(place: Platform) -> Iterator[Waking]:
    """Uploads of a class of cases. Afterwards each has exactly one answer, nothing is left over, and the hosts are stopped."""
    at_work = Waking(place)
    yield at_work
    place.cloud.clear_faults()
    at_work.assert_settled()


@pytest.fixture(autouse=True)
def no_order_left(place: Platform) -> Iterator[None]:
    yield
    place.cloud.clear_faults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With MONAI_TESTS_TELL=1 (``make faults``), say what each case saw."""
    report = yield
    if os.environ.get("MONAI_TESTS_TELL") and (report.when == "call" or report.outcome == "failed"):
        what = dict(item.user_properties).get("happened", report.when if report.outcome == "failed" else "")
        writer = item.config.get_terminal_writer()
        writer.line(f"\r{item.name.removeprefix('test_'):55} {what:75} {'ok' if report.outcome == 'passed' else report.outcome.upper()}")
    return report
