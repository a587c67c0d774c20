"""Where a job is that has no answer yet, in words: in hand on a host, or what stands between it and one.

Here belongs the wording, which is pure, and the look that it is made of. Messages in queues are counted and never received: a receipt of a
job counts as one of its three tries. ``upload --wait``, ``find`` and ``status --job`` say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ROLE_INFERENCE
from monai_aws_pipeline.operations.status import Depth, HostWork, JobAtWork, depth_of, work_of
from monai_aws_pipeline.settings import Settings

_PHASES: Final = {
    "fetching": "it is fetched and checked",
    "waiting": "it is fetched and waits for its turn",
    "pulling": "the host pulls the MAP for it",
    "inferring": "the MAP is at work on it",
    "publishing": "its outputs are judged and stored",
}


@dataclass(frozen=True)
class Surroundings:
    """What AWS says of a deployment: its two queues, the states of its inference hosts, and what the running ones have in hand."""

    uploads: Depth
    jobs: Depth
    hosts: Mapping[str, str] = field(default_factory=dict)
    work: Mapping[str, HostWork] = field(default_factory=dict)

    @property
    def something_waits(self) -> bool:
        """Whether a queue holds a message that may be the job's."""
        return any(depth.waiting > 0 or depth.at_work > 0 for depth in (self.uploads, self.jobs))

    def in_hand(self, job: str) -> tuple[str, JobAtWork] | None:
        """The host that has a job in hand, and in which phase."""
        return next(((host, each) for host, work in self.work.items() for each in work.jobs if each.job == job), None)


def look(clients: Clients, settings: Settings) -> Surroundings:
    """Ask AWS and the hosts; a host that does not answer within 20 s is one of which nothing is known."""
    hosts = Machines(clients.ec2, settings.deployment).find(ROLE_INFERENCE)
    return Surroundings(
        depth_of(clients, settings.names.uploads_queue),
        depth_of(clients, settings.names.jobs_queue),
        {host.id: host.state for host in hosts},
        work_of(clients, hosts),
    )


def in_words(job: str, seen: Surroundings) -> str:
    """Where a job is that has no answer. Holds no seconds, so that it is another text only where something has changed."""
    if found := seen.in_hand(job):
        host, at_work = found
        return f"in hand on {host}: {_PHASES.get(at_work.phase, at_work.phase)}"
    return f"{_queued(seen)}; {_hosts(seen)}"


def _queued(seen: Surroundings) -> str:
    if seen.jobs.waiting < 0:
        return "this deployment has no queues: materialise s3_trigger"
    said = []
    if events := max(seen.uploads.waiting, 0) + max(seen.uploads.at_work, 0):
        said.append(f"about {events} upload{'s' if events != 1 else ''} on the way to the queue of jobs")
    if seen.jobs.waiting:
        before = f"at most {seen.jobs.waiting - 1}" if seen.jobs.waiting > 1 else "none"
        said.append(f"about {seen.jobs.waiting} waiting in the queue of jobs, so {before} before it")
    if seen.jobs.at_work:
        said.append(f"{seen.jobs.at_work} taken by hosts")
    return ", ".join(said) or "nothing waits in the queues"


def _hosts(seen: Surroundings) -> str:
    if not seen.hosts:
        return "there is no inference host: materialise inference_host"
    by_state: dict[str, list[str]] = {}
    for host, state in sorted(seen.hosts.items()):
        by_state.setdefault(state, []).append(host)
    awake = [_awake(host, seen.work.get(host)) for host in by_state.get("running", ())]
    starting = [f"host {host} is starting" for host in by_state.get("pending", ())]
    stopping = [f"host {host} is stopping, and is started again when it has" for host in by_state.get("stopping", ())]
    asleep = f"{len(seen.hosts)} host{'s' if len(seen.hosts) != 1 else ''} stopped, to be started by the wake function"
    return ", ".join([*awake, *starting, *stopping]) or asleep


def _awake(host: str, work: HostWork | None) -> str:
    if work is None or work.agent == "unknown":
        return f"host {host} runs and does not say yet what it has in hand"
    if work.agent == "stopped":
        return f"host {host} runs and its agent has not begun yet, or has just ended"
    if not work.jobs:
        return f"host {host} runs and has nothing in hand"
    return f"host {host} is at work on {len(work.jobs)} other job{'s' if len(work.jobs) != 1 else ''}"
