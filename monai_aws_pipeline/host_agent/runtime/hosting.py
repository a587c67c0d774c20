"""How the MAP is kept for studies: a container of its own for each study, behind one protocol; and that one process's MAP runs at a time.

Here belongs who starts and ends containers of the MAP. The job knows only ``Hosting``: it hands over a study's folders and gets the end of
the run, whichever way it was hosted.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, Protocol

from monai_aws_pipeline.host_agent.errors import InterruptedJobError
from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunEnd, RunningContainer
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.network_namespace import Namespace, NoNetwork
from monai_aws_pipeline.host_agent.runtime.output_comparison import has_files
from monai_aws_pipeline.maps.spec.container import ContainerSpec
from monai_aws_pipeline.maps.spec.run import Limits, effective_timeout, held_container, study_container

log = logging.getLogger(__name__)

_TURN_LOOK_S: Final = 0.1
_LONG_S: Final = 1.0

OnExit = Callable[[], None]
"""What is called when a run is over."""


def nothing() -> None:
    """For whoever starts nothing when a run is over."""


class Hosting(Protocol):
    """Runs the MAP on studies, each in a process and folders of its own; on several at once where ``ready_for`` says so."""

    def run(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event, on_exit: OnExit = nothing
    ) -> RunEnd:
        """Run the MAP on the files in ``source``; what it writes lies in ``target`` (empty before) afterwards.

        ``name`` is unique among the containers of this host. ``on_exit`` may be called once nothing of the MAP runs any more, before
        the end is known; another ``run`` may begin then. Raises FailedError(ENGINE_FAILED) when the MAP could not be started and
        InterruptedJobError on ``stop``; how the application itself ended is in the RunEnd.
        """

    def ahead(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str) -> None:
        """Get ready for ``run`` with these arguments, while another study is run; no application begins. Never fails."""

    def drop(self, name: str) -> None:
        """Undo ``ahead`` where no ``run`` followed. None of that name is fine."""

    def ready_for(self, ready: ReadyMap, limits: Limits, number: int) -> bool:
        """Whether so many may run at once now. Begins what is missing for that, ends what is too much, and waits for neither."""

    def is_settled(self, ready: ReadyMap) -> bool:
        """Whether it is known how this MAP is hosted. Before that ``ready_for`` says no to more than one, however long one asks."""

    def close(self) -> None:
        """Remove what is kept between studies. May be called more than once."""


@dataclass(frozen=True)
class _Held:
    """A container that waits for its study's turn, and the network namespace that is its own meanwhile."""

    wanted: ContainerSpec
    process: RunningContainer
    namespace: Namespace | None


class PerStudy:
    """A fresh container for each study, removed after it. Starting one takes longer than many a study: the next is started ahead, held
    before its application begins, so that no application begins before its turn.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._held: dict[str, _Held] = {}
        self._plain: set[str] = set()
        self._with_shell: set[str] = set()
        self._network = NoNetwork(engine)

    def ready_for(self, ready: ReadyMap, limits: Limits, number: int) -> bool:  # noqa: ARG002 - as the protocol has it
        """Always: a container is made for each."""
        return True

    def is_settled(self, ready: ReadyMap) -> bool:  # noqa: ARG002 - as the protocol has it
        """Always: there is one way."""
        return True

    def ahead(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str) -> None:
        """Start the study's container and hold it."""
        if ready.image not in self._plain and name not in self._held:
            namespace: Namespace | None = None
            try:
                namespace = self._network.take(ready.image, limits)
                wanted = _held_container(ready, source, target, limits, name, namespace)
                self._held[name] = _Held(wanted, self._engine.hold(wanted), namespace)
            except (OSError, RuntimeError) as error:  # no process, no thread
                log.warning("a container could not be started ahead (%s)", error.__class__.__name__)
                self._network.give_back(namespace)

    def drop(self, name: str) -> None:
        """End a container that was held for nothing."""
        held = self._held.pop(name, None)
        if held:
            self._engine.drop(name, held.process)
            self._network.give_back(held.namespace)

    def run(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event, on_exit: OnExit = nothing
    ) -> RunEnd:
        """Let the held container's application begin, or start one; wait, measure, remove."""
        timeout, gpu = effective_timeout(ready.spec, limits), bool(limits.gpus)
        held = self._held.get(name)
        wanted = held and _held_container(ready, source, target, limits, name, held.namespace)
        if held and held.process.poll() is None and held.wanted == wanted and self._held.pop(name, None):
            has_shell = ready.image in self._with_shell
            when_over = on_exit if has_shell else nothing  # where it may have to be started once more, its turn is not over yet
            try:
                end = self._engine.run(held.wanted, timeout_s=timeout, stop=stop, gpu=gpu, held=held.process, on_exit=when_over)
            except BaseException:
                self._network.end(held.namespace)  # nobody has said that the study's processes are gone
                raise
            self._network.give_back(held.namespace)
            if has_shell or end.exit_code not in (126, 127) or has_files(target):
                self._with_shell.add(ready.image)
                return end
            self._plain.add(ready.image)  # perhaps it has no shell: what is wrong is told by starting its own command
        if held:  # it ended by itself, or another MAP is live by now
            self.drop(name)
            name = f"{name}-again"  # the engine may not be done with the first yet
        wanted = study_container(ready.image, ready.spec, source, target, limits, name=name)
        return self._engine.run(wanted, timeout_s=timeout, stop=stop, gpu=gpu, on_exit=on_exit)

    def close(self) -> None:
        """End what is held."""
        for name in list(self._held):
            self.drop(name)
        self._network.close()
        self._engine.settle()


