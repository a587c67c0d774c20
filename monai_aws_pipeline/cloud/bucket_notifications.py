"""Whom a bucket tells about new objects: our queue beside everything that others have put there, which stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from monai_aws_pipeline.cloud.errors import TriggerError
from monai_aws_pipeline.cloud.queues import Queue
from monai_aws_pipeline.cloud.service_calls import ServiceCalls


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


class BucketNotifications(ServiceCalls):
    """The notifications of a bucket to one deployment."""

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


def _same(merged: Mapping[str, Any], existing: Mapping[str, Any]) -> bool:
    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) if key != "Name" else str(item).lower() for key, item in value.items() if key != "ResponseMetadata"}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(item) for item in value]
        return value

    return bool(plain(merged) == plain(existing))
