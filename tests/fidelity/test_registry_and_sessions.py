"""ECR's indexes, scans, logins and rates; sessions of STS and SSO that end; Systems Manager's documents and outputs."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import AgentError, CommandError, SessionError, ThrottledError
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.deployment.registry_upload import Repository
from monai_aws_pipeline.local_cloud.commands import LocalCloud, control
from tests.fidelity.conftest import Buyer, refusal
from tests.integration.local_cloud.conftest import Account, eventually, unique

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour
INDEX, MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@pytest.fixture
def ecr(account: Account) -> Any:
    return account.client("ecr")


@pytest.fixture
def registry(ecr: Any) -> Registry:
    found = Registry(ecr, unique("map"))
    found.ensure("fidelity", "test")
    return found


@pytest.fixture
def index(ecr: Any, registry: Registry, tmp_path: Path) -> tuple[str, str]:
    """Digests of an index as buildx pushes it, with an attestation, and of the image in it."""
    login = ecr.get_authorization_token()["authorizationData"][0]
    repository = Repository(f"{login['proxyEndpoint']}/v2/{registry.name}", login["authorizationToken"])
    listed = []
    for platform in ({"os": "linux", "architecture": "amd64"}, {"os": "unknown", "architecture": "unknown"}):
        blob = json.dumps(platform).encode()
        (tmp_path / "blob").write_bytes(blob)
        repository.put_blob(tmp_path / "blob", digest_of(blob))
        part = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(blob), "size": len(blob)}
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": part, "layers": []}).encode()
        put(ecr, registry, manifest, MANIFEST)
        listed.append({"mediaType": MANIFEST, "digest": digest_of(manifest), "size": len(manifest), "platform": platform})
    whole = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
    put(ecr, registry, whole, INDEX)
    return digest_of(whole), str(listed[0]["digest"])


def put(ecr: Any, registry: Registry, manifest: bytes, kind: str) -> None:
    ecr.put_image(
        repositoryName=registry.name, imageManifest=manifest.decode(), imageManifestMediaType=kind, imageTag=digest_of(manifest)[7:20]
    )


def plant(cloud: LocalCloud, registry: Registry, digest: str) -> None:
    scan = {"repository": registry.name, "digest": digest, "findings": [{"name": "CVE-1", "severity": "HIGH"}]}
    control(cloud.config, "POST", "/_local/scans", scan)


# ------------------------------------------------------------------------------------------------------------------------ registry


@behaviour("index-with-attestations")
def test_an_index_is_not_scanned_but_the_image_in_it_embedded(
    ecr: Any, registry: Registry, local_cloud: LocalCloud, index: tuple[str, str]
):
    whole, image = index
    with pytest.raises(Exception, match="basic scan looks at images"):
        plant(local_cloud, registry, whole)
    plant(local_cloud, registry, image)
    with pytest.raises(ClientError) as error:
        ecr.describe_image_scan_findings(repositoryName=registry.name, imageId={"imageDigest": whole})
    assert refusal(error)[:2] == ("ScanNotFoundException", 400)
    assert ecr.describe_image_scan_findings(repositoryName=registry.name, imageId={"imageDigest": image})["imageScanFindings"]["findings"]


@behaviour("index-with-attestations")
def test_the_scan_and_the_parts_of_an_index_are_those_of_its_image_handled(
    registry: Registry, local_cloud: LocalCloud, index: tuple[str, str]
):
    whole, image = index
    plant(local_cloud, registry, image)
    found = registry.scan(whole)
    assert found is not None
    assert found.counts == {"HIGH": 1}
    assert registry.parts(whole).config == {"os": "linux", "architecture": "amd64"}


@behaviour("registry-login-ends")
def test_a_login_of_the_registry_is_over_after_12_hours_embedded(ecr: Any, registry: Registry, local_cloud: LocalCloud):
    login = ecr.get_authorization_token()["authorizationData"][0]
    local_cloud.order_fault(end_logins=True)
    request = urllib.request.Request(f"{login['proxyEndpoint']}/v2/{registry.name}/tags/list")  # noqa: S310
    request.add_header("Authorization", f"Basic {login['authorizationToken']}")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)  # noqa: S310
    assert error.value.code == 403
    assert "Your authorization token has expired. Reauthenticate and try again." in error.value.read().decode()
    assert base64.b64decode(login["authorizationToken"]).startswith(b"AWS:")


@behaviour("registry-login-ends")
def test_each_read_logs_in_anew_handled(registry: Registry, local_cloud: LocalCloud, index: tuple[str, str]):
    registry.parts(index[1])
    local_cloud.order_fault(end_logins=True)
    assert registry.parts(index[1]).config["os"] == "linux"


@behaviour("registry-rates")
def test_too_many_calls_of_the_registry_are_refused_embedded(ecr: Any, registry: Registry, local_cloud: LocalCloud):
    local_cloud.order_fault(service="ecr", action="DescribeImages", code="ThrottlingException")
    with pytest.raises(ClientError) as error:
        ecr.describe_images(repositoryName=registry.name)
    assert refusal(error) == ("ThrottlingException", 400, "Rate exceeded")


@behaviour("registry-rates")
def test_calls_of_the_registry_are_repeated_and_named_at_last_handled(
    cloud_environment: LocalCloud, registry: Registry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    patient = Registry(Clients("us-east-1").ecr, registry.name)
    cloud_environment.order_fault(service="ecr", action="DescribeImages", code="ThrottlingException", times=3)
    assert patient.images() == []
    cloud_environment.order_fault(service="ecr", action="DescribeImages", code="ThrottlingException", times=6)
    with pytest.raises(ThrottledError, match="ThrottlingException"):
        patient.images()


# ------------------------------------------------------------------------------------------------------------------------ sessions


@pytest.fixture
def profile(account: Account, cloud_environment: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credentials file with keys of a session, as a login writes them; the environment has none."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    log_in(account, tmp_path / "credentials")
    return tmp_path / "credentials"


def log_in(account: Account, place: Path) -> None:
    key, secret, token = account.assume([{"Effect": "Allow", "Action": "*", "Resource": "*"}])
    place.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\naws_session_token={token}\n")


@behaviour("session-ends")
@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("sts", "get_caller_identity", "ExpiredToken"),
        ("sqs", "list_queues", "ExpiredToken"),
        ("ecr", "describe_repositories", "ExpiredTokenException"),
        ("s3", "list_buckets", "ExpiredToken"),
    ],
)
def test_calls_of_a_session_that_is_over_are_refused_embedded(
    account: Account, local_cloud: LocalCloud, service: str, call: str, code: str
):
    client = account.client(service, account.assume([{"Effect": "Allow", "Action": "*", "Resource": "*"}]))
    getattr(client, call)()
    local_cloud.order_fault(end_sessions="test")
    with pytest.raises(ClientError) as error:
        getattr(client, call)()
    assert refusal(error)[0].startswith(code)


@behaviour("session-ends")
def test_a_long_run_goes_on_with_what_a_new_login_gave_and_names_that_there_is_none_handled(
    account: Account, local_cloud: LocalCloud, profile: Path
):
    clients = Clients("us-east-1")
    clients.sqs.list_queues()
    local_cloud.order_fault(end_sessions="test")
    for call in (clients.sqs.list_queues, clients.ecr.describe_repositories, clients.s3.list_buckets):
        with pytest.raises(SessionError, match=r"ExpiredToken.*session is over.*aws sso login"):
            call()
    log_in(account, profile)
    clients.sqs.list_queues()
    assert "Buckets" in clients.s3.list_buckets()


@behaviour("session-ends")
def test_a_login_by_sso_that_is_over_is_named_handled(profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile.unlink()
    (tmp_path / "config").write_text(
        "[default]\nsso_session=x\nsso_account_id=123456789012\nsso_role_name=x\n"
        "[sso-session x]\nsso_region=us-east-1\nsso_start_url=https://example.org\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SessionError, match=r"login is over.*aws sso login"):
        Clients("us-east-1").sqs.list_queues()


# ---------------------------------------------------------------------------------------------------------------- Systems Manager


@behaviour("command-documents")
def test_a_document_that_is_not_there_and_a_machine_that_is_not_online_are_refused_embedded(account: Account):
    ssm = account.client("ssm")
    for document, code in (("AWS-RunRubyScript", "InvalidDocument"), ("AWS-RunShellScript", "InvalidInstanceId")):
        with pytest.raises(ClientError) as error:
            ssm.send_command(InstanceIds=["i-0123456789abcdef0"], DocumentName=document, Parameters={"commands": ["true"]})
        assert refusal(error)[:2] == (code, 400)


@behaviour("command-documents")
def test_a_machine_that_takes_no_commands_is_named_handled(account: Account, local_cloud: LocalCloud):
    commands = Commands(account.client("ssm"))
    with pytest.raises(AgentError, match="takes no commands"):
        commands.run("i-0123456789abcdef0", "true")
    local_cloud.order_fault(service="ssm", action="SendCommand", code="InvalidDocument")
    with pytest.raises(CommandError, match="InvalidDocument"):
        commands.run("i-0123456789abcdef0", "true")


@pytest.fixture(scope="module")
def online(local_cloud: LocalCloud) -> Any:
    buyer = Buyer(Account(local_cloud, patient=False))
    machine = buyer.launch()["InstanceId"]
    Commands(buyer.account.client("ssm")).wait_online(machine, 120)
    yield machine
    buyer.end()


LONG = "head -c 30000 /dev/zero | tr '\\0' x; echo; echo THE-END"


@behaviour("command-output")
def test_the_output_of_a_command_is_cut_at_24000_characters_embedded(account: Account, online: str):
    ssm = account.client("ssm")
    sent = ssm.send_command(InstanceIds=[online], DocumentName="AWS-RunShellScript", Parameters={"commands": [LONG]})["Command"][
        "CommandId"
    ]
    ask = lambda: ssm.get_command_invocation(CommandId=sent, InstanceId=online)  # noqa: E731
    found = eventually(lambda: (seen := ask())["Status"] not in ("Pending", "InProgress") and seen)
    assert (found["Status"], len(found["StandardOutputContent"])) == ("Success", 24_000)


@behaviour("command-output")
def test_a_command_whose_output_is_cut_still_ends_as_it_ended_handled(account: Account, online: str):
    ended = Commands(account.client("ssm")).run(online, f"{LONG}\nexit 3")
    assert (ended.exit_code, len(ended.stdout)) == (3, 24_000)
    assert "THE-END" not in ended.stdout
