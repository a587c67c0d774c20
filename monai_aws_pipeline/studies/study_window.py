"""Which studies are partitions of ``inference_result``: those that became one last, so many as ``MONAI_AWS_STUDY_WINDOW`` says.

Here belong the rule and the sensor ``study_window``. Dagster keeps partitions in the order in which they were added, and that is the
order in which they leave. One leaves when the table of the day on which it ended last (``studies_by_day``) names it: when that was asked
for after the end was recorded. Only the partition goes: what was recorded stays in the event log, and a new answer, or
``call_back_studies``, adds it again as the newest. The cursor names those that the next tick removes, so that whatever a tick that dies has
removed is known to the one after it.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from dagster import (
    AssetSelection,
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from monai_aws_pipeline.contract import is_study
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.studies_by_day import DAYS, STUDIES_BY_DAY
from monai_aws_pipeline.studies.study_history import Ended, first_end, last_ends

PARTITIONS: Final = "study"
"""The name of the dynamic partitions; ``lineage.STUDIES`` is their definition."""
LEAVE_AT_ONCE: Final = 250
"""Partitions that a tick removes: each is a transaction of its own, and a tick has a minute."""
DAYS_AT_ONCE: Final = 3
"""Tables that a tick asks for, so that a deployment of years does not fill the queue of runs."""
GRACE: Final = timedelta(minutes=10)
"""So long after its end a day's table is made: what was committed in its last minute is on its way."""
_NOTHING_BEFORE: Final = date(2026, 1, 1)
"""An end before this project had its first is dated by a clock that is wrong: it asks for no tables of the days since."""
_BACKFILLING: Final = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]


@dataclass(frozen=True)
class Look:
    """What one look finds: how many ``partitions`` there are, which are ``leaving`` now, and which ``days`` have to get a table first."""

    partitions: int
    leaving: tuple[str, ...] = ()
    days: tuple[date, ...] = ()


@sensor(
    asset_selection=AssetSelection.assets(STUDIES_BY_DAY),
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Has the table of each past day made (studies_by_day), and removes the oldest partitions of inference_result beyond "
    "MONAI_AWS_STUDY_WINDOW once a table names their studies. It is on from the start and looks every minute, in Dagster's own storage, "
    "which costs nothing. Nothing that was recorded or lies in S3 is removed; call_back_studies brings partitions back.",
)
def study_window(context: SensorEvaluationContext, settings: SettingsResource) -> SensorResult:
    """Look, remove what the tick before named and what may leave still, and ask for the tables that are due, each at most once a day."""
    size, now = settings.load().study_window, datetime.now(UTC)
    found = look(context.instance, size, now)
    left = leave(context.instance, named_in(context.cursor), found.leaving)
    then = look(context.instance, size, now) if left else found
    days = [day.isoformat() for day in then.days]
    said = f"{found.partitions} studies were partitions, and the window holds {size}; {left} have left."
    return SensorResult(
        # Asked for again on the next day where it failed, and where a result was recorded after its table was made.
        run_requests=[RunRequest(run_key=f"{day} on {now:%Y-%m-%d}", partition_key=day) for day in days],
        dynamic_partitions_requests=[DAYS.build_add_request(days)] if days else [],
        skip_reason=None if days else SkipReason(said),
        cursor=json.dumps(then.leaving),
    )


def look(instance: DagsterInstance, size: int, now: datetime) -> Look:
    """Decide for the oldest partitions beyond ``size``, at most 250, and for the days that are over; nothing is changed."""
    partitions = instance.get_dynamic_partitions(PARTITIONS)
    first = first_end(instance)
    if first is None:
        return Look(len(partitions))
    beyond = partitions[: max(0, len(partitions) - size)][:LEAVE_AT_ONCE]
    tables = day_tables(instance)
    ends = last_ends(instance, beyond)
    unnamed = {study: end for study, end in ends.items() if not is_named(tables, end)}
    at_work = studies_at_work(instance) if len(unnamed) < len(beyond) else frozenset()
    leaving = () if at_work is None else tuple(study for study in beyond if study not in unnamed and study not in at_work)
    return Look(len(partitions), leaving, due(tables, first.at.date(), (end.at.date() for end in unnamed.values()), now))


def leave(instance: DagsterInstance, named: Collection[str], leaving: Iterable[str]) -> int:
    """Remove the partitions that may leave and that the tick before has named; returns how many are gone."""
    going = [study for study in leaving if study in named]
    for study in going:
        instance.delete_dynamic_partition(PARTITIONS, study)
    # A result that was recorded meanwhile found its partition still there, and nobody would add it again. Of all that were named: a tick
    # that has died may have removed others than this one.
    tables = day_tables(instance) if named else {}
    back = [study for study, end in last_ends(instance, named).items() if not is_named(tables, end)]
    if back:
        instance.add_dynamic_partitions(PARTITIONS, back)
    return len(set(going) - set(back))


def named_in(cursor: str | None) -> frozenset[str]:
    """The studies that a cursor names; none for one that no tick of ours has written."""
    try:
        found = json.loads(cursor or "[]")
    except ValueError:
        return frozenset()
    return frozenset(each for each in found if isinstance(each, str) and is_study(each)) if isinstance(found, list) else frozenset()


def may_have_left(instance: DagsterInstance, studies: Collection[str]) -> set[str]:
    """Those of these studies that may have left the partitions: a table names how they ended last."""
    tables = day_tables(instance) if studies else {}
    return {study for study, end in last_ends(instance, studies).items() if is_named(tables, end)}


def day_tables(instance: DagsterInstance) -> Mapping[str, int]:
    """By day, up to which place in the event log its table is whole: where the run that made it was asked for, so before it listed.

    A day whose table is being made again, or could not be, has none until it is there.
    """
    by_day = instance.event_log_storage.get_latest_storage_id_by_partition
    asked = by_day(STUDIES_BY_DAY, DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    made = by_day(STUDIES_BY_DAY, DagsterEventType.ASSET_MATERIALIZATION)
    return {day: asked[day] for day in made if day in asked and asked[day] < made[day]}


def is_named(tables: Mapping[str, int], end: Ended) -> bool:
    """Whether the table of its day names an end: it was asked for after the end was recorded, and what is recorded was in the index."""
    return tables.get(end.at.date().isoformat(), 0) > end.recorded


def due(tables: Mapping[str, int], first: date, unnamed: Iterable[date], now: datetime) -> tuple[date, ...]:
    """The days that need a table: those since the first result that have none, and those whose table lacks a study that is to leave."""
    over = (now - GRACE).astimezone(UTC).date()  # this day is not over
    days = (first + timedelta(days=number) for number in range((over - first).days))
    wanted = {day for day in days if day.isoformat() not in tables} | set(unnamed)
    return tuple(sorted(day for day in wanted if _NOTHING_BEFORE <= day < over))[:DAYS_AT_ONCE]


def studies_at_work(instance: DagsterInstance) -> frozenset[str] | None:
    """Studies that a run is asked for or at work on. None where a backfill is: it may yet ask for any."""
    if instance.get_backfills(filters=BulkActionsFilter(statuses=_BACKFILLING), limit=1):
        return None
    runs = instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES))
    return frozenset(run.tags.get("dagster/partition", "") for run in runs)
