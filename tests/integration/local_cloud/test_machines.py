"""Emulated EC2 instances are machines: reachable with the key alone, with a disk, a first boot, a role and an engine of their own."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from tests.integration.local_cloud.conftest import Account, Instance, Keys, eventually, unique

pytestmark = pytest.mark.cloud
Launch = Callable[..., Instance]


def test_an_instance_answers_ssh_with_the_imported_key_and_the_host_key_of_its_user_data_only(launch: Launch, keys: Keys):
    instance = launch()
    assert instance.address.startswith("127.")
    assert instance.describe()["PrivateIpAddress"] == instance.describe()["PublicIpAddress"] == instance.address
    assert instance.ssh("whoami; sudo whoami; systemctl is-system-running --wait").split() == ["ubuntu", "root", "running"]
    stranger = subprocess.run(
        [*instance.ssh_command(private=keys.folder / "stranger"), "true"], capture_output=True, text=True, check=False
    )
    assert stranger.returncode == 255 and "Permission denied (publickey)" in stranger.stderr
    password = subprocess.run(
        [*instance.ssh_command("-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive"), "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Permission denied" in password.stderr


def test_user_data_runs_once_as_root_and_a_stop_keeps_the_disk(launch: Launch, account: Account):
    instance = launch(["id -u >> /var/lib/first-boot"])
    instance.ssh("sudo cloud-init status --wait >/dev/null; echo kept | sudo tee /srv/note")
    ec2 = account.client("ec2")
    stopping = ec2.stop_instances(InstanceIds=[instance.id])["StoppingInstances"][0]["CurrentState"]["Name"]
    assert stopping == "stopping"
    instance.until("stopped")
    with pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection((instance.address, int(account.cloud.environment["MONAI_AWS_SSH_PORT"])), timeout=2)
    assert ec2.start_instances(InstanceIds=[instance.id])["StartingInstances"][0]["CurrentState"]["Name"] == "pending"
    instance.until("running")
    assert instance.ssh("sudo cloud-init status --wait >/dev/null; cat /srv/note; sudo cat /var/lib/first-boot").split() == ["kept", "0"]
    assert instance.describe()["PublicIpAddress"] == instance.address


def test_a_terminated_instance_is_gone_with_its_disk(launch: Launch, account: Account):
    instance = launch()
    folder = account.cloud.config.machines_dir / instance.id
    assert folder.is_dir()
    account.client("ec2").terminate_instances(InstanceIds=[instance.id])
    instance.until("terminated")
    assert not folder.exists()
    with pytest.raises(ClientError, match="IncorrectInstanceState"):
        account.client("ec2").start_instances(InstanceIds=[instance.id])


@pytest.mark.parametrize(("behaviour", "end"), [("stop", "stopped"), ("terminate", "terminated")])
def test_a_machine_that_shuts_itself_down_ends_as_its_shutdown_behaviour_says(launch: Launch, behaviour: str, end: str):
    instance = launch(InstanceInitiatedShutdownBehavior=behaviour)
    instance.ssh("sudo systemd-run --on-active=1 --timer-property=AccuracySec=100ms shutdown -h now")
    instance.until(end)
    found = instance.describe()
    assert found["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert found["StateTransitionReason"].startswith("Instance initiated (")


def test_a_machine_that_reboots_comes_back(launch: Launch):
    instance = launch()
    first = instance.ssh("cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic --value; echo $$ > /dev/null")
    mark = instance.ssh("sudo touch /run/before-reboot; ls /run/before-reboot")
    assert first and mark == "/run/before-reboot"
    instance.ssh("sudo systemd-run --on-active=1 --timer-property=AccuracySec=100ms reboot")
    eventually(lambda: "before-reboot" not in instance.ssh("ls /run"))
    assert instance.state == "running"


def test_an_image_holds_the_file_system_and_its_instances_boot_afresh(launch: Launch, account: Account):
    ec2, west = account.client("ec2"), account.client("ec2", region="us-west-2")
    first = launch(["echo baked > /opt/baked; echo lost > /run/lost"])
    first.ssh("sudo cloud-init status --wait >/dev/null")
    identity = first.ssh("cat /etc/machine-id")
    name = unique("image")
    image = ec2.create_image(InstanceId=first.id, Name=name)["ImageId"]
    assert ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "pending"
    with pytest.raises(ClientError, match=r"InvalidAMIName\.Duplicate"):
        ec2.create_image(InstanceId=first.id, Name=name)
    ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    second = launch(["echo again > /opt/again"], ImageId=image)
    second.ssh("sudo cloud-init status --wait >/dev/null")
    assert second.ssh("cat /opt/baked /opt/again; ls /run/lost 2>/dev/null || true").split() == ["baked", "again"]
    assert second.ssh("cat /etc/machine-id") != identity
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        west.run_instances(ImageId=image, InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1)
    copied = west.copy_image(SourceImageId=image, SourceRegion="us-east-1", Name=unique("copy"))["ImageId"]
    eventually(lambda: west.describe_images(ImageIds=[copied])["Images"][0]["State"] == "available")
    ec2.deregister_image(ImageId=image)
    with pytest.raises(ClientError, match=r"InvalidAMIID"):
        ec2.run_instances(ImageId=image, InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1)
    west.deregister_image(ImageId=copied)


def test_an_image_keeps_what_the_machines_engine_held(launch: Launch, account: Account):
    ec2 = account.client("ec2")
    first = launch()
    first.ssh("echo hello > /tmp/f && tar -C /tmp -c f | sudo docker import - kept:1")
    image = ec2.create_image(InstanceId=first.id, Name=unique("engine"))["ImageId"]
    ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    second = launch(ImageId=image)
    assert "kept:1" in second.ssh("sudo docker images --format '{{.Repository}}:{{.Tag}}'")
    third = launch()
    assert third.ssh("sudo docker images -q") == "", "another machine has an engine and images of its own"
    ec2.deregister_image(ImageId=image)


def test_a_role_reaches_its_machine_through_the_metadata_service_and_is_enforced(launch: Launch, account: Account):
    bucket = unique("role-bucket")
    account.client("s3").create_bucket(Bucket=bucket)
    profile = account.profile([{"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/allowed/*"}])
    instance = launch(IamInstanceProfile={"Name": profile})
    metadata = "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest"
    assert instance.ssh(f"curl -s -o /dev/null -w '%{{http_code}}' {metadata}/meta-data/instance-id") == "401", "IMDSv1 is refused"
    token = f"$(curl -s -X PUT {metadata}/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')"
    assert instance.ssh(f'curl -s -H "X-aws-ec2-metadata-token: {token}" {metadata}/meta-data/instance-id') == instance.id
    given = json.loads(
        instance.ssh(f'curl -s -H "X-aws-ec2-metadata-token: {token}" {metadata}/meta-data/iam/security-credentials/{profile}')
    )
    keys = (given["AccessKeyId"], given["SecretAccessKey"], given["Token"])
    assert account.client("sts", keys).get_caller_identity()["Arn"].endswith(f"assumed-role/{profile}/{instance.id}")
    account.client("s3", keys).put_object(Bucket=bucket, Key="allowed/x", Body=b"1")
    with pytest.raises(ClientError, match="AccessDenied"):
        account.client("s3", keys).put_object(Bucket=bucket, Key="elsewhere", Body=b"1")
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        account.client("ec2", keys).describe_instances()


def test_the_sdk_inside_a_machine_finds_endpoint_and_role_by_itself(launch: Launch, account: Account):
    profile = account.profile([{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}])
    instance = launch(IamInstanceProfile={"Name": profile})
    wheels = account.cloud.config.state_dir / "wheels"
    subprocess.run(["pip", "wheel", "-q", "--wheel-dir", wheels, "boto3==1.43.106"], check=True)
    packed = subprocess.run(["tar", "-C", wheels, "-c", "."], capture_output=True, check=True).stdout
    instance.ssh("true")
    subprocess.run(
        [*instance.ssh_command(), "mkdir -p w && tar -C w -x && python3 -m venv v && v/bin/pip -q install --no-index -f w boto3"],
        input=packed,
        check=True,
    )
    script = "import boto3; print(boto3.client('s3').list_buckets()['ResponseMetadata']['HTTPStatusCode'])"
    assert instance.ssh(f'v/bin/python -c "{script}"') == "200"
    assert (
        instance.ssh(f'sudo systemd-run --quiet --pipe --wait v/bin/python -c "{script}"'.replace("v/bin", "/home/ubuntu/v/bin")) == "200"
    )


def test_run_command_refuses_until_the_agent_is_online_and_then_tells_the_truth(launch: Launch, account: Account):
    ssm = account.client("ssm")
    instance = launch(IamInstanceProfile={"Name": account.profile([])}, wait=False)
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        ssm.send_command(InstanceIds=[instance.id], DocumentName="AWS-RunShellScript", Parameters={"commands": ["true"]})
    done = instance.command("echo out; echo err >&2; id -u; exit 3")
    assert (done["Status"], done["ResponseCode"]) == ("Failed", 3)
    assert (done["StandardOutputContent"], done["StandardErrorContent"]) == ("out\n0\n", "err\n")
    assert instance.command("true")["Status"] == "Success"
    late = instance.command("sleep 60", executionTimeout=1)
    assert (late["Status"], late["StatusDetails"]) == ("TimedOut", "ExecutionTimedOut")


def test_an_instance_without_a_profile_is_never_managed(launch: Launch, account: Account):
    instance = launch()
    instance.ssh("sleep 3")
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        account.client("ssm").send_command(InstanceIds=[instance.id], DocumentName="AWS-RunShellScript", Parameters={"commands": ["true"]})


def test_the_same_client_token_gives_the_same_instance(launch: Launch, account: Account):
    profile, token = account.profile([]), unique("token")
    first = launch(ClientToken=token, IamInstanceProfile={"Name": profile})
    again = launch(ClientToken=token, IamInstanceProfile={"Name": profile})
    assert first.id == again.id


def test_wrong_requests_are_refused_as_ec2_refuses_them(account: Account, keys: Keys):
    ec2 = account.client("ec2")
    base = {"ImageId": account.base_image(), "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    for change, code in (
        ({"ImageId": "ami-0123456789abcdef0"}, r"InvalidAMIID\.NotFound"),
        ({"KeyName": "nobody"}, r"InvalidKeyPair\.NotFound"),
        ({"InstanceType": "x9.huge"}, "InvalidInstanceType"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
    ):
        with pytest.raises(ClientError, match=code):
            ec2.run_instances(**{**base, **change})


def test_ordered_faults_strike_and_pass(launch: Launch, account: Account):
    account.cloud.order_fault(service="ec2", action="RunInstances", code="InsufficientInstanceCapacity", status=500)
    account.cloud.order_fault(service="sqs", action="ListQueues", code="ThrottlingException")
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        launch()
    with pytest.raises(ClientError, match="Throttling"):
        account.client("sqs").list_queues()
    instance = launch()
    instance.ssh("true")
    account.cloud.refuse_ssh(instance.id)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((instance.address, int(account.cloud.environment["MONAI_AWS_SSH_PORT"])), timeout=2)
    account.cloud.lose_instance(instance.id)
    instance.until("stopped")
