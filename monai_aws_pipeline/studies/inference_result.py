"""The asset ``inference_result``: one partition for each study.

Here belongs what happens when a partition is materialised from the UI or by a backfill: that study is answered again by the MAP that is
live now, whether it was answered before, has failed or was refused. Many at once, chosen by what became of them, are ``rerun_job``'s.
Uploads do not come this way; the sensor ``study_results`` records them onto the same asset.
"""

from collections.abc import Callable

from dagster import AssetExecutionContext, DagsterExecutionInterruptedError, DataVersion, Failure, MaterializeResult, asset
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import ResultRecord
from monai_aws_pipeline.operations.errors import NotAnsweredError
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.lineage import LIVE_MAP, S3_TRIGGER, STUDIES, before, current_versions, earlier
from monai_aws_pipeline.studies.record_metadata import failed, provenance_tags, record_metadata, result_id
from monai_aws_pipeline.studies.recorded import verdict_metadata
from monai_aws_pipeline.studies.rerun import Asked, RerunError, Reruns
from monai_aws_pipeline.studies.result_checks import StudyLimits, judge
from monai_aws_pipeline.studies.study_history import StudyHistory, history_of


@asset(
    key="inference_result",
    partitions_def=STUDIES,
    # live_map beside s3_trigger: a study that another MAP than the live one answered is stale, and Dagster compares direct inputs only.
    deps=[LIVE_MAP, S3_TRIGGER],
    group_name="studies",
    kinds={"dicom", "s3"},
    description="The answer to one study, recorded when its upload was answered. Materialise its partition to have the live MAP answer "
    "again: where it is stale, has failed or was refused; the newest original that is kept is asked. The example took 2 to 3 s on a warm "
    "host on the embedded AWS and 7 to 9 s in a container of its own; what a study cost is its cost_usd.",
)
def inference_result(
    context: AssetExecutionContext, settings: SettingsResource, cloud: CloudResource, s3: S3Resource
) -> MaterializeResult[None]:
    """Answer the partition's study again with the live MAP. The same MAP on the same original is one job and one result, until it fails."""
    chosen = settings.load()
    store = ResultsStore(s3.get_client(), chosen.require_bucket())
    reruns = Reruns(cloud.clients(), chosen, store, context.log.info)
    with repeating(context.log.info) as report:
        report(f"Looking for the newest original of {context.partition_key}")
        try:
            asked = ask_again(reruns, history_of(context.instance, context.partition_key), report)
        except RerunError as error:
            raise Failure(str(error), allow_retries=False) from error
    try:
        record = reruns.wait(asked)
    except DagsterExecutionInterruptedError:
        context.log.warning("Cancelled: only the waiting ends. A queued job is still answered, and the sensor study_results records it.")
        raise
    except NotAnsweredError as error:
        raise Failure(str(error), allow_retries=False) from error
    if failed(record):
        raise _failure(record, Addresses.of(chosen))
    result = store.with_outputs(record)
    verdicts = verdict_metadata(judge(record, result.measurements, result.expected, StudyLimits.of(chosen)))
    latest = earlier(context.instance, {record.study})
    return MaterializeResult(
        metadata=record_metadata(record, result.measurements, Addresses.of(chosen), before(latest, record), verdicts),
        data_version=DataVersion(result_id(record.job, record.study)),
        tags=provenance_tags(record, current_versions(context.instance, [S3_TRIGGER]), LIVE_MAP),
    )


def ask_again(reruns: Reruns, study: StudyHistory, report: Callable[[str], None]) -> Asked:
    """Ask, and say what was asked. Raises RerunError."""
    if study.last and not study.last.answered:
        report(f"{study.study} has no answer: {study.last.text}.")
    asked = reruns.ask(study.study, study.failed_uploads, study.failed_at)
    if asked.answer:
        report(f"{asked.digest} has answered this original before; its result (job {asked.job}) is recorded again.")
    else:
        again = f", attempt {asked.attempt + 1} of this MAP on this original" if asked.attempt else ""
        report(f"Queued job {asked.job} for {asked.digest}{again}.")
    return asked


def _failure(record: ResultRecord, where: Addresses) -> Failure:
    error = record.error
    return Failure(
        f"The job {record.status.value}: {error.text}" if error else f"The job {record.status.value}.",
        metadata=record_metadata(record, (), where),
        allow_retries=False,
    )
