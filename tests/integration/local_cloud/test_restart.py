"""What survives: a stop, a start, and kill -9 of every process. Each test has a cloud of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.local_cloud.commands import down, reset, status, up
from monai_aws_pipeline.local_cloud.config import CloudConfig
from monai_aws_pipeline.local_cloud.engine import mounts_below
from monai_aws_pipeline.local_cloud.errors import LocalCloudError, PortTakenError
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.integration.local_cloud.conftest import Account, eventually, unique
from tests.integration.local_cloud.dicomweb_client import DicomWebClient
from tests.integration.local_cloud.docker_client import Docker, password, tiny_image
from tests.support.cloud import own_cloud, say
from tests.support.imaging import Store
from tests.unit.local_cloud.dicom import write

pytestmark = pytest.mark.cloud


@pytest.fixture
def config(request: pytest.FixtureRequest) -> Iterator[CloudConfig]:
    with own_cloud("own") as made:
        yield made


def traces(config: CloudConfig) -> list[str]:
    """Processes, mounts, sockets and control groups of a cloud that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                groups = (entry / "cgroup").read_text()
            except OSError:
                continue
            if ".owner " in line:
                continue  # the shell that ends this test's cloud, tests/support/reaper.py
            if str(config.state_dir) in line or config.identity in line or config.identity in groups:
                found.append(line)
    found += [str(point) for folder in (config.state_dir, config.run_dir) for point in mounts_below(folder)]
    return found + ([str(config.run_dir)] if config.run_dir.exists() else [])


def test_data_survives_down_and_kill_and_nothing_is_left_behind(config: CloudConfig, tmp_path: Path):
    account = Account(up(config, say))
    bucket, repository = unique("kept"), unique("kept")
    s3, ecr, ec2 = account.client("s3"), account.client("ecr"), account.client("ec2")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="input/a b.zip", Body=b"study", Metadata={"who": "me"})
    host = config.registry_host
    ecr.create_repository(repositoryName=repository)
    docker = Docker(account.cloud, tmp_path)
    docker("login", "--username", "AWS", "--password-stdin", host, stdin=password(account))
    tiny_image(docker, f"{host}/{repository}:1", "kept")
    assert docker("push", f"{host}/{repository}:1")[0]
    archive = Store(account)
    assert DicomWebClient(account, archive.id).store(write(tmp_path / "a.dcm", SOPInstanceUID="1.1")).status == 200
    profile = account.profile([{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}])
    instance = ec2.run_instances(ImageId=account.base_image(), InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1)["Instances"][0][
        "InstanceId"
    ]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1, "MaxAttempts": 90})
    image = ec2.create_image(
        InstanceId=instance, Name="kept", TagSpecifications=[{"ResourceType": "image", "Tags": [{"Key": "k", "Value": "v"}]}]
    )
    ec2.get_waiter("image_available").wait(ImageIds=[image["ImageId"]], WaiterConfig={"Delay": 1, "MaxAttempts": 90})

    def check() -> None:
        assert s3.get_object(Bucket=bucket, Key="input/a b.zip")["Body"].read() == b"study"
        assert s3.head_object(Bucket=bucket, Key="input/a b.zip")["Metadata"] == {"who": "me"}
        (found,) = DicomWebClient(account, archive.id).found("/studies/1.2.3/series/1.2.3.1/metadata")
        assert found["00080018"]["Value"] == ["1.1"]
        docker("rmi", "--force", f"{host}/{repository}:1")
        ok, said = docker("pull", f"{host}/{repository}:1")
        assert ok, said
        assert ecr.describe_images(repositoryName=repository)["imageDetails"][0]["imageTags"] == ["1"]
        assert account.client("iam").get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"][0]["RoleName"] == profile
        assert ec2.describe_instances()["Reservations"] == [], "machines do not survive"
        found = ec2.describe_images(Owners=["self"])["Images"]
        assert [(one["ImageId"], one["Name"], one["Tags"]) for one in found] == [(image["ImageId"], "kept", [{"Key": "k", "Value": "v"}])]

    down(config)
    assert traces(config) == []
    assert not status(config).running
    again = up(config, say)
    assert again.environment == account.cloud.environment, "programs that were told the old keys keep working"
    check()
    again_instance = ec2.run_instances(ImageId=image["ImageId"], InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1)["Instances"][0][
        "InstanceId"
    ]
    ec2.get_waiter("instance_running").wait(InstanceIds=[again_instance], WaiterConfig={"Delay": 1, "MaxAttempts": 90})
    s3.put_object(Bucket=bucket, Key="late", Body=b"written just before")
    eventually(lambda: (config.state_dir / "local-state.json").stat().st_mtime)
    for name in ("server", "registry", "engine"):
        os.kill(int((config.state_dir / f"{name}.pid").read_text().split()[0]), signal.SIGKILL)
    up(config, say)
    check()
    assert s3.get_object(Bucket=bucket, Key="late")["Body"].read() == b"written just before"
    assert not any(config.machines_dir.glob("*")), "machines that outlived their server are gone"
    down(config)
    assert traces(config) == []


