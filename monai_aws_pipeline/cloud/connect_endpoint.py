"""EC2 Instance Connect Endpoint: the way to machines that have no public address, through a signed web socket that carries TCP.

Here belong finding the endpoint of a VPC and one tunnel through it; what runs over a tunnel is remote.py's. Nothing is installed on the
machine, and no port of it is open to anybody but the endpoint.
Sources: EC2 User Guide, "Connect to your instances using a private IP address and EC2 Instance Connect Endpoint" and the pages below it;
the AWS CLI's command ``ec2-instance-connect open-tunnel``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from botocore.exceptions import ClientError
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from monai_aws_pipeline.cloud.errors import AccessError, CloudError, refused
from monai_aws_pipeline.cloud.tags import tags_of
from monai_aws_pipeline.contract import TAG_DEPLOYMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import Ec2InstanceConnectEndpointTypeDef

    from monai_aws_pipeline.cloud.instances import Subnet
    from monai_aws_pipeline.cloud.session import Clients

LONGEST_S: Final = 3600
"""AWS ends every tunnel after an hour."""
PORT: Final = 22
"""AWS carries SSH to this port alone (and RDP to 3389), whatever port a machine's server listens on."""
_SERVICE: Final = "ec2-instance-connect"
_USABLE: Final = frozenset({"create-complete", "update-in-progress", "update-complete", "update-failed"})
_SIGNATURE_LASTS_S: Final = 60
_FRAME: Final = 65_000
_STUCK_MS: Final = 120_000
_SOCKET_LOG: Final = logging.getLogger(f"{__name__}.socket")
_SOCKET_LOG.setLevel(logging.WARNING)  # at DEBUG the library writes the signed address


class EndpointError(CloudError):
    """The VPC has no endpoint that can be used, or the endpoint does not take what it is asked."""


class TunnelError(ConnectionError):
    """No tunnel at this moment: the machine may still be booting. Says why, without the signed address."""


@dataclass(frozen=True)
class ConnectEndpoint:
    """An endpoint that can be used. ``keeps_client_address``: machines see the caller's address, not one of ``groups``."""

    id: str
    address: str
    subnet: str
    groups: tuple[str, ...]
    keeps_client_address: bool
    deployment: str = ""

    @classmethod
    def of(cls, described: Ec2InstanceConnectEndpointTypeDef) -> ConnectEndpoint:
        """From AWS's description."""
        return cls(
            id=described.get("InstanceConnectEndpointId", ""),
            address=described.get("DnsName", ""),
            subnet=described.get("SubnetId", ""),
            groups=tuple(described.get("SecurityGroupIds", ())),
            keeps_client_address=bool(described.get("PreserveClientIp")),
            deployment=tags_of(described.get("Tags", [])).get(TAG_DEPLOYMENT, ""),
        )

    def described(self, deployment: str) -> str:
        """Which endpoint it is and whose, for the log."""
        whose = f"of deployment {deployment}" if self.deployment == deployment else "which the account's administrators have made"
        return f"machines are reached through the EC2 Instance Connect Endpoint {self.id} in {self.subnet}, {whose}"


