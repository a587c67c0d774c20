"""gpu_ami: the machine image that build machines and inference hosts start from. Data version: the image id.

``bake`` launches the base image, provisions it over SSH with the same script that ``stock`` runs at creation, and captures it.
The inputs are hashed into a tag, so that nothing is baked twice. Concept: docs/architecture.md, "The way of a model".
"""

import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from dagster import AssetExecutionContext, AssetKey, DataVersion, MaterializeResult, MetadataValue, asset

from monai_aws_pipeline.cloud.images import Image, Images
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.contract import ROLE_AMI_BAKE, TAG_CONTENT
from monai_aws_pipeline.deployment.build_machine import PROVISION_FOLDER, build_machine, provision
from monai_aws_pipeline.deployment.host_bundle import make_bundle
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Settings

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

    @property
    def content(self) -> str:
        """16 hex digits over all inputs."""
        return hashlib.sha256(json.dumps(self.__dict__, sort_keys=True).encode()).hexdigest()[:16]


def min_driver(settings: Settings) -> str:
    """The oldest NVIDIA driver that will do, empty where no GPU is wanted."""
    return MIN_DRIVER if settings.gpus else ""


@asset(
    deps=[AssetKey("map_source")],
    group_name="platform",
    kinds={"ec2"},
    description="GPU machine image with container engine, agent and its unit. Baked only when its inputs changed.",
)
def gpu_ami(context: AssetExecutionContext, settings: SettingsResource, cloud: CloudResource) -> MaterializeResult:  # type: ignore[type-arg]
    """Bake the image, or take the one that was baked from the same inputs.

    It follows map_source in the lineage because the application's SDK (holoscan-cu13) decides which driver the image must carry.
    """
    chosen, clients = settings.load(), cloud.clients()
    images = Images(clients.ec2, clients.ssm, chosen.deployment)
    started = time.monotonic()
    base = images.base(chosen.base_ami)
    if chosen.ami_mode == "stock":
        context.log.info(f"ami_mode is stock: machines start from {base.id} and are provisioned at creation")
        return _record(base, base, "stock", reused=True, seconds=time.monotonic() - started)

    with tempfile.TemporaryDirectory(prefix="monai-aws-bundle-") as folder:
        bundle = make_bundle(chosen, Path(folder), context.log.info)
        inputs = AmiInputs(chosen.ami_mode, base.id, bundle.content, min_driver(chosen), chosen.root_volume_gib)
        found = images.find(inputs.content)
        if found:
            context.log.info(f"nothing changed: {found.id} was baked from the same inputs ({inputs.content})")
            return _record(found, base, inputs.content, reused=True, seconds=time.monotonic() - started)
        with build_machine(clients, chosen, role=ROLE_AMI_BAKE, image=base.id, run_id=context.run.run_id, report=context.log.info) as built:
            provision(built.remote, bundle.path, inputs.min_driver, context.log.info)
            built.remote.run(SEAL, context.log.info, what="Sealing the image", seconds=120)
            context.log.info("capturing the machine's disk as an image")
            tags = Tags(
                chosen.deployment,
                ROLE_AMI_BAKE,
                chosen.owner,
                context.run.run_id,
                chosen.names.machine("gpu"),
                extra={TAG_CONTENT: inputs.content},
            )
            image = images.capture(built.machine.id, tags, f"monai_aws_pipeline GPU host, from {base.id}")
    return _record(image, base, inputs.content, reused=False, seconds=time.monotonic() - started)


def _record(image: Image, base: Image, content: str, *, reused: bool, seconds: float) -> MaterializeResult:  # type: ignore[type-arg]
    return MaterializeResult(
        data_version=DataVersion(image.id),
        metadata={
            "image_id": image.id,
            "image_name": image.name,
            "base_image": base.id,
            "content": content,
            "baked_at": image.created,
            "reused": MetadataValue.bool(reused),
            "seconds": round(seconds, 1),
        },
    )
