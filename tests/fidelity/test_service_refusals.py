"""Every code with which a service refuses a call of trigger, registry, alarms or stack is tried again or ends as a named error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from monai_aws_pipeline.cloud.alarms import Alarm, Alarms
from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.functions import FunctionSpec
from monai_aws_pipeline.cloud.queues import Queue
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.cloud.service_calls import ServiceCalls
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import Change, Proposal, apply, propose, stack_outputs
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.settings import Names
from tests.fidelity.conftest import refusal
from tests.fidelity.played_services import SERVICE_REFUSALS, ServicePlayed
from tests.integration.local_cloud.conftest import Account

TABLE = [pytest.param(each, marks=pytest.mark.behaviour(each.id), id=each.id) for each in SERVICE_REFUSALS]
BOTO = {"monitoring": "cloudwatch", "lambda": "lambda"}
QUEUE = Queue("https://queue", "arn:aws:sqs:us-east-1:123456789012:q")
SPEC = FunctionSpec("wake", "arn:aws:iam::123456789012:role/r", "python3.13", "work.handler", b"code", "new", {})
SAME = {"Role": SPEC.role, "Runtime": SPEC.runtime, "Handler": SPEC.handler, "Timeout": SPEC.timeout_s, "MemorySize": SPEC.memory_mib}
READY = ("get_function_configuration", {"State": "Active", "LastUpdateStatus": "Successful"})
ARN = ("get_queue_attributes", {"Attributes": {"QueueArn": QUEUE.arn}})
ALARM = Alarm("a", "says", "AWS/SQS", "m", (("QueueName", "q"),), 1)
SET = Proposal("s", "arn:aws:cloudformation:us-east-1:123456789012:stack/s/1", "arn:set", False, (Change("Add", "r", "k", False),))
REPOSITORY = {"repositories": [{"repositoryUri": "uri"}]}
UUID = "01234567-89ab-cdef-0123-456789abcdef"
Answer = tuple[str, dict[str, Any] | str]


@dataclass(frozen=True)
class Call:
    """How the system comes to an operation: the client's attribute of Clients, what is answered before and after."""

    client: str
    run: Callable[[Clients, Path], object]
    request: dict[str, Any]
    before: tuple[Answer, ...] = ()
    good: dict[str, Any] = field(default_factory=dict)
    after: tuple[Answer, ...] = ()
    again: bool = True
    """Whether the operation itself is asked again; else what comes after leads past it."""


CALLS = {
    "CreateQueue": Call(
        "sqs",
        lambda clients, _: Trigger(clients, {}).ensure_queue("q", {}),
        {"QueueName": "q"},
        (("get_queue_url", "AWS.SimpleQueueService.NonExistentQueue"),),
        {"QueueUrl": QUEUE.url},
        (ARN,),
    ),
    "SetQueueAttributes": Call(
        "sqs",
        lambda clients, _: Trigger(clients, {}).ensure_queue("q", {"Policy": ""}),
        {"QueueUrl": QUEUE.url, "Attributes": {}},
        (("get_queue_url", {"QueueUrl": QUEUE.url}), ARN),
    ),
    "CreateFunction": Call(
        "functions",
        lambda clients, _: Trigger(clients, {}).ensure_function(SPEC),
        {"FunctionName": "x", "Role": SPEC.role, "Code": {"ZipFile": b"x"}},
        (("get_function", "ResourceNotFoundException"),),
        {"FunctionArn": "arn"},
        (READY,),
    ),
    "UpdateFunctionCode": Call(
        "functions",
        lambda clients, _: Trigger(clients, {}).ensure_function(SPEC),
        {"FunctionName": "x", "ZipFile": b"x"},
        (("get_function", {"Configuration": {"CodeSha256": "old", **SAME}}),),
        {},
        (READY,),
    ),
    "CreateEventSourceMapping": Call(
        "functions",
        lambda clients, _: Trigger(clients, {}).ensure_event_source("wake", QUEUE),
        {"FunctionName": "x", "EventSourceArn": QUEUE.arn},
        (("list_event_source_mappings", {"EventSourceMappings": []}),),
        {"UUID": UUID},
    ),
    "UpdateEventSourceMapping": Call(
        "functions",
        lambda clients, _: Trigger(clients, {}).ensure_event_source("wake", QUEUE),
        {"UUID": UUID},
        (("list_event_source_mappings", {"EventSourceMappings": [{"UUID": UUID}]}),),
    ),
    "CreateSchedule": Call(
        "scheduler",
        lambda clients, _: Trigger(clients, {}).ensure_schedule("wake", "arn:f", "arn:aws:iam::123456789012:role/r", 5),
        {
            "Name": "x",
            "ScheduleExpression": "rate(1 minute)",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {"Arn": "arn:f", "RoleArn": "arn:aws:iam::123456789012:role/r"},
        },
        (("get_schedule", "ResourceNotFoundException"),),
        {"ScheduleArn": "arn"},
    ),
    "PutBucketNotificationConfiguration": Call(
        "s3",
        lambda clients, _: Trigger(clients, {}).ensure_notification("studies", "uploads", QUEUE, "input/"),
        {"Bucket": "studies", "NotificationConfiguration": {}},
        (("get_bucket_notification_configuration", {}),),
    ),
    "PutRetentionPolicy": Call(
        "logs",
        lambda clients, _: Trigger(clients, {}).ensure_log_retention("wake", 30),
        {"logGroupName": "x", "retentionInDays": 30},
        (("create_log_group", {}),),
    ),
    "PutMetricAlarm": Call(
        "cloudwatch", lambda clients, _: Alarms(clients.cloudwatch, Names("a")).ensure([ALARM], "", {}), ALARM.request("", {"a": "b"})
    ),
    "CreateRepository": Call(
        "ecr",
        lambda clients, _: Registry(clients.ecr, "map").ensure("dev", "me"),
        {"repositoryName": "map"},
        (("describe_repositories", "RepositoryNotFoundException"),),
        after=(("describe_repositories", REPOSITORY),),
        again=False,
    ),
    "DescribeImages": Call("ecr", lambda clients, _: Registry(clients.ecr, "map").find(tag="1"), {"repositoryName": "map"}),
    "GetAuthorizationToken": Call("ecr", lambda clients, _: Registry(clients.ecr, "map").blob(f"sha256:{'0' * 64}", 1), {}),
    "CreateChangeSet": Call(
        "cloudformation",
        lambda clients, folder: propose(clients.cloudformation, "s", template(folder), {}, lambda _: None),
        {"StackName": "s", "ChangeSetName": "c", "TemplateBody": "{}"},
        (("describe_stacks", "ValidationError"),),
    ),
    "ExecuteChangeSet": Call(
        "cloudformation",
        lambda clients, _: apply(clients.cloudformation, SET, lambda _: None),
        {"StackName": "s", "ChangeSetName": "c"},
    ),
    "DescribeStacks": Call("cloudformation", lambda clients, _: stack_outputs(clients.cloudformation, "s"), {"StackName": "s"}),
}


