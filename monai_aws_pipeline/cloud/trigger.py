"""S3 → SQS → Lambda: queues with dead letters, the wake function, its event source, the scheduled wake, the bucket's notification.

Every call may be repeated: what exists is brought to what is wanted, and what others put on the bucket stays. The bucket and the
roles are the administrator's (infra/bootstrap.yaml) and are only referred to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import TriggerError, code_of, message_of, named
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.waiting import retried, silently, wait_until

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType as AttributeName

    from monai_aws_pipeline.cloud.session import Clients

T = TypeVar("T")
_SETTLE_SECONDS = 75.0
"""SQS takes the name of a deleted queue after a minute, S3 sees a queue's policy within one; IAM's roles are known sooner."""
_NO_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_NOT_FOUND = "ResourceNotFoundException"


@dataclass(frozen=True)
class Queue:
    """An SQS queue."""

    url: str
    arn: str


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


def merge_notification(existing: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The bucket's notification with our queue configuration in it, and everything of others left as it is.

    ``ours`` is recognised by its Id. Raises TriggerError where another configuration already takes an overlapping prefix for
    object creation, which S3 would refuse.
    """
    merged: dict[str, Any] = {key: value for key, value in existing.items() if key != "ResponseMetadata"}
    others = [entry for entry in merged.get("QueueConfigurations", []) if entry.get("Id") != ours["Id"]]
    wanted = _prefix(ours)
    neighbours = others + list(merged.get("TopicConfigurations", [])) + list(merged.get("LambdaFunctionConfigurations", []))
    for other in neighbours:
        if not any(str(event).startswith("s3:ObjectCreated") for event in other.get("Events", [])):
            continue
        prefix = _prefix(other)
        if (prefix.startswith(wanted) or wanted.startswith(prefix)) and not _suffix(other):
            raise TriggerError(
                f"The bucket already tells someone else about new objects under {prefix or 'every prefix'!r} ({other.get('Id', '?')!r}).",
                "S3 allows one receiver for overlapping prefixes: narrow that configuration or use another bucket.",
            )
    merged["QueueConfigurations"] = [*others, dict(ours)]
    return merged


def without_notification(existing: Mapping[str, Any], identifier: str) -> dict[str, Any]:
    """The bucket's notification without the queue configuration of this Id, and everything of others left as it is."""
    left: dict[str, Any] = {key: value for key, value in existing.items() if key != "ResponseMetadata"}
    queues = [entry for entry in left.pop("QueueConfigurations", []) if entry.get("Id") != identifier]
    return left | ({"QueueConfigurations": queues} if queues else {})


def _rule(configuration: Mapping[str, Any], name: str) -> str:
    rules = configuration.get("Filter", {}).get("Key", {}).get("FilterRules", [])
    return next((str(rule["Value"]) for rule in rules if str(rule["Name"]).lower() == name), "")


def _prefix(configuration: Mapping[str, Any]) -> str:
    return _rule(configuration, "prefix")


def _suffix(configuration: Mapping[str, Any]) -> str:
    return _rule(configuration, "suffix")


def _is_ready(function: Mapping[str, Any]) -> bool:
    return (function.get("State", "Active"), function.get("LastUpdateStatus", "Successful")) == ("Active", "Successful")


