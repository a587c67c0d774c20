"""The job ``rerun_studies``: studies that a person means in one of four ways are answered again, and compared with what they were.

Here belong its config and the tables that it writes. Which studies are meant is decided in ``rerun_selection`` over what ``study_history``
reads; ``rerun_batch`` asks and waits. The sensor records each end onto ``inference_result``, as it does an upload's. An answer that was
there before it knows already: where another has taken its place since, this run records it again.
See https://docs.dagster.io/guides/operate/configuration
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Literal

from dagster import (
    Config,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    Failure,
    MetadataValue,
    OpExecutionContext,
    TableColumn,
    TableRecord,
    TableSchema,
    job,
    op,
)
from dagster_aws.s3 import S3Resource
from pydantic import Field

from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import ResultRecord, result_key, short_digest
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.moment import moment
from monai_aws_pipeline.operations.promotion import choose_map
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Settings
from monai_aws_pipeline.studies import rerun_selection as choice
from monai_aws_pipeline.studies import study_history as history
from monai_aws_pipeline.studies.lineage import recorded_again
from monai_aws_pipeline.studies.record_metadata import failed
from monai_aws_pipeline.studies.rerun import NoOriginalError, Reruns
from monai_aws_pipeline.studies.rerun_batch import Meant, RerunBatch, RerunEnd
from monai_aws_pipeline.studies.rerun_comparison import SegmentChange, compare
from monai_aws_pipeline.studies.rerun_selection import Selection, These
from monai_aws_pipeline.studies.result_checks import StudyLimits
from monai_aws_pipeline.studies.study_history import Ended, StudyHistory
from monai_aws_pipeline.studies.study_window import PARTITIONS

MAX_ROWS: Final = 1000
"""Rows of a table. What is beyond is counted: each study has its own page."""
_LISTING: Final = TableSchema([TableColumn(name) for name in ("study", "last end", "MAP", "original")])
_CHANGES: Final = TableSchema(
    [TableColumn(name) for name in ("study", "end", "MAP before", "MAP after", "segment", "before (ml)", "after (ml)", "Dice", "note")]
)


class Failed(Config):
    """All studies whose last end is a failure."""

    kind: Literal["failed"] = "failed"
    since: str = Field(
        description="Since when they ended so: 12h or 2d, a date, or a time, UTC where it says no offset.", examples=["2026-03-14"]
    )
    code: str = Field("", description="Only those with this code, for example map_failed; empty: every one.")


class AnsweredBy(Config):
    """All studies whose last answer is one MAP's."""

    kind: Literal["answered_by"] = "answered_by"
    map: str = Field(description="Tag or digest of that MAP, as monai-aws maps lists it.", examples=["1.0.0-0123456-01234567"])


class Stale(Config):
    """All studies whose last answer is another MAP's than the live one's."""

    kind: Literal["stale"] = "stale"


class RerunConfig(Config):
    """Which studies are answered again, and how."""

    which: These | Failed | AnsweredBy | Stale = Field(
        discriminator="kind",
        description="One of: these: {studies: [0123456789abcdef]}; failed: {since: 2026-03-14, code: map_failed}; "
        "answered_by: {map: TAG or DIGEST}; stale: {}.",
    )
    dry_run: bool = Field(False, description="true: list the studies that are meant, and ask for nothing.")
    at_most: int = Field(
        500, ge=1, description="More studies than this are refused. Raise it once a dry run has shown that they are meant."
    )
    at_once: int = Field(20, ge=1, le=1000, description="So many are queued at once: a new upload waits behind these at most.")


