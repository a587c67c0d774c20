"""A candidate and its golden study: the host that answers it, what it found, and whether that is enough to become the live MAP."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.autoscaling import Group, ScalingGroup
from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.registry import PushedImage
from monai_aws_pipeline.cloud.run_command import last_json
from monai_aws_pipeline.cloud.waiting import wait_until
from monai_aws_pipeline.contract import AgentExit
from monai_aws_pipeline.maps.spec.expectation import Point
from monai_aws_pipeline.operations.hosts import cannot_start
from monai_aws_pipeline.operations.promotion import PromotionError, label

MAX_POINTS: Final = 100
COMING_SECONDS: Final = 2100.0
"""Longest wait for an instance of a group: its boot, and half an hour for the pull of the live MAP."""
_LOOKS: Final = 6
"""The first ones follow each other quickly: some three seconds in all."""
_CORRECT: Final = "Correct the application or golden/expect.yaml, build again, and promote that."


class NotProvenError(PromotionError):
    """The candidate missed points of the golden study on a host, or no host could try it."""


@dataclass(frozen=True)
class GoldenCheck:
    """What a host found about a candidate. ``golden``: passed, failed or none (the MAP brings no golden study)."""

    host: str
    golden: str
    points: tuple[Point, ...]
    seconds: float

    @property
    def missed(self) -> tuple[Point, ...]:
        """The points that were not met."""
        return tuple(point for point in self.points if not point.ok)


def require_golden_check(image: PushedImage, proof: GoldenCheck, live: str, *, require_golden: bool = False) -> None:
    """Raise NotProvenError where a host did not answer the golden study as expected, or had none and one is required."""
    if proof.golden == "failed":
        missed = "; ".join(map(str, proof.missed)) or "no point was named"
        raise NotProvenError(
            f"{label(image)} missed its golden study on host {proof.host}, and {live or 'no MAP'} stays live. Missed: {missed}.",
            f"Go back to an earlier MAP: monai-aws rollback. {_CORRECT}" if live == image.digest else _CORRECT,
        )
    if proof.golden == "none" and require_golden:
        raise NotProvenError(
            f"{label(image)} brings no golden study, and {live or 'no MAP'} stays live.",
            "Set MONAI_AWS_GOLDEN_STUDY, build again, and promote that (docs/golden.md); or promote it without --require-golden.",
        )


def choose_host(hosts: Sequence[Machine]) -> Machine:
    """The host to try a candidate on: a stopped one, so that no study waits for it, else a running one; last one that could not start.

    Raises NotProvenError.
    """
    order = ("stopped", "stopping", "running", "pending")
    known = sorted((host for host in hosts if host.state in order), key=lambda host: (cannot_start(host), order.index(host.state)))
    if not known:
        raise NotProvenError("There is no inference host to answer the golden study.", "Materialise inference_host first.")
    return known[0]


def parse_golden_check(host: str, exit_code: int, stdout: str, stderr: str) -> GoldenCheck:
    """What ``monai-aws-agent prove`` said. Raises NotProvenError where it could not say anything."""
    if "invalid choice: 'prove'" in stderr:
        raise NotProvenError(
            f"The agent of host {host} is older than this project: it knows no golden study.", "Materialise gpu_ami and inference_host."
        )
    if exit_code == AgentExit.NOT_READY:
        raise NotProvenError(
            f"Host {host} could not make the MAP ready: {stderr[-800:].strip()}",
            "Check that its role may read the repository, that its disk has room, and that map_conformance passed.",
        )
    answer = last_json(stdout)
    golden = answer.get("golden")
    fitting = {int(AgentExit.DONE): ("passed", "none"), int(AgentExit.MISSED): ("failed",)}.get(exit_code, ())
    if golden not in fitting:
        raise NotProvenError(
            f"Host {host} did not say how the golden study ended (exit code {exit_code}): {stderr[-800:].strip()}",
            "Look at the command in SSM Run Command.",
        )
    given = answer.get("points")
    points = tuple(point_of(item) for item in given[:MAX_POINTS] if isinstance(item, dict)) if isinstance(given, list) else ()
    seconds = answer.get("seconds")
    return GoldenCheck(host, str(golden), points, float(seconds) if isinstance(seconds, int | float) else 0.0)


def point_of(item: dict[str, Any]) -> Point:
    """A point as a host or a kept change names it, its texts within bounds."""

    def text(name: str) -> str:
        value = item.get(name, "")
        return (value if isinstance(value, str) else json.dumps(value))[:200]

    return Point(text("name"), text("expected"), text("found"), item.get("ok") is True)


def instance_in_service(group: ScalingGroup, report: Report, seconds: float = COMING_SECONDS, but: Collection[str] = ()) -> str:
    """Id of an instance of a group that is in service: one that no work keeps where there is one, else one more that is asked for.

    Nobody sends it away afterwards: it leaves by itself when it is idle. What does not come is asked for no more. ``but``: not these, which
    have ended, whatever the group says yet. Raises NotProvenError.
    """
    found = group.find()
    if found is None or found.is_going or not found.most:
        raise NotProvenError("There is no group of inference hosts to answer the golden study.", "Materialise inference_host first.")
    if _serving(found, but) or found.desired:
        return _comes(group, report, seconds, but)
    report(f"the group {group.name} has no instance: one is asked for, and leaves by itself when it is idle")
    with _asked_for_one(group, report):
        return _comes(group, report, seconds, but)


def _serving(group: Group | None, but: Collection[str]) -> list[str]:
    return [each.id for each in group.in_service() if each.id not in but] if group else []


def _comes(group: ScalingGroup, report: Report, seconds: float, but: Collection[str]) -> str:
    unwanted = 0

    def is_over(now: Group | None) -> bool:
        nonlocal unwanted  # the first look after a wish may show what was before; a wish that somebody has taken back stays away
        unwanted = unwanted + 1 if now is not None and not now.desired else 0
        return bool(_serving(now, but)) or unwanted >= _LOOKS

    seen = wait_until(group.find, is_over, seconds, what=f"waiting for an instance of {group.name}", report=report, pause=3.0)
    serving = _serving(seen, but)
    if not serving:
        why = group.last_failure().removesuffix(".") or (
            "it is still on its way" if seen and seen.desired else "none is asked for any more"
        )
        raise NotProvenError(
            f"No instance of {group.name} came into service: {why}.",
            "Look at monai-aws status and at the group's activity history; then promote again.",
        )
    return serving[0]


@contextmanager
def _asked_for_one(group: ScalingGroup, report: Report) -> Iterator[None]:
    """Ask for a first instance, and take that back where it does not come: the group would launch one after the other.

    Whoever has uploaded meanwhile is helped by the scheduled wake.
    """
    group.ask_for(1)
    try:
        yield
    except BaseException:  # an interrupted run leaves nobody who would see it come
        with suppress(CloudError, ClientError, BotoCoreError):  # the first error is the one to be seen
            now = group.find()
            if now and now.desired == 1 and not now.in_service():  # more than that somebody else has asked for
                group.ask_for(0)
                report(f"no instance is asked of {group.name} any more")
        raise
