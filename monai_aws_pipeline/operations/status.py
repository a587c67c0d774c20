"""What a deployment is doing: its machines, what hosts have in hand, queues, last results. Nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.autoscaling import ScalingGroup
from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.instances import Machine, Machines
from monai_aws_pipeline.cloud.run_command import Commands, last_json
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.contract import AGENT_PROGRAM, ROLE_INFERENCE, TAG_ROLE, ResultRecord, is_job
from monai_aws_pipeline.contract.ec2_refusals import ending_of
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError
from monai_aws_pipeline.settings import Settings

RESULTS_SHOWN: Final = 10
RESULTS_HOURS: Final = 24
ASK_SECONDS: Final = 20
"""Longest that a host may take to say what it has in hand."""
_WORD: Final = re.compile(r"[a-z]{1,20}")
_LINE: Final = re.compile(r"[\x20-\x7e]{1,300}")


@dataclass(frozen=True)
class JobAtWork:
    """A job in hand on a host: for how many seconds, and for how many of them in this phase."""

    job: str
    phase: str
    seconds: float
    phase_seconds: float


@dataclass(frozen=True)
class HostWork:
    """What a host's agent says: ``agent`` is ``running``, ``stopped``, or ``unknown`` with the reason; jobs longest in hand first."""

    agent: str
    jobs: tuple[JobAtWork, ...] = ()
    reason: str = ""
    at_once: str = ""
    """How many studies it infers at once, and how that number came about."""


def parse_work(printed: str) -> HostWork:
    """Read what ``monai-aws-agent at-work`` printed; whatever else it is makes ``unknown``."""
    found = last_json(printed)
    try:
        jobs = tuple(
            JobAtWork(str(each["job"]), str(each["phase"]), float(each["seconds"]), float(each["phase_seconds"])) for each in found["jobs"]
        )
        agent = str(found["agent"])
    except (KeyError, TypeError, ValueError):
        agent, jobs = "", ()
    plain = all(is_job(each.job) and _WORD.fullmatch(each.phase) for each in jobs)
    if agent not in ("running", "stopped") or not plain:
        return HostWork("unknown", reason="the host's answer is not understood; its agent may be older than this command")
    return HostWork(agent, jobs, at_once=_at_once(found))


def _at_once(found: Mapping[str, Any]) -> str:
    """In words; empty for an agent that is older than this command, or that stopped."""
    said = found.get("at_once")
    why = said.get("why") if isinstance(said, dict) else None
    return why if isinstance(why, str) and _LINE.fullmatch(why) else ""


@dataclass(frozen=True)
class MachineState:
    """One machine of the deployment."""

    id: str
    role: str
    state: str
    type: str
    trouble: str = ""
    """Why its last start failed, with what to do; empty mostly."""
    work: HostWork | None = None
    """What a running inference host has in hand; None for any other machine, and where it was not told."""


def trouble_of(machine: Machine) -> str:
    """Why a stopped machine's last start failed, by the state reason that AWS keeps; empty where it was stopped."""
    ending = ending_of(machine.reason)
    if machine.state != "stopped" or not ending.known:
        return ""
    return f"its last start failed ({machine.reason}): {ending.what} {ending.remedy}"


def work_of(clients: Clients, machines: Iterable[Machine]) -> dict[str, HostWork]:
    """What running inference hosts have in hand, by host: asked at the same time, because each takes a second or two to answer."""
    asked = sorted(m.id for m in machines if m.state == "running" and m.tags.get(TAG_ROLE) == ROLE_INFERENCE)
    with ThreadPoolExecutor(max(1, min(len(asked), 8))) as threads:
        return dict(zip(asked, threads.map(lambda host: _work(clients, host), asked), strict=True))


def _work(clients: Clients, host: str) -> HostWork:
    try:
        ended = Commands(clients.ssm).run(host, f"{AGENT_PROGRAM} at-work", seconds=ASK_SECONDS, comment="status")
    except (CloudError, ClientError, BotoCoreError) as error:  # the rest of the picture is worth having without it
        return HostWork("unknown", reason=str(error))
    return parse_work(ended.stdout)


@dataclass(frozen=True)
class FleetState:
    """The Auto Scaling group of inference hosts. ``refresh``: what an instance refresh does, empty where none is under way.

    ``trouble``: why its last launch failed, where it did, in AWS's words.
    """

    group: str
    desired: int
    in_service: int
    warm: int
    most: int
    refresh: str = ""
    trouble: str = ""