@op
def answer_studies_again(
    context: OpExecutionContext, config: RerunConfig, settings: SettingsResource, cloud: CloudResource, s3: S3Resource
) -> None:
    """Have the live MAP answer the studies that are meant, wait for all of them, and write what changed. With dry_run it lists them."""
    chosen, clients = settings.load(), cloud.clients()
    store = ResultsStore(s3.get_client(), chosen.require_bucket())
    with repeating(context.log.info) as report:
        report("Looking for the studies that are meant")
        reruns = Reruns(clients, chosen, store, report)
        try:
            selection = select(config, context.instance, reruns, Registry(clients.ecr, chosen.ecr_repository).images)
            report(_meant(selection, config.at_most))
            known = [history.history_of(context.instance, study) for study in selection.studies[: config.at_most]]
            if config.dry_run:
                context.add_output_metadata(listing(known, reruns, _meant(selection, config.at_most)))
                return
            choice.require_bounded(selection, config.at_most)
            _answer(context, chosen, RerunBatch(reruns, store, config.at_once, report), known, clients, store)
        except NamedError as error:
            raise Failure(str(error), allow_retries=False) from error


@job(
    description="Answer studies again with the live MAP: these, all that failed, all that one MAP answered, or all stale ones. The run's "
    "result is a table of volumes before and after with the Dice of both segmentations. Try it with dry_run: true, which asks for nothing. "
    "Each study takes, and costs, what an upload of it does: seconds on a warm host, minutes where one has to start."
)
def rerun_studies() -> None:
    """See ``rerun_selection`` and ``rerun_batch``."""
    answer_studies_again()


def select(config: RerunConfig, instance: DagsterInstance, reruns: Reruns, images: Callable[[], Sequence[PushedImage]]) -> Selection:
    """The studies that are meant; where they are looked for by MAP, no more than one beyond ``at_most``. Raises NamedError."""
    which = config.which
    if isinstance(which, These):
        return choice.these(which.studies)
    if isinstance(which, Failed):
        since = moment(which.since, datetime.now(UTC))
        newest, unknown = choice.newest_failures(history.failures_since(instance, since), since)
        return choice.still_failed(newest, unknown, history.last_recorded(instance, newest), which.code)
    answers = history.latest_answers(instance)
    if isinstance(which, AnsweredBy):
        digest = choice.whole_digest(which.map) or choose_map(images(), which.map).digest
        return choice.first_of(choice.answered_by(answers, digest), config.at_most)
    return choice.first_of(choice.stale(answers, reruns.live_digest()), config.at_most)


def listing(known: Sequence[StudyHistory], reruns: Reruns, meant: str) -> dict[str, MetadataValue]:
    """What a dry run shows: each study with its last end, the MAP that answered it last, and where its original is."""
    rows = [
        TableRecord(
            {
                "study": study.study,
                "last end": study.last.text if study.last else "none recorded",
                "MAP": short_digest(study.answer.digest) if study.answer else "",
                "original": _place(reruns, study),
            }
        )
        for study in known[:MAX_ROWS]
    ]
    return {"meant": MetadataValue.text(meant), "studies": MetadataValue.table(rows, _LISTING)}


def changes(ends: Sequence[tuple[RerunEnd, Sequence[SegmentChange], str]]) -> dict[str, MetadataValue]:
    """What a run shows: how many ended how, and each segment of each study before and after. ``str``: the MAP that answered before."""
    rows = []
    for end, segments, before in ends:
        first = {"study": end.study, "end": outcome(end), "MAP before": short_digest(before), "MAP after": short_digest(_digest_of(end))}
        for change in segments or [SegmentChange("", note=end.refused)]:
            found = {
                "segment": change.label,
                "before (ml)": _ml(change.before_ml),
                "after (ml)": _ml(change.after_ml),
                "Dice": "" if change.dice is None else f"{change.dice:.4f}",
                "note": change.note,
            }
            rows.append(TableRecord({**first, **found}))
    return {
        "ends": MetadataValue.text(counted(end for end, _, _ in ends)),
        "rows_left_out": MetadataValue.int(max(0, len(rows) - MAX_ROWS)),
        "changes": MetadataValue.table(rows[:MAX_ROWS], _CHANGES),
    }


