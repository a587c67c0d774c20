"""The emulated services keep AWS's promises: nobody without permission, real functions, real images, nothing lost, nothing left."""

from __future__ import annotations

import io
import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.local_cloud.commands import up
from tests.integration.local_cloud.conftest import Account, eventually, unique
from tests.integration.local_cloud.docker_client import Docker, password, tiny_image

pytestmark = pytest.mark.cloud

WORK = """
import json, boto3, os
def handler(event, context):
    sts = boto3.client("sts").get_caller_identity()["Arn"]
    for record in event.get("Records", [event]):
        body = record.get("body", json.dumps(event))
        if json.loads(body).get("Event") == "s3:TestEvent":  # S3 says hello when a notification is configured
            continue
        key = "done/" + (record.get("messageId") or "scheduled")
        boto3.client("s3").put_object(Bucket=os.environ["BUCKET"], Key=key, Body=json.dumps({"sts": sts, "body": body}))
"""


def zipped(source: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("work.py", source)
    return packed.getvalue()


def trust(service: str) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]}


def listening(port: int) -> list[str]:
    lines = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[3] for line in lines if line.split()[3].endswith(f":{port}")]


# -------------------------------------------------------------------------------------------------------------------- who may call


@pytest.mark.parametrize(
    "keys", [("test", "test", None), ("123456789012", "x", None), ("AKIAUNKNOWNUNKNOWN12", "y", None)], ids=lambda keys: keys[0]
)
@pytest.mark.parametrize(
    ("service", "call"), [("s3", "list_buckets"), ("ec2", "describe_instances"), ("sqs", "list_queues"), ("ecr", "get_authorization_token")]
)
def test_unknown_keys_are_refused(account: Account, keys: tuple[str, str, str | None], service: str, call: str):
    with pytest.raises(ClientError) as refused:
        getattr(account.client(service, keys), call)()
    assert refused.value.response["Error"]["Code"] in (
        "InvalidAccessKeyId",
        "AuthFailure",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    )


def test_the_administrators_key_without_its_secret_is_refused(account: Account):
    with pytest.raises(ClientError, match=r"AuthFailure|SignatureDoesNotMatch"):
        account.client("ec2", (account.admin_keys()[0], "wrong", None)).describe_instances()


def test_nobody_reads_without_signing(account: Account):
    bucket = unique("closed")
    account.client("s3").create_bucket(Bucket=bucket)
    anonymous = boto3.client("s3", endpoint_url=account.cloud.endpoint, region_name="us-east-1", config=Config(signature_version=UNSIGNED))
    with pytest.raises(ClientError):
        anonymous.list_objects_v2(Bucket=bucket)
    account.client("s3").put_object(Bucket=bucket, Key="k", Body=b"shared")
    link = account.client("s3").generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert subprocess.run(["curl", "-s", "--noproxy", "*", link], capture_output=True, text=True, check=True).stdout == "shared"


@pytest.mark.parametrize(
    ("allowed", "call", "arguments"),
    [
        ("ec2:DescribeInstances", "run_instances", {"MinCount": 1, "MaxCount": 1, "InstanceType": "g4dn.xlarge"}),
        ("ec2:DescribeInstances", "terminate_instances", {"InstanceIds": ["i-0123456789abcdef0"]}),
        ("ec2:DescribeInstances", "create_image", {"InstanceId": "i-0123456789abcdef0", "Name": "name"}),
    ],
)
def test_ec2_is_enforced(account: Account, allowed: str, call: str, arguments: dict[str, Any]):
    ec2 = account.client("ec2", account.assume([{"Effect": "Allow", "Action": allowed, "Resource": "*"}]))
    ec2.describe_instances()
    if call == "run_instances":
        arguments = {**arguments, "ImageId": account.base_image()}
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        getattr(ec2, call)(**arguments)


