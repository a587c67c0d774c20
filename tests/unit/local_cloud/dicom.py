"""Invented DICOM files for the tests of the embedded HealthImaging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, SegmentationStorage, generate_uid


def write(path: Path, syntax: str = ExplicitVRLittleEndian, **changes: Any) -> Path:
    """One image of 4 by 4 pixels; ``changes`` by keyword, None takes an attribute away."""
    meta = FileMetaDataset()
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    usual: dict[str, Any] = {
        "SOPClassUID": MRImageStorage, "SOPInstanceUID": generate_uid(), "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1",
        "PatientID": "INV-1", "PatientName": "Invented^Nobody", "StudyDate": "20200101", "StudyTime": "120000", "StudyID": "S1",
        "AccessionNumber": "A1", "Modality": "MR", "SeriesNumber": 1, "InstanceNumber": 1, "Rows": 4, "Columns": 4, "SamplesPerPixel": 1,
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": np.arange(16, dtype="<u2").tobytes(),
    }  # fmt: skip
    for keyword, value in {**usual, **changes}.items():
        if value is not None:
            setattr(data, keyword, value)
    if fragments := changes.get("fragments"):
        data.PixelData = encapsulate(fragments)
        data["PixelData"].is_undefined_length = True
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.get("SOPClassUID", ""), data.get("SOPInstanceUID", "")
    meta.TransferSyntaxUID = syntax
    data.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return path


def write_binary_seg(path: Path, syntax: str = ExplicitVRLittleEndian, **changes: Any) -> Path:
    """A binary segmentation of three frames, 3 by 3 pixels: no frame but the first begins with a byte."""
    bits = np.array([[1] * 9, [0] * 8 + [1], [1, 0, 1] * 3], np.uint8).ravel()
    pixels = np.packbits(bits, bitorder="little").tobytes()
    usual: dict[str, Any] = {
        "SOPClassUID": SegmentationStorage, "Modality": "SEG", "SeriesInstanceUID": "1.2.3.2", "SeriesNumber": 900, "Rows": 3, "Columns": 3,
        "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 3, "PixelData": pixels + b"\0" * (len(pixels) % 2),
    }  # fmt: skip
    return write(path, syntax, **{**usual, **changes})
