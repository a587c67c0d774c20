"""The mask as a DICOM Segmentation that refers to the planes it was made of. pydicom and highdicom, no SDK.

The SDK's writer is not used: it needs direction cosines that are equal to the last digit and in one place, dates that are valid and a
character set that highdicom knows. Here highdicom is given headers that say the same in the way it wants.
Sources: PS3.3 A.51 (Segmentation IOD), C.8.20; IHE AI Results 1.1, 6.5.3.1 (Contributing Equipment).
"""

from __future__ import annotations

import copy
import datetime
import os
import random
from pathlib import Path
from typing import Any, Final

import highdicom
import numpy as np
from frames import MULTI_FRAME, Stack
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds
from text import IMAGE_GROUPS, UTF_8, to_utf8

NAME: Final = "deepbet bbox_model 1.0.2"
MODEL_UID: Final = "2.25.76636734020951332690597859341887081362"
"""The first half of the model file's SHA-256 as a number."""
MAKER: Final = "monai-aws-pipeline example"
_REPEATED: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What an archive groups results by: repeated to the letter, a value that is not valid too. Type 2, so empty where it is absent."""
_PLANE: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")


def write_segmentation(folder: Path, stack: Stack, mask: NDArray[np.uint8], *, version: str) -> Path:
    """Write a mask as a BINARY Segmentation with one segment, *Brain*.

    Args:
        folder: Where the file goes, named by its SOPInstanceUID; it appears under that name only when complete.
        stack: The planes that were segmented.
        mask: [slice, row, column] of 0 and 1 on these planes.
        version: Version of the application.
    """
    images, planes = _sources(stack, mask)
    segmentation = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                segment_number=1,
                segment_label="Brain",
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=codes.SCT.Brain,
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=highdicom.AlgorithmIdentificationSequence(NAME, codes.DCM.ArtificialIntelligence, version),
            )
        ],
        series_instance_uid=highdicom.UID(),
        series_number=random.randint(1000, 9999),  # noqa: S311  so that results of several runs differ
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=NAME,
        software_versions=version,
        device_serial_number="0000",
        content_label="BRAIN",
        series_description="Brain extraction: example, not for clinical use",
        specific_character_set=UTF_8,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    for keyword in _REPEATED:
        if keyword in stack.frames[0].image:
            segmentation[keyword] = stack.frames[0].image[keyword]
    now = datetime.datetime.now().astimezone()
    segmentation.SeriesDate, segmentation.SeriesTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    segmentation.TimezoneOffsetFromUTC = now.strftime("%z")
    segmentation.ContributingEquipmentSequence = [_model(version)]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{segmentation.SOPInstanceUID}.dcm"
    partial = target.with_suffix(".partial")
    segmentation.save_as(partial)
    os.replace(partial, target)  # noqa: PTH105
    return target


def _sources(stack: Stack, mask: NDArray[np.uint8]) -> tuple[list[Dataset], NDArray[np.uint8]]:
    """Source images as highdicom takes them, and the mask in their order."""
    first = stack.frames[0].image
    to_utf8(first)
    if MULTI_FRAME in first:
        planes = np.empty_like(mask)
        planes[[frame.index for frame in stack.frames]] = mask  # in the order of the frames in their image
        return [_multi_frame(stack)], planes
    shared = Dataset()  # of all planes, and made once: a study has hundreds
    shared.ImageOrientationPatient = _orientation(stack)
    _measure(shared, stack)
    headers = []
    for frame in stack.frames:
        header = _plane(frame.image) if headers else _header(first)
        header.add(frame.image["ImagePositionPatient"])
        for element in shared:
            header.add(element)
        headers.append(header)
    return headers, mask


def _multi_frame(stack: Stack) -> Dataset:
    """The header of a multi-frame image with what all frames share in one place, as highdicom asks."""
    header = _header(stack.frames[0].image)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = _orientation(stack)
    _measure(measures, stack)
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for frame in sorted(stack.frames, key=lambda frame: frame.index):
        item = Dataset()
        item.PlanePositionSequence = [frame.group("PlanePositionSequence")]
        frames.append(item)
    header.PerFrameFunctionalGroupsSequence = frames
    return header


def _header(image: Dataset) -> Dataset:
    """What an image says of itself, without pixels and private elements, and with nothing where highdicom refuses what is not valid."""
    header = Dataset()
    for tag in image.keys():  # noqa: SIM118  the elements, not yet read, are not wanted
        if not tag.is_private and tag.group < IMAGE_GROUPS:
            header[tag] = copy.copy(image[tag])  # the image keeps its own
    for keyword in _REPEATED:
        setattr(header, keyword, "")
    return header


def _plane(image: Dataset) -> Dataset:
    """What highdicom asks of each source image beside the geometry."""
    header = Dataset()
    for keyword in _PLANE:
        header.add(image[keyword])
    return header


def _measure(item: Dataset, stack: Stack) -> None:
    """Spacings as the planes lie: SpacingBetweenSlices and SliceThickness are often wrong, negative or empty."""
    frame = stack.frames[0]
    step = float(np.linalg.norm(stack.affine[:3, 0]))
    own = frame.group("PixelMeasuresSequence")
    item.PixelSpacing = own.PixelSpacing
    item.SpacingBetweenSlices = format_number_as_ds(round(step, 6))
    thickness = own.get("SliceThickness")
    item.SliceThickness = thickness if isinstance(thickness, float) and thickness > 0 else item.SpacingBetweenSlices


def _orientation(stack: Stack) -> list[Any]:
    """The images' own direction cosines where they are the same ones everywhere, else the mean of them."""
    found = [frame.orientation for frame in stack.frames]
    if all(np.array_equal(each, found[0]) for each in found) and np.allclose(found[0], stack.orientation, atol=1e-5):
        return list(stack.frames[0].group("PlaneOrientationSequence").ImageOrientationPatient)
    return [format_number_as_ds(float(value)) for value in stack.orientation]


def _model(version: str) -> Dataset:
    """The item of ContributingEquipmentSequence that names the model."""
    item, purpose = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "Newcode1", "99IHE", "Processing Algorithm"
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer, item.ManufacturerModelName, item.SoftwareVersions, item.DeviceUID = MAKER, NAME, version, MODEL_UID
    return item
