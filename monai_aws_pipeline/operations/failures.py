"""The studies without an answer, newest first, read from the results index; nothing is changed.

Behind ``monai-aws failures``, and the table ``unanswered_studies`` where that is made by hand. Here belongs how far one
looks back and how much is read for it. Which failures stand and how one is worded is in ``unanswered``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from monai_aws_pipeline.contract import IndexEntry, InputFacts, ResultRecord, Status, parse_utc, utc_text
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.unanswered import UnansweredRow, counts_by_code, rows_of

MOST_ENTRIES: Final = 5000
"""Read at once: some days of a large deployment, in less than a minute."""
_AT_ONCE: Final = 200


@dataclass(frozen=True)
class Failures:
    """``rows``: failures that stand. ``looked``: entries of the index that were read; ``complete``: whether that were all since ``since``.

    ``unreadable``: results that are damaged, or have expired, and say nothing. ``other_codes``: how many stand beside the code that was
    asked for.
    """

    rows: tuple[UnansweredRow, ...]
    since: str
    looked: int
    complete: bool
    unreadable: int
    other_codes: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"counts": counts_by_code(self.rows)}


def failures(store: ResultsStore, since: datetime, now: datetime, code: str = "", most: int = MOST_ENTRIES) -> Failures:
    """The failures that stand of those committed since a moment, at most of so many results. A failure that was answered later is none."""
    keys = list(islice(store.index_backwards(since, now + timedelta(hours=1)), most + 1))
    records: list[ResultRecord] = []
    unreadable = 0
    for start in range(0, min(len(keys), most), _AT_ONCE):
        found = store.entries(keys[start : min(start + _AT_ONCE, most)])
        entries = [entry for entry in found if isinstance(entry, IndexEntry) and parse_utc(entry.committed_at) >= since]
        read, damaged = _records(store, entries)
        records += read
        unreadable += damaged + sum(not isinstance(entry, IndexEntry) for entry in found)
    standing = rows_of(records)
    rows = tuple(row for row in standing if code in ("", row.code))
    others = counts_by_code(row for row in standing if code not in ("", row.code))
    return Failures(rows, utc_text(since), min(len(keys), most), len(keys) <= most, unreadable, others)


def _records(store: ResultsStore, entries: Sequence[IndexEntry]) -> tuple[list[ResultRecord], int]:
    """What ended without an answer as its whole record; of what was answered no more is read than that it was."""
    failed = [entry for entry in entries if entry.status is not Status.SUCCEEDED]
    found = store.records(failed)
    read = [record for record in found if isinstance(record, ResultRecord)]
    answered = [
        ResultRecord(entry.job, entry.study, entry.status, entry.committed_at, InputFacts("", "", 0))
        for entry in entries
        if entry.status is Status.SUCCEEDED
    ]
    return read + answered, len(found) - len(read)
