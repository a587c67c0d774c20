"""A run that has happened, simulated: the same messages at the same moments, with what was measured of its machines beforehand.

``make bench BENCH=fleet`` holds the simulation against the embedded AWS with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from monai_aws_pipeline.simulation.day import Job, simulate
from monai_aws_pipeline.simulation.fleet import Fleet
from monai_aws_pipeline.simulation.measured import Machine, Speed

_BESIDE_S = 0.001
"""Between two events of a group, so that they keep their order."""


@dataclass(frozen=True)
class Rig:
    """What was measured of the machines of a run, in seconds.

    ``start_s``: power on to agent ready; ``study_s``: from one answer to the next on a host with a backlog; ``fetch_s``, ``publish_s``:
    before and after the inference; ``stop_s``: from the end of idleness to off; ``trigger_s``: upload to job message.
    """

    start_s: float
    study_s: float
    fetch_s: float
    publish_s: float
    stop_s: float
    trigger_s: float


@dataclass(frozen=True)
class Replay:
    """What the simulation says of the run.

    ``seconds``: from the first upload until the last host is off; ``answered_s``: to the last answer.
    """

    machine_seconds: float
    seconds: float
    answered_s: float
    answered: int
    discarded: int
    starts: int


def replay(arrivals: Sequence[float], rig: Rig, fleet: Fleet, *, events: int = 1, group: int = 1, seed: int = 0) -> Replay:
    """Simulate uploads that came at these moments (seconds, from any beginning).

    Parameters
    ----------
    fleet
        With the run's hosts, studies at once, idle and wake minutes.
    events
        How often each upload's event comes, one right after the other.
    group
        Of so many uploads the events come when the last of them has come, and in reverse.
    """
    jobs = jobs_of([at - min(arrivals) for at in sorted(arrivals)], events, group)
    speed = Speed(tuple(60 * number / rig.study_s for number in range(1, fleet.at_once + 1)), rig.fetch_s, rig.publish_s)
    machine = replace(Machine(), start_s=rig.start_s, stop_s=rig.stop_s, trigger_s=rig.trigger_s)
    day = simulate(jobs, speed, fleet, machine, seed=seed)
    return Replay(
        machine_seconds=day.machine_seconds,
        seconds=day.end,
        answered_s=max(each.answered for each in day.answers),
        answered=len(day.answers),
        discarded=day.discarded,
        starts=len(day.on),
    )


def jobs_of(arrivals: Sequence[float], events: int, group: int) -> list[Job]:
    """The jobs of uploads in order of time, with when their events come."""
    jobs: list[Job] = []
    for first in range(0, len(arrivals), group):
        part = arrivals[first : first + group]
        for number, at in enumerate(part):
            begin = part[-1] + (len(part) - 1 - number) * events * _BESIDE_S
            jobs.append(Job(at, messages=tuple(begin + each * _BESIDE_S for each in range(events))))
    return jobs
