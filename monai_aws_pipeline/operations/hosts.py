"""Inference hosts as an operator sees them: their state, where they are, why they could not start, and which are to be replaced.

A stopped host is bound to its zone, which may have no capacity for it again for days. Who is to be replaced is decided here by pure
functions, for ``inference_host``, its sensor and the command line alike. Another host is made by ``deployment.inference_host`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.instances import Machine, Machines
from monai_aws_pipeline.cloud.tags import TAG_REPLACE
from monai_aws_pipeline.contract import ROLE_INFERENCE, TAG_FAILED_STARTS, TAG_GROUP, FailedStarts, utc_text
from monai_aws_pipeline.contract.ec2_refusals import Refusal, ending_of, refusal_of


class UnknownHostError(CloudError):
    """The deployment has no such inference host."""


@dataclass(frozen=True)
class HostLine:
    """One inference host in short. ``failure``: what its last failed start was, empty where there was none; ``replace``: why, or empty."""

    id: str
    state: str
    type: str
    zone: str
    failed_starts: int
    failure: str
    replace: str


def starts_of(host: Machine) -> FailedStarts:
    """What the wake function has counted."""
    return FailedStarts.parse(host.tags.get(TAG_FAILED_STARTS, ""))


def cannot_start(host: Machine) -> bool:
    """Whether a stopped host's last start failed: refused, or taken and ended by AWS."""
    return host.state == "stopped" and (starts_of(host).count > 0 or ending_of(host.reason).known)


def why_replaced(host: Machine, after: int) -> str:
    """Why another is to be made in a host's place, empty where it is to stay. ``after``: failed starts in a row, 0 for any number."""
    if asked := host.tags.get(TAG_REPLACE, ""):
        return f"asked for at {asked}"
    starts = starts_of(host)
    if after and host.state == "stopped" and starts.count >= after:
        return f"could not start {starts.count} times in a row, the last time for {starts.code}"
    return ""


def replacement_key(host: Machine, after: int) -> str:
    """What a run that replaces the host is named by: another after as many failed starts again, so that one that failed is repeated."""
    return f"{host.id} {host.tags.get(TAG_REPLACE) or starts_of(host).count // max(after, 1)}"


def lines(hosts: Sequence[Machine], after: int) -> list[HostLine]:
    """What an operator is shown of hosts."""
    return [
        HostLine(host.id, host.state, host.type, host.zone, starts_of(host).count, _failure(host), why_replaced(host, after))
        for host in hosts
    ]


def _failure(host: Machine) -> str:
    starts, ending = starts_of(host), ending_of(host.reason)
    if host.state == "stopped" and ending.known:
        return _in_words(host.reason, ending)
    if not starts.at:
        return ""
    meant = refusal_of(starts.code)
    return f"{utc_text(starts.at)[:16]}Z {_in_words(starts.code, meant if meant.known else ending_of(starts.code))}"


def _in_words(code: str, meant: Refusal) -> str:
    return f"{code}: {meant.what}" if meant.known else code


def chosen(hosts: Sequence[Machine], wanted: Sequence[str], *, all_failed: bool) -> list[Machine]:
    """The hosts that an operator means: by id, or all whose last start failed. Raises UnknownHostError."""
    if all_failed:
        return [host for host in hosts if cannot_start(host)]
    known = {host.id: host for host in hosts}
    if missing := [name for name in wanted if name not in known]:
        raise UnknownHostError(f"This deployment has no inference host {', '.join(missing)[:200]}.", "List them with: monai-aws hosts")
    return [known[name] for name in dict.fromkeys(wanted)]


def ask_replacement(
    machines: Machines, wanted: Sequence[str], now: datetime, report: Callable[[str], None], *, all_failed: bool = False
) -> list[Machine]:
    """Mark hosts, so that ``inference_host`` makes others in their place. Returns them."""
    hosts = machines.find(ROLE_INFERENCE)
    found = chosen([host for host in hosts if TAG_GROUP not in host.tags] if all_failed else hosts, wanted, all_failed=all_failed)
    if grouped := [host.id for host in found if TAG_GROUP in host.tags]:
        raise UnknownHostError(
            f"{', '.join(grouped)} is of an Auto Scaling group, which replaces its instances by itself.",
            "To have one replaced now, after what it has in hand: aws autoscaling terminate-instance-in-auto-scaling-group "
            f"--no-should-decrement-desired-capacity --instance-id {grouped[0]}",
        )
    for host in found:
        machines.tag(host.id, {TAG_REPLACE: utc_text(now)})
        report(f"{host.id} ({host.state}, {host.zone}) is to be replaced")
    return found
