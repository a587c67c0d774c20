"""The proof that studies of a digest do not disturb each other: one is run twice at once, and both must answer as it did alone.

Two processes may meet in what no container separates: a GPU, whose libraries choose their ways by the memory that is free, or a cache that
an application shares on purpose. So before two studies run beside each other for the first time, that is tried with one whose answer is
known. Here belongs the proof; what it takes for two to have room is decided in ``at_once.py``.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import Hosting, OnExit, nothing
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.output_comparison import differences, has_files
from monai_aws_pipeline.host_agent.runtime.warm_runner import Verdicts, uids_of
from monai_aws_pipeline.maps.spec.run import Limits

log = logging.getLogger(__name__)

TOGETHER: Final = "several_at_once"
ALONE: Final = "one_at_a_time"
FOR_NOW: Final = "one_at_a_time_for_now"
"""A run that fails is believed the second time: a full disk or a process that was killed passes, and the verdict would stay."""
_READY_S: Final = 300.0
"""For the second container's imports, while nothing else is inferred. The first one's are made, so their files are in memory."""
_LOOK_S: Final = 0.1
_TOGETHER: Final = 0.25
"""Of the shorter run, so much must have been beside the other: both begin at once, and one may take a moment longer to begin."""
_TRIES: Final = 3
"""Each holds up the studies that wait: when so many have told nothing, the next start of the agent tries again."""

MayShare = Callable[[str, RunEnd | None], bool]
"""Whether two of a digest may have room: by what a study of it has just used, and None before one has run."""


class Tell(Protocol):
    """Is told of each digest whether its studies are answered beside each other as alone, None while that is not known: before one of them
    runs, and when it was proved.
    """

    def __call__(self, digest: str, *, together: bool | None) -> None:
        """See above."""


class SideBySide:
    """A hosting whose studies may run beside each other once that was proved. ``folder``: this object's alone, for the proof's outputs.

    ``shared_mib``: the memory that two may use together.
    """

    def __init__(self, hosting: Hosting, verdicts: Path, folder: Path, may_share: MayShare, tell: Tell, shared_mib: int):
        self._hosting, self._folder, self._may_share, self._tell, self._share_mib = hosting, folder, may_share, tell, shared_mib // 2
        self._verdicts = Verdicts(verdicts, (TOGETHER, ALONE, FOR_NOW))
        self._in_vain = Counter[str]()
        shutil.rmtree(folder, ignore_errors=True)  # what an agent left that was killed in the middle of a proof

    def run(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event, on_exit: OnExit = nothing
    ) -> RunEnd:
        """Run the MAP on one study. After the first of a digest that would have room beside another, the proof.

        Where that may follow, another run must not begin before it.
        """
        digest = ready.facts.digest
        may_follow = self._verdict(digest) is None and self._in_vain[digest] < _TRIES and self._may_share(digest, None)
        end = self._hosting.run(ready, source, target, limits, name=name, stop=stop, on_exit=nothing if may_follow else on_exit)
        if may_follow and end.ended_well and has_files(target) and self._hosting.is_settled(ready) and self._may_share(digest, end):
            self._prove(ready, source, target, limits, name, stop)
        return end

    def ahead(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str) -> None:
        """As the hosting behind it."""
        self._hosting.ahead(ready, source, target, limits, name=name)

    def drop(self, name: str) -> None:
        """As the hosting behind it."""
        self._hosting.drop(name)

    def ready_for(self, ready: ReadyMap, limits: Limits, number: int) -> bool:
        """Several only after the proof."""
        verdict = self._verdict(ready.facts.digest)
        self._tell(ready.facts.digest, together=verdict == TOGETHER if verdict else None)
        if number > 1 and verdict != TOGETHER:
            return False
        return self._hosting.ready_for(ready, limits, number)

    def is_settled(self, ready: ReadyMap) -> bool:
        """As the hosting behind it."""
        return self._hosting.is_settled(ready)

    def close(self) -> None:
        """As the hosting behind it."""
        self._hosting.close()

    def _verdict(self, digest: str) -> str | None:
        """What was proved; None where that is open."""
        found = self._verdicts.read(digest)
        return found.hosting if found and found.hosting != FOR_NOW else None

    def _prove(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, name: str, stop: threading.Event) -> None:
        digest = ready.facts.digest
        try:
            unlike = self._differences(ready, source, target, limits, name, stop)
            if unlike is None:
                self._tell_nothing(digest, "two were not run at once, or one failed for the first time, or of its share of the memory")
            elif unlike:
                self._verdicts.write(digest, ALONE, f"run twice at once, a study is not answered as it is alone ({'; '.join(unlike)})")
                self._tell(digest, together=False)
            else:
                self._verdicts.write(digest, TOGETHER, "run twice at once, a study had the outputs that it had alone")
                self._tell(digest, together=True)
        except Exception as error:  # says nothing about the MAP, and the study is answered, whatever it was
            self._tell_nothing(digest, error.__class__.__name__)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _differences(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, name: str, stop: threading.Event
    ) -> tuple[str, ...] | None:
        """What is unlike the outputs in ``target`` when two run at once; None where they did not, where one failed for the first time, or
        met its share of the memory, which is not the other one's doing. Raises whatever the hosting or a file of an application raises.
        """
        has_less = self._share_mib < limits.memory_mib
        limits = replace(limits, memory_mib=min(limits.memory_mib, self._share_mib))
        if not self._wait_until_ready(ready, limits, stop):
            return None
        shutil.rmtree(self._folder, ignore_errors=True)
        folders = [self._folder / which for which in ("beside-1", "beside-2")]
        for folder in folders:
            folder.mkdir(parents=True, mode=0o700)
            if os.geteuid() == 0:
                os.chown(folder, limits.uid, limits.gid)

        def one(folder: Path) -> tuple[RunEnd, float]:
            end = self._hosting.run(ready, source, folder, limits, name=f"{name}-{folder.name}", stop=stop)
            return end, time.monotonic()

        with ThreadPoolExecutor(2, "side by side") as threads:
            runs = list(threads.map(one, folders))
        if not ran_together(*((at - end.seconds, at) for end, at in runs)) or (has_less and any(end.out_of_memory for end, _ in runs)):
            return None
        if not all(end.ended_well for end, _ in runs):
            digest = ready.facts.digest
            if self._verdicts.read(digest) is None:
                self._verdicts.write(digest, FOR_NOW, "run twice at once, a study failed, maybe by chance: it is tried again")
                return None
        unlike: list[str] = []
        for folder, (end, _) in zip(folders, runs, strict=True):
            unlike += differences(target, folder, uids_of(source)) if end.ended_well else [f"it ends with exit code {end.exit_code}"]
        return tuple(dict.fromkeys(unlike))

    def _wait_until_ready(self, ready: ReadyMap, limits: Limits, stop: threading.Event) -> bool:
        """Whether two may begin together: in a container that makes its imports yet, one would begin when the other has ended."""
        ends = time.monotonic() + _READY_S
        while not self._hosting.ready_for(ready, limits, 2):
            if time.monotonic() > ends or stop.wait(_LOOK_S):
                return False
        return True

    def _tell_nothing(self, digest: str, why: str) -> None:
        self._in_vain[digest] += 1
        log.warning("whether several studies may run at once is not known yet (%s)", why)


def ran_together(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two runs, each from its begin to its end (seconds), were beside each other for a good part of the shorter one."""
    (began, ended), (other_began, other_ended) = first, second
    beside = min(ended, other_ended) - max(began, other_began)
    return beside >= _TOGETHER * min(ended - began, other_ended - other_began)
