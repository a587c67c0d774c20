"""The field test on the embedded AWS: a whole account has nothing against it, and things broken one by one are found with the right remedy.

The account has everything that is asked about: a machine, a customer key as EBS default, a model, a golden study, alarms by mail, a budget
by tag. Each row breaks one thing, in the account or in the settings, and mends it afterwards.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import pytest
from click.testing import CliRunner

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import deploy_stack, stack_name
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.contract import TAG_DEPLOYMENT
from monai_aws_pipeline.local_cloud.commands import LocalCloud, control
from monai_aws_pipeline.operations.preflight import Answer, State, caller, preflight
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from tests.integration.local_cloud.conftest import Account
from tests.support.platform import Platform, environment, platform

pytestmark = pytest.mark.cloud
HASH = "0" * 64


@dataclass
class Field:
    """A whole account, and what a row changes of it. ``undo`` is run after the row."""

    place: Platform
    account: Account
    machine: str
    settings: dict[str, Any] = field(default_factory=dict)
    clients: Clients | None = None
    undo: ExitStack = field(default_factory=ExitStack)

    def order(self, **order: Any) -> None:
        self.place.cloud.order_fault(**order)

    def admin(self, service: str) -> Any:
        return self.account.client(service)

    def look(self, seconds: float = 60, **options: Any) -> dict[str, Answer]:
        with environment(self.place.variables):
            clients = self.clients or Clients(self.place.settings.region)
            return {each.check: each for each in preflight(clients, load_settings(**self.settings), seconds=seconds, **options)}

    def as_administrator(self) -> None:
        with environment(self.place.cloud.environment):
            self.clients = Clients(self.place.settings.region)
            self.clients.make_all(imaging=True)

    def like_the_operator(self, but: str = "") -> None:
        """Act as somebody who may do what the operator may, but for one statement. What it is refused is no call of the operator's."""
        iam, role = self.admin("iam"), self.place.settings.names.operator_role
        attached = [each["PolicyArn"] for each in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]]
        versions = {arn: iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"] for arn in attached}
        found = [iam.get_policy_version(PolicyArn=arn, VersionId=of)["PolicyVersion"]["Document"] for arn, of in versions.items()]
        inline = iam.list_role_policies(RoleName=role)["PolicyNames"]
        found += [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in inline]
        statements = [each for document in found for each in document["Statement"]]
        kept = [each for each in statements if each["Sid"] != but]
        assert len(kept) == len(statements) - bool(but), f"there is no statement {but}"
        access, secret, token = self.account.assume(kept)
        session = boto3.Session(aws_access_key_id=access, aws_secret_access_key=secret, aws_session_token=token, region_name="us-east-1")
        self.clients = Clients(self.place.settings.region, session)


@pytest.fixture(scope="module")
def whole(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    folder, account = tmp_path_factory.mktemp("field"), Account(local_cloud)
    golden = folder / "golden.zip"
    golden.write_bytes(b"a study")
    variables = {
        "MONAI_AWS_BUILD_MARKET": "spot-or-on-demand",
        "MONAI_AWS_GOLDEN_STUDY": str(golden),
        "MONAI_AWS_GOLDEN_STUDY_SHA256": HASH,
    }
    with platform(local_cloud, "field", folder, **variables) as bare:
        models, ec2 = f"models-{uuid.uuid4().hex[:10]}", account.client("ec2")
        account.client("s3").create_bucket(Bucket=models)
        key = account.client("kms").create_key(Description="disks")["KeyMetadata"]["Arn"]
        ec2.modify_ebs_default_kms_key_id(KmsKeyId=key)
        outputs = deploy_stack(
            account.client("cloudformation"),
            stack_name(bare.settings.deployment),
            PROJECT_ROOT / "infra" / "bootstrap.yaml",
            {
                "KmsKeyArns": key,
                "ModelObjects": f"arn:aws:s3:::{models}/brain/*",
                "AlarmEmail": "alarms@example.org",
                "BudgetEmail": "money@example.org",
                "BudgetCounts": "deployment",
            },
            lambda _: None,
        )
        control(local_cloud.config, "POST", "/_local/faults", {"confirm_mail": outputs["AlarmTopicArn"]})
        account.client("ce").update_cost_allocation_tags_status(CostAllocationTagsStatus=[{"TagKey": TAG_DEPLOYMENT, "Status": "Active"}])
        account.client("s3").put_object(Bucket=models, Key="brain/net.ts", Body=b"weights")
        place = bare.changed(
            MONAI_AWS_ALARM_TOPIC_ARN=outputs["AlarmTopicArn"],
            MONAI_AWS_MODEL_URI=f"s3://{models}/brain/net.ts",
            MONAI_AWS_MODEL_SHA256=HASH,
        )
        try:
            yield Field(place, account, _machine(place))
        finally:
            ec2.reset_ebs_default_kms_key_id()


def _machine(place: Platform) -> str:
    machines = Machines(place.clients.ec2, place.settings.deployment, place.clients.ec2_launches)
    tags = Tags(place.settings.deployment, "map-build", "test", "run", "field")
    with environment(place.variables):
        image = place.clients.ssm.get_parameter(Name=place.settings.base_ami.removeprefix("ssm:"))["Parameter"]["Value"]
        group = machines.security_group(tags, "no way in")
        spec = LaunchSpec(image, ("g4dn.xlarge",), place.settings.names.build_profile, tags, "", RootVolume(150), group)
        return machines.launch(spec, lambda _: None).id


@pytest.fixture
def trial(whole: Field) -> Iterator[Field]:
    made = Field(whole.place, whole.account, whole.machine)
    with made.undo:
        yield made
    whole.place.cloud.clear_faults()


def test_a_whole_account_has_no_error_and_no_warning(whole: Field):
    found = whole.look()
    assert {check: each for check, each in found.items() if each.state in (State.ERROR, State.WARNING)} == {}
    assert [check for check, each in found.items() if each.state is State.SKIPPED] == [
        "way to machines",
        "golden reference",
        "archive",
        "notifications",
    ]
    assert found["dry run: capture an image"].what == "CreateImage is allowed"
    assert found["disk key"].what.endswith("the stack's roles may make grants for EC2")
    assert "renewed by themselves" in found["credentials"].what


# ---------------------------------------------------------------------------------------------------------------- broken things

Break = Callable[[Field], None]


def settings(**changes: Any) -> Break:
    return lambda trial: trial.settings.update(changes)


def lacks(**account: Any) -> Break:
    return lambda trial: trial.order(account=account)


def without(sid: str) -> Break:
    return lambda trial: trial.like_the_operator(but=sid)


def no_applied_quota(trial: Field) -> None:
    trial.order(service="servicequotas", action="GetServiceQuota", code="NoSuchResourceException", times=9)


def full_subnet(trial: Field) -> None:
    ec2 = trial.admin("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.78.0.0/28")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.78.0.0/28", AvailabilityZone="us-east-1a")["Subnet"]
    taken = [ec2.create_network_interface(SubnetId=subnet["SubnetId"]) for _ in range(subnet["AvailableIpAddressCount"])]
    trial.undo.callback(ec2.delete_vpc, VpcId=vpc)
    trial.undo.callback(ec2.delete_subnet, SubnetId=subnet["SubnetId"])
    for each in taken:
        trial.undo.callback(ec2.delete_network_interface, NetworkInterfaceId=each["NetworkInterface"]["NetworkInterfaceId"])
    trial.settings["subnets"] = subnet["SubnetId"]


def another_default_key(trial: Field) -> None:
    trial.like_the_operator()
    ec2 = trial.admin("ec2")
    trial.undo.callback(ec2.modify_ebs_default_kms_key_id, KmsKeyId=ec2.get_ebs_default_kms_key_id()["KmsKeyId"])
    ec2.modify_ebs_default_kms_key_id(KmsKeyId=trial.admin("kms").create_key()["KeyMetadata"]["Arn"])


def disabled_key(trial: Field) -> None:
    kms, key = trial.admin("kms"), trial.admin("ec2").get_ebs_default_kms_key_id()["KmsKeyId"]
    kms.disable_key(KeyId=key)
    trial.undo.callback(kms.enable_key, KeyId=key)


def foreign_model(trial: Field) -> None:
    trial.like_the_operator()
    bucket = f"models-{uuid.uuid4().hex[:10]}"
    s3 = trial.admin("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="net.ts", Body=b"weights")
    trial.settings["model_uri"] = f"s3://{bucket}/net.ts"


def unheard_alarms(trial: Field) -> None:
    sns = trial.admin("sns")
    topic = sns.create_topic(Name=f"monai-aws-{trial.place.settings.deployment}-unheard")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="email", Endpoint="alarms@example.org")
    trial.undo.callback(sns.delete_topic, TopicArn=topic)
    trial.settings["alarm_topic_arn"] = topic


def inactive_tag(trial: Field) -> None:
    costs = trial.admin("ce")

    def make(status: str) -> None:
        costs.update_cost_allocation_tags_status(CostAllocationTagsStatus=[{"TagKey": TAG_DEPLOYMENT, "Status": status}])

    make("Inactive")
    trial.undo.callback(make, "Active")


def profile_without_role(trial: Field) -> None:
    iam, name = trial.admin("iam"), trial.place.settings.names.inference_profile
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    trial.undo.callback(iam.add_role_to_instance_profile, InstanceProfileName=name, RoleName=name)


def wrong_clock(trial: Field) -> None:
    """As a machine whose clock is seven minutes fast: its signatures and what it believes."""
    patched = trial.undo.enter_context(pytest.MonkeyPatch.context())
    signing, believing = botocore.auth.get_current_datetime, caller.local_time
    fast = timedelta(minutes=7)
    patched.setattr(botocore.auth, "get_current_datetime", lambda *given, **named: signing(*given, **named) + fast)
    patched.setattr(caller, "local_time", lambda: believing() + fast)


def keys_in_the_environment(trial: Field) -> None:
    with environment(trial.place.variables):
        given = boto3.Session().get_credentials().get_frozen_credentials()  # type: ignore[union-attr]
    variables = {"AWS_ACCESS_KEY_ID": given.access_key, "AWS_SECRET_ACCESS_KEY": given.secret_key, "AWS_SESSION_TOKEN": given.token}
    with environment({**trial.place.variables, **variables}), pytest.MonkeyPatch.context() as patched:
        patched.delenv("AWS_PROFILE")
        trial.clients = Clients(trial.place.settings.region)
        trial.clients.make_all(imaging=True)


def no_deployment(trial: Field) -> None:
    trial.as_administrator()
    trial.settings["deployment"] = "not-there"


def bucket_of_nobody(trial: Field) -> None:
    trial.as_administrator()
    trial.settings["bucket"] = "a-bucket-of-nobody"


def few_hosts(trial: Field) -> None:
    trial.order(account={"vcpus": 8})
    trial.settings["host_count"] = 3


def no_spot_quota(trial: Field) -> None:
    trial.order(account={"vcpus": 2})
    trial.settings["build_market"] = "spot"


def spot_fleet_without_its_role(trial: Field) -> None:
    trial.order(account={"spot_role": False})
    trial.settings |= SPOT_FLEET


def spot_fleet_without_a_quota(trial: Field) -> None:
    trial.order(account={"vcpus": 2})
    trial.settings |= SPOT_FLEET


def model_gone(trial: Field) -> None:
    trial.settings["model_uri"] = f"s3://{trial.place.settings.bucket}/models/gone.ts"


def base_gone(trial: Field) -> None:
    trial.settings["base_image"] = trial.place.settings.base_image.rpartition(":")[0] + ":gone"


SPOT_FLEET = {"build_market": "on-demand", "fleet": "autoscaling", "host_count": 2, "fleet_spot_percent": 100}
NOBODYS = {"archive": "dicomweb", "archive_address": "http://127.0.0.1:9/dicom-web"}
GONE_TOPIC = "arn:aws:sns:us-east-1:123456789012:monai-aws-field-gone"
ROWS: tuple[tuple[str, Break, str, State, str], ...] = (
    ("a clock", wrong_clock, "clock", State.ERROR, "timedatectl"),
    ("keys that nobody renews", keys_in_the_environment, "credentials", State.WARNING, "profile"),
    ("the wrong caller", Field.as_administrator, "identity", State.WARNING, "AWS_PROFILE"),
    ("a bucket of nobody", bucket_of_nobody, "bucket", State.ERROR, "MONAI_AWS_BUCKET"),
    ("no stack", no_deployment, "bootstrap stack", State.ERROR, "monai-aws bootstrap"),
    ("no role", no_deployment, "role monai-aws-not-there-wake", State.ERROR, "monai-aws bootstrap"),
    ("a profile without a role", profile_without_role, "instance profile monai-aws-field-inference-host", State.ERROR, "bootstrap"),
    ("a base image", settings(base_ami="ami-0123456789abcdef0"), "base image", State.ERROR, "MONAI_AWS_BASE_AMI"),
    ("a small disk", settings(root_volume_gib=60), "root volume", State.ERROR, "MONAI_AWS_ROOT_VOLUME_GIB"),
    ("a type", settings(instance_types=("x9.nothing",)), "instance types", State.ERROR, "MONAI_AWS_INSTANCE_TYPES"),
    ("a new account's quota", no_applied_quota, "quota on-demand", State.ERROR, "--quota-code L-DB2E81BA --desired-value 8"),
    ("a quota for fewer hosts", few_hosts, "quota on-demand", State.WARNING, "MONAI_AWS_HOST_COUNT"),
    ("a spot quota", no_spot_quota, "quota spot", State.ERROR, "L-3819A6DF"),
    ("no role for spot", lacks(spot_role=False), "spot role", State.WARNING, "create-service-linked-role"),
    ("no role for a Spot fleet", spot_fleet_without_its_role, "spot role", State.ERROR, "create-service-linked-role"),
    ("no quota for a Spot fleet", spot_fleet_without_a_quota, "quota spot", State.ERROR, "--quota-code L-3819A6DF --desired-value 12"),
    ("a subnet of nobody", settings(subnets="subnet-0123456789abcdef0"), "subnets", State.ERROR, "MONAI_AWS_SUBNETS"),
    ("a full subnet", full_subnet, "subnets", State.ERROR, "Free addresses"),
    ("a key without grants", another_default_key, "disk key", State.ERROR, "--kms-key arn:aws:kms"),
    ("a disabled key", disabled_key, "disk key", State.ERROR, "Enable the key"),
    ("a model that is gone", model_gone, "model", State.ERROR, "MONAI_AWS_MODEL_URI"),
    ("a model of others", foreign_model, "model", State.ERROR, "--model-bucket"),
    ("a golden study", settings(golden_study="/nowhere/golden.zip"), "golden study", State.ERROR, "MONAI_AWS_GOLDEN_STUDY"),
    ("a MAP base image", base_gone, "MAP base image", State.ERROR, "MONAI_AWS_BASE_IMAGE"),
    ("an archive that is away", settings(**NOBODYS), "archive", State.WARNING, "Hosts must reach it"),
    ("a data store", settings(archive="healthimaging", datastore_id="0" * 32), "archive", State.ERROR, "permissions of the role"),
    ("launches", without("LaunchTagged"), "dry run: launch a build machine", State.ERROR, "LaunchTagged"),
    ("handing on roles", without("HandOnMachineRoles"), "dry run: launch a host", State.ERROR, "HandOnMachineRoles"),
    ("groups", without("MakeGroupsInAnyVpc"), "dry run: make a security group", State.ERROR, "MakeGroupsInAnyVpc"),
    ("tags", without("TagWhileMaking"), "dry run: import a key pair", State.ERROR, "TagWhileMaking"),
    ("images", without("MakeTagged"), "dry run: capture an image", State.ERROR, "MakeTagged"),
    ("starts", without("HandleOurs"), "dry run: start a host", State.ERROR, "HandleOurs"),
    ("ends", without("HandleOurs"), "dry run: end a machine", State.ERROR, "HandleOurs"),
    ("a permission to read", without("QuotasOfMachines"), "quota on-demand", State.ERROR, "let the administrator update that stack"),
    ("alarms that wait for a click", unheard_alarms, "alarm mail", State.WARNING, "link in the mail"),
    ("a topic", settings(alarm_topic_arn=GONE_TOPIC), "alarm mail", State.ERROR, "--alarm-email"),
    ("a topic that is not in the settings", settings(alarm_topic_arn=""), "alarm mail", State.WARNING, "MONAI_AWS_ALARM_TOPIC_ARN"),
    ("a webhook's secret", settings(notify="monai-aws/field/notify"), "notifications", State.ERROR, "MONAI_AWS_NOTIFY"),
    ("a topic for notifications", settings(notify=GONE_TOPIC), "notifications", State.ERROR, "Correct MONAI_AWS_NOTIFY"),
    ("a tag that Billing does not count", inactive_tag, "budget tag", State.ERROR, "--budget-counts account"),
)  # fmt: skip


@pytest.mark.parametrize(("broken", "check", "state", "remedy"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_is_broken_is_found_with_its_remedy(broken: Break, check: str, state: State, remedy: str, trial: Field):
    broken(trial)
    found = trial.look()[check]
    assert found.state is state, found
    assert remedy in found.remedy, found


def test_a_member_account_is_told_that_it_may_not_look_at_tags(trial: Field):
    trial.order(account={"member": True})
    found = trial.look()["budget tag"]
    assert found.state is State.SKIPPED
    assert "member account" in found.what


def test_disks_without_encryption_are_asked_for_only_where_the_account_does_not_encrypt_by_itself(trial: Field):
    trial.settings["root_volume_encrypted"] = False
    assert "not encrypted" in trial.look()["disk key"].what
    ec2 = trial.admin("ec2")
    ec2.enable_ebs_encryption_by_default()
    trial.undo.callback(ec2.disable_ebs_encryption_by_default)
    assert "the account's default for EBS" in trial.look()["disk key"].what


def test_a_service_that_does_not_answer_is_a_warning_and_holds_up_nothing_else(trial: Field):
    trial.order(service="sns", action="ListSubscriptionsByTopic", delay_s=300)
    told: list[str] = []
    found = trial.look(seconds=20, report=told.append)
    assert found["alarm mail"].state is State.WARNING
    assert "SNS for the topic's subscriptions" in found["alarm mail"].what
    assert {each.check for each in found.values() if each.state in (State.ERROR, State.WARNING)} == {"alarm mail"}
    assert "alarm mail: still asking SNS for the topic's subscriptions" in told


def test_nothing_was_made_by_asking(whole: Field):
    """A rehearsal that is carried out would be a machine that somebody pays for."""
    ec2, names = whole.admin("ec2"), {"monai-aws-doctor"}
    whole.look()
    assert [machine.id for machine in whole.place.machines()] == [whole.machine]
    assert not names & {pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]}
    assert not names & {group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]}
    assert not names & {image["Name"] for image in ec2.describe_images(Owners=["self"])["Images"]}


def test_the_command_prints_json_and_ends_with_1_only_for_errors(trial: Field, tmp_path: Path):
    with environment(trial.place.variables):
        done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    answers = json.loads(done.stdout)
    assert {tuple(each) for each in answers} == {("check", "state", "what", "remedy")}
    with environment({**trial.place.variables, "MONAI_AWS_GOLDEN_STUDY": str(tmp_path / "gone.zip")}):
        done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 1
    assert "1 error" in done.stdout


# ---------------------------------------------------------------------------------------------------------- the embedded AWS itself


def test_ec2_says_by_dry_run_what_it_would_do_and_refuses_by_name(whole: Field):
    ec2 = whole.admin("ec2")
    with pytest.raises(ec2.exceptions.ClientError) as allowed:
        ec2.terminate_instances(InstanceIds=[whole.machine], DryRun=True)
    answer = allowed.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("DryRunOperation", 412)
    assert answer["Error"]["Message"] == "Request would have succeeded, but DryRun flag is set."
    nobody = whole.account.client("ec2", whole.account.assume([]))
    with pytest.raises(ec2.exceptions.ClientError) as refused:
        nobody.terminate_instances(InstanceIds=[whole.machine], DryRun=True)
    answer = refused.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("UnauthorizedOperation", 403)
    arn = f"arn:aws:ec2:us-east-1:123456789012:instance/{whole.machine}"
    assert f"not authorized to perform: ec2:TerminateInstances on resource: {arn} because" in answer["Error"]["Message"]


def test_a_mail_waits_until_its_link_is_followed(whole: Field):
    sns = whole.admin("sns")
    topic = sns.create_topic(Name="waits")["TopicArn"]

    def listed() -> list[str]:
        return [each["SubscriptionArn"] for each in sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]]

    assert sns.subscribe(TopicArn=topic, Protocol="email", Endpoint="a@example.org")["SubscriptionArn"] == "pending confirmation"
    assert listed() == ["PendingConfirmation"]
    control(whole.place.cloud.config, "POST", "/_local/faults", {"confirm_mail": topic})
    assert listed()[0].startswith(f"{topic}:")