def test_run_command_is_enforced_on_document_and_instance(account: Account):
    send = {"Effect": "Allow", "Action": "ssm:SendCommand"}
    order = {"InstanceIds": ["i-0123456789abcdef0"], "DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    document, instance = "arn:aws:ssm:*::document/AWS-RunShellScript", "arn:aws:ec2:*:*:instance/*"
    for resources in ([document], [instance]):
        with pytest.raises(ClientError, match="AccessDenied"):
            account.client("ssm", account.assume([{**send, "Resource": resources}])).send_command(**order)
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        account.client("ssm", account.assume([{**send, "Resource": [document, instance]}])).send_command(**order)


def test_log_streams_are_enforced_as_resources_of_their_own(account: Account):
    group, admin = unique("/aws/lambda/logs"), account.client("logs")
    admin.create_log_group(logGroupName=group)
    arn = f"arn:aws:logs:us-east-1:123456789012:log-group:{group}"
    create = {"Effect": "Allow", "Action": "logs:CreateLogStream"}
    with pytest.raises(ClientError, match="AccessDenied"):
        account.client("logs", account.assume([{**create, "Resource": arn}])).create_log_stream(logGroupName=group, logStreamName="a")
    account.client("logs", account.assume([{**create, "Resource": f"{arn}:*"}])).create_log_stream(logGroupName=group, logStreamName="a")
    assert [each["logStreamName"] for each in admin.describe_log_streams(logGroupName=group)["logStreams"]] == ["a"]


def test_an_instance_profile_needs_permission_to_pass_its_role(account: Account):
    profile = account.profile([{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}])
    order = {
        "ImageId": account.base_image(),
        "InstanceType": "g4dn.xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "IamInstanceProfile": {"Name": profile},
    }
    ec2 = account.client("ec2", account.assume([{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]))
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.run_instances(**order)


def test_tag_conditions_decide_over_instances(account: Account):
    ours = {"StringEquals": {"aws:ResourceTag/owner": "us"}}
    statements = [
        {"Effect": "Allow", "Action": "ec2:DeleteKeyPair", "Resource": "*", "Condition": ours},
        {"Effect": "Allow", "Action": "ec2:ImportKeyPair", "Resource": "*", "Condition": {"StringEquals": {"aws:RequestTag/owner": "us"}}},
        {
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": "*",
            "Condition": {"StringEquals": {"ec2:CreateAction": "ImportKeyPair"}},
        },
    ]
    public = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIYCJKUMhAV74Hs9IMfb7uMSI2ofvaJLSYg4p+E85MOz t"
    ec2 = account.client("ec2", account.assume(statements))
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.import_key_pair(KeyName=unique("untagged"), PublicKeyMaterial=public)
    name = unique("tagged")
    ec2.import_key_pair(
        KeyName=name, PublicKeyMaterial=public, TagSpecifications=[{"ResourceType": "key-pair", "Tags": [{"Key": "owner", "Value": "us"}]}]
    )


def test_who_may_set_one_tag_sets_no_other_on_what_there_is(account: Account):
    condition = {
        "StringEquals": {"aws:ResourceTag/owner": "us"},
        "ForAllValues:StringEquals": {"aws:TagKeys": ["counted"]},
    }
    ours, theirs = (
        account.client("ec2").create_volume(
            Size=1,
            AvailabilityZone="us-east-1a",
            TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "owner", "Value": owner}]}],
        )["VolumeId"]
        for owner in ("us", "them")
    )
    statements = [{"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*", "Condition": condition}]
    ec2 = account.client("ec2", account.assume(statements))
    ec2.create_tags(Resources=[ours], Tags=[{"Key": "counted", "Value": "1"}])
    for resources, keys in (([ours], ["owner"]), ([ours], ["counted", "owner"]), ([theirs], ["counted"]), ([ours, theirs], ["counted"])):
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            ec2.create_tags(Resources=resources, Tags=[{"Key": key, "Value": "x"} for key in keys])


# -------------------------------------------------------------------------------------------------------------- functions and events


def test_an_upload_reaches_a_function_through_a_queue_with_the_functions_own_role(account: Account):
    bucket, queue, name = unique("uploads"), unique("queue"), unique("work")
    s3, sqs, functions = account.client("s3"), account.client("sqs"), account.client("lambda")
    s3.create_bucket(Bucket=bucket)
    url = sqs.create_queue(QueueName=queue)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = {
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn}]
    }
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps({"Version": "2012-10-17", **policy})})
    role = account.role(
        [
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/done/*"},
            {"Effect": "Allow", "Action": ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], "Resource": arn},
        ],
        trust("lambda.amazonaws.com"),
    )
    functions.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Handler="work.handler",
        Role=f"arn:aws:iam::123456789012:role/{role}",
        Code={"ZipFile": zipped(WORK)},
        Environment={"Variables": {"BUCKET": bucket}},
        Timeout=30,
    )
    functions.create_event_source_mapping(EventSourceArn=arn, FunctionName=name, BatchSize=10, ScalingConfig={"MaximumConcurrency": 2})
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "QueueArn": arn,
                    "Events": ["s3:ObjectCreated:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "input/"}]}},
                }
            ]
        },
    )
    for number in range(20):
        s3.put_object(Bucket=bucket, Key=f"input/study {number}.zip", Body=b"x")
    done = eventually(
        lambda: (found := s3.list_objects_v2(Bucket=bucket, Prefix="done/").get("Contents", [])) and len(found) == 20 and found
    )
    record = json.loads(s3.get_object(Bucket=bucket, Key=done[0]["Key"])["Body"].read())
    assert f":assumed-role/{role}/" in record["sts"]
    assert json.loads(record["body"])["Records"][0]["s3"]["bucket"]["name"] == bucket


def test_a_schedule_calls_its_function(account: Account):
    bucket, name = unique("scheduled"), unique("tick")
    s3, functions, scheduler = account.client("s3"), account.client("lambda"), account.client("scheduler")
    s3.create_bucket(Bucket=bucket)
    role = account.role(
        [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/done/*"}], trust("lambda.amazonaws.com")
    )
    made = functions.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Handler="work.handler",
        Role=f"arn:aws:iam::123456789012:role/{role}",
        Code={"ZipFile": zipped(WORK)},
        Environment={"Variables": {"BUCKET": bucket}},
    )
    caller = account.role(
        [{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": made["FunctionArn"]}], trust("scheduler.amazonaws.com")
    )
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression="rate(1 minutes)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": made["FunctionArn"],
            "RoleArn": f"arn:aws:iam::123456789012:role/{caller}",
            "Input": json.dumps({"scheduled": True}),
        },
    )
    eventually(lambda: s3.list_objects_v2(Bucket=bucket, Prefix="done/").get("KeyCount"), timeout_s=100)
    record = json.loads(s3.get_object(Bucket=bucket, Key="done/scheduled")["Body"].read())
    assert json.loads(record["body"]) == {"scheduled": True}
    scheduler.delete_schedule(Name=name)


# -------------------------------------------------------------------------------------------------------------------------- images


def test_images_need_a_login_a_repository_and_permission(account: Account, tmp_path: Path):
    docker, ecr, name = Docker(account.cloud, tmp_path), account.client("ecr"), unique("images")
    host = account.cloud.config.registry_host
    reference = f"{host}/{name}:1"
    tiny_image(docker, reference, "one")
    assert "no basic auth credentials" in docker("push", reference)[1]
    assert "401" in docker("login", "--username", "AWS", "--password-stdin", host, stdin=b"wrong")[1]
    assert docker("login", "--username", "AWS", "--password-stdin", host, stdin=password(account))[0]
    assert "does not exist in the registry" in docker("push", reference)[1]
    assert ecr.create_repository(repositoryName=name, imageTagMutability="IMMUTABLE")["repository"]["repositoryUri"] == f"{host}/{name}"
    ok, said = docker("push", reference)
    assert ok, said
    digest = re.search(r"sha256:[0-9a-f]{64}", said)
    found = ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": "1"}])["imageDetails"][0]
    assert digest and found["imageDigest"] == digest[0] and found["imageSizeInBytes"] > 100
    manifest = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageDigest": digest[0]}])["images"][0]["imageManifest"]
    assert json.loads(manifest)["schemaVersion"] == 2
    tiny_image(docker, reference, "two")
    assert "cannot be overwritten" in docker("push", reference)[1], "tags of this repository are immutable"
    docker("rmi", "--force", reference)
    assert docker("pull", f"{host}/{name}@{digest[0]}")[0]

    nobody = account.assume([{"Effect": "Allow", "Action": ["ecr:GetAuthorizationToken", "ecr:BatchGetImage"], "Resource": "*"}])
    assert docker("login", "--username", "AWS", "--password-stdin", host, stdin=password(account, nobody))[0]
    other = f"{host}/{name}:2"
    tiny_image(docker, other, "three")
    assert "not authorized to perform: ecr:" in docker("push", other)[1]
    assert ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageTag": "1"}])["imageIds"][0]["imageDigest"] == digest[0]
    with pytest.raises(ClientError, match="ImageNotFoundException"):
        ecr.describe_images(repositoryName=name, imageIds=[{"imageDigest": digest[0]}])
    ecr.delete_repository(repositoryName=name)
    docker("rmi", "--force", other)


def test_an_index_holds_its_image_until_it_is_deleted_and_policies_that_do_nothing_are_refused(account: Account, tmp_path: Path):
    docker, ecr, name = Docker(account.cloud, tmp_path), account.client("ecr"), unique("index")
    host = account.cloud.config.registry_host
    ecr.create_repository(repositoryName=name)
    assert docker("login", "--username", "AWS", "--password-stdin", host, stdin=password(account))[0]
    tiny_image(docker, f"{host}/{name}:1", name)
    assert docker("push", f"{host}/{name}:1")[0]
    child = ecr.describe_images(repositoryName=name)["imageDetails"][0]
    manifest = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageDigest": child["imageDigest"]}])["images"][0]
    entry = {
        "mediaType": manifest["imageManifestMediaType"],
        "digest": child["imageDigest"],
        "size": len(manifest["imageManifest"]),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    media = "application/vnd.docker.distribution.manifest.list.v2+json"
    text = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": [entry]})
    made = ecr.put_image(repositoryName=name, imageManifest=text, imageManifestMediaType=media, imageTag="index")["image"]["imageId"]
    found = ecr.describe_images(repositoryName=name, imageIds=[made])["imageDetails"][0]
    assert found["imageSizeInBytes"] == child["imageSizeInBytes"], "ECR tells the size of the image, not of the list"

    def delete(digest: str) -> list[str]:
        answer = ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": digest}])
        return [failure["failureCode"] for failure in answer["failures"]]

    assert delete(child["imageDigest"]) == ["ImageReferencedByManifestList"]
    assert delete(made["imageDigest"]) == []
    assert delete(child["imageDigest"]) == []
    with pytest.raises(ClientError, match="carries out rules for untagged images by age alone"):
        rule = {"selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1}, "action": {"type": "expire"}}
        ecr.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=json.dumps({"rules": [{"rulePriority": 1, **rule}]}))
    assert Registry(ecr, name).expire_untagged(14)


def test_the_map_base_is_in_the_registry_under_the_name_the_settings_get(account: Account):
    image = account.cloud.environment["MONAI_AWS_BASE_IMAGE"]
    repository, _, tag = image.partition("/")[2].partition(":")
    found = account.client("ecr").describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])["imageDetails"]
    assert found[0]["imageSizeInBytes"] > 20_000_000


# --------------------------------------------------------------------------------------------------------------------- house-keeping


def test_it_listens_on_loopback_only(account: Account):
    pids = {(account.cloud.config.state_dir / f"{name}.pid").read_text().split()[0] for name in ("server", "engine", "registry")}
    lines = subprocess.run(["ss", "-Hltnup"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line.split()[4] for line in lines if any(f"pid={pid}," in line for pid in pids)]
    assert ours and all(address.startswith("127.") for address in ours), ours
    assert listening(account.cloud.config.port) == [f"127.0.0.1:{account.cloud.config.port}"]


def test_control_requests_need_their_header_and_admin_paths_of_the_emulator_are_closed(account: Account):
    def status(*arguments: str) -> str:
        command = ["curl", "-s", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert status("-X", "POST", f"{account.cloud.endpoint}/_local/faults", "-d", "{}") == "403"
    assert status("-X", "POST", f"{account.cloud.endpoint}/_ministack/reset") == "404"
    assert status(f"{account.cloud.endpoint}/_ministack/health") == "200"


def test_up_on_a_running_cloud_says_so_and_changes_nothing(account: Account):
    said: list[str] = []
    again = up(account.cloud.config, said.append)
    assert not again.started and again.environment == account.cloud.environment
    assert said == [f"the embedded AWS is already running at {account.cloud.endpoint}"]


def test_secret_files_are_readable_by_their_owner_only(account: Account):
    for name in ("env", "admin-keys.json", "aws/config", "aws/credentials"):
        assert (account.cloud.config.state_dir / name).stat().st_mode & 0o077 == 0, name
