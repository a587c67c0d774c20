"""The files of a folder as DICOM instances: read, grouped by study and series, none left out. pydicom alone, no SDK.

The SDK's loader keeps one image a position, drops images whose AcquisitionNumber is empty and series whose SeriesNumber is, and says so
only in its log. A volume of what is left can be wrong, so here everything is kept, and ``frames.py`` judges the series.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pydicom
from errors import NoAnswerError
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    MRSpectroscopyStorage,
    RawDataStorage,
    SegmentationStorage,
)
from text import IMAGE_GROUPS, to_utf8

NOT_IMAGES: Final = frozenset({RawDataStorage, MRSpectroscopyStorage, SegmentationStorage})
"""SOP classes that may share a series' or an image's attributes and hold no image of the patient."""
_MULTIPLICITY: Final = {"SeriesNumber": 1, "PixelSpacing": 2, "ImagerPixelSpacing": 2, "ImageOrientationPatient": 6}
"""How many values the SDK's loader takes for given."""
PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class FileError(NoAnswerError):
    """A file of the study cannot be told to a series, so that any series may lack a slice."""


@dataclass
class Series:
    """One series of a study: its images in the order of their files, and what else carries its UID."""

    study_uid: str
    uid: str
    images: list[Dataset] = field(default_factory=list)
    others: list[Dataset] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """How many planes the images hold."""
        return sum(number_of_frames(image) for image in self.images)


def number_of_frames(image: Dataset) -> int:
    """NumberOfFrames; 1 where it is absent or empty."""
    return int(image.get("NumberOfFrames") or 1)


def read_folder(files: Iterable[str | Path]) -> list[Series]:
    """Every series of the files. What is no DICOM is left out. Raises FileError for DICOM that cannot be told to a series."""
    series: dict[tuple[str, str], Series] = {}
    images: dict[str, list[Dataset]] = {}
    for path in sorted(files, key=str):
        instance = _read(path)
        if instance is None:
            continue
        key = (_uid(instance.StudyInstanceUID), _uid(instance.SeriesInstanceUID))
        found = series.setdefault(key, Series(*key))
        if "Rows" not in instance or instance.SOPClassUID in NOT_IMAGES:
            found.others.append(instance)
        elif not any(_same(instance, other) for other in images.setdefault(str(instance.SOPInstanceUID), [])):
            images[str(instance.SOPInstanceUID)].append(instance)
            found.images.append(instance)
    return list(series.values())


def rule_header(series: Series) -> Dataset:
    """The header of the first image that a series is chosen by: without what is empty or unreadable, at which the SDK's loader fails."""
    first = series.images[0]
    to_utf8(first)
    if isinstance(first.get("ImageType"), str):
        first.ImageType = [first.ImageType, ""]  # the SDK's selector fails where a rule has several terms and the attribute one value
    header = Dataset()
    for tag in list(first.keys()):
        if tag.is_private or tag.group >= IMAGE_GROUPS:
            continue
        element = _element(first, tag)
        if element is not None and not element.is_empty and _MULTIPLICITY.get(element.keyword, element.VM) == element.VM:
            header[tag] = element
    return header


def _element(image: Dataset, tag: BaseTag) -> DataElement | None:
    """An element; None where its value is none of its kind, which chooses nothing."""
    try:
        return image[tag]
    except Exception:  # pydicom raises many kinds
        return None


def _read(path: str | Path) -> Dataset | None:
    """An instance; None for a file that is no DICOM, and for an index of files (DICOMDIR)."""
    try:
        instance = pydicom.dcmread(path)
    except InvalidDicomError:  # without the preamble; a slice that is written so belongs to its series all the same
        instance = _read_bare(path)
    needed = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    if instance is None:
        return None
    kind = instance.file_meta.get("MediaStorageSOPClassUID") or instance.get("SOPClassUID")
    if not kind or kind == MediaStorageDirectoryStorage:
        return None
    if missing := [keyword for keyword in needed if not instance.get(keyword)]:
        raise FileError(f"a DICOM file breaks off or lacks {' and '.join(missing)}; what it belongs to is not known")
    return instance


def _read_bare(path: str | Path) -> Dataset | None:
    try:
        instance = pydicom.dcmread(path, force=True)
    except Exception:  # a text, a picture: pydicom stumbles over each in its own way
        return None
    implicit, little = instance.original_encoding
    if not instance.file_meta.get("TransferSyntaxUID"):
        native = (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian) if little else ExplicitVRBigEndian
        instance.file_meta.TransferSyntaxUID = native
    return instance


def _uid(value: Any) -> UID:
    return UID(str(value).strip(" \0"))


def _same(one: Dataset, other: Dataset) -> bool:
    """Whether two instances of one UID are one image that was copied. Where they differ, the series is refused later."""
    keywords = (*PIXELS, "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "RescaleSlope", "RescaleIntercept")
    return all(one.get(keyword) == other.get(keyword) for keyword in keywords)
