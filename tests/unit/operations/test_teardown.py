"""What goes at a teardown, and in which order; removal goes on where one thing resists."""

from __future__ import annotations

from itertools import permutations
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from monai_aws_pipeline.cloud.bucket_notifications import without_notification
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import silently
from monai_aws_pipeline.operations import teardown
from monai_aws_pipeline.operations.teardown import Kind, Teardown, Thing, plan
from monai_aws_pipeline.settings import Settings

MIXED = [Thing(Kind.QUEUE, "q"), Thing(Kind.MACHINE, "i-1"), Thing(Kind.SECURITY_GROUP, "sg-1"), Thing(Kind.NOTIFICATION, "n")]


@pytest.mark.parametrize("found", list(permutations(MIXED)))
def test_what_announces_goes_before_what_works_and_that_before_what_it_holds(found: tuple[Thing, ...]):
    assert [thing.kind for thing in plan(found)] == [Kind.NOTIFICATION, Kind.MACHINE, Kind.QUEUE, Kind.SECURITY_GROUP]


def test_images_can_be_kept_and_nothing_else():
    found = [Thing(kind, "x") for kind in Kind]
    assert {thing.kind for thing in plan(found)} - {thing.kind for thing in plan(found, keep_images=True)} == {Kind.REPOSITORY}


def test_nothing_found_is_nothing_to_do():
    assert plan([]) == ()


def test_a_notification_of_ours_goes_and_those_of_others_stay():
    theirs: dict[str, Any] = {"Id": "theirs"}
    existing = {"QueueConfigurations": [{"Id": "ours"}, theirs], "EventBridgeConfiguration": {}, "ResponseMetadata": {}}
    assert without_notification(existing, "ours") == {"QueueConfigurations": [theirs], "EventBridgeConfiguration": {}}
    assert without_notification({"QueueConfigurations": [{"Id": "ours"}]}, "ours") == {}


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch):
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="studies")
        yield Clients("us-east-1")


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, deployment="unit", bucket="studies", **changes)  # type: ignore[call-arg]


def test_a_repository_that_another_deployment_made_is_not_ours(clients: Clients):
    said: list[str] = []
    clients.ecr.create_repository(repositoryName="monai-aws/map", tags=[{"Key": "monai-aws:deployment", "Value": "theirs"}])
    assert Teardown(clients, settings(), said.append).inventory() == []
    assert "theirs" in said[0]
    clients.ecr.create_repository(repositoryName="ours", tags=[{"Key": "monai-aws:deployment", "Value": "unit"}])
    assert [thing.id for thing in Teardown(clients, settings(ecr_repository="ours"), said.append).inventory()] == ["ours"]


def test_one_thing_that_resists_does_not_keep_the_rest_from_going(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(teardown, "VERIFY_SECONDS", 0.0)
    sqs, said = clients.sqs, list[str]()
    names = settings().names
    for name in (names.jobs_queue, names.uploads_queue):
        sqs.create_queue(QueueName=name)
    down = Teardown(clients, settings(), said.append)
    going = plan(down.inventory())
    assert [thing.id for thing in going] == [names.jobs_queue, names.uploads_queue]
    refuse_first(down, monkeypatch, names.jobs_queue)

    outcome = down.run(going)

    assert [thing.id for thing in outcome.removed] == [names.uploads_queue]
    assert [thing.id for thing in outcome.left] == [names.jobs_queue]
    assert f"could not remove queue {names.jobs_queue}" in said[0]


@pytest.mark.parametrize("going", [False, True])
def test_a_group_launches_nothing_from_then_on_even_where_it_resists(clients: Clients, *, going: bool):
    down, calls = Teardown(clients, settings(), silently), Mock()
    calls.find.return_value.is_going = going
    down._group = calls
    down._remove_group("")
    assert [name for name, _, _ in calls.method_calls] == ["find", *([] if going else ["suspend"]), "remove_alarm", "delete", "wait_gone"]


def refuse_first(down: Teardown, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    genuine = down._trigger.remove_queue

    def refuse(queue: str) -> None:
        if queue == name:
            raise ClientError({"Error": {"Code": "InternalError"}}, "DeleteQueue")
        genuine(queue)

    monkeypatch.setattr(down._trigger, "remove_queue", refuse)
