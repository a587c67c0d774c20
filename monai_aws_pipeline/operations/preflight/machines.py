"""What a launch needs beyond permissions: image and disk, types, quotas, subnets, the disk's key, the role that spot needs.

Each question fetches first and then hands what was said to a judgement, which is a pure function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.connect_endpoint import find_endpoint
from monai_aws_pipeline.cloud.errors import DENIED, ImageError, code_of
from monai_aws_pipeline.cloud.images import Image, Images
from monai_aws_pipeline.cloud.instances import Machines, Quota, launch_attempts, quota_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import stack_name, stack_parameters
from monai_aws_pipeline.contract.ec2_refusals import refusal_of
from monai_aws_pipeline.operations.preflight.answers import Judgement, PreflightError, Probe, State

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

SPOT_ROLE: Final = "AWSServiceRoleForEC2Spot"
NO_APPLIED_VALUE: Final = "NoSuchResourceException"
TYPES: Final = "Set MONAI_AWS_INSTANCE_TYPES."


def machine_type_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """Image, disk, types, quotas, subnets, keys."""
    spot = settings.build_market != "on-demand" or spot_hosts(settings) > 0
    return [
        Probe("base image", "SSM and EC2 for the image", lambda: base_image(clients, settings).id),
        Probe("root volume", "EC2 for the image's snapshot", lambda: _root_volume(clients, settings)),
        Probe("instance types", "EC2 for what the region offers", lambda: _types(clients, settings.instance_types), TYPES),
        Probe("quota on-demand", "Service Quotas for EC2's vCPUs", lambda: _quota(clients, settings, spot=False)),
        Probe("quota spot", "Service Quotas for EC2's spot vCPUs", lambda: _quota(clients, settings, spot=True) if spot else _NO_SPOT),
        Probe("subnets", "EC2 for subnets, their zones and addresses", lambda: _subnets(clients, settings)),
        Probe("way to machines", "EC2 for the endpoint to machines", lambda: _way(clients, settings)),
        Probe("disk key", "EC2 and KMS for the key of the disks", lambda: _disk_key(clients, settings)),
        Probe("spot role", "IAM for the role that spot needs", lambda: _spot_role(clients, settings) if spot else _NO_SPOT),
    ]


_NO_SPOT: Final = Judgement("neither MONAI_AWS_BUILD_MARKET nor MONAI_AWS_FLEET_SPOT_PERCENT buys any", State.SKIPPED)


def spot_hosts(settings: Settings) -> int:
    """How many of the most hosts that there may be are Spot: of a share that is no whole number AWS rounds the On-Demand part up."""
    if settings.fleet != "autoscaling":
        return 0
    return (settings.host_count - settings.fleet_on_demand_base) * settings.fleet_spot_percent // 100


# --------------------------------------------------------------------------------------------------------------- image and disk


def base_image(clients: Clients, settings: Settings) -> Image:
    """The image that machines start from. Raises ImageError."""
    return Images(clients.ec2, clients.ssm, settings.deployment).base(settings.base_ami, settings.base_ami_owner)


def _root_volume(clients: Clients, settings: Settings) -> Judgement:
    try:
        base = base_image(clients, settings)
    except ImageError:
        return Judgement(f"{settings.root_volume_gib} GiB; what the base image needs is not known, see there", State.SKIPPED)
    return judge_root_volume(settings.root_volume_gib, base.gib)


def judge_root_volume(wanted_gib: int, snapshot_gib: int) -> Judgement:
    """Snapshot against volume: AWS makes no volume that is smaller than the image's snapshot."""
    if wanted_gib < snapshot_gib:
        return Judgement(
            f"{wanted_gib} GiB is less than the {snapshot_gib} GiB of the base image's snapshot: machines get {snapshot_gib} GiB, "
            "with no room for MAPs but what the image leaves free",
            State.ERROR,
            "Set MONAI_AWS_ROOT_VOLUME_GIB to 150, or to another size that holds the image and two MAPs.",
        )
    return Judgement(f"{wanted_gib} GiB, of which the base image's snapshot has {snapshot_gib}")


# ------------------------------------------------------------------------------------------------------------- types and quotas


def _types(clients: Clients, wanted: Sequence[str]) -> str:
    pages = clients.ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="region", Filters=[{"Name": "instance-type", "Values": list(wanted)}]
    )
    offered = {str(offer.get("InstanceType")) for page in pages for offer in page["InstanceTypeOfferings"]}
    there = [name for name in wanted if name in offered]
    if not there:
        raise PreflightError(f"none of {', '.join(wanted)} is offered in {clients.region}", "Set MONAI_AWS_INSTANCE_TYPES to others.")
    absent = [name for name in wanted if name not in offered]
    return ", ".join(there) + (f" (not offered here: {', '.join(absent)})" if absent else "")


