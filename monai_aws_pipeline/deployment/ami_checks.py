"""Asset check of gpu_ami: whether a machine that is started from the image is the host it should be.

Here belongs starting such a machine, asking it, and saying what was found; what counts as wrong is a pure function (``faults``). It costs
money on AWS, so an image that passed once carries that in a tag and is not started again. A failed check does not stop the run.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, AssetKey, asset_check

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.images import Images
from monai_aws_pipeline.cloud.instances import LaunchSpec, cloud_config, short_lived
from monai_aws_pipeline.cloud.prices import basis, usd_per_hour
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import AGENT_UNIT, ROLE_AMI_BAKE
from monai_aws_pipeline.deployment.ami import min_driver
from monai_aws_pipeline.deployment.build_machine import expiring_tags, machines_of, own_timer, root_volume
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Settings

TAG_CHECKED: Final = "monai-aws:checked"
MINIMUM_BILLED_S: Final = 60.0
"""EC2 bills Linux machines by the second, at least a minute."""

# One fact a line, empty where the machine cannot tell. Starting the engine waits until it is up.
PROBE: Final = f"""systemctl start docker
echo "engine=$(docker version --format '{{{{.Server.Version}}}}' 2>/dev/null)"
echo "agent=$(/opt/monai-aws/bin/monai-aws-agent --help >/dev/null 2>&1 && echo starts)"
echo "unit=$(systemctl is-enabled {AGENT_UNIT} 2>/dev/null)"
echo "gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n1)"
echo "driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n1)"
echo "toolkit=$(nvidia-ctk --version 2>/dev/null | head -n1)"
echo "kernel=$(uname -r)"
"""
FACTS: Final = ("engine", "agent", "unit", "gpu", "driver", "toolkit", "kernel")


def facts_of(printed: str) -> dict[str, str]:
    """What the probe printed, by name; other lines are passed over, values are cut at 200 characters."""
    pairs = (line.partition("=") for line in printed.splitlines())
    found = {name: value.strip()[:200] for name, _, value in pairs if name in FACTS}
    return {name: found.get(name, "") for name in FACTS}


def faults(facts: Mapping[str, str], oldest_driver: str) -> tuple[str, ...]:
    """What is wrong with a machine. ``oldest_driver`` is empty where no GPU is wanted."""
    wrong: list[str] = []
    if not facts["engine"]:
        wrong.append("the container engine does not answer")
    if facts["agent"] != "starts":
        wrong.append("the agent does not start")
    if facts["unit"] != "enabled":
        wrong.append(f"the unit {AGENT_UNIT} is {facts['unit'] or 'not there'} instead of enabled")
    if oldest_driver:
        major = facts["driver"].partition(".")[0]
        if not facts["gpu"]:
            wrong.append("no GPU is visible")
        elif not major.isdigit() or int(major) < int(oldest_driver):
            wrong.append(f"the NVIDIA driver is {facts['driver'] or 'unknown'} and must be {oldest_driver} at least")
        if not facts["toolkit"]:
            wrong.append("the NVIDIA container toolkit is missing")
    return tuple(wrong)


@asset_check(
    asset=AssetKey("gpu_ami"),
    blocking=False,
    description="A machine started from a newly baked image boots, is online in SSM, and has engine, agent and, where wanted, GPU, driver "
    "and toolkit. It runs with gpu_ami; an image that passed is not started again. It took about 5 s on the embedded AWS; on AWS reckon "
    "with two to four minutes and 0.03 USD for a g4dn.xlarge.",
)
def machine_starts(context: AssetCheckExecutionContext, settings: SettingsResource, cloud: CloudResource) -> AssetCheckResult:
    """Start a machine from the image, ask it, end it."""
    with repeating(context.log.info) as report:
        report("asking whether the image was checked before")
        chosen, clients = settings.load(), cloud.clients()
        if chosen.ami_mode == "stock":
            return AssetCheckResult(passed=True, description="nothing was baked: every machine is checked when it is provisioned")
        image_id = materialized_version(context.instance, "gpu_ami")
        images = Images(clients.ec2, clients.ssm, chosen.deployment)
        image = images.look(image_id)
        passed_at = image.tags.get(TAG_CHECKED, "") if image else ""
        if passed_at:
            return AssetCheckResult(
                passed=True, description=f"{image_id} was not started again: it passed at {passed_at}", metadata={"image_id": image_id}
            )
        if not chosen.ami_check:
            return AssetCheckResult(
                passed=False,
                severity=AssetCheckSeverity.WARN,
                description=f"{image_id} was not checked: MONAI_AWS_AMI_CHECK is off",
                metadata={"image_id": image_id},
            )
        started = time.monotonic()
        facts = dict.fromkeys(FACTS, "")
        kind = chosen.instance_types[0]
        try:
            kind, facts = _ask_one(clients, chosen, image_id, context.run.run_id, report)
            wrong = faults(facts, min_driver(chosen))
        except (CloudError, ClientError, BotoCoreError) as error:  # a check that cannot be made is a failed check and no failed run
            wrong = (str(error),)
        seconds = time.monotonic() - started
        if not wrong:
            images.tag(image_id, {TAG_CHECKED: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"})
        for fault in wrong:
            context.log.error(fault)
        return AssetCheckResult(
            passed=not wrong,
            severity=AssetCheckSeverity.ERROR,
            description="; ".join(wrong) or f"a machine from {image_id} is what it should be",
            metadata={
                "image_id": image_id,
                **{name: value or "(none)" for name, value in facts.items()},
                "instance_type": kind,
                "machine_seconds": round(seconds, 1),
                "cost_usd": round(max(seconds, MINIMUM_BILLED_S) / 3600 * usd_per_hour(kind), 4),
                "cost_basis": f"{kind} {basis(chosen.region)}",
            },
        )


def _ask_one(clients: Clients, settings: Settings, image_id: str, run_id: str, report: Report) -> tuple[str, dict[str, str]]:
    """Start a machine with no way in, ask it through SSM, end it. Returns its type and what it said."""
    spec = LaunchSpec(
        image=image_id,
        types=settings.instance_types,
        profile=settings.names.inference_profile,  # the one that SSM reaches; without the agent's settings it takes no job
        tags=expiring_tags(settings, ROLE_AMI_BAKE, run_id, datetime.now(UTC)),
        user_data=cloud_config(commands=[own_timer(settings)]),
        volume=root_volume(settings),
        security_group="",
    )
    with short_lived(machines_of(clients, settings), spec, report=report) as machine:
        commands = Commands(clients.ssm)
        commands.wait_online(machine.id, report=report)
        report(f"{machine.id} has booted from {image_id} and is online in SSM")
        answer = commands.run(machine.id, PROBE, seconds=300, comment="check the machine image", report=report)
        return machine.type, facts_of(answer.stdout)
