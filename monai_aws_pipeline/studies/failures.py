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
from monai_aws_pipeline.operations.unanswered import UNKNOWN, UnansweredRow, counts_by_code
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.launchpad import rerun_link, study_link

UNANSWERED_STUDIES: Final = AssetKey("unanswered_studies")
KEPT_FOR: Final = timedelta(days=7)
"""How long a failure stays in the table when nobody answers its study."""
LAST_DAY: Final = timedelta(hours=24)
MAX_ROWS: Final = 50
MAX_BYTES: Final = 40 * 1024
MAX_FAILURES: Final = 500
"""Failures that the sensor counts, newest first; where more of them stand it says "at least"."""
MAX_RESULTS: Final = 20_000
"""Results that are read of the bucket, newest first: two weeks of 1,500 a day."""
_MAX_CELL: Final = 240
MAX_CODES: Final = 3
MAX_PAGES: Final = 5
"""Codes that are asked again, and studies that are opened, by one click: a text of a thousand characters would hide behind another."""

_STUDIES: Final = TableSchema(columns=[TableColumn(name) for name in ("time", "study", "map", "code", "why", "what_to_do")])
"""Narrow enough for an asset's page: columns of long ids and addresses would push what to do out of sight."""
_LINKS_HEAD: Final = "| study | job |\n|---|---|"
"""Of each row, apart from the table: Dagster shows the cells of a table as text that nobody can click on."""
_CODES: Final = TableSchema(columns=[TableColumn("code"), TableColumn("studies", "int")])


@asset(
    key=UNANSWERED_STUDIES,
    group_name="studies",
    kinds={"s3", "table"},
    description="Studies and uploads of the last 7 days that have no answer, newest first: code, cause, the application's last line, "
    "what to do, and links that ask them again once that is done. The sensor study_checks renews it within a minute; a study leaves it "
    "when any job has answered it. Materialise it to read the results of these days from the bucket again; that takes seconds, up to a "
    "minute for each 5,000, and costs a cent at most.",
)
def unanswered_studies(context: AssetExecutionContext, settings: SettingsResource, s3: S3Resource) -> MaterializeResult[None]:
    """Read the results of these days from the bucket, as ``monai-aws failures`` does."""
    now, chosen = datetime.now(UTC), settings.load()
    store = ResultsStore(s3.get_client(), chosen.require_bucket())
    with repeating(context.log.info) as report:
        report(f"Reading the results of the last {KEPT_FOR.days} days from s3://{store.bucket}")
        found = failures(store, now - KEPT_FOR, now, most=MAX_RESULTS)
        report(f"{len(found.rows)} studies and uploads of the last {KEPT_FOR.days} days have no answer, of {found.looked} results.")
        if found.unreadable:
            report(f"{found.unreadable} results could not be read: they are damaged, or have expired.")
    return MaterializeResult(metadata=table_metadata(found.rows, Addresses.of(chosen), now, complete=found.complete))


def table_metadata(rows: Sequence[UnansweredRow], where: Addresses, now: datetime, *, complete: bool = True) -> dict[str, MetadataValue]:
    """The table with its counts, bounded in rows and bytes. ``rows``: newest first; ``complete``: nothing of these days was left unread."""
    last_day = sum(parse_utc(row.at) >= now - LAST_DAY for row in rows)
    least = "" if complete else "at least "
    shown, links = _within_bytes(rows[:MAX_ROWS], where)
    by_code = [TableRecord({"code": code, "studies": count}) for code, count in counts_by_code(rows).items()]
    return {
        **_retry_metadata(rows),
        "last_24_hours": MetadataValue.int(last_day),
        "last_7_days": MetadataValue.text(f"{least}{len(rows)}"),
        "by_code": MetadataValue.table(by_code[:MAX_ROWS], schema=_CODES),
        "studies": MetadataValue.table(shown, schema=_STUDIES),
        "not_shown": MetadataValue.int(len(rows) - len(shown)),
        **({"jobs": MetadataValue.md("\n".join([_LINKS_HEAD, *links]))} if links else {}),
    }


def _retry_metadata(rows: Sequence[UnansweredRow]) -> dict[str, MetadataValue]:
    """Where those whose study is known are opened and asked again; nothing where there are none."""
    known = [row for row in rows if row.study]
    if not known:
        return {}
    since = min(row.at for row in known)[:10]
    codes = list(counts_by_code(known))[:MAX_CODES]
    links = [rerun_link(f"all with {code}", {"failed": {"since": since, "code": code}}) for code in codes]
    pages = [study_link(row.study) for row in known[:MAX_PAGES]]
    return {
        "newest": MetadataValue.md(", ".join(pages)),
        "once_mended": MetadataValue.md(f"Ask again {', or '.join(links)}"),
    }


def _within_bytes(rows: Sequence[UnansweredRow], where: Addresses) -> tuple[list[TableRecord], list[str]]:
    """As many rows of the table as there is room for, and of each its links."""
    records: list[TableRecord] = []
    links: list[str] = []
    left = MAX_BYTES
    for row in rows:
        data = {
            "time": f"{parse_utc(row.at):%m-%d %H:%M}",
            "study": row.study or UNKNOWN,
            "map": row.map_name or "none yet",
            "code": row.code,
            "why": _cell(row.cause) + (f" It said last: {_cell(row.last_line)}" if row.last_line else ""),
            "what_to_do": _cell(row.remedy),
        }
        link = _links(row, where)
        left -= sum(len(text.encode()) for text in (*data.values(), link))
        if left < 0:
            break
        records.append(TableRecord(data))
        links.append(link)
    return records, links


def _links(row: UnansweredRow, where: Addresses) -> str:
    """What happened to the study, and the page of the job with record, log and original; its folder in S3 where there are no pages."""
    page = where.page(row.study, row.job)
    job = f"[{row.job}]({page})" if page else where.s3_link(row.record)
    return f"| {study_link(row.study) if row.study else UNKNOWN} | {job} |"


def _cell(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
