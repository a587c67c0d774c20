"""AWS's error answers as they come over the wire: a table of EC2's codes, and a client to which one is played."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.parsers import create_parser


@dataclass(frozen=True)
class Played:
    """One refusal: code, HTTP status, a part of its words, the call that gets it, and how that ends (``end``).

    ``end``: ``next zone``, ``next type``, ``next market``, ``retry``, or the error it becomes; ``remedy``: a part of its remedy.
    """

    code: str
    status: int
    words: str
    end: str
    remedy: str = ""
    call: str = "RunInstances"

    @property
    def id(self) -> str:
        """Its behaviour in the register."""
        return f"refusal-{self.code}" if self.call == "RunInstances" else f"refusal-start-{self.code}"


REFUSALS = (
    Played("InsufficientInstanceCapacity", 500, "do not have sufficient g4dn.xlarge capacity", "next zone"),
    Played("InsufficientHostCapacity", 500, "Insufficient capacity", "next zone"),
    Played("UnfulfillableCapacity", 500, "Unable to fulfill capacity", "next zone"),
    Played("Unsupported", 400, "is not supported in your requested Availability Zone", "next zone"),
    Played("SpotMaxPriceTooLow", 400, "lower than the minimum required Spot request fulfillment price", "next zone"),
    Played("InsufficientFreeAddressesInSubnet", 400, "not enough free addresses in subnet", "next zone"),
    Played("InvalidSubnetID.NotFound", 400, "The subnet ID", "next zone"),
    Played("InvalidInput", 400, "No default subnet for availability zone", "next zone"),
    Played("VcpuLimitExceeded", 400, "more vCPU capacity than your current vCPU limit", "next type"),
    Played("InstanceLimitExceeded", 400, "more running instance(s)", "next type"),
    Played("MaxSpotInstanceCountExceeded", 400, "Max spot instance count exceeded", "next type"),
    Played("AuthFailure.ServiceLinkedRoleCreationNotPermitted", 403, "service-linked role for EC2 Spot Instances", "next market"),
    Played("RequestLimitExceeded", 503, "Request limit exceeded", "retry"),
    Played("InternalError", 500, "An internal error has occurred", "retry"),
    Played("Unavailable", 503, "The service is unavailable", "retry"),
    Played("InvalidParameterValue", 400, "Invalid IAM Instance Profile name", "retry"),
    Played("InvalidGroup.NotFound", 400, "The security group", "retry"),
    Played("InvalidKeyPair.NotFound", 400, "The key pair", "retry"),
    Played("InvalidAMIID.NotFound", 400, "The image id", "retry"),
    Played("MissingInput", 400, "No subnets found for the default VPC", "LaunchError", "MONAI_AWS_SUBNETS"),
    Played("VPCIdNotSpecified", 400, "No default VPC for this user", "LaunchError", "MONAI_AWS_SUBNETS"),
    Played("VolumeLimitExceeded", 400, "maximum gp3 storage limit", "LaunchError", "Service Quotas"),
    Played("PendingVerification", 400, "is being validated", "LaunchError", "mail to the account's owner"),
    Played("Blocked", 400, "This account is currently blocked", "LaunchError", "mail to the account's owner"),
    Played("OptInRequired", 401, "You are not subscribed to this service", "LaunchError", "MONAI_AWS_BASE_AMI"),
    Played("UnauthorizedOperation", 403, "Encoded authorization failure message", "AccessError", "infra/bootstrap.yaml"),
    Played("AuthFailure", 401, "not able to validate the provided access credentials", "AccessError", "operator role"),
    Played("InvalidAMIID.Unavailable", 400, "is not available", "ImageError", "Materialise gpu_ami"),
    Played("InvalidSnapshot.NotFound", 400, "The snapshot", "LaunchError", "materialise gpu_ami"),
    Played("InsufficientInstanceCapacity", 500, "do not have sufficient", "CapacityError", "Try again later", "StartInstances"),
    Played("IncorrectInstanceState", 400, "not in a state from which it can be started", "LaunchError", "Wait until", "StartInstances"),
    Played("IncorrectSpotRequestState", 400, "not in an appropriate state", "LaunchError", "inference_host", "StartInstances"),
)


def play(client: Any, operation: str, code: str, status: int, message: str, times: int = 1) -> list[dict[str, Any]]:
    """Let the next ``times`` calls be answered so, read by botocore's own parser. What such calls ask for is kept in the list returned."""
    asked: list[dict[str, Any]] = []

    def answer(model: Any, params: dict[str, Any], **_: Any) -> tuple[AWSResponse, dict[str, Any]] | None:
        asked.append(dict(params["body"]))
        if len(asked) > times:
            return None
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>0</RequestID></Response>"
        )
        sent = {"status_code": status, "headers": {}, "body": text.encode()}
        return AWSResponse("", status, {}, None), create_parser("ec2").parse(sent, model.output_shape)

    client.meta.events.register_first(f"before-call.ec2.{operation}", answer)
    return asked
