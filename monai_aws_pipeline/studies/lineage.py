"""Commit records turned into Dagster events, once each.

Here belong the asset's keys and partitions, what is already in the event log, and which kind of event a result becomes. Reading the
bucket belongs to ``results_store``, choosing what is new to ``results_index``, wording to ``record_metadata``.

A succeeded job becomes an ``AssetMaterialization`` of ``inference_result`` under its study. A refused or finally failed one becomes an
``AssetObservation``: the study's result was *not* made, and a materialization would say it was, hide the last good one behind it and
show the study as fresh. With a known study it is observed on that study's partition, which is added too, so that the study stands there
as missing; without one it is observed on the asset itself, because a partition is a study and an invented one would be backfilled in vain.

Dagster writes a sensor's events before it stores the cursor, so a crash in between delivers them again. Each event therefore has its job
and study as data version, and what is found by that is not recorded twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRunStatus,
    DynamicPartitionsDefinition,
    MetadataValue,
    RunsFilter,
)

from monai_aws_pipeline.contract import IndexEntry, ResultRecord, parse_utc
from monai_aws_pipeline.deployment.lineage import DATA_VERSION_TAG
from monai_aws_pipeline.operations.results_store import ExpiredResultError, ResultsStore, StoredResult, UnreadableResultError
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.studies.compared import Earlier
from monai_aws_pipeline.studies.read_ahead import Event, ReadAhead, read_results
from monai_aws_pipeline.studies.record_metadata import (
    failed,
    observation_tags,
    provenance_tags,
    record_metadata,
    result_id,
)
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT, latest_answers_to, recorded_among, verdict_metadata
from monai_aws_pipeline.studies.result_checks import StudyLimits, judge
from monai_aws_pipeline.studies.results_index import Arrival
from monai_aws_pipeline.studies.study_window import PARTITIONS, may_have_left

LIVE_MAP: Final = AssetKey("live_map")
S3_TRIGGER: Final = AssetKey("s3_trigger")
STUDIES: Final = DynamicPartitionsDefinition(name=PARTITIONS)

RERUN_RECORDS_ITSELF_FOR: Final = timedelta(hours=2)
"""So long after its commit a re-run's result is left to the run that asked for it, if one is still active on that study."""

NO_LIMITS: Final = StudyLimits()
_ACTIVE: Final = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


@dataclass(frozen=True)
class Recording:
    """What one tick writes: events oldest first, partitions to add, entries to look at again, and why others were stepped over."""

    events: tuple[Event, ...]
    studies: tuple[str, ...]
    deferred: tuple[Arrival, ...]
    skipped: tuple[str, ...]


def unrecorded(instance: DagsterInstance, arrivals: Iterable[Arrival]) -> list[Arrival]:
    """Those entries whose result is not in the event log, each job and study once."""
    once = {result_id(entry.job, entry.study): entry for entry in arrivals}
    there = recorded_among(instance, once)
    return [entry for name, entry in once.items() if name not in there]


def prepare(
    instance: DagsterInstance,
    store: ResultsStore,
    arrivals: Sequence[Arrival],
    now: datetime,
    make: EventMaker,
    ahead: ReadAhead | None = None,
) -> Recording:
    """Read what is not recorded yet and make its events, but for what lies ``ahead`` already.

    Damaged entries are skipped for good; trouble of S3 itself is raised, so that the tick is tried again as a whole.
    """
    wanted = unrecorded(instance, arrivals)
    found = ahead.read(store, wanted) if ahead else read_results(store, wanted)
    made = ahead.made(make) if ahead else {}

    results: list[StoredResult] = []
    events_ahead: dict[str, Event] = {}
    expired: list[IndexEntry] = []
    deferred: list[Arrival] = []
    skipped: list[str] = []
    for entry, outcome in zip(wanted, found, strict=True):
        if isinstance(outcome, ExpiredResultError):
            expired.append(outcome.entry)
        elif isinstance(outcome, UnreadableResultError):
            skipped.append(str(outcome))
        elif _left_to_its_run(instance, outcome.record, now):
            deferred.append(entry)
        else:
            results.append(outcome)
            if entry.key in made:  # by what it answers: the record was found to be the entry's
                events_ahead[result_id(entry.job, entry.study)] = made[entry.key]
    results = _not_recorded_meanwhile(instance, results)
    results.sort(key=lambda result: (result.record.committed_at, result.record.job))
    # Also those that are recorded and may be no partition, as a run's that died; Dagster skips the ones it has. None that has left since.
    recorded_before = {entry.study for entry in arrivals} - {entry.study for entry in wanted}
    recorded_before -= may_have_left(instance, recorded_before)
    studies = (recorded_before | {result.record.study for result in results} | {entry.study for entry in expired}) - {""}
    events = [*map(expired_event, expired), *_events(instance, results, make, events_ahead)]
    return Recording(tuple(events), tuple(sorted(studies)), tuple(deferred), tuple(skipped))


