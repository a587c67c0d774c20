"""Lambda functions: code and configuration brought to what is wanted, their event sources, and how long their log is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from monai_aws_pipeline.cloud.errors import TriggerError
from monai_aws_pipeline.cloud.queues import Queue
from monai_aws_pipeline.cloud.service_calls import NOT_FOUND, ServiceCalls
from monai_aws_pipeline.cloud.waiting import wait_until


@dataclass(frozen=True)
class FunctionSpec:
    """The wake function as it should be. ``sha256`` is the base64 digest AWS reports as CodeSha256."""

    name: str
    role: str
    runtime: str
    handler: str
    code: bytes
    sha256: str
    environment: Mapping[str, str]
    timeout_s: int = 60
    memory_mib: int = 256


class Functions(ServiceCalls):
    """The functions of one deployment."""

    def ensure_function(self, spec: FunctionSpec) -> str:
        """Make the function, or bring code and configuration of an existing one up to date. Returns its ARN."""
        functions = self._clients.functions
        settings: dict[str, Any] = {
            "Role": spec.role,
            "Runtime": spec.runtime,
            "Handler": spec.handler,
            "Timeout": spec.timeout_s,
            "MemorySize": spec.memory_mib,
            "Environment": {"Variables": dict(spec.environment)},
        }
        now = self._find("looking at the wake function", lambda: functions.get_function(FunctionName=spec.name))
        if now is None:
            make = partial(functions.create_function, FunctionName=spec.name, Code={"ZipFile": spec.code}, Tags=self._tags, **settings)
            made = self._ask(f"creating the function {spec.name}", make)
            self._settled(spec.name)
            return made.get("FunctionArn", "")
        configuration = now["Configuration"]
        if configuration.get("CodeSha256") != spec.sha256:
            self._ask(
                f"changing the code of {spec.name}", lambda: functions.update_function_code(FunctionName=spec.name, ZipFile=spec.code)
            )
            self._settled(spec.name)
        differs = (
            any(configuration.get(key) != settings[key] for key in ("Role", "Runtime", "Handler", "Timeout", "MemorySize"))
            or configuration.get("Environment", {}).get("Variables", {}) != settings["Environment"]["Variables"]
        )
        if differs:
            self._ask(f"changing {spec.name}", lambda: functions.update_function_configuration(FunctionName=spec.name, **settings))
            self._settled(spec.name)
        return configuration.get("FunctionArn", "")

    def _settled(self, name: str) -> None:
        look = partial(self._clients.functions.get_function_configuration, FunctionName=name)
        now = wait_until(
            lambda: self._ask("looking at the wake function", look),
            lambda seen: _is_ready(seen) or "Failed" in (seen.get("State"), seen.get("LastUpdateStatus")),
            self.settle_seconds,
            what=f"waiting until the function {name} is active",
            report=self._report,
        )
        if not _is_ready(now):
            reason = now.get("StateReason") or now.get("LastUpdateStatusReason") or "no reason given"
            raise TriggerError(f"The function {name} did not become active: {reason}.", "Look at it in Lambda.")

    def ensure_log_retention(self, function: str, days: int) -> None:
        """Keep a function's log for so many days. Lambda makes the log group at the first call, and keeps what it makes for ever."""
        group, logs = f"/aws/lambda/{function}", self._clients.logs
        doing = f"setting how long {group} is kept"
        self._find(doing, lambda: logs.create_log_group(logGroupName=group, tags=self._tags), ("ResourceAlreadyExistsException",))
        self._ask(doing, lambda: logs.put_retention_policy(logGroupName=group, retentionInDays=days))

    def ensure_event_source(self, function: str, queue: Queue) -> str:
        """Let the function drain a queue in small batches, two at a time, reporting failed records one by one."""
        functions, doing = self._clients.functions, "joining the queue to the wake function"
        wanted: dict[str, Any] = {
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": 2},
        }
        found = self._ask(doing, lambda: functions.list_event_source_mappings(FunctionName=function, EventSourceArn=queue.arn))
        if found["EventSourceMappings"]:
            uuid = found["EventSourceMappings"][0].get("UUID", "")
            self._ask(doing, lambda: functions.update_event_source_mapping(UUID=uuid, Enabled=True, **wanted))
            return uuid
        make = partial(functions.create_event_source_mapping, FunctionName=function, EventSourceArn=queue.arn, Enabled=True, **wanted)
        return self._ask(doing, make).get("UUID", "")

    def has_function(self, name: str) -> bool:
        """Whether the function exists."""
        return self.function_environment(name) is not None

    def function_environment(self, name: str) -> Mapping[str, str] | None:
        """The variables of a function; None where there is no such function."""
        look = partial(self._clients.functions.get_function_configuration, FunctionName=name)
        found = self._find("looking at the wake function", look)
        return None if found is None else found.get("Environment", {}).get("Variables", {})

    def remove_function(self, name: str) -> None:
        """Delete the function; one that is gone already is fine. Its log group stays."""
        self._find("deleting the wake function", lambda: self._clients.functions.delete_function(FunctionName=name))

    def event_sources(self, function: str) -> list[str]:
        """Ids of the function's event sources, also of one that is being deleted."""
        look = partial(self._clients.functions.list_event_source_mappings, FunctionName=function)
        found = self._find("listing the wake function's event sources", look)
        return [mapping.get("UUID", "") for mapping in found["EventSourceMappings"]] if found else []

    def remove_event_source(self, uuid: str) -> None:
        """Delete an event source; one that is gone, or going, is fine."""
        remove = partial(self._clients.functions.delete_event_source_mapping, UUID=uuid)
        self._find("deleting the wake function's event source", remove, (NOT_FOUND, "ResourceInUseException"))


def _is_ready(function: Mapping[str, Any]) -> bool:
    return (function.get("State", "Active"), function.get("LastUpdateStatus", "Successful")) == ("Active", "Successful")
