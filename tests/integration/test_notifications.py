"""Notifications as the operator sends them on the embedded AWS, with the very policies of the template: seen where they arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from dagster import DagsterInstance, SensorResult, build_sensor_context

from monai_aws_pipeline.cloud.errors import AccessError
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.notifications import notifications
from monai_aws_pipeline.operations.channels import SETTING, channel_of
from monai_aws_pipeline.operations.preflight import State, preflight
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.lineage import event_of
from tests.support.platform import Platform, environment, platform
from tests.unit.operations.test_notifications import TOKEN, webhook
from tests.unit.studies.records import refused, study_of

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "told", tmp_path_factory.mktemp("told")) as made:
        yield made


@contextmanager
def administrator(place: Platform) -> Iterator[boto3.Session]:
    with environment(place.cloud.environment):
        yield boto3.Session(region_name=place.settings.region)


def tick(place: Platform, cursor: str | None, **settings: Any) -> SensorResult:
    context = build_sensor_context(
        instance=place.instance,
        cursor=cursor,
        repository_def=build_defs().get_repository_def(),
        resources={"settings": SettingsResource(overrides=settings), "cloud": CloudResource(region=place.settings.region)},
    )
    found = notifications(context)
    assert isinstance(found, SensorResult)
    return found


def fail_a_study(instance: DagsterInstance, number: int) -> None:
    record = refused(number, at=datetime.now(UTC), study=study_of(number))
    instance.report_runless_asset_event(event_of(StoredResult(record, ()), Addresses("studies"), {}))


def topic_with_queue(session: boto3.Session, name: str) -> tuple[str, Any, str]:
    """A topic, and a queue that is subscribed to it and lets it send."""
    sns, sqs = session.client("sns"), session.client("sqs")
    topic = sns.create_topic(Name=name)["TopicArn"]
    queue = sqs.create_queue(QueueName=f"{name}-mailbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn}
    statement = {**allow, "Condition": {"ArnEquals": {"aws:SourceArn": topic}}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return topic, sqs, queue


def received(sqs: Any, queue: str) -> list[dict[str, Any]]:
    """What has arrived; waited for, because a topic delivers by itself."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=2, VisibilityTimeout=600).get("Messages", [])
        if found:
            return [json.loads(each["Body"]) for each in found]
    return []


def test_a_failed_study_arrives_at_whoever_listens_to_the_deployments_topic(place: Platform):
    with administrator(place) as session:
        topic, sqs, queue = topic_with_queue(session, "monai-aws-told-alarms")
    with environment(place.variables):
        begun = tick(place, None, notify="sns", alarm_topic_arn=topic)
        fail_a_study(place.instance, 1)
        told = tick(place, begun.cursor, notify="sns", alarm_topic_arn=topic)
    assert told.skip_reason and told.skip_reason.skip_message == "Told: studies."
    (mail,) = received(sqs, queue)
    assert mail["Subject"] == "monai-aws told: 1 study has no answer"
    assert study_of(1) in mail["Message"]


def test_a_failed_study_arrives_at_a_webhook_whose_address_lies_in_the_deployments_secret(place: Platform):
    with webhook() as (url, taken):
        with administrator(place) as session:
            session.client("secretsmanager").create_secret(Name="monai-aws/told/notify", SecretString=url)
        with environment(place.variables):
            begun = tick(place, None, notify="monai-aws/told/notify")
            fail_a_study(place.instance, 2)
            told = tick(place, begun.cursor, notify="monai-aws/told/notify")
            told_there = place.settings.model_copy(update={"notify": "monai-aws/told/notify"})
            found = preflight(Clients(place.settings.region), told_there, seconds=60)
    assert told.skip_reason and told.skip_reason.skip_message == "Told: studies."
    assert [TOKEN in path and "monai-aws told: 1 study has no answer" in body["text"] for path, body in taken] == [True]
    (asked,) = [each for each in found if each.check == "notifications"]
    assert (asked.state, asked.what) == (State.OK, "the webhook's address is readable; nothing was sent to it")


def test_secrets_and_topics_of_others_are_none_of_the_operators(place: Platform):
    with administrator(place) as session:
        session.client("secretsmanager").create_secret(Name="monai-aws/told-2/notify", SecretString="https://hooks.example.org/x")
        topic = session.client("sns").create_topic(Name="monai-aws-told-2-alarms")["TopicArn"]
    with environment(place.variables):
        clients = Clients(place.settings.region)
        with pytest.raises(AccessError, match=SETTING):
            channel_of(place.settings.model_copy(update={"notify": "monai-aws/told-2/notify"}), clients)
        from monai_aws_pipeline.operations.notifications import Kind, Message

        with pytest.raises(AccessError, match="AWS refused a message to"):
            channel_of(place.settings.model_copy(update={"notify": topic}), clients).send(Message(Kind.RUN, "s", "t", "0"))


def test_the_operator_sees_its_own_budget_and_no_other(place: Platform, tmp_path: Path):
    from monai_aws_pipeline.cloud.budget import spent_of

    with administrator(place) as session:
        account = session.client("sts").get_caller_identity()["Account"]
        for name in ("monai-aws-told", "monai-aws-told-2"):
            budget = {"BudgetName": name, "BudgetType": "COST", "TimeUnit": "MONTHLY", "BudgetLimit": {"Amount": "100", "Unit": "USD"}}
            session.client("budgets").create_budget(AccountId=account, Budget=budget)
    with environment(place.variables):
        budgets = Clients(place.settings.region).budgets
        assert spent_of(budgets, account, "monai-aws-told") == (0.0, 100.0)
        with pytest.raises(AccessError, match="monai-aws-told-2"):
            spent_of(budgets, account, "monai-aws-told-2")
