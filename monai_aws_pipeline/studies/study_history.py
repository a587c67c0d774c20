"""What Dagster's event log knows of studies: how each ended, by which MAP, and when.

Here belongs reading the events of ``inference_result``, page by page and no more than a question needs; which studies are meant is
decided in ``rerun_selection``. An answer is a materialization, any other end an observation (see ``lineage``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from dagster import AssetRecordsFilter, DagsterEventType, DagsterInstance, EventLogRecord

from monai_aws_pipeline.contract import Status, parse_utc
from monai_aws_pipeline.studies.record_metadata import RERUN_TAG
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT

PAGE: Final = 500
"""Events a query: a few megabytes, and fewer than SQLite takes in one list of ids."""
KNOWN_FAILURES: Final = 100
"""Failed uploads of one study that are looked at, newest first: its original lies at one of them, and it may have come often."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ended:
    """One recorded end of a study. ``digest``: of the MAP that ran, empty where none did. ``recorded``: place in the event log.

    ``rerun``: of a failure, whether it is a re-run's.
    """

    study: str
    job: str
    status: Status
    at: datetime
    recorded: int
    digest: str = ""
    code: str = ""
    rerun: bool = False

    @property
    def answered(self) -> bool:
        """Whether it ended with a result."""
        return self.status is Status.SUCCEEDED

    @property
    def text(self) -> str:
        """In a few words."""
        return f"{'answered' if self.answered else self.code or self.status.value} at {self.at:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class StudyHistory:
    """The last answer of a study, and its failures, newest first."""

    study: str
    answer: Ended | None = None
    failures: tuple[Ended, ...] = ()

    @property
    def last(self) -> Ended | None:
        """How it ended last, in the order of the event log."""
        return max((end for end in (self.answer, *self.failures[:1]) if end), key=lambda end: end.recorded, default=None)

    @property
    def failed_at(self) -> datetime | None:
        """When it failed last; None where it never did."""
        return max((end.at for end in self.failures), default=None)

    @property
    def failed_uploads(self) -> tuple[str, ...]:
        """Jobs at which its original may lie in quarantine: a re-run leaves its original where it is."""
        return tuple(dict.fromkeys(end.job for end in self.failures if end.job and not end.rerun))


def history_of(instance: DagsterInstance, study: str) -> StudyHistory:
    """What is known of one study: two queries, and one more for each 100 failures until as many uploads are among them."""
    wanted = AssetRecordsFilter(INFERENCE_RESULT, asset_partitions=[study])
    answers = instance.fetch_materializations(wanted, limit=1).records
    failures: list[Ended] = []
    for end in _failures(instance, wanted, KNOWN_FAILURES):
        failures.append(end)
        if sum(not each.rerun for each in failures) == KNOWN_FAILURES:
            break
    return StudyHistory(study, next(filter(None, map(_ended, answers)), None), tuple(failures))


def failures_since(instance: DagsterInstance, since: datetime) -> Iterator[Ended]:
    """Failures that were recorded since then, newest first: a query for each 500 of them, however many studies there are.

    ``study`` is empty where it was not known.
    """
    return _failures(instance, AssetRecordsFilter(INFERENCE_RESULT, after_timestamp=since.timestamp()), PAGE)


def last_recorded(instance: DagsterInstance, studies: Iterable[str]) -> dict[str, int]:
    """Where in the event log the latest answer of each of these studies is; a query for each 500."""
    found: dict[str, int] = {}
    for some in _chunks(sorted(set(studies))):
        found |= instance.event_log_storage.get_latest_storage_id_by_partition(
            INFERENCE_RESULT, DagsterEventType.ASSET_MATERIALIZATION, set(some)
        )
    return found


def last_ends(instance: DagsterInstance, studies: Iterable[str]) -> dict[str, Ended]:
    """How each of these studies ended last, whether it is a partition or not; four queries for each 500."""
    found: dict[str, Ended] = {}
    for some in _chunks(sorted(set(studies))):
        for kind, fetch in (
            (DagsterEventType.ASSET_MATERIALIZATION, instance.fetch_materializations),
            (DagsterEventType.ASSET_OBSERVATION, instance.fetch_observations),
        ):
            newest = instance.event_log_storage.get_latest_storage_id_by_partition(INFERENCE_RESULT, kind, set(some))
            later = [recorded for study, recorded in newest.items() if study not in found or found[study].recorded < recorded]
            records = fetch(AssetRecordsFilter(INFERENCE_RESULT, storage_ids=later), limit=PAGE).records if later else ()
            found |= {end.study: end for record in records if (end := _ended(record))}
    return found


def first_end(instance: DagsterInstance) -> Ended | None:
    """The result that was committed first, of the two that were recorded first of their kind; None before there is any."""
    every = AssetRecordsFilter(INFERENCE_RESULT)
    records = (fetch(every, limit=1, ascending=True).records for fetch in (instance.fetch_materializations, instance.fetch_observations))
    ends = [end for some in records for record in some if (end := _ended(record))]
    return min(ends, key=lambda end: end.at, default=None)


def latest_answers(instance: DagsterInstance) -> Iterator[Ended]:
    """The latest answer of every study, those recorded longest ago first: one query, and one for each 500 studies that are taken of it.

    Which MAP answered stands in the event alone: of the tags Dagster indexes the data version only, which is the job.
    """
    newest: Mapping[str, int] = instance.event_log_storage.get_latest_storage_id_by_partition(
        INFERENCE_RESULT, DagsterEventType.ASSET_MATERIALIZATION
    )
    for some in _chunks(sorted(newest.values())):
        records = instance.fetch_materializations(
            AssetRecordsFilter(INFERENCE_RESULT, storage_ids=some), limit=PAGE, ascending=True
        ).records
        yield from (end for record in records if (end := _ended(record)))


def _failures(instance: DagsterInstance, wanted: AssetRecordsFilter, page: int) -> Iterator[Ended]:
    cursor, more = None, True
    while more:
        found = instance.fetch_observations(wanted, limit=page, cursor=cursor)
        yield from (end for record in found.records if (end := _ended(record)) and not end.answered)
        cursor, more = found.cursor, found.has_more


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[first : first + PAGE] for first in range(0, len(items), PAGE))


def _ended(record: EventLogRecord) -> Ended | None:
    """An event as an end; None for one that is none of ours, as anybody may report events onto an asset."""
    event = record.asset_materialization or record.asset_observation
    if event is None:
        return None
    said = {name: value.value for name, value in event.metadata.items()}
    status = str(said.get("status", ""))
    if status not in set(Status):
        return None
    return Ended(
        study=event.partition or "",
        job=str(said.get("job", "")),
        status=Status(status),
        at=_moment(said.get("committed_at"), record.timestamp),
        recorded=record.storage_id,
        digest=str(said.get("map_digest", "")),
        code=str(said.get("error_code", "")),
        rerun=RERUN_TAG in (event.tags or {}),
    )


def _moment(said: object, recorded: float) -> datetime:
    if isinstance(said, str):  # an expired result's
        return parse_utc(said)
    return datetime.fromtimestamp(said if isinstance(said, int | float) else recorded, UTC)
