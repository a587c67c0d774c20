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
from dataclasses import dataclass, replace
from typing import Final

from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunningContainer
from monai_aws_pipeline.maps.spec.container import NO_NETWORK
from monai_aws_pipeline.maps.spec.run import CONTAINER_LABEL, Limits, namespace_container

log = logging.getLogger(__name__)

_START_S: Final = 10.0
_TICK_S: Final = 0.02


@dataclass(frozen=True, eq=False)
class Namespace:
    """One, held open by a container of the MAP's own image that only waits, and ends with this process."""

    image: str
    name: str
    process: RunningContainer

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
        self._has_shell = True
        self._free: list[Namespace] = []
        self._made = 0

    def take(self, image: str, limits: Limits) -> Namespace | None:
        """One for a container of this image, the caller's until ``give_back``. Never fails: with None the container gets one of its own."""
        if limits.network != NO_NETWORK:
            return None
        with self._lock:
            unwanted: list[Namespace] = []
            if image != self._image:
                unwanted, self._free = self._free, unwanted
                self._image, self._has_shell = image, True
            found = None
            while self._free and not found:
                last = self._free.pop()
                if last.is_there:
                    found = last
                else:
                    unwanted.append(last)
            may_open = self._has_shell
        for each in unwanted:
            self.end(each)
        return found or (self._open(image, limits) if may_open else None)

    def give_back(self, namespace: Namespace | None) -> None:
        """Nothing runs in it any more."""
        if namespace is None:
            return
        with self._lock:
            is_wanted = namespace.image == self._image and namespace.is_there
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
        for each in free:
            self.end(each)

    def _open(self, image: str, limits: Limits) -> Namespace | None:
        with self._lock:
            self._made += 1
            name = f"monai-aws-no-network-{os.getpid()}-{self._made}"
        ours = replace(limits, labels=((CONTAINER_LABEL, "network"),))
        try:
            namespace = Namespace(image, name, self._engine.hold(namespace_container(image, ours, name=name)))
        except OSError as error:
            log.warning("a network namespace could not be kept (%s)", error.__class__.__name__)
            return None
        if self._starts(namespace):
            return namespace
        log.info("the image starts no shell, so each of its containers gets a network namespace of its own")
        self.end(namespace)
        with self._lock:
            self._has_shell = self._has_shell and image != self._image
        return None

    def _starts(self, namespace: Namespace) -> bool:
        deadline = time.monotonic() + _START_S
        while namespace.is_there and time.monotonic() < deadline and not self._engine.stop.is_set():
            if int(self._engine.state(namespace.name).get("Pid", 0)):
                return True
            time.sleep(_TICK_S)
        return False
