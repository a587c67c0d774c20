"""Marks air in a CT: somebody's own application, which knows nothing of this project and is told nothing by it but the MAP's folders.

Its model is a JSON file with a range of Hounsfield units. A series that is described as ``slow`` takes eight seconds longer, so that a
test can do something meanwhile. Made by hand for the tests; its result means nothing.
"""

# ruff: noqa: T201  what it prints becomes the log of the run

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

RULES = """{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}"""
MODALITY = json.loads(RULES)["selections"][0]["conditions"]["Modality"]


def main() -> int:
    """Answer the study; the exit code is the result."""
    work = Path(os.environ.get("HOLOSCAN_WORKDIR", "."))
    (model_file,) = (work / os.environ["HOLOSCAN_MODEL_PATH"]).rglob("*.json")
    model = json.loads(model_file.read_text())
    slices = read_ct(work / os.environ["HOLOSCAN_INPUT_PATH"])
    if not slices:
        print("lung_ct: the study has no CT series", file=sys.stderr)
        return 2
    if slices[0].get("SeriesDescription") == "slow":
        time.sleep(8)
    units = np.stack([item.pixel_array * float(item.RescaleSlope) + float(item.RescaleIntercept) for item in slices])
    mask = (units >= model["low_hu"]) & (units <= model["high_hu"])
    if not mask.any():
        print("lung_ct: no air in the study", file=sys.stderr)
        return 3
    segmentation(slices, mask, model["version"]).save_as(work / os.environ["HOLOSCAN_OUTPUT_PATH"] / "air.dcm")
    print(f"lung_ct: {int(mask.sum())} voxels of air with model {model['version']}")
    return 0


def read_ct(folder: Path) -> list[pydicom.Dataset]:
    """The CT instances below a folder, from feet to head."""
    found = []
    for path in folder.rglob("*"):
        try:
            item = pydicom.dcmread(path) if path.is_file() else None
        except InvalidDicomError:
            continue
        if item is not None and item.get("Modality") == MODALITY:
            found.append(item)
    return sorted(found, key=lambda item: float(item.ImagePositionPatient[2]))


def segmentation(slices: list[pydicom.Dataset], mask: np.ndarray, version: str) -> hd.seg.Segmentation:
    """A binary DICOM SEG of the mask."""
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Air",
        segmented_property_category=codes.SCT.BodySubstance,
        segmented_property_type=codes.SCT.Air,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence("range of Hounsfield units", codes.DCM.ArtificialIntelligence, version),
    )
    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=mask.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="monai-aws-pipeline tests",
        manufacturer_model_name="lung_ct",
        software_versions=version,
        device_serial_number="0",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


if __name__ == "__main__":
    sys.exit(main())
