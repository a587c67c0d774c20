"""Where re-runs are that have no answer yet: queued, waiting for a host that starts, or in which phase on which host.

Here belongs asking AWS (the queue's depth, the hosts' states, through SSM what each host has in hand), and saying it in pure functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ROLE_INFERENCE
from monai_aws_pipeline.operations.status import Depth, MachineState, Watch, depth_of
from monai_aws_pipeline.settings import Settings

_PHASES = {"fetching": "is fetched", "waiting": "is fetched and waits for its turn", "pulling": "waits for the MAP to be pulled",
           "inferring": "is inferred", "publishing": "is published"}  # fmt: skip
_STATES = {"pending": "starting"}
_NO_QUEUE = Depth(-1, -1)


@dataclass(frozen=True)
class Surroundings:
    """The jobs queue and the inference hosts. ``unseen``: why AWS did not say."""

    queue: Depth = _NO_QUEUE
    hosts: tuple[MachineState, ...] = ()
    unseen: str = ""


def look(clients: Clients, settings: Settings) -> Surroundings:
    """Ask AWS. Never fails: who waits for an answer goes on waiting without the picture."""
    try:
        hosts = Machines(clients.ec2, settings.deployment).find(ROLE_INFERENCE)
        return Surroundings(depth_of(clients, settings.names.jobs_queue), Watch(clients, settings).machines(hosts))
    except (CloudError, ClientError, BotoCoreError) as error:
        return Surroundings(unseen=type(error).__name__)


def where(jobs: Collection[str], seen: Surroundings, wake_every_minutes: int) -> str:
    """Where these jobs are, in words; of a single job with host and seconds, of several with counts."""
    if seen.unseen:
        return f"what they wait for cannot be seen ({seen.unseen})"
    found = [(host.id, job) for host in seen.hosts if host.work for job in host.work.jobs if job.job in jobs]
    if len(jobs) == len(found) == 1:
        host, job = found[0]
        return f"it {_PHASES.get(job.phase, job.phase)} on {host}, for {job.phase_seconds:.0f} s (in hand for {job.seconds:.0f} s)"
    phases = Counter(job.phase for _, job in found)
    at_work = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
    left = len(jobs) - len(found)
    queued = f"{'it is' if len(jobs) == 1 else left} queued: {_queue(seen.queue)}; {_hosts(seen, wake_every_minutes)}" if left else ""
    return "; ".join(filter(None, (at_work, queued)))


def _queue(queue: Depth) -> str:
    if queue.waiting < 0:
        return "the jobs queue does not exist; materialise s3_trigger"
    return f"{queue.waiting} jobs queued, {queue.at_work} at work"


def _hosts(seen: Surroundings, wake_every_minutes: int) -> str:
    if not seen.hosts:
        return "there is no host; materialise inference_host"
    said = []
    for host in seen.hosts:
        doing = f" and its agent {host.work.agent}" if host.work and host.work.agent != "running" else ""
        said.append(f"{host.id} is {_STATES.get(host.state, host.state)}{doing}" + (f" ({host.trouble})" if host.trouble else ""))
    awake = any(host.state in ("pending", "running") for host in seen.hosts)
    return ", ".join(said) + ("" if awake else f"; one is started within {wake_every_minutes} minutes")
