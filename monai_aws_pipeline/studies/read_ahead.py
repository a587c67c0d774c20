"""Results read from the bucket, also those that the next tick will want, while Dagster's daemon writes the events of this one.

Here belongs how many objects are read at once and what is kept between ticks, nothing else: which entries are wanted is decided in
``results_index``, what becomes of them in ``lineage``. Reading takes about as long as writing, and the daemon writes in another process.

Nothing rests on what was read ahead. Records do not change once they are committed; what could not be read is read again by the tick that
wants it, so that trouble is raised there. At most one tick's results are kept, until the next tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from monai_aws_pipeline.contract import result_key
from monai_aws_pipeline.operations.results_store import ResultsStore, StoredResult, UnreadableResultError
from monai_aws_pipeline.studies.results_index import Arrival

READERS: Final = 8

Outcome = StoredResult | UnreadableResultError


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


def read_results(store: ResultsStore, entries: Iterable[Arrival]) -> list[Outcome]:
    """Several at a time, in their order."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="results") as readers:
        return list(readers.map(lambda entry: read_result(store, entry), entries))


class ReadAhead:
    """Reads results, and in the background those that are expected to be wanted next."""

    def __init__(self) -> None:
        self._background = ThreadPoolExecutor(1, thread_name_prefix="results-ahead")
        self._ahead: Future[Mapping[str, StoredResult]] | None = None

    def read(self, store: ResultsStore, entries: Sequence[Arrival]) -> list[Outcome]:
        """Results in the order of their entries. What was read ahead and is not among them is dropped."""
        ahead = self._taken()
        rest = [entry for entry in entries if entry.key not in ahead]
        found: dict[str, Outcome] = {**ahead, **dict(zip((entry.key for entry in rest), read_results(store, rest), strict=True))}
        return [found[entry.key] for entry in entries]

    def expect(self, store: ResultsStore, planned: Callable[[], Iterable[Arrival]]) -> None:
        """Begin to read what will be wanted next; ``planned`` is asked in the background too, as it may list."""
        self._taken()
        self._ahead = self._background.submit(_read_ahead, store, planned)

    def close(self) -> None:
        """End the background, after what it is reading."""
        self._background.shutdown()

    def _taken(self) -> Mapping[str, StoredResult]:
        ahead, self._ahead = self._ahead, None
        return ahead.result() if ahead and not ahead.cancel() else {}


def _read_ahead(store: ResultsStore, planned: Callable[[], Iterable[Arrival]]) -> Mapping[str, StoredResult]:
    try:
        entries = list(planned())
        outcomes = read_results(store, entries)
    except Exception:  # whatever it is, the tick that wants them meets it too, and says it
        return {}
    return {entry.key: outcome for entry, outcome in zip(entries, outcomes, strict=True) if isinstance(outcome, StoredResult)}