OWNER = """
import sys
from tests.support.cloud import own_cloud, up
with own_cloud("killed") as config:
    up(config)
    print(config.to_json(), flush=True)
    sys.stdin.read()
"""


def test_a_cloud_whose_test_process_is_killed_is_taken_down(account: Account):
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=PROJECT_ROOT, stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdout
        theirs = CloudConfig.from_json(owner.stdout.readline())
        assert status(theirs).running
        owner.kill()
    eventually(lambda: not theirs.state_dir.exists() and traces(theirs) == [], timeout_s=120)
    assert status(account.cloud.config).running, "one whose owner lives is not touched"


@pytest.mark.parametrize("begun", ["server.pid", "engine.pid"])
def test_a_start_that_was_killed_can_be_ended_and_begun_again(config: CloudConfig, begun: str):
    """What ``demo-down`` does after ``kill -9`` of a demo that was starting."""
    command = [sys.executable, "-m", "monai_aws_pipeline.local_cloud"]
    options = ["--state-dir", str(config.state_dir), "--port", str(config.port)]
    with subprocess.Popen([*command, "up", *options], cwd=PROJECT_ROOT) as starting:
        eventually((config.state_dir / begun).exists, every_s=0.005)
        starting.kill()
    assert traces(config) != []
    down(config)
    assert traces(config) == []
    assert Account(up(config, say)).client("sts").get_caller_identity()


def test_two_clouds_run_side_by_side_and_a_taken_port_is_named(config: CloudConfig, account: Account, tmp_path: Path):
    other = Account(up(config, say))
    bucket = unique("mine")
    other.client("s3").create_bucket(Bucket=bucket)
    with pytest.raises(ClientError):
        account.client("s3").head_bucket(Bucket=bucket)
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        account.client("sts", (*other.admin_keys(), None)).get_caller_identity()
    with pytest.raises(PortTakenError, match=str(config.port)):
        up(CloudConfig(state_dir=tmp_path / "third", port=config.port, cache_dir=config.cache_dir))


def test_a_reset_deletes_the_state_folder(config: CloudConfig):
    up(config, say)
    reset(config)
    assert not config.state_dir.exists()
    assert traces(config) == []
    with pytest.raises(LocalCloudError, match="does not answer"):
        from monai_aws_pipeline.local_cloud.commands import control

        control(config, "GET", "/_local/health")


def test_the_command_line_starts_and_stops_one(config: CloudConfig):
    def run(command: str) -> subprocess.CompletedProcess[str]:
        line = ["python", "-m", "monai_aws_pipeline.local_cloud", command, "--state-dir", str(config.state_dir), "--port", str(config.port)]
        return subprocess.run([sys.executable, *line[1:]], capture_output=True, text=True, check=False)

    assert "answers at" in run("up").stdout
    assert "already running" in run("up").stdout
    assert run("status").stdout.startswith("running at")
    assert "is down" in run("down").stdout
    assert run("status").returncode == 1
