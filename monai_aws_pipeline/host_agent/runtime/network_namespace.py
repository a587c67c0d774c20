"""A network namespace without a network, kept from study to study and joined by their containers.

Each container gets one of its own from the engine by itself, but that takes as long as all the rest of its start and end. A study sees
the same either way: a loopback interface and nothing else, and nothing it may change about it. It shares the namespace with nothing that
runs: one study is inferred at a time, and its processes are gone before the next one's begin.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import Final

from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunningContainer
from monai_aws_pipeline.maps.spec.container import NO_NETWORK
from monai_aws_pipeline.maps.spec.run import CONTAINER_LABEL, Limits, namespace_container

log = logging.getLogger(__name__)

_START_S: Final = 10.0
_TICK_S: Final = 0.02


class NoNetwork:
    """The namespace, held open by a container of the MAP's own image that only waits, and ends with this process."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._image = ""
        self._name = ""
        self._process: RunningContainer | None = None

    def open(self, image: str, limits: Limits) -> None:
        """Have it there for the containers of an image. Never fails: without it each gets a namespace of its own."""
        if limits.network != NO_NETWORK or (image == self._image and (self._process is None or self._is_there())):
            return
        self.close()
        self._image, self._name = image, f"monai-aws-no-network-{os.getpid()}-{time.monotonic_ns() // 1_000_000}"
        try:
            ours = replace(limits, labels=((CONTAINER_LABEL, "network"),))
            self._process = self._engine.hold(namespace_container(image, ours, name=self._name))
        except OSError as error:
            log.warning("a network namespace could not be kept (%s)", error.__class__.__name__)
            return
        if not self._starts():
            log.info("the image starts no shell, so each of its containers gets a network namespace of its own")
            self._drop()

    def joined(self, limits: Limits) -> Limits:
        """The limits of a container that joins it, unchanged where it is not there."""
        if limits.network != NO_NETWORK or not self._is_there():
            return limits
        return replace(limits, network=f"container:{self._name}")

    def close(self) -> None:
        """End it. What has joined it keeps it until its own end."""
        self._drop()
        self._image = ""

    def _is_there(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _starts(self) -> bool:
        deadline = time.monotonic() + _START_S
        while self._is_there() and time.monotonic() < deadline and not self._engine.stop.is_set():
            if int(self._engine.state(self._name).get("Pid", 0)):
                return True
            time.sleep(_TICK_S)
        return False

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process:
            self._engine.drop(self._name, process)
