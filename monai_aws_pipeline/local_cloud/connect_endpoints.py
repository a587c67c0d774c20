"""EC2 Instance Connect Endpoints: records that EC2 describes, and the web socket that carries TCP to machines by their private addresses.

moto has none, so its EC2 gets the three calls here. A tunnel is given to whoever's signature and permission
(``ec2-instance-connect:OpenTunnel`` with its condition keys) hold, to port 22 alone, and reaches a machine of the endpoint's VPC whose
security groups let the endpoint in. Behind port 22 stands the machine's SSH server, on whichever port of this computer it listens.
Sources: EC2 User Guide, "Connect to your instances using a private IP address and EC2 Instance Connect Endpoint"; messages as users of
the AWS CLI report them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from ministack.core import iam_evaluator, router, sigv4
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

from . import identity
from .config import ACCOUNT, CloudConfig
from .ec2 import Instances, Machine

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_SERVICE: Final = "ec2-instance-connect"
_PORTS: Final = ("22", "3389")
_LONGEST_S: Final = 3600
_UNREACHED: Final = "Unable to connect to target"
_GOING_AWAY: Final = 1001
_CHUNK: Final = 1 << 16
_CALLER: Final = "127.0.0.1"
_log: Final = logging.getLogger("local-cloud.tunnels")


@dataclass
class ConnectEndpoint:
    """One endpoint. It is ``ready`` once it was described: AWS takes some minutes to make one, and a test should not."""

    id: str
    region: str
    subnet: Any
    groups: tuple[str, ...]
    keeps_client_address: bool
    address: str
    ready: bool = False
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def arn(self) -> str:
        """What permissions name."""
        return f"arn:aws:ec2:{self.region}:{ACCOUNT}:instance-connect-endpoint/{self.id}"

    def described(self, tags: Mapping[str, str]) -> dict[str, Any]:
        """As EC2 describes it."""
        return {
            "OwnerId": ACCOUNT,
            "InstanceConnectEndpointId": self.id,
            "InstanceConnectEndpointArn": self.arn,
            "State": "create-complete" if self.ready else "create-in-progress",
            "DnsName": self.address,
            "VpcId": self.subnet.vpc_id,
            "SubnetId": self.subnet.id,
            "AvailabilityZone": self.subnet.availability_zone,
            "CreatedAt": self.created_at,
            "PreserveClientIp": self.keeps_client_address,
            "SecurityGroupIds": list(self.groups),
            "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
        }


class RefusedTunnelError(Exception):
    """A tunnel that is not given: HTTP status, code and message of the answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Wanted:
    """What a caller asks for."""

    endpoint: ConnectEndpoint
    machine: str
    seconds: int


