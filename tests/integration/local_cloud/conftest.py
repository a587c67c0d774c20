"""Clients, keys and machines for the tests of the embedded AWS itself."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.config import DEEP_LEARNING_AMI_PARAMETERS

pytestmark = pytest.mark.cloud
TRUST_EC2 = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def unique(prefix: str) -> str:
    """A name no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def eventually(what: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.2) -> Any:
    """The first true value of ``what``; an assertion error with the last one when time runs out."""
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"still {value!r} after {timeout_s:.0f} s"
        time.sleep(every_s)
    return value


NOT_YET = ("Invalid IAM Instance Profile", "cannot be assumed", "to assume the role", "Unable to validate the following", "at this time")
"""Words with which services other than EC2 say so."""


def ask_again(attempts: int, response: tuple[Any, dict[str, Any]] | None, **_: Any) -> float | None:
    """Seconds until botocore repeats a call about what is not known (yet); None for every other answer, and after three of these."""
    error = response[1].get("Error", {}) if response else {}
    said, code = str(error.get("Message", "")), str(error.get("Code", ""))
    return 0.05 if (code.endswith(".NotFound") or any(words in said for words in NOT_YET)) and attempts <= 3 else None


@dataclass(frozen=True)
class Account:
    """Boto3 clients of the administrator, or of anybody else by keys."""

    cloud: LocalCloud
    patient: bool = True
    """Whether its clients ask again for what AWS does not know yet, as everybody must who has just made something."""

    def client(self, service: str, keys: tuple[str, str, str | None] | None = None, region: str = "us-east-1") -> Any:
        access, secret, token = keys or (*self.admin_keys(), None)
        session = boto3.Session(aws_access_key_id=access, aws_secret_access_key=secret, aws_session_token=token, region_name=region)
        client = session.client(service, endpoint_url=self.cloud.endpoint, config=Config(retries={"total_max_attempts": 1}))
        if self.patient:
            client.meta.events.register(f"needs-retry.{client.meta.service_model.service_id.hyphenize()}", ask_again)
        return client

    def admin_keys(self) -> tuple[str, str]:
        keys = json.loads((self.cloud.config.state_dir / "admin-keys.json").read_text())
        return keys["access_key"], keys["secret_key"]

    def role(self, statements: list[dict[str, Any]], trust: dict[str, Any] | None = None) -> str:
        """A new role with an inline policy; returns its name."""
        iam, name = self.client("iam"), unique("role")
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust or TRUST_EC2))
        if statements:
            document = {"Version": "2012-10-17", "Statement": statements}
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(document))
        return name

    def profile(self, statements: list[dict[str, Any]]) -> str:
        """A new instance profile with such a role; returns the name of both."""
        iam, name = self.client("iam"), self.role(statements)
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        return name

    def assume(self, statements: list[dict[str, Any]]) -> tuple[str, str, str]:
        """Keys of somebody who may do just this."""
        trust = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}],
        }
        role = self.role(statements, trust)
        given = self.client("sts").assume_role(RoleArn=f"arn:aws:iam::123456789012:role/{role}", RoleSessionName="test")["Credentials"]
        return given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]

    def base_image(self) -> str:
        return str(self.client("ssm").get_parameter(Name=DEEP_LEARNING_AMI_PARAMETERS[0])["Parameter"]["Value"])


@dataclass(frozen=True)
class Keys:
    """An SSH key pair of the caller and a host key for machines, as files; ``name`` is the imported key's."""

    folder: Path
    name: str

    @property
    def private(self) -> Path:
        return self.folder / "caller"

    @property
    def host_public(self) -> str:
        return (self.folder / "host.pub").read_text().strip()

    def user_data(self, commands: list[str]) -> str:
        private = "".join(f"    {line}\n" for line in (self.folder / "host").read_text().splitlines())
        runs = "".join(f"  - {json.dumps(['sh', '-c', command])}\n" for command in commands or ["true"])
        return (
            f"#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n{private}"
            f"  ed25519_public: {self.host_public}\nruncmd:\n{runs}"
        )


