"""The login of a private repository, read by the operator role that infra/bootstrap.yaml makes: that one secret, and no other."""

from __future__ import annotations

import boto3
import pytest

from monai_aws_pipeline.cloud.errors import AccessError, SecretError
from monai_aws_pipeline.cloud.secrets import read_secret
from monai_aws_pipeline.cloud.stack import deploy_stack
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.maps.git import SETTING, Login, parse_login
from monai_aws_pipeline.settings import PROJECT_ROOT

pytestmark = pytest.mark.cloud


def test_the_operator_reads_the_secret_that_was_named_and_no_other(cloud_environment: LocalCloud):
    administrator = boto3.Session()
    secrets = administrator.client("secretsmanager")
    named = secrets.create_secret(Name="login/app", SecretString='{"token": "planted-token-0123456789"}')["ARN"]
    secrets.create_secret(Name="login/app-of-others", SecretString="planted-token-9876543210")
    account = administrator.client("sts").get_caller_identity()["Account"]
    outputs = deploy_stack(
        administrator.client("cloudformation"),
        "monai-aws-login",
        PROJECT_ROOT / "infra" / "bootstrap.yaml",
        {
            "Deployment": "login",
            "Owner": "login",
            "BucketName": f"monai-aws-login-{account}",
            "EcrRepository": "monai-aws/login",
            "RequireTls": "false",
            "AppSourceSecret": "login/app",
        },
        lambda _: None,
    )
    assumed = administrator.client("sts").assume_role(RoleArn=outputs["OperatorRoleArn"], RoleSessionName="test")["Credentials"]
    operator = boto3.Session(
        aws_access_key_id=assumed["AccessKeyId"],
        aws_secret_access_key=assumed["SecretAccessKey"],
        aws_session_token=assumed["SessionToken"],
    ).client("secretsmanager")
    for name in (named, "login/app"):
        assert parse_login(read_secret(operator, name, SETTING)) == Login(token="planted-token-0123456789")
    with pytest.raises(AccessError, match=SETTING):
        read_secret(operator, "login/app-of-others", SETTING)
    with pytest.raises(SecretError, match="no secret"):
        read_secret(secrets, "login/absent", SETTING)
