"""The administrator's CloudFormation stack (infra/bootstrap.yaml): proposed as a change set, applied, and its outputs read.

Which parameters are sent is a pure function (``parameters_to_send``): what is not named keeps the value that the stack
has, because AWS would give it the template's default. Source: AWS CloudFormation API Reference, "CreateChangeSet", "Parameter".
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of, named, refused
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

_DONE: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE")
_NO_STACK_YET: Final = ("REVIEW_IN_PROGRESS",)
_LEFT_BY_A_FAILED_CREATION: Final = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
_NOTHING_TO_DO: Final = ("didn't contain changes", "No updates are to be performed")
_CONSEQUENCE: Final = re.compile(r"cancell?ed|The following resource\(s\) failed", re.IGNORECASE)


class StackError(CloudError):
    """The stack did not come up. The resources that failed are named."""


@dataclass(frozen=True)
class Change:
    """One resource of a change set. ``action``: Add, Modify, Remove; ``replaces``: it is made anew and the old one goes."""

    action: str
    resource: str
    kind: str
    replaces: bool


@dataclass(frozen=True)
class Proposal:
    """A change set that CloudFormation has worked out and not applied. Without changes there is nothing to apply."""

    name: str
    stack_id: str
    change_set: str
    creates: bool
    changes: tuple[Change, ...]


class PlainHttpError(CloudError):
    """The bucket would refuse the only way that leads to it."""


def check_transport(plain_http: str, require_tls: bool) -> None:
    """Refuse to make a bucket that takes TLS only where the endpoint has none. ``plain_http``: as ``Clients`` says it."""
    if plain_http and require_tls:
        raise PlainHttpError(
            f"The endpoint {plain_http} speaks plain HTTP, and the bucket would refuse that from everybody.",
            "Set an endpoint with https, or add --allow-plain-http where the way to it leaves no machine of yours.",
        )


def without_comments(template: str) -> str:
    """A YAML template as it is sent: CloudFormation takes 51,200 bytes of one, and its comments are for who reads it here."""
    lines = (re.sub(r"(^|\s)\s*# .*$", "", line) for line in template.splitlines())
    return "\n".join(line for line in lines if line.strip()) + "\n"


def stack_name(deployment: str) -> str:
    """The bootstrap stack's name."""
    return f"monai-aws-{deployment}"


def parameters_to_send(named: Mapping[str, str], known: Collection[str]) -> list[dict[str, Any]]:
    """Parameters of a request. ``named``: what somebody asks for; ``known``: those that the stack has, none where it is to be made."""
    sent: list[dict[str, Any]] = [{"ParameterKey": key, "ParameterValue": value} for key, value in sorted(named.items())]
    kept = sorted(set(known) - set(named))
    return sent + [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]


def deploy_stack(
    cloudformation: CloudFormationClient, name: str, template: Path, parameters: Mapping[str, str], report: Report, seconds: float = 600
) -> dict[str, str]:
    """Propose and apply at once, for who need not be asked. Returns the outputs. An unchanged stack is fine."""
    return apply(cloudformation, propose(cloudformation, name, template, parameters, report), report, seconds)


