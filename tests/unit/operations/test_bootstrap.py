"""Whom the operator role trusts, by the template as CloudFormation reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import deploy_stack, stack_name
from monai_aws_pipeline.settings import PROJECT_ROOT

SUBJECT = "repo:you/your-app:ref:refs/heads/main"
GITHUB = "token.actions.githubusercontent.com"


def only_the_operator_role() -> str:
    """The template with this one resource, as it is written: moto does not know all the others."""
    text = (PROJECT_ROOT / "infra" / "bootstrap.yaml").read_text()
    role = re.search(r"  OperatorRole:\n.*?\n\n", text, re.DOTALL)
    assert role is not None
    return text.partition("Resources:\n")[0] + "Resources:\n" + re.sub(r" +ManagedPolicyArns:(\n +-.*)*[^\n]*\n", "", role[0])


@pytest.mark.parametrize(("subject", "statements"), [("", 1), (SUBJECT, 2)])
def test_the_operator_role_trusts_its_account_and_where_it_is_named_one_branch(
    subject: str, statements: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    template = tmp_path / "role.yaml"
    template.write_text(only_the_operator_role())
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        clients = Clients("us-east-1")
        parameters = {"Deployment": "github", "BucketName": "monai-aws-github-test", "GitHubSubject": subject}
        deploy_stack(clients.cloudformation, stack_name("github"), template, parameters, lambda _: None)
        document: Any = clients.iam.get_role(RoleName="monai-aws-github-operator")["Role"]["AssumeRolePolicyDocument"]
    trust = [statement for statement in document["Statement"] if statement]  # moto leaves None where CloudFormation drops AWS::NoValue
    assert len(trust) == statements
    assert str(trust[0]["Principal"]["AWS"]).endswith(":root")
    for statement in trust[1:]:
        assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
        assert statement["Condition"] == {"StringEquals": {f"{GITHUB}:aud": "sts.amazonaws.com", f"{GITHUB}:sub": SUBJECT}}
