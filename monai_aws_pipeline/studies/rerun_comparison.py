"""What a re-run changed: for each segment of a study its volume before and after, and how much the two segmentations overlap.

Here belongs fetching the two answers' segmentations and comparing them; voxels are counted in ``host_agent.results.overlap``. Files go
through a scratch folder, one study at a time. No Dagster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.contract import OutputFile, ResultRecord
from monai_aws_pipeline.contract.outputs import DICOM_SEG
from monai_aws_pipeline.host_agent.results import segmentation as seg
from monai_aws_pipeline.host_agent.results.overlap import dice
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.scratch import scratch

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_SEG_BYTES: Final = 2 << 30
"""Larger segmentations are not fetched for a comparison."""


@dataclass(frozen=True)
class SegmentChange:
    """One segment: millilitres before and after, None where it was not measured; Dice of the two, or in ``note`` why there is none."""

    label: str
    before_ml: float | None = None
    after_ml: float | None = None
    dice: float | None = None
    note: str = ""


class _NotComparableError(Exception):
    """Two segmentations cannot be compared. The text says why, without any value of a patient."""


def compare(s3: S3Client, store: ResultsStore, before: ResultRecord | None, after: ResultRecord) -> list[SegmentChange]:
    """Every segment that either answer has. A comparison that is not possible is a note of it: the answers stand all the same."""
    volumes = [_volumes(store, record) if record else {} for record in (before, after)]
    labels = list(dict.fromkeys([*volumes[0], *volumes[1]]))
    if before is None:
        return [SegmentChange(label, None, volumes[1].get(label), note="never answered before") for label in labels]
    with scratch("rerun") as folder:
        try:
            ours = _segmentations(s3, store.bucket, before, folder / "before")
            theirs = _segmentations(s3, store.bucket, after, folder / "after")
        except _NotComparableError as error:
            return [SegmentChange(label, volumes[0].get(label), volumes[1].get(label), note=str(error)) for label in labels or [""]]
        labels = labels or sorted({label for segmentation in (*ours, *theirs) for label in segmentation.labels.values()})
        return [_change(label, volumes, ours, theirs) for label in labels]


def _volumes(store: ResultsStore, record: ResultRecord) -> dict[str, float]:
    return {segment.label: segment.volume_ml for segment in store.with_outputs(record).measurements}


def _change(
    label: str, volumes: Sequence[dict[str, float]], ours: Sequence[seg.Segmentation], theirs: Sequence[seg.Segmentation]
) -> SegmentChange:
    overlap, note = None, ""
    try:
        overlap = dice(*_only(label, theirs, "new"), *_only(label, ours, "earlier"))
    except (_NotComparableError, seg.SegmentationError) as error:
        note = str(error)
    except Exception as error:  # somebody's file, and its text may quote a value
        note = f"cannot be read ({type(error).__name__})"
    return SegmentChange(label, volumes[0].get(label), volumes[1].get(label), overlap, note)


def _only(label: str, segmentations: Sequence[seg.Segmentation], which: str) -> tuple[seg.Segmentation, int]:
    found = [(item, number) for item in segmentations for number, its_label in item.labels.items() if its_label == label]
    if len(found) != 1:
        raise _NotComparableError(f"the {which} answer has {len(found) or 'no'} segments of this label")
    return found[0]


def _segmentations(s3: S3Client, bucket: str, record: ResultRecord, folder: Path) -> list[seg.Segmentation]:
    folder.mkdir()
    found = []
    for number, output in enumerate(output for output in record.outputs if output.kind == DICOM_SEG):
        path = folder / f"{number}.dcm"
        _fetch(s3, bucket, output, path)
        try:
            found.append(seg.read_segmentation(path))
        except seg.SegmentationError as error:
            raise _NotComparableError(f"a segmentation of MAP {record.map.digest[7:19]}: {error}") from error
        except Exception as error:  # somebody's file, and its text may quote a value
            raise _NotComparableError(f"a segmentation of MAP {record.map.digest[7:19]} cannot be read ({type(error).__name__})") from error
    return found


def _fetch(s3: S3Client, bucket: str, output: OutputFile, path: Path) -> None:
    if output.bytes > MAX_SEG_BYTES:
        raise _NotComparableError(f"a segmentation has more than {MAX_SEG_BYTES >> 30} GiB")
    try:
        s3.download_file(bucket, output.key, str(path))
    except ClientError as error:
        if code_of(error) not in ("404", "NoSuchKey"):
            raise
        raise _NotComparableError("a segmentation is not in the bucket any more (MONAI_AWS_RESULTS_EXPIRE_DAYS)") from error
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != output.sha256:
            raise _NotComparableError("a segmentation is not the one that its record names")