def propose(
    cloudformation: CloudFormationClient, name: str, template: Path, parameters: Mapping[str, str], report: Report, seconds: float = 120
) -> Proposal:
    """Have CloudFormation work out what a template and parameters would change. Raises StackError, AccessError.

    What a failed creation left in a stack's place is cleared away first: CloudFormation would take no change set for it.
    """
    stack = _ready_for_a_change(cloudformation, name, report)
    creates = stack is None or stack["StackStatus"] in _NO_STACK_YET
    known = [] if creates or stack is None else [parameter["ParameterKey"] for parameter in stack.get("Parameters", [])]
    text = without_comments(template.read_text())
    known = [key for key in known if re.search(rf"^  {key}:", text, re.MULTILINE)]  # one that the template no longer has would be refused
    try:
        made = cloudformation.create_change_set(
            StackName=name,
            ChangeSetName=f"monai-aws-{uuid.uuid4().hex[:12]}",
            ChangeSetType="CREATE" if creates else "UPDATE",
            TemplateBody=text,
            Parameters=parameters_to_send(parameters, known),  # type: ignore[arg-type]
            Capabilities=["CAPABILITY_NAMED_IAM"],
            **({"OnStackFailure": "DELETE"} if creates else {}),  # type: ignore[arg-type]
        )
    except ClientError as error:
        raise refused(error, f"proposing the stack {name}") or StackError(
            f"CloudFormation did not take {template.name}: {error}", "Correct what it names."
        ) from error
    made_by_it = Proposal(name, made["StackId"], made["Id"], creates, ())
    found = wait_until(
        lambda: cloudformation.describe_change_set(ChangeSetName=made["Id"], StackName=made["StackId"]),
        lambda seen: seen["Status"] in ("CREATE_COMPLETE", "FAILED"),
        seconds,
        what=f"CloudFormation works out what would change in the stack {name}",
        report=report,
    )
    if found["Status"] == "CREATE_COMPLETE":
        changes = tuple(_changes(cloudformation, made["Id"], made["StackId"]))
        return replace(made_by_it, changes=changes or (Change("Modify", name, "its outputs alone", False),))
    reason = str(found.get("StatusReason", ""))
    if found["Status"] == "FAILED" and any(words in reason for words in _NOTHING_TO_DO):
        _discard(cloudformation, made_by_it)
        before = {each["ParameterKey"]: each.get("ParameterValue") for each in (stack or {}).get("Parameters", [])}
        if unread := sorted(key for key, value in parameters.items() if before.get(key) != value):
            said = f"nothing in the stack depends on {', '.join(unread)} as it is now, so AWS does not take it"
            report(f"{said}: name it again when something does")
        return made_by_it
    withdraw(cloudformation, made_by_it)
    raise StackError(f"CloudFormation did not work out the stack {name}: {reason or 'no answer'}", "Correct what it names.")


def apply(cloudformation: CloudFormationClient, proposal: Proposal, report: Report, seconds: float = 600) -> dict[str, str]:
    """Apply a proposal and wait for its end. Returns the stack's outputs. Raises StackError with what failed first."""
    name = proposal.name
    if not proposal.changes:
        report(f"the stack {name} is up to date")
        return stack_outputs(cloudformation, name)
    doing = "creating" if proposal.creates else "updating"
    report(f"{doing} the stack {name}")
    try:
        cloudformation.execute_change_set(ChangeSetName=proposal.change_set, StackName=proposal.stack_id)
    except ClientError as error:
        raise refused(error, f"{doing} the stack {name}") or StackError(
            f"CloudFormation did not apply the change: {error}", "Run it again: the stack may have changed meanwhile."
        ) from error
    status = wait_until(
        # By its id: a stack that is deleted after a failed creation has no name any more.
        lambda: str(cloudformation.describe_stacks(StackName=proposal.stack_id)["Stacks"][0]["StackStatus"]),
        lambda seen: seen in _DONE or _is_over(seen),
        seconds,
        what=lambda seen: f"the stack {name} is {seen}",
        report=report,
    )
    if status in _DONE:
        return stack_outputs(cloudformation, name)
    raise _failed(cloudformation, proposal, status)


def _is_over(status: str) -> bool:
    return status == "DELETE_COMPLETE" or (("ROLLBACK" in status or "FAILED" in status) and not status.endswith("_IN_PROGRESS"))


def withdraw(cloudformation: CloudFormationClient, proposal: Proposal) -> None:
    """Take a proposal back, and the empty stack that a creation's proposal has made."""
    _discard(cloudformation, proposal)
    if proposal.creates:
        with suppress(ClientError):
            cloudformation.delete_stack(StackName=proposal.stack_id)


def stack_outputs(cloudformation: CloudFormationClient, name: str) -> dict[str, str]:
    """The outputs of a stack, empty where there is none."""
    stack = _look(cloudformation, name)
    return {output.get("OutputKey", ""): output.get("OutputValue", "") for output in (stack or {}).get("Outputs", [])}


def stack_parameters(cloudformation: CloudFormationClient, name: str) -> dict[str, str]:
    """The parameters of a stack as they are, empty where there is none."""
    stack = _look(cloudformation, name) or {}
    if stack.get("StackStatus") in (*_NO_STACK_YET, *_LEFT_BY_A_FAILED_CREATION):
        return {}
    return {parameter.get("ParameterKey", ""): parameter.get("ParameterValue", "") for parameter in stack.get("Parameters", [])}


