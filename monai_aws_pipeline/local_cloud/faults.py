"""Ordered faults: what goes wrong on AWS now and then, made to go wrong on demand.

Here belongs the board of orders: what was ordered and whom it strikes. Who acts on it: server.py (calls), events.py (queues), ec2.py
(machines). ``POST /_local/faults``; docs/local-cloud.md lists the orders. Faults are for tests: they are forgotten on restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from .autoscaling_plan import REFRESH_S
from .ec2_answers import ENDINGS, SENT, Sent
from .service_answers import SERVICES_SENT

FOREVER: Final = 86_400.0
_Order = TypeVar("_Order")


class FaultError(ValueError):
    """An order that makes no sense; the text says why."""


@dataclass(frozen=True)
class Fault:
    """The next ``times`` calls of an action are held for ``delay_s`` seconds, and then fail with ``code`` or, without one, go on.

    ``action`` as in IAM (``RunInstances``); ``status`` is HTTP's; ``match``: only calls whose path or body holds this text.
    Without status or message, codes that are known are sent as AWS sends them.
    """

    service: str
    action: str
    code: str = ""
    message: str = ""
    status: int = 0
    times: int = 1
    after: int = 0
    delay_s: float = 0.0
    match: str = ""

    def as_sent(self) -> Fault:
        """The same with status and message, where the order says none."""
        usual = SENT.get(self.code) if self.service == "ec2" else SERVICES_SENT.get((self.service, self.code))
        usual = usual or Sent(400, "This fault was ordered.")
        return replace(self, status=self.status or usual.status, message=self.message or usual.message)


@dataclass(frozen=True)
class Ending:
    """The next ``times`` machines end while they start: new ones as terminated, stopped ones as stopped again, for ``reason``.

    ``match``: only those whose id, type or zone is this.
    """

    at: str
    reason: str
    times: int = 1
    match: str = ""


@dataclass(frozen=True)
class Account:
    """What an account does not have: zones without capacity, running vCPUs that its quota allows (0: any), the role that spot needs.

    ``member``: of an organisation, and so without sight of cost allocation tags.
    ``in_flight``, ``in_flight_s``: SQS's limits of messages that somebody has received, in number and in seconds, to be ordered lower.
    ``required_tag``: a policy of its organisation lets nobody make machines and disks without this tag.
    ``imaging_rate``: how many times as often as on AWS HealthImaging may be asked.
    ``refresh_s``: seconds after which an instance refresh fails that comes no further.
    """

    no_capacity: tuple[str, ...] = ()
    vcpus: int = 0
    spot_role: bool = True
    member: bool = False
    in_flight: int = 120_000
    in_flight_s: int = 43_200
    required_tag: str = ""
    imaging_rate: float = 1.0
    refresh_s: float = REFRESH_S


@dataclass(frozen=True)
class Cut:
    """A machine's calls are held until ``until`` (monotonic seconds), or each for ``delay_s`` seconds where that is not 0."""

    until: float
    delay_s: float = 0.0


