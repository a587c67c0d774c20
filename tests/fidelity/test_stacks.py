"""CloudFormation: what an update keeps, what a failed creation leaves, what a change set sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.stack import StackError, apply, deploy_stack, propose, stack_parameters
from monai_aws_pipeline.operations.bootstrap import TEMPLATE
from tests.fidelity.conftest import refusal
from tests.integration.local_cloud.conftest import Account, eventually, unique

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour

QUEUE = """
Parameters:
  Days: {Type: Number, Default: 1}
  More: {Type: String, Default: "no"}
Conditions:
  WithMore: !Equals [!Ref More, "yes"]
Resources:
  Queue:
    Type: AWS::SQS::Queue
    Properties: {QueueName: NAME, MessageRetentionPeriod: !If [WithMore, 1209600, 86400], Tags: [{Key: days, Value: !Ref Days}]}
  Another:
    Type: AWS::SQS::Queue
    Condition: WithMore
    Properties: {QueueName: NAME-more}
"""
FAILS = """
Resources:
  Kept:
    Type: AWS::S3::Bucket
    DeletionPolicy: POLICY
    Properties: {BucketName: NAME}
  Broken:
    Type: AWS::IAM::Policy
    DependsOn: Kept
    Properties: {PolicyName: p, Roles: [nobody-made-this], PolicyDocument: {Version: "2012-10-17", Statement: []}}
"""
ROLE = """
Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      RoleName: NAME
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement: [{Effect: Allow, Principal: {Service: ec2.amazonaws.com}, Action: "sts:AssumeRole"}]
"""
Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a template in which words in capitals are replaced."""

    def write(template: str, **words: str) -> Path:
        for word, text in words.items():
            template = template.replace(word, text)
        place = tmp_path / unique("template")
        place.write_text(template)
        return place

    return write


@pytest.fixture
def formation(account: Account) -> Any:
    return account.client("cloudformation")


def silent(_: str) -> None: ...


def ended(formation: Any, stack_id: str) -> str:
    def status() -> str:
        found = formation.describe_stacks(StackName=stack_id)["Stacks"][0]["StackStatus"]
        return "" if found.endswith("_IN_PROGRESS") else str(found)

    return str(eventually(status))


@behaviour("stack-defaults-on-update")
def test_a_parameter_that_an_update_leaves_out_takes_the_templates_default_embedded(formation: Any, written: Written):
    name = unique("stack")
    template = written(QUEUE, NAME=name)
    deploy_stack(formation, name, template, {"Days": "3"}, silent)
    formation.update_stack(StackName=name, TemplateBody=template.read_text(), Parameters=[])
    assert ended(formation, name) == "UPDATE_COMPLETE"
    assert stack_parameters(formation, name)["Days"] == "1"


@behaviour("stack-defaults-on-update")
def test_what_nobody_names_keeps_its_value_handled(formation: Any, written: Written):
    name = unique("stack")
    template = written(QUEUE, NAME=name)
    deploy_stack(formation, name, template, {"Days": "3"}, silent)
    deploy_stack(formation, name, template, {"More": "yes"}, silent)
    assert stack_parameters(formation, name) == {"Days": "3", "More": "yes"}


@behaviour("stack-retain-on-rollback")
@pytest.mark.parametrize(("policy", "stays"), [("Retain", True), ("RetainExceptOnCreate", False)])
def test_a_failed_creation_keeps_what_is_to_be_retained_embedded(
    account: Account, formation: Any, written: Written, policy: str, stays: bool
):
    name = unique("retained")
    made = formation.create_stack(
        StackName=name, TemplateBody=written(FAILS, NAME=name, POLICY=policy).read_text(), Capabilities=["CAPABILITY_IAM"]
    )
    assert ended(formation, made["StackId"]) == "ROLLBACK_COMPLETE"
    assert (name in [bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]]) is stays


@behaviour("stack-retain-on-rollback")
def test_the_bucket_of_a_failed_bootstrap_goes_so_that_it_can_be_repeated_handled(account: Account, formation: Any, written: Written):
    name = unique("again")
    policy = next(line.split()[1] for line in TEMPLATE.read_text().splitlines() if "DeletionPolicy:" in line)
    for _ in range(2):
        with pytest.raises(StackError, match=r"(?s)Broken: .*Nothing is left of it"):
            deploy_stack(formation, name, written(FAILS, NAME=name, POLICY=policy), {}, silent)
    assert name not in [bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]]


@behaviour("stack-deleted-by-id")
def test_a_deleted_stack_is_described_by_its_id_only_embedded(formation: Any, written: Written):
    name = unique("stack")
    deploy_stack(formation, name, written(QUEUE, NAME=name), {}, silent)
    identity = formation.describe_stacks(StackName=name)["Stacks"][0]["StackId"]
    formation.delete_stack(StackName=name)
    assert ended(formation, identity) == "DELETE_COMPLETE"
    with pytest.raises(ClientError) as error:
        formation.describe_stacks(StackName=name)
    assert refusal(error) == ("ValidationError", 400, f"Stack with id {name} does not exist")


