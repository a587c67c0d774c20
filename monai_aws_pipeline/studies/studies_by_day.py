"""The asset ``studies_by_day``: for each UTC day one table of everything that was committed on it, kept in the bucket.

Here belongs the asset. The table itself is ``operations.day_table``'s; when a day is due, and what leaves the partitions of
``inference_result`` once its table names it, is decided in ``study_window``.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Final

from dagster import (
    AssetExecutionContext,
    AssetKey,
    DynamicPartitionsDefinition,
    Failure,
    MaterializeResult,
    MetadataValue,
    asset,
)
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import short_digest
from monai_aws_pipeline.operations.day_table import DayRow, DayTable, NoDayTableError, collect, read, write
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.check_window import map_in_words
from monai_aws_pipeline.studies.record_metadata import OPEN_CHARACTERS

STUDIES_BY_DAY: Final = AssetKey("studies_by_day")
DAYS: Final = DynamicPartitionsDefinition(name="day")
"""Days by their date, each from when ``study_window`` asks for its table: a definition of all days would have to know the first."""
_MOST_NAMED: Final = 10
"""Codes and MAPs that a day's metadata counts, the most frequent first; the table has all."""
_HEAD: Final = "| time | study | end | MAP |\n|---|---|---|---|"


@asset(
    key=STUDIES_BY_DAY,
    partitions_def=DAYS,
    group_name="studies",
    kinds={"s3", "table"},
    description="Every study and upload that ended on one UTC day, as a table in the bucket: when, how, by which MAP, with a link to its "
    "page. The sensor study_window has each day made when it is over; studies beyond MONAI_AWS_STUDY_WINDOW are found here alone. "
    "Materialise a day to read the bucket again: two GETs a result, so seconds to a minute, and 0.002 USD on AWS for 1,500 of them.",
)
def studies_by_day(context: AssetExecutionContext, settings: SettingsResource, s3: S3Resource) -> MaterializeResult[None]:
    """Read the day's part of the results index with its records, and put the table in the place of the one before."""
    chosen, day = settings.load(), _day(context.partition_key)
    where, client = Addresses.of(chosen), s3.get_client()
    store = ResultsStore(client, chosen.require_bucket())
    with repeating(context.log.info) as report:
        report(f"Reading what ended on {day} from s3://{store.bucket}")
        table = collect(store, day, where, report)
        try:
            table = table.with_rows_of(read(store, day))
        except NoDayTableError:
            report(f"It is the first table of {day}.")
        key = write(client, store.bucket, table)
        report(f"{len(table.rows)} results of {len(table.studies)} studies ended on {day}.")
    return MaterializeResult(metadata=table_metadata(table, key, where))


def _day(partition: str) -> date:
    try:
        return date.fromisoformat(partition)
    except ValueError as error:
        raise Failure("This partition is no day. Delete it, and add one that is named like 2026-03-14.", allow_retries=False) from error


def table_metadata(table: DayTable, key: str, where: Addresses) -> dict[str, MetadataValue]:
    """What the day's page shows, within the 4 KiB of any event: counts, some rows, and where all of them are."""
    failed = [row for row in table.rows if not row.answered]
    rows = [*reversed(failed), *(row for row in reversed(table.rows) if row.answered)]
    shown = _markdown(rows)
    page = where.day(table.day.isoformat())
    return {
        "table": MetadataValue.md(where.s3_link(key)),
        **({"page": MetadataValue.url(page)} if page else {}),
        "results": MetadataValue.int(len(table.rows)),
        "failing": MetadataValue.int(len(failed)),
        "codes": MetadataValue.text(_counted(row.code or row.status for row in failed) or "none"),
        "maps": MetadataValue.text(_counted(map_in_words(row.map_digest) for row in table.rows if row.answered) or "none"),
        **({"rows": MetadataValue.md(shown)} if rows else {}),
        "not_shown": MetadataValue.int(len(rows) - shown.count("\n") + 1),
        "unreadable": MetadataValue.int(table.unreadable),
    }


def _markdown(rows: list[DayRow]) -> str:
    """As many rows as Dagster shows without a click."""
    table = _HEAD
    for row in rows:
        name = row.study or f"unknown, job {row.job}"
        linked = f"[{name}]({row.opens})" if row.opens else name
        line = f"\n| {row.at[11:19]} | {linked} | {row.code or row.status} | {short_digest(row.map_digest)} |"
        if len(table) + len(line) > OPEN_CHARACTERS:
            break
        table += line
    return table


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common(_MOST_NAMED))
