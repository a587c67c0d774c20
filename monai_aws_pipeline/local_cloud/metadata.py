"""The instance metadata service (IMDSv2) of one machine, on the machine's own address.

A token (PUT) is required, as AWS's GPU images require it. SDKs find it through ``AWS_EC2_METADATA_SERVICE_ENDPOINT``.
Paths: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from .config import ACCOUNT, METADATA_PORT

_LONGEST_TOKEN_S: Final = 21600


@dataclass(frozen=True)
class RoleCredentials:
    """Temporary credentials of an instance's role; ``expires_at`` in seconds since the epoch."""

    access_key: str
    secret_key: str
    session_token: str
    expires_at: float


@dataclass(frozen=True)
class InstanceFacts:
    """What a machine may learn about itself. ``role`` is empty without an instance profile."""

    instance_id: str
    instance_type: str
    image_id: str
    region: str
    zone: str
    address: str
    hostname: str
    public: bool = True
    lifecycle: str = "on-demand"
    role: str = ""
    profile_arn: str = ""
    profile_id: str = ""
    user_data: bytes = b""
    tags: Mapping[str, str] = field(default_factory=dict)
    target_state: str = ""
    """Target lifecycle state in its Auto Scaling group; empty where no group has it."""
    interruption: tuple[str, str] | None = None
    """Action and UTC time of a spot interruption that has been announced."""


class MetadataService:
    """Serves one machine until ``close``. ``facts`` and ``credentials`` are asked anew for each request."""

    def __init__(self, address: str, facts: Callable[[], InstanceFacts], credentials: Callable[[str], RoleCredentials | None]) -> None:
        self.facts = facts
        self.credentials = credentials
        self.tokens: dict[str, float] = {}
        self._server = _Server((address, METADATA_PORT), self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True, name=f"imds-{address}").start()

    def close(self) -> None:
        """Stop serving and free the address."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> str | None:  # noqa: PLR0911 - a table of paths
        """Text of a metadata path, or None where AWS answers 404."""
        facts = self.facts()
        if path == "/latest/user-data":
            return facts.user_data.decode(errors="replace") if facts.user_data else None
        if path == "/latest/dynamic/instance-identity/document":
            return json.dumps(_identity_document(facts), indent=2)
        role_path = "/latest/meta-data/iam/security-credentials"
        if facts.role and path == "/latest/meta-data/iam/info":
            return json.dumps(
                {"Code": "Success", "LastUpdated": _now(), "InstanceProfileArn": facts.profile_arn, "InstanceProfileId": facts.profile_id}
            )
        if facts.role and path.rstrip("/") == role_path:
            return facts.role
        if facts.role and path == f"{role_path}/{facts.role}":
            return self._credentials_document(facts.role)
        if path.startswith("/latest/meta-data/tags/instance/"):
            return facts.tags.get(path.removeprefix("/latest/meta-data/tags/instance/"))
        if facts.interruption and path == "/latest/meta-data/spot/instance-action":
            return json.dumps(dict(zip(("action", "time"), facts.interruption, strict=True)))
        return _plain_facts(facts).get(path.removeprefix("/latest/meta-data/").rstrip("/"))

    def _credentials_document(self, role: str) -> str:
        given = self.credentials(role)
        if given is None:
            return json.dumps({"Code": "AssumeRoleUnauthorizedAccess", "LastUpdated": _now(), "Message": "EC2 cannot assume the role."})
        expires = datetime.fromtimestamp(given.expires_at, UTC)
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _now(),
                "Type": "AWS-HMAC",
                "AccessKeyId": given.access_key,
                "SecretAccessKey": given.secret_key,
                "Token": given.session_token,
                "Expiration": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
            }
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, place: tuple[str, int], service: MetadataService) -> None:
        self.service = service
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name."""
        self.socket.setsockopt(1, 2, 1)  # SOL_SOCKET, SO_REUSEADDR
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Give out a session token."""
        wanted = self.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or self.headers.get("x-forwarded-for"):
            self._send(403, "")
            return
        if not wanted.isdigit() or not 1 <= int(wanted) <= _LONGEST_TOKEN_S:
            self._send(400, "")
            return
        token = secrets.token_urlsafe(42)
        tokens = self.server.service.tokens
        for old in [name for name, ends in tokens.items() if ends < time.time()]:
            tokens.pop(old, None)
        tokens[token] = time.time() + int(wanted)
        self._send(200, token, {"X-aws-ec2-metadata-token-ttl-seconds": wanted})

    def do_GET(self) -> None:
        """Answer a path to whoever holds a token."""
        if self.server.service.tokens.get(self.headers.get("x-aws-ec2-metadata-token", ""), 0.0) < time.time():
            self._send(401, "")
            return
        answer = self.server.service.answer(self.path.partition("?")[0])
        self._send(404 if answer is None else 200, answer or "")

    def _send(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet: requests carry tokens."""


def _plain_facts(facts: InstanceFacts) -> dict[str, str]:
    return {
        "ami-id": facts.image_id,
        **({"autoscaling/target-lifecycle-state": facts.target_state} if facts.target_state else {}),
        "hostname": facts.hostname,
        "instance-id": facts.instance_id,
        "instance-life-cycle": facts.lifecycle,
        "instance-type": facts.instance_type,
        "local-hostname": facts.hostname,
        "local-ipv4": facts.address,
        "placement/availability-zone": facts.zone,
        "placement/region": facts.region,
        **({"public-ipv4": facts.address} if facts.public else {}),
        "services/domain": "amazonaws.com",
        "services/partition": "aws",
        "tags/instance": "\n".join(facts.tags),
    }


def _identity_document(facts: InstanceFacts) -> dict[str, str]:
    return {
        "accountId": ACCOUNT,
        "architecture": "x86_64",
        "availabilityZone": facts.zone,
        "imageId": facts.image_id,
        "instanceId": facts.instance_id,
        "instanceType": facts.instance_type,
        "privateIp": facts.address,
        "region": facts.region,
        "version": "2017-09-30",
    }


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