def template(folder: Path) -> Path:
    (folder / "template").write_text("Parameters:\n  Owner:\n")
    return folder / "template"


def method(operation: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in operation).lstrip("_")


@pytest.mark.cloud
@pytest.mark.parametrize("played", TABLE)
def test_a_refusal_comes_with_awss_status_and_words_embedded(played: ServicePlayed, account: Account, local_cloud: LocalCloud):
    local_cloud.order_fault(service=played.service, action=played.action or played.operation, code=played.code)
    client = account.client(BOTO.get(played.service, played.service))
    with pytest.raises(ClientError) as error:
        getattr(client, method(played.operation))(**CALLS[played.operation].request)
    code, status, message = refusal(error)
    assert (code, status) == (played.code, played.status)
    assert played.words in message


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    return Clients("us-east-1")


@pytest.mark.parametrize("played", TABLE)
def test_a_refusal_is_tried_again_or_named_with_what_to_do_handled(
    played: ServicePlayed, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    call, name = CALLS[played.operation], method(played.operation)
    with Stubber(getattr(clients, call.client)) as stub:
        answer(stub, *call.before)
        stub.add_client_error(name, played.code, f"x {played.words} y", played.status)
        if played.end == "again":
            answer(stub, *([(name, call.good)] if call.again else []), *call.after)
            call.run(clients, tmp_path)
        else:
            with pytest.raises(CloudError) as error:
                call.run(clients, tmp_path)
            assert type(error.value).__name__ == played.end
            assert played.code in str(error.value) or played.words in str(error.value)
            assert played.remedy in error.value.remedy
        stub.assert_no_pending_responses()
    if played.end == "again" and call.again:
        monkeypatch.setattr(ServiceCalls, "settle_seconds", 0.0)
        with Stubber(getattr(clients, call.client)) as stub, pytest.raises(CloudError, match=played.code) as error:
            answer(stub, *call.before)
            stub.add_client_error(name, played.code, f"x {played.words} y", played.status)
            call.run(clients, tmp_path)
        assert error.value.remedy


def answer(stub: Stubber, *answers: Answer) -> None:
    for name, given in answers:
        if isinstance(given, str):
            stub.add_client_error(name, given, "as in the table", 400)
        else:
            stub.add_response(name, given)


@pytest.mark.behaviour("refusal-service-unknown")
@pytest.mark.cloud
def test_a_code_that_nobody_has_seen_is_passed_on_as_it_is_embedded(account: Account, local_cloud: LocalCloud):
    local_cloud.order_fault(service="sqs", action="CreateQueue", code="Quux.Frobnicated", message="The quux was frobnicated.", status=418)
    with pytest.raises(ClientError) as error:
        account.client("sqs").create_queue(QueueName="q")
    assert refusal(error) == ("Quux.Frobnicated", 418, "The quux was frobnicated.")


@pytest.mark.behaviour("refusal-service-unknown")
@pytest.mark.parametrize("operation", sorted(CALLS))
def test_a_code_that_nobody_has_seen_is_said_with_awss_words_handled(operation: str, clients: Clients, tmp_path: Path):
    call = CALLS[operation]
    with Stubber(getattr(clients, call.client)) as stub:
        answer(stub, *call.before)
        stub.add_client_error(method(operation), "QuuxFrobnicated", "The quux was frobnicated.", 400)
        with pytest.raises(CloudError, match=r"(?s)QuuxFrobnicated.*The quux was frobnicated\.") as error:
            call.run(clients, tmp_path)
    assert error.value.remedy
