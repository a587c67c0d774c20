"""Results as Dagster's event log has them: read on from where one was, in the order in which they were recorded.

Here belongs reading events of ``inference_result`` back, and the table of verdicts that they carry. Whoever recorded them, the sensor
``study_results`` or a run, they look the same. Writing them belongs to ``lineage`` and ``record_metadata``; no S3 is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    EventLogRecord,
    MetadataValue,
)

from monai_aws_pipeline.contract import quarantine_key, utc_text
from monai_aws_pipeline.operations.unanswered import UNKNOWN, UnansweredRow, row_of_parts
from monai_aws_pipeline.studies.check_window import RecordedResult
from monai_aws_pipeline.studies.record_metadata import JOB_TAG
from monai_aws_pipeline.studies.result_checks import Outcome, Verdict

INFERENCE_RESULT: Final = AssetKey("inference_result")
CHECKS_ENTRY: Final = "checks"
"""Metadata of a recorded result: the table of its verdicts."""

MAX_CHARACTERS: Final = 999
"""Of that table: Dagster shows Markdown openly up to here, and there is one for each study for years."""
_MAX_FOUND: Final = 120
_HEAD: Final = "| check | outcome | found |\n|---|---|---|"
_ROW: Final = re.compile(r"\| (\w+) \| ([a-z ]+) \| (.*) \|")
_MARKUP: Final = re.compile(r"[^\w\s.,:;%/=+'()-]|[\n\r]")
"""What a found text may hold and Markdown would read as its own: labels of segments are the application's."""


def verdict_metadata(verdicts: Iterable[Verdict]) -> dict[str, MetadataValue]:
    """The verdicts as the study's page shows them, and as they are read back; what is to be done is said by error and checks."""
    table = _HEAD
    for each in verdicts:
        row = f"\n| {each.check} | {each.outcome.value} | {_MARKUP.sub(' ', each.found)[:_MAX_FOUND]} |"
        table += row if len(table) + len(row) <= MAX_CHARACTERS else ""
    return {CHECKS_ENTRY: MetadataValue.md(table)}


@dataclass(frozen=True)
class Page:
    """Results of the event log, oldest first. ``as_of``: the event up to which it was read; ``more``: it goes on behind that."""

    results: tuple[RecordedResult, ...]
    as_of: int
    more: bool


def results_after(instance: DagsterInstance, storage_id: int, limit: int) -> Page:
    """The results recorded after an event, of at most ``limit`` answers and as many failures."""
    after = AssetRecordsFilter(INFERENCE_RESULT, after_storage_id=storage_id)
    answers = instance.fetch_materializations(after, limit=limit, ascending=True).records
    failures = instance.fetch_observations(after, limit=limit, ascending=True).records
    # Before the end of a page that is full nothing is missing; behind it there may be events of the other kind that were not read.
    ends = [records[-1].storage_id for records in (answers, failures) if len(records) == limit]
    records = [record for record in (*answers, *failures) if not ends or record.storage_id <= min(ends)]
    records.sort(key=lambda record: record.storage_id)
    found = tuple(result for record in records if (result := _result(instance, record)))
    return Page(found, records[-1].storage_id if records else storage_id, bool(ends))


def results_since(instance: DagsterInstance, since: datetime, limit: int) -> tuple[RecordedResult, ...]:
    """The ``limit`` results of each kind that were recorded last since a moment, oldest first."""
    recorded = AssetRecordsFilter(INFERENCE_RESULT, after_timestamp=since.timestamp())
    records = [
        *instance.fetch_materializations(recorded, limit=limit).records,
        *instance.fetch_observations(recorded, limit=limit).records,
    ]
    return tuple(result for record in sorted(records, key=lambda record: record.storage_id) if (result := _result(instance, record)))


