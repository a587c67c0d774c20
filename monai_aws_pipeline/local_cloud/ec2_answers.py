"""How EC2 sends its refusals: HTTP status and message by code, for ordered faults that say nothing else.

Sources: "Error codes for the Amazon EC2 API" for codes and which side they blame, reports of users for status and words. Zones, types and
ids in the texts are examples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sent:
    """One refusal as it is sent."""

    status: int
    message: str


_TYPES = "g4dn.xlarge"
_NO_CAPACITY = (
    f"We currently do not have sufficient {_TYPES} capacity in the Availability Zone you requested (us-east-1a). Our system will be "
    f"working on provisioning additional capacity. You can currently get {_TYPES} capacity by not specifying an Availability Zone in your "
    "request or choosing us-east-1b, us-east-1c."
)
_VERIFICATION = (
    "Your request for accessing resources in this region is being validated, and you will not be able to launch additional resources in "
    "this region until the validation is complete. We will notify you by email once your request has been validated."
)

SENT: Final[Mapping[str, Sent]] = {
    "DryRunOperation": Sent(412, "Request would have succeeded, but DryRun flag is set."),
    "InsufficientInstanceCapacity": Sent(500, _NO_CAPACITY),
    "InsufficientHostCapacity": Sent(500, "Insufficient capacity for a host of the requested type."),
    "InsufficientFreeAddressesInSubnet": Sent(
        400, "There are not enough free addresses in subnet 'subnet-0123456789abcdef0' to satisfy the requested number of instances."
    ),
    "InvalidInput": Sent(400, "No default subnet for availability zone: 'us-east-1e'."),
    "MissingInput": Sent(400, "No subnets found for the default VPC 'vpc-0123456789abcdef0'. Please specify a subnet."),
    "VPCIdNotSpecified": Sent(400, "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC."),
    "InvalidSubnetID.NotFound": Sent(400, "The subnet ID 'subnet-0123456789abcdef0' does not exist"),
    "Unsupported": Sent(
        400,
        f"Your requested instance type ({_TYPES}) is not supported in your requested Availability Zone (us-east-1e). Please "
        "retry your request by not specifying an Availability Zone or choosing us-east-1a, us-east-1b.",
    ),
    "VcpuLimitExceeded": Sent(
        400,
        "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that the "
        "specified instance type belongs to.",
    ),
    "InstanceLimitExceeded": Sent(400, "Your quota allows for 0 more running instance(s). You requested at least 1"),
    "MaxSpotInstanceCountExceeded": Sent(400, "Max spot instance count exceeded"),
    "SpotMaxPriceTooLow": Sent(
        400, "Your Spot request price of 0.1 is lower than the minimum required Spot request fulfillment price of 0.2."
    ),
    "UnfulfillableCapacity": Sent(
        500, "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again."
    ),
    "VolumeLimitExceeded": Sent(400, "You have exceeded your maximum gp3 storage limit in this region."),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": Sent(
        403, "The provided credentials do not have permission to create the service-linked role for EC2 Spot Instances."
    ),
    "PendingVerification": Sent(400, _VERIFICATION),
    "Blocked": Sent(400, "This account is currently blocked and not recognized as a valid account."),
    "OptInRequired": Sent(401, "You are not subscribed to this service."),
    "RequestLimitExceeded": Sent(503, "Request limit exceeded."),
    "InternalError": Sent(500, "An internal error has occurred"),
    "Unavailable": Sent(503, "The service is unavailable. Please try again shortly."),
    "UnauthorizedOperation": Sent(
        403, "You are not authorized to perform this operation. Encoded authorization failure message: 4GIOHlTkIaWHQD0Q"
    ),
    "AuthFailure": Sent(401, "AWS was not able to validate the provided access credentials"),
    "InvalidParameterValue": Sent(
        400, "Value (monai-aws-dev-build-host) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
    ),
    "InvalidInstanceID.NotFound": Sent(400, "The instance ID 'i-0123456789abcdef0' does not exist"),
    "InvalidGroup.NotFound": Sent(400, "The security group 'sg-0123456789abcdef0' does not exist"),
    "InvalidKeyPair.NotFound": Sent(400, "The key pair 'monai-aws-dev-map-build' does not exist"),
    "InvalidAMIID.NotFound": Sent(400, "The image id '[ami-0123456789abcdef0]' does not exist"),
    "InvalidAMIID.Unavailable": Sent(400, "The image ID 'ami-0123456789abcdef0' is not available"),
    "InvalidSnapshot.NotFound": Sent(400, "The snapshot 'snap-0123456789abcdef0' does not exist."),
    "IncorrectInstanceState": Sent(400, "The instance 'i-0123456789abcdef0' is not in a state from which it can be started."),
    "IncorrectSpotRequestState": Sent(
        400,
        "You can't start the Spot Instance 'i-0123456789abcdef0' because the associated Spot Instance request is "
        "not in an appropriate state to support start.",
    ),
}


def status_of(status: int, body: bytes) -> int:
    """The HTTP status of an answer: EC2's own for codes that it does not send as 400, as moto sends all of them."""
    code = re.search(rb"<Code>([\w.]+)</Code>", body) if status == 400 else None
    sent = SENT.get(code[1].decode()) if code else None
    return sent.status if sent else status


ENDINGS: Final[Mapping[str, str]] = {
    "Server.InsufficientInstanceCapacity": "Server.InsufficientInstanceCapacity: Insufficient capacity to satisfy instance request",
    "Server.InternalError": "Server.InternalError: Internal error on launch",
    "Client.InternalError": "Client.InternalError: Client error on launch",
    "Client.InvalidSnapshot.NotFound": "Client.InvalidSnapshot.NotFound: The specified snapshot was not found",
    "Client.VolumeLimitExceeded": "Client.VolumeLimitExceeded: Volume limit exceeded",
}
"""State reasons of machines that end while they start, with their messages. Source: EC2 API, StateReason."""
