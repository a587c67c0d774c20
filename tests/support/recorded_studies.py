"""Many studies as the sensor ``study_results`` has recorded them, written in minutes and not in hours.

One event is recorded through Dagster; the others are copies of its rows in Dagster's own tables with another study, job and time, all in a
few transactions. What Dagster keeps beside these rows (the last event of an asset) is written by recording the newest one through it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy
from dagster import AssetMaterialization, DagsterInstance
from dagster._core.storage.event_log.schema import AssetEventTagsTable, DynamicPartitionsTable, SqlEventLogStorageTable

from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT
from tests.unit.studies.records import job_of, study_of

Event = Callable[[int], AssetMaterialization]
_BATCH = 5000


def record_many(instance: DagsterInstance, event: Event, numbers: range, at: Callable[[int], datetime]) -> None:
    """Record the answers of studies by number, those of ``at``'s times; the last one through Dagster itself. No partitions are added."""
    first, *others = numbers
    last = others.pop()
    instance.report_runless_asset_event(event(first))
    with instance.event_log_storage.index_connection() as connection:
        row, tags = _rows(connection, study_of(first))
    for start in range(0, len(others), _BATCH):
        some = others[start : start + _BATCH]
        with instance.event_log_storage.index_connection() as connection, connection.begin_nested():
            before = connection.execute(sqlalchemy.select(sqlalchemy.func.max(SqlEventLogStorageTable.c.id))).scalar_one()
            connection.execute(SqlEventLogStorageTable.insert(), [_event(row, first, number, at) for number in some])
            copies = [_tag(tag, first, number, before + place) for place, number in enumerate(some, 1) for tag in tags]
            connection.execute(AssetEventTagsTable.insert(), copies)
    instance.report_runless_asset_event(event(last))


def add_partitions(instance: DagsterInstance, numbers: range) -> None:
    """Add studies to the partitions, in the order of their numbers."""
    with instance.event_log_storage.index_connection() as connection:
        connection.execute(
            DynamicPartitionsTable.insert(), [{"partitions_def_name": "study", "partition": study_of(number)} for number in numbers]
        )


@contextmanager
def statements() -> Iterator[list[str]]:
    """The queries and changes of this process, in whatever storage, that are made within the block."""
    made: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("PRAGMA"):
            made.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield made
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def _rows(connection: Any, study: str) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """The row of a study's only event, and those of its tags."""
    table = SqlEventLogStorageTable
    mine = table.c.partition == study, table.c.asset_key == INFERENCE_RESULT.to_string()
    row = connection.execute(sqlalchemy.select(table).where(*mine)).mappings().one()
    tags = connection.execute(sqlalchemy.select(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id == row["id"])).mappings().all()
    return row, list(tags)


def _event(row: Mapping[str, Any], first: int, number: int, at: Callable[[int], datetime]) -> dict[str, Any]:
    committed = json.dumps(at(first).timestamp()), json.dumps(at(number).timestamp())
    text = _named(row["event"].replace(*committed), first, number)
    return {name: value for name, value in row.items() if name != "id"} | {"event": text, "partition": study_of(number)}


def _tag(tag: Mapping[str, Any], first: int, number: int, event: int) -> dict[str, Any]:
    return {name: value for name, value in tag.items() if name != "id"} | {"event_id": event, "value": _named(tag["value"], first, number)}


def _named(text: str, first: int, number: int) -> str:
    return text.replace(study_of(first), study_of(number)).replace(job_of(first), job_of(number))