def standing_failures(instance: DagsterInstance, since: datetime, limit: int) -> tuple[UnansweredRow, ...]:
    """The failures recorded since a moment whose study was not answered later, newest first, one a study; of the last ``limit``."""
    recorded = AssetRecordsFilter(INFERENCE_RESULT, after_timestamp=since.timestamp())
    records = instance.fetch_observations(recorded, limit=limit).records
    latest: dict[str, UnansweredRow] = {}
    for record in records:
        result = _result(instance, record)
        if result and not result.is_superseded and (result.subject not in latest or result.at > latest[result.subject].at):
            latest[result.subject] = _row(record, result)
    return tuple(sorted(latest.values(), key=lambda row: (row.at, row.job), reverse=True))


def last_materialization(instance: DagsterInstance) -> EventLogRecord | None:
    """The result that was recorded last, of whatever study: what Dagster takes an unpartitioned check to be about."""
    records = instance.get_asset_records([INFERENCE_RESULT])
    return records[0].asset_entry.last_materialization_record if records else None


def _result(instance: DagsterInstance, record: EventLogRecord) -> RecordedResult | None:
    """None for an event that is no result: one that has expired, or one that somebody reported by hand."""
    event = record.asset_materialization or record.event_log_entry.asset_observation
    if event is None:
        return None
    metadata, job = event.metadata, (event.tags or {}).get(JOB_TAG, "")
    at = _moment(metadata)
    if not job or not at or "expired" in metadata:
        return None
    study, answered = event.partition or "", record.asset_materialization is not None
    before = _answer(instance, study, record.storage_id if answered else None) if study else ("", "")
    return RecordedResult(
        record.storage_id,
        at,
        study,
        job,
        answered,
        _text(metadata, "map_digest"),
        _verdicts(metadata),
        replaced=before if answered else ("", ""),
        answered_at="" if answered else before[1],
        version=_text(metadata, "map_app_version"),
        usd=_number(metadata, "cost_usd"),
    )


def _answer(instance: DagsterInstance, study: str, before: int | None) -> tuple[str, str]:
    """Digest and commit time of the study's latest answer, of those recorded before an event where one is named."""
    answers = AssetRecordsFilter(INFERENCE_RESULT, asset_partitions=[study], before_storage_id=before)
    records = instance.fetch_materializations(answers, limit=1).records
    event = records[0].asset_materialization if records else None
    return (_text(event.metadata, "map_digest"), _moment(event.metadata)) if event else ("", "")


def _row(record: EventLogRecord, result: RecordedResult) -> UnansweredRow:
    event = record.event_log_entry.asset_observation
    metadata = event.metadata if event else {}
    return row_of_parts(
        at=result.at,
        study=result.study,
        job=result.job,
        map_version=_text(metadata, "map_app_version"),
        map_digest=result.digest,
        code=_text(metadata, "error_code") or UNKNOWN,
        message=_text(metadata, "error"),
        last_line=_text(metadata, "application_said_last"),
        record=quarantine_key(result.job, "result.json", result.study),
    )


def _verdicts(metadata: Mapping[str, MetadataValue[Any]]) -> tuple[Verdict, ...]:
    rows = [_ROW.fullmatch(line) for line in _text(metadata, CHECKS_ENTRY).splitlines()]
    return tuple(Verdict(row[1], Outcome(row[2]), row[3]) for row in rows if row and row[2] in set(Outcome))


def _moment(metadata: Mapping[str, MetadataValue[Any]]) -> str:
    """When a result was committed. Of an expired one it is a text, of the others a timestamp."""
    value = metadata["committed_at"].value if "committed_at" in metadata else None
    return utc_text(datetime.fromtimestamp(value, UTC)) if isinstance(value, float) else ""


def _number(metadata: Mapping[str, MetadataValue[Any]], name: str) -> float:
    value = metadata[name].value if name in metadata else None
    return float(value) if isinstance(value, int | float) else 0.0


def _text(metadata: Mapping[str, MetadataValue[Any]], name: str) -> str:
    return str(metadata[name].value) if name in metadata else ""
