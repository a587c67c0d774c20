"""The job ``call_back_studies``: studies that have left the partitions of ``inference_result`` become partitions again.

Here belong its config and its table. They come back as the newest of the window and leave again as any other (``study_window``).
"""

from datetime import date
from typing import Final, Literal

from dagster import (
    Config,
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

from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import short_digest
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.day_table import read
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies import rerun_selection as choice
from monai_aws_pipeline.studies.rerun_selection import Selection, SelectionError, These
from monai_aws_pipeline.studies.study_history import last_ends
from monai_aws_pipeline.studies.study_window import PARTITIONS

MAX_ROWS: Final = 1000
"""Rows of the table. What is beyond is counted."""
_BATCH: Final = 500
_STATES: Final = TableSchema([TableColumn(name) for name in ("study", "last end", "MAP", "partition")])


class OfDay(Config):
    """All studies that ended on one day, by its table."""

    kind: Literal["of_day"] = "of_day"
    day: str = Field(description="The UTC day, as studies_by_day has it.", examples=["2026-03-14"])


class CallBackConfig(Config):
    """Which studies become partitions again."""

    which: These | OfDay = Field(
        discriminator="kind", description="One of: these: {studies: [0123456789abcdef]}; of_day: {day: 2026-03-14}."
    )
    dry_run: bool = Field(False, description="true: list the studies that are meant, and change nothing.")
    at_most: int = Field(
        2000, ge=1, description="More studies than this are refused: as many others leave earlier. Raise it after a dry run."
    )


@op
def add_partitions_again(context: OpExecutionContext, config: CallBackConfig, settings: SettingsResource, s3: S3Resource) -> None:
    """Add the studies that are meant to the partitions, where something is recorded of them. With dry_run it lists them."""
    store = ResultsStore(s3.get_client(), settings.load().require_bucket())
    with repeating(context.log.info) as report:
        report("Looking for the studies that are meant")
        try:
            selection = select(config, store)
            choice.require_bounded(selection, config.at_most)
        except NamedError as error:
            raise Failure(str(error), allow_retries=False) from error
        context.add_output_metadata(call_back(context.instance, selection.studies, config.dry_run))
        report(f"{len(selection.studies)} studies were meant.")


@job(
    description="Bring studies that have left the partitions of inference_result back, to look at them or to materialise them: these, or "
    "all of one day. They are the newest of the window then, and leave when as many others have come as it holds. It takes seconds and "
    "costs nothing; with dry_run: true it only lists them."
)
def call_back_studies() -> None:
    """See ``study_window``."""
    add_partitions_again()


def select(config: CallBackConfig, store: ResultsStore) -> Selection:
    """The studies that are meant. Raises NamedError."""
    which = config.which
    if isinstance(which, These):
        return choice.these(which.studies)
    try:
        day = date.fromisoformat(which.day.strip())
    except ValueError as error:
        raise SelectionError("'day' is no date.", "Write it like 2026-03-14.") from error
    return Selection(read(store, day).studies)


def call_back(instance: DagsterInstance, studies: tuple[str, ...], dry_run: bool) -> dict[str, MetadataValue]:
    """Add what is recorded and no partition; the table of all. ``dry_run``: nothing is added."""
    ends = last_ends(instance, studies)
    there = set(instance.get_dynamic_partitions(PARTITIONS))
    back = [study for study in studies if study in ends and study not in there]
    for first in range(0, 0 if dry_run else len(back), _BATCH):
        instance.add_dynamic_partitions(PARTITIONS, back[first : first + _BATCH])
    unknown = sum(study not in ends for study in studies)
    done = "is to come back" if dry_run else "is back"
    rows = [
        TableRecord(
            {
                "study": study,
                "last end": ends[study].text if study in ends else "nothing is recorded of it",
                "MAP": short_digest(ends[study].digest) if study in ends else "",
                "partition": "is there already" if study in there else done if study in ends else "unknown",
            }
        )
        for study in studies
    ]
    return {
        "called_back": MetadataValue.int(0 if dry_run else len(back)),
        "meant": MetadataValue.text(f"{len(studies)} studies, {len(back)} of them outside of the window, {unknown} unknown here"),
        "studies": MetadataValue.table(rows[:MAX_ROWS], _STATES),
        "rows_left_out": MetadataValue.int(max(0, len(rows) - MAX_ROWS)),
    }
