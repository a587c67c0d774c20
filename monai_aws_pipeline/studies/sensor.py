"""The sensor ``study_results``: every half minute, record the results that came in onto ``inference_result``.

Here belongs the wiring of one tick, nothing else: what is new is decided in ``results_index``, what becomes of it in ``lineage``.
Uploads are answered without any Dagster run, so results are recorded without one too.
"""

from datetime import UTC, datetime

from dagster import DagsterInstance, DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SensorResult, SkipReason, sensor

from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.lineage import NO_LIMITS, S3_TRIGGER, EventMaker, Recording, current_versions, prepare, unrecorded
from monai_aws_pipeline.studies.read_ahead import ReadAhead
from monai_aws_pipeline.studies.result_checks import StudyLimits
from monai_aws_pipeline.studies.results_index import Cursor, audit_start_after, plan_audit, plan_tick
from monai_aws_pipeline.studies.study_window import PARTITIONS

EVENTS_A_TICK = 1000
"""Dagster writes events one by one, 20 to 130 a second on SQLite: a minute at most. Half a second a tick goes into calling the sensor."""
EVENTS_AT_FIRST = 100
"""Of a tick that nothing was read ahead of: while its results are read, nothing is written."""
GROWTH = 3
"""How many times as many the next tick takes at most: they are read while these are written, three in the time that one takes."""


def study_results_sensor(interval_s: int) -> SensorDefinition:
    """The sensor, looking every ``interval_s`` seconds."""
    ahead = ReadAhead()

    @sensor(
        name="study_results",
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description="Records each answered upload onto inference_result, and each refused or failed one as an observation. It is on from "
        "the start and looks every results_interval_s seconds (30). It starts no run; a look is one to three LIST calls, on AWS 0.40 to "
        "1.30 USD a month, and one more for each further thousand results of the present hour.",
    )
    def study_results(context: SensorEvaluationContext, settings: SettingsResource, cloud: CloudResource) -> SensorResult | SkipReason:
        chosen = settings.load()
        where = Addresses.of(chosen)
        if not where.bucket:
            return SkipReason("MONAI_AWS_BUCKET is empty: name the bucket that infra/bootstrap.yaml created (its output 'Bucket').")
        store, limits = ahead.store(where.bucket, lambda: cloud.clients().s3), StudyLimits.of(chosen)
        try:
            recording, cursor = tick(context.instance, store, Cursor.parse(context.cursor), datetime.now(UTC), limits, where, ahead)
        except Exception:
            ahead.forget()
            raise
        for reason in recording.skipped:
            context.log.warning(f"Skipped an entry of the results index for good: {reason}")
        if recording.events:
            context.log.info(f"Recording {len(recording.events)} results of {len(recording.studies)} studies")
        # Of partitions that a sensor asks for, Dagster's daemon looks for each by itself, which takes half as long as writing its event.
        context.instance.add_dynamic_partitions(PARTITIONS, list(recording.studies))
        # A skip still stores the cursor: the floor has to move on quiet days too.
        return SensorResult(
            asset_events=list(recording.events),
            cursor=cursor.to_text(),
            skip_reason=None if recording.events else SkipReason("No new results."),
        )

    return study_results


def tick(
    instance: DagsterInstance,
    store: ResultsStore,
    cursor: Cursor,
    now: datetime,
    limits: StudyLimits = NO_LIMITS,
    where: Addresses | None = None,
    ahead: ReadAhead | None = None,
) -> tuple[Recording, Cursor]:
    """One look at the bucket: what to record, judged by ``limits``, and the cursor to store with it.

    Where more waits than is recorded at once, ``ahead`` begins with the next tick.
    """
    if ahead:
        plan = ahead.plan(cursor, store.index_keys, now, min(EVENTS_AT_FIRST, EVENTS_A_TICK))
    else:
        plan = plan_tick(cursor, store.index_keys, now, EVENTS_A_TICK)
    make = EventMaker(where or Addresses(store.bucket), current_versions(instance, [S3_TRIGGER]), limits)
    recording = prepare(instance, store, plan.fresh, now, make, ahead)
    after = plan.advance(recording.deferred)
    if plan.more and ahead:
        ahead.expect(store, after, now, min(GROWTH * len(plan.fresh), EVENTS_A_TICK), make)
    if plan.fresh:
        return recording, after
    return _audit(instance, store, after, now, make)


def _audit(instance: DagsterInstance, store: ResultsStore, cursor: Cursor, now: datetime, make: EventMaker) -> tuple[Recording, Cursor]:
    """On a quiet tick, look at a page of one past hour for entries that were written after the walk had passed it."""
    audit = plan_audit(cursor, store.index_keys(audit_start_after(cursor, now)))
    if not audit.changed:
        return Recording((), (), (), ()), audit.advance()
    late = unrecorded(instance, audit.entries)
    recording = prepare(instance, store, late[:EVENTS_A_TICK], now, make)
    complete = len(late) <= EVENTS_A_TICK and not recording.deferred
    return recording, audit.advance() if complete else cursor
