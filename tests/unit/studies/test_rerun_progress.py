"""Where a re-run is, in words: by the queue, the hosts, and what each host has in hand."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.operations.status import Depth, HostWork, JobAtWork, MachineState
from monai_aws_pipeline.studies.rerun_progress import Surroundings, where

JOB, OTHER = "a" * 32, "b" * 32
QUEUE = Depth(3, 1)


def host(state: str = "running", work: HostWork | None = None, trouble: str = "") -> MachineState:
    return MachineState("i-1", "inference", state, "g4dn.xlarge", trouble, work)


def at_work(phase: str, job: str = JOB) -> HostWork:
    return HostWork("running", (JobAtWork(job, phase, 20.0, 12.0),))


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ((), "it is queued: 3 jobs queued, 1 at work; there is no host; materialise inference_host"),
        ((host("stopped"),), "it is queued: 3 jobs queued, 1 at work; i-1 is stopped; one is started within 5 minutes"),
        ((host("stopped", trouble="no capacity"),), "i-1 is stopped (no capacity); one is started"),
        ((host("pending"),), "it is queued: 3 jobs queued, 1 at work; i-1 is starting"),
        ((host(work=HostWork("running")),), "it is queued: 3 jobs queued, 1 at work; i-1 is running"),
        ((host(work=HostWork("stopped")),), "i-1 is running and its agent stopped"),
        ((host(work=at_work("fetching")),), "it is fetched on i-1, for 12 s (in hand for 20 s)"),
        ((host(work=at_work("pulling")),), "it waits for the MAP to be pulled on i-1"),
        ((host(work=at_work("inferring")),), "it is inferred on i-1"),
        ((host(work=at_work("publishing")),), "it is published on i-1"),
        ((host(work=at_work("inferring", OTHER)),), "it is queued"),
    ],
)
def test_a_job_is_where_its_host_says_and_in_the_queue_before(hosts: tuple[MachineState, ...], said: str):
    assert said in where([JOB], Surroundings(QUEUE, hosts), 5)


def test_several_jobs_are_counted_by_phase():
    seen = Surroundings(QUEUE, (host(work=at_work("inferring")),))
    assert where([JOB, OTHER, "c" * 32], seen, 5) == "1 inferring; 2 queued: 3 jobs queued, 1 at work; i-1 is running"


def test_what_aws_does_not_say_is_said():
    assert where([JOB], Surroundings(unseen="ClientError"), 5) == "what they wait for cannot be seen (ClientError)"
