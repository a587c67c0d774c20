"""The wake function: which events become jobs, which host is woken, and that one bad record fails alone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoRegionError, ReadTimeoutError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from lambda_fn import folders, hosts, wake
from lambda_fn.hosts import Cause, Host, Plan, cause_of, forgotten, plan
from monai_aws_pipeline.contract import (
    HOST_HOURS_METRIC,
    HOST_MISSING_METRIC,
    METRICS_NAMESPACE,
    TAG_FAILED_STARTS,
    ContractError,
    FailedStarts,
    JobMessage,
    job_id,
)
from monai_aws_pipeline.deployment.lambda_package import build_zip, required_distributions
from tests.fidelity.played import play

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda text: f"input/{text}.zip")


def notification(key: str, *, encoded: bool = True, name: str = "ObjectCreated:Put", **thing: Any) -> str:
    named = {"key": quote_plus(key) if encoded else key, "size": 7, "eTag": "abc", "sequencer": "1"} | thing
    return json.dumps({"Records": [{"eventName": name, "s3": {"bucket": {"name": "studies"}, "object": named}}]})


def batch(*bodies: str) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": f"m{number}",
                "receiptHandle": "r",
                "body": body,
                "attributes": {},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:q",
                "awsRegion": "us-east-1",
            }
            for number, body in enumerate(bodies)
        ]
    }


# --------------------------------------------------------------------------------------------------------------------------- events


@given(KEYS)
def test_any_name_a_person_can_give_arrives_as_it_was(key: str) -> None:
    (job,) = wake.jobs_of(notification(key))
    assert job.key == key
    assert job.job == job_id("studies", key, "abc")
    assert JobMessage.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("input/", 0),
        ("input/folder/", 0),
        ("input/folder.zip/", 0),
        ("input/folder/1.dcm", 7),
        ("input/folder.zip/1.dcm", 7),
        ("input/folder/_ready", 0),
        ("input/folder/study.7z", 7),
        ("output/x/result.json", 7),
        ("processed/a/upload.zip", 7),
        ("quarantine/a/upload.7z", 7),
        ("a.zip", 7),
        ("a.7z", 7),
        ("_READY", 7),
    ],
)
def test_what_is_no_upload_of_its_own_becomes_no_job(key: str, size: int) -> None:
    assert list(wake.jobs_of(notification(key, size=size))) == []


@pytest.mark.parametrize(
    "key",
    [
        "input/a.zip",
        "input/A.ZIP",
        "input/.zip",
        "input/folder/b.zip",
        "input//b.zip",
        "input/folder/_READY",
        "input/a/b/_READY",
        "input//_READY",
    ],
)
def test_a_zip_and_a_completed_folder_become_jobs(key: str) -> None:
    assert [job.key for job in wake.jobs_of(notification(key))] == [key]


@pytest.mark.parametrize("size", [0, 7])
@pytest.mark.parametrize("name", ["a.7z", "a.tar.gz", "a.nii.gz", "one.dcm", "no extension", "_READY", "_ready", ".DS_Store", "a.zip.part"])
def test_whatever_lies_directly_under_input_becomes_a_job_so_that_it_ends(name: str, size: int) -> None:
    assert [(job.key, job.size) for job in wake.jobs_of(notification(f"input/{name}", size=size))] == [(f"input/{name}", size)]


def test_the_test_event_of_s3_and_removals_become_no_job() -> None:
    assert list(wake.jobs_of(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "studies"}))) == []
    assert list(wake.jobs_of(notification("input/a.zip", name="ObjectRemoved:Delete"))) == []
    assert list(wake.jobs_of("{}")) == []


def test_with_versions_the_version_makes_the_job() -> None:
    (one,), (other,) = (list(wake.jobs_of(notification("input/a.zip", versionId=version))) for version in ("v1", "v2"))
    assert one.job != other.job
    assert one.version == "v1"


@pytest.mark.parametrize("version", [None, "null"])
def test_without_versions_the_content_makes_the_job_however_the_bucket_says_so(version: str | None) -> None:
    (job,) = wake.jobs_of(notification("input/a.zip", versionId=version))
    assert (job.job, job.version) == (job_id("studies", "input/a.zip", "abc"), "")


@pytest.mark.parametrize(
    "body", ["", "no json", "[]", '{"Records": 3}', '{"Records": [{"s3": {}}]}', notification("input/Hans%ff.zip", encoded=False)]
)
def test_an_event_that_cannot_be_read_is_a_contract_error_without_the_key(body: str) -> None:
    with pytest.raises(ContractError) as wrong:
        list(wake.jobs_of(body))
    assert "Hans" not in str(wrong.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["Records", "s3", "object", "key", "eventName", "bucket", "name", "size"]), inner)
        ),
    )
)
def test_a_hostile_event_is_read_or_a_contract_error(value: object) -> None:
    try:
        jobs = list(wake.jobs_of(json.dumps(value)))
    except ContractError:
        return
    assert jobs == []


# ----------------------------------------------------------------------------------------------------------------------------- plan


def host(number: int, state: str) -> Host:
    return Host(f"i-{number}", state)


@pytest.mark.parametrize(
    ("there", "waiting", "expected"),
    [
        ([], 5, Plan(later=True)),
        ([host(1, "stopped")], 1, Plan(start=("i-1",))),
        ([host(1, "running")], 1, Plan(kick=("i-1",))),
        ([host(1, "pending")], 1, Plan()),
        ([host(1, "stopping")], 1, Plan(later=True)),
        ([host(2, "stopped"), host(1, "stopped")], 20, Plan(start=("i-1",))),
        ([host(2, "stopped"), host(1, "stopped")], 21, Plan(start=("i-1", "i-2"))),
        ([host(1, "running"), host(2, "stopped")], 5, Plan(kick=("i-1",))),
        ([host(1, "running"), host(2, "stopped")], 50, Plan(start=("i-2",), kick=("i-1",))),
        ([host(1, "stopping"), host(2, "stopped")], 1, Plan(start=("i-2",))),
    ],
)
def test_as_many_hosts_are_woken_as_the_backlog_needs(there: list[Host], waiting: int, expected: Plan) -> None:
    assert plan(there, waiting) == expected


@given(st.lists(st.sampled_from(["pending", "running", "stopping", "stopped"])), st.integers(0, 10_000))
def test_a_waiting_job_always_has_a_host_coming_or_is_left_to_the_schedule(states: list[str], waiting: int) -> None:
    decided = plan([host(number, state) for number, state in enumerate(states)], waiting)
    assert decided.later != bool(decided.start or decided.kick or "pending" in states)
    assert all(states[int(name[2:])] == "stopped" for name in decided.start)


# -------------------------------------------------------------------------------------------------------------------------- handler


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        for made_once in (wake.queue, folders.s3, hosts.ec2, hosts.ssm, hosts.autoscaling):
            made_once.cache_clear()
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="studies")
        sqs, ec2 = boto3.client("sqs"), boto3.client("ec2")
        url = sqs.create_queue(QueueName="monai-aws-dev-jobs")["QueueUrl"]
        monkeypatch.setenv("JOBS_QUEUE_URL", url)
        monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "dev")
        monkeypatch.setenv("FOLDER_QUIET_MINUTES", "0")
        image = ec2.register_image(Name="any", RootDeviceName="/dev/sda1")["ImageId"]

        def launch(deployment: str = "dev", role: str = "inference") -> str:
            tags = [{"Key": "monai-aws:deployment", "Value": deployment}, {"Key": "monai-aws:role", "Value": role}]
            spec = [{"ResourceType": "instance", "Tags": tags}]
            found = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=spec)["Instances"][0]["InstanceId"]
            ec2.stop_instances(InstanceIds=[found])
            return str(found)

        def state(instance: str) -> str:
            return str(ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["State"]["Name"])

        def jobs() -> list[str]:
            return [item["Body"] for item in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])]

        yield SimpleNamespace(s3=s3, sqs=sqs, ec2=ec2, url=url, launch=launch, state=state, jobs=jobs)
    for made_once in (wake.queue, folders.s3, hosts.ec2, hosts.ssm, hosts.autoscaling):
        made_once.cache_clear()


CONTEXT: Any = SimpleNamespace(function_name="wake", memory_limit_in_mb=1, invoked_function_arn="a", aws_request_id="r")


def test_an_upload_becomes_a_job_and_starts_our_stopped_host_and_nobody_elses(cloud: SimpleNamespace) -> None:
    ours, others, building = cloud.launch(), cloud.launch(deployment="prod"), cloud.launch(role="map-build")
    assert wake.handler(batch(notification("input/a b.zip")), CONTEXT) == {"batchItemFailures": []}
    assert [JobMessage.from_json(body).key for body in cloud.jobs()] == ["input/a b.zip"]
    assert [cloud.state(instance) for instance in (ours, others, building)] == ["running", "stopped", "stopped"]


def test_a_record_that_cannot_be_read_fails_alone(cloud: SimpleNamespace) -> None:
    host_id = cloud.launch()
    answer = wake.handler(batch(notification("input/a.zip"), "garbage", notification("input/b.zip")), CONTEXT)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert sorted(JobMessage.from_json(body).key for body in cloud.jobs()) == ["input/a.zip", "input/b.zip"]
    assert cloud.state(host_id) == "running"


def test_a_batch_in_which_nothing_can_be_read_is_returned_record_by_record(cloud: SimpleNamespace) -> None:
    answer = wake.handler(batch("x", "y"), CONTEXT)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m0"}, {"itemIdentifier": "m1"}]}


def test_files_of_a_folder_start_no_host_until_it_is_complete(cloud: SimpleNamespace) -> None:
    host_id = cloud.launch()
    wake.handler(batch(*(notification(f"input/f/{number}.dcm") for number in range(10))), CONTEXT)
    assert cloud.state(host_id) == "stopped"
    marker = {"Bucket": "studies", "Key": "input/f/_READY"}
    cloud.s3.put_object(**marker)
    wake.handler(batch(notification("input/f/_READY")), CONTEXT)
    assert cloud.state(host_id) == "stopped", "its marker was replaced, and that one's event comes next"
    wake.handler(batch(notification("input/f/_READY")), CONTEXT)
    assert cloud.state(host_id) == "running"
    etag = cloud.s3.head_object(**marker)["ETag"]
    assert [JobMessage.from_json(body).job for body in cloud.jobs()] == [job_id("studies", "input/f/_READY", etag)]


@pytest.fixture
def group(cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setenv("FLEET_GROUP", "monai-aws-dev-inference-hosts")
    api = boto3.client("autoscaling")
    image = cloud.ec2.describe_images(Owners=["self"])["Images"][0]["ImageId"]
    data = {"ImageId": image, "InstanceType": "t3.micro"}
    template = cloud.ec2.create_launch_template(LaunchTemplateName="any", LaunchTemplateData=data)["LaunchTemplate"]

    def make(desired: int = 0) -> None:
        api.create_auto_scaling_group(
            AutoScalingGroupName="monai-aws-dev-inference-hosts",
            MinSize=0,
            MaxSize=3,
            DesiredCapacity=desired,
            AvailabilityZones=["us-east-1a"],
            LaunchTemplate={"LaunchTemplateId": template["LaunchTemplateId"], "Version": "1"},
            Tags=[
                {"Key": key, "Value": value, "PropagateAtLaunch": True}
                for key, value in (("monai-aws:deployment", "dev"), ("monai-aws:role", "inference"))
            ],
        )

    def desired() -> int:
        return int(api.describe_auto_scaling_groups()["AutoScalingGroups"][0]["DesiredCapacity"])

    return SimpleNamespace(make=make, desired=desired)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_group_is_lifted_from_zero_and_no_further(cloud: SimpleNamespace, group: SimpleNamespace, before: int) -> None:
    group.make(before)
    wake.handler(batch(*(notification(f"input/{number}.zip") for number in range(100))), CONTEXT)
    assert group.desired() == max(before, 1), "more of them is what its policies decide"
    assert cloud.jobs()


def test_an_instance_of_a_group_is_never_started_as_a_named_host(cloud: SimpleNamespace, group: SimpleNamespace) -> None:
    """One that waits in the warm pool is stopped, and takes no job when it is started."""
    group.make(1)
    (pooled,) = [
        each["InstanceId"]
        for found in cloud.ec2.describe_instances()["Reservations"]
        for each in found["Instances"]
        if each["State"]["Name"] == "running"
    ]
    cloud.ec2.stop_instances(InstanceIds=[pooled])
    named = cloud.launch()
    assert hosts.Hosts("dev", wake.logger).wake(40) == Plan(start=(named,))
    assert (cloud.state(pooled), cloud.state(named)) == ("stopped", "running")


def test_the_schedule_looks_after_hosts_of_the_kind_that_there_is_and_of_no_other(
    cloud: SimpleNamespace, group: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.make(2)
    named = cloud.launch()
    cloud.ec2.start_instances(InstanceIds=[named])
    monkeypatch.setattr(hosts, "FORGOTTEN", timedelta(seconds=-1))
    monkeypatch.setenv("FLEET_GROUP", "")
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert (group.desired(), cloud.state(named)) == (2, "stopped")
    cloud.ec2.start_instances(InstanceIds=[named])
    monkeypatch.setenv("FLEET_GROUP", "monai-aws-dev-inference-hosts")
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert (group.desired(), cloud.state(named)) == (0, "running")


def test_the_schedule_lifts_a_group_only_for_waiting_jobs(cloud: SimpleNamespace, group: SimpleNamespace) -> None:
    group.make()
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert group.desired() == 0
    cloud.sqs.send_message(QueueUrl=cloud.url, MessageBody="{}")
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert group.desired() == 1


def test_a_group_that_is_not_there_is_told_and_named_hosts_are_left_alone(
    cloud: SimpleNamespace, group: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    named = cloud.launch()
    wake.handler(batch(notification("input/a.zip")), CONTEXT)
    assert HOST_MISSING_METRIC in capsys.readouterr().out
    assert cloud.state(named) == "stopped"
    assert len(cloud.jobs()) == 1


def test_a_forgotten_instance_of_a_group_leaves_it_and_is_not_just_stopped(
    cloud: SimpleNamespace, group: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.make(1)
    monkeypatch.setattr(hosts, "FORGOTTEN", timedelta(seconds=-1))
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert group.desired() == 0, "a stopped one would be replaced"


@pytest.mark.parametrize("state", ["Standby", "Terminating:Wait", "Detaching"])
def test_an_instance_that_somebody_has_set_aside_is_no_forgotten_one(
    cloud: SimpleNamespace, group: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    group.make(1)
    monkeypatch.setattr(hosts, "FORGOTTEN", timedelta(seconds=-1))
    found = boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    found[0]["Instances"][0]["LifecycleState"] = state  # type: ignore[typeddict-item]
    monkeypatch.setattr(hosts.autoscaling(), "describe_auto_scaling_groups", lambda **_: {"AutoScalingGroups": found})
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert group.desired() == 1


def test_a_host_may_be_on_for_as_long_as_the_settings_let_a_proof_take(cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    host = cloud.launch()
    cloud.ec2.start_instances(InstanceIds=[host])
    monkeypatch.setattr(hosts.Hosts, "_find", lambda *_: [Host(host, "running", datetime.now(UTC) - timedelta(hours=4))])
    monkeypatch.setenv("FORGOTTEN_MINUTES", "250")
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert cloud.state(host) == "running"
    monkeypatch.setenv("FORGOTTEN_MINUTES", "200")
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert cloud.state(host) == "stopped"


ABANDONED = "Lifecycle Action with token 1c2b3a4d-1111-2222-3333-444455556666 of i-0123456789abcdef0 was abandoned: Heartbeat Timeout"


def launches(*statuses: str, minutes_ago: int = 6) -> list[dict[str, Any]]:
    """Activities, the newest first, each begun some minutes before the next."""
    now = datetime.now(UTC)
    return [
        {
            "Description": "Launching a new EC2 instance: i-1",
            "StatusCode": status,
            "StatusMessage": ABANDONED,
            "StartTime": now - timedelta(minutes=minutes_ago * number),
        }
        for number, status in enumerate(statuses, 1)
    ]


@pytest.fixture
def in_vain(cloud: SimpleNamespace, group: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """What a group of one is to have after the schedule, with these activities and its instance in this state."""

    def look(activities: list[dict[str, Any]], state: str = "Pending:Wait") -> int:
        group.make(1)
        shown = {"DesiredCapacity": 1, "Instances": [{"LifecycleState": state}]}
        with monkeypatch.context() as patched:
            patched.setattr(hosts.autoscaling(), "describe_auto_scaling_groups", lambda **_: {"AutoScalingGroups": [shown]})
            patched.setattr(hosts.autoscaling(), "describe_scaling_activities", lambda **_: {"Activities": activities})
            wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
        return int(group.desired())

    return look


@pytest.mark.parametrize("under_way", [[], ["InProgress"]])
def test_with_nothing_to_do_a_group_that_launches_in_vain_goes_back_to_zero_and_says_why(
    in_vain: Callable[..., int], caplog: pytest.LogCaptureFixture, under_way: list[str]
) -> None:
    assert in_vain(launches(*under_way, "Cancelled", "Failed", "Cancelled")) == 0
    (said,) = [record for record in caplog.records if record.__dict__.get("code") == "LaunchedInVain"]
    assert (said.levelname, "materialise inference_host" in said.getMessage()) == ("ERROR", True)
    assert said.__dict__["cause"] == "Lifecycle Action with token ... of i-... was abandoned: Heartbeat Timeout"


@pytest.mark.parametrize(
    ("activities", "state"),
    [
        (launches("Failed", "Failed", "Failed"), "InService"),
        (launches("Failed", "Failed", "Successful"), "Pending:Wait"),
        (launches("InProgress", "Failed", "Failed"), "Pending:Wait"),
        (launches("InProgress", "Failed", "Failed", "Failed", minutes_ago=40), "Pending:Wait"),
    ],
    ids=["at-work", "came-before", "two", "of-another-time"],
)
def test_a_group_that_has_an_instance_or_may_yet_get_one_is_left_alone(
    in_vain: Callable[..., int], activities: list[dict[str, Any]], state: str
) -> None:
    assert in_vain(activities, state) == 1


def test_with_a_job_in_hand_a_group_goes_on_launching(cloud: SimpleNamespace, in_vain: Callable[..., int]) -> None:
    cloud.sqs.send_message(QueueUrl=cloud.url, MessageBody="{}")
    cloud.sqs.receive_message(QueueUrl=cloud.url)
    assert in_vain(launches("Failed", "Failed", "Failed")) == 1


def test_without_the_right_to_look_at_launches_hosts_are_looked_after(
    cloud: SimpleNamespace, group: SimpleNamespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.make(1)
    monkeypatch.setattr(hosts, "FORGOTTEN", timedelta(seconds=-1))

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeAutoScalingGroups")

    monkeypatch.setattr(hosts.autoscaling(), "describe_auto_scaling_groups", refuse)
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert str(Cause.PERMISSION) in causes(caplog)
    assert group.desired() == 0


def test_with_versions_a_marker_is_taken_as_it_is(cloud: SimpleNamespace) -> None:
    cloud.launch()
    wake.handler(batch(notification("input/f/_READY", versionId="v1")), CONTEXT)
    assert [JobMessage.from_json(body).version for body in cloud.jobs()] == ["v1"]


def test_the_schedule_starts_a_host_only_for_waiting_jobs(cloud: SimpleNamespace) -> None:
    host_id = cloud.launch()
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert cloud.state(host_id) == "stopped"
    cloud.sqs.send_message(QueueUrl=cloud.url, MessageBody="{}")
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert cloud.state(host_id) == "running"


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "RequestLimitExceeded", "UnauthorizedOperation"])
def test_a_host_that_cannot_start_leaves_the_job_queued_and_says_why(
    cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    cloud.launch()

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "StartInstances")

    monkeypatch.setattr(hosts.ec2(), "start_instances", refuse)
    assert wake.handler(batch(notification("input/Hans Mueller.zip")), CONTEXT) == {"batchItemFailures": []}
    assert len(cloud.jobs()) == 1
    assert "Mueller" not in capsys.readouterr().out


KICK = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["systemctl start --no-block monai-aws-agent.service"]}}


def causes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["cause"] for record in caplog.records if "cause" in record.__dict__]


@pytest.mark.parametrize("answer", [[], [{"PingStatus": "ConnectionLost"}]])
def test_a_host_whose_agent_is_not_online_gets_no_command(
    cloud: SimpleNamespace, caplog: pytest.LogCaptureFixture, answer: list[dict[str, str]]
) -> None:
    host_id = cloud.launch()
    cloud.ec2.start_instances(InstanceIds=[host_id])
    with Stubber(hosts.ssm()) as ssm:  # a command would be one call too many
        nodes = [{"InstanceId": host_id, **node} for node in answer]
        asked = {"Filters": [{"Key": "InstanceIds", "Values": [host_id]}]}
        ssm.add_response("describe_instance_information", {"InstanceInformationList": nodes}, asked)
        assert wake.handler(batch(notification("input/a.zip")), CONTEXT) == {"batchItemFailures": []}
        ssm.assert_no_pending_responses()
    assert causes(caplog) == [str(Cause.AGENT)]


def test_a_host_that_is_online_is_kicked(cloud: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    host_id = cloud.launch()
    cloud.ec2.start_instances(InstanceIds=[host_id])
    with Stubber(hosts.ssm()) as ssm:
        online = {"InstanceInformationList": [{"InstanceId": host_id, "PingStatus": "Online"}]}
        ssm.add_response("describe_instance_information", online)
        ssm.add_response("send_command", {}, {"InstanceIds": [host_id], **KICK})
        assert wake.handler(batch(notification("input/a.zip")), CONTEXT) == {"batchItemFailures": []}
        ssm.assert_no_pending_responses()
    assert causes(caplog) == []


def test_without_the_right_to_ask_no_command_is_sent_and_the_role_is_named(
    cloud: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.ec2.start_instances(InstanceIds=[cloud.launch()])
    with Stubber(hosts.ssm()) as ssm:
        ssm.add_client_error("describe_instance_information", "AccessDeniedException")
        assert wake.handler(batch(notification("input/a.zip")), CONTEXT) == {"batchItemFailures": []}
    assert causes(caplog) == [str(Cause.PERMISSION)]


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("AccessDeniedException", Cause.PERMISSION),
        ("UnauthorizedOperation", Cause.PERMISSION),
        ("InvalidInstanceId", Cause.AGENT),
        ("InsufficientInstanceCapacity", Cause.CAPACITY),
        ("ThrottlingException", Cause.THROTTLED),
        ("IncorrectInstanceState", Cause.STATE),
        ("SomethingNew", Cause.OTHER),
        (ConnectTimeoutError(endpoint_url="https://ssm"), Cause.NETWORK),
        (ReadTimeoutError(endpoint_url="https://ssm"), Cause.NETWORK),
        (NoRegionError(), Cause.OTHER),
    ],
)
def test_permission_agent_and_network_are_told_apart(wrong: Any, cause: Cause) -> None:
    error = ClientError({"Error": {"Code": wrong, "Message": "no"}}, "SendCommand") if isinstance(wrong, str) else wrong
    assert cause_of(error) is cause


def test_a_missing_host_is_a_metric_and_the_job_stays_queued(cloud: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert wake.handler(batch(notification("input/Hans Mueller.zip")), CONTEXT) == {"batchItemFailures": []}
    assert len(cloud.jobs()) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    (metric,) = lines
    (directive,) = metric["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == METRICS_NAMESPACE
    assert directive["Dimensions"] == [["deployment"]]
    assert metric["deployment"] == "dev"
    assert metric[HOST_MISSING_METRIC] == [1.0]


def test_a_backlog_starts_a_second_host_and_duplicates_kick_nobody_twice_into_anything(cloud: SimpleNamespace) -> None:
    first, second = sorted((cloud.launch(), cloud.launch()))
    wake.handler(batch(notification("input/a.zip"), notification("input/a.zip")), CONTEXT)
    assert [cloud.state(first), cloud.state(second)] == ["running", "stopped"]
    for _ in range(20):
        cloud.sqs.send_message(QueueUrl=cloud.url, MessageBody="{}")
    with Stubber(hosts.ssm()) as ssm:
        ssm.add_response("describe_instance_information", {"InstanceInformationList": []})
        wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert [cloud.state(first), cloud.state(second)] == ["running", "running"]


def test_a_host_that_cannot_be_started_is_passed_over(cloud: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = sorted(cloud.launch() for _ in range(3))
    play(hosts.ec2(), "StartInstances", "InsufficientInstanceCapacity", 500, "none")
    wake.handler(batch(notification("input/a.zip")), CONTEXT)
    assert [cloud.state(each) for each in (first, second, third)] == ["stopped", "running", "stopped"]
    assert causes(caplog) == [str(Cause.CAPACITY)]


def test_no_other_host_is_tried_where_none_can_help(cloud: SimpleNamespace) -> None:
    each = sorted(cloud.launch() for _ in range(2))
    asked = play(hosts.ec2(), "StartInstances", "UnauthorizedOperation", 403, "no")
    wake.handler(batch(notification("input/a.zip")), CONTEXT)
    assert ([cloud.state(name) for name in each], len(asked)) == (["stopped", "stopped"], 1)


def test_a_host_whose_last_start_failed_comes_last_and_is_named_with_its_remedy(
    cloud: SimpleNamespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted(cloud.launch() for _ in range(2))
    monkeypatch.setattr(hosts, "_failed", lambda instance: "Client.InternalError" if instance["InstanceId"] == first else "")
    wake.handler(batch(notification("input/a.zip")), CONTEXT)
    assert [cloud.state(first), cloud.state(second)] == ["stopped", "running"]
    assert causes(caplog) == []
    for _ in range(40):
        cloud.sqs.send_message(QueueUrl=cloud.url, MessageBody="{}")
    with Stubber(hosts.ssm()) as ssm:
        ssm.add_response("describe_instance_information", {"InstanceInformationList": []})
        wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert cloud.state(first) == "running"
    assert any("kms:CreateGrant" in cause for cause in causes(caplog))


def counted(cloud: SimpleNamespace, host: str) -> FailedStarts:
    found = cloud.ec2.describe_instances(InstanceIds=[host])["Reservations"][0]["Instances"][0]
    return FailedStarts.parse({tag["Key"]: tag["Value"] for tag in found["Tags"]}.get(TAG_FAILED_STARTS, ""))


def put_back(cloud: SimpleNamespace, host: str, **by: float) -> None:
    """As if the last failure had been counted earlier."""
    last = counted(cloud, host)
    assert last.at is not None
    text = replace(last, at=last.at - timedelta(**by)).to_text()
    cloud.ec2.create_tags(Resources=[host], Tags=[{"Key": TAG_FAILED_STARTS, "Value": text}])


def test_failed_starts_in_a_row_are_counted_with_their_code_and_a_start_ends_the_row(cloud: SimpleNamespace) -> None:
    host = cloud.launch()
    cloud.sqs.send_message(QueueUrl=cloud.url, MessageBody="{}")
    play(hosts.ec2(), "StartInstances", "InsufficientInstanceCapacity", 500, "none", times=2)
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    put_back(cloud, host, minutes=5)
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert (counted(cloud, host).count, counted(cloud, host).code) == (2, "InsufficientInstanceCapacity")
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    after = counted(cloud, host)
    assert (cloud.state(host), after.count) == ("running", 0)
    assert after.code == "InsufficientInstanceCapacity", "what it was stays to be read"


def test_many_uploads_in_one_moment_without_capacity_count_once(cloud: SimpleNamespace) -> None:
    host = cloud.launch()
    play(hosts.ec2(), "StartInstances", "InsufficientInstanceCapacity", 500, "none", times=3)
    for name in "abc":
        wake.handler(batch(notification(f"input/{name}.zip")), CONTEXT)
    assert counted(cloud, host).count == 1


def test_a_start_that_was_taken_and_ended_counts_too(cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    host = cloud.launch()
    monkeypatch.setattr(hosts, "_failed", lambda _: "Client.InternalError")
    wake.handler(batch(notification("input/a.zip")), CONTEXT)
    assert (counted(cloud, host).count, counted(cloud, host).code) == (1, "Client.InternalError")


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "RequestLimitExceeded", "IncorrectInstanceState"])
def test_what_no_other_host_would_help_against_is_not_counted(cloud: SimpleNamespace, code: str) -> None:
    host = cloud.launch()
    play(hosts.ec2(), "StartInstances", code, 400, "no")
    wake.handler(batch(notification("input/a.zip")), CONTEXT)
    assert counted(cloud, host) == FailedStarts()


def test_a_host_that_could_not_start_is_tried_after_the_others(cloud: SimpleNamespace) -> None:
    first, second = sorted(cloud.launch() for _ in range(2))
    text = FailedStarts(1, datetime.now(UTC), "InsufficientInstanceCapacity").to_text()
    cloud.ec2.create_tags(Resources=[first], Tags=[{"Key": TAG_FAILED_STARTS, "Value": text}])
    wake.handler(batch(notification("input/a.zip")), CONTEXT)
    assert [cloud.state(first), cloud.state(second)] == ["stopped", "running"]


def test_without_the_right_to_count_the_start_goes_on(
    cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = cloud.launch()
    monkeypatch.setattr(hosts, "_failed", lambda _: "Client.InternalError")
    play(hosts.ec2(), "CreateTags", "UnauthorizedOperation", 403, "no")
    assert wake.handler(batch(notification("input/a.zip")), CONTEXT) == {"batchItemFailures": []}
    assert cloud.state(host) == "running"
    assert str(Cause.PERMISSION) in causes(caplog)


@pytest.mark.parametrize(
    ("code", "failed"),
    [
        ("Client.InternalError", "Client.InternalError"),
        ("Server.InternalError", "Server.InternalError"),
        ("Client.UserInitiatedShutdown", ""),
    ],
)
def test_a_host_that_was_stopped_has_not_failed(code: str, failed: str) -> None:
    assert hosts._failed({"StateReason": {"Code": code}}) == failed


NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def aged(state: str = "running", hours: float = 5, name: str = "i-1") -> Host:
    return Host(name, state, NOW - timedelta(hours=hours))


@pytest.mark.parametrize(
    ("found", "at_work", "stopped"),
    [
        ([aged()], 0, ("i-1",)),
        ([aged()], 1, ()),
        ([aged(hours=2.9)], 0, ()),
        ([aged("stopped"), aged("stopping"), aged("pending")], 0, ()),
        ([Host("i-1", "running")], 0, ()),
        ([aged(), aged(hours=1, name="i-2")], 0, ("i-1",)),
    ],
)
def test_a_host_that_runs_on_with_nothing_to_do_is_stopped_and_no_other(found: list[Host], at_work: int, stopped: tuple[str, ...]) -> None:
    assert forgotten(found, at_work, NOW, hosts.FORGOTTEN) == stopped


def test_the_schedule_stops_a_forgotten_host_and_tells_how_long_it_ran(
    cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = cloud.launch(), cloud.launch()
    cloud.ec2.start_instances(InstanceIds=[old, new])
    found = [Host(old, "running", datetime.now(UTC) - timedelta(hours=30)), Host(new, "running", datetime.now(UTC))]
    monkeypatch.setattr(hosts.Hosts, "_find", lambda *_: found)
    wake.handler(batch(), CONTEXT)
    assert cloud.state(old) == "running", "only the schedule looks after hosts"
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert (cloud.state(old), cloud.state(new)) == ("stopped", "running")
    (metric,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert metric[HOST_HOURS_METRIC] == [30.0]
    assert metric["deployment"] == "dev"


def test_hosts_that_work_are_left_alone_by_the_schedule(cloud: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    old = cloud.launch()
    cloud.ec2.start_instances(InstanceIds=[old])
    cloud.sqs.send_message(QueueUrl=cloud.url, MessageBody="{}")
    cloud.sqs.receive_message(QueueUrl=cloud.url)  # in a host's hands: nothing waits
    monkeypatch.setattr(hosts.Hosts, "_find", lambda *_: [Host(old, "running", datetime.now(UTC) - timedelta(hours=30))])
    wake.handler({"source": "monai-aws.schedule"}, CONTEXT)
    assert cloud.state(old) == "running"


# -------------------------------------------------------------------------------------------------------------------------- package


def test_the_zip_is_the_same_each_time_and_holds_what_the_function_imports(tmp_path: Path) -> None:
    assert build_zip(tmp_path / "a.zip") == build_zip(tmp_path / "b.zip")
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert {
        "lambda_fn/wake.py",
        "lambda_fn/hosts.py",
        "lambda_fn/folders.py",
        "monai_aws_pipeline/contract/__init__.py",
        "monai_aws_pipeline/contract/ec2_refusals.py",
        "jmespath/__init__.py",
    } <= set(names)
    assert "aws_lambda_powertools/__init__.py" in names
    assert not [name for name in names if name.startswith(("boto", "monai_aws_pipeline/host_agent")) or "__pycache__" in name]


def test_the_function_starts_from_its_zip_alone(tmp_path: Path) -> None:
    build_zip(tmp_path / "wake.zip")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import lambda_fn.wake as wake; print(wake.__file__)"],
        env={"PYTHONPATH": str(tmp_path / "wake.zip"), "AWS_DEFAULT_REGION": "us-east-1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(tmp_path / "wake.zip" / "lambda_fn" / "wake.py"), done.stderr


def test_only_what_powertools_requires_is_packed() -> None:
    assert required_distributions("aws-lambda-powertools") == ["aws-lambda-powertools", "jmespath", "typing-extensions"]
