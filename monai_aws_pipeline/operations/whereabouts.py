"""Where jobs are that have no answer yet, in words: in hand on a host, or what stands between them and one.

Here belongs the wording, which is pure, and the look that it is made of. Messages in queues are counted and never received: a receipt of a
job counts as one of its three tries. ``upload --wait``, ``find``, ``status --job`` and every re-run say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ROLE_INFERENCE
from monai_aws_pipeline.operations.status import Depth, FleetState, MachineState, Watch, depth_of, fleet_of
from monai_aws_pipeline.settings import Settings

_PHASES: Final = {
    "fetching": "being fetched and checked",
    "waiting": "fetched and waiting for its turn",
    "pulling": "waiting for the MAP to be pulled",
    "inferring": "being inferred",
    "publishing": "being judged and stored",
    "archiving": "answered and being archived",
}


@dataclass(frozen=True)
class Surroundings:
    """What AWS says of a deployment: its two queues, and its inference hosts with what the running ones have in hand.

    ``wake_every_minutes``: so often the wake function looks at the queue without being called. ``group``: the one that the hosts are of.
    """

    uploads: Depth
    jobs: Depth
    hosts: tuple[MachineState, ...] = ()
    wake_every_minutes: int = 5
    group: FleetState | None = None

    @property
    def something_waits(self) -> bool:
        """Whether a queue holds a message that may be the job's."""
        return any(depth.waiting > 0 or depth.at_work > 0 for depth in (self.uploads, self.jobs))

    def in_hand(self, jobs: Collection[str]) -> dict[str, tuple[str, str]]:
        """Those of these jobs that a host has, each with that host and its phase."""
        held = [(host.id, each) for host in self.hosts if host.work for each in host.work.jobs]
        return {each.job: (host, each.phase) for host, each in held if each.job in jobs}


def look(clients: Clients, settings: Settings, *, and_group: bool = True) -> Surroundings:
    """Ask AWS and the hosts; a host that does not answer within 20 s is one of which nothing is known. A group may not be seen.

    ``and_group``: whether what the group of hosts does is wanted too, which takes several calls.
    """
    return Surroundings(
        depth_of(clients, settings.names.uploads_queue),
        depth_of(clients, settings.names.jobs_queue),
        Watch(clients, settings).machines(Machines(clients.ec2, settings.deployment).find(ROLE_INFERENCE)),
        settings.wake_every_minutes,
        _group(clients, settings) if and_group else None,
    )


def _group(clients: Clients, settings: Settings) -> FleetState | None:
    try:
        return fleet_of(clients, settings)
    except (CloudError, ClientError, BotoCoreError):
        return FleetState(settings.names.fleet_group, -1, -1, -1, -1)


def where(clients: Clients, settings: Settings, jobs: Collection[str]) -> str:
    """Look, and say it in words. Where AWS does not tell, that: who may ask for an answer need not be allowed to look, and waits on."""
    try:
        return in_words(jobs, look(clients, settings))
    except (CloudError, ClientError, BotoCoreError) as error:
        why = code_of(error) if isinstance(error, ClientError) else type(error).__name__
        return f"what stands before the answer cannot be seen ({why})"


def in_words(jobs: Collection[str], seen: Surroundings) -> str:
    """Where jobs are that have no answer. Holds no seconds, so that it is another text only where something has changed."""
    held = seen.in_hand(jobs)
    if len(jobs) == len(held) == 1:
        [(host, phase)] = held.values()
        return f"in hand on {host}: {_PHASES.get(phase, phase)}"
    phases = Counter(_PHASES.get(phase, phase) for _, phase in held.values())
    in_hand = f"{len(held)} in hand ({', '.join(f'{count} {phase}' for phase, count in phases.most_common())})" if held else ""
    before = f"{_queued(seen, alone=len(jobs) == 1)}; {_hosts(seen, jobs)}" if len(held) < len(jobs) else ""
    return "; ".join(filter(None, (in_hand, before)))


def _queued(seen: Surroundings, *, alone: bool) -> str:
    if seen.jobs.waiting < 0:
        return "this deployment has no queues: materialise s3_trigger"
    said = []
    if events := max(seen.uploads.waiting, 0) + max(seen.uploads.at_work, 0):
        said.append(f"about {_counted(events, 'upload')} on the way to the queue of jobs")
    if seen.jobs.waiting:
        before = f"at most {seen.jobs.waiting - 1}" if seen.jobs.waiting > 1 else "none"
        said.append(f"about {seen.jobs.waiting} waiting in the queue of jobs" + (f", so {before} before it" if alone else ""))
    if seen.jobs.at_work:
        said.append(f"{seen.jobs.at_work} taken by hosts")
    return ", ".join(said) or "nothing waits in the queues"


def _hosts(seen: Surroundings, jobs: Collection[str]) -> str:
    if not seen.hosts and not seen.group:
        return "there is no inference host: materialise inference_host"
    by_state: dict[str, list[MachineState]] = {}
    for host in sorted(seen.hosts, key=lambda host: host.id):
        by_state.setdefault(host.state, []).append(host)
    awake = [_awake(host, jobs) for host in by_state.get("running", ())]
    starting = [f"host {host.id} is starting" for host in by_state.get("pending", ())]
    soon = _counted(seen.wake_every_minutes, "minute")
    if seen.group:
        return ", ".join([*awake, *starting, *_to_come(seen.group, soon)])
    stopping = [f"host {host.id} is stopping, and is started again when it has" for host in by_state.get("stopping", ())]
    asleep = f"{_counted(len(seen.hosts), 'host')} stopped; the wake function starts one within {soon}"
    troubles = [f"host {host.id}: {host.trouble}" for host in seen.hosts if host.trouble]
    return ", ".join([*awake, *starting, *stopping]) or "; ".join([asleep, *troubles])


def _to_come(group: FleetState, soon: str) -> list[str]:
    """What is known of instances that do not run yet. One that stops goes to the pool, or leaves: neither answers anything by itself."""
    if group.desired < 0:
        return ["what the group does cannot be seen"]
    said = (
        f"the group has {group.in_service} of {_counted(group.desired, 'instance')} in service"
        if group.desired
        else f"the group is at zero; the wake function asks it for an instance within {soon}"
    )
    return [said, f"its last launch failed: {group.trouble}"] if group.trouble else [said]


def _awake(host: MachineState, jobs: Collection[str]) -> str:
    if host.work is None or host.work.agent == "unknown":
        return f"host {host.id} runs and does not say yet what it has in hand"
    if host.work.agent == "stopped":
        return f"host {host.id} runs and its agent has not begun yet, or has just ended"
    if not host.work.jobs:
        return f"host {host.id} runs and has nothing in hand"
    others = sum(each.job not in jobs for each in host.work.jobs)
    return f"host {host.id} is at work on {_counted(others, 'other job')}" if others else f"host {host.id} is at work on them"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
