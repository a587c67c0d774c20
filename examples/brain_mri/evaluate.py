"""Judges a result of the example: Dice of a DICOM SEG against the reference mask, and volumes. No torch.

The SEG is placed by its own attributes alone, so a mask that is shifted, mirrored or out of order scores badly, as it should.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import highdicom
import nibabel
import numpy as np
from numpy.typing import NDArray

from monai_aws_pipeline.errors import NamedError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class EvaluationError(NamedError, ValueError):
    """SEG and reference cannot be compared."""


@dataclass(frozen=True)
class Evaluation:
    """Agreement of a segmentation with a reference mask. Volumes in millilitres."""

    dice: float
    volume_ml: float
    reference_ml: float


def evaluate(segmentation: Path, reference: Path, segment: int = 1) -> Evaluation:
    """Compare one segment of a DICOM SEG with a NIfTI mask on the same voxel grid.

    Args:
        segmentation: DICOM Segmentation file.
        reference: NIfTI mask; every value above 0 is inside.
        segment: Segment number in the SEG, from 1.

    Raises:
        EvaluationError: Voxels of the SEG do not lie on voxels of the reference.
    """
    mask, affine = read_segment(segmentation, segment)
    image = nibabel.load(reference)
    expected = np.asarray(image.dataobj) > 0
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    reference_voxel = float(abs(np.linalg.det(image.affine[:3, :3])))
    if not np.isclose(voxel, reference_voxel, rtol=1e-3):
        raise EvaluationError(f"voxels differ: {voxel:.4f} mm³ in the SEG, {reference_voxel:.4f} mm³ in the reference")

    to_reference = np.linalg.inv(image.affine) @ LPS_TO_RAS @ affine
    found = np.argwhere(mask) @ to_reference[:3, :3].T + to_reference[:3, 3]
    nearest = np.rint(found).astype(int)
    if len(found) and np.abs(found - nearest).max() > 0.05:
        raise EvaluationError("voxels of the SEG lie between voxels of the reference; the geometry is not that of the source series")
    inside = np.all((nearest >= 0) & (nearest < np.array(expected.shape)), axis=1)
    common = int(expected[tuple(nearest[inside].T)].sum())
    total = len(found) + int(expected.sum())
    return Evaluation(2 * common / total if total else 1.0, len(found) * voxel / 1000, float(expected.sum()) * reference_voxel / 1000)


def expected_volume_ml() -> float:
    """Brain volume in millilitres that the model gives on the volume itself, outside any container and without DICOM.

    Measured by ``python -m examples.brain_mri expected`` and kept in ``expected.json``, so that comparing needs no torch.
    """
    return float(json.loads((Path(__file__).parent / "expected.json").read_text("utf-8"))["volume_ml"])


def read_segment(segmentation: Path, segment: int = 1) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """One segment as a boolean array with the affine that maps its indices to LPS millimetres."""
    seg = highdicom.seg.segread(segmentation)
    volume = seg.get_volume(segment_numbers=[segment], combine_segments=True)
    return np.asarray(volume.array, dtype=bool), np.asarray(volume.affine, dtype=float)
