"""Applications as people write them, without torch: they read a folder, segment by a threshold and write a DICOM SEG.

None protects itself: what is not caught before them becomes a wrong answer. ``sdk`` does what the MONAI Deploy SDK's operators do (one
image a position, the volume in the type of its first plane; https://docs.monai.io/projects/monai-deploy-app-sdk); ``careful`` reads every
kind of image that its app.yaml says it handles; ``echo`` is ``sdk`` with a rule for one of several stacks. All are talkative: they print
what a debugging author prints, names and UIDs included.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_presentation_lut, apply_rescale
from pydicom.sr.codedict import codes

from monai_aws_pipeline.maps.spec.series_rules import LABEL_RULES, matches
from monai_aws_pipeline.maps.spec.study_contract import LABEL_STUDY_CONTRACT, LABEL_VOLUME, Handles, StudyContract, decoded_syntaxes
from tests.fuzz.study_draft import IDENTIFIERS, THRESHOLD

Array = NDArray[Any]

CONDITIONS: Final[dict[str, Any]] = {"Modality": "(?i)^MR$", "ImageType": ["ORIGINAL", "PRIMARY"], "SeriesDescription": "(?i)^T1"}
_RULES: Final = json.dumps({"selections": [{"name": "T1", "conditions": CONDITIONS}]})
SYNTAXES: Final = decoded_syntaxes(["pydicom"])
_PLANE: Final = 2
_AS_IT_LIES: Final = frozenset({Handles.NON_SQUARE})
"""A threshold asks no affine, so that the SDK's, which swaps the two spacings of a pixel, does no harm."""


@dataclass(frozen=True)
class Application:
    """A name, the labels of its image, and how its volume is read."""

    name: str
    labels: dict[str, str]
    volume_of: Callable[[list[Dataset]], tuple[list[Dataset], Array]]
    wants_first_echo: bool = False
    """Whether its app.yaml asks for the stack of one echo time."""

    def run(self, source: Path, target: Path, listing: str) -> list[str]:
        """Answer the study in ``source``; returns what it printed. ``listing``: in which order the file system lists the folder."""
        said: list[str] = []
        series = selected(loaded(source, listing, said), said)
        for image in series:
            if image.file_meta.TransferSyntaxUID not in SYNTAXES:
                raise RuntimeError("no decoder for this transfer syntax")
        images, volume = self.volume_of(series)
        said.append(f"volume of {volume.shape}, {volume.dtype}, from {volume.min():.1f} to {volume.max():.1f}")
        mask = volume >= THRESHOLD
        write_segmentation(images, mask, target / "segmentation of the patient.dcm")
        return said


def loaded(source: Path, listing: str, said: list[str]) -> dict[str, list[Dataset]]:
    """Instances by series, one a position, in the order of the folder's listing; of two at a place, the one of the later acquisition."""
    found: dict[str, dict[tuple[float, ...] | None, list[Dataset]]] = {}
    for path in _listed(source, listing):
        try:
            data = pydicom.dcmread(path)
        except InvalidDicomError:
            said.append(f"ignored {path.name}")
            continue
        try:
            at_place = found.setdefault(str(data.SeriesInstanceUID), {})
            said.append(f"loaded {data.get('PatientName')} {data.SOPInstanceUID} of {data.SeriesInstanceUID}")
            position = data.get("ImagePositionPatient", None)
            place = tuple(float(value) for value in position) if position is not None else None
            images = at_place.setdefault(place, [])
            if place is None or not images:
                images.append(data)
            elif int(data.get("AcquisitionNumber", -1)) > int(images[0].get("AcquisitionNumber", -1)):
                images[0] = data
        except Exception as error:  # as the SDK's loader: what it cannot place, it passes over
            said.append(f"error parsing an instance: {error}")
    return {series: [data for images in places.values() for data in images] for series, places in found.items()}


def selected(series: dict[str, list[Dataset]], said: list[str]) -> list[Dataset]:
    """The largest series that the application's rules take."""
    taken = [images for images in series.values() if images and matches(CONDITIONS, images[0])]
    if not taken:
        raise LookupError(f"none of {len(series)} series meets the rules")
    chosen = max(taken, key=len)
    said += _introduction(chosen[0]) + _introduction(chosen[-1])
    return chosen


def sdk_volume(series: list[Dataset]) -> tuple[list[Dataset], Array]:
    """Planes in order along their normals, those without a place left out, in the type that fits the first of them."""
    images = _in_order(series) if len(series) > 1 else series
    first = _small_type(_sdk_pixels(images[0]))
    volume = np.empty((len(images), *first.shape), first.dtype)
    for number, image in enumerate(images):
        volume[number] = _small_type(_sdk_pixels(image)).astype(first.dtype)
    if first.ndim != _PLANE:
        raise ValueError(f"planes of {first.ndim} dimensions")
    return images, volume


