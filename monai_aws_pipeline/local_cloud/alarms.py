"""CloudWatch as far as alarms need it: SQS publishes its metrics, a function's log lines in the embedded metric format become metrics, and
an alarm looks at its own dimensions only.

ministack keeps metrics and alarms; it publishes nothing for SQS, ignores dimensions when it evaluates, and does not read log lines.
Sources: AWS, "Available CloudWatch metrics for Amazon SQS", "Embedded metric format specification", "Configuring how CloudWatch alarms
treat missing data".
"""

from __future__ import annotations

import json
import logging
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ministack.core.responses import set_request_region
from ministack.services import cloudwatch, lambda_svc, sqs

from . import identity
from .autoscaling_loop import newest
from .autoscaling_policies import value_of

EVERY_S: Final = 2.0
"""AWS publishes SQS metrics once a minute; here nobody should wait that long."""
_REPEAT_S: Final = 20.0
_KEPT_S: Final = 3600.0
_BREACHES: Final[dict[str, Callable[[float, float], bool]]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_log: Final = logging.getLogger("local-cloud.alarms")


@dataclass(frozen=True)
class Datum:
    """One value of a metric."""

    namespace: str
    name: str
    value: float
    unit: str = "None"
    dimensions: Mapping[str, str] = field(default_factory=dict)


class Alarms:
    """Metrics and alarms of one cloud. ``tick`` is called every two seconds in the server's event loop."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._last: dict[tuple[str, str], tuple[float, float]] = {}

    def install(self) -> None:
        """Put this into ministack: its evaluation is replaced, its log lines of functions are read."""
        cloudwatch._evaluate_alarm = evaluate
        written = lambda_svc._emit_lambda_logs

        def emit(func: dict[str, Any], request_id: str, log_text: str, error: bool, duration_ms: int, **options: Any) -> None:
            written(func, request_id, log_text, error, duration_ms, **options)
            for datum in embedded_metrics(log_text):
                _record(datum)

        lambda_svc._emit_lambda_logs = emit
        put = cloudwatch._put_metric_alarm

        def put_with_math(params: Any, data: dict[str, Any], is_cbor: bool, is_json: bool = False) -> Any:
            answer = put(params, data, is_cbor, is_json)
            alarm = cloudwatch._alarms.get(data.get("AlarmName")) if is_cbor or is_json else None
            if alarm is not None and data.get("Metrics"):  # ministack leaves them out
                alarm["Metrics"] = data["Metrics"]
                for name in ("Namespace", "MetricName", "Statistic"):
                    alarm.pop(name, None)
            return answer

        cloudwatch._put_metric_alarm = put_with_math

    def tick(self) -> None:
        """Publish the queues' metrics and look at every alarm."""
        identity.as_account()
        set_request_region(self._region)
        now = time.time()
        for queue in list(sqs._queues.values()):
            for datum in queue_metrics(queue, now):
                self._publish(datum, now)
        for points in cloudwatch._metrics.values():
            points[:] = [point for point in points if point["Timestamp"] > now - _KEPT_S]
        for alarm in list(cloudwatch._alarms.values()):
            if not alarm["AlarmName"].startswith("TargetTracking-"):  # those show what their policy does: autoscaling_loop.py
                evaluate(alarm)

    def _publish(self, datum: Datum, now: float) -> None:
        """Write a value that changed, and an unchanged one now and then: two a second for each queue would be kept for an hour."""
        key = (datum.name, datum.dimensions["QueueName"])
        value, at = self._last.get(key, (-1.0, 0.0))
        if value != datum.value or now - at >= _REPEAT_S:
            self._last[key] = (datum.value, now)
            _record(datum)


def queue_metrics(queue: Mapping[str, Any], now: float) -> Iterator[Datum]:
    """Messages waiting, messages at work, and the age of the oldest in seconds. ``queue`` as ministack keeps it."""
    dimensions = {"QueueName": str(queue["attributes"]["QueueArn"]).rpartition(":")[2]}
    messages = queue["messages"]
    visible = sum(message["visible_at"] <= now for message in messages)
    age = max((now - message["sent_at"] for message in messages), default=0.0)
    yield Datum("AWS/SQS", "ApproximateNumberOfMessagesVisible", visible, "Count", dimensions)
    yield Datum("AWS/SQS", "ApproximateNumberOfMessagesNotVisible", len(messages) - visible, "Count", dimensions)
    yield Datum("AWS/SQS", "ApproximateAgeOfOldestMessage", round(age), "Seconds", dimensions)


def embedded_metrics(log_text: str) -> Iterator[Datum]:
    """The metrics that log lines carry in the embedded metric format; any other line carries none."""
    for line in log_text.splitlines():
        if '"_aws"' not in line:
            continue
        try:
            data = json.loads(line)
            for directive in data["_aws"]["CloudWatchMetrics"]:
                for names in directive["Dimensions"]:
                    dimensions = {name: str(data[name]) for name in names}
                    for metric in directive["Metrics"]:
                        values = data[metric["Name"]]
                        for value in values if isinstance(values, list) else [values]:
                            yield Datum(directive["Namespace"], metric["Name"], float(value), metric.get("Unit", "None"), dimensions)
        except (ValueError, KeyError, TypeError):
            _log.warning("a log line looks like embedded metrics and is not")


def evaluate(alarm: dict[str, Any]) -> None:
    """Bring one metric alarm to the state that its own metric asks for, and tell whom it names."""
    wanted = {dimension["Name"]: dimension["Value"] for dimension in alarm.get("Dimensions", [])}
    since = time.time() - alarm.get("Period", 60) * alarm.get("EvaluationPeriods", 1)
    points = (
        _computed(alarm)
        if alarm.get("Metrics")
        else [
            point
            for (namespace, name, _), kept in list(cloudwatch._metrics.items())
            if (namespace, name) == (alarm.get("Namespace"), alarm.get("MetricName"))
            for point in kept
            if point["Timestamp"] >= since and (point.get("Dimensions") or {}) == wanted
        ]
    )
    state, reason = state_of(alarm, points)
    before = alarm["StateValue"]
    if state == before:
        return
    alarm.update(StateValue=state, StateReason=reason, StateUpdatedTimestamp=int(time.time()))
    cloudwatch._record_history(alarm["AlarmName"], before, state, reason)
    cloudwatch._dispatch_alarm_actions(alarm, before, state, reason)
    cloudwatch._evaluate_parent_alarms(alarm)


def _computed(alarm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The value of an alarm on metric math now, as the one point that is judged."""
    value = value_of(alarm["Metrics"], newest)
    return [] if value is None else [{"Value": value, "Timestamp": time.time()}]


def state_of(alarm: Mapping[str, Any], points: list[dict[str, Any]]) -> tuple[str, str]:
    """State and reason that follow from the points of the alarm's window; missing data as the alarm says."""
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic", "Average")
    value = cloudwatch._stat_value(cloudwatch._calc_stats(points), statistic, points) if points else None
    if value is None:
        missing = {"notBreaching": "OK", "breaching": "ALARM", "missing": "INSUFFICIENT_DATA"}
        state = missing.get(alarm.get("TreatMissingData", "missing"), str(alarm["StateValue"]))
        return state, "no datapoints were received"
    breaches = _BREACHES.get(alarm.get("ComparisonOperator", ""))
    if breaches is None:
        return str(alarm["StateValue"]), "this comparison is not emulated"
    threshold = float(alarm.get("Threshold", 0))
    return ("ALARM" if breaches(value, threshold) else "OK"), f"Threshold Crossed: {statistic} {value} against {threshold}"


def _record(datum: Datum) -> None:
    cloudwatch.record_metric(datum.namespace, datum.name, datum.value, datum.unit, dict(datum.dimensions))
