"""The trigger's services: Lambda, IAM's roles, policies between services, EventBridge Scheduler."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lambda_fn import hosts, wake
from monai_aws_pipeline.cloud.errors import TriggerError
from monai_aws_pipeline.cloud.functions import FunctionSpec
from monai_aws_pipeline.cloud.queues import Queue, queue_policy
from monai_aws_pipeline.cloud.service_calls import ServiceCalls
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import deploy_stack
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.contract import JobMessage
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.bootstrap import TEMPLATE
from tests.fidelity.conftest import Buyer, refusal
from tests.integration.local_cloud.conftest import Account, eventually, unique

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour
ACCOUNT = "123456789012"
CODE = """
import boto3, os
def handler(event, context):
    boto3.client("s3").put_object(Bucket=os.environ["BUCKET"], Key=f"{os.environ['CALLS']}/{os.urandom(8).hex()}", Body=b"x")
    if os.environ.get("FAILS"):
        raise RuntimeError("as ordered")
"""


def zipped(source: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("work.py", source)
    return packed.getvalue()


def trust(service: str) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]}


def arn(role: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/{role}"


@pytest.fixture
def clients(cloud_environment: LocalCloud) -> Clients:
    return Clients("us-east-1")


@pytest.fixture
def trigger(clients: Clients) -> Trigger:
    return Trigger(clients, {})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for that does not pass."""
    monkeypatch.setattr(ServiceCalls, "settle_seconds", 0.0)


@pytest.fixture(scope="module")
def bucket(local_cloud: LocalCloud) -> str:
    name = unique("trigger")
    Account(local_cloud).client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def role(local_cloud: LocalCloud, bucket: str) -> str:
    """A role that Lambda knows already, and may write into the bucket."""
    account = Account(local_cloud)
    allowed = [{"Effect": "Allow", "Action": ["s3:PutObject", "sqs:*"], "Resource": "*"}]
    name = account.role(allowed, trust("lambda.amazonaws.com"))
    account.client("lambda").create_function(**request(unique("known"), arn(name), bucket))
    return name


def request(name: str, role_arn: str, bucket: str, **variables: str) -> dict[str, Any]:
    return {
        "FunctionName": name,
        "Runtime": "python3.11",
        "Handler": "work.handler",
        "Role": role_arn,
        "Code": {"ZipFile": zipped(CODE)},
        "Timeout": 30,
        "Environment": {"Variables": {"BUCKET": bucket, "CALLS": name, **variables}},
    }


def spec(name: str, role_arn: str, source: str = CODE) -> FunctionSpec:
    code = zipped(source)
    digest = base64.b64encode(hashlib.sha256(code).digest()).decode()
    return FunctionSpec(name, role_arn, "python3.11", "work.handler", code, digest, {})