def careful_volume(series: list[Dataset]) -> tuple[list[Dataset], Array]:
    """All values as floats, MONOCHROME1 turned round, the frames of one multi-frame image as its planes."""
    if "NumberOfFrames" in series[0]:
        if len(series) > 1:
            raise ValueError(f"{len(series)} multi-frame images in one series")
        image = series[0]
        frames = image.pixel_array.astype(float)
        return [image], np.stack([_by_group(image, number, frame) for number, frame in enumerate(frames)])
    images = _in_order(series)
    return images, np.stack([_careful_pixels(image) for image in images])


def write_segmentation(images: list[Dataset], mask: Array, path: Path) -> None:
    """A BINARY SEG on the planes of the images, as the SDK's writer makes it with highdicom."""
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Horn",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Brain,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence("threshold", codes.DCM.ArtificialIntelligence, "1"),
    )
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=mask.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=hd.UID(),
        series_number=int(images[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Invented",
        manufacturer_model_name="Invented",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )
    segmentation.save_as(path)


SDK: Final = Application(
    "sdk",
    {
        LABEL_RULES: _RULES,
        LABEL_VOLUME: "true",
        LABEL_STUDY_CONTRACT: StudyContract(volume=True, sdk_volume=True, handles=_AS_IT_LIES, syntaxes=SYNTAXES).to_label(),
    },
    sdk_volume,
)
CAREFUL: Final = Application(
    "careful",
    {
        LABEL_RULES: _RULES,
        LABEL_VOLUME: "true",
        LABEL_STUDY_CONTRACT: StudyContract(
            volume=True,
            handles=frozenset({Handles.MONOCHROME1, Handles.PIXEL_TYPE, Handles.ENHANCED, Handles.FLOAT_PIXELS, Handles.GANTRY_TILT}),
            syntaxes=SYNTAXES,
        ).to_label(),
    },
    careful_volume,
)
ECHO: Final = Application(
    "echo",
    {
        LABEL_RULES: _RULES,
        LABEL_STUDY_CONTRACT: StudyContract(
            volume=True, sdk_volume=True, handles=_AS_IT_LIES, stack=(("EchoTime", "10"),), syntaxes=SYNTAXES
        ).to_label(),
    },
    sdk_volume,
    wants_first_echo=True,
)
APPLICATIONS: Final = {application.name: application for application in (SDK, CAREFUL, ECHO)}


# ------------------------------------------------------------------------------------------------------------------------- reading


def _listed(source: Path, listing: str) -> list[Path]:
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if listing == "reversed":
        files.reverse()
    elif listing == "shuffled":
        random.Random(len(files)).shuffle(files)  # noqa: S311  it must be repeatable
    return files


def _introduction(image: Dataset) -> list[str]:
    """What an author prints of a patient while debugging, in several spellings."""
    lines = [f"{name}: {image.get(name)}" for name in IDENTIFIERS]
    lines += [f"frame of reference {image.get('FrameOfReferenceUID')}, study {image.get('StudyInstanceUID')}"]
    birth = str(image.get("PatientBirthDate") or "")
    if len(birth) == 8:
        lines.append(f"born {birth[:4]}-{birth[4:6]}-{birth[6:]} ({birth[6:]}.{birth[4:6]}.{birth[:4]})")
    name = str(image.get("PatientName") or "")
    return [*lines, f"patient {name.replace('^', ' ')} / {', '.join(name.split('^'))} / {name.lower()}"]


def _in_order(series: list[Dataset]) -> list[Dataset]:
    placed = []
    for image in series:
        directions, position = image.get("ImageOrientationPatient"), image.get("ImagePositionPatient")
        if directions is not None and position is not None:
            normal = np.cross(np.array(directions[:3], float), np.array(directions[3:], float))
            placed.append((float(normal @ np.array(position, float)), image))
    return [image for _, image in sorted(placed, key=lambda item: item[0])]


def _sdk_pixels(image: Dataset) -> Array:
    return np.asarray(apply_presentation_lut(apply_rescale(image.pixel_array, image), image))


def _small_type(pixels: Array) -> Array:
    """The smallest type that holds the values of this plane."""
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    for kind, fits in ((np.uint16, bool(np.all(pixels > 0))), (np.int16, True), (np.float32, True)):
        with np.errstate(invalid="ignore"):
            if fits and np.array_equal(pixels, pixels.astype(kind)):
                return pixels.astype(kind)
    return pixels


def _careful_pixels(image: Dataset) -> Array:
    stored = image.pixel_array.astype(float) if "PixelData" not in image else image.pixel_array
    if stored.ndim != _PLANE:
        raise ValueError(f"planes of {stored.ndim} dimensions")
    if image.PhotometricInterpretation == "MONOCHROME1":
        low = -(1 << (image.BitsStored - 1)) if image.PixelRepresentation else 0
        stored = 2 * low + (1 << image.BitsStored) - 1 - stored.astype(np.int64)
    return np.asarray(apply_rescale(stored, image), dtype=float)


def _by_group(image: Dataset, number: int, frame: Array) -> Array:
    groups = (image.PerFrameFunctionalGroupsSequence[number], image.SharedFunctionalGroupsSequence[0])
    for group in groups:
        for item in group.get("PixelValueTransformationSequence") or []:
            return np.asarray(frame * float(item.RescaleSlope) + float(item.RescaleIntercept))
    return frame
