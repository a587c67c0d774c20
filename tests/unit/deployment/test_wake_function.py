"""The wake function as s3_trigger makes it, and as inference_host switches it to another kind of hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from monai_aws_pipeline.cloud.queues import Queue
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.deployment import inference_host, wake_function
from monai_aws_pipeline.deployment.wake_function import switch_wake_function
from monai_aws_pipeline.operations.live_maps import proof_seconds
from monai_aws_pipeline.settings import Settings, load_settings


def settings_of(fleet: str) -> Settings:
    return load_settings(deployment="ward", bucket="ward-studies", fleet=fleet)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
        role = settings_of("hosts").names.wake_role
        boto3.client("iam").create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
        yield Clients("us-east-1")


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who had waiting jobs looked at."""
    found: list[str] = []
    monkeypatch.setattr(wake_function, "wake", lambda _clients, _settings, who, _report: found.append(who))
    return found


def deploy(clients: Clients, fleet: str) -> None:
    settings = settings_of(fleet)
    trigger = Trigger(clients, {})
    jobs = trigger.ensure_queue(settings.names.jobs_queue, {})
    trigger.ensure_function(wake_function.wake_function(clients, settings, jobs))


def deployed(clients: Clients) -> dict[str, Any]:
    found = clients.functions.get_function_configuration(FunctionName=settings_of("hosts").names.wake_function)
    return {name: value for name, value in found.items() if name != "ResponseMetadata"}


@pytest.mark.parametrize(("before", "after"), [("hosts", "autoscaling"), ("autoscaling", "hosts")])
def test_the_deployed_function_wakes_the_kind_of_hosts_that_there_is_now(
    clients: Clients, woken: list[str], before: str, after: str
) -> None:
    deploy(clients, before)
    assert switch_wake_function(clients, settings_of(after), woken.append)
    switched = deployed(clients)
    deploy(clients, after)
    assert deployed(clients)["Environment"] == switched["Environment"], "as s3_trigger would make it"
    group = settings_of(after).names.fleet_group if after == "autoscaling" else None
    assert switched["Environment"]["Variables"].get("FLEET_GROUP") == group
    assert woken[-1] == "inference-host", "for what waits already"


@pytest.mark.parametrize("kind", ["hosts", "autoscaling"])
def test_a_function_that_wakes_that_kind_already_is_left_alone(clients: Clients, woken: list[str], kind: str) -> None:
    deploy(clients, kind)
    before = deployed(clients)
    assert not switch_wake_function(clients, settings_of(kind), woken.append)
    assert (deployed(clients), woken) == (before, [])


def test_the_function_learns_how_long_a_host_may_be_on(clients: Clients, woken: list[str]) -> None:
    deploy(clients, "hosts")
    before = deployed(clients)["Environment"]["Variables"]
    assert float(before["FORGOTTEN_MINUTES"]) * 60 > proof_seconds(settings_of("hosts"))
    longer = settings_of("hosts").model_copy(update={"map_timeout_s": 18000})
    assert not switch_wake_function(clients, longer, woken.append)
    after = deployed(clients)["Environment"]["Variables"]
    assert float(after["FORGOTTEN_MINUTES"]) > 1200
    assert {**after, "FORGOTTEN_MINUTES": ""} == {**before, "FORGOTTEN_MINUTES": ""}


def test_without_a_function_there_is_nothing_to_switch(clients: Clients, woken: list[str]) -> None:
    assert not switch_wake_function(clients, settings_of("autoscaling"), woken.append)
    assert (clients.functions.list_functions()["Functions"], woken) == ([], [])


@pytest.mark.parametrize(("kind", "then"), [("autoscaling", "named hosts go"), ("hosts", "the group goes")])
def test_what_was_there_goes_only_when_nothing_wakes_it_any_more(monkeypatch: pytest.MonkeyPatch, kind: str, then: str) -> None:
    happened: list[str] = []

    class Group:
        def remove(self) -> None:
            happened.append("the group goes")

    def retire(*_: object) -> dict[str, str]:
        happened.append("named hosts go")
        return {}

    monkeypatch.setattr(inference_host, "switch_wake_function", lambda *_: happened.append("the function is switched"))
    monkeypatch.setattr(inference_host, "retire_hosts", retire)
    other: Any = None
    inference_host._hand_over(other, settings_of(kind), other, Group(), [], happened.append)  # type: ignore[arg-type] - its end alone
    assert happened == ["the function is switched", then]


def test_the_functions_code_is_named_as_aws_names_it(clients: Clients) -> None:
    spec = wake_function.wake_function(clients, settings_of("hosts"), Queue("https://queue", "arn"))
    Trigger(clients, {}).ensure_function(spec)
    assert deployed(clients)["CodeSha256"] == spec.sha256
