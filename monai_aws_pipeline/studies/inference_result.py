"""The asset ``inference_result``: one partition for each study.

Here belongs what happens when a partition is materialised from the UI or by a backfill: that study is answered again by the MAP that is
live now. Uploads do not come this way; the sensor ``study_results`` records them onto the same asset.
"""

from collections.abc import Callable

from dagster import AssetExecutionContext, DagsterExecutionInterruptedError, DataVersion, Failure, MaterializeResult, MetadataValue, asset
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.contract import ResultRecord
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.lineage import LIVE_MAP, S3_TRIGGER, STUDIES, current_versions, earlier
from monai_aws_pipeline.studies.record_metadata import failed, provenance_tags, record_metadata, result_id, s3_path
from monai_aws_pipeline.studies.rerun import Asked, RerunError, Reruns


@asset(
    key="inference_result",
    partitions_def=STUDIES,
    # live_map beside s3_trigger: a study that another MAP than the live one answered is stale, and Dagster compares direct inputs only.
    deps=[LIVE_MAP, S3_TRIGGER],
    group_name="studies",
    kinds={"dicom", "s3"},
    description="The answer to one study, recorded when its upload was answered. Materialise it to have the live MAP answer again.",
)
def inference_result(
    context: AssetExecutionContext, settings: SettingsResource, cloud: CloudResource, s3: S3Resource
) -> MaterializeResult[None]:
    """Answer the partition's study again with the live MAP. Idempotent: the same MAP on the same original is one job and one result."""
    chosen = settings.load()
    store = ResultsStore(s3.get_client(), chosen.require_bucket())
    reruns = Reruns(cloud.clients(), chosen, store, context.log.info)
    try:
        record = answer_again(reruns, context.partition_key, context.log.info)
    except DagsterExecutionInterruptedError:
        context.log.warning("Cancelled: only the waiting ends. A queued job is still answered, and the sensor study_results records it.")
        raise
    except RerunError as error:
        raise Failure(str(error), allow_retries=False) from error
    if failed(record):
        raise _failure(record, store.bucket)
    result = store.with_outputs(record)
    return MaterializeResult(
        metadata=record_metadata(record, result.measurements, Addresses.of(chosen), earlier(context.instance, record)),
        data_version=DataVersion(result_id(record.job, record.study)),
        tags=provenance_tags(record, current_versions(context.instance, [S3_TRIGGER]), LIVE_MAP),
    )


def answer_again(reruns: Reruns, study: str, log: Callable[[str], None]) -> ResultRecord:
    """Ask, say what was asked, wait. Raises RerunError."""
    asked: Asked = reruns.ask(study)
    if asked.answered_before:
        log(f"{asked.digest} has answered this original before; its result (job {asked.job}) is recorded again.")
    else:
        log(f"Queued job {asked.job} for {asked.digest}.")
    return reruns.wait(asked)


def _failure(record: ResultRecord, bucket: str) -> Failure:
    error = record.error
    return Failure(
        f"The job {record.status.value}: {error.text}" if error else f"The job {record.status.value}.",
        metadata={"job": MetadataValue.text(record.job), "record": MetadataValue.path(s3_path(bucket, record.commit_key))},
        allow_retries=False,
    )