def find_endpoint(ec2: EC2Client, subnets: Sequence[Subnet]) -> ConnectEndpoint:
    """The endpoint of the subnets' VPC; one reaches all of its subnets. Raises EndpointError where none can be used, and AccessError."""
    vpc, region = subnets[0].vpc, ec2.meta.region_name
    try:
        pages = ec2.get_paginator("describe_instance_connect_endpoints").paginate(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        found = [each for page in pages for each in page["InstanceConnectEndpoints"]]
    except ClientError as error:
        denied = refused(error, "looking for EC2 Instance Connect Endpoints")
        if denied:
            raise denied from error
        raise
    usable = [each for each in found if each.get("State") in _USABLE]
    if usable:
        return ConnectEndpoint.of(usable[0])
    if any(each.get("State") == "create-in-progress" for each in found):
        names = ", ".join(each.get("InstanceConnectEndpointId", "") for each in found)
        raise EndpointError(f"The EC2 Instance Connect Endpoint {names} is still being made.", "It takes some minutes; then start again.")
    states = ", ".join(f"{each.get('InstanceConnectEndpointId')} is {each.get('State')}" for each in found)
    raise EndpointError(
        f"The VPC {vpc} has no EC2 Instance Connect Endpoint{f' that can be used ({states})' if states else ''}; "
        "MONAI_AWS_REACH=endpoint reaches machines through one.",
        f"Let an administrator run: aws ec2 create-instance-connect-endpoint --region {region} --subnet-id {subnets[0].id} "
        "(a VPC needs one, it costs nothing and takes some minutes); or set MONAI_AWS_REACH=public.",
    )


class Tunnel:
    """One TCP connection within a web socket, in the form in which paramiko takes a socket. ``ended``: why it is over, empty before."""

    def __init__(self, web_socket: ClientConnection) -> None:
        self._web_socket = web_socket
        self._timeout: float | None = None
        self._rest = b""
        self._closed = False  # paramiko asks its sockets by this name
        self.ended = ""

    def settimeout(self, seconds: float | None) -> None:
        """How long ``recv`` waits before it raises TimeoutError."""
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        """At most so many bytes, as soon as there are some; none where the tunnel has ended. Raises TimeoutError."""
        while not self._rest:
            try:
                message = self._web_socket.recv(self._timeout)
            except ConnectionClosed as error:
                self._end(error)
                return b""
            self._rest = message.encode() if isinstance(message, str) else bytes(message)
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def send(self, data: bytes) -> int:
        """Send some of it, and say how much. Raises OSError where the tunnel has ended."""
        try:
            self._web_socket.send(data[:_FRAME])
        except ConnectionClosed as error:
            self._end(error)
            raise BrokenPipeError(self.ended) from error
        return min(len(data), _FRAME)

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._web_socket.close()

    def _end(self, error: ConnectionClosed) -> None:
        told = error.rcvd.reason if error.rcvd else "the connection to the endpoint broke off"
        self.ended = self.ended or told or "the endpoint closed it"


def open_tunnel(clients: Clients, endpoint: ConnectEndpoint, machine: str, seconds: int = LONGEST_S) -> Tunnel:
    """A tunnel to the SSH port of a machine by its private address. Raises TunnelError, and AccessError or EndpointError for good."""
    query = {
        "instanceConnectEndpointId": endpoint.id,
        "maxTunnelDuration": str(seconds),
        "privateIpAddress": machine,
        "remotePort": str(PORT),
    }
    url = clients.signed_socket(f"{endpoint.address}/openTunnel?{urlencode(query)}", _SERVICE, _SIGNATURE_LASTS_S)
    try:
        # No pings of the library's own: SSH has some, and AWS's client sends none.
        made = ExitStack().enter_context(  # Tunnel.close ends it
            connect(url, ssl=_trust(url), compression=None, ping_interval=None, open_timeout=20, close_timeout=2, logger=_SOCKET_LOG)
        )
    except InvalidStatus as error:
        raise _refusal(endpoint, error) from None
    except (WebSocketException, OSError) as error:
        raise TunnelError(f"the endpoint {endpoint.id} does not answer ({type(error).__name__})") from None
    # The library waits for ever for a network that takes nothing more. A tunnel that is over by now says so to whoever reads.
    with suppress(OSError, AttributeError):
        made.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_MS)
    return Tunnel(made)


def _trust(url: str) -> ssl.SSLContext | None:
    """Whom TLS trusts: what the SDK is told to, for networks that look into it; otherwise what this machine does."""
    return ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None) if url.startswith("wss:") else None


def _refusal(endpoint: ConnectEndpoint, error: InvalidStatus) -> Exception:
    """What the endpoint's refusal means. Its body is ``{"ErrorCode": …, "Message": …}``."""
    status = error.response.status_code
    try:
        said = json.loads(error.response.body)
        code, message = str(said["ErrorCode"]), str(said["Message"])
    except (ValueError, KeyError, TypeError):
        code, message = f"HTTP {status}", ""
    if status >= 500 or status == 429:
        return TunnelError(f"the endpoint {endpoint.id} answered {code}")
    if status in (401, 403):
        return AccessError(
            f"AWS refused a tunnel through the EC2 Instance Connect Endpoint {endpoint.id} ({code}).",
            "Run with the operator role that infra/bootstrap.yaml creates, or let the administrator update that stack: it allows "
            "ec2-instance-connect:OpenTunnel to port 22.",
        )
    return EndpointError(
        f"The EC2 Instance Connect Endpoint {endpoint.id} refused a tunnel ({code}): {message[:300]}",
        "Look at the endpoint and the machine's subnet: aws ec2 describe-instance-connect-endpoints. Then start again.",
    )
