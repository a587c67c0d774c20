"""The preflight as the operator, on the embedded AWS with IAM enforced: everything is asked, and what is missing is named with a remedy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import PlainHttpError, deploy_stack, stack_name
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.preflight import Answer, State, preflight
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from tests.support.platform import Platform, environment, platform

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "preflight", tmp_path_factory.mktemp("preflight")) as made:
        yield made


def look(place: Platform, clients: Clients | None = None, **settings: object) -> dict[str, Answer]:
    with environment(place.variables):
        return {answer.check: answer for answer in preflight(clients or place.clients, load_settings(**settings), seconds=60)}


def administrator(place: Platform) -> Clients:
    """What is not there is refused to the operator before it is looked for."""
    with environment(place.cloud.environment):
        clients = Clients(place.settings.region)
        clients.make_all(imaging=True)
    return clients


def failed(answers: dict[str, Answer]) -> set[str]:
    return {check for check, answer in answers.items() if answer.state is State.ERROR}


def test_a_bootstrapped_account_passes_before_anything_is_deployed(place: Platform):
    answers = look(place)
    assert [answer for answer in answers.values() if answer.state not in (State.OK, State.SKIPPED)] == []
    assert place.settings.names.operator_role in answers["identity"].what
    assert answers[f"queue {place.settings.names.jobs_queue}"].what == "is made with s3_trigger"
    assert {check for check in answers if check.startswith("dry run") and answers[check].state is State.SKIPPED} == {
        "dry run: capture an image",
        "dry run: start a host",
        "dry run: end a machine",
    }, "judged by the tag of a machine, and there is none yet"


def test_all_that_is_missing_is_named_at_once(place: Platform):
    missing = {"bucket": "a-bucket-of-nobody", "base_ami": "ami-0123456789abcdef0", "instance_types": ("x9.nothing",)}
    answers = look(place, administrator(place), **missing)
    assert failed(answers) == {"bucket", "base image", "instance types"}
    assert all(answers[check].remedy for check in failed(answers))
    assert answers["dry run: launch a host"].state is State.SKIPPED, "it needs an image and a type"


def test_the_disk_is_held_against_the_snapshot_and_the_zones_against_the_types(place: Platform):
    answers = look(place)
    assert answers["root volume"].what == "150 GiB, of which the base image's snapshot has 75"
    assert "us-east-1a (3 types, " in answers["subnets"].what
    assert " free addresses, " in answers["subnets"].what
    small = look(place, root_volume_gib=60)["root volume"]
    assert small.state is State.ERROR
    assert "60 GiB is less than the 75 GiB" in small.what
    assert "MONAI_AWS_ROOT_VOLUME_GIB" in small.remedy
    assert look(place, subnets="subnet-0123456789abcdef0")["subnets"].state is State.ERROR


def test_an_account_without_bootstrap_is_sent_to_the_administrator(place: Platform):
    answers = look(place, administrator(place), deployment="not-there")
    found = [answer for check, answer in answers.items() if check.startswith(("role ", "instance profile ", "bootstrap"))]
    assert len(found) == 8
    assert {answer.state for answer in found} == {State.ERROR}
    assert {answer.remedy for answer in found} == {"Let an administrator run: monai-aws bootstrap --bucket NAME"}


def test_a_bucket_that_refuses_plain_http_is_named_as_the_cause_and_the_remedy_helps(place: Platform, local_cloud: LocalCloud):
    settings = place.settings
    administrator = {
        **local_cloud.environment,
        "MONAI_AWS_DEPLOYMENT": settings.deployment,
        "MONAI_AWS_OWNER": settings.owner,
        "MONAI_AWS_ECR_REPOSITORY": settings.ecr_repository,
    }
    options = ["bootstrap", "--bucket", settings.bucket]
    with environment(administrator):
        refused = CliRunner().invoke(cli, [*options, "--require-tls"])
        assert isinstance(refused.exception, PlainHttpError)
        assert look(place)["bucket"].state is State.OK, "the refusal changed nothing"
        # As a deployment that was made before bootstrap refused it.
        template = PROJECT_ROOT / "infra" / "bootstrap.yaml"
        parameters = {
            "Deployment": settings.deployment,
            "Owner": settings.owner,
            "BucketName": settings.bucket,
            "EcrRepository": settings.ecr_repository,
            "RequireTls": "true",
        }
        deploy_stack(Clients(settings.region).cloudformation, stack_name(settings.deployment), template, parameters, lambda _: None)
    found = look(place)["bucket"]
    assert found.what == f"the policy of {settings.bucket} refuses plain HTTP, and the endpoint {local_cloud.endpoint} speaks nothing else"
    assert "bootstrap --bucket NAME --allow-plain-http" in found.remedy
    with environment(administrator):
        done = CliRunner().invoke(cli, [*options, "--allow-plain-http", "--yes"])
    assert done.exit_code == 0, done.output
    assert f":secret:{settings.names.study_key_secret}" in done.output
    assert look(place)["bucket"].state is State.OK


def test_unknown_credentials_are_said_once(place: Platform, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_PROFILE")
    with environment({"AWS_ACCESS_KEY_ID": "AKIA" + "A" * 16, "AWS_SECRET_ACCESS_KEY": "x" * 40}):
        answers = preflight(Clients(place.settings.region), place.settings)
    (refused,) = [answer for answer in answers if answer.state is State.ERROR]
    assert refused.check == "identity"
    assert "AWS_PROFILE" in refused.remedy
    assert "bucket" not in {answer.check for answer in answers}