class ConnectEndpoints:
    """All endpoints of one cloud, and the tunnels that are open."""

    def __init__(self, config: CloudConfig, room: Instances, ssh_port: int) -> None:
        self._config, self._room, self._ssh_port = config, room, ssh_port
        self._endpoints: dict[str, ConnectEndpoint] = {}
        self._open: dict[str, set[asyncio.Event]] = {}

    # ------------------------------------------------------------------------------------------------------------------ records

    def install(self) -> None:
        """Give moto's EC2 the calls."""
        EC2Response.create_instance_connect_endpoint = _handed_to(self._create)
        EC2Response.describe_instance_connect_endpoints = _handed_to(self._describe)
        EC2Response.delete_instance_connect_endpoint = _handed_to(self._delete)

    def make(self, subnet: Any, groups: tuple[str, ...] = (), *, keeps_client_address: bool = False) -> ConnectEndpoint:
        """A new endpoint in a subnet of moto's; without a group it has the VPC's default one."""
        backend = subnet.ec2_backend
        groups = groups or tuple(group.id for group in backend.groups[subnet.vpc_id].values() if group.name == "default")
        name, place = f"eice-{secrets.token_hex(8)}1", self._config.registry_host
        made = ConnectEndpoint(name, backend.region_name, subnet, groups, keeps_client_address, place)
        self._endpoints[made.id] = made
        return made

    def _create(self, response: Any) -> ActionResult:
        subnet = response.ec2_backend.get_subnet(response._get_param("SubnetId"))
        groups = tuple(response._get_param("SecurityGroupIds", []))
        made = self.make(subnet, groups, keeps_client_address=bool(response._get_bool_param("PreserveClientIp", False)))
        tags = response._parse_tag_specification("instance-connect-endpoint")
        if tags:
            response.ec2_backend.create_tags([made.id], tags)
        return ActionResult({"InstanceConnectEndpoint": made.described(self._room.tags_of(made.id))})

    def _describe(self, response: Any) -> ActionResult:
        asked = response._get_param("InstanceConnectEndpointIds", [])
        filters = response._filters_from_querystring()
        region = response.ec2_backend.region_name
        missing = [name for name in asked if name not in self._endpoints]
        if missing:
            raise _no_endpoint(missing[0])
        found = []
        for each in [each for each in self._endpoints.values() if each.region == region and (not asked or each.id in asked)]:
            described = each.described(self._room.tags_of(each.id))
            if all(_value(described, name) in values for name, values in filters.items()):
                found.append(described)
                each.ready = True
        return ActionResult({"InstanceConnectEndpoints": found})

    def _delete(self, response: Any) -> ActionResult:
        name = response._get_param("InstanceConnectEndpointId")
        gone = self._endpoints.pop(name, None)
        if gone is None:
            raise _no_endpoint(name)
        return ActionResult({"InstanceConnectEndpoint": {**gone.described({}), "State": "delete-in-progress"}})

    # ------------------------------------------------------------------------------------------------------------------ tunnels

    async def tunnel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a web socket: refuse it, or carry TCP until one side, its time or an order ends it."""
        await receive()
        try:
            wanted = self._admit(scope)
        except RefusedTunnelError as refused:
            _log.info("a tunnel is refused: %s", refused.code)
            body = json.dumps({"ErrorCode": refused.code, "Message": refused.message}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "websocket.http.response.start", "status": refused.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": body})
            return
        await send({"type": "websocket.accept"})
        machine = self._room.at_address(wanted.machine, wanted.endpoint.subnet.vpc_id)
        if machine is None or not self._lets_in(machine, wanted.endpoint):
            await send({"type": "websocket.close", "code": _GOING_AWAY, "reason": _UNREACHED})
            return
        try:
            reader, writer = await asyncio.open_connection(machine.address, self._ssh_port, local_addr=(self._config.endpoint_address, 0))
        except OSError:
            await send({"type": "websocket.close", "code": _GOING_AWAY, "reason": _UNREACHED})
            return
        await self._carry(machine, wanted.seconds, (reader, writer), receive, send)

    def _admit(self, scope: Scope) -> Wanted:
        """What is wanted by somebody who may have it. Raises RefusedTunnelError."""
        query = parse_qs(scope.get("query_string", b"").decode(errors="replace"), keep_blank_values=True)

        def asked(name: str) -> str:
            return str(query.get(name, [""])[0])

        identity.as_account()
        access_key, signed = router.extract_access_key_id({}, query), asked("X-Amz-Credential").split("/")
        if not access_key or identity.refusal(access_key, anonymous=False):
            raise RefusedTunnelError(403, "AccessDenied", "Missing or unknown credentials.")
        credential = iam_evaluator.authenticate_handshake(scope)
        if credential is None or isinstance(credential, iam_evaluator.AuthError) or signed[3:4] != [_SERVICE] or _expired(query):
            raise RefusedTunnelError(403, "AccessDenied", "The request signature does not match, or has expired.")
        endpoint = self._endpoints.get(asked("instanceConnectEndpointId"))
        if endpoint is None or not endpoint.ready or signed[2] != endpoint.region:
            raise RefusedTunnelError(400, "InvalidParameter", "The specified InstanceConnectEndpointId is not valid.")
        seconds = asked("maxTunnelDuration")
        context = {
            f"{_SERVICE}:remotePort": asked("remotePort"),
            f"{_SERVICE}:privateIpAddress": asked("privateIpAddress"),
            **({f"{_SERVICE}:maxTunnelDuration": seconds} if seconds else {}),
        }
        action = f"{_SERVICE}:OpenTunnel"
        if iam_evaluator.enforce(access_key, action, _SERVICE, endpoint.region, resource_arn=endpoint.arn, service_context=context):
            raise RefusedTunnelError(403, "AccessDenied", f"User is not authorized to perform: {action} on resource: {endpoint.arn}")
        if asked("remotePort") not in _PORTS:
            raise RefusedTunnelError(
                400,
                "InvalidParameter",
                "The specified RemotePort is not valid. Specify either 22 or 3389 as the RemotePort and retry your request.",
            )
        if seconds and not (seconds.isdigit() and 1 <= int(seconds) <= _LONGEST_S):
            raise RefusedTunnelError(400, "InvalidParameter", "The specified MaxTunnelDuration is not valid.")
        if not self._config.has_address(asked("privateIpAddress")):
            raise RefusedTunnelError(400, "InvalidParameter", "The specified PrivateIpAddress is not valid.")
        return Wanted(endpoint, asked("privateIpAddress"), int(seconds or _LONGEST_S))

    def _lets_in(self, machine: Machine, endpoint: ConnectEndpoint) -> bool:
        """Whether the machine's security groups let the endpoint in at port 22: by one of its groups, or by where it connects from."""
        keeps = endpoint.keeps_client_address
        source = ipaddress.IPv4Network(_CALLER if keeps else endpoint.subnet.cidr_block)
        for rule in self._room.ingress_rules(machine):
            if rule.ip_protocol != "-1" and not (rule.ip_protocol == "tcp" and rule.from_port <= 22 <= rule.to_port):
                continue
            group, ranges = rule.source_group.get("GroupId"), rule.ip_range.get("CidrIp")
            if (group in endpoint.groups and not keeps) or (ranges and source.subnet_of(ipaddress.IPv4Network(ranges, strict=False))):
                return True
        return False

    async def _carry(
        self, machine: Machine, seconds: int, tcp: tuple[asyncio.StreamReader, asyncio.StreamWriter], receive: Receive, send: Send
    ) -> None:
        """Carry bytes both ways until one side ends it, the time is over or it is told to end."""
        reader, writer = tcp
        ordered = asyncio.Event()
        self._open.setdefault(machine.instance.id, set()).add(ordered)

        async def there() -> str:
            while (message := await receive())["type"] == "websocket.receive":
                writer.write(message.get("bytes") or (message.get("text") or "").encode())
                await writer.drain()
            return ""

        async def back() -> str:
            while data := await reader.read(_CHUNK):
                await send({"type": "websocket.send", "bytes": data})
            return "The target has closed the connection"

        async def ended() -> str:
            await ordered.wait()
            return "The tunnel was ordered to end"

        async def over() -> str:
            await asyncio.sleep(seconds)
            return "The maximum tunnel duration is over"

        tasks = [asyncio.ensure_future(each()) for each in (there, back, ended, over)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reason = next((task.result() for task in done if not task.exception()), "")
            if reason:
                with contextlib.suppress(Exception):  # the caller may have gone at the same moment
                    await send({"type": "websocket.close", "code": _GOING_AWAY, "reason": reason})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            self._open[machine.instance.id].discard(ordered)

    def end_tunnels(self, instance_id: str) -> int:
        """End the tunnels to a machine as AWS may at any moment: an ordered fault. Returns how many there were."""
        open_now = self._open.get(instance_id, set())
        for each in open_now:
            each.set()
        return len(open_now)


def _handed_to(answer: Callable[[Any], ActionResult]) -> Callable[[Any], ActionResult]:
    """A method for moto's class of answers, which hands the answer in the making on: a bound method would not be given it."""

    def method(response: Any) -> ActionResult:
        return answer(response)

    return method


def _no_endpoint(name: str) -> EC2ClientError:
    return EC2ClientError("InvalidInstanceConnectEndpointId.NotFound", f"The EC2 Instance Connect Endpoint {name} does not exist")


def _value(described: Mapping[str, Any], name: str) -> str:
    """What a filter looks at."""
    if name.startswith("tag:"):
        return next((tag["Value"] for tag in described["Tags"] if tag["Key"] == name.removeprefix("tag:")), "")
    fields = {
        "vpc-id": "VpcId",
        "subnet-id": "SubnetId",
        "state": "State",
        "instance-connect-endpoint-id": "InstanceConnectEndpointId",
    }
    if name not in fields:
        raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
    return str(described[fields[name]])


def _expired(query: Mapping[str, list[str]]) -> bool:
    try:
        return bool(sigv4.presigned_request_is_expired(query["X-Amz-Date"][0], query["X-Amz-Expires"][0]))
    except (KeyError, ValueError):
        return True
