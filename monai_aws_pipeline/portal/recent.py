"""The newest ends of studies, and studies by the beginning of their pseudonym: from the results index and by listings alone.

Records never change, so each is read once; of those so many are kept. Whether a study was answered later is seen among what is shown.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from monai_aws_pipeline.contract import OUTPUT_PREFIX, IndexEntry, ResultRecord, Status, parse_utc, short_digest
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import path_of

SHOWN: Final = 30
DAYS: Final = 14
_KEPT: Final = 1000
_FOUND: Final = 50
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{4,16}")


@dataclass(frozen=True)
class RecentRow:
    """One end in short. ``again``: whether a person may ask for it once more; ``code`` of one that was not answered."""

    page: str
    at: str
    state: str
    study: str
    map: str
    seconds: str
    usd: str
    code: str = ""
    why: str = ""
    job: str = ""
    again: bool = False


class Recent:
    """What the first page lists. Safe to use from several threads: at worst a record is read twice."""

    def __init__(self, store: ResultsStore) -> None:
        self._store = store
        self._records: OrderedDict[str, ResultRecord] = OrderedDict()

    def newest(self, now: datetime | None = None) -> tuple[RecentRow, ...]:
        """The newest ends of the last days, the newest first."""
        until = now or datetime.now(UTC)
        keys = list(islice(self._store.index_backwards(until - timedelta(days=DAYS), until + timedelta(hours=1)), SHOWN))
        self._read([key for key in keys if key not in self._records])
        records = sorted((self._records[key] for key in keys if key in self._records), key=lambda record: record.committed_at, reverse=True)
        return rows_of(records)

    def found(self, beginning: str) -> tuple[str, ...] | None:
        """Answered studies whose pseudonym begins so, at most fifty; None where it is no beginning of one."""
        if not _PSEUDONYM.fullmatch(beginning):
            return None
        return tuple(self._store.folders(f"{OUTPUT_PREFIX}{beginning}", _FOUND))

    def failed_jobs(self, study: str) -> tuple[str, ...]:
        """Jobs of a study that were not answered, of those that were shown: an original may be kept under any of them."""
        return tuple(record.job for record in list(self._records.values()) if record.study == study and record.error)

    def _read(self, keys: Sequence[str]) -> None:
        entries = {key: entry for key, entry in zip(keys, self._store.entries(keys), strict=True) if isinstance(entry, IndexEntry)}
        for key, record in zip(entries, self._store.records(entries.values()), strict=True):
            if isinstance(record, ResultRecord):  # damaged ones are named by the sensor; expired ones are gone
                self._records[key] = record
        while len(self._records) > _KEPT:
            self._records.popitem(last=False)


def rows_of(records: Sequence[ResultRecord]) -> tuple[RecentRow, ...]:
    """Rows of records, the newest first. A failure is asked for again where its study is known and nothing newer is there of it."""
    rows, later = [], set[str]()
    for record in records:
        failed = record.status is not Status.SUCCEEDED
        rows.append(_row(record, again=failed and bool(record.study) and record.study not in later))
        later.add(record.study)
    return tuple(rows)


def _row(record: ResultRecord, *, again: bool) -> RecentRow:
    error = record.error
    return RecentRow(
        page=path_of(record.study, record.job),
        at=f"{parse_utc(record.committed_at):%Y-%m-%d %H:%M:%S} UTC",
        state=record.status.value,
        study=record.study,
        map=" ".join((record.map.app_version, short_digest(record.map.digest))).strip(),
        seconds=f"{record.timings.total:.1f}",
        usd=f"{record.cost.usd:.4f}",
        code=error.code if error else "",
        why=error.message if error else "",
        job=record.job,
        again=again,
    )
