"""How many studies are inferred at once on this host: decided from what was measured here with this digest.

Here belongs the decision, and the small file in which it outlives a stop of the machine. Who waits for a place is in ``turns.py``; what a
study used is measured in ``runtime/usage.py``. docs/hosting.md says in words how a number comes about.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from monai_aws_pipeline.contract import is_digest, short_digest
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.maps.spec.run import Limits

log = logging.getLogger(__name__)

AUTO: Final = "auto"
MOST: Final = 8
"""Never more, whatever fits: a study of its own memory and processor is measured, what k of them do to the disk and the network is not."""
RESERVE_BYTES: Final = 2 << 30
"""Of the machine's memory: the system, the engine, and this agent with the studies that it fetches and publishes meanwhile."""
GPU_RESERVE_BYTES: Final = 512 << 20
"""Of the GPU's: the driver's own, and what a process takes between two samples."""
RESERVE_PIDS: Final = 2048
MARGIN: Final = 1.25
"""What is reckoned with for each study, by the largest measured so far: a larger one may come."""
GROWTH: Final = 1.05
"""More at once must answer so much more a minute than fewer, or fewer it is."""
ROUNDS: Final = 3
"""A rate is measured over so many studies in each place, all places taken throughout."""
LEAST_S: Final = 5.0
"""And over no fewer seconds: three studies that take a moment each tell more about that moment than about their number."""
RECONSIDER: Final = 500
"""After so many studies at the number that was found, the others are tried again: what comes may have changed."""
_ASK_S: Final = 60.0
"""Between two questions for the GPU's memory, where the driver did not say it: that may take it seconds."""
_HUGE: Final = float(1 << 60)
"""No figure that was ever measured is larger."""


@dataclass(frozen=True)
class Machine:
    """What this host has: bytes, processor cores, processes; ``gpu_bytes`` of its smallest GPU, None where there is none that says so."""

    memory_bytes: int
    cores: int
    pids: int
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class Use:
    """What a digest's studies have used here: the most memory (bytes; the GPU's None where unknown), cores on average, how many.

    Memory is what the kernel could not have taken back: files that were read stay in memory for as long as there is room. The GPU's is what
    a study's own processes had, because the whole GPU's is that of the studies beside it as well.
    """

    memory_bytes: int = 0
    gpu_bytes: int | None = None
    cores: float = 0.0
    studies: int = 0

    def and_of(self, end: RunEnd) -> Use:
        """With one more study; one that ended before it was measured says nothing.

        Of the cores the last twenty count: the first starts with its imports.
        """
        memory = end.held_bytes or end.peak_bytes
        if not memory:
            return self
        seen = min(self.studies, 19)
        gpu = [value for value in (self.gpu_bytes, end.own_gpu_bytes) if value is not None]
        cores = end.cpu_seconds / end.seconds if end.seconds > 0 else 0.0
        return Use(max(self.memory_bytes, memory), max(gpu, default=None), (self.cores * seen + cores) / (seen + 1), self.studies + 1)


def most_that_fit(machine: Machine, use: Use, limits: Limits, *, by_cores: bool = True) -> tuple[int, str]:
    """How many studies like those have room side by side, at least 1, and what there is too little of for one more.

    Not ``by_cores``: whoever names a number may know better than an average how its application shares them.
    """
    if not use.studies:
        return 1, "nothing of it is measured yet"
    rooms = {
        "memory": (machine.memory_bytes - RESERVE_BYTES) / max(1.0, use.memory_bytes * MARGIN),
        "processes": (machine.pids - RESERVE_PIDS) / limits.pids,
        f"the {MOST} that are ever tried": float(MOST),
    }
    if by_cores and use.cores:
        rooms["cores"] = machine.cores / use.cores + 0.5  # rounded: 1.02 cores each are no reason to leave the fourth idle
    if limits.gpus:
        if machine.gpu_bytes is None:
            return 1, "memory of the GPU (the driver does not say how much there is)"
        if use.gpu_bytes is None:
            return 1, "memory of the GPU (the driver does not say that a study has any of it)"
        rooms["memory of the GPU"] = (machine.gpu_bytes - GPU_RESERVE_BYTES) / max(1.0, use.gpu_bytes * MARGIN)
    scarce = min(rooms, key=lambda name: rooms[name])
    return max(1, int(rooms[scarce])), scarce


