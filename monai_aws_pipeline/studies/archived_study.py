"""The asset ``archived_study``: a study as it was received and its results, in the archive that viewers open.

Here belong the asset, what is said of a study's archiving, and the check of it. Hosts store what they have answered, and the sensor
``archived_studies`` records that; materialising a partition stores it from the bucket, without a host, where they could not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    AssetKey,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableRecord,
    TableSchema,
    asset,
    asset_check,
)
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.archive.errors import ArchiveError
from monai_aws_pipeline.archive.record import ArchiveRecord
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import ResultRecord
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.archive import NoArchiveError, NoKeptOriginalError, StudyArchive
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings
from monai_aws_pipeline.studies.check_window import WINDOW, RecordedResult
from monai_aws_pipeline.studies.lineage import STUDIES
from monai_aws_pipeline.studies.record_metadata import JOB_TAG, result_id
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT, results_since

ARCHIVED_STUDY: Final = AssetKey("archived_study")
CHECK: Final = "archived"
NOT_YET: Final = "not archived yet"
MAX_ROWS: Final = 20
_MAX_SERIES: Final = 10
_MOST: Final = 500
"""Results of the last day that the check reads when it is executed by hand."""
_SERIES: Final = TableSchema(
    columns=[
        TableColumn("series"),
        TableColumn("modality"),
        TableColumn("of"),
        TableColumn("stored", "int"),
        TableColumn("there before", "int"),
        TableColumn("refused", "int"),
        TableColumn("corrected"),
    ]
)
_TROUBLES: Final = TableSchema(columns=[TableColumn("time"), TableColumn("study"), TableColumn("found")])
_REMEDY: Final = (
    "Read what is found: an archive that was away is asked again by itself, and at once when archived_study is materialised for the study. "
    "What it refuses has to be mended there, or in the application (docs/archive.md)."
)


@dataclass(frozen=True)
class Trouble:
    """A study that is not in the archive as it should be. ``at``: when it was answered, ISO 8601 UTC."""

    at: str
    study: str
    found: str


@asset(
    key=ARCHIVED_STUDY,
    partitions_def=STUDIES,
    deps=[INFERENCE_RESULT],
    group_name="studies",
    kinds={"dicom"},
    description="The study as it was received and its results, in the archive of MONAI_AWS_ARCHIVE (HealthImaging, or any DICOMweb "
    "archive), where viewers open them. Hosts store each study once it is answered. Materialise its partition, or a backfill, to store "
    "from the bucket what they could not; what is there already is not sent again. It takes seconds to minutes and costs what the archive "
    "does, no host's time.",
)
def archived_study(
    context: AssetExecutionContext, settings: SettingsResource, cloud: CloudResource, s3: S3Resource
) -> MaterializeResult[None]:
    """Store the study's latest answer and its original, and record what the archive answered."""
    chosen, study = settings.load(), context.partition_key
    with repeating(context.log.info) as report:
        report(f"Looking for the latest answer of study {study}")
        found = _stored(cloud, chosen, ResultsStore(s3.get_client(), chosen.require_bucket()), study, report)
    if not found.is_whole:
        raise Failure("; ".join(found.troubles), metadata=archive_metadata(found), allow_retries=False)
    return MaterializeResult(
        metadata=archive_metadata(found), data_version=DataVersion(result_id(found.job, found.study)), tags={JOB_TAG: found.job}
    )


def _stored(cloud: CloudResource, chosen: Settings, store: ResultsStore, study: str, report: Callable[[str], None]) -> ArchiveRecord:
    try:
        archive, record = StudyArchive(cloud.clients(), chosen), _answer(store, study)
        original = archive.original_of(record)
        report(f"Fetching study {study} with the results of job {record.job}, and storing what the archive lacks")
        with scratch("monai-aws-archive") as folder:
            return archive.store(record, original, folder)
    except (ArchiveError, NoArchiveError, NoKeptOriginalError) as error:
        raise _failure(error) from error


def _answer(store: ResultsStore, study: str) -> ResultRecord:
    record = store.latest_answer(study)
    if record is None:
        raise NoKeptOriginalError(f"Study {study} has no answer.", "Materialise inference_result for it first.")
    return record


def _failure(error: NamedError) -> Failure:
    return Failure(f"{error.cause} {error.remedy}".strip(), allow_retries=False)


