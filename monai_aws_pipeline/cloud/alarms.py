"""CloudWatch alarms of one deployment: what an operator must hear of although nobody looks.

Which alarms there are is a pure function (``wanted``). They show in CloudWatch, and tell an SNS topic where one is named; the topic and who
listens to it are the administrator's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import named
from monai_aws_pipeline.contract import HOST_HOURS_METRIC, HOST_MISSING_METRIC, METRICS_NAMESPACE

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cloudwatch.type_defs import MetricAlarmTypeDef

    from monai_aws_pipeline.settings import Names

_SQS: Final = "AWS/SQS"
_MINUTE: Final = 60
_UPLOAD_MINUTES: Final = 15
"""An upload's event is a job within seconds; a function that is throttled or fails has been tried three times by then."""


@dataclass(frozen=True)
class Alarm:
    """An alarm that is raised when a metric reaches ``threshold`` within ``period_s`` seconds. No data is no alarm."""

    name: str
    says: str
    namespace: str
    metric: str
    dimensions: tuple[tuple[str, str], ...]
    threshold: float
    statistic: str = "Maximum"
    period_s: int = _MINUTE

    def request(self, topic: str, tags: Mapping[str, str]) -> dict[str, Any]:
        """The request of PutMetricAlarm."""
        return {
            "AlarmName": self.name,
            "AlarmDescription": self.says,
            "Namespace": self.namespace,
            "MetricName": self.metric,
            "Dimensions": [{"Name": name, "Value": value} for name, value in self.dimensions],
            "Statistic": self.statistic,
            "Period": self.period_s,
            "EvaluationPeriods": 1,
            "Threshold": self.threshold,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "notBreaching",
            "AlarmActions": [topic] if topic else [],
            "OKActions": [topic] if topic else [],
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }


def wanted(names: Names, job_minutes: int, wake_minutes: int, host_hours: float) -> tuple[Alarm, ...]:
    """The alarms of a deployment. Their texts say what to do; none names a study."""
    dead = "A message was received three times and never ended. Find out why in the log, then: monai-aws replay --all."
    waiting = "ApproximateNumberOfMessagesVisible"
    return (
        Alarm(names.uploads_dead_letters, f"Uploads. {dead}", _SQS, waiting, (("QueueName", names.uploads_dead_letters),), 1),
        Alarm(names.jobs_dead_letters, f"Jobs. {dead}", _SQS, waiting, (("QueueName", names.jobs_dead_letters),), 1),
        Alarm(
            f"{names.alarms}job-age",
            "A job has no answer for too long: look at monai-aws status and the wake function's log (no capacity, no permission, no MAP).",
            _SQS,
            "ApproximateAgeOfOldestMessage",
            (("QueueName", names.jobs_queue),),
            job_minutes * _MINUTE,
        ),
        Alarm(
            f"{names.alarms}upload-age",
            "Uploads become no jobs: look at the wake function's log, and whether its event source is enabled.",
            _SQS,
            "ApproximateAgeOfOldestMessage",
            (("QueueName", names.uploads_queue),),
            _UPLOAD_MINUTES * _MINUTE,
        ),
        Alarm(
            f"{names.alarms}function-errors",
            "The wake function ended with an error: look at its log. What it was called for comes again.",
            "AWS/Lambda",
            "Errors",
            (("FunctionName", names.wake_function),),
            1,
            statistic="Sum",
            period_s=300,
        ),
        Alarm(
            f"{names.alarms}host-hours",
            "A host has been running for long: look at monai-aws status; if nothing is at work, stop it and look at its agent's journal.",
            METRICS_NAMESPACE,
            HOST_HOURS_METRIC,
            (("deployment", names.deployment),),
            host_hours,
            period_s=max(300, 2 * wake_minutes * _MINUTE),
        ),
        Alarm(
            f"{names.alarms}host-missing",
            "Jobs wait and there is no inference host: materialise inference_host.",
            METRICS_NAMESPACE,
            HOST_MISSING_METRIC,
            (("deployment", names.deployment),),
            1,
            # As long as hosts are missing, each scheduled wake says so again: the alarm must not end between two of them.
            period_s=max(300, 2 * wake_minutes * _MINUTE),
        ),
    )


@dataclass(frozen=True)
class Raised:
    """An alarm that is raised: what it says, and since when."""

    name: str
    says: str
    since: str


class Alarms:
    """The alarms of one deployment."""

    def __init__(self, client: CloudWatchClient, names: Names) -> None:
        self._client, self._names = client, names

    def ensure(self, alarms: Iterable[Alarm], topic: str, tags: Mapping[str, str]) -> None:
        """Make the alarms, or bring them to what is wanted, and remove those of this deployment that are no longer wanted."""
        alarms = tuple(alarms)
        for alarm in alarms:
            try:
                self._client.put_metric_alarm(**alarm.request(topic, tags))
            except ClientError as error:
                raise named(error, f"making the alarm {alarm.name}") from error
        for name in set(self.names()) - {alarm.name for alarm in alarms}:
            self.remove(name)

    def names(self) -> list[str]:
        """Names of the alarms there are."""
        return [alarm.get("AlarmName", "") for alarm in self._all()]

    def raised(self) -> list[Raised]:
        """Those that are raised now."""
        found = [alarm for alarm in self._all() if alarm.get("StateValue") == "ALARM"]
        return [Raised(each.get("AlarmName", ""), each.get("AlarmDescription", ""), _since(each)) for each in found]

    def _all(self) -> list[MetricAlarmTypeDef]:
        """Ours. By what they watch: names of deployment ``a`` begin as those of ``a-b`` do."""
        names = self._names
        queues = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
        watched = {*queues, names.wake_function, names.deployment}
        try:
            pages = self._client.get_paginator("describe_alarms").paginate(AlarmNamePrefix=names.alarms, AlarmTypes=["MetricAlarm"])
            found = [alarm for page in pages for alarm in page["MetricAlarms"]]
        except ClientError as error:
            raise named(error, "looking at the alarms") from error
        ours = [alarm for alarm in found if any(each.get("Value") in watched for each in alarm.get("Dimensions", []))]
        return [alarm for alarm in ours if alarm.get("AlarmName") != names.fleet_alarm]  # that one calls the group, and nobody

    def remove(self, name: str) -> None:
        """Delete an alarm; one that is gone already is fine."""
        try:
            self._client.delete_alarms(AlarmNames=[name])
        except ClientError as error:
            raise named(error, f"deleting the alarm {name}") from error


def _since(alarm: MetricAlarmTypeDef) -> str:
    """When its state changed last: the time of an update moves while it stays raised."""
    moment = alarm.get("StateTransitionedTimestamp") or alarm.get("StateUpdatedTimestamp")
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else ""
