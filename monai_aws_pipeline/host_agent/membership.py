"""Whether this host takes jobs, and how its life ends: a named host decides alone, an instance of an Auto Scaling group with the group.

Here belong the decision (``decide``, a table) and the life of a member: it comes with the live MAP on its disk, is protected while it has
work, leaves when it has had none for long, and when the group wants it elsewhere it ends what is in hand before it says that it may go. The
calls themselves are in ``aws/fleet_membership.py``, the loop that takes jobs in ``agent.py``.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from monai_aws_pipeline.contract import FINISH_TIMEOUT_S, HOOK_FINISH, HOOK_READY
from monai_aws_pipeline.host_agent.aws.fleet_membership import GroupInstance, Leaving
from monai_aws_pipeline.host_agent.job_status import Board

log = logging.getLogger(__name__)

IN_SERVICE: Final = "InService"
_STANDBY: Final = "Standby"
"""A person has set it aside: no hook holds it, so no time is up for what it waits for."""
_COMES: Final = "Pending"
_DETACHED: Final = "Detached"
_AT_WORK: Final = (IN_SERVICE, _DETACHED, "")
"""Targets with which jobs are taken: a group's instance at work, or one that no group has (any more)."""
UNPROTECT_AFTER_S: Final = 10.0
"""Without work for so long, an instance is protected no more. Studies that come in a row cost two calls in all."""


class Step(StrEnum):
    """What is done next."""

    WORK = "work"
    """Take jobs. While there are any, scale-in leaves this instance alone."""
    STAY = "stay"
    """Take jobs; nothing else changes."""
    REST = "rest"
    """Take jobs; the group may take the instance meanwhile."""
    LEAVE = "leave"
    """Idle for long enough: end this host."""
    FINISH = "finish"
    """Wanted elsewhere: take nothing new, end what is in hand."""
    GO = "go"
    """Wanted elsewhere, and nothing in hand: let the group go on, and wait for what it does with this instance."""


def decide(target: str, idle_s: float, idle_limit_s: float) -> Step:
    """The step for a host that is wanted in that state and has had nothing to do for so long; 0 or less while it has.

    ``target`` is the instance's target lifecycle state, empty for a host that is in no group.
    """
    if target not in _AT_WORK:
        return Step.FINISH if idle_s <= 0 else Step.GO
    if idle_s <= 0:
        return Step.WORK
    if idle_s >= idle_limit_s:
        return Step.LEAVE
    return Step.REST if idle_s >= UNPROTECT_AFTER_S else Step.STAY


class Membership(Protocol):
    """What the agent's loop asks of the kind of host that it is."""

    def enter(self) -> bool:
        """Wait until jobs may be taken; False where this process was told to stop before."""

    def step(self, idle_s: float) -> Step:
        """What is to be done with nothing to do for so long, 0 or less while there is work."""

    def leave(self) -> bool:
        """Begin this host's end, nothing being in hand; False where it has to stay."""

    def end(self) -> bool:
        """End this host, everything in hand having ended; True where a new process is to begin on it."""

    def close(self) -> None:
        """This process ends."""


