"""The administrator's stack: which parameters are sent, what is refused before CloudFormation is asked, and what its answers become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import Stubber

from monai_aws_pipeline.cli import bootstrap as command
from monai_aws_pipeline.cloud.stack import StackError, parameters_to_send, propose, stack_outputs, without_comments
from monai_aws_pipeline.operations.bootstrap import TEMPLATE, check_bucket, object_arns, parameters
from monai_aws_pipeline.settings import load_settings
from tests.permissions.policies import TemplateLoader

NAME = "monai-aws-dev"
ID = f"arn:aws:cloudformation:us-east-1:123456789012:stack/{NAME}/1"
SET = "arn:aws:cloudformation:us-east-1:123456789012:changeSet/c/1"


def declared() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.load(TEMPLATE.read_text(), TemplateLoader)["Parameters"]  # noqa: S506 - a SafeLoader
    return found


def client(service: str = "cloudformation") -> Any:
    return boto3.client(service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")


def test_the_template_is_sent_without_its_comments_says_the_same_and_is_taken_by_its_size():
    whole = TEMPLATE.read_text()
    sent = without_comments(whole)
    assert yaml.load(sent, TemplateLoader) == yaml.load(whole, TemplateLoader)  # noqa: S506 - a SafeLoader
    assert len(sent.encode()) <= 51_200, "AWS CloudFormation quotas: a template body in a request"


# --------------------------------------------------------------------------------------------------------------- parameters


def test_what_is_not_named_keeps_the_value_that_the_stack_has():
    assert parameters_to_send({"Owner": "you"}, ["BudgetEmail", "Owner"]) == [
        {"ParameterKey": "Owner", "ParameterValue": "you"},
        {"ParameterKey": "BudgetEmail", "UsePreviousValue": True},
    ]
    assert parameters_to_send({"Owner": "you"}, []) == [{"ParameterKey": "Owner", "ParameterValue": "you"}]


def test_a_setting_is_a_parameter_only_where_somebody_has_set_it(monkeypatch: pytest.MonkeyPatch):
    options = {"BucketName": "b", "AlarmEmail": None}
    assert parameters(load_settings(deployment="dev"), options) == {"Deployment": "dev", "BucketName": "b"}
    monkeypatch.setenv("MONAI_AWS_OWNER", "you")
    monkeypatch.setenv("MONAI_AWS_MONTHLY_BUDGET_USD", "250.5")
    found = parameters(load_settings(deployment="dev"), options)
    assert found == {"Deployment": "dev", "BucketName": "b", "Owner": "you", "MonthlyBudgetUsd": "250.5"}


def test_every_parameter_of_the_template_can_be_said():
    by_setting = {"Deployment", "Owner", "EcrRepository", "AppSourceSecret", "ArchiveSecret", "MonthlyBudgetUsd"}
    source = Path(__import__("monai_aws_pipeline.cli").cli.__file__).read_text()
    by_option = set(re.findall(r'^            "([A-Z]\w+)": ', source, re.MULTILINE))
    assert by_setting | by_option == set(declared())
    assert {"alarm_email", "budget_email", "github_subject", "versioning", "yes"} <= {option.name for option in command.params}


def test_the_defaults_of_template_and_settings_are_the_same():
    defaults, settings = declared(), load_settings(deployment="dev")
    assert defaults["Owner"]["Default"] == settings.owner
    assert defaults["EcrRepository"]["Default"] == settings.ecr_repository
    assert defaults["MonthlyBudgetUsd"]["Default"] == settings.monthly_budget_usd


@pytest.mark.parametrize(
    "subject", ["repo:you/app:ref:refs/heads/main", "repo:you@12/app@345:ref:refs/heads/main", "repo:you@1/app@2:environment:x"]
)
def test_githubs_subjects_with_and_without_ids_are_taken(subject: str):
    assert re.fullmatch(declared()["GitHubSubject"]["AllowedPattern"], subject)


@pytest.mark.parametrize("subject", ["repo:you/*:ref:refs/heads/main", "repo:you@x/app:ref:refs/heads/main", "repo:you/app:pull_request"])
def test_a_subject_that_more_than_one_branch_has_is_not_taken(subject: str):
    assert not re.fullmatch(declared()["GitHubSubject"]["AllowedPattern"], subject)


def test_places_of_models_become_arns():
    assert object_arns(["models", "others/monai/"], "aws-cn") == "arn:aws-cn:s3:::models/*,arn:aws-cn:s3:::others/monai/*"
    for place in ("s3://models", "", "/models", "a,b"):
        with pytest.raises(StackError, match="BUCKET/PREFIX"):
            object_arns([place], "aws")


@pytest.mark.parametrize(
    ("answer", "exists", "words"),
    [
        (None, False, "is there already.*--existing-bucket"),
        ("404", True, "no bucket"),
        ("403", False, "taken by somebody else"),
        ("403", True, "cannot be looked at"),
    ],
)
def test_a_bucket_that_will_not_do_is_refused_before_anything_is_made(answer: str | None, exists: bool, words: str):
    s3 = client("s3")
    with Stubber(s3) as stub:
        if answer is None:
            stub.add_response("head_bucket", {})
        else:
            stub.add_client_error("head_bucket", answer, http_status_code=int(answer))
        with pytest.raises(StackError, match=words):
            check_bucket(s3, "studies", exists=exists)


# ------------------------------------------------------------------------------------------------------------------- answers


def described(status: str, **more: Any) -> dict[str, Any]:
    return {"Stacks": [{"StackName": NAME, "StackId": ID, "StackStatus": status, "CreationTime": "2026-01-01T00:00:00Z", **more}]}


def test_a_stack_that_somebody_changes_right_now_is_left_alone(tmp_path: Path):
    cloudformation = client()
    with Stubber(cloudformation) as stub:
        stub.add_response("describe_stacks", described("UPDATE_IN_PROGRESS"))
        with pytest.raises(StackError, match=r"being changed \(UPDATE_IN_PROGRESS\)"):
            propose(cloudformation, NAME, tmp_path / "never-read", {}, lambda _: None)


def test_what_a_failed_creation_left_is_cleared_away_first(tmp_path: Path):
    (tmp_path / "template").write_text("Parameters:\n  Owner:\n")
    cloudformation, said = client(), []
    with Stubber(cloudformation) as stub:
        stub.add_response("describe_stacks", described("ROLLBACK_COMPLETE"))
        stub.add_response("delete_stack", {}, {"StackName": NAME})
        stub.add_response("describe_stacks", described("DELETE_COMPLETE"), {"StackName": ID})
        stub.add_response("create_change_set", {"Id": SET, "StackId": ID})
        stub.add_response("describe_change_set", {"Status": "CREATE_COMPLETE"})
        stub.add_response("describe_change_set", {"Status": "CREATE_COMPLETE", "Changes": []})
        assert propose(cloudformation, NAME, tmp_path / "template", {"Owner": "you"}, said.append).creates
        stub.assert_no_pending_responses()
    assert "ROLLBACK_COMPLETE" in said[0]


def test_a_change_that_changes_nothing_is_none(tmp_path: Path):
    (tmp_path / "template").write_text("Parameters:\n  Owner:\n")
    cloudformation = client()
    parameters = [{"ParameterKey": "Owner", "ParameterValue": "you"}, {"ParameterKey": "Gone", "ParameterValue": "x"}]
    with Stubber(cloudformation) as stub:
        stub.add_response("describe_stacks", described("CREATE_COMPLETE", Parameters=parameters))
        stub.add_response("create_change_set", {"Id": SET, "StackId": ID})
        reason = "The submitted information didn't contain changes. Submit different information to create a change set."
        stub.add_response("describe_change_set", {"Status": "FAILED", "StatusReason": reason})
        stub.add_response("delete_change_set", {})
        found = propose(cloudformation, NAME, tmp_path / "template", {}, lambda _: None)
        stub.assert_no_pending_responses()
    assert (found.creates, found.changes) == (False, ())


def test_a_stack_that_may_not_be_looked_at_is_no_missing_stack():
    cloudformation = client()
    with Stubber(cloudformation) as stub:
        stub.add_client_error("describe_stacks", "AccessDenied", "not authorized to perform: cloudformation:DescribeStacks", 403)
        with pytest.raises(Exception, match="looking at the stack"):
            stack_outputs(cloudformation, NAME)
