"""Merging our notification into whatever the bucket has."""

import pytest

from monai_aws_pipeline.cloud.bucket_notifications import merge_notification
from monai_aws_pipeline.cloud.errors import TriggerError


def _entry(identifier, prefix="input/", suffix="", event="s3:ObjectCreated:*"):
    rules = [{"Name": "prefix", "Value": prefix}] + ([{"Name": "suffix", "Value": suffix}] if suffix else [])
    return {
        "Id": identifier,
        "QueueArn": f"arn:aws:sqs:us-east-1:1:{identifier}",
        "Events": [event],
        "Filter": {"Key": {"FilterRules": rules}},
    }


def test_what_others_put_on_the_bucket_stays():
    theirs = {"TopicConfigurations": [_entry("theirs", prefix="reports/")], "EventBridgeConfiguration": {}, "ResponseMetadata": {"x": 1}}
    merged = merge_notification(theirs, _entry("ours"))
    assert merged["TopicConfigurations"] == theirs["TopicConfigurations"]
    assert merged["EventBridgeConfiguration"] == {}
    assert [entry["Id"] for entry in merged["QueueConfigurations"]] == ["ours"]
    assert "ResponseMetadata" not in merged


def test_our_own_older_entry_is_replaced_and_not_doubled():
    merged = merge_notification({"QueueConfigurations": [_entry("ours", prefix="old/"), _entry("theirs", prefix="x/")]}, _entry("ours"))
    assert sorted(entry["Id"] for entry in merged["QueueConfigurations"]) == ["ours", "theirs"]


@pytest.mark.parametrize("prefix", ["", "in", "input/", "input/a/"])
def test_an_overlapping_receiver_of_new_objects_is_named_instead_of_overwritten(prefix):
    with pytest.raises(TriggerError, match="theirs"):
        merge_notification({"LambdaFunctionConfigurations": [_entry("theirs", prefix=prefix)]}, _entry("ours"))


def test_a_receiver_of_deletions_does_not_overlap():
    merge_notification({"QueueConfigurations": [_entry("theirs", event="s3:ObjectRemoved:*")]}, _entry("ours"))
