"""Commit records and pictures to test with: whole ones, so that what is read back is what an agent would write."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from monai_aws_pipeline.contract import (
    Cost,
    HostFacts,
    IndexEntry,
    InputFacts,
    MapFacts,
    Measurements,
    OutputFile,
    Resources,
    ResultError,
    ResultRecord,
    SegmentVolume,
    Status,
    Timings,
    output_key,
    utc_text,
)

NOON = datetime(2026, 3, 14, 12, 30, tzinfo=UTC)
DIGEST = "sha256:" + "d" * 64
OTHER_DIGEST = "sha256:" + "e" * 64


def job_of(number: int) -> str:
    return hashlib.sha256(f"job {number}".encode()).hexdigest()[:32]


def study_of(number: int) -> str:
    return hashlib.sha256(f"study {number}".encode()).hexdigest()[:16]


def picture(width: int = 300, height: int = 120) -> bytes:
    image = Image.effect_noise((width, height), 60).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def succeeded(number: int, at: datetime = NOON, digest: str = DIGEST, request: str = "", **changes: Any) -> ResultRecord:
    study, job = study_of(number), job_of(number)
    files = [("dicom/seg.dcm", "dicom-seg"), ("mesh/brain.stl", "mesh"), ("measurements.json", "measurements"), ("preview.png", "preview")]
    record = ResultRecord(
        job=job,
        study=study,
        status=Status.SUCCEEDED,
        committed_at=utc_text(at),
        input=InputFacts(key_sha256="a" * 64, etag="0" * 32, bytes=7_600_000, instances=181, modalities=("MR",), series=1),
        map=MapFacts(f"repository@{digest}", digest, "1.0.0", "4.0.0", "b" * 64, "c" * 40),
        host=HostFacts("i-0123456789abcdef0", "g4dn.xlarge", "ami-0123456789abcdef0"),
        timings=Timings(queued=2.5, boot=20, download=0.4, pull=11.5, inference=9.25, upload=0.75, total=44.4),
        resources=Resources(peak_rss=1_610_612_736, cpu_seconds=11.5, hosting="warm"),
        cost=Cost(0.0065, "0.526 USD/h g4dn.xlarge for 44.4 s", {"boot": 0.003, "pull": 0.0015, "inference": 0.0015, "idle": 0.0005}),
        measured=Measurements((SegmentVolume("Brain", 1437.25),)),
        outputs=tuple(OutputFile(output_key(study, job, name), "f" * 64, 1000, kind) for name, kind in files),
        request=request,
    )
    return replace(record, **changes)


def refused(number: int, at: datetime = NOON, study: str = "", status: Status = Status.QUARANTINED) -> ResultRecord:
    return ResultRecord(
        job=job_of(number),
        study=study,
        status=status,
        committed_at=utc_text(at),
        input=InputFacts(key_sha256="a" * 64, etag="0" * 32, bytes=10),
        error=ResultError("NOT_A_ZIP", "The upload is no zip archive. Upload one study as a .zip."),
    )


class Bucket:
    """A bucket as the agent leaves it: outputs, commit record, index entry."""

    def __init__(self, s3: Any, name: str = "studies"):
        self.s3, self.name = s3, name
        self.s3.create_bucket(Bucket=name)

    def put(self, key: str, body: bytes | str) -> None:
        self.s3.put_object(Bucket=self.name, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.name, Key=key)

    def commit(self, record: ResultRecord, preview: bytes | None = None) -> ResultRecord:
        for output in record.outputs:
            if output.kind == "measurements":
                self.put(output.key, '{"segments": [{"label": "Brain", "volume_ml": 1437.25}]}')
            elif output.kind == "preview" and preview is not None:
                self.put(output.key, preview)
        self.put(record.commit_key, record.to_json())
        self.put(record.index_key, IndexEntry.of(record).to_json())
        return record
