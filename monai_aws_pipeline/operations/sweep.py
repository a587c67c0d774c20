"""Removing what lost its owner: short-lived machines, disks, key pairs, security groups, half-made images and snapshots.

All of it is found by its tags alone, so any installation can do it, also one that does not know the run.

The choice is a pure function (``overdue``). What is meant to stay has an empty ``expires-at`` tag and is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of
from monai_aws_pipeline.cloud.images import ImageRegions
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.tags import tag_filters, tags_of
from monai_aws_pipeline.contract import TAG_EXPIRES_AT, TAG_RUN_ID, ContractError, parse_utc

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients


def overdue(tags: Mapping[str, str], now: datetime, run_ids: Collection[str] | None) -> bool:
    """Whether something short-lived should go: its run has ended (``run_ids``), or its time is over.

    A tag that cannot be read counts as not ours to remove.
    """
    expires = tags.get(TAG_EXPIRES_AT, "")
    if not expires:
        return False
    if run_ids is not None:
        return tags.get(TAG_RUN_ID, "") in run_ids
    try:
        return parse_utc(expires) < now
    except ContractError:
        return False


def short_lived_runs(clients: Clients, deployment: str, regions: Sequence[str] = ()) -> set[str]:
    """The run ids on everything of this deployment that is meant to be short-lived."""
    filters = tag_filters(deployment)
    listed = [machine.tags for machine in Machines(clients.ec2, deployment).find()]
    listed += [tags_of(pair.get("Tags", [])) for pair in clients.ec2.describe_key_pairs(Filters=filters)["KeyPairs"]]
    listed += [tags_of(group.get("Tags", [])) for group in clients.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]]
    listed += [tags_of(volume.get("Tags", [])) for volume in clients.ec2.describe_volumes(Filters=filters)["Volumes"]]
    for _, images in ImageRegions(clients, deployment, regions).all():
        listed += [image.tags for image in images.all()]
        listed += images.snapshots().values()
    return {tags[TAG_RUN_ID] for tags in listed if tags.get(TAG_EXPIRES_AT) and tags.get(TAG_RUN_ID)}


def sweep(
    clients: Clients,
    deployment: str,
    *,
    run_ids: Collection[str] | None,
    report: Callable[[str], None],
    now: datetime | None = None,
    regions: Sequence[str] = (),
) -> list[str]:
    """Remove what is overdue; returns what was removed. One thing that resists does not keep the rest from going.

    ``run_ids``: these runs have ended, so what they made goes before its time. None: what is past its time goes, whoever made it.
    ``regions``: where images may have been copied to, beside those that the images' tags name.
    """
    moment = now or datetime.now(UTC)
    machines = Machines(clients.ec2, deployment)
    removed: list[str] = []

    def attempt(name: str, step: Callable[[], object]) -> None:
        try:
            step()
        except (ClientError, BotoCoreError, CloudError) as error:
            report(f"could not remove {name}: {error}")
        else:
            removed.append(name)
            report(f"removed {name}")

    ending = [machine for machine in machines.find() if overdue(machine.tags, moment, run_ids)]
    for machine in ending:
        attempt(machine.id, partial(machines.terminate, machine.id))
    for machine in ending:
        try:
            machines.wait(machine.id, "terminated", 120, report)
        except CloudError as error:
            report(str(error))
    filters = tag_filters(deployment)
    pairs = clients.ec2.describe_key_pairs(Filters=filters)["KeyPairs"]
    for name in [pair.get("KeyName", "") for pair in pairs if overdue(tags_of(pair.get("Tags", [])), moment, run_ids)]:
        attempt(f"key pair {name}", partial(machines.delete_key, name))
    groups = clients.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    for group in [group.get("GroupId", "") for group in groups if overdue(tags_of(group.get("Tags", [])), moment, run_ids)]:
        attempt(f"security group {group}", partial(machines.delete_security_group, group, report))
    # A disk ends with its machine; this is for the launch that broke off between the two.
    volumes = clients.ec2.describe_volumes(Filters=[*filters, {"Name": "status", "Values": ["available"]}])["Volumes"]
    for volume in [volume.get("VolumeId", "") for volume in volumes if overdue(tags_of(volume.get("Tags", [])), moment, run_ids)]:
        attempt(f"volume {volume}", partial(_delete_volume, clients, volume))
    for region, images in ImageRegions(clients, deployment, regions).all():
        for image in [image.id for image in images.all() if overdue(image.tags, moment, run_ids)]:
            attempt(f"machine image {region}/{image}", partial(images.remove, image))
        for snapshot in [name for name, tags in images.snapshots().items() if overdue(tags, moment, run_ids)]:
            attempt(f"snapshot {region}/{snapshot}", partial(images.remove_snapshot, snapshot))
    return removed


def _delete_volume(clients: Clients, volume: str) -> None:
    try:
        clients.ec2.delete_volume(VolumeId=volume)
    except ClientError as error:
        if code_of(error) != "InvalidVolume.NotFound":
            raise
