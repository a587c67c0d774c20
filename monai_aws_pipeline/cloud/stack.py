"""The administrator's CloudFormation stack (infra/bootstrap.yaml): deployed, brought up to date, and its outputs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of, refused
from monai_aws_pipeline.cloud.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient


_DEPLOYED = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


class StackError(CloudError):
    """The stack did not come up. The first failed resource is named."""


def stack_name(deployment: str) -> str:
    """The bootstrap stack's name."""
    return f"monai-aws-{deployment}"


def deploy_stack(
    cloudformation: CloudFormationClient,
    name: str,
    template: Path,
    parameters: Mapping[str, str],
    report: Callable[[str], None],
    seconds: float = 600,
) -> dict[str, str]:
    """Create or update a stack and wait. Returns its outputs. An unchanged stack is fine."""
    request: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": template.read_text(),
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
    }
    exists = _status(cloudformation, name) is not None
    try:
        if exists:
            cloudformation.update_stack(**request)
        else:
            cloudformation.create_stack(**request, OnFailure="DELETE")
        report(f"{'updating' if exists else 'creating'} the stack {name}")
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            report(f"the stack {name} is up to date")
            return stack_outputs(cloudformation, name)
        raise refused(error, f"deploying the stack {name}") or StackError(
            f"CloudFormation did not take {template.name}: {error}", "Correct what it names."
        ) from error
    status = wait_until(
        lambda: _status(cloudformation, name) or "DELETE_COMPLETE",
        lambda seen: seen in _DEPLOYED or "ROLLBACK" in seen or "FAILED" in seen or seen == "DELETE_COMPLETE",
        seconds,
        what=lambda seen: f"the stack {name} is {seen}",
        report=report,
    )
    if status in _DEPLOYED:
        return stack_outputs(cloudformation, name)
    raise StackError(f"The stack {name} ended as {status}. {_first_failure(cloudformation, name)}", "Correct that and deploy again.")


def stack_outputs(cloudformation: CloudFormationClient, name: str) -> dict[str, str]:
    """The outputs of a stack, empty where there is none."""
    try:
        stacks = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if code_of(error) == "ValidationError":
            return {}
        raise
    return {output.get("OutputKey", ""): output.get("OutputValue", "") for output in stacks[0].get("Outputs", [])}


def _status(cloudformation: CloudFormationClient, name: str) -> str | None:
    try:
        status = str(cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])
    except (ClientError, IndexError):
        return None
    return None if status == "DELETE_COMPLETE" else status


def _first_failure(cloudformation: CloudFormationClient, name: str) -> str:
    try:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    except ClientError:
        return ""
    failed = [event for event in events if str(event.get("ResourceStatus", "")).endswith("FAILED")]
    return f"{failed[-1].get('LogicalResourceId')}: {failed[-1].get('ResourceStatusReason', '')}" if failed else ""
