"""infra/host/provision.sh on a real machine: complete after one run, the same and quick after a second, and strict about GPU drivers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.deployment.host_bundle import make_bundle
from monai_aws_pipeline.settings import load_settings
from tests.integration.local_cloud.conftest import Account, Instance, Keys, eventually
from tests.unit.maps.wheels import make_wheel

pytestmark = pytest.mark.cloud

FOLDER = "/tmp/provision"  # noqa: S108  # on a machine of the test alone
# Everything that provisioning may touch, with the time of its last change, and when the services came up.
STATE = """\
sudo find /opt/monai-aws /etc/systemd/system /etc/docker /etc/monai-aws /usr/bin /usr/local -printf '%p %C@ %s\\n' | sort | sha256sum
systemctl show -p ActiveEnterTimestampMonotonic docker amazon-ssm-agent
"""
# What a GPU image brings along and this machine cannot: the driver's program says a version, the toolkit's writes the engine's settings.
TOOLKIT = """\
#!/bin/sh -e
[ "$*" = "runtime configure --runtime=docker" ]
sed -i 's|{|{"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}},|;' /etc/docker/daemon.json
"""
# As the plugin answers docker, which asks it for its name first.
BUILDX = """\
#!/bin/sh
[ "$1" = docker-cli-plugin-metadata ] && echo '{"SchemaVersion": "0.1.0", "Vendor": "test", "Version": "0"}' || true
"""


class Host:
    """A machine with the bundle on it."""

    def __init__(self, instance: Instance, bundle: Path):
        self.instance, self.bundle = instance, bundle

    def send(self) -> None:
        """Lay the bundle onto the machine."""
        with subprocess.Popen(["tar", "-c", "-C", self.bundle, "."], stdout=subprocess.PIPE) as packed:
            command = [*self.instance.ssh_command(), f"rm -rf {FOLDER} && mkdir {FOLDER} && tar -x -C {FOLDER}"]
            subprocess.run(command, stdin=packed.stdout, check=True, capture_output=True)

    def provision(self, min_driver: str = "") -> tuple[int, str]:
        """Run the script; exit code and all it printed."""
        command = [*self.instance.ssh_command(), f"sudo env MIN_DRIVER={min_driver} bash {FOLDER}/provision.sh"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def program(self, path: str, text: str) -> None:
        """Put a program onto the machine."""
        folder = path.rpartition("/")[0]
        command = [*self.instance.ssh_command(), f"sudo mkdir -p {folder} && sudo tee {path} >/dev/null && sudo chmod 755 {path}"]
        subprocess.run(command, input=text, text=True, check=True, capture_output=True)


@pytest.fixture(scope="module")
def host(account: Account, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One machine for the tests of this file, which follow each other on it."""
    with launched(account, keys, account.base_image(), tmp_path_factory.mktemp("bundle")) as found:
        yield found


@contextmanager
def launched(account: Account, keys: Keys, image: str, bundle: Path) -> Iterator[Host]:
    """A machine of an image, with the bundle on it."""
    ec2 = account.client("ec2")
    profile = account.profile([])
    wanted: dict[str, Any] = {"ImageId": image, "KeyName": keys.name, "UserData": keys.user_data([])}
    wanted["IamInstanceProfile"] = {"Name": profile}
    made = ec2.run_instances(MinCount=1, MaxCount=1, InstanceType="g4dn.xlarge", **wanted)["Instances"][0]
    instance = Instance(account, keys, made["InstanceId"], made["PublicIpAddress"])
    python = {"host_python": account.cloud.environment["MONAI_AWS_HOST_PYTHON"]}
    make_bundle(load_settings().model_copy(update=python), bundle, lambda _: None, builds=True)
    try:
        instance.until("running")
        instance.ssh("sudo cloud-init status --wait >/dev/null")
        found = Host(instance, bundle)
        found.send()
        yield found
    finally:
        ec2.terminate_instances(InstanceIds=[instance.id])


def test_one_run_is_enough_and_a_second_changes_nothing_and_makes_nothing_anew(host: Host):
    code, printed = host.provision()
    assert code == 0, printed
    assert "SSM agent runs" in printed
    assert "installing" not in printed  # a machine needs no package source here, as it needs none from a baked image
    assert host.instance.ssh("command -v unpigz; systemctl is-enabled monai-aws-agent.service").split() == ["/usr/bin/unpigz", "enabled"]
    timers = host.instance.ssh(
        "systemctl is-active monai-aws-dead-man.timer; systemctl is-enabled apt-daily.timer apt-daily-upgrade.timer || true"
    )
    assert timers.split() == ["active", "masked", "masked"], "it looks after itself, and upgrades nothing by itself"
    before = host.instance.ssh(STATE)
    code, printed = host.provision()
    assert code == 0, printed
    assert host.instance.ssh(STATE) == before
    assert "Python environment venv is up to date" in printed
    assert "agent is up to date" in printed
    assert " made from " not in printed