def _look(cloudformation: CloudFormationClient, name: str) -> dict[str, Any] | None:
    try:
        stack: dict[str, Any] = dict(cloudformation.describe_stacks(StackName=name)["Stacks"][0])
    except ClientError as error:
        if code_of(error) == "ValidationError":  # "Stack with id … does not exist"
            return None
        raise named(error, f"looking at the stack {name}") from error
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def requires_tls(cloudformation: CloudFormationClient, name: str) -> bool:
    """Whether a stack's bucket refuses plain HTTP; False also where the stack cannot be read."""
    try:
        return stack_parameters(cloudformation, name).get("RequireTls") == "true"
    except (ClientError, CloudError):
        return False


def _ready_for_a_change(cloudformation: CloudFormationClient, name: str, report: Report, seconds: float = 300) -> dict[str, Any] | None:
    stack = _look(cloudformation, name)
    if stack is None or stack["StackStatus"] in _NO_STACK_YET:
        return stack
    status = str(stack["StackStatus"])
    if status.endswith("_IN_PROGRESS"):
        raise StackError(f"The stack {name} is being changed ({status}).", "Wait for that to end, then run it again.")
    if status not in _LEFT_BY_A_FAILED_CREATION:
        return stack
    report(f"clearing away what a failed creation left of the stack {name} ({status})")
    try:
        cloudformation.delete_stack(StackName=name)
    except ClientError as error:
        raise named(error, f"deleting the stack {name}") from error
    left = wait_until(
        lambda: _look(cloudformation, str(stack["StackId"])),
        lambda seen: seen is None or seen["StackStatus"] == "DELETE_FAILED",
        seconds,
        what=f"the stack {name} is cleared away",
        report=report,
    )
    if left:
        why = "; ".join(_failures(cloudformation, str(stack["StackId"])))
        raise StackError(f"The stack {name} cannot be cleared away ({left['StackStatus']}). {why}", "Delete it by hand and repeat this.")
    return None


def _failed(cloudformation: CloudFormationClient, proposal: Proposal, status: str) -> StackError:
    why = "; ".join(_failures(cloudformation, proposal.stack_id)) or "It did not end in time."
    left = "Nothing is left of it" if status == "DELETE_COMPLETE" else "What was there before is there again"
    taken = "Another stack or a person made what exists already: delete it, or choose another MONAI_AWS_DEPLOYMENT. "
    return StackError(
        f"The stack {proposal.name} ended as {status}. {why}",
        f"{taken if 'already exists' in why else ''}Correct that and run it again. {left}.",
    )


def _failures(cloudformation: CloudFormationClient, stack_id: str, most: int = 3) -> list[str]:
    """What failed, the first first; resources that were only given up because of it are left out."""
    try:
        pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id)
        events = [event for page in pages for event in page["StackEvents"]]
    except ClientError:
        return []
    failed = [event for event in reversed(events) if str(event.get("ResourceStatus", "")).endswith("FAILED")]
    causes = [event for event in failed if not _CONSEQUENCE.search(str(event.get("ResourceStatusReason", "")))]
    return [
        f"{event.get('LogicalResourceId')}: {event.get('ResourceStatusReason', 'no reason given')}" for event in (causes or failed)[:most]
    ]


def _changes(cloudformation: CloudFormationClient, change_set: str, stack_id: str) -> Iterator[Change]:
    for page in cloudformation.get_paginator("describe_change_set").paginate(ChangeSetName=change_set, StackName=stack_id):
        for item in page.get("Changes", []):
            found: Mapping[str, Any] = item.get("ResourceChange") or {}
            replaces = found.get("Replacement") in ("True", "Conditional")
            yield Change(
                str(found.get("Action", "")), str(found.get("LogicalResourceId", "")), str(found.get("ResourceType", "")), replaces
            )


def _discard(cloudformation: CloudFormationClient, proposal: Proposal) -> None:
    with suppress(ClientError):  # it ends with its stack at the latest
        cloudformation.delete_change_set(ChangeSetName=proposal.change_set, StackName=proposal.stack_id)
