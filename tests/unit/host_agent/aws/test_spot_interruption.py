"""AWS takes a machine back: what runs may end, nothing new is begun, and what cannot end in time is given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import result_key, study_id
from monai_aws_pipeline.host_agent.aws.instance_metadata import interruption
from monai_aws_pipeline.host_agent.aws.spot_interruption import Notice, seconds_to_finish
from monai_aws_pipeline.host_agent.errors import InterruptedJobError
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.local_cloud.metadata import METADATA_PORT, InstanceFacts, MetadataService
from monai_aws_pipeline.maps.spec.container import ContainerSpec
from tests.unit.host_agent.bench import SECRET, Bench, PretendedEngine, zip_of
from tests.unit.host_agent.pipeline_bench import HeldMap, agent, prompt_host, until

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ADDRESS = "127.83.21.5"
ENDPOINT = f"http://{ADDRESS}:{METADATA_PORT}"
PLAIN = InstanceFacts("i-1", "g4dn.xlarge", "ami-1", "us-east-1", "us-east-1a", ADDRESS, "host")


@pytest.mark.parametrize(("ahead", "left"), [(120, 100), (30, 10), (5, 0), (-600, 0), (720, 100)])
def test_a_clock_that_is_wrong_makes_no_notice_longer(ahead: float, left: float) -> None:
    assert seconds_to_finish(NOW + timedelta(seconds=ahead), NOW) == left


@pytest.fixture
def service() -> Iterator[MetadataService]:
    """The embedded AWS's own metadata service, of one machine."""
    served = MetadataService(ADDRESS, lambda: PLAIN, lambda _: None)
    try:
        yield served
    finally:
        served.close()


def test_the_notice_is_read_from_the_metadata_service(service: MetadataService) -> None:
    assert interruption(ENDPOINT) is None
    service.facts = lambda: replace(PLAIN, interruption=("terminate", "2026-01-01T12:02:00Z"))
    assert interruption(ENDPOINT) == NOW + timedelta(minutes=2)
    service.facts = lambda: replace(PLAIN, interruption=("terminate", "soon"))
    assert interruption(ENDPOINT) is None


def test_no_metadata_service_is_no_notice() -> None:
    assert interruption(ENDPOINT) is None


@dataclass
class EndlessEngine(PretendedEngine):
    """A MAP that runs until the agent ends it."""

    def run(self, wanted: ContainerSpec, **options: Any) -> RunEnd:
        self.wanted.append(wanted)
        assert options["stop"].wait(30)
        raise InterruptedJobError("the host is stopping")


def test_what_runs_may_end_and_what_waits_is_given_back_before_the_machine_stops(bench: Bench, tmp_path: Path) -> None:
    uids = [str(generate_uid()) for _ in range(3)]
    messages = [bench.upload(f"input/{number}.zip", zip_of(tmp_path, uid)) for number, uid in enumerate(uids)]
    bench.engine.run_map = the_map = HeldMap(str(generate_uid())[:6])  # each study holds these first characters of every such UID
    host, off = prompt_host(bench), list[int]()
    life = threading.Thread(target=agent(bench, host, off).run)
    with Notice(host.leave, host.stop, lambda: datetime.now(UTC) + timedelta(seconds=100) if the_map.running else None, every_s=0.05):
        life.start()
        assert host.leave.wait(30)
        the_map.released.set()
        life.join(30)
    assert off == [1], "the one that ran is answered, and the machine is stopped although studies wait"
    assert bench.engine.runs == 1
    assert not host.stop.is_set()
    done = [
        message for uid, message in zip(uids, messages, strict=True) if result_key(study_id(SECRET, uid), message.job) in bench.stored()
    ]
    assert len(done) == 1
    assert bench.messages() == 2, "visible at once for whoever comes next"


def test_what_cannot_end_in_time_is_given_back_at_once_and_without_counting_the_try(bench: Bench, tmp_path: Path) -> None:
    bench.upload("input/a.zip", zip_of(tmp_path, str(generate_uid())))
    bench.engine = EndlessEngine()
    host, off = prompt_host(bench), list[int]()
    life = threading.Thread(target=agent(bench, host, off).run)
    life.start()
    until(lambda: bench.engine.runs, "it never ran")
    with Notice(host.leave, host.stop, lambda: datetime.now(UTC) + timedelta(seconds=20.5), every_s=0.05):
        life.join(30)
    assert off == [0]
    again = bench.host().queue.take(0)
    assert again
    assert again.receives == 1
