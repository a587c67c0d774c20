"""Where a job is that has no answer, in words that an operator understands and that change only where something has."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.host_agent.job_status import Phase
from monai_aws_pipeline.operations.status import Depth, HostWork, JobAtWork
from monai_aws_pipeline.operations.whereabouts import _PHASES, Surroundings, in_words
from tests.unit.studies.records import job_of

JOB, NONE = job_of(1), Depth(0, 0)


def at_work(number: int, phase: str, seconds: float = 3) -> JobAtWork:
    return JobAtWork(job_of(number), phase, seconds, seconds)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Surroundings(Depth(-1, -1), Depth(-1, -1)), "no queues: materialise s3_trigger; there is no inference host: materialise"),
        (Surroundings(Depth(2, 1), NONE, {"i-1": "stopped"}), "about 3 uploads on the way to the queue of jobs; 1 host stopped, to be"),
        (Surroundings(NONE, Depth(4, 0), {"i-1": "pending"}), "about 4 waiting in the queue of jobs, so at most 3 before it; host i-1 is"),
        (Surroundings(NONE, Depth(0, 1), {"i-1": "stopping"}), "1 taken by hosts; host i-1 is stopping, and is started again"),
        (Surroundings(NONE, NONE, {"i-1": "running"}), "nothing waits in the queues; host i-1 runs and does not say yet"),
        (Surroundings(NONE, NONE, {"i-1": "running"}, {"i-1": HostWork("stopped")}), "host i-1 runs and its agent has not begun yet"),
        (Surroundings(NONE, NONE, {"i-1": "running"}, {"i-1": HostWork("running")}), "host i-1 runs and has nothing in hand"),
        (
            Surroundings(NONE, Depth(1, 2), {"i-1": "running", "i-2": "stopped"}, {"i-1": HostWork("running", (at_work(2, "inferring"),))}),
            "so none before it, 2 taken by hosts; host i-1 is at work on 1 other job",
        ),
    ],
)  # fmt: skip
def test_what_stands_between_a_job_and_its_answer(seen: Surroundings, said: str):
    assert said in in_words(JOB, seen)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_job_in_hand_is_told_by_its_host_and_phase_and_without_seconds(phase: Phase):
    words = {
        in_words(JOB, Surroundings(NONE, Depth(9, 9), {"i-1": "running"}, {"i-1": HostWork("running", (at_work(1, phase, seconds),))}))
        for seconds in (3, 4)
    }
    assert words == {f"in hand on i-1: {_PHASES[phase]}"}
