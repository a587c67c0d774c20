"""infra/team/portal.yaml: nobody comes in without a login, the task trusts its own load balancer alone, and no right that is not needed."""

from __future__ import annotations

import json
import re
from typing import Any

from monai_aws_pipeline.portal.events import _ALIVE_SECONDS
from monai_aws_pipeline.portal.safety import HEALTH
from monai_aws_pipeline.portal.server import PORT
from monai_aws_pipeline.settings import PROJECT_ROOT, Names, Settings
from tests.permissions.policies import roles
from tests.unit.test_team_templates import UNTAGGED, known, resources

PORTAL = PROJECT_ROOT / "infra" / "team" / "portal.yaml"


def properties(name: str) -> dict[str, Any]:
    return dict(resources(PORTAL)[name]["Properties"])


def environment() -> dict[str, Any]:
    return {each["Name"]: each["Value"] for each in properties("Task")["ContainerDefinitions"][0]["Environment"]}


def attributes(name: str, kind: str) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in properties(name)[kind]}


def test_whoever_comes_logs_in_first_and_over_tls():
    (listener,) = resources(PORTAL, "AWS::ElasticLoadBalancingV2::Listener").values()
    first, second = sorted(listener["Properties"]["DefaultActions"], key=lambda action: action["Order"])
    assert (first["Type"], second["Type"]) == ("authenticate-oidc", "forward")
    assert first["AuthenticateOidcConfig"]["OnUnauthenticatedRequest"] == "authenticate"
    assert (listener["Properties"]["Protocol"], listener["Properties"]["Port"]) == ("HTTPS", 443)
    assert "TLS13" in listener["Properties"]["SslPolicy"]
    assert not resources(PORTAL, "AWS::ElasticLoadBalancingV2::ListenerRule"), "a rule could go round the login"


def test_the_portal_is_reached_from_its_load_balancer_alone():
    assert "SecurityGroupIngress" not in properties("PortalGroup")
    [door] = resources(PORTAL, "AWS::EC2::SecurityGroupIngress").values()
    assert door["Properties"]["SourceSecurityGroupId"] == "${BalancerGroup.GroupId}"
    assert (door["Properties"]["FromPort"], door["Properties"]["ToPort"]) == (PORT, PORT)
    [login] = properties("BalancerGroup")["SecurityGroupIngress"]
    assert (login["FromPort"], login["ToPort"], login["CidrIp"]) == (443, 443, "${AllowedCidr}")
    assert properties("Service")["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"


def test_the_portal_is_told_whose_signature_counts_and_what_its_pages_are_called():
    given = environment()
    assert given["MONAI_AWS_PORTAL_LOAD_BALANCER"] == "${LoadBalancer}"
    assert given["MONAI_AWS_LINKS_URL"] == "https://${HostName}"
    settings = {f"MONAI_AWS_{name}".upper() for name in Settings.model_fields}
    assert {name for name in given if name.startswith("MONAI_AWS_")} - settings == {"MONAI_AWS_BECOME"}
    assert given["MONAI_AWS_BECOME"].endswith(f":role/{Names('${Deployment}').operator_role}")
    assert properties("Task")["ContainerDefinitions"][0]["Command"] == ["monai-aws", "portal"]


def test_the_load_balancer_asks_for_the_health_keeps_streams_and_leads_a_browser_to_the_same_task():
    assert (properties("Target")["HealthCheckPath"], properties("Target")["Port"]) == (HEALTH, PORT)
    assert attributes("Target", "TargetGroupAttributes")["stickiness.enabled"] == "true"
    balancer = attributes("LoadBalancer", "LoadBalancerAttributes")
    assert int(balancer["idle_timeout.timeout_seconds"]) > 2 * _ALIVE_SECONDS
    assert balancer["routing.http.drop_invalid_header_fields.enabled"] == "true"


def test_its_roles_become_the_operator_or_start_the_task_and_nothing_else():
    may = {name: {action for statement in role.statements for action in statement.actions} for name, role in roles(PORTAL).items()}
    assert may.pop("portal") == {"sts:AssumeRole"}
    [(_, execution)] = may.items()
    assert {action.split(":")[0] for action in execution} == {"ecr", "logs", "s3"}
    for role in roles(PORTAL).values():
        for statement in role.statements:
            wide = "*" in statement.resources
            assert not wide or not any(kind for action in statement.actions for kind in known(action)["resource_types"] if kind)
    for each in resources(PORTAL, "AWS::IAM::Role").values():
        [trust] = each["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"}}
        assert len(each["Properties"]["RoleName"].replace("${Deployment}", "d" * 20)) <= 64


def test_everything_bears_the_tags_that_the_budget_counts_by():
    for name, resource in resources(PORTAL).items():
        if resource["Type"] not in {*UNTAGGED, "AWS::ElasticLoadBalancingV2::Listener"}:
            tags = {tag["Key"]: tag["Value"] for tag in resource["Properties"]["Tags"]}
            assert tags == {"monai-aws:deployment": "${Deployment}", "monai-aws:owner": "${Owner}"}, name


def test_no_secret_is_written_down():
    secret = json.dumps(properties("Listener"))
    assert "{{resolve:secretsmanager:${OidcClientSecret}:SecretString:client_secret}}" in secret
    assert not [name for name in environment() if re.search("PASSWORD|SECRET|TOKEN|KEY", name)]
    assert "NoEcho" not in PORTAL.read_text(), "a parameter that holds a secret would be in the caller's history"