def fleet_of(clients: Clients, settings: Settings) -> FleetState | None:
    """The group of a deployment that is to have one; None where it is not to, or there is none."""
    if settings.fleet != "autoscaling":
        return None
    asked = ScalingGroup(clients, settings.names.fleet_group, settings.names.fleet_alarm)
    found = asked.find()
    if found is None:
        return None
    refresh = f"{found.refresh.status}, {found.refresh.percentage} %" if found.refresh and found.refresh.is_open else ""
    trouble = "" if found.is_going else asked.last_failure()
    return FleetState(asked.name, found.desired, len(found.in_service()), len(found.warm), found.most, refresh, trouble)


@dataclass(frozen=True)
class Depth:
    """About how many messages a queue holds; -1 where the queue does not exist."""

    waiting: int
    at_work: int


def depth_of(clients: Clients, name: str) -> Depth:
    """How many messages a queue holds."""
    trigger = Trigger(clients, {})
    found = trigger.find_queue(name)
    return Depth(*trigger.depth(found)) if found else Depth(-1, -1)


@dataclass(frozen=True)
class ResultLine:
    """One answer in short. ``seconds`` from taken to committed; ``error`` is the code of a study that was not answered, ``last_line`` what
    its application said last. ``beside``: so many others were inferred with it, whose seconds of the machine ``cost_usd`` leaves out."""

    status: str
    study: str
    job: str
    seconds: float
    cost_usd: float
    committed_at: str
    result_key: str
    error: str = ""
    last_line: str = ""
    beside: int = 0

    @classmethod
    def of(cls, record: ResultRecord) -> ResultLine:
        """In short what a commit record says."""
        return cls(
            status=record.status.value,
            study=record.study,
            job=record.job,
            seconds=round(record.timings.total, 1),
            cost_usd=record.cost.usd,
            committed_at=record.committed_at,
            result_key=record.commit_key,
            error=record.error.code if record.error else "",
            last_line=record.error.last_line if record.error else "",
            beside=record.resources.beside,
        )


@dataclass(frozen=True)
class DeploymentState:
    """What an operator looks at first. ``dead_letters`` counts both dead-letter queues."""

    deployment: str
    machines: tuple[MachineState, ...]
    queues: Mapping[str, Depth]
    dead_letters: int
    live_map: str
    results: tuple[ResultLine, ...]
    fleet: FleetState | None = None
    """The group that the hosts are of; None for hosts with names."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Watch:
    """Looks at one deployment, as often as wanted; a result that was read once is not read again."""

    clients: Clients
    settings: Settings
    _known: dict[str, ResultLine] = field(default_factory=dict)

    def look(self) -> DeploymentState:
        """The deployment as it is now."""
        names = self.settings.names
        found = Machines(self.clients.ec2, self.settings.deployment).find()
        every = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
        queues = {name: depth_of(self.clients, name) for name in every}
        return DeploymentState(
            deployment=self.settings.deployment,
            machines=self.machines(found),
            queues=queues,
            dead_letters=sum(max(queues[name].waiting, 0) for name in (names.uploads_dead_letters, names.jobs_dead_letters)),
            live_map=Commands(self.clients.ssm).parameter(names.live_map_parameter),
            results=tuple(self._results()),
            fleet=fleet_of(self.clients, self.settings),
        )

    def machines(self, found: Sequence[Machine]) -> tuple[MachineState, ...]:
        """The machines, with what those that infer have in hand."""
        work = work_of(self.clients, found)
        return tuple(MachineState(m.id, m.tags.get(TAG_ROLE, ""), m.state, m.type, trouble_of(m), work.get(m.id)) for m in found)

    def _results(self) -> Iterator[ResultLine]:
        if not self.settings.bucket:
            return
        store = ResultsStore(self.clients.s3, self.settings.bucket)
        for key in store.newest_keys(datetime.now(UTC) - timedelta(hours=RESULTS_HOURS), RESULTS_SHOWN):
            if key not in self._known:
                try:
                    self._known[key] = ResultLine.of(store.result_record(store.entry(key)))
                except UnreadableResultError:  # the sensor names damaged entries; here they only do not count
                    continue
            yield self._known[key]
