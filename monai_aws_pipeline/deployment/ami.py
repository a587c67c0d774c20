"""gpu_ami: the machine image that build machines and inference hosts start from. Data version: the image id.

``bake`` launches the base image, provisions it over SSH with the same script that ``stock`` runs at creation, and captures it.
The inputs are hashed into a tag, so that nothing is baked twice. Those that are known beforehand are the asset's code version: it is stale
when one of them changed, and never because an application did. Copies to other regions and the end of old images belong here too.
Concept: docs/architecture.md, "The way of a model".
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dagster import AssetExecutionContext, DagsterInstance, DataVersion, MaterializeResult, MetadataValue, asset

from monai_aws_pipeline.cloud.autoscaling import LaunchTemplates, ScalingGroup
from monai_aws_pipeline.cloud.images import Image, ImageRegions, fingerprint
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import TAG_BASE, TAG_BASE_ADDRESS, Tags
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import ROLE_AMI_BAKE, TAG_CONTENT
from monai_aws_pipeline.deployment.build_machine import BUILD_POOL, PROVISION_FOLDER, build_machine, expiring_tags, provision
from monai_aws_pipeline.deployment.host_bundle import Bundle, bundle_version, make_bundle
from monai_aws_pipeline.deployment.lineage import latest_metadata, latest_version
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

REFRESH_BASE_TAG = "monai-aws/refresh-base"
"""A run with this tag set to ``true`` follows MONAI_AWS_BASE_AMI anew; others keep the base image that it led to before."""
MIN_DRIVER = "580"  # CUDA 13, which holoscan-cu13 brings, needs it. Source: NVIDIA CUDA 13 release notes.

# What must not be in an image: cloud-init's memory of this instance, the build's own key, the machine's identity, our upload.
SEAL = (
    "sudo sh -c 'cloud-init clean --logs; rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys /etc/ssh/ssh_host_*_key*; "
    f"rm -rf {PROVISION_FOLDER}; : > /etc/machine-id; sync'"
)


@dataclass(frozen=True)
class AmiInputs:
    """Everything the content of the image follows from."""

    mode: str
    base: str
    bundle: str
    min_driver: str
    volume_gib: int
    encrypted: bool
    kms_key: str

    @property
    def content(self) -> str:
        """16 hex digits over all inputs."""
        return hashlib.sha256(json.dumps(self.__dict__, sort_keys=True).encode()).hexdigest()[:16]


def min_driver(settings: Settings) -> str:
    """The oldest NVIDIA driver that will do, empty where no GPU is wanted."""
    return MIN_DRIVER if settings.gpus else ""


@asset(
    group_name="platform",
    kinds={"ec2"},
    description="The machine image that build machines and hosts start from: container engine, agent and its unit, for a GPU the driver. "
    "Materialise it where it is stale (setting of the base, infra/host, agent, pins or disk changed); otherwise the baked image is found "
    "again within seconds. A bake took 15 to 35 s on the embedded AWS, where it is free; on AWS, where nobody has measured it, it costs a "
    "machine's time (g4dn.xlarge: 0.53 USD an hour) and 4 to 8 USD a month for the snapshot.",
    pool=BUILD_POOL,
)
def gpu_ami(context: AssetExecutionContext, settings: SettingsResource, cloud: CloudResource) -> MaterializeResult:  # type: ignore[type-arg]
    """Bake the image, or take the one that was baked from the same inputs."""
    with repeating(context.log.info) as report:
        report("looking for the base image and for what was baked before")
        chosen, clients = settings.load(), cloud.clients()
        images = ImageRegions(clients, chosen.deployment, chosen.ami_regions)
        started = time.monotonic()
        former_base = latest_metadata(context.instance, "gpu_ami", "base_image") if _same_base_wanted(context.instance, chosen) else ""
        anew = context.run.tags.get(REFRESH_BASE_TAG) == "true"
        base = images.home.resolve(chosen.base_ami, chosen.base_ami_owner, anew=anew, report=report, former=former_base)
        if chosen.ami_mode == "stock":
            report(f"ami_mode is stock: machines start from {base.id} and are provisioned at creation")
            return _record(chosen, base, base, "stock", reused=True, seconds=time.monotonic() - started)

        former, in_group = latest_version(context.instance, "gpu_ami"), images_of_group(clients, chosen)
        with scratch("monai-aws-bundle") as folder:
            bundle = make_bundle(chosen, folder, report, builds=True)
            inputs = ami_inputs(chosen, base, bundle)
            found = images.home.find(inputs.content)
            if found:
                report(f"nothing changed: {found.id} was baked from the same inputs ({inputs.content})")
            image = found or _bake(clients, chosen, images, base, bundle, inputs, context.run.run_id, report)
        copies = images.spread(
            image, _image_tags(chosen, context.run.run_id, base, inputs), encrypted=chosen.root_volume_encrypted, report=report
        )
        retired = images.retire(chosen.ami_keep, {image.id, former, *in_group}, report)
        seconds = time.monotonic() - started
        return _record(chosen, image, base, inputs.content, reused=found is not None, seconds=seconds, copies=copies, retired=retired)


def ami_inputs(settings: Settings, base: Image, bundle: Bundle) -> AmiInputs:
    """What the image would be made from now."""
    return AmiInputs(
        settings.ami_mode,
        base.id,
        bundle.content,
        min_driver(settings),
        settings.root_volume_gib,
        settings.root_volume_encrypted,
        settings.root_volume_kms_key,
    )


def images_of_group(clients: Clients, settings: Settings) -> set[str]:
    """The images that an Auto Scaling group may launch from: one without instances uses its image all the same.

    Whatever ``fleet`` says now: the group may be there still.
    """
    names = settings.names
    group = ScalingGroup(clients, names.fleet_group, names.fleet_alarm).find()
    return LaunchTemplates(clients).images(names.fleet_group, group.versions if group else ())


def code_version(settings: Settings) -> str:
    """16 hex digits over what decides the image and is known without asking AWS: base setting, script, agent, pins, disk."""
    base = [settings.ami_mode, fingerprint(settings.base_ami, settings.base_ami_owner)]
    if settings.ami_mode == "stock":  # machines are provisioned when they are made
        return hashlib.sha256(json.dumps(base).encode()).hexdigest()[:16]
    disk = [settings.root_volume_gib, settings.root_volume_encrypted, settings.root_volume_kms_key]
    made = [*base, bundle_version(settings), min_driver(settings), *disk]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]


def _same_base_wanted(instance: DagsterInstance, settings: Settings) -> bool:
    return latest_metadata(instance, "gpu_ami", "base_address") == fingerprint(settings.base_ami, settings.base_ami_owner)


def _image_tags(settings: Settings, run_id: str, base: Image, inputs: AmiInputs) -> Tags:
    """They expire until the image is whole."""
    tags = expiring_tags(settings, ROLE_AMI_BAKE, run_id, datetime.now(UTC))
    address = fingerprint(settings.base_ami, settings.base_ami_owner)
    extra = {TAG_CONTENT: inputs.content, TAG_BASE: base.id, TAG_BASE_ADDRESS: address}
    return replace(tags, name=settings.names.machine("gpu"), extra=extra)


def _bake(
    clients: Clients, settings: Settings, images: ImageRegions, base: Image, bundle: Bundle, inputs: AmiInputs, run_id: str, report: Report
) -> Image:
    with build_machine(clients, settings, role=ROLE_AMI_BAKE, image=base.id, run_id=run_id, report=report) as built:
        provision(built.remote, bundle.path, inputs.min_driver, report)
        report("sealing the image: taking out keys, identity and what was sent")
        built.remote.run(SEAL, report, what="Sealing the image", seconds=120)
        report("capturing the machine's disk as an image")
        description = f"monai_aws_pipeline GPU host, from {base.id}"
        return images.home.capture(built.machine.id, _image_tags(settings, run_id, base, inputs), description, report)


def _record(
    settings: Settings,
    image: Image,
    base: Image,
    content: str,
    *,
    reused: bool,
    seconds: float,
    copies: Mapping[str, str] | None = None,
    retired: Sequence[str] = (),
) -> MaterializeResult:  # type: ignore[type-arg]
    return MaterializeResult(
        data_version=DataVersion(image.id),
        metadata={
            "image_id": image.id,
            "image_name": image.name,
            "base_image": base.id,
            "base_name": base.name,
            "base_address": fingerprint(settings.base_ami, settings.base_ami_owner),
            "content": content,
            "baked_at": image.created,
            "reused": MetadataValue.bool(reused),
            "copies": MetadataValue.json(dict(copies or {})),
            "retired": MetadataValue.json(list(retired)),
            "seconds": round(seconds, 1),
        },
    )
