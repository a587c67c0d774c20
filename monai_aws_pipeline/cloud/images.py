"""Machine images (AMIs): the base to start from, those we baked, capturing a machine, copies in other regions, and removal.

An image and its snapshots carry an ``expires-at`` tag from the call that makes them until they are whole; only then it is emptied. So a
half-made image is never taken for a baked one, and whoever finds it later may remove it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import NEW_SECONDS, CloudError, ImageError, code_of, named, refused, remove, when_known
from monai_aws_pipeline.cloud.instances import root_device
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.tags import TAG_BASE, TAG_BASE_ADDRESS, TAG_COPIES, TAG_COPY_OF, Tags, tag_filters, tags_of
from monai_aws_pipeline.cloud.waiting import retried, silently, wait_until
from monai_aws_pipeline.contract import TAG_CONTENT, TAG_EXPIRES_AT

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import ImageTypeDef, TagTypeDef
    from mypy_boto3_ssm import SSMClient

    from monai_aws_pipeline.cloud.session import Clients


WAIT_SECONDS = 3600.0
"""Longest wait for an image: AWS needs some minutes for 150 GiB, and longer between continents."""


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
    gib: int = 0
    """GiB of the snapshot of its root disk: no machine of it has a smaller one."""

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
            gib=root_device(image).gib,
        )

    @property
    def whole(self) -> bool:
        """Whether it was captured or copied to the end."""
        return self.state == "available" and not self.tags.get(TAG_EXPIRES_AT)


def surplus(images: Sequence[Image], keep: int, protected: Collection[str], in_use: Collection[str]) -> tuple[Image, ...]:
    """The baked images (newest first) that go: all but the newest ``keep``, the protected ones, and those a machine was made from.

    ``protected``: the image that counts now, the one that counted before it, from which a launch may be in progress, and those of a group.
    """
    return tuple(image for image in images[keep:] if image.id not in protected and image.id not in in_use)


def fingerprint(address: str, owner: str) -> str:
    """16 hex digits over what a base image is found by."""
    return hashlib.sha256(f"{owner} {address}".encode()).hexdigest()[:16]


class Images:
    """The machine images of one deployment in one region."""

    def __init__(self, ec2: EC2Client, ssm: SSMClient, deployment: str) -> None:
        self._ec2 = ec2
        self._ssm = ssm
        self._deployment = deployment

    # ----------------------------------------------------------------------------------------------------------- finding

    def resolve(self, address: str, owner: str, *, anew: bool, report: Report, former: str = "") -> Image:
        """The base image for a setting, resolved once and kept: AWS publishes another under the same name every few days.

        Kept is what the newest baked image was made from, where the setting was the same; else ``former``. Only when told (``anew``), or
        when the kept one is withdrawn, the setting is followed again. Raises ImageError when there is none.
        """
        wanted = fingerprint(address, owner)
        baked = (image.tags[TAG_BASE] for image in self.baked() if image.tags.get(TAG_BASE_ADDRESS) == wanted and image.tags.get(TAG_BASE))
        kept = "" if anew else next(baked, former)
        found = self.look(kept) if kept else None
        if found is not None and found.state == "available":
            return found
        base = self.base(address, owner)
        report(f"the base image is {base.id} from now on ({base.name}); it moves with scheduled_ami_refresh, or when a run is told to")
        return base

    def base(self, address: str, owner: str = "amazon") -> Image:
        """The image to start from: ``ami-…``, ``ssm:/public/parameter`` or ``name:…`` (the newest by that name whose owner is ``owner``).

        Raises ImageError when there is none.
        """
        if address.startswith("name:"):
            return self._newest(address.removeprefix("name:"), owner)
        image_id = address
        if address.startswith("ssm:"):
            try:
                image_id = self._ssm.get_parameter(Name=address.removeprefix("ssm:"))["Parameter"].get("Value", "")
            except ClientError as error:
                raise refused(error, "reading the base image's parameter") or ImageError(
                    f"The parameter {address.removeprefix('ssm:')} could not be read ({code_of(error)}).",
                    "Set MONAI_AWS_BASE_AMI to a parameter of this region, to an image id (ami-…) or to a name (name:…).",
                ) from error
            if not re.fullmatch(r"ami-[0-9a-f]{8,17}", image_id):
                raise ImageError(
                    f"The parameter {address.removeprefix('ssm:')} holds {image_id[:40]!r}, which is no image id.",
                    "Set MONAI_AWS_BASE_AMI to a parameter that holds one, such as those under /aws/service/deeplearning/ami/.",
                )
        found = self.look(image_id)
        if found is None:
            raise ImageError(f"The base image {image_id} does not exist in this region.", "Set MONAI_AWS_BASE_AMI to one that does.")
        return found

    def _newest(self, name: str, owner: str) -> Image:
        """Anyone may publish an image under any name, so the owner is part of the question."""
        try:
            found = self._ec2.describe_images(
                Owners=[owner], Filters=[{"Name": "name", "Values": [name]}, {"Name": "state", "Values": ["available"]}]
            )["Images"]
        except ClientError as error:
            raise named(error, "looking for the base image") from error
        if not found:
            raise ImageError(
                f"No available image of {owner} is called {name!r} in this region.",
                "Check MONAI_AWS_BASE_AMI (name:…, with * for what changes) and MONAI_AWS_BASE_AMI_OWNER (amazon, self or an account).",
            )
        return max((Image.of(image) for image in found), key=lambda image: (image.created, image.id))

    def look(self, image_id: str) -> Image | None:
        """One image as it is now, or None where the region does not know it."""
        try:
            images = self._ec2.describe_images(ImageIds=[image_id])["Images"]
        except ClientError as error:
            if code_of(error).startswith("InvalidAMIID"):
                return None
            raise named(error, "describing images") from error
        return Image.of(images[0]) if images else None

    def all(self) -> list[Image]:
        """Every image of this deployment, half-made ones too, newest first."""
        found = self._ec2.describe_images(Owners=["self"], Filters=tag_filters(self._deployment))["Images"]
        return sorted((Image.of(image) for image in found), key=lambda image: (image.created, image.id), reverse=True)

    def baked(self) -> list[Image]:
        """The whole images of this deployment, newest first."""
        return [image for image in self.all() if image.whole]

    def find(self, content: str) -> Image | None:
        """The image baked from inputs with this content hash."""
        return next((image for image in self.baked() if image.tags.get(TAG_CONTENT) == content), None)

    def copy_of(self, source: str) -> Image | None:
        """The whole copy of an image of another region."""
        return next((image for image in self.baked() if image.tags.get(TAG_COPY_OF) == source), None)

    def snapshots(self) -> dict[str, dict[str, str]]:
        """Tags of all snapshots of this deployment by id: of images, and of captures and copies that failed."""
        pages = self._ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=tag_filters(self._deployment))
        return {snapshot.get("SnapshotId", ""): tags_of(snapshot.get("Tags", [])) for page in pages for snapshot in page["Snapshots"]}

    # ------------------------------------------------------------------------------------------------------------ making

    def capture(self, machine_id: str, tags: Tags, description: str, report: Report = silently, seconds: float = WAIT_SECONDS) -> Image:
        """Capture a machine's disk as an image and wait until it is available. However else it ends, nothing of it is kept.

        ``tags`` must expire: until the image is whole, it is one more thing that may be left behind.
        """
        name = f"{tags.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{tags.extra.get(TAG_CONTENT, '')[:8]}"

        def make(specifications: Any) -> str:
            return self._ec2.create_image(InstanceId=machine_id, Name=name, Description=description, TagSpecifications=specifications)[
                "ImageId"
            ]

        return self._make(name, tags, make, seconds, report)

    def copy_from(
        self, source: Image, region: str, tags: Tags, *, encrypted: bool, report: Report = silently, seconds: float = WAIT_SECONDS
    ) -> Image:
        """Copy an image of another region into this one and wait; the copy that is there already is taken. As ``capture`` otherwise.

        The copy is encrypted with this region's key for EBS: a key of the source's region does not exist here.
        """
        there = self.copy_of(source.id)
        if there:
            return there
        name = f"{source.name}-from-{region}"
        copied = replace(tags, extra={**tags.extra, TAG_COPY_OF: source.id})

        def make(specifications: Any) -> str:
            return self._ec2.copy_image(
                Name=name, SourceImageId=source.id, SourceRegion=region, Encrypted=encrypted, TagSpecifications=specifications
            )["ImageId"]

        return self._make(name, copied, make, seconds, report)

    def _make(self, name: str, tags: Tags, make: Callable[[Any], str], seconds: float, report: Report) -> Image:
        marked = replace(tags, name=name).as_list()  # found again by its name even when the answer of this call is lost
        try:
            image_id = make([{"ResourceType": kind, "Tags": marked} for kind in ("image", "snapshot")])
            image = self._wait(image_id, seconds, report)
            # The image last: as long as it expires, all of it does.
            for made in (*image.snapshots, image_id):
                self.tag(made, {TAG_EXPIRES_AT: ""})
            return replace(image, tags={**image.tags, TAG_EXPIRES_AT: ""})
        except BaseException as error:
            self.discard(name)
            if isinstance(error, ClientError):
                raise named(error, f"making the image {name}") from error
            raise

    def _wait(self, image_id: str, seconds: float, report: Report) -> Image:
        def state(image: Image | None) -> str:
            return image.state if image else "unknown to the region"

        image = wait_until(
            lambda: self.look(image_id),
            lambda seen: state(seen) in ("available", "failed", "error", "invalid"),
            seconds,
            what=lambda seen: f"the image {image_id} is {state(seen)}; waiting until it is available",
            report=report,
        )
        if image and image.state == "available":
            return image
        raise ImageError(
            f"The image {image_id} did not become available: it is {state(image)}.", "Materialise gpu_ami again; nothing was kept."
        )

    def tag(self, resource: str, tags: dict[str, str]) -> None:
        """Add or replace tags of an image or a snapshot."""
        wanted: list[TagTypeDef] = [{"Key": key, "Value": value} for key, value in tags.items()]
        when_known(partial(self._ec2.create_tags, Resources=[resource], Tags=wanted), NEW_SECONDS)

    # ---------------------------------------------------------------------------------------------------------- removing

    def discard(self, name: str) -> None:
        """Remove whatever carries this ``Name`` tag: a capture or copy that did not end well."""
        filters = [*tag_filters(self._deployment), {"Name": "tag:Name", "Values": [name]}]
        for image in self._ec2.describe_images(Owners=["self"], Filters=filters)["Images"]:  # type: ignore[arg-type]
            self._remove(Image.of(image))  # found by a search: one that is so new that AWS does not know its id yet is among them
        self._remove_snapshots(self._named(name))

    def remove(self, image_id: str) -> None:
        """Deregister an image and delete its snapshots; what is gone already is fine, what AWS does not know yet is waited for."""
        for image in self._listed(image_id):
            self._remove(image)

    def _listed(self, image_id: str) -> list[Image]:
        """An image found by a search, which lists also one that is so new that AWS says of its id that there is none."""
        return [Image.of(image) for image in self._ec2.describe_images(Filters=[{"Name": "image-id", "Values": [image_id]}])["Images"]]

    def _remove(self, image: Image) -> None:
        remove(partial(self._ec2.deregister_image, ImageId=image.id), lambda: bool(self._listed(image.id)))
        # A half-made image does not name its snapshot yet, which carries its name from the start.
        self._remove_snapshots([*image.snapshots, *self._named(image.tags.get("Name", image.name))])

    def _named(self, name: str) -> list[str]:
        return [snapshot for snapshot, tags in self.snapshots().items() if tags.get("Name") == name]

    def _remove_snapshots(self, snapshots: Iterable[str]) -> None:
        for snapshot in dict.fromkeys(snapshots):
            self.remove_snapshot(snapshot)

    def remove_snapshot(self, snapshot: str, seconds: float = 60, report: Report = silently) -> None:
        """Delete a snapshot, waiting while an image that was just deregistered still holds it; one that is gone already is fine."""

        def delete() -> None:
            try:
                self._ec2.delete_snapshot(SnapshotId=snapshot)
            except ClientError as error:
                if code_of(error) != "InvalidSnapshot.NotFound":
                    raise

        waiting = f"waiting until no image holds the snapshot {snapshot} any more"
        retried(delete, ClientError, _is_held, seconds, what=waiting, report=report, pause=2.0)


def _is_held(error: ClientError) -> bool:
    return code_of(error) == "InvalidSnapshot.InUse"


class ImageRegions:
    """The images of one deployment in its own region and in those it copies them to."""

    def __init__(self, clients: Clients, deployment: str, regions: Sequence[str] = ()) -> None:
        """``regions``: those of the settings. Regions used earlier are known from the images' own tags."""
        self._clients = clients
        self._deployment = deployment
        self._wanted = tuple(region for region in dict.fromkeys(regions) if region != clients.region)
        self.home = self.at(clients.region)

    def at(self, region: str) -> Images:
        """The images of one region."""
        clients = self._clients.elsewhere(region)
        return Images(clients.ec2, clients.ssm, self._deployment)

    def others(self) -> tuple[str, ...]:
        """Every other region that may hold a copy."""
        noted = (region for image in self.home.all() for region in image.tags.get(TAG_COPIES, "").split())
        return tuple(region for region in dict.fromkeys([*self._wanted, *noted]) if region != self._clients.region)

    def all(self) -> Iterator[tuple[str, Images]]:
        """(region, its images), the copies' regions first: an image at home tells where its copies are, so it goes last."""
        for region in (*self.others(), self._clients.region):
            yield region, self.at(region)

    def spread(self, image: Image, tags: Tags, *, encrypted: bool, report: Report) -> dict[str, str]:
        """Bring an image to every region of the settings, and wait. Returns the copies' ids by region."""
        noted = image.tags.get(TAG_COPIES, "").split()
        if set(self._wanted) - set(noted):  # noted first: a copy must be found again by whoever knows the image at home
            self.home.tag(image.id, {TAG_COPIES: " ".join(dict.fromkeys([*noted, *self._wanted]))})
        copies: dict[str, str] = {}
        for region in self._wanted:
            there = self.at(region)
            if not there.copy_of(image.id):
                report(f"copying {image.id} to {region}")
            copies[region] = there.copy_from(image, self._clients.region, tags, encrypted=encrypted, report=report).id
        return copies

    def retire(self, keep: int, protected: Collection[str], report: Report) -> list[str]:
        """Remove surplus images with their copies and snapshots, and copies whose image is gone. Returns what went, as REGION/IMAGE."""
        copies = {region: self.at(region).baked() for region in self.others()}
        used = {machine_image for region in (self._clients.region, *copies) for machine_image in self._used(region)}
        in_use = used | {image.tags.get(TAG_COPY_OF, "") for images in copies.values() for image in images if image.id in used}
        home = self.home.baked()
        going = surplus(home, keep, protected, in_use)
        staying = {image.id for image in home} - {image.id for image in going}
        removed: list[str] = []
        for region, images in copies.items():
            for image in images:
                if image.tags.get(TAG_COPY_OF) not in staying and image.id not in in_use:
                    with _reported(f"{region}/{image.id}", removed, report):
                        self.at(region).remove(image.id)
        for image in going:
            with _reported(f"{self._clients.region}/{image.id}", removed, report):
                self.home.remove(image.id)
        return removed

    def _used(self, region: str) -> set[str]:
        pages = (
            self._clients.elsewhere(region)
            .ec2.get_paginator("describe_instances")
            .paginate(Filters=tag_filters(self._deployment, instance_state_name="pending,running,shutting-down,stopping,stopped"))
        )
        return {i.get("ImageId", "") for page in pages for group in page["Reservations"] for i in group.get("Instances", [])}


@contextmanager
def _reported(what: str, removed: list[str], report: Report) -> Iterator[None]:
    """One image that resists does not keep the rest from going."""
    try:
        yield
    except (ClientError, BotoCoreError, CloudError) as error:
        report(f"could not remove {what}: {error}")
    else:
        removed.append(what)
        report(f"removed {what}, which is no longer needed")
