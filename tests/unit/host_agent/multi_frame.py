"""A study in one file of several frames."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, generate_uid


def multi_frame(files: list[Path], path: Path) -> Path:
    """The images of a series in one Enhanced MR file, in mixed order, each frame with a rescale of its own."""
    slices = [pydicom.dcmread(files[index]) for index in (3, 0, 7, 1, 6, 2, 5, 4)]
    data = pydicom.dcmread(files[0])
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = data.ImageOrientationPatient, data.PixelSpacing
    measures.SliceThickness = 1
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    frames = []
    for index, item in enumerate(slices):
        frame, position, rescale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, rescale.RescaleSlope, rescale.RescaleIntercept = item.ImagePositionPatient, index + 1, 0
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [rescale]
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence, data.NumberOfFrames = [shared], frames, len(frames)
    data.PixelData = b"".join((item.pixel_array // (index + 1) * 1).astype("<u2").tobytes() for index, item in enumerate(slices))
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, name)
    data.save_as(path)
    return path
