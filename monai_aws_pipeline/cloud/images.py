"""Machine images (AMIs): the base to start from, those we baked, capturing a machine, and removing what is no longer used."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import ImageError, code_of, refused
from monai_aws_pipeline.cloud.tags import Tags, tag_filters, tags_of
from monai_aws_pipeline.contract import TAG_CONTENT

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import ImageTypeDef
    from mypy_boto3_ssm import SSMClient


@dataclass(frozen=True)
class Image:
    """One machine image as last seen."""

    id: str
    name: str
    state: str
    created: str
    root_device: str
    snapshots: tuple[str, ...]
    tags: dict[str, str]

    @classmethod
    def of(cls, image: ImageTypeDef) -> Image:
        """From AWS's description."""
        snapshots = [mapping.get("Ebs", {}).get("SnapshotId", "") for mapping in image.get("BlockDeviceMappings", [])]
        return cls(
            id=image.get("ImageId", ""),
            name=image.get("Name", ""),
            state=str(image.get("State", "")),
            created=image.get("CreationDate", ""),
            root_device=image.get("RootDeviceName", "/dev/sda1"),
            snapshots=tuple(filter(None, snapshots)),
            tags=tags_of(image.get("Tags", [])),
        )


class Images:
    """The machine images of one deployment."""

    def __init__(self, ec2: EC2Client, ssm: SSMClient, deployment: str) -> None:
        self._ec2 = ec2
        self._ssm = ssm
        self._deployment = deployment

    def base(self, address: str) -> Image:
        """The image to start from: ``ami-…`` or ``ssm:/public/parameter``. Raises ImageError when there is none."""
        image_id = address
        if address.startswith("ssm:"):
            try:
                image_id = self._ssm.get_parameter(Name=address.removeprefix("ssm:"))["Parameter"].get("Value", "")
            except ClientError as error:
                raise refused(error, "reading the base image's parameter") or ImageError(
                    f"The parameter {address.removeprefix('ssm:')} could not be read ({code_of(error)}).",
                    "Set MONAI_AWS_BASE_AMI to a parameter of this region or to an image id.",
                ) from error
        found = self._describe(image_id)
        if found is None:
            raise ImageError(f"The base image {image_id} does not exist in this region.", "Set MONAI_AWS_BASE_AMI to one that does.")
        return found

    def _describe(self, image_id: str) -> Image | None:
        try:
            images = self._ec2.describe_images(ImageIds=[image_id])["Images"]
        except ClientError as error:
            if code_of(error).startswith("InvalidAMIID"):
                return None
            raise refused(error, "describing images") or error from error
        return Image.of(images[0]) if images else None

    def baked(self) -> list[Image]:
        """Images of this deployment, newest first."""
        found = self._ec2.describe_images(Owners=["self"], Filters=tag_filters(self._deployment))["Images"]
        return sorted((Image.of(image) for image in found), key=lambda image: image.created, reverse=True)

    def find(self, content: str) -> Image | None:
        """The available image baked from inputs with this content hash."""
        return next((image for image in self.baked() if image.tags.get(TAG_CONTENT) == content and image.state == "available"), None)

    def capture(self, machine_id: str, tags: Tags, description: str, seconds: float = 1800) -> Image:
        """Capture a machine's disk as an image and wait until it is available. A failed capture is removed again."""
        image_id = self._ec2.create_image(
            InstanceId=machine_id,
            Name=f"{tags.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{tags.extra.get(TAG_CONTENT, '')[:8]}",
            Description=description,
            TagSpecifications=[{"ResourceType": "image", "Tags": tags.as_list()}, {"ResourceType": "snapshot", "Tags": tags.as_list()}],
        )["ImageId"]
        deadline = time.monotonic() + seconds
        while True:
            image = self._describe(image_id)
            if image and image.state == "available":
                return image
            if (image and image.state == "failed") or time.monotonic() > deadline:
                self.remove(image_id)
                raise ImageError(
                    f"The image {image_id} of machine {machine_id} did not become available.", "Run gpu_ami again; nothing was kept."
                )
            time.sleep(1.0)

    def remove(self, image_id: str) -> None:
        """Deregister an image and delete its snapshots; what is gone already is fine."""
        image = self._describe(image_id)
        if image is None:
            return
        self._ec2.deregister_image(ImageId=image_id)
        for snapshot in image.snapshots:
            self.remove_snapshot(snapshot)

    def snapshots(self) -> list[str]:
        """Ids of all snapshots of this deployment, of images and of captures that failed."""
        pages = self._ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=tag_filters(self._deployment))
        return [snapshot.get("SnapshotId", "") for page in pages for snapshot in page["Snapshots"]]

    def remove_snapshot(self, snapshot: str) -> None:
        """Delete a snapshot; one that is gone already is fine."""
        try:
            self._ec2.delete_snapshot(SnapshotId=snapshot)
        except ClientError as error:
            if code_of(error) != "InvalidSnapshot.NotFound":
                raise
