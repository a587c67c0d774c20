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
from monai_aws_pipeline.operations.quarantined import ended_studies
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.unanswered import UnansweredRow, counts_by_code, rows_of
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.launchpad import rerun_link
from monai_aws_pipeline.studies.record_metadata import s3_path

UNANSWERED_STUDIES: Final = AssetKey("unanswered_studies")
KEPT_FOR: Final = timedelta(days=7)
"""How long a failure stays in the table when nobody answers its study."""
LAST_DAY: Final = timedelta(hours=24)
MAX_ROWS: Final = 50
MAX_BYTES: Final = 40 * 1024
MAX_FAILURES: Final = 500
"""Failures that are read, newest first; with more of them counts say "at least"."""
_MAX_CELL: Final = 240
MAX_LINKS: Final = 3
"""Codes that are asked again by one click: a text of a thousand characters would hide behind another."""

_STUDIES: Final = TableSchema(
    columns=[TableColumn(name) for name in ("time", "study", "map", "code", "cause", "last_line", "what_to_do", "job", "record")]
)
_CODES: Final = TableSchema(columns=[TableColumn("code"), TableColumn("studies", "int")])


@asset(
    key=UNANSWERED_STUDIES,
    group_name="studies",
    kinds={"s3", "table"},
    description="Studies and uploads of the last 7 days that have no answer, newest first: code, cause, the application's last line, "
    "what to do, and links that ask them again once that is done. The sensor study_checks renews it within a minute; a study leaves it "
    "when any job has answered it. Materialise it to read the bucket again; that takes seconds and costs nothing.",
)
def unanswered_studies(context: AssetExecutionContext, settings: SettingsResource, s3: S3Resource) -> MaterializeResult[None]:
    """Read what the bucket keeps of refused and failed jobs, and leave out what was answered since."""
    now = datetime.now(UTC)
    store = ResultsStore(s3.get_client(), settings.load().require_bucket())
    with repeating(context.log.info) as report:
        report(f"Reading what s3://{store.bucket} keeps of refused and failed jobs of the last {KEPT_FOR.days} days")
        rows = rows_of(ended_studies(store, now - KEPT_FOR, MAX_FAILURES))
        report(f"{len(rows)} studies and uploads of the last {KEPT_FOR.days} days have no answer.")
    return MaterializeResult(metadata=table_metadata(rows, store.bucket, now))


def table_metadata(rows: Sequence[UnansweredRow], bucket: str, now: datetime) -> dict[str, MetadataValue]:
    """The table with its counts, bounded in rows and bytes. ``rows``: newest first."""
    last_day = sum(parse_utc(row.at) >= now - LAST_DAY for row in rows)
    least = "at least " if len(rows) >= MAX_FAILURES else ""
    shown = _within_bytes(rows[:MAX_ROWS], bucket)
    by_code = [TableRecord({"code": code, "studies": count}) for code, count in counts_by_code(rows).items()]
    return {
        **_retry_metadata(rows),
        "unanswered_last_24_hours": MetadataValue.int(last_day),
        "unanswered_last_7_days": MetadataValue.text(f"{least}{len(rows)}"),
        "by_code": MetadataValue.table(by_code[:MAX_ROWS], schema=_CODES),
        "studies": MetadataValue.table(shown, schema=_STUDIES),
        "not_shown": MetadataValue.int(len(rows) - len(shown)),
    }


def _retry_metadata(rows: Sequence[UnansweredRow]) -> dict[str, MetadataValue]:
    """The job that asks those again whose study is known; nothing where there are none."""
    known = [row for row in rows if row.study]
    if not known:
        return {}
    since = min(row.at for row in known)[:10]
    codes = list(counts_by_code(known))[:MAX_LINKS]
    links = [rerun_link(f"all with {code}", {"failed": {"since": since, "code": code}}) for code in codes]
    how = "opens the job rerun_studies, ready to launch. One alone: materialise it on inference_result."
    return {"once_mended": MetadataValue.md(f"Ask again {', or '.join(links)}: {how}")}


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