class Trigger:
    """The S3 trigger of one deployment. ``tags`` go onto everything that can carry them."""

    def __init__(self, clients: Clients, tags: Mapping[str, str], report: Report = silently) -> None:
        self._clients = clients
        self._tags = dict(tags)
        self._report = report

    # ------------------------------------------------------------------------------------------------------------ calls

    def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """Make a call, again for a minute while AWS does not know what was just made or is at work on it; what stays refused is named."""

        waiting = f"AWS is not ready yet for {doing}"
        try:
            return retried(call, ClientError, _passes, _SETTLE_SECONDS, what=waiting, report=self._report, pause=2.0)
        except ClientError as error:
            raise named(error, doing, TriggerError) from error

    def _find(self, doing: str, call: Callable[[], T], absent: Collection[str] = (_NOT_FOUND,)) -> T | None:
        """Make a call about something that need not be there: None for these codes, any other refusal is named."""
        try:
            return call()
        except ClientError as error:
            if code_of(error) in absent:
                return None
            raise named(error, doing, TriggerError) from error

    # ----------------------------------------------------------------------------------------------------------- queues

    def find_queue(self, name: str) -> Queue | None:
        """A queue by name, or None."""
        found = self._find(f"looking for the queue {name}", lambda: self._clients.sqs.get_queue_url(QueueName=name), _NO_QUEUE)
        return self._queue(found["QueueUrl"]) if found else None

    def _queue(self, url: str) -> Queue:
        asked = partial(self._clients.sqs.get_queue_attributes, QueueUrl=url, AttributeNames=["QueueArn"])
        return Queue(url, self._ask("looking at a queue", asked)["Attributes"]["QueueArn"])

    def ensure_queue(self, name: str, attributes: Mapping[str, str]) -> Queue:
        """Make a queue, or bring an existing one to these attributes. One of that name that was deleted within the minute is waited for."""
        sqs, given = self._clients.sqs, dict(attributes)
        found = self.find_queue(name)
        if found is not None:
            self._ask(f"changing the queue {name}", lambda: sqs.set_queue_attributes(QueueUrl=found.url, Attributes=given))  # type: ignore[arg-type]
            return found
        made = self._ask(f"creating the queue {name}", lambda: sqs.create_queue(QueueName=name, Attributes=given, tags=self._tags))  # type: ignore[arg-type]
        return self._queue(made["QueueUrl"])

    def depth(self, queue: Queue) -> tuple[int, int]:
        """About how many messages wait in a queue, and how many are at work."""
        names: list[AttributeName] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        asked = partial(self._clients.sqs.get_queue_attributes, QueueUrl=queue.url, AttributeNames=names)
        counts = self._ask("counting a queue's messages", asked)["Attributes"]
        return int(counts["ApproximateNumberOfMessages"]), int(counts["ApproximateNumberOfMessagesNotVisible"])

    def remove_queue(self, name: str) -> None:
        """Delete a queue with all its messages; one that is gone already is fine."""
        if found := self.find_queue(name):
            self._find(f"deleting the queue {name}", lambda: self._clients.sqs.delete_queue(QueueUrl=found.url), _NO_QUEUE)

    # --------------------------------------------------------------------------------------------------------- function

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
            _SETTLE_SECONDS,
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
        look = partial(self._clients.functions.get_function_configuration, FunctionName=name)
        return self._find("looking at the wake function", look) is not None

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
        self._find("deleting the wake function's event source", remove, (_NOT_FOUND, "ResourceInUseException"))

    # --------------------------------------------------------------------------------------------------------- schedule

    def ensure_schedule(self, name: str, function_arn: str, role_arn: str, minutes: int) -> None:
        """Wake the function every few minutes, so that a lost wake delays a study and never loses it."""
        unit = "minute" if minutes == 1 else "minutes"
        request: dict[str, Any] = {
            "Name": name,
            "ScheduleExpression": f"rate({minutes} {unit})",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {"Arn": function_arn, "RoleArn": role_arn, "Input": json.dumps({"source": "monai-aws.schedule"})},
        }
        scheduler = self._clients.scheduler
        change = scheduler.update_schedule if self.has_schedule(name) else scheduler.create_schedule
        self._ask("setting the wake schedule", lambda: change(**request))

    def has_schedule(self, name: str) -> bool:
        """Whether the schedule exists."""
        return self._find("looking at the wake schedule", lambda: self._clients.scheduler.get_schedule(Name=name)) is not None

    def remove_schedule(self, name: str) -> None:
        """Delete the schedule; one that is gone already is fine."""
        self._find("deleting the wake schedule", lambda: self._clients.scheduler.delete_schedule(Name=name))

    # ----------------------------------------------------------------------------------------------------- notification

    def ensure_notification(self, bucket: str, identifier: str, queue: Queue, prefix: str) -> bool:
        """Have the bucket tell the queue about new objects under a prefix. Returns whether anything had to change."""
        ours = {
            "Id": identifier,
            "QueueArn": queue.arn,
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
        }
        existing = self._notification(bucket)
        merged = merge_notification(existing, ours)
        if _same(merged, existing):
            return False
        put = partial(self._clients.s3.put_bucket_notification_configuration, Bucket=bucket, NotificationConfiguration=merged)  # type: ignore[arg-type]
        self._ask(f"telling {bucket} whom to tell about uploads", put)
        return True

    def has_notification(self, bucket: str, identifier: str) -> bool:
        """Whether the bucket has our queue configuration; False for a bucket that is gone."""
        return any(entry.get("Id") == identifier for entry in self._notification(bucket, missing_ok=True).get("QueueConfigurations", []))

    def remove_notification(self, bucket: str, identifier: str) -> None:
        """Take our queue configuration off the bucket; what others put there stays."""
        if not self.has_notification(bucket, identifier):
            return
        left = without_notification(self._notification(bucket), identifier)
        put = partial(self._clients.s3.put_bucket_notification_configuration, Bucket=bucket, NotificationConfiguration=left)  # type: ignore[arg-type]
        # Without this, S3 sends a test event to the queues of others, and refuses where one of those is gone.
        self._ask(f"changing the notifications of {bucket}", lambda: put(SkipDestinationValidation=True))

    def _notification(self, bucket: str, missing_ok: bool = False) -> Mapping[str, Any]:
        look = partial(self._clients.s3.get_bucket_notification_configuration, Bucket=bucket)
        return self._find(f"reading the notifications of {bucket}", look, ("NoSuchBucket",) if missing_ok else ()) or {}


