"""Small DICOM studies, segmentations and surfaces for tests. Pixels and headers are invented."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid


def write_series(folder: Path, study_uid: str, *, slices: int = 8, size: int = 16, spacing: float = 2.0, gap: float = 3.0) -> list[Path]:
    """An axial MR series with a bright block in the middle; returns its files in order of position."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame = generate_uid(), generate_uid()
    paths = []
    for index in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study_uid, series, frame
        data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Invented^Nobody", "INV-1", "", ""
        data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "20200101", "120000", "1", "", ""
        data.Modality, data.SeriesNumber, data.InstanceNumber, data.Manufacturer = "MR", 1, index + 1, "Invented"
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-10.0, -20.0, 5.0 + gap * index]
        data.PixelSpacing, data.SliceThickness, data.PositionReferenceIndicator = [spacing, spacing], gap, ""
        data.Rows = data.Columns = size
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        pixels = np.full((size, size), 100 + index, dtype=np.uint16)
        pixels[size // 4 : size // 2, size // 4 : size // 2] = 900
        data.PixelData = pixels.tobytes()
        path = folder / f"image{index:03d}.dcm"
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_seg(path: Path, source: list[Path], mask: np.ndarray) -> Path:
    """A BINARY SEG of one segment on the geometry of the source; ``mask`` has shape (slices, rows, columns)."""
    return write_segments(path, source, {"Brain": mask})


def write_segments(
    path: Path,
    source: list[Path],
    masks: dict[str, np.ndarray],
    kind: SegmentationTypeValues = SegmentationTypeValues.BINARY,
    *,
    empty_frames: bool = False,
) -> Path:
    """A SEG of segments by label, each a mask of shape (slices, rows, columns); a label map's segments must not overlap."""
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Brain,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=AlgorithmIdentificationSequence("invented", codes.DCM.ArtificialIntelligence, "1"),
        )
        for number, label in enumerate(masks, start=1)
    ]
    pixels = np.stack(list(masks.values()), axis=-1)
    segmentation = Segmentation(
        source_images=[pydicom.dcmread(item) for item in source],
        pixel_array=pixels.astype(np.float32 if kind is SegmentationTypeValues.FRACTIONAL else np.uint8),
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Invented",
        manufacturer_model_name="Invented",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=not empty_frames,
    )
    segmentation.save_as(path)
    return path


def box_stl(low: Sequence[float], high: Sequence[float]) -> bytes:
    """A box as binary STL; the arguments are its corners (x, y, z) in the file's own millimetres."""
    corners = np.array([[x, y, z] for z in (low[2], high[2]) for y in (low[1], high[1]) for x in (low[0], high[0])])
    quads = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))
    faces = np.array([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))])
    record = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    record["corners"] = corners[faces]
    return b"invented".ljust(80) + np.uint32(len(faces)).tobytes() + record.tobytes()
