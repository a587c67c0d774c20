"""Writes the golden study of the example, and the reference mask as a DICOM SEG on its grid, which its Dice is measured against.

The same seed as the study's gives a SEG that refers to that study's instances, with the same bytes each time. No torch.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import nibabel
import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid

from examples.brain_mri.fetch import ExampleFiles
from examples.brain_mri.made import made_folder
from examples.brain_mri.study import StudyError, study_datasets, write_study_zip

LABEL = "Brain"
GOLDEN_SEED = "monai-aws-golden"
_DATE, _TIME = "20000101", "120000"


def write_golden(files: ExampleFiles, folder: Path | None = None) -> dict[str, str]:
    """Write study and reference where they are missing (default: ``made_folder``); the settings that name them."""
    study, reference = ((folder or made_folder(files)) / name for name in ("golden-study.zip", "golden-reference.dcm"))
    if not study.exists():
        write_study_zip(files.volume, study, seed=GOLDEN_SEED)
    if not reference.exists():
        write_reference(files.volume, files.reference, reference, seed=GOLDEN_SEED)
    return {
        "MONAI_AWS_GOLDEN_STUDY": str(study.absolute()),
        "MONAI_AWS_GOLDEN_STUDY_SHA256": hashlib.sha256(study.read_bytes()).hexdigest(),
        "MONAI_AWS_GOLDEN_REFERENCE": str(reference.absolute()),
        "MONAI_AWS_GOLDEN_REFERENCE_SHA256": hashlib.sha256(reference.read_bytes()).hexdigest(),
    }


def write_reference(volume: Path, mask: Path, target: Path, *, seed: str) -> Path:
    """Write a NIfTI mask (every value above 0 is inside) as a BINARY DICOM SEG.

    Args:
        volume: The NIfTI volume that the study was made of.
        mask: NIfTI mask on the same grid.
        target: The file to write; it appears under its name only when complete.
        seed: The study's seed.

    Raises:
        StudyError: The mask is not on the volume's grid.
    """
    source = study_datasets(volume, seed=seed)
    image, grid = (nibabel.as_closest_canonical(nibabel.load(path)) for path in (mask, volume))
    inside = np.asarray(image.dataobj) > 0
    if inside.shape != grid.shape or not np.allclose(image.affine, grid.affine, atol=1e-3):
        raise StudyError("the mask is not on the grid of the volume")
    segmentation = Segmentation(
        source_images=source,
        pixel_array=np.ascontiguousarray(inside[::-1, ::-1].transpose(2, 1, 0)).astype(np.uint8),  # slices, rows, columns: as study.py
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            SegmentDescription(
                segment_number=1,
                segment_label=LABEL,
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=codes.SCT.Brain,
                algorithm_type=SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
                algorithm_identification=AlgorithmIdentificationSequence("template mask", codes.DCM.ArtificialIntelligence, "1"),
            )
        ],
        series_instance_uid=_uid(seed, "series"),
        series_number=900,
        sop_instance_uid=_uid(seed, "instance"),
        instance_number=1,
        manufacturer="monai-aws-pipeline example",
        manufacturer_model_name="reference.py",
        software_versions="1",
        device_serial_number="0",
    )
    _take_the_clock_out(segmentation, seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    segmentation.save_as(stream)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(stream.getvalue())
    partial.replace(target)
    return target


def _take_the_clock_out(segmentation: Dataset, seed: str) -> None:
    """Replace what highdicom takes from the clock and from chance, so that equal inputs give equal bytes."""
    dimension = _uid(seed, "dimension")
    for element in segmentation.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = dimension
        elif element.VR == "DA" and element.value:
            element.value = _DATE
        elif element.VR == "TM" and element.value:
            element.value = _TIME
        elif element.VR == "DT" and element.value:
            element.value = _DATE + _TIME


def _uid(seed: str, name: str) -> UID:
    return generate_uid(entropy_srcs=["monai-aws-pipeline example reference", seed, name])
