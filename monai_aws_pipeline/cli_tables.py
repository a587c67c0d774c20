"""What the command line shows as tables: of each thing its title, its columns, and a row for each part. Pure; ``terminal`` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.stack import Proposal
    from monai_aws_pipeline.maps.findings import Finding
    from monai_aws_pipeline.operations.failures import Failures
    from monai_aws_pipeline.operations.hosts import HostLine
    from monai_aws_pipeline.operations.preflight import Answer
    from monai_aws_pipeline.operations.promotion import ListedMap
    from monai_aws_pipeline.operations.status import DeploymentState, HostWork
    from monai_aws_pipeline.settings import Settings


class Table(NamedTuple):
    """A table in the order in which ``terminal.print_table`` takes its parts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def changes_of_a_stack(proposal: Proposal) -> Table:
    """What CloudFormation would do."""
    rows = [(f"{each.action}, made anew" if each.replaces else each.action, each.resource, each.kind) for each in proposal.changes]
    return Table(f"the stack {proposal.name} {'is made' if proposal.creates else 'is changed'}", ("action", "resource", "kind"), rows)


def preflight_answers(settings: Settings, answers: Iterable[Answer]) -> Table:
    """What the field test was answered, errors in capitals."""
    rows = [
        (answer.check, answer.state.upper() if answer.state == "error" else answer.state, answer.what, answer.remedy) for answer in answers
    ]
    return Table(f"deployment {settings.deployment} in {settings.region}", ("what", "state", "answer", "what to do"), rows)


def findings_of_an_application(source: str, findings: Iterable[Finding]) -> Table:
    """What the doctor knows against building it."""
    rows = [
        (finding.severity, f"{finding.point}\n{finding.place}" if finding.place else finding.point, finding.message, finding.remedy)
        for finding in findings
    ]
    return Table(f"application {source}", ("severity", "where", "what", "what to do"), rows)


def state_of_a_deployment(state: DeploymentState) -> Table:
    """Machines with what they have in hand, queues, the last results."""
    rows = []
    if fleet := state.fleet:
        said = f"{fleet.desired} wanted, {fleet.in_service} in service, {fleet.warm} in the warm pool, {fleet.most} at most"
        said += f"; instance refresh: {fleet.refresh}" if fleet.refresh else ""
        rows.append(("group", fleet.group, f"{said}; its last launch failed: {fleet.trouble}" if fleet.trouble else said))
    for machine in state.machines:
        what = f"{machine.state} ({machine.type}){_work_line(machine.work)}{f'; {machine.trouble}' if machine.trouble else ''}"
        rows.append((machine.role, machine.id, what))
        if machine.work and machine.work.at_once:
            rows.append(("  studies", machine.id, machine.work.at_once))
        for job in machine.work.jobs if machine.work else ():
            rows.append(("  job", job.job, f"{job.phase} for {job.phase_seconds:.0f} s, in hand for {job.seconds:.0f} s"))
    for name, depth in state.queues.items():
        held = f"{depth.waiting} waiting, {depth.at_work} at work"
        rows.append(("queue", name, "not there: materialise s3_trigger" if depth.waiting < 0 else held))
    for line in state.results:
        ended = f"{line.status}{f' ({line.error})' if line.error else ''}, {line.seconds:.1f} s, {line.cost_usd:.4f} USD"
        ended += f", beside {line.beside} other{'' if line.beside == 1 else 's'}" if line.beside else ""
        said = f"; it said last: {line.last_line}" if line.last_line else ""
        rows.append((f"result {line.committed_at}", f"study {line.study or 'unknown'}, job {line.job}", f"{ended}{said}"))
    return Table(f"deployment {state.deployment}", ("what", "which", "state"), rows)


def unanswered_studies(found: Failures) -> Table:
    """The studies and uploads without an answer, the newest first."""
    columns = ("time", "study", "MAP", "code", "cause", "it said last", "what to do", "job")
    rows = [
        (
            row.at,
            row.study or "unknown",
            f"{row.map_version} {row.map_digest}".strip(),
            row.code,
            row.cause,
            row.last_line,
            row.remedy,
            row.job,
        )
        for row in found.rows
    ]
    return Table(f"studies without an answer since {found.since}", columns, rows)


def maps_of_a_registry(settings: Settings, found: Iterable[ListedMap]) -> Table:
    """Each MAP by the name that ``promote`` and ``rollback`` take, and what it is to the deployment."""
    from monai_aws_pipeline.operations.promotion import label

    rows = [
        (label(each.image), each.image.digest, each.image.pushed_at[:16], f"{each.image.bytes / 1e6:.0f}", each.standing) for each in found
    ]
    title = f"{settings.ecr_repository}, deployment {settings.deployment}"
    return Table(title, ("MAP", "digest", "pushed", "MB", "standing"), rows)


def inference_hosts(settings: Settings, found: Iterable[HostLine]) -> Table:
    """Each host with how its last starts went."""
    columns = ("host", "state", "type", "zone", "failed in a row", "last failed start", "is replaced because")
    rows = [(each.id, each.state, each.type, each.zone, str(each.failed_starts), each.failure, each.replace) for each in found]
    return Table(f"inference hosts of deployment {settings.deployment}", columns, rows)


def _work_line(work: HostWork | None) -> str:
    """What stands behind a host's state."""
    if work is None or work.jobs:
        return ""
    return {"running": ", no job", "stopped": ", agent stopped"}.get(work.agent, f", jobs not known: {work.reason}")
