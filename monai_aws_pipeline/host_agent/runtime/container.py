"""A container that is started through the engine's interface, and its standard streams.

``docker run`` does the same in a process of its own, whose start alone takes a tenth of a small study. What is started is described in
``maps/spec/container.py``. Source: Docker Engine API v1.41 (create, attach, start, wait, "Stream format").
"""

from __future__ import annotations

import io
import re
import socket
import subprocess
import threading
from typing import Any, Final

from monai_aws_pipeline.host_agent.runtime.docker_api import EngineApi, EngineError

_NOT_STARTED: Final = 125
"""What ``docker run`` ends with when the engine made or started no container."""
_CODES: Final = ((r"executable file not found|no such file or directory", 127), (r"permission denied|is a directory", 126))
"""And when that is the image's fault: it has no such program, or one that cannot be started."""
_HEADER: Final = 8
_LOOK_S: Final = 0.1


class AttachedContainer:
    """One container from its creation to its end, with as much of ``subprocess.Popen`` as the engine uses. Returns at once.

    ``returncode`` as ``docker run`` has it. What the engine says when it starts nothing stands in ``stdout``, as with that command.
    """

    def __init__(self, api: EngineApi, name: str, description: dict[str, Any]):
        self.returncode: int | None = None
        self._api, self._name, self._description = api, name, description
        self._attached, self._over = threading.Event(), threading.Event()
        self._unwanted = False
        self._trouble = b""
        self._connection: socket.socket | None = None
        self.stdin = _Input(self)
        self.stdout = io.BufferedReader(_Output(self))
        threading.Thread(target=self._live, name="container", daemon=True).start()

    def poll(self) -> int | None:
        """How it ended, None while it runs or is being started."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same after waiting for that. Raises subprocess.TimeoutExpired."""
        if not self._over.wait(timeout):
            raise subprocess.TimeoutExpired(self._name, timeout or 0.0)
        return self.returncode if self.returncode is not None else _NOT_STARTED

    def terminate(self) -> None:
        """It is not wanted any more: one that is only being made is not started. A running one is ended by removing it."""
        self._unwanted = True

    def kill(self) -> None:
        """Wait for it no longer, whatever the engine does."""
        self._unwanted = True
        if self._connection:
            _shut(self._connection)
        self._attached.set()
        self._over.set()

    def connection(self) -> socket.socket | None:
        """Where its streams go, once that is known; None where there are none, and where it is not known when the agent is told to stop."""
        while not self._attached.wait(_LOOK_S):
            if self._api.stop.is_set():
                break
        return self._connection

    def trouble(self) -> bytes:
        """What the engine said instead of starting it."""
        return self._trouble

    def _live(self) -> None:
        code = _NOT_STARTED
        try:
            self._api.create(self._name, self._description)
            self._connection = self._api.attach(self._name)
            self._attached.set()
            if self._unwanted:
                _shut(self._connection)
            else:
                self._api.start(self._name)
                code = self._api.wait(self._name)
        except EngineError as error:
            self._trouble = f"docker: {error}\n".encode()
            code = next((known for pattern, known in _CODES if re.search(pattern, str(error))), code)
            if self._connection:
                _shut(self._connection)
        finally:
            self.returncode = code
            self._attached.set()
            self._over.set()


class _Input(io.RawIOBase):
    """Standard input. Closing it is what the application sees as its end."""

    def __init__(self, container: AttachedContainer):
        self._container = container

    def write(self, data: Any) -> int:
        connection = self._container.connection()
        if connection is None:
            raise BrokenPipeError
        connection.sendall(data)
        return len(data)

    def close(self) -> None:
        if not self.closed and (connection := self._container.connection()):
            _shut(connection, socket.SHUT_WR)
        super().close()


class _Output(io.RawIOBase):
    """Standard output and standard error in one, taken out of the frames that the engine sends them in."""

    def __init__(self, container: AttachedContainer):
        self._container = container
        self._left = 0
        self._told = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        connection = self._container.connection()
        if connection is not None:
            try:
                if read := self._read(connection, buffer):
                    return read
            except OSError:
                pass  # the engine is gone, which the exit code tells
        trouble = self._container.trouble()[self._told :][: len(buffer)]
        buffer[: len(trouble)] = trouble
        self._told += len(trouble)
        return len(trouble)

    def close(self) -> None:
        if not self.closed and (connection := self._container.connection()):
            connection.close()
        super().close()

    def _read(self, connection: socket.socket, buffer: Any) -> int:
        while not self._left:
            header = connection.recv(_HEADER, socket.MSG_WAITALL)
            if len(header) < _HEADER:
                return 0
            self._left = int.from_bytes(header[4:], "big")
        read = connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= read
        return read


def _shut(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        return  # the other end has gone already