class NamedHost:
    """A host that stands for itself: always at work, and switched off when it has been idle."""

    def __init__(self, idle_limit_s: float, power_off: Callable[[], None]):
        self._idle_limit_s, self._power_off = idle_limit_s, power_off

    def enter(self) -> bool:
        """At once."""
        return True

    def step(self, idle_s: float) -> Step:
        """By idleness alone."""
        return decide("", idle_s, self._idle_limit_s)

    def leave(self) -> bool:
        """Nobody has to be asked."""
        return True

    def end(self) -> bool:
        """Switch it off."""
        log.info("stopping this machine")
        self._power_off()
        return False

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a member's life.

    ``look``: between two looks at where the group wants it and has it. ``beat``: between two heartbeats of a hook. ``unknown``: with
    neither known for so long it works like a named host. ``finish``: so long it may take to end what is in hand, before AWS's limit for a
    hook is reached (100 times its timeout, at most 48 hours). ``again``: before it asks a second time to leave; ``asks``: so often.
    """

    look: float = 5.0
    beat: float = 60.0
    unknown: float = 60.0
    finish: float = min(172_800.0, 100.0 * FINISH_TIMEOUT_S) - FINISH_TIMEOUT_S
    again: float = 60.0
    asks: int = 5


@dataclass(frozen=True)
class Surroundings:
    """What a member has to do with on this machine.

    ``leave`` is set when nothing new is to be begun, ``stop`` when everything is to end now. ``in_use``: whether a MAP is pulled or
    proved here.
    """

    leave: threading.Event
    stop: threading.Event
    board: Board
    prepare: Callable[[], None]
    in_use: Callable[[], bool]
    power_off: Callable[[], None]
    sign_of_life: Callable[[], None]


class GroupMember:
    """An instance of an Auto Scaling group. ``target`` asks where the group wants it: None while nobody answers."""

    def __init__(
        self, instance: GroupInstance, around: Surroundings, idle_limit_s: float, target: Callable[[], str | None], pace: Pace | None = None
    ):
        self._instance, self._around, self._idle_limit_s, self._ask, self._pace = instance, around, idle_limit_s, target, pace or Pace()
        self._target = ""
        self._serves = False
        self._unseen = False
        self._protected: bool | None = None  # what an agent before this one has set is not known
        self._left = Leaving.LATER
        self._asked, self._ask_again = 0, -math.inf
        self._held_by, self._beaten, self._told = "", 0.0, math.inf
        self._let_go = ""
        self._aside = False
        self._over = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="group", daemon=True)

    def close(self) -> None:
        """Listen no more."""
        self._over.set()
        if self._listener.ident:
            self._listener.join()

    # ---------------------------------------------------------------------------------------------------------------- its life

    def enter(self) -> bool:
        """Have the live MAP here, say so, and wait until the group has this instance in service: in a warm pool that is another boot."""
        self._listener.start()
        began, prepared = time.monotonic(), False
        while not self._around.stop.is_set():
            self._around.sign_of_life()
            self._look()
            state = self._instance.state() or ""
            if state == IN_SERVICE or (not state and self._target in _AT_WORK and time.monotonic() > began + self._pace.unknown):
                if not state:
                    log.warning("no group has this instance, or none says so; it works as a host of its own")
                self._serves, self._unseen = True, not state
                if self._target and self._target not in _AT_WORK:  # between the two looks
                    self._told_to_go()
                return True
            if not prepared and _COMES in state:
                prepared = True
                self._hold(HOOK_READY)
                if state.endswith(":Wait"):  # part of the hook's time has gone in the boot
                    self._instance.heartbeat(HOOK_READY)
                self._around.prepare()
                self._held_by = ""
            else:
                self._let_go_on(state)
                self._around.stop.wait(self._pace.look)
        return False

    def step(self, idle_s: float) -> Step:
        """By idleness and the group's wish; protected from scale-in with the first work, and no more some seconds after the last."""
        step = decide(self._target, idle_s, self._idle_limit_s)
        wanted = {Step.WORK: True, Step.REST: False, Step.LEAVE: False}.get(step, self._protected)
        if wanted != self._protected and not self._is_alone and self._instance.protect(on=bool(wanted)):
            self._protected = wanted
            self._show()
        return step

    def leave(self) -> bool:
        """Ask the group to become smaller by this instance. It stays where the group may not, and goes where nobody answers for long."""
        if self._is_alone:
            return True
        now = time.monotonic()
        if now < self._ask_again:
            return False
        self._ask_again = now + self._pace.again
        self._left = self._instance.leave(smaller=True)
        self._asked = self._asked + 1 if self._left is Leaving.LATER else 0
        return self._left in (Leaving.ACCEPTED, Leaving.NEVER) or self._asked >= self._pace.asks

    def end(self) -> bool:
        """Let the group go on with this instance; one that AWS takes back, or that the group cannot let go, goes by itself."""
        around = self._around
        while around.in_use() and not around.stop.wait(self._pace.look):
            around.sign_of_life()
        if not self._is_let_go():
            log.info("stopping this machine")
            around.power_off()
            return False
        log.info("nothing is in hand; the group may go on with this instance")
        while True:
            around.sign_of_life()
            state = self._instance.state()
            self._let_go_on(state or "")
            if state == self._target == IN_SERVICE or (state == "" and self._target == _DETACHED):
                return True
            if around.stop.wait(self._pace.look):
                return False

    # ----------------------------------------------------------------------------------------------------------- what it is made of

    @property
    def _is_alone(self) -> bool:
        return self._target in _AT_WORK and self._target != IN_SERVICE

    def _is_let_go(self) -> bool:
        """Whether the group decides about this instance: it said so, was asked to, or is now, by one that is to be replaced.

        One that was set aside, and may be back already, waits for what it is wanted for.
        """
        if self._target not in _AT_WORK or self._left is Leaving.ACCEPTED or self._aside:
            return True
        return not self._is_alone and self._instance.leave(smaller=False) is Leaving.ACCEPTED

    def _let_go_on(self, state: str) -> None:
        """Complete our hook where it holds this instance, once for each time that it does."""
        if not state.endswith(":Wait"):
            self._let_go = ""
            return
        hooks = (HOOK_FINISH, HOOK_READY) if self._serves or "Terminating" in state else (HOOK_READY, HOOK_FINISH)
        if state != self._let_go and any(self._instance.complete(hook) for hook in hooks):
            self._let_go = state

    def _look_for_hook(self) -> None:
        """Let the group go on that was not seen when this instance began to work: at the hook's end it would end it, jobs in hand."""
        state = self._instance.state()
        if state == f"{_COMES}:Wait":
            self._instance.complete(HOOK_READY)
        self._unseen = state is None or state.startswith(_COMES)

    def _hold(self, hook: str) -> None:
        self._beaten = time.monotonic()  # by its first heartbeat the group has come to the hook
        self._held_by = hook

    def _listen(self) -> None:
        while not self._over.wait(self._pace.look):
            self._look()
            now = time.monotonic()
            if self._around.leave.is_set():
                self._around.sign_of_life()  # the loop that gives it has ended
            if now > self._told + self._pace.finish and self._target != _STANDBY:
                self._around.stop.set()
            if self._unseen:
                self._look_for_hook()
            if self._held_by and now >= self._beaten + self._pace.beat:
                self._beaten = now
                self._instance.heartbeat(self._held_by)

    def _look(self) -> None:
        target = self._ask()
        if target is None or target == self._target:
            return
        self._target = target
        self._show()
        log.info("the group wants this instance %s", target or "no more")
        if self._serves and target not in _AT_WORK:
            self._told_to_go()
        elif self._told < math.inf:  # wanted at work again, by whoever had set it aside
            self._told, self._held_by = math.inf, ""

    def _told_to_go(self) -> None:
        log.warning("nothing new is begun; what runs may end")
        self._told = time.monotonic()
        self._aside = self._target == _STANDBY
        if not self._aside:
            self._hold(HOOK_FINISH)
        self._around.leave.set()

    def _show(self) -> None:
        self._around.board.say_wanted(self._target, protected=bool(self._protected))