@dataclass(frozen=True)
class Limited:
    """An instance type, its vCPUs, the quota that it counts against, and how many vCPUs that allows."""

    kind: str
    vcpus: int
    quota: Quota
    limit: float

    @property
    def fits(self) -> int:
        """How many machines of this type the quota allows."""
        return int(self.limit // self.vcpus)


def _quota(clients: Clients, settings: Settings, *, spot: bool) -> Judgement:
    pages = clients.ec2.get_paginator("describe_instance_types").paginate(
        Filters=[{"Name": "instance-type", "Values": list(settings.instance_types)}]
    )
    vcpus = {
        str(each.get("InstanceType")): each.get("VCpuInfo", {}).get("DefaultVCpus", 1) for page in pages for each in page["InstanceTypes"]
    }
    kinds = [(kind, quota_of(kind, spot=spot)) for kind in settings.instance_types if kind in vcpus]
    limits = {code: _limit(clients, code) for code in dict.fromkeys(quota.code for _, quota in kinds)}
    limited = [Limited(kind, vcpus[kind], quota, limits[quota.code]) for kind, quota in kinds]
    spots = spot_hosts(settings)
    if spot:
        return judge_quota(limited, max(spots, 1), clients.region, none=_without_spot(settings))
    return judge_quota(limited, max(settings.host_count - spots, 1), clients.region)


def _without_spot(settings: Settings) -> State:
    """What it means that there is no Spot: nothing is built, or no host comes; what may be bought on demand as well is."""
    only = settings.build_market == "spot" or spot_hosts(settings) == settings.host_count
    return State.ERROR if only else State.WARNING


def _limit(clients: Clients, code: str) -> float:
    """The vCPUs that a quota allows: the account's own value, or AWS's default where it has none."""
    try:
        return float(clients.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
    except ClientError as error:
        if code_of(error) != NO_APPLIED_VALUE:
            raise
    return float(clients.quotas.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])


def judge_quota(types: Sequence[Limited], machines: int, region: str, none: State = State.ERROR) -> Judgement:
    """Whether so many machines of at least one type may run at once. ``none``: what it means where not even one may."""
    if not types:
        return Judgement("none of the types is offered, see there", State.SKIPPED)
    first, best = types[0], max(types, key=lambda each: min(each.fits, machines))
    seen = dict.fromkeys(f"{each.quota.title} ({each.quota.code}): {each.limit:.0f} vCPUs" for each in types)
    said = f"{'; '.join(seen)}; a {best.kind} counts {best.vcpus}"
    if best.fits >= machines:
        return Judgement(f"{said}, {machines} wanted. What runs already counts too")
    remedy = (
        f"Ask for more: aws service-quotas request-service-quota-increase --region {region} --service-code ec2 --quota-code "
        f"{first.quota.code} --desired-value {first.vcpus * (machines + 1)} (an answer may take a day; this leaves room for a build beside "
        "the hosts). Or add a type of another quota to MONAI_AWS_INSTANCE_TYPES."
    )
    if not best.fits:
        return Judgement(f"{said}: not one machine may run", none, remedy)
    return Judgement(f"{said}: {best.fits} of {machines} machines may run", State.WARNING, f"{remedy} Or lower MONAI_AWS_HOST_COUNT.")


# ---------------------------------------------------------------------------------------------------------------------- subnets


@dataclass(frozen=True)
class Place:
    """A subnet that machines may go into: its zone, free addresses, whether it gives public ones, and which wanted types its zone has."""

    subnet: str
    zone: str
    free: int
    public: bool
    types: int


def _subnets(clients: Clients, settings: Settings) -> Judgement:
    machines = Machines(clients.ec2, settings.deployment, subnets=settings.subnets)
    offered, subnets = machines.offered(settings.instance_types), machines.subnets()
    if not offered:  # which types are missing is said with the types
        return Judgement(", ".join(sorted({subnet.zone for subnet in subnets})))
    attempts = list(launch_attempts(settings.instance_types, offered, subnets))
    found = clients.ec2.describe_subnets(SubnetIds=[subnet.id for subnet in subnets])["Subnets"]
    places = [
        Place(
            each.get("SubnetId", ""),
            each.get("AvailabilityZone", ""),
            each.get("AvailableIpAddressCount", 0),
            each.get("MapPublicIpOnLaunch", False),
            len({kind for kind, subnet in attempts if subnet.id == each.get("SubnetId")}),
        )
        for each in found
    ]
    return judge_subnets(sorted(places, key=lambda place: (place.zone, place.subnet)), settings.instance_types)


def _way(clients: Clients, settings: Settings) -> Judgement:
    if settings.reach == "public":
        return Judgement("machines have public addresses (MONAI_AWS_REACH=public)", State.SKIPPED)
    subnets = Machines(clients.ec2, settings.deployment, subnets=settings.subnets).subnets()
    return Judgement(find_endpoint(clients.ec2, subnets).described(settings.deployment))


def judge_subnets(places: Sequence[Place], types: Sequence[str]) -> Judgement:
    """Where machines can be put: a zone without any of the types gives no machine, a subnet without a free address neither."""
    useful = [place for place in places if place.types]
    if not useful:
        return Judgement(
            f"none of {', '.join(types)} is offered in the zones of the subnets ({', '.join(dict.fromkeys(p.zone for p in places))})",
            State.ERROR,
            "Set MONAI_AWS_SUBNETS to subnets in other zones, or MONAI_AWS_INSTANCE_TYPES to types that these have.",
        )
    said = ", ".join(
        f"{place.zone} ({place.types} types, {place.free} free addresses, {'gives' if place.public else 'is asked for'} public ones)"
        for place in useful
    )
    full = [place for place in useful if place.free < 1]
    if not full:
        return Judgement(said)
    state = State.ERROR if len(full) == len(useful) else State.WARNING
    names = ", ".join(place.subnet for place in full)
    return Judgement(f"no free address in {names}; {said}", state, refusal_of("InsufficientFreeAddressesInSubnet").remedy)


# ------------------------------------------------------------------------------------------------------------------------- keys


@dataclass(frozen=True)
class DiskKey:
    """The KMS key of the disks as far as it is known. ``refused``: AWS's code where the caller may not look at it."""

    name: str
    whose: str
    arn: str = ""
    state: str = ""
    by_aws: bool = False
    refused: str = ""


def _disk_key(clients: Clients, settings: Settings) -> Judgement:
    if settings.root_volume_kms_key:
        name, whose = settings.root_volume_kms_key, "MONAI_AWS_ROOT_VOLUME_KMS_KEY"
    elif settings.root_volume_encrypted or clients.ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"]:
        name, whose = clients.ec2.get_ebs_default_kms_key_id()["KmsKeyId"], "the account's default for EBS"
    else:
        return Judgement("disks are not encrypted (MONAI_AWS_ROOT_VOLUME_ENCRYPTED)")
    if name.endswith("alias/aws/ebs"):
        return judge_disk_key(DiskKey(name, whose, by_aws=True), "")
    try:
        seen = clients.kms.describe_key(KeyId=name)["KeyMetadata"]
    except ClientError as error:
        if code_of(error) not in (*DENIED, "NotFoundException"):
            raise
        return judge_disk_key(DiskKey(name, whose, refused=code_of(error)), "")
    key = DiskKey(name, whose, seen["Arn"], seen["KeyState"], by_aws=seen.get("KeyManager") == "AWS")
    return judge_disk_key(key, stack_parameters(clients.cloudformation, stack_name(settings.deployment)).get("KmsKeyArns", ""))


def judge_disk_key(key: DiskKey, known_to_stack: str) -> Judgement:
    """Whether EC2 will get its grant on the key. ``known_to_stack``: the keys on which the stack's roles may make grants.

    That the key can be described shows that its own policy lets this account's IAM decide; a grant itself is made by EC2 only.
    """
    said = f"{key.name}, {key.whose}"
    arn = key.arn or (key.name if key.name.startswith("arn:") else "ARN")
    allow = f"Let an administrator run: monai-aws bootstrap --kms-key {arn} (repeat it for every key in use)"
    if key.by_aws:
        return Judgement(f"{said}: AWS's own key, which needs no grant of yours")
    if key.refused in DENIED:
        return Judgement(
            f"{said}: the caller may not use it ({key.refused})", State.ERROR, f"{allow}, and the key's policy trust the account."
        )
    if key.refused:
        return Judgement(
            f"{said}: there is no such key in this region", State.ERROR, "Set MONAI_AWS_ROOT_VOLUME_KMS_KEY to one that exists."
        )
    if key.state != "Enabled":
        return Judgement(f"{said}: the key is {key.state}", State.ERROR, "Enable the key, or set MONAI_AWS_ROOT_VOLUME_KMS_KEY to another.")
    if key.arn not in known_to_stack.split(","):
        return Judgement(
            f"{said}: a customer key on which the stack's roles may make no grant. A machine would stop while it starts "
            "(Client.InternalError)",
            State.ERROR,
            f"{allow}.",
        )
    return Judgement(f"{said}: a customer key, enabled, and the stack's roles may make grants for EC2")


def _spot_role(clients: Clients, settings: Settings) -> Judgement:
    try:
        return Judgement(clients.iam.get_role(RoleName=SPOT_ROLE)["Role"]["Arn"])
    except ClientError as error:
        if code_of(error) != "NoSuchEntity":
            raise
    refusal = refusal_of("AuthFailure.ServiceLinkedRoleCreationNotPermitted")
    return Judgement(f"there is no {SPOT_ROLE}. {refusal.what}", _without_spot(settings), refusal.remedy)