def calls(account: Account, bucket: str, name: str) -> int:
    return int(account.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{name}/")["KeyCount"])


# ---------------------------------------------------------------------------------------------------------------------- functions


@behaviour("function-in-progress")
def test_a_function_takes_one_change_at_a_time_and_is_not_ready_at_once_embedded(account: Account, role: str, bucket: str):
    functions, name = account.client("lambda"), unique("busy")
    assert functions.create_function(**request(name, arn(role), bucket))["State"] == "Pending"
    with pytest.raises(ClientError) as error:
        functions.invoke(FunctionName=name)
    assert refusal(error)[:2] == ("ResourceConflictException", 409)
    assert "in the following state: Pending" in refusal(error)[2]
    eventually(lambda: functions.get_function_configuration(FunctionName=name)["State"] == "Active")
    changed = functions.update_function_configuration(FunctionName=name, Timeout=31)
    assert (changed["State"], changed["LastUpdateStatus"]) == ("Active", "InProgress")
    with pytest.raises(ClientError) as error:
        functions.update_function_code(FunctionName=name, ZipFile=zipped(CODE))
    assert refusal(error)[:2] == ("ResourceConflictException", 409)
    assert "An update is in progress for resource" in refusal(error)[2]
    eventually(lambda: functions.get_function_configuration(FunctionName=name)["LastUpdateStatus"] == "Successful")


@behaviour("function-in-progress")
def test_code_and_settings_are_changed_one_after_another_beside_somebody_elses_change_handled(
    account: Account, trigger: Trigger, role: str, bucket: str
):
    functions, name = account.client("lambda"), unique("changed")
    trigger.ensure_function(spec(name, arn(role)))
    functions.update_function_configuration(FunctionName=name, Description="somebody else's")
    wanted = replace(spec(name, arn(role), CODE + "\n# another\n"), memory_mib=512)
    trigger.ensure_function(wanted)
    now = functions.get_function_configuration(FunctionName=name)
    assert (now["CodeSha256"], now["MemorySize"], now["State"], now["LastUpdateStatus"]) == (wanted.sha256, 512, "Active", "Successful")


@behaviour("role-not-assumable-yet")
def test_a_new_role_cannot_be_assumed_at_once_and_one_that_trusts_nobody_never_embedded(account: Account, bucket: str):
    functions = account.client("lambda")
    fresh, other = account.role([], trust("lambda.amazonaws.com")), account.role([], trust("ec2.amazonaws.com"))
    for name, refusals in ((fresh, 1), (other, 3)):
        for _ in range(refusals):
            with pytest.raises(ClientError) as error:
                functions.create_function(**request(name, arn(name), bucket))
            words = "The role defined for the function cannot be assumed by Lambda."
            assert refusal(error) == ("InvalidParameterValueException", 400, words)
    assert functions.create_function(**request(fresh, arn(fresh), bucket))["State"] == "Pending"


@behaviour("role-not-assumable-yet")
def test_a_role_is_waited_for_and_named_when_it_stays_so_handled(account: Account, trigger: Trigger, impatient: None):
    refused = account.role([], trust("ec2.amazonaws.com"))
    with pytest.raises(TriggerError, match=r"creating the function.*InvalidParameterValueException.*cannot be assumed by Lambda"):
        trigger.ensure_function(spec(unique("never"), arn(refused)))


@behaviour("role-not-assumable-yet")
def test_a_function_is_made_with_a_role_of_this_second_handled(account: Account, trigger: Trigger):
    name = unique("new")
    assert trigger.ensure_function(spec(name, arn(account.role([], trust("lambda.amazonaws.com"))))).endswith(f":function:{name}")


@behaviour("async-retries")
def test_a_failed_asynchronous_call_is_made_twice_more_embedded(account: Account, role: str, bucket: str):
    functions, sqs, name = account.client("lambda"), account.client("sqs"), unique("fails")
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    functions.create_function(**request(name, arn(role), bucket, FAILS="1"))
    given_up = {"OnFailure": {"Destination": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"}}
    functions.put_function_event_invoke_config(FunctionName=name, DestinationConfig=given_up)
    eventually(lambda: functions.get_function_configuration(FunctionName=name)["State"] == "Active")
    functions.invoke(FunctionName=name, InvocationType="Event")
    eventually(lambda: sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages"))
    assert calls(account, bucket, name) == 3


@pytest.fixture
def awake(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """The wake function's own handler, on the embedded AWS, with a jobs queue and a deployment of its own."""
    deployment = unique("awake")[:18]
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", deployment)
    monkeypatch.setenv("JOBS_QUEUE_URL", Trigger(clients, {}).ensure_queue(deployment, {}).url)
    monkeypatch.setenv("FOLDER_QUIET_MINUTES", "0")
    cached = (wake.queue, hosts.ec2, hosts.ssm)
    for client in cached:
        client.cache_clear()
    yield lambda event: wake.handler(event, SimpleNamespace(function_name=deployment))  # type: ignore[arg-type]
    for client in cached:
        client.cache_clear()


UPLOAD = {
    "eventName": "ObjectCreated:Put",
    "s3": {"bucket": {"name": "studies"}, "object": {"key": "input/a.zip", "size": 7, "eTag": "abc"}},
}


def record(body: dict[str, Any]) -> dict[str, Any]:
    source = {"eventSource": "aws:sqs", "eventSourceARN": f"arn:aws:sqs:us-east-1:{ACCOUNT}:q", "awsRegion": "us-east-1"}
    return {"messageId": "m", "receiptHandle": "r", "body": json.dumps(body), "attributes": {}, "messageAttributes": {}, **source}


@behaviour("async-retries")
def test_an_upload_that_the_function_is_told_of_again_is_the_same_job_handled(
    clients: Clients, awake: Any, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(3):
        awake({"Records": [record({"Records": [UPLOAD]})]})
    asked = {"QueueUrl": os.environ["JOBS_QUEUE_URL"], "MaxNumberOfMessages": 10}
    found = [message["Body"] for _ in range(3) for message in clients.sqs.receive_message(**asked).get("Messages", [])]
    assert len(found) == 3
    assert len({JobMessage.from_json(body).job for body in found}) == 1, (
        "a host answers it once: tests/unit/host_agent/results/test_one_answer.py"
    )


# --------------------------------------------------------------------------------------------------------- policies between services


def queue_for(account: Account, bucket: str, policy: bool = True) -> Queue:
    sqs, name = account.client("sqs"), unique("queue")
    queue = Queue(sqs.create_queue(QueueName=name)["QueueUrl"], f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}")
    if policy:
        sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"Policy": queue_policy(queue.arn, bucket, ACCOUNT)})
    return queue


def own_bucket(account: Account) -> str:
    name = unique("told")
    account.client("s3").create_bucket(Bucket=name)
    return name


def telling(kind: str, target: str) -> dict[str, Any]:
    return {f"{kind}Configurations": [{f"{kind}Arn": target, "Events": ["s3:ObjectCreated:*"]}]}


@behaviour("queue-policy-not-seen-yet")
def test_s3_does_not_see_a_queues_policy_at_once_embedded(account: Account):
    bucket, s3 = own_bucket(account), account.client("s3")
    queue = queue_for(account, bucket)
    wanted = {"Bucket": bucket, "NotificationConfiguration": telling("Queue", queue.arn)}
    with pytest.raises(ClientError) as error:
        s3.put_bucket_notification_configuration(**wanted)
    words = f"Unable to validate the following destination configurations: {queue.arn}"
    assert refusal(error) == ("InvalidArgument", 400, words)
    s3.put_bucket_notification_configuration(**wanted)


@behaviour("queue-policy-not-seen-yet")
def test_a_queues_policy_is_waited_for_handled(account: Account, trigger: Trigger):
    bucket = own_bucket(account)
    assert trigger.ensure_notification(bucket, "uploads", queue_for(account, bucket), "input/")
    assert trigger.has_notification(bucket, "uploads")


@behaviour("queue-policy")
def test_without_the_queues_policy_nothing_arrives_embedded(account: Account):
    ours, other, s3 = own_bucket(account), own_bucket(account), account.client("s3")
    queue = queue_for(account, ours)
    for bucket in (other, ours):
        wanted = telling("Queue", queue.arn)
        s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted, SkipDestinationValidation=True)
        s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    assert arrived(account, queue) == [ours]


def arrived(account: Account, queue: Queue) -> list[str]:
    """The buckets of the first events that arrive."""
    sqs = account.client("sqs")
    found = eventually(lambda: sqs.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages"))
    bodies = [json.loads(message["Body"]) for message in found]
    return [event["s3"]["bucket"]["name"] for body in bodies for event in body.get("Records", [])]


@behaviour("queue-policy")
def test_our_policy_lets_our_bucket_in_and_a_missing_one_is_named_handled(account: Account, trigger: Trigger, impatient: None):
    bucket = own_bucket(account)
    closed = queue_for(account, bucket, policy=False)
    with pytest.raises(TriggerError, match=rf"Unable to validate.*{closed.arn}"):
        trigger.ensure_notification(bucket, "uploads", closed, "input/")
    assert not trigger.has_notification(bucket, "uploads")


def function_for(account: Account, role: str, bucket: str) -> str:
    return str(account.client("lambda").create_function(**request(unique("called"), arn(role), bucket))["FunctionArn"])


@behaviour("function-policy")
def test_a_bucket_tells_a_function_only_with_its_permission_embedded(account: Account, role: str, bucket: str):
    told, s3, functions = own_bucket(account), account.client("s3"), account.client("lambda")
    function = function_for(account, role, bucket)
    wanted = {"LambdaFunctionConfigurations": [{"LambdaFunctionArn": function, "Events": ["s3:ObjectCreated:*"]}]}
    with pytest.raises(ClientError) as error:
        s3.put_bucket_notification_configuration(Bucket=told, NotificationConfiguration=wanted)
    assert refusal(error) == ("InvalidArgument", 400, f"Unable to validate the following destination configurations: {function}")
    permission = {"Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com", "SourceArn": f"arn:aws:s3:::{told}"}
    functions.add_permission(FunctionName=function, StatementId="s3", **permission)
    s3.put_bucket_notification_configuration(Bucket=told, NotificationConfiguration=wanted)
    s3.put_object(Bucket=told, Key="a", Body=b"x")
    eventually(lambda: calls(account, bucket, function.rpartition(":")[2]))


@behaviour("function-policy")
def test_a_receiver_of_others_that_s3_may_no_longer_call_is_named_and_left_alone_handled(
    account: Account, trigger: Trigger, role: str, bucket: str, impatient: None
):
    told, s3 = own_bucket(account), account.client("s3")
    function = function_for(account, role, bucket)
    theirs = {"LambdaFunctionArn": function, "Events": ["s3:ObjectRemoved:*"]}
    wanted = {"LambdaFunctionConfigurations": [theirs]}
    s3.put_bucket_notification_configuration(Bucket=told, NotificationConfiguration=wanted, SkipDestinationValidation=True)
    queue = queue_for(account, told)
    for _ in range(2):  # the first is about the queue's policy, which S3 does not see yet
        with pytest.raises(TriggerError, match=rf"Unable to validate.*{function}|{queue.arn}") as error:
            trigger.ensure_notification(told, "uploads", queue, "input/")
    assert function in str(error.value)
    assert queue.arn not in str(error.value)
    assert [
        each["LambdaFunctionArn"] for each in s3.get_bucket_notification_configuration(Bucket=told)["LambdaFunctionConfigurations"]
    ] == [function]


# ------------------------------------------------------------------------------------------------------------------- the schedule


def now() -> str:
    return f"at({datetime.now(UTC):%Y-%m-%dT%H:%M:%S})"


def schedule(name: str, function: str, role_arn: str) -> dict[str, Any]:
    target = {"Arn": function, "RoleArn": role_arn, "Input": json.dumps({"source": "monai-aws.schedule"})}
    return {"Name": name, "ScheduleExpression": now(), "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": target}


def caller(account: Account, function: str) -> str:
    allowed = [{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": function}]
    return arn(account.role(allowed, trust("scheduler.amazonaws.com")))


@behaviour("schedule-by-role")
def test_a_schedule_calls_by_its_role_and_does_not_know_a_new_one_embedded(account: Account, role: str, bucket: str):
    scheduler = account.client("scheduler")
    closed, opened = function_for(account, role, bucket), function_for(account, role, bucket)
    mays = {closed: caller(account, opened), opened: caller(account, opened)}
    for function, role_arn in mays.items():
        with pytest.raises(ClientError) as error:
            scheduler.create_schedule(**schedule(unique("new"), function, role_arn))
        assert refusal(error)[:2] == ("ValidationException", 400)
        assert "must allow AWS EventBridge Scheduler to assume the role" in refusal(error)[2]
        scheduler.create_schedule(**schedule(unique("once"), function, role_arn))
    eventually(lambda: calls(account, bucket, opened.rpartition(":")[2]))
    assert calls(account, bucket, closed.rpartition(":")[2]) == 0


@behaviour("schedule-by-role")
def test_the_roles_of_the_bootstrap_make_a_schedule_that_calls_handled(account: Account, clients: Clients, trigger: Trigger, bucket: str):
    deployment = unique("roles")[:15]
    parameters = {"Deployment": deployment, "BucketName": f"monai-aws-{deployment}", "RequireTls": "false"}
    found = deploy_stack(clients.cloudformation, f"monai-aws-{deployment}", TEMPLATE, parameters, lambda _: None)
    function = trigger.ensure_function(
        replace(
            spec(f"monai-aws-{deployment}-wake", found["WakeRoleArn"], LOGS),
            environment={"GROUP": f"/aws/lambda/monai-aws-{deployment}-wake"},
        )
    )
    trigger.ensure_schedule(deployment, function, found["SchedulerRoleArn"], 5)
    clients.scheduler.update_schedule(**schedule(deployment, function, found["SchedulerRoleArn"]))
    group = {"logGroupName": f"/aws/lambda/monai-aws-{deployment}-wake"}
    eventually(lambda: any(each["logStreamName"] == "called" for each in streams(clients.logs, group)))


LOGS = """
import boto3, os
def handler(event, context):
    logs = boto3.client("logs")
    try:
        logs.create_log_group(logGroupName=os.environ["GROUP"])
    except logs.exceptions.ResourceAlreadyExistsException:
        pass
    logs.create_log_stream(logGroupName=os.environ["GROUP"], logStreamName="called")
"""


def streams(logs: Any, group: dict[str, str]) -> list[dict[str, Any]]:
    try:
        return list(logs.describe_log_streams(**group)["logStreams"])
    except logs.exceptions.ResourceNotFoundException:
        return []


@behaviour("event-source-by-role")
def test_a_function_that_may_not_receive_gets_no_event_source_embedded(account: Account, bucket: str):
    functions, queue = account.client("lambda"), queue_for(account, bucket)
    closed = account.role([], trust("lambda.amazonaws.com"))
    name = Account(account.cloud).client("lambda").create_function(**request(unique("deaf"), arn(closed), bucket))["FunctionName"]
    with pytest.raises(ClientError) as error:
        functions.create_event_source_mapping(FunctionName=name, EventSourceArn=queue.arn)
    words = "The provided execution role does not have permissions to call ReceiveMessage on SQS"
    assert refusal(error) == ("InvalidParameterValueException", 400, words)


@behaviour("event-source-by-role")
def test_a_role_that_may_not_receive_is_named_and_one_that_may_is_joined_handled(
    account: Account, trigger: Trigger, role: str, bucket: str, impatient: None
):
    queue, closed = queue_for(account, bucket), account.role([], trust("lambda.amazonaws.com"))
    deaf = Account(account.cloud).client("lambda").create_function(**request(unique("deaf"), arn(closed), bucket))["FunctionName"]
    with pytest.raises(TriggerError, match=r"joining the queue.*permissions to call ReceiveMessage"):
        trigger.ensure_event_source(deaf, queue)
    hears = function_for(account, role, bucket)
    joined = trigger.ensure_event_source(hears, queue)
    assert trigger.ensure_event_source(hears, queue) == joined
    trigger.remove_event_source(joined)


@behaviour("schedule-at-least-once")
def test_a_schedule_may_call_twice_embedded(account: Account, local_cloud: LocalCloud, role: str, bucket: str):
    function = function_for(account, role, bucket)
    local_cloud.order_fault(duplicate_wakes=1000)  # of whichever schedule is next: those of deployments before may be due too
    patient = Account(local_cloud).client("scheduler")
    try:
        patient.create_schedule(**schedule(unique("twice"), function, caller(account, function)))
        eventually(lambda: calls(account, bucket, function.rpartition(":")[2]) == 2)
    finally:
        local_cloud.clear_faults()


@behaviour("schedule-at-least-once")
def test_two_scheduled_wakes_at_once_start_one_host_once_handled(account: Account, awake: Any, clients: Clients, capfd: Any):
    buyer = Buyer(account)
    deployment = os.environ["MONAI_AWS_DEPLOYMENT"]
    buyer.tags = replace(buyer.tags, deployment=deployment, role="inference")
    try:
        machine = buyer.launch()["InstanceId"]
        buyer.machines.stop(machine)
        buyer.machines.wait(machine, "stopped", 120)
        clients.sqs.send_message(QueueUrl=os.environ["JOBS_QUEUE_URL"], MessageBody="a job")
        for _ in range(2):
            awake({"source": "monai-aws.schedule"})
        assert buyer.machines.wait(machine, "running", 120).state == "running"
        assert [line for line in capfd.readouterr().out.splitlines() if '"ERROR"' in line] == []
    finally:
        buyer.end()
