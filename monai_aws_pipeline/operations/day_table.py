"""The table of one day: everything that was committed on it, answers and failures, as one object of the bucket. No Dagster.

Here belong its rows, how they are read from the results index, and how they are written and read again. What was in a day's table stays in
it: results may have expired when it is made again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import date
from typing import TYPE_CHECKING, Final

from monai_aws_pipeline.contract import IndexEntry, ResultRecord, Status, day_key, index_day_prefix
from monai_aws_pipeline.operations.errors import OperationError
from monai_aws_pipeline.operations.results_store import ExpiredResultError, ResultsStore, UnreadableResultError
from monai_aws_pipeline.portal.addresses import Addresses

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EXPIRED: Final = "expired"
"""The code of a result of which the index entry alone is left."""
_AT_ONCE: Final = 200


class NoDayTableError(OperationError):
    """There is no table of a day, or it cannot be read."""


@dataclass(frozen=True)
class DayRow:
    """One end. ``study`` is empty where it was not known, ``code`` where it was answered, ``map_digest`` where no MAP ran.

    ``record``: key of the commit record; ``opens``: address of its page, or of its folder in AWS's console, empty where there is neither.
    """

    at: str
    study: str
    status: str
    code: str
    map_digest: str
    job: str
    record: str
    opens: str = ""

    @property
    def answered(self) -> bool:
        """Whether it ended with a result."""
        return self.status == Status.SUCCEEDED


_COLUMNS: Final = tuple(field.name for field in fields(DayRow))


@dataclass(frozen=True)
class DayTable:
    """The rows of a day in the order of their commits. ``unreadable``: entries that are damaged and say nothing."""

    day: date
    rows: tuple[DayRow, ...]
    unreadable: int = 0

    @property
    def studies(self) -> tuple[str, ...]:
        """The studies that it names, each once."""
        return tuple(dict.fromkeys(row.study for row in self.rows if row.study))

    def with_rows_of(self, before: DayTable) -> DayTable:
        """With what an earlier table of the day says and this one does not: also of what has expired since."""
        expired = [row for row in self.rows if row.code == EXPIRED]
        there = [row for row in self.rows if row.code != EXPIRED]
        rows = {(row.job, row.study): row for row in (*expired, *before.rows, *there)}
        return DayTable(self.day, tuple(sorted(rows.values(), key=lambda row: (row.at, row.job, row.study))), self.unreadable)


def collect(store: ResultsStore, day: date, where: Addresses, report: Callable[[str], None]) -> DayTable:
    """What the bucket holds of a day: a GET for each entry of its index and one for each record. Raises trouble of S3 itself."""
    keys = [item.key for item in store.objects(index_day_prefix(day))]
    rows: list[DayRow] = []
    for first in range(0, len(keys), _AT_ONCE):
        report(f"{first} of {len(keys)} results of {day} read")
        entries = [entry for entry in store.entries(keys[first : first + _AT_ONCE]) if isinstance(entry, IndexEntry)]
        found = zip(entries, store.records(entries), strict=True)
        rows += [row for entry, outcome in found if (row := _row(entry, outcome, where))]
    return DayTable(day, tuple(rows), len(keys) - len(rows)).with_rows_of(DayTable(day, ()))


def _row(entry: IndexEntry, outcome: ResultRecord | UnreadableResultError, where: Addresses) -> DayRow | None:
    if isinstance(outcome, ResultRecord):
        code, digest = outcome.error.code if outcome.error else "", outcome.map.digest
    elif isinstance(outcome, ExpiredResultError):
        code, digest = EXPIRED, ""
    else:
        return None
    opens = where.page(entry.study, entry.job) or where.in_console(entry.key.rpartition("/")[0] + "/")
    return DayRow(entry.committed_at, entry.study, entry.status.value, code, digest, entry.job, entry.key, opens)


def write(s3: S3Client, bucket: str, table: DayTable) -> str:
    """Put the table in the place of the one before; returns its key."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(astuple(row) for row in table.rows)
    key = day_key(table.day)
    s3.put_object(Bucket=bucket, Key=key, Body=text.getvalue().encode(), ContentType="text/csv; charset=utf-8")
    return key


def read(store: ResultsStore, day: date) -> DayTable:
    """The table of a day. Raises NoDayTableError."""
    try:
        text = b"".join(store.blocks(day_key(day))).decode()
        return DayTable(day, _parsed(csv.reader(io.StringIO(text))))
    except (UnreadableResultError, ValueError, csv.Error) as error:
        raise NoDayTableError(f"There is no table of {day} that can be read.", "Materialise that day of studies_by_day.") from error


def _parsed(lines: Iterable[Sequence[str]]) -> tuple[DayRow, ...]:
    head, *rest = lines or [()]
    if tuple(head) != _COLUMNS or any(len(line) != len(_COLUMNS) for line in rest):
        raise ValueError("other columns than those of a day's table")
    return tuple(DayRow(*line) for line in rest)
