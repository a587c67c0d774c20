"""The sensor ``archived_studies``: records what the archive answered for each answered study, and asks for those that no host has stored.

It follows the answers in Dagster's event log and looks for the archive's record of each, ``archive/STUDY/JOB.json``. What is whole becomes
a materialization, anything else an observation. A study that has none a while after its answer is shown as not archived, and a run stores
it from the bucket as soon as the archive answers again. Its cursor holds what it still waits for, within bounds: where that is full,
answers are read later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetMaterialization,
    AssetObservation,
    DagsterInstance,
    DefaultSensorStatus,
    MetadataValue,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from monai_aws_pipeline.archive.errors import ArchiveError
from monai_aws_pipeline.archive.record import ArchiveRecord
from monai_aws_pipeline.contract import parse_utc
from monai_aws_pipeline.deployment.lineage import version_tags
from monai_aws_pipeline.operations.archive import NoArchiveError, StudyArchive
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.archived_study import (
    ARCHIVED_STUDY,
    CHECK,
    NOT_YET,
    Trouble,
    archive_metadata,
    check_metadata,
    latest_answers,
    said_of,
)
from monai_aws_pipeline.studies.check_window import RecordedResult
from monai_aws_pipeline.studies.record_metadata import JOB_TAG, result_id
from monai_aws_pipeline.studies.recorded import (
    INFERENCE_RESULT,
    last_materialization,
    recorded_among,
    results_after,
    results_since,
    settled,
)
from monai_aws_pipeline.studies.study_window import PARTITIONS

LATE: Final = timedelta(minutes=10)
"""So long after its answer a study that is not archived is said to be so. A host stores within seconds to minutes."""
GIVEN_UP: Final = timedelta(days=7)
"""So long it is asked for. It stays visible as an answer without its archived study."""
FIRST_LOOK: Final = timedelta(days=1)
MOST_WAITING: Final = 300
AT_ONCE: Final = 10
"""Runs that are asked for at a tick."""
READERS: Final = 8
_LONGEST: Final = timedelta(hours=6)

Event = AssetMaterialization | AssetObservation | AssetCheckEvaluation
Records = Callable[[str, str], ArchiveRecord | None]


@dataclass(frozen=True)
class Awaited:
    """An answer that is not in the archive as it should be, as far as is known.

    ``event``: its number in the event log, by which Dagster tells whether a later answer has made the archived study stale. ``look_at``:
    when to look again, empty for at once.
    """

    study: str
    job: str
    at: str
    event: int
    found: str = ""
    asked: int = 0
    look_at: str = ""


@dataclass(frozen=True)
class Watch:
    """How far the event log was read, what is awaited, and what the check showed last."""

    as_of: int = 0
    awaited: tuple[Awaited, ...] = ()
    shown: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Watch | None:
        """Read a stored cursor; None for none, or for a text that is none."""
        try:
            data = json.loads(text or "null")
            return cls(int(data["as_of"]), tuple(Awaited(**each) for each in data["awaited"]), str(data["shown"])) if data else None
        except (ValueError, TypeError, KeyError):
            return None

    def to_text(self) -> str:
        """Compact JSON."""
        return json.dumps({**asdict(self)}, separators=(",", ":"), sort_keys=True)


@dataclass(frozen=True)
class Look:
    """What one tick comes to."""

    watch: Watch
    events: tuple[Event, ...] = ()
    wanted: tuple[Awaited, ...] = field(default=())
    """Studies to be stored by a run."""


def archived_studies_sensor(interval_s: int) -> SensorDefinition:
    """The sensor, looking every ``interval_s`` seconds."""

    @sensor(
        name="archived_studies",
        asset_selection=[ARCHIVED_STUDY],
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description="Records onto archived_study what the archive answered for each answered study, and evaluates the check archived. "
        "Where a host could not store a study within ten minutes, it starts a run that does, once the archive answers. It is on from the "
        "start, looks every results_interval_s seconds (30) at almost no cost, and does nothing where MONAI_AWS_ARCHIVE is none.",
    )
    def archived_studies(context: SensorEvaluationContext, settings: SettingsResource, cloud: CloudResource) -> SensorResult | SkipReason:
        try:
            archive = StudyArchive(cloud.clients(), settings.load())
        except NoArchiveError as error:
            return SkipReason(error.cause)
        look = tick(context.instance, archive.record, archive.answers, Watch.parse(context.cursor), datetime.now(UTC), context.log.warning)
        return SensorResult(
            asset_events=list(look.events),
            run_requests=[
                RunRequest(run_key=f"{each.job}-{each.study}-{each.asked}", asset_selection=[ARCHIVED_STUDY], partition_key=each.study)
                for each in look.wanted
            ],
            cursor=look.watch.to_text(),
            skip_reason=None if look.events or look.wanted else SkipReason("Nothing new of the archive."),
        )

    return archived_studies


def tick(
    instance: DagsterInstance,
    read: Records,
    answers: Callable[[], None],
    before: Watch | None,
    now: datetime,
    say: Callable[[str], None] = lambda _: None,
) -> Look:
    """One look. ``read``: what the archive answered for a study and job; ``answers``: raises ArchiveError where the archive is away."""
    watch = before or _first_look(instance, now)
    watch, found = _with_news(instance, watch), list[Awaited]()
    due = [each for each in watch.awaited if not each.look_at or parse_utc(each.look_at) <= now]
    with ThreadPoolExecutor(READERS, thread_name_prefix="archive-records") as readers:
        records = dict(zip(due, readers.map(lambda each: read(each.study, each.job), due), strict=True))
    there = recorded_among(instance, [result_id(each.job, each.study) for each in due], ARCHIVED_STUDY)
    events: list[Event] = []
    for each in watch.awaited:
        record = records.get(each)
        if record and record.is_whole:
            events += [_archived(record, each.event)] if result_id(each.job, each.study) not in there else []
        elif now - parse_utc(each.at) < GIVEN_UP:
            after = _still(each, record, now) if each in records else each
            events += [_not_archived(after, record)] if after.found != each.found else []
            found.append(after)
    wanted = _to_be_stored(instance, found, answers, now, say)
    asked = {each.study: replace(each, asked=each.asked + 1, look_at=_later(each.asked + 1, now)) for each in wanted}
    watch = replace(watch, awaited=tuple(asked.get(each.study, each) for each in found))
    shown, evaluation = _evaluation(instance, watch, news=bool(events))
    if evaluation and (shown != watch.shown or events):
        events.append(evaluation)
    return Look(replace(watch, shown=shown), tuple(events), tuple(wanted))


def _first_look(instance: DagsterInstance, now: datetime) -> Watch:
    """Answers of the last day: an archive that is set up later gets older ones by a backfill."""
    as_of = settled(instance)
    results = results_since(instance, now - FIRST_LOOK, MOST_WAITING)
    return Watch(as_of, _awaited([result for result in results if result.storage_id <= as_of]))


def _with_news(instance: DagsterInstance, watch: Watch) -> Watch:
    room = MOST_WAITING - len(watch.awaited)
    if room <= 0:
        return watch
    page = results_after(instance, watch.as_of, room)
    news = {each.study: each for each in _awaited([result for result in page.results if not result.is_recorded_again])}
    kept = [each for each in watch.awaited if each.study not in news]  # of a study that was answered again, the latest answer counts
    return replace(watch, as_of=page.as_of, awaited=(*kept, *news.values()))


def _awaited(results: Sequence[RecordedResult]) -> tuple[Awaited, ...]:
    return tuple(Awaited(result.study, result.job, result.at, result.storage_id) for result in latest_answers(results))


def _still(each: Awaited, record: ArchiveRecord | None, now: datetime) -> Awaited:
    """What is known now of one that is not archived as it should be."""
    if record:
        return replace(each, found="; ".join(record.troubles), look_at=(now + LATE).isoformat())
    return replace(each, found=NOT_YET) if now - parse_utc(each.at) >= LATE else each


def _to_be_stored(
    instance: DagsterInstance, found: Sequence[Awaited], answers: Callable[[], None], now: datetime, say: Callable[[str], None]
) -> list[Awaited]:
    """Those that no host has stored, a few at a time; none while the archive is away, none whose study is no partition any more."""
    due = [each for each in found if each.found == NOT_YET and (not each.look_at or parse_utc(each.look_at) <= now)]
    partitions = set(instance.get_dynamic_partitions(PARTITIONS)) if due else set()
    due = [each for each in due if each.study in partitions][:AT_ONCE]
    if due:
        try:
            answers()
        except ArchiveError as error:
            say(f"{len(due)} studies or more wait for the archive: {error}")
            return []
    return due


def _later(asked: int, now: datetime) -> str:
    return (now + min(_LONGEST, LATE * (1 << min(asked, 10)))).isoformat()


def _archived(record: ArchiveRecord, event: int) -> AssetMaterialization:
    version = result_id(record.job, record.study)
    tags = {JOB_TAG: record.job, **version_tags(version, "", {INFERENCE_RESULT: (version, event)})}
    return AssetMaterialization(ARCHIVED_STUDY, metadata=archive_metadata(record), partition=record.study, tags=tags)


def _not_archived(each: Awaited, record: ArchiveRecord | None) -> AssetObservation:
    metadata = archive_metadata(record) if record else {"job": MetadataValue.text(each.job), "troubles": MetadataValue.text(each.found)}
    return AssetObservation(ARCHIVED_STUDY, description=each.found, metadata=metadata, partition=each.study, tags={JOB_TAG: each.job})


def _evaluation(instance: DagsterInstance, watch: Watch, *, news: bool) -> tuple[str, AssetCheckEvaluation | None]:
    """The check, and what tells it from the one before: Dagster shows it while it is about the latest materialization.

    None where there is nothing to judge yet.
    """
    troubles = [Trouble(each.at, each.study, each.found) for each in watch.awaited if each.found]
    about = last_materialization(instance, ARCHIVED_STUDY)
    if not (about or troubles or news or watch.shown):
        return "", None
    target = about and AssetCheckEvaluationTargetMaterializationData(
        storage_id=about.storage_id, run_id=about.run_id, timestamp=about.timestamp
    )
    made = AssetCheckEvaluation(
        asset_key=ARCHIVED_STUDY,
        check_name=CHECK,
        passed=not troubles,
        severity=AssetCheckSeverity.ERROR,
        description=said_of(troubles),
        metadata=check_metadata(troubles),
        target_materialization_data=target,
    )
    told = json.dumps([about.run_id if about else "", sorted((each.study, each.found) for each in troubles)])
    return told, made