def best_of(rates: Mapping[int, float]) -> int:
    """The smallest number that answers nearly as many studies a minute as any."""
    return min(number for number, rate in rates.items() if rate * GROWTH >= max(rates.values()))


def to_try(rates: Mapping[int, float], most: int) -> int:
    """The number to go on with: one more than the best while that is unknown, then one fewer, and the best when both are known."""
    best = best_of(rates)
    for number in (best + 1, best - 1):
        if 1 <= number <= most and number not in rates:
            return number
    return best


@dataclass
class _Digest:
    """What is known of one. ``rates``: studies a minute by number; ``ceiling``: more have once failed a study that was answered alone;
    ``together``: whether two are answered as one alone, None where that is to be proved yet; ``places``: among how many the memory is
    shared.
    """

    use: Use = field(default_factory=Use)
    number: int = 1
    ceiling: int = MOST
    rates: dict[int, float] = field(default_factory=dict)
    since: float | None = None
    counted: int = 0
    steady: int = 0
    together: bool | None = True
    places: int = 1


class AtOnce:
    """The number for each digest. ``setting``: ``auto`` or a number; ``folder``: where it is kept, one small file a digest.

    ``gpu_bytes``: asked again for the GPU's memory where ``machine`` does not have it.
    """

    def __init__(
        self, setting: str, machine: Machine, limits: Limits, folder: Path | None = None, gpu_bytes: Callable[[], int | None] = lambda: None
    ):
        self._wanted = 0 if setting == AUTO else int(setting)
        self._machine, self._limits, self._folder = machine, limits, folder
        self._gpu_bytes, self._ask_at = gpu_bytes, time.monotonic() + _ASK_S
        self._lock = threading.RLock()
        self._known: dict[str, _Digest] = {}

    def number(self, digest: str) -> int:
        """How many may run now."""
        with self._lock:
            known = self._of(digest)
            return 1 if known.together is None else min(self._wanted or known.number, self._most(known)[0])

    def why(self, digest: str) -> str:
        """The number in words, for the log and for who asks the host."""
        with self._lock:
            known, number = self._of(digest), self.number(digest)
            most, scarce = self._most(known)
            rates = ", ".join(f"{at}: {rate:.1f} a minute" for at, rate in sorted(known.rates.items()))
            if known.together is None and min(self._wanted or most, most) > 1:
                return f"1 at once until it is proved that two are answered as one alone; {most} would fit ({scarce})"
            if self._wanted:
                return f"{number} at once as MONAI_AWS_STUDIES_AT_ONCE asks" + (
                    f", of {self._wanted}: there is too little {scarce}" if number < self._wanted else ""
                )
            return f"{number} at once; {most} would fit ({scarce})" + (f"; measured {rates}" if rates else "")

    def limits(self, digest: str, *, alone: bool = False) -> Limits:
        """What one study may use now: alone all that is allowed, beside others its share, so that it is it that meets its limit."""
        with self._lock:
            if alone or self.number(digest) == 1:
                return self._limits
            share = self.shared_mib // self._places(self._of(digest))
            return replace(self._limits, memory_mib=min(self._limits.memory_mib, share))

    @property
    def shared_mib(self) -> int:
        """The memory that studies at once share."""
        return (self._machine.memory_bytes - RESERVE_BYTES) >> 20

    def may_share(self, digest: str, end: RunEnd | None = None) -> bool:
        """Whether there may be room for two, by what is known and what a study (``end``) has just used; without any of it there may be.

        Only then is it worth proving that two do not disturb each other.
        """
        with self._lock:
            known = self._of(digest)
            use = known.use.and_of(end) if end else known.use
            return self._wanted != 1 and ((end is None and not use.studies) or self._most(replace(known, use=use))[0] > 1)

    def used(self, digest: str, end: RunEnd) -> None:
        """A study has ended: count what it used. One that failed may have failed of using too much: no other would be let in for good."""
        number = self.number(digest)  # before the driver is asked, which may change it
        self._ask_for_gpu()
        if not end.ended_well:
            return
        with self._lock:
            known, before = self._of(digest), self._of(digest).use
            known.use = before.and_of(end)
            if known.use is before:
                return
            if known.use.studies == 1 or self.number(digest) != number:
                self._say(digest)
            elif (known.use.memory_bytes, known.use.gpu_bytes) != (before.memory_bytes, before.gpu_bytes):
                self._keep(digest)

    def left(self, digest: str, now: float, running: int, *, awaited: bool) -> None:
        """A place has become free at ``now`` (monotonic seconds), of ``running`` that were taken; ``awaited``: by another study.

        A rate is measured while each place is taken as soon as it is free; anything else begins it anew.
        """
        with self._lock:
            known, number = self._of(digest), self.number(digest)
            if self._wanted or running != number or not awaited:
                known.since = None
                return
            if known.since is None:
                known.since, known.counted = now, 0
                return
            known.counted += 1
            if known.counted >= ROUNDS * number and now - known.since >= LEAST_S:
                self._decide(digest, known, number, known.counted * 60 / (now - known.since))
                known.since = None

    def disturbed(self, digest: str, beside: int, limit_mib: int = 0) -> None:
        """A study failed beside so many others, or with its share of the memory alone, and was answered alone: never so many again.

        ``limit_mib``: the share of memory by which it ended, if it was that. Then nobody disturbed it: it takes at least so much, and with
        that counted the next one's share is larger.
        """
        with self._lock:
            known = self._of(digest)
            if limit_mib:
                known.use = replace(known.use, memory_bytes=max(known.use.memory_bytes, limit_mib << 20))
            else:
                known.ceiling = max(1, min(known.ceiling, beside))
                known.rates = {number: rate for number, rate in known.rates.items() if number <= known.ceiling}
                known.number = min(known.number, known.ceiling)
            most = self._places(known)
            where = f"beside {beside} other(s)" if beside else "with its share of the memory"
            log.warning("a study failed %s and was answered alone with all of it; from now on at most %d at once", where, most)
            self._say(digest)

    def proved(self, digest: str, *, together: bool | None) -> None:
        """Whether studies of this digest are answered beside each other as alone; None where that is not known yet.

        Where they are not, or that is open, one runs alone and has all that is allowed. It is kept by who proved it.
        """
        with self._lock:
            known, number = self._of(digest), self.number(digest)
            known.together = together
            if self.number(digest) != number:
                log.info("the MAP %s: %s", short_digest(digest), self.why(digest))

    def begin_anew(self) -> None:
        """Another process had the machine: what rates are measured now would tell about that."""
        with self._lock:
            for known in self._known.values():
                known.since = None

    def _decide(self, digest: str, known: _Digest, number: int, rate: float) -> None:
        if number in known.rates:
            known.steady += known.counted
            if known.steady < RECONSIDER:
                self._keep(digest)
                return
            known.rates, known.steady = {}, 0
        known.rates[number] = rate
        known.number = to_try(known.rates, self._most(known)[0])
        if known.number != number or len(known.rates) > 1:
            self._say(digest)
        else:
            self._keep(digest)

    def _most(self, known: _Digest, *, by_cores: bool = True) -> tuple[int, str]:
        if known.together is False:
            return 1, "likeness: beside another a study was answered otherwise"
        most, scarce = most_that_fit(self._machine, known.use, self._limits, by_cores=by_cores and not self._wanted)
        return (most, scarce) if most <= known.ceiling else (known.ceiling, "room: beside others a study failed")

    def _places(self, known: _Digest) -> int:
        """How many it may ever become, as far as is known now.

        What of the cores a study uses differs from one to the next, and with it how many fit. As long as there is room for the most that
        ever did, the share is theirs: with each other share the containers that were started ahead would be made anew.
        """
        most = max(known.places, self._most(known)[0])
        known.places = min(self._wanted or MOST, most, self._most(known, by_cores=False)[0])
        return known.places

    def _ask_for_gpu(self) -> None:
        with self._lock:
            if not self._limits.gpus or self._machine.gpu_bytes is not None or time.monotonic() < self._ask_at:
                return
            self._ask_at = time.monotonic() + _ASK_S
        found = self._gpu_bytes()  # without the lock: nobody waits for the driver
        with self._lock:
            self._machine = replace(self._machine, gpu_bytes=found)

    def _say(self, digest: str) -> None:
        log.info("the MAP %s: %s", short_digest(digest), self.why(digest))
        self._keep(digest)

    def _keep(self, digest: str) -> None:
        if not self._folder:
            return
        known, path = self._of(digest), self._path(digest)
        kept = {
            "digest": digest, "number": best_of(known.rates) if known.rates else known.number, "ceiling": known.ceiling,
            "rates": known.rates, "steady": known.steady, "use": asdict(known.use),
        }  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_suffix(".new")
            new.write_text(json.dumps(kept, indent=2) + "\n")
            new.replace(path)
        except OSError as error:  # the next start measures again
            log.warning("how many studies fit at once could not be kept (%s)", error.__class__.__name__)

    def _of(self, digest: str) -> _Digest:
        if digest not in self._known:
            self._known[digest] = self._read(digest)
        return self._known[digest]

    def _read(self, digest: str) -> _Digest:
        if not self._folder or not is_digest(digest):
            return _Digest()
        try:
            known = _kept(digest, json.loads(self._path(digest).read_text()))
            if known.rates:  # a search that a stop has interrupted goes on
                known.number = to_try(known.rates, self._most(known)[0])
            return known  # noqa: TRY300
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            log.warning("how many studies fit at once cannot be read; it is measured again")
        return _Digest()

    def _path(self, digest: str) -> Path:
        return (self._folder or Path()) / f"{digest.rpartition(':')[2]}.json"


