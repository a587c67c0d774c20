"""Results as Dagster's event log has them: read on from where one was, in the order in which they were recorded.

Here belongs reading events of ``inference_result`` back, and the table of verdicts that they carry. Whoever recorded them, the sensor
``study_results`` or a run, they look the same. Writing them belongs to ``lineage`` and ``record_metadata``; no S3 is asked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    EventLogRecord,
    MetadataValue,
)
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from sqlalchemy import Select, func, select

from monai_aws_pipeline.contract import parse_utc, quarantine_key, utc_text
from monai_aws_pipeline.deployment.lineage import DATA_VERSION_TAG
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
_LAST: Final = 20
"""Events of each kind among which the one is that was written last of all: runs may have recorded theirs since."""
SETTLES_WITHIN: Final = timedelta(seconds=10)
"""So long after it has its number an event is there at the latest: its transaction takes milliseconds."""
_LOOKED_THROUGH: Final = 1000
"""Events at the end of the log that are looked through for numbers that are missing: more than are written in that time."""
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


def settled(instance: DagsterInstance, after: int = 0) -> int:
    """The event up to which the log is whole, so that who has read up to it, by however many questions, has missed none.

    PostgreSQL gives an event its number before the event is seen, so 50 may appear when 51 has been read. A number that is missing before
    an event of the last seconds may be such a one, and nothing is read beyond it. One that stays missing is nobody's: its transaction has
    failed, or what had it was deleted. An event that is dated in the future by a wrong clock keeps nobody waiting either.
    """
    events = SqlEventLogStorageTable.c
    query = select(events.id, events.timestamp).where(events.id > after).order_by(events.id.desc()).limit(_LOOKED_THROUGH)
    last = _rows(instance, query)[::-1]
    now, whole_to = datetime.now(UTC).replace(tzinfo=None), after if len(last) < _LOOKED_THROUGH else last[0].id - 1
    for number, at in last:
        if number > whole_to + 1 and abs(now - at) < SETTLES_WITHIN:
            break
        whole_to = number
    return whole_to


def results_after(instance: DagsterInstance, storage_id: int, limit: int) -> Page:
    """The results recorded after an event, of at most ``limit`` answers and as many failures; what comes meanwhile is the next page's."""
    after = AssetRecordsFilter(INFERENCE_RESULT, after_storage_id=storage_id, before_storage_id=settled(instance, storage_id) + 1)
    answers = instance.fetch_materializations(after, limit=limit, ascending=True).records
    failures = instance.fetch_observations(after, limit=limit, ascending=True).records
    # Before the end of a page that is full nothing is missing; behind it there may be events of the other kind that were not read.
    ends = [records[-1].storage_id for records in (answers, failures) if len(records) == limit]
    records = [record for record in (*answers, *failures) if not ends or record.storage_id <= min(ends)]
    records.sort(key=lambda record: record.storage_id)
    found = tuple(result for _, result in _results(instance, records))
    return Page(found, records[-1].storage_id if records else storage_id, bool(ends))


def results_since(instance: DagsterInstance, since: datetime, limit: int) -> tuple[RecordedResult, ...]:
    """The ``limit`` results of each kind that were recorded last since a moment, oldest first."""
    recorded = AssetRecordsFilter(INFERENCE_RESULT, after_timestamp=since.timestamp())
    records = [
        *instance.fetch_materializations(recorded, limit=limit).records,
        *instance.fetch_observations(recorded, limit=limit).records,
    ]
    return tuple(result for _, result in _results(instance, sorted(records, key=lambda record: record.storage_id)))


@dataclass(frozen=True)
class Standing:
    """Failures whose study was not answered later, newest first, one a study. ``complete``: none was left unread."""

    rows: tuple[UnansweredRow, ...]
    complete: bool


def standing_failures(instance: DagsterInstance, since: datetime, limit: int, page: int = 500, pages: int = 20) -> Standing:
    """The ``limit`` newest that stand of those committed since a moment. Of ``pages`` pages, however many were answered later.

    A Dagster that begins anew records all there ever was, today: so what was recorded since then is only where those are looked for.
    """
    recorded, cursor = AssetRecordsFilter(INFERENCE_RESULT, after_timestamp=since.timestamp()), None
    latest: dict[str, UnansweredRow] = {}
    more = True
    while more and pages and len(latest) <= limit:
        found = instance.fetch_observations(recorded, limit=page, cursor=cursor)
        for record, result in _results(instance, found.records):  # failures alone, in any order
            known = latest.get(result.subject)
            if parse_utc(result.at) >= since and not result.is_superseded and (known is None or result.at > known.at):
                latest[result.subject] = _row(record, result)
        more, cursor, pages = found.has_more, found.cursor, pages - 1
    rows = sorted(latest.values(), key=lambda row: (row.at, row.job), reverse=True)
    return Standing(tuple(rows[:limit]), complete=not more and len(rows) <= limit)


