"""The container engine's own interface, for what is done for every study: is this image here, start a container, how is it, remove it.

The docker command does the same, but its start alone takes as long as a tenth of a small study, several times a study. What happens seldom
(login, pull) goes through the command, see ``engine.py``.
Source: Docker Engine API v1.41 (https://docs.docker.com/reference/api/engine/version/v1.41/). Docker 29.0 takes no version
before 1.44, so each engine is asked first what it takes.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from monai_aws_pipeline.host_agent.stopping import Stop

_WRITTEN_FOR: Final = (1, 41)
_CALL_S: Final = 120.0
_LOOK_S: Final = 0.1
_HEAD_BYTES: Final = 1 << 16
_DEFAULT: Final = "/var/run/docker.sock"


class EngineError(Exception):
    """The engine or its command did not do what it was asked. Holds the end of what it said."""


class EngineApi:
    """One engine behind a socket of this machine. Thread-safe: each call has a connection of its own. Raises EngineError.

    Past a ``stop`` no call waits longer than its budget says, also one that was begun before.
    """

    def __init__(self, path: Path | None = None, stop: Stop | None = None):
        self.stop = stop or Stop()
        host = os.environ.get("DOCKER_HOST", "")
        self._path = str(path or host.removeprefix("unix://") or _DEFAULT)
        self._prefix = ""

    def has_image(self, reference: str) -> bool:
        """Whether an image (by any reference) is in the engine's store."""
        return self._ask("GET", f"/images/{quote(reference, safe='/:@')}/json") is not None

    def images_in_use(self) -> set[str]:
        """Ids of the images that a container stands on, running or not."""
        found = self._ask("GET", "/containers/json?all=1")
        return {str(each.get("ImageID", "")) for each in found} if isinstance(found, list) else set()

    def container(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container; empty where there is none."""
        found = self._ask("GET", f"/containers/{quote(name)}/json")
        return found if isinstance(found, dict) else {}

    def create(self, name: str, description: Mapping[str, Any]) -> None:
        """Make a container, which is not started."""
        self._ask("POST", f"/containers/create?name={quote(name)}", fine=(), content=description)

    def attach(self, name: str) -> socket.socket:
        """A connection to a container's standard streams, to be made before it is started. Output comes in frames ("Stream format")."""
        path = f"{self.prefix()}/containers/{quote(name)}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        connection = self._connection()
        try:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
            self._await_answer(connection, _CALL_S)
            head = b""
            while not head.endswith(b"\r\n\r\n") and len(head) < _HEAD_BYTES and (byte := connection.recv(1)):
                head += byte  # one by one, because what follows is the container's
            connection.settimeout(None)
        except OSError as error:
            connection.close()
            raise EngineError(f"the container engine did not answer ({error.__class__.__name__})") from error
        if not head.startswith(b"HTTP/1.1 101"):
            connection.close()
            raise EngineError(f"the engine did not attach: {head.decode('ascii', 'replace').splitlines()[:1]}")
        return connection

    def start(self, name: str) -> None:
        """Start a container that was made."""
        self._ask("POST", f"/containers/{quote(name)}/start", fine=())

    def wait(self, name: str) -> int:
        """Wait for a container's end, however long that is; its exit code."""
        found = self._ask("POST", f"/containers/{quote(name)}/wait", fine=(), seconds=math.inf)
        if not isinstance(found, dict) or not isinstance(found.get("StatusCode"), int):
            raise EngineError("the container engine did not say how a container ended")
        return int(found["StatusCode"])

    def limit_memory(self, name: str, size: int) -> None:
        """Give a container another limit of memory in bytes, swap included."""
        self._ask("POST", f"/containers/{quote(name)}/update", fine=(), content={"Memory": size, "MemorySwap": size})

    def kill(self, name: str) -> None:
        """Kill a container's processes; none of that name, or one that has ended, is fine."""
        self._ask("POST", f"/containers/{quote(name)}/kill", fine=(404, 409))

    def remove(self, name: str) -> None:
        """Kill and remove a container; none of that name, or one that is being removed, is fine."""
        self._ask("DELETE", f"/containers/{quote(name)}?force=1", fine=(404, 409))

    def prefix(self) -> str:
        """What paths start with: the version that is spoken with this engine, which is asked once."""
        if not self._prefix:
            found = self._request("GET", "/version")
            if not isinstance(found, dict):
                raise EngineError("the container engine did not say its version")
            newest, oldest = str(found.get("ApiVersion", "")), str(found.get("MinAPIVersion") or "1.12")
            self._prefix = "/v{}.{}".format(*spoken_version(newest, oldest))
        return self._prefix

    def _ask(
        self,
        method: str,
        path: str,
        fine: tuple[int, ...] = (404,),
        content: Mapping[str, Any] | None = None,
        seconds: float = _CALL_S,
    ) -> Any:
        """The answer as JSON, None where there is none or its status is one of ``fine``."""
        return self._request(method, self.prefix() + path, fine, content, seconds)

    def _request(
        self,
        method: str,
        path: str,
        fine: tuple[int, ...] = (),
        content: Mapping[str, Any] | None = None,
        seconds: float = _CALL_S,
    ) -> Any:
        connection = _Connection(self._path, min(self.stop.left(time.monotonic(), seconds), _CALL_S))
        body = json.dumps(content).encode() if content is not None else b"" if method == "POST" else None
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if content is not None else {})
            self._await_answer(connection.sock, seconds)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status in fine:
                return None
            if answer.status >= 400:
                raise EngineError(f"the engine answered {answer.status}: {said.decode('utf-8', 'replace').strip()[-400:]}")
            return json.loads(said) if said else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineError(f"the container engine did not answer ({error.__class__.__name__})") from error
        finally:
            connection.close()

    def _await_answer(self, connection: socket.socket, seconds: float) -> None:
        """Wait for the first byte, with a look now and then whether a stop has shortened the wait. Raises TimeoutError."""
        began, whole = time.monotonic(), connection.gettimeout()
        while True:
            left = self.stop.left(began, seconds)
            if left <= 0:
                raise TimeoutError
            connection.settimeout(min(left, _LOOK_S))
            try:
                connection.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                continue
            connection.settimeout(whole)
            return

    def _connection(self) -> socket.socket:
        try:
            connection = _Connection(self._path, self.stop.left(time.monotonic(), _CALL_S))
            connection.connect()
        except OSError as error:
            raise EngineError(f"the container engine did not answer ({error.__class__.__name__})") from error
        return connection.sock


def spoken_version(newest: str, oldest: str) -> tuple[int, int]:
    """The version to speak with an engine that takes ``oldest`` to ``newest``: the one this was written for, or the nearest above it.

    Later versions add and deprecate; what is used here is in all of them to 1.52. Raises EngineError for an engine that is too old.
    """
    try:
        lowest, highest = (tuple(int(part) for part in text.split(".")) for text in (oldest, newest))
    except ValueError:
        raise EngineError(f"the container engine speaks a version that is none ({oldest[:20]} to {newest[:20]})") from None
    if highest < _WRITTEN_FOR:
        raise EngineError(f"the container engine is too old (its interface is {newest}); Docker 20.10 or newer is needed")
    major, minor = max(_WRITTEN_FOR, lowest)[:2]
    return major, minor


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float):
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
