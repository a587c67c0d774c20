"""Network namespaces without a network, kept from study to study and joined by their containers.

Each container gets one of its own from the engine by itself, but that takes as long as all the rest of its start and end. A study sees
the same either way: a loopback interface and nothing else, and nothing it may change about it. It shares the namespace with nothing: one is
a study's from before its container is made until all its processes are gone, and only then another's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import uuid4

from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunningContainer
from monai_aws_pipeline.maps.spec.container import NO_NETWORK
from monai_aws_pipeline.maps.spec.run import CONTAINER_LABEL, Limits, namespace_container

log = logging.getLogger(__name__)

_PROC = Path("/proc")
_START_S: Final = 10.0
_TICK_S: Final = 0.02
_NO_SHELL: Final = (126, 127)
_TRIES: Final = 3
"""So often in a row one may fail to start before an image's containers get their own: each holds up the studies that wait."""


@dataclass(frozen=True, eq=False)
class Namespace:
    """One, held open by a container of the MAP's own image that only waits, and ends with this process. ``pid``: of that container."""

    image: str
    name: str
    process: RunningContainer
    pid: int = 0

    @property
    def is_there(self) -> bool:
        """Whether a container can still join it."""
        return self.process.poll() is None

    def joined(self, limits: Limits) -> Limits:
        """The limits of a container that joins it."""
        return replace(limits, network=f"container:{self.name}")


class NoNetwork:
    """The namespaces of one image: as many as studies have ever had one at once. Thread-safe."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._lock = threading.Lock()
        self._image = ""
        self._in_vain = 0
        self._free: list[Namespace] = []

    def take(self, image: str, limits: Limits) -> Namespace | None:
        """One for a container of this image, the caller's until ``give_back``; with None the container gets one of its own.

        Raises RuntimeError where this process may start no thread.
        """
        if limits.network != NO_NETWORK:
            return None
        with self._lock:
            unwanted: list[Namespace] = []
            if image != self._image:
                unwanted, self._free = self._free, unwanted
                self._image, self._in_vain = image, 0
            found = None
            while self._free and not found:
                last = self._free.pop()
                if last.is_there:
                    found = last
                else:
                    unwanted.append(last)
            may_open = self._in_vain < _TRIES
        self._end_all(unwanted)
        return found or (self._open(image, limits) if may_open else None)

    def give_back(self, namespace: Namespace | None) -> None:
        """Nothing runs in it any more."""
        if namespace is None:
            return
        is_clean = namespace.is_there and not holds_connections(namespace.pid)
        with self._lock:
            is_wanted = is_clean and namespace.image == self._image
            if is_wanted:
                self._free.append(namespace)
        if not is_wanted:
            self.end(namespace)

    def end(self, namespace: Namespace | None) -> None:
        """Keep it for no other study. What has joined it keeps it until its own end."""
        if namespace:
            self._engine.drop(namespace.name, namespace.process)

    def close(self) -> None:
        """End them; one that is taken, when it is given back."""
        with self._lock:
            free, self._free, self._image = self._free, [], ""
        self._end_all(free)

    def _end_all(self, unwanted: Sequence[Namespace]) -> None:
        """Side by side: an engine that is silent is waited for once."""
        if unwanted:
            with ThreadPoolExecutor(len(unwanted), "namespaces end") as threads:
                list(threads.map(self.end, unwanted))

    def _open(self, image: str, limits: Limits) -> Namespace | None:
        name = f"monai-aws-no-network-{os.getpid()}-{uuid4().hex[:8]}"
        ours = replace(limits, labels=((CONTAINER_LABEL, "network"),))
        try:
            namespace = Namespace(image, name, self._engine.hold(namespace_container(image, ours, name=name)))
        except (OSError, RuntimeError) as error:  # no process, no thread
            log.warning("a network namespace could not be kept (%s)", error.__class__.__name__)
            return None
        pid = self._pid_of(namespace)
        has_no_shell = namespace.process.poll() in _NO_SHELL
        with self._lock:
            if image == self._image:
                self._in_vain = 0 if pid else _TRIES if has_no_shell else self._in_vain + 1
        if pid:
            return replace(namespace, pid=pid)
        if has_no_shell:
            log.info("the image has no shell, so each of its containers gets a network namespace of its own")
        else:
            log.warning("a network namespace did not come, so the container gets one of its own")
        self.end(namespace)
        return None

    def _pid_of(self, namespace: Namespace) -> int:
        """The process that holds it, once there is one; 0 where none comes."""
        deadline = time.monotonic() + _START_S
        while namespace.is_there and time.monotonic() < deadline and not self._engine.stop.is_set():
            if pid := int(self._engine.state(namespace.name).get("Pid", 0)):
                return pid
            time.sleep(_TICK_S)
        return 0


def holds_connections(pid: int) -> bool:
    """Whether the namespace of a process remembers a TCP connection of one that has ended, whose port cannot be bound for a minute then."""
    tables = _PROC / str(pid) / "net"
    try:
        listed = [tables / "tcp", *tables.glob("tcp6")]  # a host without IPv6 has no second one
        return any(len(path.read_text().splitlines()) > 1 for path in listed)
    except OSError:
        return True
