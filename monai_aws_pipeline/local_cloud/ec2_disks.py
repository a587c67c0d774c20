"""Sizes of root disks as EC2 keeps them: an image has the size of the disk it was made from, and no machine of it has a smaller one.

moto gives every image a snapshot of 15 GiB and checks nothing. Only records: the disks themselves lie with machine and image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moto.ec2.exceptions import EC2ClientError

from . import identity
from .ec2_images import BaseImage


def root_gib(image: Any) -> int:
    """GiB of an image's root snapshot."""
    return int(image.ebs_snapshot.volume.size)


def block_device_mappings(image: Any) -> list[dict[str, Any]]:
    """The block devices of an image: its root disk, with the size of its snapshot."""
    ebs = {"SnapshotId": image.ebs_snapshot.id, "VolumeSize": root_gib(image), "DeleteOnTermination": True, "VolumeType": "gp3"}
    return [{"DeviceName": image.root_device_name, "Ebs": ebs}]


def made_from(bases: Mapping[str, BaseImage]) -> Callable[..., None]:
    """A wrapper of ``Ami.__init__`` that sizes the snapshot: as the base image's, or as what the image was made from."""

    def make(original: Callable[..., None], image: Any, backend: Any, ami_id: str, *arguments: Any, **options: Any) -> None:
        original(image, backend, ami_id, *arguments, **options)
        instance, source = options.get("instance"), options.get("source_ami")
        if ami_id in bases:
            image.ebs_snapshot.volume.size = bases[ami_id].gib
        elif instance is not None:
            image.ebs_snapshot.volume.size = _root_volume(instance).size
        elif source is not None:
            image.ebs_snapshot.volume.size = root_gib(source)

    return make


def mappings_of(backend: Any, options: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The block devices that a launch asks for, by itself or by its launch template."""
    asked = options.get("block_device_mappings")
    if asked or not options.get("launch_template"):
        return asked or ()
    return backend._get_template_from_args(options["launch_template"]).data.get("BlockDeviceMappings") or ()


def key_of_root(backend: Any, image: Any, mappings: Sequence[Mapping[str, Any]]) -> str:
    """ARN of the customer's KMS key that a machine's root disk is encrypted with; empty for AWS's, and for names that stand for no key."""
    root = next((each.get("Ebs") or {} for each in mappings if each.get("DeviceName") == image.root_device_name), {})
    asked, encrypted = str(root.get("KmsKeyId") or ""), str(root.get("Encrypted", "")).lower() == "true"
    if not asked and (encrypted or backend.ebs_encryption_by_default):
        asked = str(backend.default_kms_key_id)
    return identity.key_arn(asked, str(backend.region_name)) if asked else ""


def refuse_small_volumes(backend: Any, image: Any, mappings: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a volume that is smaller than the snapshot it is made from. Raises EC2ClientError in AWS's words."""
    for mapping in mappings:
        ebs = mapping.get("Ebs") or {}
        size, snapshot_id = ebs.get("VolumeSize"), ebs.get("SnapshotId")
        snapshot = backend.snapshots.get(snapshot_id) if snapshot_id else None
        if snapshot is None and mapping.get("DeviceName") == image.root_device_name:
            snapshot = image.ebs_snapshot
        if size and snapshot is not None and int(size) < int(snapshot.volume.size):
            raise EC2ClientError(
                "InvalidBlockDeviceMapping",
                f"Volume of size {int(size)}GB is smaller than snapshot '{snapshot.id}', expect size >= {int(snapshot.volume.size)}GB",
            )


def fit_root_volume(image: Any, instance: Any) -> None:
    """Give a machine that asked for no size the image's own."""
    volume = _root_volume(instance)
    volume.size = max(int(volume.size), root_gib(image))


def _root_volume(instance: Any) -> Any:
    device = instance.block_device_mapping[instance.root_device_name]
    return instance.ec2_backend.volumes[device.volume_id]
