"""The registry behind the local ECR: Docker's registry protocol with AWS's authorisation, blobs on disk.

Debian's registry server keeps the blobs and listens on a Unix socket only; here every request is authorised first, as the
principal that fetched the login token, and bodies are streamed through. ecr.py is the control plane that tells what is stored.
Protocol: https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h11

from .config import CloudConfig
from .engine import Engine
from .processes import Daemon
from .system import registry_program

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_PATH: Final = re.compile(r"/v2/(?P<name>[a-z0-9][a-z0-9._/-]*?)/(?P<kind>blobs|manifests|tags)/(?P<rest>.+)")
_MANIFEST_LIMIT: Final = 4 * 1024 * 1024
_BLOCK: Final = 256 * 1024
_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-authorization", b"te", b"trailer", b"upgrade", b"expect", b"authorization", b"host")
)


@dataclass(frozen=True)
class RegistryRequest:
    """What a request wants: repository, kind (``blobs``, ``manifests``, ``tags``), the rest of the path, the IAM actions it needs."""

    name: str
    kind: str
    reference: str
    action: str


@dataclass(frozen=True)
class Refusal:
    """A refused request in the protocol's words."""

    status: int
    code: str
    message: str


def is_registry_path(path: str) -> bool:
    """Whether a path belongs to the registry protocol; ``/v2/`` is shared with a few AWS APIs."""
    return path in ("/v2", "/v2/") or _PATH.fullmatch(path) is not None


def understand(method: str, path: str) -> RegistryRequest | None:
    """Parse a request; None for the version check. ECR checks these actions for the same calls."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    name, kind, rest = match["name"], match["kind"], match["rest"]
    if kind == "manifests":
        action = {"PUT": "PutImage", "DELETE": "BatchDeleteImage"}.get(method, "BatchGetImage")
    elif kind == "tags":
        action = "ListImages"
    elif rest.startswith("uploads"):
        action = {"POST": "InitiateLayerUpload", "PUT": "CompleteLayerUpload"}.get(method, "UploadLayerPart")
    else:
        action = {"HEAD": "BatchCheckLayerAvailability", "DELETE": "BatchDeleteImage"}.get(method, "GetDownloadUrlForLayer")
    return RegistryRequest(name, kind, rest, action)


def login_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The password of a basic login as user AWS, or None."""
    value = next((value.decode("latin-1") for name, value in headers if name.lower() == b"authorization"), "")
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded).decode().partition(":")
    except ValueError:
        return None
    return password if user == "AWS" else None


class RegistryDoor:
    """ASGI handler of ``/v2/``: authorise, then stream to the registry. ``authorise`` and ``stored`` come from ecr.py."""

    def __init__(
        self,
        socket: Path,
        authorise: Callable[[str | None, RegistryRequest | None], Refusal | None],
        accept_manifest: Callable[[str | None, RegistryRequest, bytes], Refusal | None],
        stored: Callable[[str | None, RegistryRequest, bytes, str], None],
    ) -> None:
        self._socket = socket
        self._authorise = authorise
        self._accept_manifest = accept_manifest
        self._stored = stored
        self.received: Counter[str] = Counter()  # bytes of blobs and manifests that were sent here, by repository

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        login = login_of(scope["headers"])
        wanted = understand(scope["method"], scope["path"])
        if wanted is not None:
            receive = self._counting(wanted.name, receive)
        refusal = self._authorise(login, wanted)
        if refusal is None and wanted is None:
            await _answer(send, 200, b"{}", [(b"docker-distribution-api-version", b"registry/2.0")])
            return
        if refusal is None and wanted is not None:
            if scope["method"] == "PUT" and wanted.kind == "manifests":
                refusal = await self._take_manifest(scope, receive, send, login, wanted)
            else:
                await self._forward(scope, receive, send)
        if refusal is not None:
            await refuse(send, refusal)

    def _counting(self, repository: str, receive: Receive) -> Receive:
        async def counted() -> dict[str, Any]:
            message = await receive()
            self.received[repository] += len(message.get("body", b""))
            return message

        return counted

    async def _take_manifest(
        self, scope: Scope, receive: Receive, send: Send, login: str | None, wanted: RegistryRequest
    ) -> Refusal | None:
        body = await _whole_body(receive)
        refusal = self._accept_manifest(login, wanted, body)
        if refusal is not None:
            return refusal
        answered: list[dict[str, Any]] = []

        async def replay() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def note(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answered.append(message)
                if message["status"] == 201:  # recorded before the client hears of it
                    kind = next((value.decode() for name, value in scope["headers"] if name.lower() == b"content-type"), "")
                    self._stored(login, wanted, body, kind)
            await send(message)

        await self._forward(scope, replay, note)
        return None

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=4 * _BLOCK)
        try:
            connection = h11.Connection(h11.CLIENT)
            await _send_request(connection, writer, scope, receive)
            await _relay_response(connection, reader, send)
        finally:
            writer.close()


