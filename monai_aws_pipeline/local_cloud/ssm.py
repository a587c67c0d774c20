"""Systems Manager: parameters from ministack, Run Command and managed instances on the real machines.

ministack keeps the commands and answers for them; which instances are managed and what a command does is decided here.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from ministack.core import responses
from ministack.services import ssm as ministack_ssm

from .config import DEEP_LEARNING_AMI_PARAMETERS, UBUNTU_AMI_PARAMETER
from .ec2 import Instances

_DEFAULT_EXECUTION_S: Final = 3600
_STDOUT_LIMIT: Final = 24_000
_STDERR_LIMIT: Final = 8_000
_AGENT: Final = "3.3.0.0"
_DOCUMENTS: Final = ("AWS-RunShellScript",)
"""Documents that there are, by name or ARN."""


class RunCommand:
    """Run Command and instance information over the machines of one cloud."""

    def __init__(self, room: Instances) -> None:
        self._room = room

    def install(self, base_image_id: str, plain_image_id: str) -> None:
        """Put this between ministack's SSM and its own (empty) EC2; publish the base images under the public parameters."""
        ministack_ssm._managed_instance_ids = self._managed
        ministack_ssm._finish_invocation = self._run
        ministack_ssm._describe_instance_information = self._describe
        send = ministack_ssm._send_command

        def send_known(data: dict[str, Any]) -> Any:
            name = str(data.get("DocumentName", ""))
            if name and name.rpartition("/")[2] not in _DOCUMENTS:
                return responses.error_response_json("InvalidDocument", f"Document with name {name} does not exist.", 400)
            return send(data)

        ministack_ssm._send_command = send_known
        ministack_ssm._PUBLIC_AMI_PARAMETERS.clear()
        for name in DEEP_LEARNING_AMI_PARAMETERS:
            ministack_ssm._PUBLIC_AMI_PARAMETERS[name] = base_image_id
        ministack_ssm._PUBLIC_AMI_PARAMETERS[UBUNTU_AMI_PARAMETER] = plain_image_id

    @staticmethod
    def publish_base(image_id: str) -> None:
        """Let AWS's public parameters name another image, as they do every few days: an order of tests."""
        for name in DEEP_LEARNING_AMI_PARAMETERS:
            ministack_ssm._PUBLIC_AMI_PARAMETERS[name] = image_id

    def _managed(self) -> set[str]:
        return set(self._room.managed(responses.get_region()))

    def _run(self, command_id: str, instance_id: str, argv: list[str]) -> None:
        """Execute one invocation; ministack calls this in a thread of its own."""
        record = ministack_ssm._commands.get(command_id) or {}
        invocation: dict[str, Any] | None = (record.get("Invocations") or {}).get(instance_id)
        if invocation is None:
            return
        parameters = record.get("Parameters") or {}
        started = time.monotonic()
        invocation.update(Status="InProgress", StatusDetails="InProgress", ExecutionStartDateTime=_now())
        try:
            done = self._room.execute(
                instance_id,
                argv[-1],
                timeout_s=_number(parameters.get("executionTimeout")),
                folder=_first(parameters.get("workingDirectory")),
            )
            code, out, err = done.exit_code, done.stdout, done.stderr
            status = "TimedOut" if done.timed_out else "Success" if code == 0 else "Failed"
        except Exception as failed:  # the machine may vanish under the command
            code, out, err, status = -1, "", f"the agent was lost: {failed}", "Failed"
        invocation.update(
            ResponseCode=code,
            StandardOutputContent=out[:_STDOUT_LIMIT],
            StandardErrorContent=err[:_STDERR_LIMIT],
            ExecutionEndDateTime=_now(),
            ExecutionElapsedTime=f"PT{time.monotonic() - started:.3f}S",
            StatusDetails="ExecutionTimedOut" if status == "TimedOut" else status,
        )
        invocation["Status"] = status  # last: whoever sees it must already see the rest
        ministack_ssm._refresh_command_status(record)

    def _describe(self, data: dict[str, Any]) -> Any:
        machines = self._room.managed(responses.get_region(), _filtered_ids(data))
        entries = [
            {
                "InstanceId": name,
                "PingStatus": "Online",
                "LastPingDateTime": time.time(),
                "AgentVersion": _AGENT,
                "IsLatestVersion": True,
                "PlatformType": "Linux",
                "PlatformName": "Debian GNU/Linux",
                "ResourceType": "EC2Instance",
                "IPAddress": machine.address,
                "ComputerName": machine.instance.private_dns_name,
            }
            for name, machine in sorted(machines.items())
        ]
        return responses.json_response({"InstanceInformationList": entries})


def _filtered_ids(data: dict[str, Any]) -> set[str] | None:
    """Instance ids that the request's filters name, or None without such a filter."""
    for entry in data.get("Filters") or []:
        if entry.get("Key") == "InstanceIds":
            return set(entry.get("Values") or [])
    for entry in data.get("InstanceInformationFilterList") or []:
        if entry.get("key") == "InstanceIds":
            return set(entry.get("valueSet") or [])
    return None


def _first(value: Any) -> str:
    return str(value[0]) if isinstance(value, list) and value else str(value or "")


def _number(value: Any) -> float:
    text = _first(value)
    return float(text) if text.replace(".", "", 1).isdigit() else _DEFAULT_EXECUTION_S


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