class FaultBoard:
    """The orders of one cloud. Thread-safe."""

    def __init__(self, agent_delay_s: float, account: Account | None = None) -> None:
        self._lock = threading.Lock()
        self._orders: list[Fault] = []
        self._held: list[Fault] = []
        self._cuts: dict[str, Cut] = {}
        self._endings: list[Ending] = []
        self.account = self._ordinary_account = account or Account()
        self._duplicates = self._shuffled = self._duplicate_wakes = 0
        self.agent_delay_s = agent_delay_s
        self._ordinary_agent_delay_s = agent_delay_s

    def order(self, fault: Fault) -> None:
        """Add an order. ``after`` calls pass first."""
        if fault.times < 1 or not fault.service or not fault.action or not (fault.code or fault.delay_s > 0):
            raise FaultError("a fault needs service, action, times >= 1, and a code or a delay_s")
        with self._lock:
            self._orders.append(fault.as_sent())

    def order_from(self, data: Mapping[str, Any]) -> bool:
        """Add an order that came as JSON. False where it is one about machines or queues, which others carry out."""
        if set(data) == {"agent_delay_s"}:
            self.agent_delay_s = float(data["agent_delay_s"])
        elif set(data) == {"duplicate_events"}:
            with self._lock:
                self._duplicates = int(data["duplicate_events"])
        elif set(data) == {"shuffle_events"}:
            with self._lock:
                self._shuffled = int(data["shuffle_events"])
        elif set(data) == {"duplicate_wakes"}:
            with self._lock:
                self._duplicate_wakes = int(data["duplicate_wakes"])
        elif "service" in data:
            self.order(_made(Fault, data))
        elif set(data) == {"account"}:
            given = _made(partial(replace, self._ordinary_account), data["account"])
            self.account = replace(given, no_capacity=tuple(given.no_capacity))
        elif "ends_at" in data:
            self._order_ending(_made(Ending, {"at": data["ends_at"], **{name: value for name, value in data.items() if name != "ends_at"}}))
        else:
            return False
        return True

    def take(self, service: str, action: str, text: str = "") -> Fault | None:
        """The fault that this call suffers, if any; uses it up. ``text``: path and body, for orders that match on them."""
        with self._lock:
            for place, fault in enumerate(self._orders):
                if (fault.service, fault.action) != (service, action) or fault.match not in text:
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

    def _order_ending(self, ending: Ending) -> None:
        if ending.at not in ("launch", "start") or ending.reason not in ENDINGS or ending.times < 1:
            raise FaultError(f"a machine ends at launch or start, times >= 1, for one of these reasons: {', '.join(ENDINGS)}")
        with self._lock:
            self._endings.append(ending)

    def take_ending(self, at: str, *names: str) -> str:
        """The state reason for which a machine with these names ends while it starts, if any; uses the order up."""
        with self._lock:
            for place, ending in enumerate(self._endings):
                if ending.at == at and (not ending.match or ending.match in names):
                    self._endings[place : place + 1] = [replace(ending, times=ending.times - 1)] if ending.times > 1 else []
                    return ending.reason
        return ""

    @contextmanager
    def holding(self, fault: Fault) -> Iterator[None]:
        """While a call is held; ``is_held`` tells whether it still should be."""
        with self._lock:
            self._held.append(fault)
        try:
            yield
        finally:
            with self._lock:
                self._held = [other for other in self._held if other is not fault]

    def is_held(self, fault: Fault) -> bool:
        """Whether nobody has cleared the orders since the call was held."""
        with self._lock:
            return any(other is fault for other in self._held)

    # ------------------------------------------------------------------------------------------------------- network of a machine

    def cut(self, instance_id: str, seconds: float, delay_s: float = 0.0) -> None:
        """Hold the machine's calls for so many seconds from now, or each of them for ``delay_s``."""
        with self._lock:
            self._cuts[instance_id] = Cut(time.monotonic() + seconds, delay_s)

    def is_cut(self, instance_id: str) -> bool:
        """Whether the machine reaches nothing now."""
        return not self._cut_of(instance_id).delay_s and self.waits(instance_id) > 0

    def waits(self, instance_id: str) -> float:
        """Seconds for which a call of the machine is held now."""
        cut = self._cut_of(instance_id)
        left = cut.until - time.monotonic()
        return max(0.0, cut.delay_s or left) if left > 0 else 0.0

    def _cut_of(self, instance_id: str) -> Cut:
        with self._lock:
            return self._cuts.get(instance_id, Cut(0.0))

    # ------------------------------------------------------------------------------------------------------------------- S3 events

    def take_duplicate(self) -> bool:
        """Whether this event is delivered twice; uses the order up."""
        with self._lock:
            self._duplicates, ordered = max(0, self._duplicates - 1), self._duplicates > 0
            return ordered

    def take_duplicate_wake(self) -> bool:
        """Whether this call of a schedule comes twice; uses the order up."""
        with self._lock:
            self._duplicate_wakes, ordered = max(0, self._duplicate_wakes - 1), self._duplicate_wakes > 0
            return ordered

    def take_shuffled(self) -> int:
        """How many events, this one included, are still to be put out of order; 0 for none. Uses one up."""
        with self._lock:
            left, self._shuffled = self._shuffled, max(0, self._shuffled - 1)
            return left

    def pending(self) -> list[dict[str, Any]]:
        """Orders that have not struck yet."""
        with self._lock:
            return [asdict(fault) for fault in self._orders]

    def held(self) -> list[dict[str, Any]]:
        """Orders whose call waits at this moment."""
        with self._lock:
            return [asdict(fault) for fault in self._held]

    def clear(self) -> None:
        """Forget all orders; calls that are held go on."""
        with self._lock:
            self._orders.clear()
            self._held.clear()
            self._cuts.clear()
            self._endings.clear()
            self.account = self._ordinary_account
            self._duplicates = self._shuffled = self._duplicate_wakes = 0
            self.agent_delay_s = self._ordinary_agent_delay_s


def _made(kind: Callable[..., _Order], data: Mapping[str, Any]) -> _Order:
    try:
        return kind(**data)
    except TypeError as error:
        raise FaultError(str(error)) from None