@dataclass(frozen=True)
class Instance:
    """A running instance and the ways into it."""

    account: Account
    keys: Keys
    id: str
    address: str

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = self.account.client("ec2").describe_instances(InstanceIds=[self.id])["Reservations"][0]["Instances"][0]
        return found

    @property
    def state(self) -> str:
        return str(self.describe()["State"]["Name"])

    def until(self, state: str, timeout_s: float = 90.0) -> None:
        eventually(lambda: self.state == state, timeout_s)

    def ssh_command(self, *extra: str, user: str = "ubuntu", private: Path | None = None) -> list[str]:
        known = self.keys.folder / f"known-{self.id}"
        known.write_text(f"{self.known_name} {self.keys.host_public}\n")
        options = ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=3", "IdentitiesOnly=yes", f"UserKnownHostsFile={known}")
        port = self.account.cloud.environment["MONAI_AWS_SSH_PORT"]
        named = [part for option in options for part in ("-o", option)]
        return ["ssh", "-F", "none", "-i", str(private or self.keys.private), "-p", port, *named, *extra, f"{user}@{self.address}"]

    @property
    def known_name(self) -> str:
        port = self.account.cloud.environment["MONAI_AWS_SSH_PORT"]
        return self.address if port == "22" else f"[{self.address}]:{port}"

    def ssh(self, command: str, timeout_s: float = 60.0) -> str:
        """Output of a command; waits until the SSH server answers; the host key must be the one of the user data."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = subprocess.run([*self.ssh_command(), command], capture_output=True, text=True, check=False, timeout=timeout_s)
            if done.returncode == 0:
                return done.stdout.strip()
            assert done.returncode == 255 and time.monotonic() < deadline, f"{command!r}: {done.returncode} {done.stderr}"
            time.sleep(0.3)

    def command(self, script: str, **parameters: Any) -> dict[str, Any]:
        """Run a script through SSM as soon as the agent is online, and wait for its end."""
        ssm = self.account.client("ssm")
        online = lambda: ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [self.id]}])["InstanceInformationList"]  # noqa: E731
        eventually(online)
        sent = ssm.send_command(
            InstanceIds=[self.id],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": [script], **{k: [str(v)] for k, v in parameters.items()}},
        )
        ask = lambda: ssm.get_command_invocation(CommandId=sent["Command"]["CommandId"], InstanceId=self.id)  # noqa: E731
        found: dict[str, Any] = eventually(lambda: (answer := ask())["Status"] not in ("Pending", "InProgress", "Delayed") and answer)
        return found


@pytest.fixture(scope="session")
def account(local_cloud: LocalCloud) -> Account:
    return Account(local_cloud)


@pytest.fixture(scope="session")
def keys(account: Account, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("caller", "host", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    made = Keys(folder, unique("key"))
    account.client("ec2").import_key_pair(KeyName=made.name, PublicKeyMaterial=(folder / "caller.pub").read_bytes())
    return made


@pytest.fixture
def launch(account: Account, keys: Keys) -> Iterator[Callable[..., Instance]]:
    """Start an instance; it is terminated after the test."""
    ec2, started = account.client("ec2"), []

    def run(commands: list[str] | None = None, *, wait: bool = True, **options: Any) -> Instance:
        wanted = {
            "ImageId": account.base_image(),
            "InstanceType": "g4dn.xlarge",
            "KeyName": keys.name,
            "UserData": keys.user_data(commands or []),
        }
        made = ec2.run_instances(MinCount=1, MaxCount=1, **{**wanted, **options})["Instances"][0]
        started.append(made["InstanceId"])
        instance = Instance(account, keys, made["InstanceId"], made["PublicIpAddress"])
        if wait:
            instance.until("running")
        return instance

    yield run
    for name in started:
        ec2.terminate_instances(InstanceIds=[name])
    for name in started:
        eventually(
            lambda name=name: ec2.describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"
        )
