"""Many re-runs at once: asked for in batches, waited for together, each with an end of its own.

Here belongs the loop alone. So many are in the queue at once as were allowed, so that a new upload never waits behind all of them, and a
run that is cancelled leaves no more than those behind, which are answered and recorded. No Dagster.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from monai_aws_pipeline.cloud.waiting import wait_until
from monai_aws_pipeline.contract import ResultRecord
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError
from monai_aws_pipeline.studies.rerun import Asked, NoLiveMapError, RerunError, Reruns, not_answered

POLL_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Meant:
    """A study to be asked for, with the jobs of its uploads that failed, and when it failed last."""

    study: str
    failed_uploads: tuple[str, ...] = ()
    failed_at: datetime | None = None


@dataclass(frozen=True)
class RerunEnd:
    """What became of one study: its commit record, or why there is none. ``asked`` is None where it could not even be asked."""

    study: str
    asked: Asked | None = None
    record: ResultRecord | None = None
    refused: str = ""


class RerunBatch:
    """Asks for studies, no more than ``at_once`` in the queue, and waits for all of them."""

    def __init__(
        self,
        reruns: Reruns,
        store: ResultsStore,
        at_once: int,
        report: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reruns, self._store, self._at_once, self._report = reruns, store, at_once, report
        self._sleep, self._clock = sleep, clock
        self._waiting: dict[str, tuple[Asked, float]] = {}

    def run(self, studies: Sequence[Meant]) -> Iterator[RerunEnd]:
        """The end of each study, as they come. A study that cannot be asked for ends with its reason; no MAP at all ends everything.

        Raises NoLiveMapError.
        """
        left, done = deque(studies), 0
        jobs: list[str] = []
        progress = self._reruns.progress(jobs, self._clock)

        def state(_: object) -> str:
            jobs[:] = self._waiting
            return f"{done} of {len(studies)} studies have ended. {progress(None)}"

        while left or self._waiting:
            for end in [*self._fill(left)] or self._next_ends(state):
                done += 1
                yield end

    def _next_ends(self, state: Callable[[object], str]) -> list[RerunEnd]:
        """The next that come. None where the bound is over: those that wait as long end at the next look."""
        return wait_until(
            lambda: [*self._ended()],
            bool,
            self._reruns.bound,
            what=state,
            report=self._report,
            pause=POLL_SECONDS,
            sleep=self._sleep,
            clock=self._clock,
        )

    def _fill(self, left: deque[Meant]) -> Iterator[RerunEnd]:
        queued = False
        while left and len(self._waiting) < self._at_once:
            meant = left.popleft()
            try:
                asked = self._reruns.ask(meant.study, meant.failed_uploads, meant.failed_at, wake=False)
            except NoLiveMapError:
                raise
            except (RerunError, UnreadableResultError) as error:
                yield RerunEnd(meant.study, refused=str(error))
            else:
                self._waiting[asked.job] = asked, self._clock()
                queued |= asked.answer is None
        if queued:
            self._reruns.wake()

    def _ended(self) -> Iterator[RerunEnd]:
        for job, (asked, since) in list(self._waiting.items()):
            try:
                record = asked.answer or next(iter(self._store.answers(job)), None)
            except UnreadableResultError as error:
                end = RerunEnd(asked.study, asked, refused=str(error))
            else:
                if record is None and self._clock() - since <= self._reruns.bound:
                    continue
                end = RerunEnd(asked.study, asked, record, "" if record else not_answered(job, self._reruns.bound))
            del self._waiting[job]
            yield end
