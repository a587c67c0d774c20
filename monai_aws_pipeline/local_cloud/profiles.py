"""Accounts that the embedded AWS can be: as AWS makes one, as an organisation hands one out, and with one thing or another missing.

Here belongs the table of ``monai-aws local up --profile NAME[,NAME]``: what each lacks, what is made in it, and the settings that its
administrators would tell. A profile holds in the cloud's home region, from each start on. What strikes once in a while is a fault
(faults.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .errors import ProfileError

if TYPE_CHECKING:
    from .connect_endpoints import ConnectEndpoints

REQUIRED_TAG: Final = "monai-aws:owner"
"""Without it an organisation's policy lets nobody make a machine or a disk."""
_NETWORK: Final = "10.20.0.0/16"


@dataclass(frozen=True)
class Region:
    """The home region while a profile is applied to it: moto's EC2, the endpoints, and the subnets from which no packet leads out."""

    name: str
    ec2: Any
    endpoints: ConnectEndpoints
    private_subnets: set[str]
    make_key: Callable[[str], str]
    """Makes a customer's KMS key with a description; its ARN."""

    @property
    def first_zone(self) -> str:
        """The zone that is tried first."""
        return f"{self.name}a"

    def default_subnets(self, zone: str = "") -> list[Any]:
        """Subnets of the default VPC, in a zone or all of them."""
        return [each for each in self.ec2.describe_subnets() if each.default_for_az and (not zone or each.availability_zone == zone)]


Settings = Mapping[str, str]


@dataclass(frozen=True)
class Profile:
    """One kind of account. ``lacks``: fields of ``faults.Account``, with ``ZONE`` for the first zone; ``prepare``: makes it, and tells."""

    what: str
    lacks: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Region], Settings] = lambda _: {}


def _organisation(region: Region) -> Settings:
    """Private subnets in three zones with an endpoint, a key for disks, and nothing of what a new account has."""
    ec2 = region.ec2
    for vpc in ec2.describe_vpcs(filters={"is-default": ["true"]}):
        for subnet in region.default_subnets():
            ec2.delete_subnet(subnet.id)
        ec2.delete_vpc(vpc.id)
    vpc = ec2.create_vpc(_NETWORK)
    subnets = [ec2.create_subnet(vpc.id, f"10.20.{place}.0/24", availability_zone=f"{region.name}{'abc'[place]}") for place in range(3)]
    region.private_subnets.update(subnet.id for subnet in subnets)
    region.endpoints.make(subnets[0]).ready = True
    key = region.make_key("disks of this account")
    ec2.ebs_encryption_by_default, ec2.default_kms_key_id = True, key
    return {
        "MONAI_AWS_SUBNETS": ",".join(subnet.id for subnet in subnets),
        "MONAI_AWS_REACH": "endpoint",
        "MONAI_AWS_SSH_PORT": "22",
        "MONAI_AWS_ROOT_VOLUME_KMS_KEY": key,
    }


def _zone_without_subnet(region: Region) -> Settings:
    for subnet in region.default_subnets(region.first_zone):
        region.ec2.delete_subnet(subnet.id)
    return {}


def _full_subnet(region: Region) -> Settings:
    for subnet in region.default_subnets(region.first_zone):
        subnet._available_ip_addresses -= subnet.available_ip_address_count
    return {}


PROFILES: Final[Mapping[str, Profile]] = {
    "default": Profile("as AWS makes an account: a default VPC, a public subnet in each zone"),
    "organisation": Profile(
        "as an organisation hands one out: no default VPC, private subnets behind an EC2 Instance Connect Endpoint (NAT is implied), a "
        f"customer's KMS key for disks, and machines and disks only with the tag `{REQUIRED_TAG}`",
        {"required_tag": REQUIRED_TAG},
        _organisation,
    ),
    "zone-without-subnet": Profile("the first zone has no default subnet", prepare=_zone_without_subnet),
    "full-subnet": Profile("the first zone's default subnet has no free address", prepare=_full_subnet),
    "zone-without-capacity": Profile("the first zone never has a machine to give", {"no_capacity": ("ZONE",)}),
    "quota-of-4": Profile("a quota of 4 running vCPUs: one g4dn.xlarge", {"vcpus": 4}),
    "no-spot-role": Profile("nobody has bought a spot machine yet, and nobody may make the role that spot needs", {"spot_role": False}),
}


def known(names: Iterable[str]) -> tuple[str, ...]:
    """The names as they are. Raises ProfileError for one that stands for no profile."""
    wanted = tuple(names)
    unknown = [name for name in wanted if name not in PROFILES]
    if unknown:
        raise ProfileError(f"The embedded AWS has no account profile {', '.join(unknown)}.", f"Choose among {', '.join(PROFILES)}.")
    return wanted


def lacking(names: Iterable[str], region: str) -> dict[str, Any]:
    """What the account of these profiles lacks, as ``faults.Account`` has it."""
    found: dict[str, Any] = {}
    for name in names:
        found |= PROFILES[name].lacks
    if "no_capacity" in found:
        found["no_capacity"] = tuple(f"{region}a" if zone == "ZONE" else zone for zone in found["no_capacity"])
    return found


def prepare(names: Iterable[str], region: Region) -> dict[str, str]:
    """Make in a region what these profiles are made of. Returns the settings that go with them."""
    settings: dict[str, str] = {}
    for name in names:
        settings |= PROFILES[name].prepare(region)
    return settings