def outcome(end: RerunEnd) -> str:
    """How a study ended, in a word: ``answered``, the code of its failure, or that there is no end."""
    if end.record is None:
        return "not asked" if end.asked is None else "no answer yet"
    if not failed(end.record):
        return "answered"
    return end.record.error.code if end.record.error else end.record.status.value


def counted(ends: Iterable[RerunEnd]) -> str:
    """How many studies ended how, the most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in Counter(map(outcome, ends)).most_common())


def _answer(
    context: OpExecutionContext,
    settings: Settings,
    batch: RerunBatch,
    known: Sequence[StudyHistory],
    clients: Clients,
    store: ResultsStore,
) -> None:
    by_name = {study.study: study for study in known}
    ends: list[tuple[RerunEnd, Sequence[SegmentChange], str]] = []
    try:
        for end in batch.run([Meant(study.study, study.failed_uploads, study.failed_at) for study in known]):
            if end.asked and end.asked.answer:
                _record_again(context, settings, store, end.asked.answer)
            answer = by_name[end.study].answer
            ends.append((end, _compared(clients, store, answer, end), answer.digest if answer else ""))
            why = end.record.error.text if end.record and end.record.error else end.refused
            context.log.info(f"{len(ends)} of {len(known)}: {end.study} {outcome(end)}{f' ({why})' if why else ''}")
    except DagsterExecutionInterruptedError:
        so_far = counted(end for end, _, _ in ends) or "none"
        context.log.warning(
            f"Cancelled; ended so far: {so_far}, of {len(known)} studies. Queued jobs are still answered, and the sensor study_results "
            "records them. Start the run again for the rest: what is answered is not asked twice."
        )
        raise
    shown = changes(ends)
    if ends and not any(outcome(end) == "answered" for end, _, _ in ends):
        first = next((end.record.error.text for end, _, _ in ends if end.record and end.record.error), ends[0][0].refused)
        raise Failure(
            f"No study was answered: {counted(end for end, _, _ in ends)}. The first: {first}", metadata=shown, allow_retries=False
        )
    context.add_output_metadata(shown)


def _record_again(context: OpExecutionContext, settings: Settings, store: ResultsStore, answer: ResultRecord) -> None:
    """As the sensor would, without this run: no asset is selected in it whose materialization this could be."""
    event = recorded_again(context.instance, store, answer, Addresses.of(settings), StudyLimits.of(settings))
    if event:
        context.instance.add_dynamic_partitions(PARTITIONS, [answer.study])
        context.instance.report_runless_asset_event(event)
        context.log.info(f"{answer.map.digest} had answered {answer.study} before (job {answer.job}); that is recorded again.")


def _compared(clients: Clients, store: ResultsStore, before: Ended | None, end: RerunEnd) -> Sequence[SegmentChange]:
    if end.record is None or failed(end.record):
        return [SegmentChange("", note=end.record.error.text)] if end.record and end.record.error else []
    if before and before.job == end.record.job:
        return [SegmentChange("", note="this MAP had answered this original before; nothing was computed")]
    earlier: ResultRecord | None = None
    try:
        earlier = store.record(result_key(before.study, before.job)) if before else None
    except UnreadableResultError:
        return [SegmentChange("", note="the earlier answer cannot be read")]
    found = compare(clients.s3, store, earlier, end.record)
    return (
        [replace(change, note="the earlier answer is not in the bucket any more") for change in found] if before and not earlier else found
    )


def _digest_of(end: RerunEnd) -> str:
    ran = end.record.map.digest if end.record else ""
    return ran or (end.asked.digest if end.asked else "")


def _place(reruns: Reruns, study: StudyHistory) -> str:
    try:
        return reruns.original(study.study, study.failed_uploads).key
    except NoOriginalError as error:
        return str(error)


def _meant(selection: Selection, at_most: int) -> str:
    found = len(selection.studies)
    return f"{f'more than {at_most}' if found > at_most else found} studies are meant" + (f" ({selection.note})" if selection.note else "")


def _ml(volume: float | None) -> str:
    return "" if volume is None else f"{volume:.2f}"
