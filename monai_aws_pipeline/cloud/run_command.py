"""SSM: commands on hosts without any open port, and the parameter that names the live MAP.

A command is sent only to a host whose agent is online; the three ways this can fail (permission, agent, network) are errors of their own:
AccessError, AgentError, NetworkError. Whatever else SSM refuses is a CommandError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import AgentError, CommandError, code_of, named, unanswered
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.waiting import silently, wait_until

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

_RUNNING = frozenset({"Pending", "InProgress", "Delayed"})


@dataclass(frozen=True)
class CommandResult:
    """How a command ended on the host. AWS keeps the first 24,000 characters of each stream."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class ParameterVersion:
    """One version of a parameter as its history has it. ``at``: ISO 8601. ``number``: counted from 1, anew once it was deleted."""

    value: str
    description: str
    at: str
    number: int = 0


class Commands:
    """SSM Run Command and Parameter Store."""

    def __init__(self, ssm: SSMClient) -> None:
        self._ssm = ssm

    def wait_online(
        self, machine_id: str, seconds: float = 300, report: Report = silently, still_on: Callable[[], bool] = lambda: True
    ) -> bool:
        """Wait until the machine's SSM agent has registered; False where the machine is no longer on. Raises AgentError."""

        def online() -> bool:
            with _named("asking which hosts are online in SSM"):
                nodes = self._ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [machine_id]}])
            return any(node.get("PingStatus") == "Online" for node in nodes["InstanceInformationList"])

        def look() -> tuple[bool, bool]:
            return (True, True) if online() else (False, still_on())

        what = f"waiting for the SSM agent of {machine_id}"
        is_online, is_on = wait_until(look, lambda seen: seen[0] or not seen[1], seconds, what=what, report=report)
        if is_on and not is_online:
            raise AgentError(
                f"The SSM agent of {machine_id} did not come online within {seconds:.0f} s.",
                "Check that the machine has its instance profile and reaches the SSM endpoints (security group, route, VPC endpoint).",
            )
        return is_online

    def run(
        self,
        machine_id: str,
        script: str,
        seconds: int = 600,
        comment: str = "",
        report: Report = silently,
        still_on: Callable[[], bool] = lambda: True,
    ) -> CommandResult:
        """Run shell lines on an online host and wait for their end. Raises AgentError, or CommandError when they could not run.

        ``still_on``: of a machine that has ended SSM goes on saying that the command is under way.
        """
        try:
            with _named(f"sending a command to {machine_id}", "InvalidInstanceId"):
                sent = self._ssm.send_command(
                    InstanceIds=[machine_id],
                    DocumentName="AWS-RunShellScript",
                    Comment=comment[:100],
                    Parameters={"commands": script.splitlines(), "executionTimeout": [str(seconds)]},
                )
        except ClientError as error:
            raise AgentError(
                f"{machine_id} takes no commands: it is not running, or its SSM agent is not online (yet).",
                "Wait until it is online in SSM, or look at its agent (journalctl -u amazon-ssm-agent); then materialise again.",
            ) from error
        command = sent["Command"].get("CommandId", "")
        waiting = f"waiting for {machine_id}: {comment or 'a command'}"

        def look() -> tuple[CommandResult | None, bool]:
            found = self._result(command, machine_id)
            return found, found is not None or still_on()

        ended, is_on = wait_until(look, lambda seen: seen[0] is not None or not seen[1], seconds + 30, what=waiting, report=report)
        if ended is None and not is_on:
            raise CommandError(f"{machine_id} has ended, and a command on it with it.", "Look at its group's activity; then try again.")
        if ended is None:
            raise CommandError(f"A command on {machine_id} did not end within {seconds} s.", "Look at it in SSM Run Command.")
        return ended

    def _result(self, command: str, machine_id: str) -> CommandResult | None:
        """How a command ended on a host; None as long as it has not."""
        try:
            with _named("reading a command's result", "InvocationDoesNotExist"):
                seen = self._ssm.get_command_invocation(CommandId=command, InstanceId=machine_id)
        except ClientError:  # not yet visible after SendCommand, says AWS's documentation
            return None
        if seen.get("Status") in _RUNNING:
            return None
        return CommandResult(seen.get("ResponseCode", -1), seen.get("StandardOutputContent", ""), seen.get("StandardErrorContent", ""))

    def parameter(self, name: str) -> str:
        """A parameter's value, empty where it does not exist."""
        try:
            with _named(f"reading the parameter {name}", "ParameterNotFound"):
                return self._ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
        except ClientError:
            return ""

    def parameter_history(self, name: str) -> list[ParameterVersion]:
        """Every version of a parameter that AWS keeps (100), oldest first; none where it does not exist."""
        try:
            with _named(f"reading the history of the parameter {name}", "ParameterNotFound"):
                pages = list(self._ssm.get_paginator("get_parameter_history").paginate(Name=name))
        except ClientError:
            return []
        versions = sorted((found for page in pages for found in page["Parameters"]), key=lambda found: found.get("Version", 0))
        return [
            ParameterVersion(
                value=found.get("Value", ""),
                description=found.get("Description", ""),
                at=found["LastModifiedDate"].isoformat() if "LastModifiedDate" in found else "",
                number=found.get("Version", 0),
            )
            for found in versions
        ]

    def delete_parameter(self, name: str) -> None:
        """Delete a parameter; one that is gone already is fine."""
        with suppress(ClientError), _named(f"deleting the parameter {name}", "ParameterNotFound"):
            self._ssm.delete_parameter(Name=name)

    def set_parameter(self, name: str, value: str, description: str) -> int:
        """Write a parameter; its history stays in SSM. Returns the version's number."""
        with _named(f"writing the parameter {name}"):
            written = self._ssm.put_parameter(Name=name, Value=value, Type="String", Overwrite=True, Description=description)
        return written["Version"]


@contextmanager
def _named(doing: str, *expected: str) -> Iterator[None]:
    """A call to SSM: every refusal is named, and no answer is a NetworkError; only ``expected`` codes pass as ClientError."""
    try:
        yield
    except ClientError as error:
        if code_of(error) in expected:
            raise
        raise named(error, doing, CommandError) from error
    except BotoCoreError as error:
        if lost := unanswered(error, doing):
            raise lost from error
        raise


def last_json(text: str) -> dict[str, Any]:
    """The JSON object on the last line, empty where there is none: what a host prints is parsed with care."""
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
