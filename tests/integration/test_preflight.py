"""The preflight as the operator, on the embedded AWS with IAM enforced: everything is asked, and what is missing is named with a remedy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_aws_pipeline.cloud.preflight import Line, preflight
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import deploy_stack, stack_name
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from tests.support.platform import Platform, environment, platform

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "preflight", tmp_path_factory.mktemp("preflight")) as made:
        yield made


def look(place: Platform, **settings: object) -> dict[str, Line]:
    with environment(place.variables):
        return {line.what: line for line in preflight(place.clients, load_settings(**settings))}


def test_a_bootstrapped_account_passes_before_anything_is_deployed(place: Platform):
    lines = look(place)
    assert [line for line in lines.values() if not line.ok] == []
    assert place.settings.names.operator_role in lines["identity"].answer
    assert lines[f"queue {place.settings.names.jobs_queue}"].answer == "is made with s3_trigger"


def test_all_that_is_missing_is_named_at_once(place: Platform):
    lines = look(place, bucket="a-bucket-of-nobody", base_ami="ami-0123456789abcdef0", instance_types=("x9.nothing",))
    failed = {what for what, line in lines.items() if not line.ok}
    assert failed == {"bucket", "base image", "instance types"}
    assert all(lines[what].remedy for what in failed)


def test_an_account_without_bootstrap_is_sent_to_the_administrator(place: Platform):
    lines = look(place, deployment="not-there")
    roles = [line for what, line in lines.items() if what.startswith(("role ", "instance profile ", "bootstrap"))]
    assert len(roles) == 8
    assert not any(line.ok for line in roles)


def test_unknown_credentials_are_said_once(place: Platform, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_PROFILE")
    with environment({"AWS_ACCESS_KEY_ID": "AKIA" + "A" * 16, "AWS_SECRET_ACCESS_KEY": "x" * 40}):
        lines = list(preflight(Clients(place.settings.region), place.settings))
    (failed,) = [line for line in lines if not line.ok]
    assert failed.what == "identity"
    assert "AWS_PROFILE" in failed.remedy


def test_with_a_github_subject_the_operator_role_trusts_that_branch_and_without_one_its_own_account_alone(place: Platform):
    subject = "repo:you/your-app:ref:refs/heads/main"
    with environment(place.cloud.environment):
        administrator = Clients(place.settings.region)
        for given, statements in ((subject, 2), ("", 1)):
            parameters = {"Deployment": "github", "BucketName": "monai-aws-github-test", "RequireTls": "false", "GitHubSubject": given}
            template = PROJECT_ROOT / "infra" / "bootstrap.yaml"
            deploy_stack(administrator.cloudformation, stack_name("github"), template, parameters, lambda _: None)
            role = administrator.iam.get_role(RoleName="monai-aws-github-operator")["Role"]
            trust = role["AssumeRolePolicyDocument"]["Statement"]  # type: ignore[index, call-overload]
            assert len(trust) == statements
            assert str(trust[0]["Principal"]["AWS"]).endswith(":root")  # type: ignore[index, call-overload]
            for statement in trust[1:]:
                wanted = {
                    f"token.actions.githubusercontent.com:{name}": value for name, value in (("aud", "sts.amazonaws.com"), ("sub", subject))
                }
                assert statement["Condition"] == {"StringEquals": wanted}  # type: ignore[index, call-overload]
