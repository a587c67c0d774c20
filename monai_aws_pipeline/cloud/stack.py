"""The administrator's CloudFormation stack (infra/bootstrap.yaml): deployed, brought up to date, and its outputs read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of, refused

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient


class StackError(CloudError):
    """The stack did not come up. The first failed resource is named."""


class PlainHttpError(CloudError):
    """The bucket would refuse the only way that leads to it."""


def check_transport(plain_http: str, require_tls: bool) -> None:
    """Refuse to make a bucket that takes TLS only where the endpoint has none. ``plain_http``: as ``Clients`` says it."""
    if plain_http and require_tls:
        raise PlainHttpError(
            f"The endpoint {plain_http} speaks plain HTTP, and the bucket would refuse that from everybody.",
            "Set an endpoint with https, or add --allow-plain-http where the way to it leaves no machine of yours.",
        )


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
    deadline = time.monotonic() + seconds
    while True:
        status = _status(cloudformation, name) or "DELETE_COMPLETE"
        if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            return stack_outputs(cloudformation, name)
        if "ROLLBACK" in status or "FAILED" in status or status == "DELETE_COMPLETE" or time.monotonic() > deadline:
            raise StackError(
                f"The stack {name} ended as {status}. {_first_failure(cloudformation, name)}", "Correct that and deploy again."
            )
        time.sleep(0.5)


def stack_outputs(cloudformation: CloudFormationClient, name: str) -> dict[str, str]:
    """The outputs of a stack, empty where there is none."""
    try:
        stacks = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if code_of(error) == "ValidationError":
            return {}
        raise
    return {output.get("OutputKey", ""): output.get("OutputValue", "") for output in stacks[0].get("Outputs", [])}


def requires_tls(cloudformation: CloudFormationClient, name: str) -> bool:
    """Whether a stack's bucket refuses plain HTTP; False also where the stack cannot be read."""
    try:
        parameters = cloudformation.describe_stacks(StackName=name)["Stacks"][0].get("Parameters", [])
    except ClientError:
        return False
    return any(each.get("ParameterKey") == "RequireTls" and each.get("ParameterValue") == "true" for each in parameters)


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
