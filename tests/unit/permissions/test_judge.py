"""The judge of permissions: it finds what AWS would refuse and what nobody needs, and the template stands before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.permissions.__main__ import summary
from tests.permissions.calls import Call
from tests.permissions.judge import Verdict, grants, judge, required_types, resource_types, static_findings
from tests.permissions.lint import too_large
from tests.permissions.policies import Role, Statement, documents, roles

QUEUE = "arn:aws:sqs:us-east-1:123456789012:monai-aws-dev-jobs"
INSTANCE = "arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0"


def statement(actions: Sequence[str] | str, resource: str, condition: Mapping[str, Any] | None = None, effect: str = "Allow") -> Statement:
    return Statement.read({"Sid": "It", "Effect": effect, "Action": actions, "Resource": resource, "Condition": condition or {}})


def call(action: str, resource: str, of: Sequence[Statement], *, allowed: bool = True, **keys: Any) -> Call:
    return Call(action, resource, {name.replace("_", ":", 1): value for name, value in keys.items()}, allowed, tuple(of))


@pytest.mark.parametrize("role", roles().values(), ids=lambda role: role.name)
def test_awss_tables_have_nothing_against_the_template(role: Role):
    assert static_findings(role.statements) == []


@pytest.mark.parametrize(
    ("written", "finding"),
    [
        (statement("sqs:SendMesage", QUEUE), "no such action"),
        (statement("sqs:SendMessage", INSTANCE), "none of its actions takes"),
        (statement("ec2:DescribeInstances", INSTANCE), "takes no resource, so that only *"),
        (statement("sqs:SendMessage", QUEUE, {"StringEquals": {"aws:RequestTag/team": "x"}}), "no condition key aws:RequestTag/team"),
        (statement("ec2:RunInstances", INSTANCE, {"StringEquals": {"aws:ResourceTag/team": "x"}}), "no condition key aws:ResourceTag/team"),
    ],
)
def test_what_would_never_be_allowed_on_aws_is_found(written: Statement, finding: str):
    assert finding in "; ".join(static_findings([written]))


def test_a_statement_that_aws_knows_is_in_order():
    tagged = {"StringEquals": {"aws:RequestTag/team": "x"}}
    assert static_findings([statement("ec2:RunInstances", INSTANCE, tagged), statement(["sqs:SendMessage"], "*")]) == []
    assert static_findings([statement("s3:PutObject", "${Bucket.Arn}/output/*")]) == []


def test_a_call_is_granted_by_action_resource_and_every_condition():
    own = statement("ec2:StartInstances", "arn:aws:ec2:*:*:instance/*", {"StringEquals": {"aws:ResourceTag/team": "x"}})
    tagged = call("ec2:StartInstances", INSTANCE, [own], **{"aws_ResourceTag/team": "x"})
    assert grants(own, tagged)
    for other in (
        call("ec2:StopInstances", INSTANCE, [own], **{"aws_ResourceTag/team": "x"}),
        call("ec2:StartInstances", INSTANCE, [own], **{"aws_ResourceTag/team": "y"}),
        call("ec2:StartInstances", INSTANCE, [own]),
        call("ec2:StartInstances", QUEUE, [own], **{"aws_ResourceTag/team": "x"}),
    ):
        assert not grants(own, other)


def test_a_condition_on_numbers_compares_numbers():
    tunnel = "arn:aws:ec2:us-east-1:123456789012:instance-connect-endpoint/eice-0123456789abcdef0"
    conditions = {
        "NumericEquals": {"ec2-instance-connect:remotePort": "22"},
        "NumericLessThanEquals": {"ec2-instance-connect:maxTunnelDuration": "3600"},
    }
    own = statement("ec2-instance-connect:OpenTunnel", "*", conditions)

    def asked(port: str, seconds: str) -> Call:
        keys = {"ec2-instance-connect_remotePort": port, "ec2-instance-connect_maxTunnelDuration": seconds}
        return call("ec2-instance-connect:OpenTunnel", tunnel, [own], **keys)

    assert [grants(own, asked(*each)) for each in (("22", "3600"), ("22", "900"), ("22", "3601"), ("3389", "900"))] == [
        True,
        True,
        False,
        False,
    ]


def test_an_operator_that_is_not_known_is_no_yes():
    odd = statement("sqs:SendMessage", QUEUE, {"DateGreaterThan": {"aws:CurrentTime": "2030"}})
    with pytest.raises(ValueError, match="DateGreaterThan"):
        grants(odd, call("sqs:SendMessage", QUEUE, [odd]))


def test_used_unused_explained_and_denied_are_told_apart():
    statements = (statement(["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage"], QUEUE),)
    role = Role("wake", statements, {"It sqs:DeleteMessage": "done by the service"})
    verdict = judge(role, {"wake": [call("sqs:SendMessage", QUEUE, statements), call("sqs:PurgeQueue", QUEUE, statements, allowed=False)]})
    assert verdict.used == ("It sqs:SendMessage",)
    assert verdict.unused == ("It sqs:ReceiveMessage",)
    assert verdict.explained == {"It sqs:DeleteMessage": "done by the service"}
    assert verdict.denied == (f"sqs:PurgeQueue {QUEUE}",)
    assert verdict.findings == ()
    again = judge(role, {"wake": [call("sqs:PurgeQueue", QUEUE, statements, allowed=False)]}, ["sqs:Purge* *"])
    assert again.denied == ()


def test_a_denying_statement_goes_before_and_what_the_embedded_aws_decides_otherwise_is_found():
    statements = (statement("sqs:*", QUEUE), statement("sqs:SendMessage", QUEUE, effect="Deny"))
    verdict = judge(Role("wake", statements, {}), {"wake": [call("sqs:SendMessage", QUEUE, statements)]})
    assert verdict.denied == (f"sqs:SendMessage {QUEUE}",)
    assert any("decided otherwise" in finding for finding in verdict.findings)


def test_a_resource_that_aws_judges_too_and_nobody_did_is_found():
    assert "instance" in required_types("ec2:RunInstances")
    statements = (statement("ec2:RunInstances", "*"),)
    verdict = judge(Role("operator", statements, {}), {"operator": [call("ec2:RunInstances", INSTANCE, statements)]})
    assert any("type subnet, which was never judged" in finding for finding in verdict.findings)


def test_a_reason_for_what_is_called_is_out_of_date():
    statements = (statement("sqs:SendMessage", QUEUE),)
    verdict = judge(Role("wake", statements, {"It": "never called here"}), {"wake": [call("sqs:SendMessage", QUEUE, statements)]})
    assert verdict.findings == ("It: a reason is written for what is called",)


def test_what_is_called_sometimes_makes_the_same_report_either_way():
    statements = (statement(["sqs:SendMessage", "sqs:ReceiveMessage"], QUEUE),)
    role = Role("wake", statements, {"It sqs:ReceiveMessage": "Sometimes: where a host is interrupted"})
    sent = [call("sqs:SendMessage", QUEUE, statements)]
    verdict = judge(role, {"wake": sent})
    assert verdict == judge(role, {"wake": [*sent, call("sqs:ReceiveMessage", QUEUE, statements)]})
    assert (verdict.used, verdict.unused, verdict.findings) == (("It sqs:SendMessage",), (), ())
    assert verdict.explained == {"It sqs:ReceiveMessage": "Sometimes: where a host is interrupted"}


def test_a_reason_for_a_permission_that_is_not_there_is_found():
    verdict = judge(Role("wake", (statement("sqs:SendMessage", QUEUE),), {"It sqs:PurgeQueue": "Sometimes: never"}), {})
    assert verdict.findings == ("It sqs:PurgeQueue: a reason is written for what no statement allows",)


def test_a_resource_is_of_the_types_of_awss_table():
    assert resource_types("ec2:StartInstances", INSTANCE) == {"instance"}
    assert resource_types("ec2:DescribeInstances", "*") == {""}
    assert resource_types("sqs:SendMessage", INSTANCE) == set()


UNUSED, DENIED = Verdict((), ("It sqs:SendMessage",), {}, (), ()), Verdict((), (), {}, ("sqs:PurgeQueue q",), ())


def test_only_a_run_of_all_tests_says_what_is_unused():
    code, text = summary({"wake": UNUSED}, [])
    assert code == 1
    assert "wake: unused: It sqs:SendMessage" in text
    code, text = summary({"wake": UNUSED}, ["tests/e2e/test_restart.py"])
    assert code == 2, "not in order, for it is not known"
    assert "It sqs:SendMessage" not in text
    assert "  tests/e2e/test_restart.py" in text.splitlines()
    assert summary({"wake": DENIED}, ["tests/e2e/test_restart.py"])[0] == 1, "what is denied is wrong whatever else has run"
    assert summary({"wake": Verdict((), (), {}, (), ())}, [])[0] == 0


def test_policies_keep_within_awss_sizes_and_one_that_does_not_is_named():
    found = documents()
    assert too_large(found) == []
    assert "AWS takes 6144" in too_large({"OperatorMachines": found["OperatorMachines"] * 2})[0]
    assert too_large({"HostRole": [{"Action": "${A}" * 20}]}) == []
    assert too_large({"HostRole": [{"Action": "${A}" * 500}]})[0].startswith("HostRole: its policy may have 12")
