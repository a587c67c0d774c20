"""The container engine's own interface, for what is asked about every study: is this image here, how is this container, remove it.

The docker command answers the same, but its start alone takes as long as a tenth of a small study, several times a study. Here belong calls
that take a moment and have a small answer; what lasts (pull, run) goes through the command, see ``engine.py``.
Source: Docker Engine API v1.41 (https://docs.docker.com/reference/api/engine/version/v1.41/).
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

_VERSION: Final = "/v1.41"
_CALL_S: Final = 120.0
_DEFAULT: Final = "/var/run/docker.sock"


class EngineError(Exception):
    """The engine or its command did not do what it was asked. Holds the end of what it said."""


class EngineApi:
    """One engine behind a socket of this machine. Thread-safe: each call has a connection of its own. Raises EngineError."""

    def __init__(self, path: Path | None = None):
        host = os.environ.get("DOCKER_HOST", "")
        self._path = str(path or host.removeprefix("unix://") or _DEFAULT)

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

    def kill(self, name: str) -> None:
        """Kill a container's processes; none of that name, or one that has ended, is fine."""
        self._ask("POST", f"/containers/{quote(name)}/kill", fine=(404, 409))

    def remove(self, name: str) -> None:
        """Kill and remove a container; none of that name, or one that is being removed, is fine."""
        self._ask("DELETE", f"/containers/{quote(name)}?force=1", fine=(404, 409))

    def _ask(self, method: str, path: str, fine: tuple[int, ...] = (404,)) -> Any:
        """The answer as JSON, None where there is none or its status is one of ``fine``."""
        connection = _Connection(self._path)
        try:
            connection.request(method, f"{_VERSION}{path}", headers={"Content-Length": "0"} if method == "POST" else {})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status in fine:
                return None
            if answer.status >= 400:
                raise EngineError(f"the engine answered {answer.status}: {body.decode('utf-8', 'replace').strip()[-400:]}")
            return json.loads(body) if body else None
        except (OSError, http.client.HTTPException, ValueError) as wrong:
            raise EngineError(f"the container engine did not answer ({wrong.__class__.__name__})") from wrong
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str):
        super().__init__("localhost", timeout=_CALL_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
