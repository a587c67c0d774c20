"""Results read from the bucket, and what the next tick will want, while Dagster's daemon writes the events of this one.

Here belongs how many objects are read at once and what is kept between ticks, nothing else: which entries are wanted is decided in
``results_index``, what becomes of them in ``lineage``. The daemon writes in another process; listing and reading a result took less than a
third of the time that it took to write it.

Nothing rests on what was read ahead. A plan is taken by the tick alone that begins where it does, and what is written to the bucket after
it was made is found by a later one, as after any tick. Records do not change once they are committed; what could not be read is read again
by the tick that wants it, so that trouble is raised there. An event that was made ahead is taken where the tick would make the very same.
At most one tick's results are kept, until the next tick.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from dagster import AssetMaterialization, AssetObservation

from monai_aws_pipeline.contract import result_key
from monai_aws_pipeline.operations.results_store import ResultsStore, StoredResult, UnreadableResultError
from monai_aws_pipeline.studies.results_index import Arrival, Cursor, KeysAfter, Tick, plan_tick

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READERS: Final = 8
READERS_AHEAD: Final = 4
"""Nobody waits for what is read ahead, and who writes meanwhile may be on the same cores."""
BEGINS_AFTER_S: Final = 1.0
"""Reading ahead lets the tick's own events go first: while it read, handing a thousand to the daemon took 0.4 s instead of 0.15."""

Outcome = StoredResult | UnreadableResultError
Event = AssetMaterialization | AssetObservation
Make = Callable[[StoredResult], Event]
"""What makes the event of a result whose study had no answer before; two that are equal make the same."""


def read_result(store: ResultsStore, entry: Arrival) -> Outcome:
    """One result; an error that is returned is the result's own, trouble of S3 is raised.

    An answer lies where its entry's key says, so the entry itself is read only where none lies there.
    """
    try:
        record = store.record(result_key(entry.study, entry.job)) if entry.study else None
        if record is None or (record.index_key, record.commit_key) != (entry.key, result_key(entry.study, entry.job)):
            index = store.entry(entry.key)
            if (index.job, index.study) != (entry.job, entry.study):
                return UnreadableResultError(f"{entry.key}: the entry speaks of another job or study than its key")
            record = store.result_record(index)
        return store.with_outputs(record)
    except UnreadableResultError as error:
        return error


def read_results(store: ResultsStore, entries: Iterable[Arrival], readers: int = READERS) -> list[Outcome]:
    """So many at a time, in their order."""
    with ThreadPoolExecutor(readers, thread_name_prefix="results") as pool:
        return list(pool.map(lambda entry: read_result(store, entry), entries))


@dataclass(frozen=True)
class Prepared:
    """A tick that has not begun: what it will want, as much of that as could be read, by entry, and the events that ``make`` made of it."""

    plan: Tick | None = None
    results: Mapping[str, StoredResult] = field(default_factory=dict)
    make: Make | None = None
    events: Mapping[str, Event] = field(default_factory=dict)


class ReadAhead:
    """Plans a tick and reads its results, and does so in the background for the next one."""

    def __init__(self) -> None:
        self._store: ResultsStore | None = None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="results-ahead")
        self._next: Future[Prepared] | None = None
        self._wanted = threading.Event()
        self._now = Prepared()

    def store(self, bucket: str, client: Callable[[], S3Client]) -> ResultsStore:
        """The bucket, by a client that is kept between ticks: making one takes as long as recording dozens of results."""
        if self._store is None or self._store.bucket != bucket:
            self.forget()
            self._store = ResultsStore(client(), bucket)
        return self._store

    def forget(self) -> None:
        """Keep nothing. After trouble: it may lie in the client, whose credentials somebody has renewed since."""
        self._taken()
        self._store, self._now = None, Prepared()

    def plan(self, cursor: Cursor, keys_after: KeysAfter, now: datetime, limit: int) -> Tick:
        """The plan that was made ahead where it is this tick's, of as many results as was said then; else ``plan_tick``'s, of ``limit``."""
        self._now = prepared = self._taken()
        return prepared.plan if prepared.plan and prepared.plan.before == cursor else plan_tick(cursor, keys_after, now, limit)

    def read(self, store: ResultsStore, entries: Sequence[Arrival]) -> list[Outcome]:
        """Results in the order of their entries. What was read ahead and is not among them is dropped."""
        ahead, self._now = self._now.results, replace(self._now, results={})
        rest = [entry for entry in entries if entry.key not in ahead]
        found: dict[str, Outcome] = {**ahead, **dict(zip((entry.key for entry in rest), read_results(store, rest), strict=True))}
        return [found[entry.key] for entry in entries]

    def made(self, make: Make) -> Mapping[str, Event]:
        """The events that were made ahead, by entry, where this makes the same."""
        ahead, self._now = self._now, Prepared()
        return ahead.events if ahead.make == make else {}

    def expect(self, store: ResultsStore, cursor: Cursor, now: datetime, limit: int, make: Make) -> None:
        """Begin with what a tick will want that begins with this cursor."""
        self._taken()
        self._wanted.clear()
        self._next = self._background.submit(self._prepare, store, cursor, now, limit, make)

    def close(self) -> None:
        """End the background, after what it is reading."""
        self._wanted.set()
        self._background.shutdown()

    def _taken(self) -> Prepared:
        coming, self._next = self._next, None
        self._wanted.set()
        return coming.result() if coming and not coming.cancel() else Prepared()

    def _prepare(self, store: ResultsStore, cursor: Cursor, now: datetime, limit: int, make: Make) -> Prepared:
        self._wanted.wait(BEGINS_AFTER_S)
        try:
            plan = plan_tick(cursor, store.index_keys, now, limit)
            outcomes = zip(plan.fresh, read_results(store, plan.fresh, READERS_AHEAD), strict=True)
            results = {entry.key: outcome for entry, outcome in outcomes if isinstance(outcome, StoredResult)}
            return Prepared(plan, results, make, {key: make(result) for key, result in results.items()})
        except Exception:  # whatever it is, the tick that wants them meets it too, and says it
            return Prepared()