def test_a_program_that_holds_apts_lists_is_waited_for(host: Host):
    host.instance.ssh("sudo rm /usr/bin/unpigz")  # so that there is something to install
    take = "lock = open('/var/lib/apt/lists/lock', 'w'); fcntl.lockf(lock, fcntl.LOCK_EX)"
    holding = f"import fcntl, time; {take}; print(flush=True); time.sleep(20)"
    command = [*host.instance.ssh_command(), f'sudo python3 -c "{holding}"']
    with subprocess.Popen(command, stdout=subprocess.PIPE) as held:
        assert held.stdout is not None
        held.stdout.readline()
        _, printed = host.provision()
    assert "waiting for another program that holds apt's lists (0 s)" in printed
    assert "Could not get lock" not in printed


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ("", "no NVIDIA driver answers"),
        ("echo NVIDIA-SMI has failed because it could not communicate with the driver; exit 9", "no NVIDIA driver answers"),
        ("echo 570.133.20", "NVIDIA driver 570.133.20 is older than 580"),
        ("echo 580.65.06", "nvidia-ctk"),
    ],
)
def test_a_gpu_that_is_wanted_must_have_driver_and_toolkit(host: Host, driver: str, said: str):
    if driver:
        host.program("/usr/local/bin/nvidia-smi", f"#!/bin/sh\n{driver}\n")
    code, printed = host.provision(min_driver="580")
    assert code == 1
    assert said in printed


def test_the_engine_learns_of_the_gpu_once(host: Host):
    host.program("/usr/local/bin/nvidia-smi", "#!/bin/sh\necho 580.65.06\necho 580.65.06\n")  # two GPUs
    host.program("/usr/local/bin/nvidia-ctk", TOOLKIT)
    code, printed = host.provision(min_driver="580")
    assert code == 0, printed
    assert "GPU driver 580.65.06" in printed
    assert "nvidia" in host.instance.ssh("sudo docker info --format '{{json .Runtimes}}'")
    before = host.instance.ssh(STATE)
    assert host.provision(min_driver="580")[0] == 0
    assert host.instance.ssh(STATE) == before


def test_a_plain_image_of_8_gib_gets_its_engine_from_the_distribution_once(account: Account, keys: Keys, tmp_path: Path):
    plain = account.client("ssm").get_parameter(Name=load_settings(base_ami="ubuntu").base_ami.removeprefix("ssm:"))["Parameter"]["Value"]
    (found,) = account.client("ec2").describe_images(ImageIds=[plain])["Images"]
    assert [mapping["Ebs"]["VolumeSize"] for mapping in found["BlockDeviceMappings"]] == [8]
    with launched(account, keys, plain, tmp_path) as host:
        assert "none" in host.instance.ssh("command -v dockerd || echo none")
        code, printed = host.provision()
        assert code == 0, printed
        assert "installing docker.io" in printed
        assert host.instance.ssh("sudo docker info --format '{{.ServerVersion}}'; systemctl is-enabled docker").split()[-1] == "enabled"
        before = host.instance.ssh(STATE)
        code, printed = host.provision()
        assert (code, "installing" in printed) == (0, False), printed
        assert host.instance.ssh(STATE) == before


def test_an_ssm_agent_that_ended_runs_again(host: Host):
    ssm = host.instance.account.client("ssm")

    def online() -> bool:
        asked = [{"Key": "InstanceIds", "Values": [host.instance.id]}]
        return bool(ssm.describe_instance_information(Filters=asked)["InstanceInformationList"])

    assert online()
    host.instance.ssh("sudo systemctl stop amazon-ssm-agent")
    eventually(lambda: not online(), 10)
    assert host.provision()[0] == 0
    eventually(online, 10)


def test_the_official_packager_gets_an_environment_and_needs_buildx(host: Host):
    (host.bundle / "sdk").mkdir()
    make_wheel(host.bundle / "sdk", "packager", "1.0")
    host.send()
    if host.instance.ssh("sudo docker buildx version >/dev/null 2>&1 || echo missing"):  # Debian 12 has no package of it
        code, printed = host.provision()
        assert code == 1
        assert "docker buildx is missing" in printed
        host.program("/usr/local/lib/docker/cli-plugins/docker-buildx", BUILDX)
    code, printed = host.provision()
    assert code == 0, printed
    assert "Python environment sdk made from 1 wheels" in printed
    assert host.instance.ssh("/opt/monai-aws/sdk/bin/python -c 'import packager'") == ""