_PASSING: Mapping[str, str] = {
    "InvalidParameterValueException": r"cannot be assumed|role does not have permissions",
    "ValidationException": r"must allow AWS EventBridge Scheduler to assume",
    "InvalidArgument": r"Unable to validate the following destination",
    "ResourceConflictException": r"in progress|in the following state",
    "ResourceInUseException": "",
    "ConflictException": "",
    "OperationAborted": "",
    "OperationAbortedException": "",
    "QueueDeletedRecently": "",
    "AWS.SimpleQueueService.QueueDeletedRecently": "",
}
"""Codes, with words where they say several things, of what AWS takes later: what is new is not known yet, or something is at work."""


def _passes(error: ClientError) -> bool:
    words = _PASSING.get(code_of(error))
    return words is not None and bool(re.search(words, message_of(error)))


def _same(merged: Mapping[str, Any], existing: Mapping[str, Any]) -> bool:
    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) if key != "Name" else str(item).lower() for key, item in value.items() if key != "ResponseMetadata"}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(item) for item in value]
        return value

    return bool(plain(merged) == plain(existing))


def queue_policy(queue_arn: str, bucket: str, account: str) -> str:
    """The policy that lets this account's bucket, and nobody else, send to the queue. Both are in one partition (``aws``, ``aws-cn``)."""
    partition = queue_arn.split(":")[1]
    statement = {
        "Sid": "UploadsOfOurBucket",
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnLike": {"aws:SourceArn": f"arn:{partition}:s3:::{bucket}"}, "StringEquals": {"aws:SourceAccount": account}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, sort_keys=True)


def redrive(dead_letters: Queue, receipts: int) -> str:
    """The redrive policy: after so many receipts a message goes to the dead letters."""
    return json.dumps({"deadLetterTargetArn": dead_letters.arn, "maxReceiveCount": receipts}, sort_keys=True)