async def _send_request(connection: h11.Connection, writer: asyncio.StreamWriter, scope: Scope, receive: Receive) -> None:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _HOP_BY_HOP]
    host = next((value for name, value in scope["headers"] if name.lower() == b"host"), b"localhost")
    has_length = any(name.lower() == b"content-length" for name, _ in headers)
    headers = [(name, value) for name, value in headers if name.lower() != b"transfer-encoding"]
    if not has_length and scope["method"] in ("PUT", "POST", "PATCH"):
        headers.append((b"transfer-encoding", b"chunked"))
    query = b"?" + scope["query_string"] if scope.get("query_string") else b""
    target = (scope.get("raw_path") or scope["path"].encode()) + query
    writer.write(connection.send(h11.Request(method=scope["method"], target=target, headers=[(b"host", host), *headers])) or b"")
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("the client went away")
        if message.get("body"):
            writer.write(connection.send(h11.Data(data=message["body"])) or b"")
            await writer.drain()
        if not message.get("more_body"):
            break
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


async def _relay_response(connection: h11.Connection, reader: asyncio.StreamReader, send: Send) -> None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_BLOCK))
        elif isinstance(event, h11.Response):
            headers = [
                (bytes(name), bytes(value))
                for name, value in event.headers
                if bytes(name).lower() not in (b"connection", b"transfer-encoding")
            ]
            await send({"type": "http.response.start", "status": event.status_code, "headers": headers})
        elif isinstance(event, h11.Data):
            await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return


async def _whole_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body") or len(body) > _MANIFEST_LIMIT:
            return body


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    plain = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer with a refusal, in the protocol's words."""
    body = json.dumps({"errors": [{"code": refusal.code, "message": refusal.message, "detail": None}]}).encode()
    challenge = [(b"www-authenticate", b'Basic realm="Amazon ECR",service="ecr.amazonaws.com"')] if refusal.status == 401 else []
    await _answer(send, refusal.status, body, challenge)


# ---------------------------------------------------------------------------------------------------------------- the server behind


def registry_daemon(config: CloudConfig) -> Daemon:
    """The registry server's process."""
    return Daemon("image registry", config.state_dir / "registry.pid", config.logs_dir / "registry.log")


def registry_storage(config: CloudConfig) -> Path:
    """Where pushed images lie."""
    return config.state_dir / "registry"


def registry_socket(config: CloudConfig) -> Path:
    """Socket of the registry server."""
    return config.run_dir / "registry.sock"


def start_registry(config: CloudConfig) -> None:
    """Start the registry server on its socket, after a sweep of blobs whose images were deleted."""
    settings = config.state_dir / "registry.yml"
    storage = registry_storage(config)
    storage.mkdir(exist_ok=True)
    settings.write_text(
        json.dumps(  # JSON is YAML
            {
                "version": 0.1,
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": str(storage), "maxthreads": 100},
                    "delete": {"enabled": True},
                    "maintenance": {"uploadpurging": {"enabled": True, "age": "24h", "interval": "24h", "dryrun": False}},
                },
                "http": {"net": "unix", "addr": str(registry_socket(config)), "relativeurls": True, "secret": os.urandom(16).hex()},
            }
        )
    )
    environment = {**Engine.environment(), "OTEL_TRACES_EXPORTER": "none"}
    if garbage_mark(config).exists():
        subprocess.run([registry_program(config), "garbage-collect", settings], env=environment, capture_output=True, check=False)
        garbage_mark(config).unlink()
    registry_socket(config).unlink(missing_ok=True)
    daemon = registry_daemon(config)
    daemon.start([registry_program(config), "serve", settings], environment)
    daemon.wait_until(registry_socket(config).is_socket, timeout_s=20)


def garbage_mark(config: CloudConfig) -> Path:
    """Exists when an image was deleted since the last sweep."""
    return config.state_dir / "registry.garbage"


def drop_repository(config: CloudConfig, name: str) -> None:
    """Remove a repository's links; its blobs go with the next sweep."""
    shutil.rmtree(registry_storage(config) / "docker/registry/v2/repositories" / name, ignore_errors=True)
    garbage_mark(config).touch()
