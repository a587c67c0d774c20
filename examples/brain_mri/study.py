"""Writes a NIfTI head volume as a DICOM MR study and zips it, as a scanner's export would look.

The pixels are the volume's own; the header is invented and says so in the attributes that people read. One axial instance a slice,
MR Image Storage (PS3.3 A.4). NIfTI is RAS, DICOM is LPS: x and y are reversed, positions in millimetres.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from monai_aws_pipeline.errors import NamedError

NOTE: Final = "Invented header around a public template volume: no patient, not for clinical use"
_DATE: Final = "20000101"
_ZIP_TIME: Final = (2000, 1, 1, 0, 0, 0)


class StudyError(NamedError, ValueError):
    """The volume cannot be written as an axial MR study."""


@dataclass(frozen=True)
class StudySummary:
    """What was written."""

    path: Path
    study_instance_uid: str
    series_instance_uid: str
    instances: int
    bytes: int


def write_study_zip(volume: Path, target: Path, *, seed: str | None = None) -> StudySummary:
    """Write a NIfTI volume as a zipped MR study.

    Args:
        volume: NIfTI file of a scalar 3D volume whose axes lie along the patient's (not oblique).
        target: The zip to write; it appears under its name only when complete.
        seed: The same seed gives the same UIDs and the same bytes; None gives a new study each time.

    Raises:
        StudyError: The volume is not 3D, is oblique, or holds values that 16 bits cannot.
    """
    datasets = study_datasets(volume, seed=seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for dataset in datasets:
            member = zipfile.ZipInfo(f"MR/{dataset.InstanceNumber:04d}.dcm", date_time=_ZIP_TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, _file_bytes(dataset))
    partial.replace(target)
    return StudySummary(target, str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID), len(datasets), target.stat().st_size)


def study_datasets(volume: Path, *, seed: str | None = None) -> list[Dataset]:
    """The instances of the study, from feet to head. Arguments and errors as in ``write_study_zip``."""
    image = nibabel.as_closest_canonical(nibabel.load(volume))
    data = np.asarray(image.dataobj)
    if data.ndim != 3:
        raise StudyError(f"expected a 3D volume, got {data.ndim} dimensions")
    directions = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    if not np.allclose(directions, np.eye(3), atol=1e-3) or not np.array_equal(io_orientation(image.affine)[:, 1], [1, 1, 1]):
        raise StudyError("the volume is oblique; this writer makes axial slices along the patient's axes only")
    if data.min() < 0 or data.max() > 65535 or not np.array_equal(data, np.rint(data)):
        raise StudyError("expected whole values from 0 to 65535")
    stored = data.astype(np.uint16)

    uids = [_uid(seed, name) for name in ("study", "series", "frame of reference")]
    bits = max(12, int(stored.max()).bit_length())
    return [_instance(stored, image.affine, index, uids, seed, bits) for index in range(stored.shape[2])]


def _uid(seed: str | None, name: str) -> UID:
    return generate_uid() if seed is None else generate_uid(entropy_srcs=["monai-aws-pipeline example study", seed, name])


def _instance(stored: NDArray[np.uint16], affine: NDArray[np.float64], index: int, uids: list[UID], seed: str | None, bits: int) -> Dataset:
    """One axial slice. ``stored`` is [x, y, z] in RAS; rows run to the posterior, columns to the patient's left."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    pixels = stored[::-1, ::-1, index].T  # rows = y towards posterior, columns = x towards left
    first = affine @ np.array([stored.shape[0] - 1, stored.shape[1] - 1, index, 1.0])
    position = [-first[0], -first[1], first[2]]

    dataset = Dataset()
    _patient_and_study(dataset, uids[0])
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = uids[1]
    dataset.SeriesNumber = 1
    dataset.SeriesDate, dataset.SeriesTime = _DATE, "120000"
    dataset.SeriesDescription = "T1 head (example data, invented header)"
    dataset.ProtocolName = "T1 head"
    dataset.BodyPartExamined = "BRAIN"
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID = uids[2]
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = "monai-aws-pipeline example"
    dataset.ManufacturerModelName = "study.py"
    dataset.SoftwareVersions = "1"
    dataset.DeviceSerialNumber = "0"
    dataset.InstitutionName = "Invented"

    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = _uid(seed, f"instance {index}")
    dataset.InstanceNumber = index + 1
    dataset.AcquisitionNumber = 1
    dataset.ContentDate, dataset.ContentTime = _DATE, "120000"
    dataset.AcquisitionDate, dataset.AcquisitionTime = _DATE, "120000"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ImageComments = NOTE
    _mr_acquisition(dataset)

    dataset.ImagePositionPatient = [_decimal(value) for value in position]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    dataset.SliceThickness = _decimal(spacing[2])
    dataset.SpacingBetweenSlices = _decimal(spacing[2])
    dataset.SliceLocation = _decimal(position[2])

    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, bits, bits - 1, 0
    dataset.WindowCenter, dataset.WindowWidth = 80, 160
    dataset.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return dataset


def _patient_and_study(dataset: Dataset, study_uid: UID) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "EXAMPLE^INVENTED"
    dataset.PatientID = "EXAMPLE-0001"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.PatientComments = NOTE
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Public template volume; header invented"
    dataset.StudyInstanceUID = study_uid
    dataset.StudyID = "1"
    dataset.StudyDate, dataset.StudyTime = _DATE, "120000"
    dataset.StudyDescription = "Example data, invented header"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""


def _mr_acquisition(dataset: Dataset) -> None:
    """Attributes the MR Image module requires (PS3.3 C.8.3.1); plausible for a T1-weighted gradient echo, and invented."""
    dataset.ScanningSequence = "GR"
    dataset.SequenceVariant = "SP"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "3D"
    dataset.RepetitionTime = "18"
    dataset.EchoTime = "10"
    dataset.FlipAngle = "30"
    dataset.EchoTrainLength = "1"
    dataset.MagneticFieldStrength = "1.5"


def _decimal(value: Any) -> str:
    """A decimal string of at most 16 characters (VR DS)."""
    return f"{float(value):.6f}".rstrip("0").rstrip(".")[:16] or "0"


def _file_bytes(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
