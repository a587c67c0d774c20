"""Whether hosts cost nothing while idle, by the embedded AWS's own records: who shows the demo and who tests asks the same question.

Here belongs that question only: it knows what no user of AWS sees, when a machine was really powered on and really off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord, parse_utc
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.settings import Settings

SELF_STOPPED = "Client.InstanceInitiatedShutdown"
_RESULTS = 2000
_HOURS = 24


class IdleCostError(NamedError):
    """A host ran on although it had nothing to do."""


@dataclass(frozen=True)
class IdlePeriod:
    """One host that stopped itself: for how many seconds it was on after its own last answer, or after its start when it gave none."""

    host: str
    seconds: float


def idle_period_of(host: str, powered_on_at: float, off_at: float, records: Iterable[ResultRecord]) -> IdlePeriod:
    """From the records of all hosts, of which only this one's own count. Times in seconds since 1970."""
    commits = (parse_utc(record.committed_at).timestamp() for record in records if record.host.instance_id == host)
    last = max((moment for moment in commits if moment <= off_at), default=0.0)
    return IdlePeriod(host, off_at - max(last, powered_on_at))


def idle_periods(clients: Clients, settings: Settings, machines: Sequence[Mapping[str, Any]]) -> list[IdlePeriod]:
    """Of each inference host that stopped itself, how long it idled. Raises IdleCostError for more than ``idle_stop_minutes`` and one.

    ``machines``: what the embedded AWS says under ``/_local/health``.
    """
    hosts = [machine.id for machine in Machines(clients.ec2, settings.deployment).find(ROLE_INFERENCE, states="stopped")]
    if not hosts:
        return []
    described = clients.ec2.describe_instances(InstanceIds=hosts)["Reservations"]
    instances = [each for group in described for each in group["Instances"]]
    reasons = {each.get("InstanceId", ""): each.get("StateReason", {}).get("Code", "") for each in instances}
    seen = {machine["id"]: machine for machine in machines}
    store = ResultsStore(clients.s3, settings.require_bucket())
    keys = store.newest_keys(datetime.now(UTC) - timedelta(hours=_HOURS), _RESULTS)
    records: defaultdict[str, list[ResultRecord]] = defaultdict(list)
    for record in (store.result_record(store.entry(key)) for key in keys):
        records[record.host.instance_id].append(record)
    found = [
        idle_period_of(host, seen[host]["powered_on_at"], seen[host]["changed_at"], records[host])
        for host in hosts
        if reasons.get(host) == SELF_STOPPED
    ]
    allowed = (settings.idle_stop_minutes + 1) * 60
    for rest in found:
        if rest.seconds > allowed:
            raise IdleCostError(f"Host {rest.host} idled for {rest.seconds:.0f} s and may for {allowed:.0f} s. Look at its agent's log.")
    return found
