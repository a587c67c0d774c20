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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from monai_aws_pipeline.host_agent.errors import InterruptedJobError, JobError
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineError
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import Hosting, OnExit, nothing
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.output_comparison import differences
from monai_aws_pipeline.host_agent.runtime.warm_runner import Verdicts, ended_well, uids_of
from monai_aws_pipeline.maps.spec.run import Limits

log = logging.getLogger(__name__)

TOGETHER: Final = "several_at_once"
ALONE: Final = "one_at_a_time"

MayShare = Callable[[str, RunEnd], bool]
"""Whether two of a digest would have room, by what a study of it has just used."""


class SideBySide:
    """A hosting whose studies may run beside each other once that was proved. ``folder``: this object's alone, for the proof's outputs."""

    def __init__(self, hosting: Hosting, verdicts: Path, folder: Path, may_share: MayShare):
        self._hosting, self._folder, self._may_share = hosting, folder, may_share
        self._verdicts = Verdicts(verdicts, (TOGETHER, ALONE))
        shutil.rmtree(folder, ignore_errors=True)  # what an agent left that was killed in the middle of a proof

    def run(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event, on_exit: OnExit = nothing
    ) -> RunEnd:
        """Run the MAP on one study. After the first of a digest that would have room beside another, the proof."""
        digest = ready.facts.digest
        known = self._verdicts.read(digest) is not None
        end = self._hosting.run(ready, source, target, limits, name=name, stop=stop, on_exit=on_exit if known else nothing)
        if not known and ended_well(end) and self._may_share(digest, end):
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
        verdict = self._verdicts.read(ready.facts.digest)
        if number > 1 and (verdict is None or verdict.hosting != TOGETHER):
            return False
        return self._hosting.ready_for(ready, limits, number)

    def close(self) -> None:
        """As the hosting behind it."""
        self._hosting.close()

    def _prove(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, name: str, stop: threading.Event) -> None:
        digest = ready.facts.digest
        try:
            unlike = self._differences(ready, source, target, limits, name, stop)
        except (
            JobError,
            InterruptedJobError,
            EngineError,
            OSError,
            ValueError,
        ) as error:  # says nothing about the MAP: it is tried again after another study
            log.warning("whether several studies may run at once is not known yet (%s)", error.__class__.__name__)
            return
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        if unlike:
            self._verdicts.write(digest, ALONE, f"run twice at once, a study is not answered as it is alone ({'; '.join(unlike)})")
        else:
            self._verdicts.write(digest, TOGETHER, "run twice at once, a study had the outputs that it had alone")

    def _differences(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, name: str, stop: threading.Event
    ) -> tuple[str, ...]:
        """What is unlike the outputs in ``target`` when two run at once. Raises what the hosting raises, OSError, ValueError."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._hosting.ready_for(ready, limits, 2)

        def one(which: str) -> tuple[str, ...]:
            folder = self._folder / which
            folder.mkdir(parents=True, mode=0o700)
            if os.geteuid() == 0:
                os.chown(folder, limits.uid, limits.gid)
            end = self._hosting.run(ready, source, folder, limits, name=f"{name}-{which}", stop=stop)
            if not ended_well(end):
                return (f"it ends with exit code {end.exit_code}",)
            return differences(target, folder, uids_of(source))

        with ThreadPoolExecutor(2, "side by side") as threads:
            first, second = threads.map(one, ("beside-1", "beside-2"))
        return tuple(dict.fromkeys((*first, *second)))
