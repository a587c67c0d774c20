"""``monai-aws bootstrap`` on the embedded AWS: shown before it is applied, unnamed values kept, a failure told and cleared away."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner, Result

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.stack import StackError, deploy_stack, stack_parameters
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.bootstrap import TEMPLATE

pytestmark = pytest.mark.cloud

PLAIN = "--allow-plain-http"


@pytest.fixture
def run(cloud_environment: LocalCloud, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "shown")
    monkeypatch.setenv("MONAI_AWS_OWNER", "shown")

    def bootstrap(*words: str, answer: str = "") -> Result:
        return CliRunner().invoke(cli, ["bootstrap", *words], input=answer)

    return bootstrap


def test_changes_are_shown_and_asked_for_and_what_is_not_named_is_kept(run):
    assert "--bucket is needed" in run().output
    declined = run("--bucket", "monai-aws-shown", PLAIN, answer="n\n")
    assert declined.exit_code == 0, declined.output
    assert "Nothing was changed." in declined.output
    assert "OperatorRole" in declined.output
    cloudformation = boto3.client("cloudformation")
    assert stack_parameters(cloudformation, "monai-aws-shown") == {}

    made = run("--bucket", "monai-aws-shown", PLAIN, "--alarm-email", "ops@example.org", "--versioning", answer="y\n")
    assert made.exit_code == 0, made.output
    assert "OperatorRoleArn: arn:aws:iam::123456789012:role/monai-aws-shown-operator" in made.output
    assert "AlarmTopicArn: arn:aws:sns:" in made.output
    assert "AWS has sent a mail to ops@example.org" in made.output
    assert boto3.client("s3").get_bucket_versioning(Bucket="monai-aws-shown")["Status"] == "Enabled"

    policies = boto3.client("iam").list_role_policies(RoleName="monai-aws-shown-operator")["PolicyNames"]
    assert not {"models", "keys-of-objects", "keys-of-disks"} & set(policies), "of parameters that nobody has named"
    rules = boto3.client("s3").get_bucket_encryption(Bucket="monai-aws-shown")["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"

    again = run("--yes")
    assert "is up to date" in again.output, again.output
    changed = run("--model-bucket", "models/brain", "--yes")
    assert "OperatorModels" in changed.output, changed.output
    kept = stack_parameters(cloudformation, "monai-aws-shown")
    assert (kept["AlarmEmail"], kept["Versioning"], kept["RequireTls"]) == ("ops@example.org", "Enabled", "false")
    assert kept["ModelObjects"] == "arn:aws:s3:::models/brain/*"
    assert "is there already" not in run("--bucket", "monai-aws-shown", "--yes").output, "the stack's own bucket"
    archive = run("--archive", "healthimaging", "--yes")
    assert "ImageArchive: " in archive.output, archive.output


def test_a_bucket_that_is_there_is_used_when_told_and_stays_as_it_is(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "lent")
    boto3.client("s3").create_bucket(Bucket="monai-aws-lent")
    refused = run("--bucket", "monai-aws-lent", PLAIN, "--yes")
    assert isinstance(refused.exception, StackError)
    assert "--existing-bucket" in str(refused.exception)
    made = run("--bucket", "monai-aws-lent", "--existing-bucket", "--yes")
    assert made.exit_code == 0, made.output
    assert "Bucket: monai-aws-lent" in made.output
    with pytest.raises(boto3.client("s3").exceptions.ClientError, match="NoSuchBucketPolicy"):
        boto3.client("s3").get_bucket_policy(Bucket="monai-aws-lent")
    told = run("--existing-bucket", "--portal-origin", "https://portal.example.org", "--yes")
    assert "put-bucket-cors --bucket monai-aws-lent" in told.output, "the stack does not touch it, so its owner does"
    assert "put-bucket-cors" not in made.output


FAILS = """
Parameters: {Owner: {Type: String, Default: x}}
Resources:
  Kept:
    Type: AWS::S3::Bucket
    DeletionPolicy: RetainExceptOnCreate
    Properties: {BucketName: monai-aws-again}
  Broken:
    Type: AWS::IAM::Policy
    DependsOn: Kept
    Properties: {PolicyName: p, Roles: [monai-aws-again-nobody], PolicyDocument: {Version: "2012-10-17", Statement: []}}
"""


def test_a_creation_that_fails_says_why_leaves_nothing_and_can_be_repeated(cloud_environment: LocalCloud, tmp_path: Path):
    cloudformation = boto3.client("cloudformation")
    broken = tmp_path / "broken.yaml"
    broken.write_text(FAILS)
    for _ in range(2):
        with pytest.raises(StackError, match=r"(?s)Broken: .*Nothing is left of it"):
            deploy_stack(cloudformation, "monai-aws-again", broken, {}, lambda _: None)
        assert "monai-aws-again" not in [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
    parameters = {"Deployment": "again", "BucketName": "monai-aws-again", "RequireTls": "false"}
    assert deploy_stack(cloudformation, "monai-aws-again", TEMPLATE, parameters, lambda _: None)["Bucket"] == "monai-aws-again"
