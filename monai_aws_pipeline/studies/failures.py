"""The asset ``unanswered_studies``: which studies and uploads have no answer, why, and what to do, in one table.

Here belong the table and its asset. Which failures stand and how each is worded is in ``operations.unanswered``; the sensor
``study_checks`` renews the table by what Dagster has recorded, materialising it by hand reads the bucket itself.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from dagster import AssetExecutionContext, AssetKey, MaterializeResult, MetadataValue, TableColumn, TableRecord, TableSchema, asset
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import parse_utc
from monai_aws_pipeline.operations.failures import failures
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.unanswered import UnansweredRow, counts_by_code
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.record_metadata import s3_path

UNANSWERED_STUDIES: Final = AssetKey("unanswered_studies")
KEPT_FOR: Final = timedelta(days=7)
"""How long a failure stays in the table when nobody answers its study."""
LAST_DAY: Final = timedelta(hours=24)
MAX_ROWS: Final = 50
MAX_BYTES: Final = 40 * 1024
MAX_FAILURES: Final = 500
"""Failures that the sensor reads of the event log, newest first; with more of them counts say "at least"."""
MAX_RESULTS: Final = 20_000
"""Results that are read of the bucket, newest first: two weeks of 1,500 a day."""
_MAX_CELL: Final = 240

_STUDIES: Final = TableSchema(
    columns=[TableColumn(name) for name in ("time", "study", "map", "code", "cause", "last_line", "what_to_do", "job", "record")]
)
_CODES: Final = TableSchema(columns=[TableColumn("code"), TableColumn("studies", "int")])


@asset(
    key=UNANSWERED_STUDIES,
    group_name="studies",
    kinds={"s3", "table"},
    description="Studies and uploads of the last 7 days that have no answer, newest first: code, cause, the application's last line, "
    "what to do. The sensor study_checks renews it within a minute; a study leaves it when any job has answered it. Materialise it to "
    "read the results of these days from the bucket again; that takes seconds, up to a minute for each 5,000, and costs a cent at most.",
)
def unanswered_studies(context: AssetExecutionContext, settings: SettingsResource, s3: S3Resource) -> MaterializeResult[None]:
    """Read the results of these days from the bucket, as ``monai-aws failures`` does."""
    now = datetime.now(UTC)
    store = ResultsStore(s3.get_client(), settings.load().require_bucket())
    with repeating(context.log.info) as report:
        report(f"Reading the results of the last {KEPT_FOR.days} days from s3://{store.bucket}")
        found = failures(store, now - KEPT_FOR, now, most=MAX_RESULTS)
        report(f"{len(found.rows)} studies and uploads of the last {KEPT_FOR.days} days have no answer, of {found.looked} results.")
        if found.unreadable:
            report(f"{found.unreadable} results could not be read: they are damaged, or have expired.")
    return MaterializeResult(metadata=table_metadata(found.rows, store.bucket, now, complete=found.complete))


def table_metadata(rows: Sequence[UnansweredRow], bucket: str, now: datetime, *, complete: bool = True) -> dict[str, MetadataValue]:
    """The table with its counts, bounded in rows and bytes. ``rows``: newest first; ``complete``: nothing of these days was left unread."""
    last_day = sum(parse_utc(row.at) >= now - LAST_DAY for row in rows)
    least = "" if complete and len(rows) < MAX_FAILURES else "at least "
    shown = _within_bytes(rows[:MAX_ROWS], bucket)
    by_code = [TableRecord({"code": code, "studies": count}) for code, count in counts_by_code(rows).items()]
    return {
        "unanswered_last_24_hours": MetadataValue.int(last_day),
        "unanswered_last_7_days": MetadataValue.text(f"{least}{len(rows)}"),
        "by_code": MetadataValue.table(by_code[:MAX_ROWS], schema=_CODES),
        "studies": MetadataValue.table(shown, schema=_STUDIES),
        "not_shown": MetadataValue.int(len(rows) - len(shown)),
    }


def _within_bytes(rows: Sequence[UnansweredRow], bucket: str) -> list[TableRecord]:
    records: list[TableRecord] = []
    left = MAX_BYTES
    for row in rows:
        data = {
            "time": row.at,
            "study": row.study or "unknown",
            "map": row.map_name or "none yet",
            "code": row.code,
            "cause": _cell(row.cause),
            "last_line": _cell(row.last_line),
            "what_to_do": _cell(row.remedy),
            "job": row.job,
            "record": s3_path(bucket, row.record),
        }
        left -= sum(len(text.encode()) for text in data.values())
        if left < 0:
            break
        records.append(TableRecord(data))
    return records


def _cell(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
