"""Which alarms a deployment has, and that those are made, brought up to date and removed."""

from __future__ import annotations

import boto3
import pytest
from moto import mock_aws

from monai_aws_pipeline.cloud.alarms import Alarms, wanted
from monai_aws_pipeline.settings import Names

NAMES = Names("unit")
TOPIC = "arn:aws:sns:us-east-1:123456789012:on-call"


def test_dead_letters_ages_errors_and_hosts_that_are_missing_or_run_for_long_are_watched():
    alarms = {alarm.metric + dict(alarm.dimensions).get("QueueName", ""): alarm for alarm in wanted(NAMES, 60, 5, 24)}
    assert set(alarms) == {
        f"ApproximateNumberOfMessagesVisible{NAMES.uploads_dead_letters}",
        f"ApproximateNumberOfMessagesVisible{NAMES.jobs_dead_letters}",
        f"ApproximateAgeOfOldestMessage{NAMES.jobs_queue}",
        f"ApproximateAgeOfOldestMessage{NAMES.uploads_queue}",
        "Errors",
        "LongestRunningHostHours",
        "HostMissing",
    }
    assert alarms["LongestRunningHostHours"].threshold == 24
    assert alarms[f"ApproximateAgeOfOldestMessage{NAMES.jobs_queue}"].threshold == 3600
    assert all(alarm.name.startswith(NAMES.alarms) for alarm in alarms.values())


@pytest.mark.parametrize("minutes", [1, 5, 60])
def test_the_alarm_of_a_missing_host_outlasts_the_time_between_two_wakes(minutes: int):
    missing = next(alarm for alarm in wanted(NAMES, 60, minutes, 24) if alarm.metric == "HostMissing")
    assert missing.period_s >= 2 * minutes * 60
    assert missing.period_s % 60 == 0


@pytest.mark.parametrize("other", ["unit2", "unit-2", "unit-uploads"])
def test_alarms_are_made_once_and_brought_up_to_date_and_those_of_others_stay(other: str):
    with mock_aws():
        client = boto3.client("cloudwatch", region_name="us-east-1")
        alarms, theirs = Alarms(client, NAMES), wanted(Names(other), 60, 5, 24)
        Alarms(client, Names(other)).ensure(theirs, "", {})
        alarms.ensure(wanted(NAMES, 60, 5, 24), TOPIC, {"monai-aws:deployment": "unit"})
        alarms.ensure(wanted(NAMES, 30, 5, 24)[1:], "", {"monai-aws:deployment": "unit"})
        left = {alarm["AlarmName"]: alarm for alarm in client.describe_alarms()["MetricAlarms"]}
        assert set(alarms.names()) == {alarm.name for alarm in wanted(NAMES, 60, 5, 24)[1:]}, "what is no longer wanted goes"
        assert set(left) == set(alarms.names()) | {alarm.name for alarm in theirs}
        assert left[f"{NAMES.alarms}job-age"]["Threshold"] == 1800
        assert left[f"{NAMES.alarms}job-age"]["AlarmActions"] == []
        for name in alarms.names():
            alarms.remove(name)
            alarms.remove(name)
        assert alarms.names() == []