def recorded_again(
    instance: DagsterInstance, store: ResultsStore, record: ResultRecord, where: Addresses, limits: StudyLimits
) -> Event | None:
    """The event of an answer that another one has taken the place of since, so that it is its study's latest once more.

    None where it is the latest, and where it is not recorded at all: that is left to the sensor, which does so once.
    """
    latest = latest_answers_to(instance, {record.study}).get(record.study)
    this = result_id(record.job, record.study)
    if latest is None or (latest.tags or {}).get(DATA_VERSION_TAG) == this or this not in recorded_among(instance, {this}):
        return None
    upstream = current_versions(instance, [S3_TRIGGER])
    return event_of(store.with_outputs(record), where, upstream, limits, before(earlier(instance, {record.study}), record))


def expired_event(entry: IndexEntry) -> AssetObservation:
    """What is recorded of a result that left the bucket before it was recorded: that it was there, and how it had ended."""
    metadata = {"job": entry.job, "status": entry.status.value, "committed_at": entry.committed_at, "expired": MetadataValue.bool(True)}
    what = f"expired: {entry.status.value} at {entry.committed_at}, before it was recorded here"
    return AssetObservation(
        INFERENCE_RESULT, description=what, metadata=metadata, partition=entry.study or None, tags=observation_tags(entry)
    )


def _events(instance: DagsterInstance, results: Sequence[StoredResult], make: EventMaker, ahead: Mapping[str, Event]) -> Iterator[Event]:
    """The events of results in the order of their commits, each beside the answer that its study had before."""
    answers = [result for result in results if not failed(result.record)]
    latest = earlier(instance, {result.record.study for result in answers})
    for result in results:
        record = result.record
        known = None if failed(record) else before(latest, record)
        ready = None if known else ahead.get(result_id(record.job, record.study))
        yield ready or make(result, known)
        if not failed(record):
            latest[record.study] = Earlier.of(record, result.measurements)  # it is recorded before the next of this tick


def earlier(instance: DagsterInstance, studies: Collection[str]) -> dict[str, Earlier]:
    """By study, the answer that was recorded last, of those studies that have one."""
    answers = latest_answers_to(instance, studies).items()
    return {study: found for study, answer in answers if (found := Earlier.recorded(answer.metadata))}


def before(latest: Mapping[str, Earlier], record: ResultRecord) -> Earlier | None:
    """The answer that this one takes the place of; None where there is none, or where that one was committed later."""
    found = latest.get(record.study)
    return found if found and found.at < parse_utc(record.committed_at) else None


def event_of(
    result: StoredResult,
    where: Addresses,
    upstream: Mapping[AssetKey, tuple[str, int]],
    limits: StudyLimits = NO_LIMITS,
    before: Earlier | None = None,
) -> Event:
    """The event that a result becomes; see the module's first lines for the choice. ``before``: the answer it takes the place of."""
    record = result.record
    verdicts = verdict_metadata(judge(record, result.measurements, result.expected, limits))
    metadata = record_metadata(record, result.measurements, where, before, verdicts)
    if failed(record):
        what = f"{record.status.value}: {record.error.brief}" if record.error else record.status.value
        return AssetObservation(
            INFERENCE_RESULT, description=what, metadata=metadata, partition=record.study or None, tags=observation_tags(record)
        )
    tags = provenance_tags(record, upstream, LIVE_MAP)
    return AssetMaterialization(INFERENCE_RESULT, metadata=metadata, partition=record.study, tags=tags)


@dataclass(frozen=True)
class EventMaker:
    """``event_of`` in one tick: ``where`` things open, the versions ``upstream``, and the ``limits`` that its checks are judged by."""

    where: Addresses
    upstream: Mapping[AssetKey, tuple[str, int]]
    limits: StudyLimits = NO_LIMITS

    def __call__(self, result: StoredResult, before: Earlier | None = None) -> Event:
        """The event of a result beside the answer it takes the place of."""
        return event_of(result, self.where, self.upstream, self.limits, before)


def current_versions(instance: DagsterInstance, keys: Iterable[AssetKey]) -> dict[AssetKey, tuple[str, int]]:
    """Data version and storage id of each asset's latest materialization; ``("NULL", 0)``, Dagster's own word, where there is none."""
    versions: dict[AssetKey, tuple[str, int]] = {}
    for key in keys:
        latest = instance.fetch_materializations(AssetRecordsFilter(key), limit=1).records
        event = latest[0].asset_materialization if latest else None
        versions[key] = ((event.tags or {}).get(DATA_VERSION_TAG, "INITIAL"), latest[0].storage_id) if event else ("NULL", 0)
    return versions


def run_is_active(instance: DagsterInstance, study: str) -> bool:
    """Whether a run is at work on this study's partition."""
    runs = instance.get_runs(RunsFilter(tags={"dagster/partition": study}, statuses=_ACTIVE), limit=20)
    return any(INFERENCE_RESULT in (run.asset_selection or ()) or run.asset_selection is None for run in runs)


def _not_recorded_meanwhile(instance: DagsterInstance, results: Sequence[StoredResult]) -> list[StoredResult]:
    """Without what a re-run's own run has recorded since ``unrecorded`` was asked, and so ended before it was looked for."""
    there = recorded_among(instance, {result_id(each.record.job, each.record.study) for each in results if each.record.request})
    return [each for each in results if result_id(each.record.job, each.record.study) not in there]


def _left_to_its_run(instance: DagsterInstance, record: ResultRecord, now: datetime) -> bool:
    asked_for = bool(record.request) and now - parse_utc(record.committed_at) < RERUN_RECORDS_ITSELF_FOR
    return asked_for and run_is_active(instance, record.study)
