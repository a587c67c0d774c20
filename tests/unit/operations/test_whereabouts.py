"""Where jobs are that have no answer, in words that an operator understands and that change only where something has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monai_aws_pipeline.host_agent.job_status import Phase
from monai_aws_pipeline.operations.status import Depth, FleetState, HostWork, JobAtWork, MachineState
from monai_aws_pipeline.operations.whereabouts import _PHASES, Surroundings, in_words
from tests.unit.studies.records import job_of

JOB, NONE = job_of(1), Depth(0, 0)
AT_ZERO = FleetState("monai-aws-t-inference-hosts", 0, 0, 0, 3)
UNSEEN = FleetState("monai-aws-t-inference-hosts", -1, -1, -1, -1)
WANTS_TWO = FleetState("monai-aws-t-inference-hosts", 2, 1, 0, 3)


def at_work(number: int, phase: str, seconds: float = 3) -> JobAtWork:
    return JobAtWork(job_of(number), phase, seconds, seconds)


def host(state: str, *jobs: JobAtWork, agent: str = "", number: int = 1, trouble: str = "") -> MachineState:
    work = HostWork(agent or "running", jobs) if agent or jobs else None
    return MachineState(f"i-{number}", "inference", state, "g4dn.xlarge", trouble, work)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Surroundings(Depth(-1, -1), Depth(-1, -1)), "no queues: materialise s3_trigger; there is no inference host: materialise"),
        (Surroundings(Depth(2, 1), NONE, (host("stopped"),), 7), "about 3 uploads on the way to the queue of jobs; 1 host stopped; the"),
        (Surroundings(NONE, NONE, (host("stopped"),), 7), "the wake function starts one within 7 minutes"),
        (Surroundings(NONE, NONE, (host("stopped", trouble="no capacity"),)), "within 5 minutes; host i-1: no capacity"),
        (Surroundings(NONE, Depth(4, 0), (host("pending"),)), "about 4 waiting in the queue of jobs, so at most 3 before it; host i-1 is"),
        (Surroundings(NONE, Depth(0, 1), (host("stopping"),)), "1 taken by hosts; host i-1 is stopping, and is started again"),
        (Surroundings(NONE, NONE, (host("running"),)), "nothing waits in the queues; host i-1 runs and does not say yet"),
        (Surroundings(NONE, NONE, (host("running", agent="unknown"),)), "host i-1 runs and does not say yet"),
        (Surroundings(NONE, NONE, (host("running", agent="stopped"),)), "host i-1 runs and its agent has not begun yet"),
        (Surroundings(NONE, NONE, (host("running", agent="running"),)), "host i-1 runs and has nothing in hand"),
        (
            Surroundings(NONE, Depth(1, 2), (host("running", at_work(2, "inferring")), host("stopped", number=2))),
            "so none before it, 2 taken by hosts; host i-1 is at work on 1 other job",
        ),
        (Surroundings(NONE, Depth(1, 0), (), 7, AT_ZERO), "before it; the group is at zero; the wake function asks it for an"),
        (Surroundings(NONE, NONE, (host("stopped"),), 5, UNSEEN), "in the queues; what the group does cannot be seen"),
        (Surroundings(NONE, NONE, (host("stopped"),), 5, AT_ZERO), "in the queues; the group is at zero"),
        (Surroundings(NONE, NONE, (host("stopping"),), 5, AT_ZERO), "in the queues; the group is at zero"),
        (Surroundings(NONE, NONE, (host("pending"),), 5, WANTS_TWO), "; host i-1 is starting, the group has 1 of 2 instances in service"),
        (Surroundings(NONE, NONE, (), 5, replace(WANTS_TWO, trouble="no g5")), "in service, its last launch failed: no g5"),
    ],
)
def test_what_stands_between_a_job_and_its_answer(seen: Surroundings, said: str):
    assert said in in_words([JOB], seen)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_job_in_hand_is_told_by_its_host_and_phase_and_without_seconds(phase: Phase):
    words = {in_words([JOB], Surroundings(NONE, Depth(9, 9), (host("running", at_work(1, phase, seconds)),))) for seconds in (3, 4)}
    assert words == {f"in hand on i-1: {_PHASES[phase]}"}


def test_several_jobs_are_counted_by_phase_and_the_rest_by_what_stands_before_them():
    both = (host("running", at_work(1, "inferring"), at_work(2, "waiting")), host("running", at_work(3, "inferring"), number=2))
    jobs = [job_of(number) for number in range(1, 6)]
    assert in_words(jobs[:3], Surroundings(NONE, Depth(9, 3), both)) == "3 in hand (2 being inferred, 1 fetched and waiting for its turn)"
    assert in_words(jobs, Surroundings(NONE, Depth(2, 3), both)) == (
        "3 in hand (2 being inferred, 1 fetched and waiting for its turn); about 2 waiting in the queue of jobs, 3 taken by hosts; "
        "host i-1 is at work on them, host i-2 is at work on them"
    )


def test_a_job_that_two_hosts_have_is_one():
    twice = (host("running", at_work(1, "inferring")), host("running", at_work(1, "inferring"), number=2))
    assert in_words([JOB], Surroundings(NONE, NONE, twice)) == "in hand on i-2: being inferred"