@behaviour("stack-deleted-by-id")
def test_a_creation_that_was_deleted_again_says_why_it_failed_handled(formation: Any, written: Written):
    name = unique("stack")
    proposal = propose(formation, name, written(FAILS, NAME=name, POLICY="Delete"), {}, silent)
    with pytest.raises(StackError, match=r"(?s)ended as DELETE_COMPLETE.*Broken: .*nobody-made-this"):
        apply(formation, proposal, silent)
    assert stack_parameters(formation, name) == {}, "the name is free"


@behaviour("change-set-by-condition")
def test_a_change_set_has_no_resource_whose_condition_is_false_embedded(formation: Any, written: Written):
    name = unique("stack")
    template = written(QUEUE, NAME=name)
    proposal = propose(formation, name, template, {}, silent)
    assert [change.resource for change in proposal.changes] == ["Queue"]
    apply(formation, proposal, silent)
    more = propose(formation, name, template, {"More": "yes"}, silent)
    assert {(change.action, change.resource) for change in more.changes} == {("Add", "Another"), ("Modify", "Queue")}
    apply(formation, more, silent)
    less = propose(formation, name, template, {"More": "no"}, silent)
    assert {(change.action, change.resource) for change in less.changes} == {("Remove", "Another"), ("Modify", "Queue")}


@behaviour("change-set-by-condition")
def test_a_parameter_that_only_conditions_read_changes_the_bootstrap_handled(account: Account, formation: Any):
    deployment = unique("cond")[:15]
    name, bucket = f"monai-aws-{deployment}", f"monai-aws-{deployment}"
    first = {"Deployment": deployment, "BucketName": bucket, "RequireTls": "true"}
    deploy_stack(formation, name, TEMPLATE, first, silent)
    changed = propose(formation, name, TEMPLATE, {"RequireTls": "false"}, silent)
    assert [(change.action, change.resource) for change in changed.changes] == [("Remove", "BucketTlsPolicy")]
    apply(formation, changed, silent)
    assert stack_parameters(formation, name)["RequireTls"] == "false"
    with pytest.raises(ClientError) as error:
        account.client("s3").get_bucket_policy(Bucket=bucket)
    assert refusal(error)[0] == "NoSuchBucketPolicy"


@behaviour("change-set-by-condition")
def test_what_nothing_reads_yet_is_said_and_not_taken_handled(formation: Any, written: Written):
    name, said = unique("stack"), list[str]()
    template = written(QUEUE.replace("Tags: [{Key: days, Value: !Ref Days}]", "Tags: []"), NAME=name)
    deploy_stack(formation, name, template, {}, silent)
    assert propose(formation, name, template, {"Days": "3"}, said.append).changes == ()
    assert "nothing in the stack depends on Days" in said[-1]


@behaviour("stack-name-taken")
def test_a_role_that_exists_fails_a_creation_and_stays_embedded(account: Account, formation: Any, written: Written):
    name = account.role([])
    before = account.client("iam").get_role(RoleName=name)["Role"]["RoleId"]
    made = formation.create_stack(StackName=name, TemplateBody=written(ROLE, NAME=name).read_text(), Capabilities=["CAPABILITY_NAMED_IAM"])
    assert ended(formation, made["StackId"]) == "ROLLBACK_COMPLETE"
    reasons = [event.get("ResourceStatusReason", "") for event in formation.describe_stack_events(StackName=made["StackId"])["StackEvents"]]
    assert any(f"Role with name {name} already exists" in reason and "HandlerErrorCode: AlreadyExists" in reason for reason in reasons)
    assert account.client("iam").get_role(RoleName=name)["Role"]["RoleId"] == before


@behaviour("stack-name-taken")
def test_who_bootstraps_over_a_role_is_told_which_and_what_to_do_handled(account: Account, formation: Any):
    deployment = unique("taken")[:15]
    account.client("iam").create_role(RoleName=f"monai-aws-{deployment}-wake", AssumeRolePolicyDocument="{}")
    wanted = {"Deployment": deployment, "BucketName": f"monai-aws-{deployment}", "RequireTls": "false"}
    with pytest.raises(
        StackError, match=rf"(?s)WakeRole: .*monai-aws-{deployment}-wake already exists.*MONAI_AWS_DEPLOYMENT.*Nothing is left"
    ):
        deploy_stack(formation, f"monai-aws-{deployment}", TEMPLATE, wanted, silent)
    account.client("iam").delete_role(RoleName=f"monai-aws-{deployment}-wake")
    assert deploy_stack(formation, f"monai-aws-{deployment}", TEMPLATE, wanted, silent)["Bucket"] == f"monai-aws-{deployment}"