def _held_container(ready: ReadyMap, source: Path, target: Path, limits: Limits, name: str, namespace: Namespace | None) -> ContainerSpec:
    joined = namespace.joined(limits) if namespace else limits
    return held_container(ready.image, ready.spec, source, target, joined, name=name)


class OneAtATime:
    """One process's MAP at a time on this machine: the agent's, or that of ``prove`` beside it. Two would share one GPU's memory.

    Locks of the kernel on two files in ``folder``: they end with the process that held them, however that ended. Whoever waits for the MAP
    holds the other, so that an agent with a backlog, which is back within milliseconds, does not get ahead again and again. ``shared``: for
    the agent, whose own studies may run beside each other, and beside nobody else's. ``waited`` is called after a long wait.
    """

    def __init__(self, hosting: Hosting, folder: Path, *, shared: bool = False, waited: Callable[[], None] = nothing):
        self._hosting, self._folder, self._how, self._waited = hosting, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, waited

    def run(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event, on_exit: OnExit = nothing
    ) -> RunEnd:
        """Wait for the turn, then run. The turn is over when the MAP is."""
        with self._turn(stop) as end_turn:

            def ended() -> None:
                end_turn()
                on_exit()

            return self._hosting.run(ready, source, target, limits, name=name, stop=stop, on_exit=ended)

    def ahead(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str) -> None:
        """At any time, because no application begins."""
        self._hosting.ahead(ready, source, target, limits, name=name)

    def drop(self, name: str) -> None:
        """Undo ``ahead``."""
        self._hosting.drop(name)

    def ready_for(self, ready: ReadyMap, limits: Limits, number: int) -> bool:
        """As the hosting behind it."""
        return self._hosting.ready_for(ready, limits, number)

    def is_settled(self, ready: ReadyMap) -> bool:
        """As the hosting behind it."""
        return self._hosting.is_settled(ready)

    def close(self) -> None:
        """Remove what is kept between studies."""
        self._hosting.close()

    @contextmanager
    def _turn(self, stop: threading.Event) -> Iterator[Callable[[], None]]:
        """While it is this one's turn, which ends with the block or when what it yields is called."""
        self._folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with (self._folder / "next-map.lock").open("w") as following, (self._folder / "map.lock").open("w") as running:
            waited = _lock(following, stop, fcntl.LOCK_EX)
            waited = _lock(running, stop, self._how) or waited
            fcntl.flock(following, fcntl.LOCK_UN)
            if waited:
                log.info("waited %.1f s for another process's MAP", time.monotonic() - started)
                if time.monotonic() > started + _LONG_S:  # and not for another thread of this one, which is there at the same moment
                    self._waited()
            yield partial(fcntl.flock, running, fcntl.LOCK_UN)


def _lock(file: IO[str], stop: threading.Event, how: int) -> bool:
    """Lock it, whether after a wait. Raises InterruptedJobError on ``stop``."""
    waited = False
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if stop.wait(_TURN_LOOK_S):
                raise InterruptedJobError("the host is stopping") from None
            waited = True
        else:
            return waited
