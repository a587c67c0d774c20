"""Merging our rules of expiry into whatever lifecycle the bucket has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from monai_aws_pipeline.cloud.expiry import INDEX_OUTLIVES_DAYS, BucketExpiry, expiry_rules, merge_rules
from monai_aws_pipeline.host_agent.results.commit import SETTLED
from monai_aws_pipeline.settings import SettingsError, load_settings

THEIRS: dict[str, Any] = {
    "ID": "abandoned-uploads",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}


def days(rules: list[dict[str, Any]]) -> dict[str, int]:
    return {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules}


def test_results_take_what_was_decided_with_them_and_leave_their_index_a_while():
    assert days(expiry_rules("dev", 90, 0)) == {"output/": 90, "jobs/": 90, "results-index/": 90 + INDEX_OUTLIVES_DAYS}


def test_originals_are_what_was_answered_and_what_was_refused():
    assert days(expiry_rules("dev", 0, 30)) == {"processed/": 30, "quarantine/": 30}


def test_by_default_nothing_expires():
    settings = load_settings()
    assert expiry_rules("dev", settings.results_expire_days, settings.originals_expire_days) == []


def test_no_rule_speaks_of_uploads_golden_studies_or_maps():
    prefixes = set(days(expiry_rules("dev", 90, 90)))
    assert not [name for name in ("input/", "golden/", "maps/", "") if name in prefixes]


def test_our_older_rules_are_replaced_and_those_of_others_stay():
    merged = merge_rules([THEIRS, *expiry_rules("dev", 90, 90)], expiry_rules("dev", 30, 0), "dev")
    assert merged == [THEIRS, *expiry_rules("dev", 30, 0)]


@pytest.mark.parametrize("name", ["results_expire_days", "originals_expire_days"])
def test_nothing_expires_while_its_job_may_still_come_from_a_queue(name: str):
    with pytest.raises(SettingsError, match="at least 16 days"):
        load_settings(**{name: SETTLED.days})
    assert getattr(load_settings(**{name: SETTLED.days + 1}), name) == 16


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="studies")
        yield client


def rules_of(s3: Any) -> list[str]:
    try:
        return sorted(rule["ID"] for rule in s3.get_bucket_lifecycle_configuration(Bucket="studies")["Rules"])
    except s3.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration"
        return []


def test_rules_are_set_once_changed_with_the_setting_and_taken_away_with_it(s3: Any):
    expiry = BucketExpiry(s3, "studies", "dev")
    assert not expiry.ensure([])
    assert expiry.ensure(expiry_rules("dev", 90, 30))
    assert not expiry.ensure(expiry_rules("dev", 90, 30)), "nothing changed"
    assert len(expiry.names()) == 5
    assert expiry.ensure(expiry_rules("dev", 60, 0))
    assert len(expiry.names()) == 3
    assert expiry.ensure([])
    assert rules_of(s3) == []


def test_a_teardown_takes_ours_and_leaves_those_of_others(s3: Any):
    s3.put_bucket_lifecycle_configuration(Bucket="studies", LifecycleConfiguration={"Rules": [THEIRS]})
    expiry = BucketExpiry(s3, "studies", "dev")
    expiry.ensure(expiry_rules("dev", 90, 30))
    assert rules_of(s3)[0] == "abandoned-uploads"
    for name in expiry.names():
        expiry.remove(name)
    assert rules_of(s3) == ["abandoned-uploads"]
    assert BucketExpiry(s3, "gone", "dev").names() == []
