"""Ordered faults: what goes wrong on AWS now and then, made to go wrong on demand.

``POST /_local/faults`` with ``{"service", "action", "code", "times", …}`` or ``FaultBoard.order``; docs/local-cloud.md lists them.
Faults are for tests: they are forgotten on restart.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


class FaultError(ValueError):
    """An order that makes no sense; the text says why."""


@dataclass(frozen=True)
class Fault:
    """The next ``times`` calls of an action fail with ``code``. ``action`` as in IAM (``RunInstances``); ``status`` is HTTP's."""

    service: str
    action: str
    code: str
    message: str = "This fault was ordered."
    status: int = 400
    times: int = 1
    after: int = 0


class FaultBoard:
    """The orders of one cloud. Thread-safe."""

    def __init__(self, agent_delay_s: float) -> None:
        self._lock = threading.Lock()
        self._orders: list[Fault] = []
        self.agent_delay_s = agent_delay_s
        self._ordinary_agent_delay_s = agent_delay_s

    def order(self, fault: Fault) -> None:
        """Add an order. ``after`` calls pass first."""
        if fault.times < 1 or not fault.service or not fault.action or not fault.code:
            raise FaultError("a fault needs service, action, code and times >= 1")
        with self._lock:
            self._orders.append(fault)

    def order_from(self, data: Mapping[str, Any]) -> None:
        """Add an order that came as JSON: a fault of a call, or ``{"agent_delay_s": seconds}``."""
        if set(data) == {"agent_delay_s"}:
            self.agent_delay_s = float(data["agent_delay_s"])
            return
        try:
            self.order(Fault(**data))
        except TypeError as wrong:
            raise FaultError(str(wrong)) from None

    def take(self, service: str, action: str) -> Fault | None:
        """The fault that this call suffers, if any; uses it up."""
        with self._lock:
            for place, fault in enumerate(self._orders):
                if (fault.service, fault.action) != (service, action):
                    continue
                if fault.after:
                    self._orders[place] = replace(fault, after=fault.after - 1)
                    return None
                if fault.times == 1:
                    del self._orders[place]
                else:
                    self._orders[place] = replace(fault, times=fault.times - 1)
                return fault
        return None

    def pending(self) -> list[dict[str, Any]]:
        """Orders that have not struck yet."""
        with self._lock:
            return [asdict(fault) for fault in self._orders]

    def clear(self) -> None:
        """Forget all orders."""
        with self._lock:
            self._orders.clear()
            self.agent_delay_s = self._ordinary_agent_delay_s