def recorded_among(instance: DagsterInstance, results: Collection[str], of: AssetKey = INFERENCE_RESULT) -> set[str]:
    """Which of these results (``record_metadata.result_id``) the event log holds of an asset, from a sensor's tick or from a run.

    Dagster's own look-up takes one tag at a time, and each takes half as long as writing an event. So this reads the table that one reads,
    by the same index and, as it does, nothing of before the asset was wiped.
    """
    if not results:
        return set()
    found = _versions_recorded_last(instance, of).intersection(results)
    records = instance.get_asset_records([of])
    if records:
        tags, details = AssetEventTagsTable.c, records[0].asset_entry.asset_details
        query = select(tags.value).where(tags.asset_key == of.to_string(), tags.key == DATA_VERSION_TAG, tags.value.in_(list(results)))
        if details and details.last_wipe_timestamp:
            query = query.where(tags.event_timestamp > datetime.fromtimestamp(details.last_wipe_timestamp, UTC).replace(tzinfo=None))
        found |= set(_first_column(instance, query))
    return found


def _versions_recorded_last(instance: DagsterInstance, of: AssetKey) -> set[str]:
    """PostgreSQL's storage writes an event, and then its tags: a tick that died in between has left one that is not found by them."""
    records = [fetch(of, limit=_LAST).records for fetch in (instance.fetch_materializations, instance.fetch_observations)]
    events = [record.asset_materialization or record.asset_observation for each in records for record in each]
    return {(event.tags or {}).get(DATA_VERSION_TAG, "") for event in events if event}


def latest_answers_to(instance: DagsterInstance, studies: Collection[str], before: int | None = None) -> dict[str, AssetMaterialization]:
    """Of each of these studies that has an answer, the one recorded last, or last before an event: two questions, for however many.

    The first is what ``get_latest_storage_id_by_partition`` asks, which knows no "before".
    """
    if not studies:
        return {}
    events = SqlEventLogStorageTable.c
    query = select(func.max(events.id)).where(
        events.asset_key == INFERENCE_RESULT.to_string(),
        events.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
        events.partition.in_(list(studies)),
    )
    newest = _first_column(instance, (query if before is None else query.where(events.id < before)).group_by(events.partition))
    if not newest:  # to Dagster, none means all
        return {}
    found = instance.fetch_materializations(AssetRecordsFilter(INFERENCE_RESULT, storage_ids=newest), limit=len(newest)).records
    return {event.partition: event for record in found if (event := record.asset_materialization) and event.partition}


def _first_column(instance: DagsterInstance, query: Select[Any]) -> list[Any]:
    return [row[0] for row in _rows(instance, query)]


def _rows(instance: DagsterInstance, query: Select[Any]) -> list[Any]:
    storage: Any = instance.event_log_storage  # SQLite's or PostgreSQL's, both SqlEventLogStorage
    with storage.index_connection() as connection:
        return list(connection.execute(query))


def last_materialization(instance: DagsterInstance, of: AssetKey = INFERENCE_RESULT) -> EventLogRecord | None:
    """The result that was recorded last, of whatever study: what Dagster takes an unpartitioned check to be about."""
    records = instance.get_asset_records([of])
    return records[0].asset_entry.last_materialization_record if records else None


def _results(instance: DagsterInstance, records: Sequence[EventLogRecord]) -> Iterator[tuple[EventLogRecord, RecordedResult]]:
    """Events as results, with what their studies were answered before. ``records``: oldest first, without a gap between answers."""
    answers = [record for record in records if record.asset_materialization]
    replaced = latest_answers_to(instance, _studies(answers), before=answers[0].storage_id) if answers else {}
    latest = latest_answers_to(instance, _studies(record for record in records if not record.asset_materialization))
    for record in records:
        answer = record.asset_materialization
        study = record.partition_key or ""
        if result := _result(record, (replaced if answer else latest).get(study)):
            yield record, result
        if answer:
            replaced[study] = answer


def _studies(records: Iterable[EventLogRecord]) -> set[str]:
    return {record.partition_key for record in records if record.partition_key}


def _result(record: EventLogRecord, answer: AssetMaterialization | None) -> RecordedResult | None:
    """None for an event that is no result: one that has expired, or one that somebody reported by hand.

    ``answer``: the one that this takes the place of; of a failure, the study's latest.
    """
    event = record.asset_materialization or record.asset_observation
    if event is None:
        return None
    metadata, job = event.metadata, (event.tags or {}).get(JOB_TAG, "")
    at = _moment(metadata)
    if not job or not at or "expired" in metadata:
        return None
    answered = record.asset_materialization is not None
    before = (_text(answer.metadata, "map_digest"), _moment(answer.metadata)) if answer else ("", "")
    return RecordedResult(
        record.storage_id,
        at,
        event.partition or "",
        job,
        answered,
        _text(metadata, "map_digest"),
        _verdicts(metadata),
        replaced=before if answered else ("", ""),
        answered_at="" if answered else before[1],
        version=_text(metadata, "map_app_version"),
        usd=_number(metadata, "cost_usd"),
    )


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
