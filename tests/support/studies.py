"""Small synthetic studies for tests, as bytes: good ones, and each kind of bad upload.

A tiny study is an axial MR series of a bright ball in a dark box. Its header is synthetic; ``PatientName`` can be planted, so that a test
can look for it where it must not appear.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid


def tiny_study(
    instances: int = 6,
    study_uid: str | None = None,
    *,
    wish: str = "tiny",
    modality: str = "MR",
    size: int = 24,
    patient_name: str = "SYNTHETIC^TEST",
    series_uid: str | None = None,
) -> list[Dataset]:
    """The instances of a study, from feet to head.

    ``wish`` becomes the SeriesDescription, from which the tiny application reads how to behave (``tests/apps/tiny``). ``size`` is rows and
    columns; voxels are 2 by 2 by 4 mm.
    """
    study, series, frame = study_uid or generate_uid(), series_uid or generate_uid(), generate_uid()
    z, y, x = np.mgrid[0:instances, 0:size, 0:size].astype(float)
    centre = (size - 1) / 2
    inside = ((z - (instances - 1) / 2) * 4) ** 2 + ((y - centre) * 2) ** 2 + ((x - centre) * 2) ** 2 < (size * 0.7) ** 2
    pixels = np.where(inside, 800, 40).astype("<u2")
    return [
        _instance(pixels[index], index, str(study), str(series), str(frame), wish, modality, patient_name) for index in range(instances)
    ]


def tiny_study_zip(instances: int = 6, study_uid: str | None = None, **options: object) -> bytes:
    """A zip of one tiny study. Options as in ``tiny_study``."""
    items = tiny_study(instances, study_uid, **options)  # type: ignore[arg-type]
    return zip_of({f"IMG{index:04d}.dcm": dicom_bytes(item) for index, item in enumerate(items)})


def ct_study(instances: int = 6, wish: str = "chest", study_uid: str | None = None, size: int = 24) -> list[Dataset]:
    """One synthetic CT series: a ball of lung (-800 HU) in soft tissue (40 HU)."""
    items = tiny_study(instances, study_uid, wish=wish, modality="CT", size=size)
    for item in items:
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = CTImageStorage
        item.BodyPartExamined, item.RescaleType = "CHEST", "HU"
        item.RescaleIntercept, item.RescaleSlope = -1024, 1
        item.PixelData = np.where(item.pixel_array == 800, 224, 1064).astype("<u2").tobytes()
    return items


def ct_study_zip(instances: int = 6, wish: str = "chest", study_uid: str | None = None, size: int = 24) -> bytes:
    """A zip of ``ct_study``."""
    return datasets_zip(ct_study(instances, wish, study_uid, size))


def datasets_zip(items: list[Dataset]) -> bytes:
    """A zip of the instances, in this order."""
    return zip_of({f"IMG{index:04d}.dcm": dicom_bytes(item) for index, item in enumerate(items)})


def two_studies_zip(instances: int = 4) -> bytes:
    """A zip of two studies, as a careless export makes it."""
    members = {}
    for folder in ("first", "second"):
        for index, item in enumerate(tiny_study(instances)):
            members[f"{folder}/IMG{index:04d}.dcm"] = dicom_bytes(item)
    return zip_of(members)


def corrupt_zip() -> bytes:
    """A zip that was cut off on the way: it begins well and has no end."""
    whole = tiny_study_zip()
    return whole[: len(whole) // 2]


def empty_zip() -> bytes:
    """A zip without any member."""
    return zip_of({})


def text_zip() -> bytes:
    """A zip of text files: valid, and no study."""
    return zip_of({"README.txt": b"nothing to see here\n", "notes/report.txt": b"no images\n"})


def traversal_zip() -> bytes:
    """A zip whose members try to leave the folder they are unpacked into."""
    item = dicom_bytes(tiny_study(1)[0])
    return zip_of({"../../outside.dcm": item, "/absolute.dcm": item, "inside.dcm": item})


def bomb_zip(mebibytes: int = 64) -> bytes:
    """A zip of a few kilobytes that unpacks into much more: zeros compress a thousandfold."""
    return zip_of({"zeros.dcm": bytes(mebibytes * 1024 * 1024)})


def dicom_bytes(dataset: Dataset) -> bytes:
    """A dataset as a DICOM file (PS3.10)."""
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    """A zip of the given members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), content, compress_type=zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _instance(pixels: np.ndarray, index: int, study: str, series: str, frame: str, wish: str, modality: str, patient_name: str) -> Dataset:
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 192"
    item.SOPClassUID, item.SOPInstanceUID = MRImageStorage, generate_uid()
    item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
    item.PatientName, item.PatientID, item.PatientBirthDate, item.PatientSex = patient_name, "TEST-1", "", "O"
    item.StudyDate, item.StudyTime, item.StudyID, item.AccessionNumber, item.ReferringPhysicianName = "20000101", "120000", "1", "", ""
    item.Modality, item.SeriesNumber, item.SeriesDescription, item.InstanceNumber = modality, 1, wish, index + 1
    item.Manufacturer, item.PositionReferenceIndicator, item.PatientPosition = "monai-aws-pipeline tests", "", "HFS"
    item.BodyPartExamined = "HEAD"
    item.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    item.ScanningSequence, item.SequenceVariant, item.ScanOptions, item.MRAcquisitionType = "GR", "SP", "", "3D"
    item.RepetitionTime, item.EchoTime, item.EchoTrainLength = "18", "10", "1"
    item.ImagePositionPatient, item.ImageOrientationPatient = [-24, -24, 4 * index], [1, 0, 0, 0, 1, 0]
    item.PixelSpacing, item.SliceThickness = [2, 2], 4
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Rows, item.Columns = pixels.shape
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 12, 11, 0
    item.PixelData = pixels.tobytes()
    item.file_meta = FileMetaDataset()
    item.file_meta.MediaStorageSOPClassUID, item.file_meta.MediaStorageSOPInstanceUID = MRImageStorage, item.SOPInstanceUID
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return item
