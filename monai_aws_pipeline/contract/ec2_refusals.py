"""What EC2 says when it gives no machine, and what helps: one table, which launches, starts, waits and the wake function decide by.

Standard library only: it is part of the wake function's zip. Sources: "Error codes for the Amazon EC2 API" (launch and start),
EC2 API "StateReason" (machines that ended while they started). What AWS sends with each code is in tests/fidelity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Way(StrEnum):
    """What to do about a refusal. A named error ends the launch; each other way is gone until nothing is left of it."""

    NEXT_ZONE = "another zone may have one"
    NEXT_SUBNET = "another subnet may have room"
    NEXT_TYPE = "another type may be allowed"
    NEXT_MARKET = "another market may have one"
    RETRY = "the same call may be taken later"
    NOT_YET = "what was just made is not known everywhere yet"
    ERROR = "nothing but its remedy helps"


@dataclass(frozen=True)
class Refusal:
    """One thing that AWS says: the way on, what happened, and what a person does when no way is left."""

    way: Way
    what: str
    remedy: str
    known: bool = True


_LATER = "Try again later, or add types to MONAI_AWS_INSTANCE_TYPES."
_PERMISSION = "Run with the operator role that infra/bootstrap.yaml creates, or let the administrator update that stack."
_SUBNETS = "Set MONAI_AWS_SUBNETS to subnets of your own, or create what is missing: aws ec2 create-default-vpc (or create-default-subnet)."
_QUOTA = "End other machines, or ask for a higher quota in Service Quotas (Amazon EC2)."
_SUPPORT = "Look for AWS's mail to the account's owner and answer it; AWS usually decides within hours. Then materialise again."
_AGAIN = "Materialise again in some minutes. If it stays so, look at the AWS Health Dashboard."
_GONE_MEANWHILE = "Somebody removed it meanwhile: materialise again, and look at CloudTrail for who did."
_KEY = (
    "Let the key's policy give the caller kms:CreateGrant, kms:Decrypt, kms:GenerateDataKeyWithoutPlaintext and kms:ReEncrypt* "
    "(the operator role, and the wake role for starts), check that the key is enabled, or set MONAI_AWS_ROOT_VOLUME_KMS_KEY to another."
)

_NO_CAPACITY = Refusal(Way.NEXT_ZONE, "AWS has no such machine free in this zone at the moment.", _LATER)
_FULL_QUOTA = Refusal(Way.NEXT_TYPE, "The account's quota does not allow another such machine.", _QUOTA)
_THROTTLED = Refusal(
    Way.RETRY,
    "AWS takes no more calls at the moment.",
    "Materialise again in some minutes. If it stays so, something in this account calls EC2 too often: CloudTrail shows who.",
)
_DENIED = Refusal(Way.ERROR, "AWS refused it for lack of permission.", _PERMISSION)
_NOT_READY = Refusal(Way.ERROR, "The machine is in another state by now.", "Wait until it is stopped, then materialise again.")

_CODES: Final[Mapping[str, Refusal]] = {
    "InsufficientInstanceCapacity": _NO_CAPACITY,
    "InsufficientHostCapacity": _NO_CAPACITY,
    "InsufficientCapacity": _NO_CAPACITY,
    "InsufficientVolumeCapacity": _NO_CAPACITY,
    "UnfulfillableCapacity": _NO_CAPACITY,
    "Unsupported": Refusal(Way.NEXT_ZONE, "This zone does not have such machines.", _LATER),
    "VolumeTypeNotAvailableInZone": Refusal(Way.NEXT_ZONE, "This zone does not have that type of disk.", "Set MONAI_AWS_ROOT_VOLUME_TYPE."),
    "SpotMaxPriceTooLow": Refusal(Way.NEXT_ZONE, "The price of spot machines is above the offer there.", _LATER),
    "InsufficientFreeAddressesInSubnet": Refusal(
        Way.NEXT_SUBNET, "The subnet has no free address.", "Free addresses in it, or set MONAI_AWS_SUBNETS to subnets that have some."
    ),
    "InvalidSubnetID.NotFound": Refusal(
        Way.NEXT_SUBNET, "The subnet is not there (any more).", "Set MONAI_AWS_SUBNETS to subnets that exist."
    ),
    "InvalidInput": Refusal(Way.NEXT_SUBNET, "The zone has no default subnet.", _SUBNETS),
    "MissingInput": Refusal(Way.ERROR, "The region's default VPC has no subnet.", _SUBNETS),
    "VPCIdNotSpecified": Refusal(Way.ERROR, "The region has no default VPC.", _SUBNETS),
    "VcpuLimitExceeded": _FULL_QUOTA,
    "InstanceLimitExceeded": _FULL_QUOTA,
    "MaxSpotInstanceCountExceeded": _FULL_QUOTA,
    "VolumeLimitExceeded": Refusal(
        Way.ERROR,
        "The account's quota for disks of this type is used up.",
        "Delete volumes and snapshots that nobody needs, or ask for more storage in Service Quotas (Amazon EBS).",
    ),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": Refusal(
        Way.NEXT_MARKET,
        "The account has never bought a spot machine, and the caller may not make the role that spot needs.",
        "Let the administrator run once: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com; "
        "or set MONAI_AWS_BUILD_MARKET=on-demand.",
    ),
    "IncorrectSpotRequestState": Refusal(
        Way.ERROR, "The machine's spot request does not allow a start any more.", "Materialise inference_host: it makes the host anew."
    ),
    "RequestLimitExceeded": _THROTTLED,
    "Throttling": _THROTTLED,
    "ThrottlingException": _THROTTLED,
    "RequestThrottled": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
    "InternalError": Refusal(Way.RETRY, "EC2 failed by itself.", _AGAIN),
    "InternalFailure": Refusal(Way.RETRY, "EC2 failed by itself.", _AGAIN),
    "ServiceUnavailable": Refusal(Way.RETRY, "EC2 is not available at the moment.", _AGAIN),
    "Unavailable": Refusal(Way.RETRY, "EC2 is not available at the moment.", _AGAIN),
    "InvalidInstanceID.NotFound": Refusal(Way.NOT_YET, "AWS does not know the machine.", _GONE_MEANWHILE),
    "InvalidGroup.NotFound": Refusal(Way.NOT_YET, "AWS does not know the security group.", _GONE_MEANWHILE),
    "InvalidGroupId.NotFound": Refusal(Way.NOT_YET, "AWS does not know the security group.", _GONE_MEANWHILE),
    "InvalidKeyPair.NotFound": Refusal(Way.NOT_YET, "AWS does not know the key pair.", _GONE_MEANWHILE),
    "InvalidAMIID.NotFound": Refusal(Way.NOT_YET, "AWS does not know the machine image.", "Materialise gpu_ami, then this asset again."),
    "InvalidAMIID.Unavailable": Refusal(
        Way.ERROR, "The machine image is not (or no longer) available.", "Materialise gpu_ami, then this asset again."
    ),
    "InvalidSnapshot.NotFound": Refusal(
        Way.ERROR, "The snapshot of the machine image is gone.", "Deregister that image; then materialise gpu_ami, which bakes another."
    ),
    "InvalidBlockDeviceMapping": Refusal(
        Way.ERROR, "The root disk does not suit the image.", "Set MONAI_AWS_ROOT_VOLUME_GIB to at least the size of the image's snapshot."
    ),
    "InvalidIAMInstanceProfile": Refusal(  # a name of ours: see refusal_of
        Way.NOT_YET, "AWS does not know the instance profile (yet).", "Let an administrator run: monai-aws bootstrap --bucket NAME"
    ),
    "IncorrectInstanceState": _NOT_READY,
    "IncorrectState": _NOT_READY,
    "PendingVerification": Refusal(Way.ERROR, "AWS is still checking this account for this region.", _SUPPORT),
    "Blocked": Refusal(Way.ERROR, "AWS has blocked this account.", _SUPPORT),
    "AccountDisabled": Refusal(Way.ERROR, "AWS has disabled this account.", _SUPPORT),
    "OptInRequired": Refusal(
        Way.ERROR,
        "The account has not subscribed to this: EC2 in this region, or an image of AWS Marketplace.",
        "Finish the account's sign-up, or accept the image's terms in AWS Marketplace; or set MONAI_AWS_BASE_AMI to another image.",
    ),
    "DeniedByOrganisation": Refusal(  # a name of ours: see refusal_of
        Way.ERROR,
        "A policy of the account's organisation denies it, whatever the operator role may.",
        "Ask the organisation's administrators what its service control policies want: often a tag (monai-aws:owner is MONAI_AWS_OWNER), "
        "a region or an instance type.",
    ),
    "TagPolicyViolation": Refusal(
        Way.ERROR,
        "A tag policy of the account's organisation does not allow a tag's value.",
        "Ask the organisation's administrators which values it takes: monai-aws:owner is MONAI_AWS_OWNER.",
    ),
    "UnauthorizedOperation": _DENIED,
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "AuthFailure": _DENIED,
    "UnrecognizedClientException": _DENIED,
}

_REASONS: Final[Mapping[str, Refusal]] = {
    "Server.InsufficientInstanceCapacity": _NO_CAPACITY,
    "Server.InternalError": Refusal(Way.NEXT_ZONE, "AWS failed while the machine started.", _AGAIN),
    "Server.SpotInstanceTermination": Refusal(Way.NEXT_ZONE, "AWS took the spot machine back while it started.", _LATER),
    "Client.InternalError": Refusal(Way.ERROR, "The machine's disk could not be used: mostly its KMS key may not be used.", _KEY),
    "Client.InvalidKMSKey.InvalidState": Refusal(Way.ERROR, "The KMS key of the machine's disk is disabled or is to be deleted.", _KEY),
    "Client.InvalidSnapshot.NotFound": _CODES["InvalidSnapshot.NotFound"],
    "Client.VolumeLimitExceeded": _CODES["VolumeLimitExceeded"],
}

_UNKNOWN_CODE = Refusal(
    Way.ERROR, "AWS refused it.", "Look the code up in 'Error codes for the Amazon EC2 API'; then materialise again.", known=False
)
_UNKNOWN_END = Refusal(
    Way.ERROR, "The machine ended while it started.", "Look at its state reason in EC2; then materialise again.", known=False
)
_INPUT_NAMES: Final = {"InvalidInput": r"default subnet", "MissingInput": r"[Ss]ubnet"}
"""General codes that mean what the table says only with these words."""


def refusal_of(code: str, message: str = "") -> Refusal:
    """What a refused call means. ``message``: AWS's, for codes that say several things."""
    if code == "InvalidParameterValue" and re.search(r"[Ii]nstance ?[Pp]rofile", message):
        code = "InvalidIAMInstanceProfile"
    if code == "UnauthorizedOperation" and "explicit deny in a service control policy" in message:
        code = "DeniedByOrganisation"
    if code in _INPUT_NAMES and not re.search(_INPUT_NAMES[code], message):
        return _UNKNOWN_CODE
    return _CODES.get(code, _UNKNOWN_CODE)


def ending_of(code: str) -> Refusal:
    """What the state reason of a machine means that ended, or stopped again, while it started."""
    return _REASONS.get(code, _UNKNOWN_END)
