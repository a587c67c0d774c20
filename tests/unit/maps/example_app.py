"""The modules of the example's application that need no SDK and no torch, and small series for them: 16 planes of 16 by 16 pixels of 8 mm.

The application imports its modules by plain names, as a packaged one does; here they are imported aside, so that no other test meets them.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

APP = Path(__file__).parents[3] / "examples" / "brain_mri" / "app"
MODULES = ("errors", "geometry", "mesh", "text", "instances", "frames", "jpeg12", "pixels", "choice", "seg")
SIZE, STEP = 16, 8.0


@cache
def app() -> SimpleNamespace:
    """Each module under its name."""
    kept = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(APP))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(APP))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def module(name: str) -> ModuleType:
    """One module of the application."""
    return getattr(app(), name)


def stored() -> np.ndarray:
    """Stored values [slice, row, column] from 0 to 4095, each slice with its own."""
    return (np.random.default_rng(3).random((SIZE, SIZE, SIZE)) * 4000).astype(np.uint16) + np.arange(SIZE, dtype=np.uint16)[:, None, None]


def classic(values: np.ndarray | None = None, **attributes: object) -> list[Dataset]:
    """A series of classic MR images from feet to head; ``attributes`` are set on each."""
    values = stored() if values is None else values
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    found = []
    for index, pixels in enumerate(values):
        item = _image(MRImageStorage, study, series, frame)
        item.InstanceNumber, item.AcquisitionNumber, item.EchoTime = index + 1, 1, "10"
        item.ImagePositionPatient = ["-60", "-60", f"{index * STEP:g}"]
        item.ImageOrientationPatient, item.PixelSpacing, item.SliceThickness = [1, 0, 0, 0, 1, 0], ["8", "8"], "8"
        item.PixelData = np.ascontiguousarray(pixels).tobytes()
        for name, value in attributes.items():
            setattr(item, name, value)
        found.append(item)
    return found


def enhanced(order: list[int] | None = None, values: np.ndarray | None = None) -> Dataset:
    """The same volume as one Enhanced MR image whose frames come in ``order``."""
    values = stored() if values is None else values
    order = list(range(len(values))) if order is None else order
    image = _image(EnhancedMRImageStorage, *(generate_uid() for _ in range(3)))
    image.ImageType, image.NumberOfFrames = ["ORIGINAL", "PRIMARY", "T1", "NONE"], len(order)
    shared = Dataset()
    shared.PlaneOrientationSequence = [item_of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.PixelMeasuresSequence = [item_of(PixelSpacing=[8, 8], SliceThickness=8)]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [
        item_of(
            PlanePositionSequence=[item_of(ImagePositionPatient=[-60, -60, index * STEP])],
            MREchoSequence=[item_of(EffectiveEchoTime=10.0)],
            FrameContentSequence=[item_of(StackID="1", InStackPositionNumber=index + 1)],
        )
        for index in order
    ]
    image.PixelData = np.ascontiguousarray(values[order]).tobytes()
    return image


def item_of(**attributes: object) -> Dataset:
    """An item of a sequence."""
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def groups(image: Dataset, index: int) -> Dataset:
    """The functional groups of one frame."""
    return image.PerFrameFunctionalGroupsSequence[index]


def _image(kind: str, study: str, series: str, frame: str) -> Dataset:
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = kind
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
    item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
    item.SpecificCharacterSet, item.Modality, item.ImageType = "ISO_IR 192", "MR", ["ORIGINAL", "PRIMARY", "M"]
    item.PatientName, item.PatientID, item.PatientBirthDate, item.PatientSex = "Invented", "1", "", "O"
    item.StudyDate, item.StudyTime, item.StudyID, item.AccessionNumber, item.ReferringPhysicianName = "20000101", "120000", "1", "", ""
    item.SeriesNumber = 1
    item.SamplesPerPixel, item.PhotometricInterpretation, item.Rows, item.Columns = 1, "MONOCHROME2", SIZE, SIZE
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 12, 11, 0
    return item
