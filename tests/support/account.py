"""What is in the account of the embedded AWS: everything that costs money, tagged or not, whoever made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import TAG_OWNER
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.platform import environment


class Account:
    """The account as its administrator sees it, in the regions that a test uses."""

    def __init__(self, cloud: LocalCloud, regions: Sequence[str], repository: str) -> None:
        self._repository = repository
        self._regions: dict[str, Clients] = {}
        with environment(cloud.environment):
            for region in regions:
                self._regions[region] = clients = Clients(region)
                assert clients.ec2.meta.region_name == clients.ecr.meta.region_name  # both made now, as the administrator

    def everything(self) -> set[str]:
        """Every machine, disk, key pair, security group, image and snapshot, and every tag in the registry."""
        registry = next(iter(self._regions.values())).ecr
        pages = registry.get_paginator("list_images").paginate(repositoryName=self._repository)
        tags = {image.get("imageTag", "") for page in pages for image in page["imageIds"]} - {""}
        return {*self._look([]), *(f"{self._repository}:{tag}" for tag in tags)}

    def of(self, owner: str) -> set[str]:
        """Those machines, disks, key pairs, groups, images and snapshots that bear an owner."""
        return set(self._look([{"Name": f"tag:{TAG_OWNER}", "Values": [owner]}]))

    def ended_by(self, owner: str) -> set[str]:
        """Why the machines of an owner that are terminated were: the codes that EC2 gives."""
        filters = [{"Name": f"tag:{TAG_OWNER}", "Values": [owner]}, {"Name": "instance-state-name", "Values": ["terminated"]}]
        return {str(machine.get("StateReason", {}).get("Code")) for ec2 in self._ec2().values() for machine in _machines(ec2, filters)}

    def _ec2(self) -> dict[str, Any]:
        return {region: clients.ec2 for region, clients in self._regions.items()}

    def _look(self, filters: Any) -> Iterator[str]:
        for region, ec2 in self._ec2().items():
            for machine in _machines(ec2, filters):
                if machine["State"]["Name"] != "terminated":
                    yield f"{region}/{machine['InstanceId']}"
            yield from (f"{region}/{disk['VolumeId']}" for disk in ec2.describe_volumes(Filters=filters)["Volumes"])
            yield from (f"{region}/key {pair['KeyName']}" for pair in ec2.describe_key_pairs(Filters=filters)["KeyPairs"])
            yield from (f"{region}/{group['GroupId']}" for group in ec2.describe_security_groups(Filters=filters)["SecurityGroups"])
            yield from (f"{region}/{image['ImageId']}" for image in ec2.describe_images(Owners=["self"], Filters=filters)["Images"])
            snapshots = ec2.describe_snapshots(OwnerIds=["self"], Filters=filters)["Snapshots"]
            yield from (f"{region}/{snapshot['SnapshotId']}" for snapshot in snapshots)


def _machines(ec2: Any, filters: Any) -> list[dict[str, Any]]:
    pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
    return [machine for page in pages for group in page["Reservations"] for machine in group["Instances"]]