def one_at_a_time(limits: Limits | None = None) -> AtOnce:
    """For whoever runs one study after the other."""
    return AtOnce("1", Machine(0, 1, 0), limits or Limits())


def _kept(digest: str, data: Mapping[str, Any]) -> _Digest:
    """What a file says, of which nothing is believed; one without rates is of an agent that counted otherwise.

    Raises ValueError, TypeError, LookupError, ArithmeticError.
    """
    if data["digest"] != digest:
        raise ValueError("it is about another MAP")
    rates = {_whole(number, 1, MOST): _within(rate, 0, _HUGE) for number, rate in dict(data["rates"]).items()}
    number, ceiling = (_whole(data[name], 1, MOST) for name in ("number", "ceiling"))
    return _Digest(_use_of(data["use"]), number, ceiling, rates, steady=_whole(data["steady"], 0, RECONSIDER))


def _use_of(data: Mapping[str, Any]) -> Use:
    memory, studies = (_whole(data[name], 0, _HUGE) for name in ("memory_bytes", "studies"))
    gpu = None if data["gpu_bytes"] is None else _whole(data["gpu_bytes"], 0, _HUGE)
    return Use(memory, gpu, _within(data["cores"], 0, _HUGE), studies)


def _whole(value: Any, least: float, most: float) -> int:
    return int(_within(value, least, most))


def _within(value: Any, least: float, most: float) -> float:
    """A figure within bounds, which none that is no number is. Raises ValueError, TypeError, OverflowError."""
    if not least <= (number := float(value)) <= most:
        raise ValueError("a figure out of bounds")
    return number


def this_machine(gpu_bytes: int | None, proc: Path = Path("/proc"), *, is_shared: bool = False) -> Machine:
    """What this host has, by its kernel; of the memory what others leave, where it ``is_shared``. Raises OSError, ValueError."""
    lines = [line.split() for line in (proc / "meminfo").read_text().splitlines()]
    memory = {line[0]: int(line[1]) << 10 for line in lines if line[0] in ("MemTotal:", "MemAvailable:")}
    pids = min(int((proc / "sys/kernel" / name).read_text()) for name in ("pid_max", "threads-max"))
    total = memory["MemTotal:"]
    size = min(total, memory["MemAvailable:"] + RESERVE_BYTES) if is_shared else total
    return Machine(size, len(os.sched_getaffinity(0)), pids, gpu_bytes)
