"""S3 → SQS → Lambda: queues with dead letters, the wake function, its event source, the scheduled wake, the bucket's notification.

Every call may be repeated: what exists is brought to what is wanted, and what others put on the bucket stays. The bucket and the
roles are the administrator's (infra/bootstrap.yaml) and are only referred to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import TriggerError, code_of, refused
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.waiting import silently, wait_until

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients

_SETTLE_SECONDS = 60.0
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

    # ----------------------------------------------------------------------------------------------------------- queues

    def find_queue(self, name: str) -> Queue | None:
        """A queue by name, or None."""
        sqs = self._clients.sqs
        try:
            url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        except ClientError as error:
            if code_of(error) in _NO_QUEUE:
                return None
            raise refused(error, f"looking for the queue {name}") or error from error
        return Queue(url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])

    def ensure_queue(self, name: str, attributes: Mapping[str, str]) -> Queue:
        """Make a queue, or bring an existing one to these attributes."""
        sqs = self._clients.sqs
        found = self.find_queue(name)
        if found is not None:
            sqs.set_queue_attributes(QueueUrl=found.url, Attributes=dict(attributes))  # type: ignore[arg-type]
            return found
        try:
            url = sqs.create_queue(QueueName=name, Attributes=dict(attributes), tags=self._tags)["QueueUrl"]  # type: ignore[arg-type]
        except ClientError as error:
            raise refused(error, f"creating the queue {name}") or error from error
        return Queue(url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])

    def depth(self, queue: Queue) -> tuple[int, int]:
        """About how many messages wait in a queue, and how many are at work."""
        counts = self._clients.sqs.get_queue_attributes(
            QueueUrl=queue.url, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        )["Attributes"]
        return int(counts["ApproximateNumberOfMessages"]), int(counts["ApproximateNumberOfMessagesNotVisible"])

    def remove_queue(self, name: str) -> None:
        """Delete a queue with all its messages; one that is gone already is fine."""
        found = self.find_queue(name)
        if found is None:
            return
        try:
            self._clients.sqs.delete_queue(QueueUrl=found.url)
        except ClientError as error:
            if code_of(error) not in _NO_QUEUE:
                raise refused(error, f"deleting the queue {name}") or error from error

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
        try:
            now = functions.get_function(FunctionName=spec.name)
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise refused(error, "looking at the wake function") or error from error
            return self._create_function(spec, settings)
        configuration = now["Configuration"]
        if configuration.get("CodeSha256") != spec.sha256:
            functions.update_function_code(FunctionName=spec.name, ZipFile=spec.code)
            self._settled(spec.name)
        differs = (
            any(configuration.get(key) != settings[key] for key in ("Role", "Runtime", "Handler", "Timeout", "MemorySize"))
            or configuration.get("Environment", {}).get("Variables", {}) != settings["Environment"]["Variables"]
        )
        if differs:
            functions.update_function_configuration(FunctionName=spec.name, **settings)
            self._settled(spec.name)
        return configuration.get("FunctionArn", "")

    def _create_function(self, spec: FunctionSpec, settings: Mapping[str, Any]) -> str:
        functions = self._clients.functions

        def create() -> str | ClientError:
            try:
                made = functions.create_function(FunctionName=spec.name, Code={"ZipFile": spec.code}, Tags=self._tags, **settings)
            except ClientError as error:
                # A role that was just created cannot be assumed for some seconds: IAM is eventually consistent.
                if code_of(error) == "InvalidParameterValueException" and "assumed" in str(error):
                    return error
                raise refused(error, "creating the wake function") or error from error
            return made.get("FunctionArn", "")

        waiting = f"waiting until Lambda can assume the role of {spec.name}"
        made = wait_until(create, lambda seen: isinstance(seen, str), _SETTLE_SECONDS, what=waiting, report=self._report, pause=2.0)
        if isinstance(made, ClientError):
            raise made
        self._settled(spec.name)
        return made

    def _settled(self, name: str) -> None:
        now = wait_until(
            lambda: self._clients.functions.get_function_configuration(FunctionName=name),
            lambda seen: _is_ready(seen) or "Failed" in (seen.get("State"), seen.get("LastUpdateStatus")),
            _SETTLE_SECONDS,
            what=f"waiting until the function {name} is active",
            report=self._report,
        )
        if not _is_ready(now):
            raise TriggerError(
                f"The function {name} did not become active: {now.get('StateReason', 'no reason given')}.", "Look at it in Lambda."
            )

    def ensure_log_retention(self, function: str, days: int) -> None:
        """Keep a function's log for so many days. Lambda makes the log group at the first call, and keeps what it makes for ever."""
        group, logs = f"/aws/lambda/{function}", self._clients.logs
        try:
            with suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_group(logGroupName=group, tags=self._tags)
            logs.put_retention_policy(logGroupName=group, retentionInDays=days)
        except ClientError as error:
            raise refused(error, f"setting how long {group} is kept") or error from error

    def ensure_event_source(self, function: str, queue: Queue) -> str:
        """Let the function drain a queue in small batches, two at a time, reporting failed records one by one."""
        functions = self._clients.functions
        wanted: dict[str, Any] = {
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": 2},
        }
        mappings = functions.list_event_source_mappings(FunctionName=function, EventSourceArn=queue.arn)["EventSourceMappings"]
        if mappings:
            uuid = mappings[0].get("UUID", "")
            functions.update_event_source_mapping(UUID=uuid, Enabled=True, **wanted)
            return uuid
        try:
            return functions.create_event_source_mapping(FunctionName=function, EventSourceArn=queue.arn, Enabled=True, **wanted).get(
                "UUID", ""
            )
        except ClientError as error:
            raise refused(error, "joining the queue to the wake function") or error from error

    def has_function(self, name: str) -> bool:
        """Whether the function exists."""
        try:
            self._clients.functions.get_function_configuration(FunctionName=name)
        except ClientError as error:
            if code_of(error) == _NOT_FOUND:
                return False
            raise refused(error, "looking at the wake function") or error from error
        return True

    def remove_function(self, name: str) -> None:
        """Delete the function; one that is gone already is fine. Its log group stays."""
        try:
            self._clients.functions.delete_function(FunctionName=name)
        except ClientError as error:
            if code_of(error) != _NOT_FOUND:
                raise refused(error, "deleting the wake function") or error from error

    def event_sources(self, function: str) -> list[str]:
        """Ids of the function's event sources, also of one that is being deleted."""
        try:
            found = self._clients.functions.list_event_source_mappings(FunctionName=function)["EventSourceMappings"]
        except ClientError as error:
            if code_of(error) == _NOT_FOUND:
                return []
            raise refused(error, "listing the wake function's event sources") or error from error
        return [mapping.get("UUID", "") for mapping in found]

    def remove_event_source(self, uuid: str) -> None:
        """Delete an event source; one that is gone, or going, is fine."""
        try:
            self._clients.functions.delete_event_source_mapping(UUID=uuid)
        except ClientError as error:
            if code_of(error) not in (_NOT_FOUND, "ResourceInUseException"):
                raise refused(error, "deleting the wake function's event source") or error from error

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
        try:
            scheduler.get_schedule(Name=name)
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise refused(error, "looking at the wake schedule") or error from error
            scheduler.create_schedule(**request)
        else:
            scheduler.update_schedule(**request)

    def has_schedule(self, name: str) -> bool:
        """Whether the schedule exists."""
        try:
            self._clients.scheduler.get_schedule(Name=name)
        except ClientError as error:
            if code_of(error) == _NOT_FOUND:
                return False
            raise refused(error, "looking at the wake schedule") or error from error
        return True

    def remove_schedule(self, name: str) -> None:
        """Delete the schedule; one that is gone already is fine."""
        try:
            self._clients.scheduler.delete_schedule(Name=name)
        except ClientError as error:
            if code_of(error) != _NOT_FOUND:
                raise refused(error, "deleting the wake schedule") or error from error

    # ----------------------------------------------------------------------------------------------------- notification

    def ensure_notification(self, bucket: str, identifier: str, queue: Queue, prefix: str) -> bool:
        """Have the bucket tell the queue about new objects under a prefix. Returns whether anything had to change."""
        s3 = self._clients.s3
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
        s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=merged)  # type: ignore[arg-type]
        return True

    def has_notification(self, bucket: str, identifier: str) -> bool:
        """Whether the bucket has our queue configuration; False for a bucket that is gone."""
        return any(entry.get("Id") == identifier for entry in self._notification(bucket, missing_ok=True).get("QueueConfigurations", []))

    def remove_notification(self, bucket: str, identifier: str) -> None:
        """Take our queue configuration off the bucket; what others put there stays."""
        if not self.has_notification(bucket, identifier):
            return
        left = without_notification(self._notification(bucket), identifier)
        try:
            # Without this, S3 sends a test event to the queues of others, and refuses where one of those is gone.
            self._clients.s3.put_bucket_notification_configuration(
                Bucket=bucket,
                NotificationConfiguration=left,  # type: ignore[arg-type]
                SkipDestinationValidation=True,
            )
        except ClientError as error:
            raise refused(error, f"changing the notifications of {bucket}") or error from error

    def _notification(self, bucket: str, missing_ok: bool = False) -> Mapping[str, Any]:
        try:
            return self._clients.s3.get_bucket_notification_configuration(Bucket=bucket)
        except ClientError as error:
            if missing_ok and code_of(error) == "NoSuchBucket":
                return {}
            raise refused(error, f"reading the notifications of {bucket}") or error from error


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
