"""What the MONAI Deploy App SDK 4.0.0 and the libraries it stands on are known to read wrongly, and what the platform does about each.

Here belongs the table alone: data, for the study's page and the tests, which show for each line that it holds. What is done stands in
``host_agent.map_requirements``, ``stack``, ``pixel_types`` and ``repairs``. A trap that a later version lacks goes with the pin. Source:
the SDK's own modules (dicom_data_loader_operator, dicom_series_to_volume_operator, dicom_seg_writer_operator), highdicom 0.28, pydicom 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from monai_aws_pipeline.maps.spec.study_contract import Handles

SDK_VERSION: Final = "4.0.0"


class Treatment(StrEnum):
    """What becomes of a study that a trap waits for."""

    EVENED_OUT = "given right"
    DECLARED = "given where the application says that it handles it, otherwise refused"
    DECODED = "given where the application's requirements bring a decoder, otherwise refused"
    REFUSED = "refused"


@dataclass(frozen=True)
class Trap:
    """``symptom``: what happens without the platform. ``code``: the name of the refusal, empty where nothing is refused."""

    name: str
    symptom: str
    treatment: Treatment
    code: str = ""
    handles: Handles | None = None


SDK_TRAPS: Final = (
    Trap("several images at one place", "one of them is kept, by the order of the folder's listing", Treatment.REFUSED, "mixed_series"),
    Trap("the order of the folder's listing", "decides which image is read first, and so the volume's type", Treatment.EVENED_OUT),
    Trap("images without position or orientation", "are dropped, and the rest is answered", Treatment.REFUSED, "irregular_volume"),
    Trap("empty SeriesNumber", "the whole series is dropped with a warning", Treatment.EVENED_OUT),
    Trap("empty PixelSpacing or ImageOrientationPatient", "the whole series is dropped with a warning", Treatment.REFUSED, "no_geometry"),
    Trap("direction cosines that differ in the fifth digit", "the DICOM SEG writer ends with an error", Treatment.EVENED_OUT),
    Trap("several character sets (``\\ISO 2022 IR 87``)", "the DICOM SEG writer ends with an error", Treatment.EVENED_OUT),
    Trap("no PatientID, StudyDate, SliceThickness, …", "the DICOM SEG writer ends with an error", Treatment.EVENED_OUT),
    Trap("a patient's name that seems to be two", "the DICOM SEG writer ends with an error", Treatment.EVENED_OUT),
    Trap("SpacingBetweenSlices that contradicts the positions", "is copied into the DICOM SEG", Treatment.EVENED_OUT),
    Trap("rescaled pixels that do not fit the first slice's type", "are cut", Treatment.DECLARED, "unsupported_image", Handles.PIXEL_TYPE),
    Trap("MONOCHROME1", "a negative is segmented", Treatment.DECLARED, "unsupported_image", Handles.MONOCHROME1),
    Trap("Enhanced and Legacy Converted MR and CT", "one image is seen", Treatment.DECLARED, "unsupported_image", Handles.ENHANCED),
    Trap("Float Pixel Data", "is not read", Treatment.DECLARED, "unsupported_image", Handles.FLOAT_PIXELS),
    Trap("colour", "three times the width, or an error", Treatment.DECLARED, "unsupported_image", Handles.COLOR),
    Trap(
        "pixels that are not square",
        "their two spacings are swapped in the volume's affine",
        Treatment.DECLARED,
        "unsupported_image",
        Handles.NON_SQUARE,
    ),
    Trap("gantry tilt", "the volume is sheared", Treatment.DECLARED, "gantry_tilt", Handles.GANTRY_TILT),
    Trap("Siemens mosaics", "tiles are taken for one plane", Treatment.REFUSED, "unsupported_image"),
    Trap("JPEG Lossless, HTJ2K and other compressions", "an error while reading pixels", Treatment.DECODED, "transfer_syntax"),
    Trap("objects without pixels in the series", "an error, or a series of another length", Treatment.EVENED_OUT),
)
