"""What the lineage says about one result: typed Dagster metadata and tags, made from a commit record.

Here belong names, units and types of metadata, and the tags that Dagster's staleness and our own look-ups read. Pure: no I/O. The
sensor and the asset share it, so an upload and a re-run look the same in the lineage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from dagster import AssetKey, MetadataValue, TableColumn, TableRecord, TableSchema

from monai_aws_pipeline.contract import IndexEntry, OutputFile, ResultRecord, SegmentVolume, Status, Timings, parse_utc
from monai_aws_pipeline.deployment.lineage import DATA_VERSION_TAG, version_tags
from monai_aws_pipeline.studies.preview import PreviewError, thumbnail_uri

JOB_TAG: Final = "monai-aws/job"
STATUS_TAG: Final = "monai-aws/status"

COST_SHARES: Final = ("boot", "pull", "inference", "idle")

MAX_OUTPUT_ROWS: Final = 100

_OUTPUT_SCHEMA: Final = TableSchema(
    columns=[TableColumn("kind"), TableColumn("bytes", "int"), TableColumn("sha256"), TableColumn("key")],
)


def record_metadata(
    record: ResultRecord, measurements: tuple[SegmentVolume, ...], preview_png: bytes | None, *, bucket: str
) -> dict[str, MetadataValue]:
    """All that the lineage shows for a result, each name with its unit. Values that the record does not have are left out."""
    metadata: dict[str, MetadataValue] = {"status": MetadataValue.text(record.status.value)}
    if record.error:
        metadata["error_code"] = MetadataValue.text(record.error.code)
        metadata["error"] = MetadataValue.text(record.error.message)
        metadata |= _texts({"application_said_last": record.error.last_line})
    if preview_png is not None:
        metadata["preview"] = _preview(preview_png)
    for segment in measurements:
        metadata[f"volume_{_slug(segment.label)}_ml"] = MetadataValue.float(round(segment.volume_ml, 3))
    metadata |= _texts(
        {
            "study": record.study,
            "job": record.job,
            "map_image": record.map.image,
            "map_digest": record.map.digest,
            "map_app_version": record.map.app_version,
            "map_sdk_version": record.map.sdk_version,
            "map_commit": record.map.commit,
            "model_sha256": record.map.model_sha256,
            "host_instance": record.host.instance_id,
            "host_type": record.host.type,
            "host_ami": record.host.ami,
            "modalities": ", ".join(record.input.modalities),
            "rerun_of_map": re.split("[/#]", record.request)[0],
        }
    )
    metadata["committed_at"] = MetadataValue.timestamp(parse_utc(record.committed_at))
    metadata |= {f"{phase.name}_s": MetadataValue.float(float(getattr(record.timings, phase.name))) for phase in fields(Timings)}
    metadata["cost_usd"] = MetadataValue.float(float(record.cost.usd))
    shares = [share for share in COST_SHARES if share in record.cost.shares]
    metadata |= {f"cost_{share}_usd": MetadataValue.float(float(record.cost.shares[share])) for share in shares}
    metadata["input_bytes"] = MetadataValue.int(record.input.bytes)
    metadata["input_instances"] = MetadataValue.int(record.input.instances)
    metadata["input_series"] = MetadataValue.int(record.input.series)
    metadata["input_given"] = MetadataValue.int(record.input.given)
    passed_over = ", ".join(f"{count} {kind}" for kind, count in record.input.passed_over.items())
    selection, repairs = "; ".join(record.input.selection), "; ".join(record.input.repairs)
    metadata |= _texts({"input_selection": selection, "input_passed_over": passed_over, "input_repairs": repairs})
    metadata["peak_memory_mib"] = MetadataValue.float(round(record.resources.peak_rss / 2**20, 1))
    if record.resources.peak_gpu_memory is not None:
        metadata["peak_gpu_memory_mib"] = MetadataValue.float(round(record.resources.peak_gpu_memory / 2**20, 1))
    metadata["cpu_s"] = MetadataValue.float(float(record.resources.cpu_seconds))
    metadata |= _texts({"map_hosting": record.resources.hosting, "cost_basis": record.cost.basis})
    metadata["record"] = MetadataValue.path(s3_path(bucket, record.commit_key))
    if record.outputs:
        metadata["outputs"] = _output_table(record.outputs)
        metadata |= _links(record.outputs, bucket)
    return metadata


def provenance_tags(record: ResultRecord, other_inputs: Mapping[AssetKey, tuple[str, int]], live_map: AssetKey) -> dict[str, str]:
    """Tags of a materialization that Dagster reads as its provenance: which data versions of its upstream assets it was made from.

    The version of ``live_map`` is the digest that answered the study, so a study is stale when another MAP is live, newer or older.
    ``other_inputs``: data version and storage id of the remaining upstream assets at the time of recording, where they are known.
    """
    version = version_tags(result_id(record.job, record.study), record.map.commit, {live_map: (record.map.digest, 0), **other_inputs})
    return {JOB_TAG: record.job, STATUS_TAG: record.status.value, **version}


def observation_tags(record: ResultRecord | IndexEntry) -> dict[str, str]:
    """Tags of a job that ended without a result, or whose result has expired before it was recorded."""
    return {
        JOB_TAG: record.job,
        STATUS_TAG: record.status.value,
        DATA_VERSION_TAG: result_id(record.job, record.study),
    }


def result_id(job: str, study: str) -> str:
    """``JOB-STUDY``, or ``JOB`` for a job that ended before its study was known: the data version of a recorded result.

    Not a hash of the outputs: DICOM instances get new UIDs each time they are made, so it would never be the same twice. And it is the
    one tag that Dagster indexes, so whether a result is recorded already is one cheap look-up.
    """
    return f"{job}-{study}" if study else job


def failed(record: ResultRecord) -> bool:
    """Whether the job ended without a result."""
    return record.status is not Status.SUCCEEDED


def s3_path(bucket: str, key: str) -> str:
    """``s3://bucket/key``."""
    return f"s3://{bucket}/{key}"


def _texts(values: Mapping[str, str]) -> dict[str, MetadataValue]:
    return {name: MetadataValue.text(value) for name, value in values.items() if value}


def _preview(png: bytes) -> MetadataValue:
    try:
        return MetadataValue.md(f"![preview]({thumbnail_uri(png)})")
    except PreviewError as error:
        return MetadataValue.text(f"not shown: {error}")


def _output_table(outputs: tuple[OutputFile, ...]) -> MetadataValue:
    rows = [TableRecord({"kind": o.kind, "bytes": o.bytes, "sha256": o.sha256, "key": o.key}) for o in outputs[:MAX_OUTPUT_ROWS]]
    return MetadataValue.table(records=rows, schema=_OUTPUT_SCHEMA)


def _links(outputs: tuple[OutputFile, ...], bucket: str) -> dict[str, MetadataValue]:
    """The first output of each kind, as a path to copy; the table has all of them."""
    first: dict[str, MetadataValue] = {}
    for output in outputs:
        first.setdefault(f"s3_{_slug(output.kind)}", MetadataValue.path(s3_path(bucket, output.key)))
    return first


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40] or "other"
