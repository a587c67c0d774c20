"""What the field test makes of answers, and how it asks: judgements without any cloud, silent questions, registries that want a token."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from botocore.parsers import ResponseParserError
from click.testing import CliRunner
from moto import mock_aws

from monai_aws_pipeline import cli
from monai_aws_pipeline.cloud.instances import Quota
from monai_aws_pipeline.maps import download
from monai_aws_pipeline.operations import preflight
from monai_aws_pipeline.operations.preflight import rehearsals, sources
from monai_aws_pipeline.operations.preflight.answers import Answer, Judgement, PreflightError, Probe, State, answer
from monai_aws_pipeline.operations.preflight.asking import ask_all
from monai_aws_pipeline.operations.preflight.caller import Credentials, judge_clock, judge_credentials, judge_identity
from monai_aws_pipeline.operations.preflight.machines import (
    DiskKey,
    Limited,
    Place,
    judge_disk_key,
    judge_quota,
    judge_root_volume,
    judge_subnets,
    spot_hosts,
)
from monai_aws_pipeline.operations.preflight.money import (
    judge_no_topic,
    judge_secret_denied,
    judge_subscriptions,
    judge_tag,
    judge_tag_hidden,
)
from monai_aws_pipeline.operations.preflight.portal import judge_uploads, origin_of
from monai_aws_pipeline.operations.preflight.rehearsals import GROUP, IMAGE, KEY, LAUNCH, SPOT, TEMPLATE, Rehearsed, judge_rehearsal
from monai_aws_pipeline.operations.preflight.sources import Reference, Reply, judge_file, judge_manifest, manifest_status
from monai_aws_pipeline.settings import load_settings
from tests.permissions.policies import roles

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/1"
GPUS = Quota("Running On-Demand G and VT instances", "L-DB2E81BA")


def raising(error: BaseException) -> Any:
    def ask() -> str:
        raise error

    return ask


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Ask")


# ---------------------------------------------------------------------------------------------------------------------- asking


@pytest.mark.parametrize(
    ("given", "state", "remedy"),
    [
        (lambda: "all well", State.OK, ""),
        (lambda: Judgement("so so", State.WARNING, "Do it."), State.WARNING, "Do it."),
        (raising(PreflightError("wrong", "Mend it.")), State.ERROR, "Mend it."),
        (raising(client_error("AccessDenied")), State.ERROR, "operator role"),
        (raising(client_error("AuthorizationError")), State.ERROR, "operator role"),
        (raising(client_error("NoSuchThing")), State.ERROR, "its own remedy"),
        (raising(EndpointConnectionError(endpoint_url="https://sns.example")), State.WARNING, "proxy"),
        (raising(NoCredentialsError()), State.ERROR, "its own remedy"),
        (raising(ResponseParserError("<html>Log in to the hotel</html>")), State.ERROR, "login page"),
    ],
)
def test_whatever_a_question_meets_becomes_an_answer_with_a_remedy(given: Any, state: State, remedy: str):
    found = answer(Probe("check", "SNS for it", given, "its own remedy"))
    assert (found.check, found.state) == ("check", state)
    assert remedy in found.remedy


def test_a_question_that_nobody_answers_is_a_warning_that_says_what_was_asked_and_holds_up_no_other():
    release, told = threading.Event(), list[str]()

    def wait() -> str:
        release.wait(60)
        return "too late"

    try:
        probes = [
            Probe("first", "nobody", lambda: "one"),
            Probe("hung", "SNS for its topics", wait),
            Probe("third", "nobody", lambda: "three"),
        ]
        found = ask_all(probes, told.append, seconds=3.0, tell_seconds=1.0)
    finally:
        release.set()
    assert [(each.check, each.state) for each in found] == [("first", State.OK), ("hung", State.WARNING), ("third", State.OK)]
    assert "SNS for its topics" in found[1].what
    assert found[1].remedy
    assert told
    assert set(told) == {"hung: still asking SNS for its topics"}


def test_questions_are_asked_at_once():
    barrier = threading.Barrier(40)

    def meet() -> str:
        barrier.wait(30)  # breaks unless all forty are there
        return "met"

    assert {each.what for each in ask_all([Probe(str(n), "x", meet) for n in range(40)], lambda _: None, seconds=30)} == {"met"}


def test_a_defect_is_no_answer():
    with pytest.raises(KeyError):
        ask_all([Probe("broken", "nobody", raising(KeyError("x")))], lambda _: None)


# ---------------------------------------------------------------------------------------------------------------------- caller


@pytest.mark.parametrize(
    ("seconds", "state"),
    [(0, State.OK), (59, State.OK), (-70, State.WARNING), (240, State.WARNING), (300, State.ERROR), (-3600, State.ERROR)],
)
def test_a_clock_is_wrong_from_a_minute_on_and_useless_from_five(seconds: int, state: State):
    found = judge_clock(NOW + timedelta(seconds=seconds), NOW)
    assert found.state is state
    assert (f"{abs(seconds)} s " + ("ahead of" if seconds > 0 else "behind")) in found.what
    assert bool(found.remedy) is (state is not State.OK)


def test_an_answer_without_a_time_is_noticed():
    assert judge_clock(NOW, None).state is State.WARNING


@pytest.mark.parametrize(
    ("found", "state", "word"),
    [
        (Credentials("shared-credentials-file", temporary=False, renews=False), State.OK, "does not end"),
        (Credentials("assume-role", temporary=True, renews=True, ends=NOW), State.OK, "2026-03-01 12:00 UTC"),
        (Credentials("sso", temporary=True, renews=True, ends=NOW), State.OK, "aws sso login"),
        (Credentials("env", temporary=True, renews=False), State.WARNING, "do not tell"),
        (Credentials("env", temporary=True, renews=False, ends=NOW + timedelta(hours=1)), State.WARNING, "13:00"),
        (Credentials("env", temporary=True, renews=False, ends=NOW - timedelta(minutes=1)), State.ERROR, "ended"),
    ],
)
def test_credentials_are_told_by_kind_and_end(found: Credentials, state: State, word: str):
    judged = judge_credentials(found, NOW)
    assert judged.state is state
    assert word in judged.what


def test_whoever_is_not_the_operator_is_told_so():
    role = "monai-aws-dev-operator"
    assert judge_identity(f"arn:aws:sts::1:assumed-role/{role}/me", role).state is State.OK
    for arn in ("arn:aws:iam::1:root", "arn:aws:sts::1:assumed-role/Administrator/me"):
        found = judge_identity(arn, role)
        assert found.state is State.WARNING
        assert "AWS_PROFILE" in found.remedy


# -------------------------------------------------------------------------------------------------------------------- machines


def test_a_quota_is_held_against_types_and_number_of_machines():
    def judged(limit: float, machines: int) -> Judgement:
        return judge_quota([Limited("g4dn.2xlarge", 8, GPUS, limit), Limited("g4dn.xlarge", 4, GPUS, limit)], machines, "us-east-1")

    assert judged(4, 1).state is State.OK
    assert "a g4dn.xlarge counts 4" in judged(4, 1).what
    nothing = judged(0, 1)
    assert nothing.state is State.ERROR
    assert "--quota-code L-DB2E81BA --desired-value 16" in nothing.remedy
    some = judged(8, 3)
    assert some.state is State.WARNING
    assert "2 of 3 machines" in some.what
    assert "MONAI_AWS_HOST_COUNT" in some.remedy


def test_a_type_of_another_quota_will_do():
    other = Limited("m5.xlarge", 4, Quota("Running On-Demand Standard instances", "L-1216C47A"), 8)
    assert judge_quota([Limited("g4dn.xlarge", 4, GPUS, 0), other], 2, "us-east-1").state is State.OK


@pytest.mark.parametrize(
    ("fleet", "hosts", "base", "percent", "spot"),
    [
        ("hosts", 10, 0, 100, 0),
        ("autoscaling", 10, 0, 0, 0),
        ("autoscaling", 10, 1, 80, 7),  # of nine above the base AWS rounds the On-Demand part up
        ("autoscaling", 1, 0, 80, 0),
        ("autoscaling", 3, 0, 100, 3),
    ],
)
def test_so_many_of_the_hosts_are_spot(fleet: str, hosts: int, base: int, percent: int, spot: int):
    assert spot_hosts(load_settings(fleet=fleet, host_count=hosts, fleet_on_demand_base=base, fleet_spot_percent=percent)) == spot


def test_what_is_not_offered_is_no_question_of_quotas():
    assert judge_quota([], 1, "us-east-1").state is State.SKIPPED


def test_subnets_need_types_and_addresses():
    here, full, empty = Place("s-1", "a", 9, True, 2), Place("s-2", "b", 0, False, 2), Place("s-3", "c", 9, False, 0)
    assert judge_subnets([here, empty], ("g5.xlarge",)).what == "a (2 types, 9 free addresses, gives public ones)"
    one_full = judge_subnets([here, full], ("g5.xlarge",))
    assert (one_full.state, "s-2" in one_full.what) == (State.WARNING, True)
    for places in ([full], [empty], [full, empty]):
        found = judge_subnets(places, ("g5.xlarge",))
        assert found.state is State.ERROR
        assert "MONAI_AWS_SUBNETS" in found.remedy


def test_a_disk_below_its_snapshot_is_named():
    assert judge_root_volume(75, 75).state is State.OK
    assert "MONAI_AWS_ROOT_VOLUME_GIB" in judge_root_volume(74, 75).remedy


@pytest.mark.parametrize(
    ("key", "known", "state", "word"),
    [
        (DiskKey("alias/aws/ebs", "the default", by_aws=True), "", State.OK, ""),
        (DiskKey(KEY_ARN, "the default", KEY_ARN, "Enabled"), f"other,{KEY_ARN}", State.OK, ""),
        (DiskKey(KEY_ARN, "the default", KEY_ARN, "Enabled"), "other", State.ERROR, f"--kms-key {KEY_ARN}"),
        (DiskKey(KEY_ARN, "the default", KEY_ARN, "Disabled"), KEY_ARN, State.ERROR, "Enable the key"),
        (DiskKey("alias/x", "the default", refused="AccessDeniedException"), "", State.ERROR, "--kms-key ARN"),
        (DiskKey("alias/x", "the default", refused="NotFoundException"), "", State.ERROR, "MONAI_AWS_ROOT_VOLUME_KMS_KEY"),
    ],
)
def test_a_customer_key_needs_to_be_there_enabled_and_known_to_the_stack(key: DiskKey, known: str, state: State, word: str):
    found = judge_disk_key(key, known)
    assert found.state is state
    assert word in found.remedy


# ------------------------------------------------------------------------------------------------------------------ rehearsals


@pytest.mark.parametrize(
    "rehearsed", [LAUNCH, SPOT, IMAGE, GROUP, KEY, TEMPLATE, rehearsals.START, rehearsals.END], ids=lambda each: each.call
)
def test_a_refused_rehearsal_names_statements_that_the_template_has_for_the_call(rehearsed: Rehearsed):
    sids = {statement.sid for statement in roles()["operator"].statements}
    assert set(rehearsed.statements) <= sids
    allowing = {s.sid for s in roles()["operator"].statements if f"ec2:{rehearsed.call}" in s.actions}
    assert set(rehearsed.statements) & allowing


def test_a_dry_run_is_read_as_ec2_means_it():
    assert judge_rehearsal(GROUP, "DryRunOperation", "").state is State.OK
    denied = judge_rehearsal(
        GROUP,
        "UnauthorizedOperation",
        "You are not authorized to perform this operation. User: x is not authorized to perform: ec2:CreateTags on resource: arn:y "
        "because no identity-based policy allows the ec2:CreateTags action. Encoded authorization failure message: AAAA",
    )
    assert denied.state is State.ERROR
    assert denied.what == "CreateSecurityGroup is not allowed (UnauthorizedOperation): ec2:CreateTags on resource: arn:y"
    assert "MakeTagged, MakeGroupsInAnyVpc and TagWhileMaking" in denied.remedy
    assert "monai-aws bootstrap" in denied.remedy
    above = judge_rehearsal(GROUP, "UnauthorizedOperation", "User: x is not authorized … with an explicit deny in a service control policy")
    boundary = judge_rehearsal(GROUP, "UnauthorizedOperation", "User: x is not authorized … with an explicit deny in a boundary")
    assert boundary.remedy == above.remedy
    assert "bootstrap" not in above.remedy
    assert "service control policy" in above.remedy
    profile = judge_rehearsal(LAUNCH, "InvalidParameterValue", "Value (x) for parameter iamInstanceProfile.name is invalid. …")
    assert (profile.state, "monai-aws bootstrap" in profile.remedy) == (State.ERROR, True)
    assert judge_rehearsal(rehearsals.START, "InvalidInstanceID.NotFound", "gone").state is State.SKIPPED


# --------------------------------------------------------------------------------------------------------------------- sources


def test_a_file_that_cannot_be_read_is_named_by_its_setting_and_kind():
    gone = judge_file(download.MODEL, "s3", download.ModelMissingError("no such object"))
    closed = judge_file(download.MODEL, "s3", download.ModelUnreachableError("403"))
    elsewhere = judge_file(download.GOLDEN_STUDY, "https", download.ModelUnreachableError("no route"))
    assert "Put the file there" in gone.remedy
    assert "--model-bucket" in closed.remedy
    assert "MONAI_AWS_GOLDEN_STUDY" in elsewhere.remedy
    assert {gone.state, closed.state, elsewhere.state} == {State.ERROR}


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("ubuntu", ("registry-1.docker.io", "library/ubuntu", "latest")),
        ("nvidia/cuda:13.0.0-runtime-ubuntu24.04", ("registry-1.docker.io", "nvidia/cuda", "13.0.0-runtime-ubuntu24.04")),
        ("docker.io/nvidia/cuda:1", ("registry-1.docker.io", "nvidia/cuda", "1")),
        ("nvcr.io/nvidia/clara/base:2@sha256:ab", ("nvcr.io", "nvidia/clara/base", "sha256:ab")),
        ("host:5000/base", ("host:5000", "base", "latest")),
    ],
)
def test_an_image_is_looked_for_where_docker_would(address: str, parts: tuple[str, str, str]):
    found = Reference.of(address)
    assert (found.host, found.name, found.version) == parts


def test_a_registry_that_wants_a_token_is_asked_with_the_one_it_gives_to_anybody():
    asked: list[tuple[str, str, Mapping[str, str]]] = []

    def ask(method: str, url: str, headers: Mapping[str, str]) -> Reply:
        asked.append((method, url, headers))
        if url.startswith("https://auth.example/token"):
            return Reply(200, body=json.dumps({"token": "T"}).encode())
        if headers.get("Authorization") == "Bearer T":
            return Reply(200)
        challenge = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:nvidia/cuda:pull"'
        return Reply(401, {"www-authenticate": challenge})

    assert manifest_status(Reference("registry.example", "nvidia/cuda", "13"), ask) == 200
    assert [method for method, _, _ in asked] == ["HEAD", "GET", "HEAD"]
    assert asked[0][1] == "https://registry.example/v2/nvidia/cuda/manifests/13"
    assert "scope=repository%3Anvidia%2Fcuda%3Apull" in asked[1][1]
    assert "Authorization" not in asked[1][2]


def test_a_token_is_fetched_over_tls_only():
    challenge = {"www-authenticate": 'Bearer realm="http://auth.example/token",service="x"'}
    asked: list[str] = []

    def ask(_: str, url: str, __: Mapping[str, str]) -> Reply:
        asked.append(url)
        return Reply(401, challenge)

    assert manifest_status(Reference("registry.example", "a", "1"), ask) == 401
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "state"), [(200, State.OK), (401, State.ERROR), (403, State.ERROR), (404, State.ERROR), (429, State.WARNING)]
)
def test_a_manifest_that_is_not_readable_is_an_error_and_a_limit_a_warning(status: int, state: State):
    found = judge_manifest("nvidia/cuda:1", status)
    assert found.state is state
    assert ("MONAI_AWS_BASE_IMAGE" in found.remedy) is (status != 200)


def test_a_registry_that_is_out_of_reach_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: Any) -> Reply:
        raise TimeoutError

    monkeypatch.setattr(sources, "ask_registry", unreachable)
    ecr = SimpleNamespace(get_authorization_token=lambda: {"authorizationData": [{"proxyEndpoint": "https://1.dkr.ecr.x.amazonaws.com"}]})
    clients: Any = SimpleNamespace(ecr=ecr)
    assert sources._base_image(clients, "nvidia/cuda:1").state is State.WARNING
    assert sources._base_image(clients, "2.dkr.ecr.x.amazonaws.com/base:1").state is State.SKIPPED


# ----------------------------------------------------------------------------------------------------------------------- money


def test_alarms_that_nobody_hears_are_named():
    assert judge_subscriptions("topic", ["arn:1", "PendingConfirmation"]).state is State.OK
    assert "link in the mail" in judge_subscriptions("topic", ["PendingConfirmation"]).remedy
    assert "--alarm-email" in judge_subscriptions("topic", []).remedy


def test_a_webhooks_secret_that_may_not_be_read_is_told_the_name_that_may():
    found = judge_secret_denied("AWS refused it.", "dev")
    assert found.state is State.ERROR
    assert "MONAI_AWS_NOTIFY=monai-aws/dev/notify" in found.remedy
    assert judge_no_topic("").state is State.SKIPPED
    assert "MONAI_AWS_ALARM_TOPIC_ARN" in judge_no_topic("me@example.com").remedy
    assert "me@example.com" not in judge_no_topic("me@example.com").what


def test_a_budget_by_tag_counts_once_the_tag_is_active():
    assert judge_tag(["Active"]).state is State.OK
    assert judge_tag(["Inactive"]).state is State.ERROR
    assert "--budget-counts account" in judge_tag(["Inactive"]).remedy
    assert judge_tag([]).state is State.WARNING
    member = judge_tag_hidden("Linked account doesn't have access to cost allocation tags.")
    assert (member.state, "management account" in member.what) == (State.SKIPPED, True)
    assert judge_tag_hidden("User is not authorized to perform: ce:ListCostAllocationTags").state is State.ERROR


# ---------------------------------------------------------------------------------------------------------------- command line


def shown(monkeypatch: pytest.MonkeyPatch, answers: list[Answer], *options: str) -> tuple[int, str, str]:
    def asked(*arguments: Any, **_: Any) -> list[Answer]:
        arguments[2]("still asking somebody")
        return answers

    monkeypatch.setattr(preflight, "preflight", asked)
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "dev")
    monkeypatch.setattr(cli.CONSOLE, "width", 200)
    done = CliRunner().invoke(cli.cli, ["doctor", *options])
    return done.exit_code, done.stdout, done.stderr


def test_the_report_is_json_with_an_exit_code_and_prints_what_others_wrote_letter_by_letter(monkeypatch: pytest.MonkeyPatch):
    odd = "arn:aws:secretsmanager:x:1:secret:name [red]not a style[/red]"
    answers = [
        Answer("one", State.OK, odd),
        Answer("two", State.WARNING, "so so", "Mend [it]."),
        Answer("three", State.SKIPPED, "not asked"),
    ]
    code, out, err = shown(monkeypatch, answers, "--json")
    assert code == 0
    assert json.loads(out)[:2] == [
        {"check": "one", "state": "ok", "what": odd, "remedy": ""},
        {"check": "two", "state": "warning", "what": "so so", "remedy": "Mend [it]."},
    ]
    assert "still asking somebody" in err, "beside the JSON, never in it"
    code, out, _ = shown(monkeypatch, answers)
    assert code == 0
    assert odd in out
    assert "Mend [it]." in out
    assert "3 checks: 1 ok, 1 warning, 1 skipped." in out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_error_is_exit_code_1(options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    assert shown(monkeypatch, [Answer("one", State.ERROR, "broken", "Mend it.")], *options)[0] == 1


# ------------------------------------------------------------------------------------------------------------------------ portal

PORTAL = "https://portal.example.org"


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (Reply(200, {"access-control-allow-origin": PORTAL}), State.OK),
        (Reply(200, {"access-control-allow-origin": "*"}), State.OK),
        (Reply(200, {"access-control-allow-origin": "https://other.example.org"}), State.WARNING),
        (Reply(200, {}), State.WARNING),
        (Reply(403, {}), State.WARNING),
        (Reply(301, {}), State.WARNING),
    ],
)
def test_a_bucket_that_takes_no_uploads_from_the_portals_pages_is_named(reply: Reply, state: State):
    assert judge_uploads("studies", PORTAL, reply).state is state


def test_the_remedy_for_a_bucket_without_cors_can_be_pasted():
    remedy = judge_uploads("studies", PORTAL, Reply(403)).remedy
    assert f"monai-aws bootstrap --portal-origin {PORTAL}\n" in remedy
    words = shlex.split(remedy.partition("not the stack's: ")[2])
    assert words[:5] == ["aws", "s3api", "put-bucket-cors", "--bucket", "studies"]
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="studies")
        s3.put_bucket_cors(Bucket="studies", CORSConfiguration=json.loads(words[6]))
        (rule,) = s3.get_bucket_cors(Bucket="studies")["CORSRules"]
    assert (rule["AllowedOrigins"], rule["AllowedMethods"]) == ([PORTAL], ["PUT"])


def test_an_origin_is_what_a_browser_calls_it():
    assert origin_of("http://127.0.0.1:3070") == "http://127.0.0.1:3070"
    assert origin_of("https://portal.example.org/") == PORTAL