def archive_metadata(record: ArchiveRecord) -> dict[str, MetadataValue]:
    """What a study's page says of its archiving."""
    rows = [
        TableRecord(
            {
                "series": each.number,
                "modality": each.modality,
                "of": "result" if each.is_result else "original",
                "stored": each.stored,
                "there before": each.there,
                "refused": sum(each.refused.values()) + each.withheld,
                "corrected": ", ".join(each.corrected),
            }
        )
        for each in record.series[:_MAX_SERIES]
    ]
    return {
        "archive": MetadataValue.text(record.archive),
        "job": MetadataValue.text(record.job),
        **({"troubles": MetadataValue.text("; ".join(record.troubles))} if record.troubles else {}),
        "stored": MetadataValue.int(sum(each.stored for each in record.series)),
        "there_before": MetadataValue.int(sum(each.there for each in record.series)),
        "sent_mib": MetadataValue.float(round(record.bytes / (1 << 20), 1)),
        "seconds": MetadataValue.float(record.seconds),
        "requests": MetadataValue.int(record.requests),
        "tries": MetadataValue.int(record.tries),
        "series": MetadataValue.table(rows, schema=_SERIES),
        "series_not_shown": MetadataValue.int(len(record.series) - len(rows)),
        **({"datastore": MetadataValue.text(record.datastore)} if record.datastore else {}),
        **({"image_sets": MetadataValue.int(sum(len(each.image_sets) for each in record.series))} if record.datastore else {}),
    }


# ----------------------------------------------------------------------------------------------------------------------------- the check


def said_of(troubles: Sequence[Trouble]) -> str:
    """The check's line."""
    if not troubles:
        return "Every study of the last days that was answered is in the archive."
    return f"{len(troubles)} {'study is' if len(troubles) == 1 else 'studies are'} not in the archive as they should be."


def check_metadata(troubles: Sequence[Trouble]) -> dict[str, MetadataValue]:
    """The newest of them, with what was found."""
    newest = sorted(troubles, key=lambda each: each.at, reverse=True)[:MAX_ROWS]
    rows = [TableRecord({"time": each.at, "study": each.study, "found": each.found}) for each in newest]
    if not rows:
        return {"failing": MetadataValue.int(0)}
    return {
        "failing": MetadataValue.int(len(troubles)),
        "studies": MetadataValue.table(rows, schema=_TROUBLES),
        "what_to_do": MetadataValue.text(_REMEDY),
    }


@asset_check(
    name=CHECK,
    asset=ARCHIVED_STUDY,
    description="Whether every study that was answered is in the archive, whole and shown. The sensor archived_studies evaluates it "
    "whenever that changes, over the last seven days; by hand it reads what the archive answered for the studies of the last day, in "
    "seconds and at no cost.",
)
def archived(context: AssetCheckExecutionContext, settings: SettingsResource, cloud: CloudResource) -> AssetCheckResult:
    """Read the archive's records of the last day's answers."""
    try:
        archive = StudyArchive(cloud.clients(), settings.load())
    except NoArchiveError as error:
        return AssetCheckResult(passed=True, description=error.cause, severity=AssetCheckSeverity.WARN)
    with repeating(context.log.info) as report:
        report("Reading what the archive answered for the studies of the last 24 hours")
        latest = latest_answers(results_since(context.instance, datetime.now(UTC) - WINDOW, _MOST))
        troubles = [trouble for result in latest if (trouble := trouble_of(result, archive.record(result.study, result.job)))]
    return AssetCheckResult(
        passed=not troubles,
        severity=AssetCheckSeverity.ERROR,
        description=said_of(troubles),
        metadata=check_metadata(troubles),
    )


def latest_answers(results: Sequence[RecordedResult]) -> list[RecordedResult]:
    """The latest answer of each study, of results oldest first."""
    return list({result.study: result for result in results if result.answered and result.study}.values())


def trouble_of(result: RecordedResult, record: ArchiveRecord | None) -> Trouble | None:
    """What is not as it should be with an answer, by what the archive answered for it."""
    if record is None:
        return Trouble(result.at, result.study, NOT_YET)
    return Trouble(result.at, result.study, "; ".join(record.troubles)) if not record.is_whole else None
