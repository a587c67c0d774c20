"""A good study that axes change: an invented object in an invented patient, acquired on planes, with its headers and its packaging.

Here belongs what every study of ``studies.py`` starts from, and how a draft becomes the objects of an upload. What is changed belongs in
``study_axes``. The object fills every plane, is the same under no swap, flip or shift, and holds a random texture: one plane lost, doubled
or misplaced, or values scaled by a few per cent, change the right answer. Millimetres in the patient's coordinates (LPS).
"""

from __future__ import annotations

import copy
import io
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

Array = NDArray[Any]

THRESHOLD: Final = 500.5
"""What the applications call inside, in rescaled units."""
CENTER: Final = np.array([12.3, -7.1, 33.9])
UID_ROOT: Final = "1.2.826.0.1.3680043.8.498.1961.7077"
"""Every UID of a draft begins so: where it turns up in a text of the agent's, an identifier leaked."""
NAME: Final = "Zqplant^Vaughnzq"
BIRTH_DATE: Final = "19610203"
IDENTIFIERS: Final[dict[str, Any]] = {
    "PatientName": NAME,
    "PatientID": "PIDZQ77",
    "PatientBirthDate": BIRTH_DATE,
    "OtherPatientIDs": ["OTHERZQ1", "OTHERZQ2"],
    "OtherPatientNames": "Zqformer^Vaughnzq",
    "PatientBirthName": "Zqborn^Vaughnzq",
    "PatientMotherBirthName": "Zqmother^Ellenzq",
    "PatientAddress": "Streetzq 7 Townzq",
    "PatientTelephoneNumbers": "555-ZQ-0815",
    "PatientComments": "Commentzq",
    "AccessionNumber": "ACCZQ9",
    "StudyID": "SIDZQ5",
    "ReferringPhysicianName": "Refzq^Doctorzq",
    "PerformingPhysicianName": "Perfzq^Doctorzq",
    "OperatorsName": "Operzq^Personzq",
    "NameOfPhysiciansReadingStudy": "Readzq^Doctorzq",
    "RequestingPhysician": "Requestzq^Doctorzq",
    "InstitutionName": "Hospitalzq",
    "InstitutionAddress": "Avenuezq 1",
    "StationName": "STATIONZQ",
}
"""Attributes that name a person or a place (PS3.15 table E.1-1); each value holds ``zq``."""


@dataclass(frozen=True)
class Geometry:
    """Planes of an acquisition: directions of rows and columns, spacing (row, column) and step in mm, shape (planes, rows, columns)."""

    row: Sequence[float] = (1, 0, 0)
    column: Sequence[float] = (0, 1, 0)
    spacing: tuple[float, float] = (0.9, 1.1)
    step: float = 2.5
    shape: tuple[int, int, int] = (24, 40, 48)
    shear: float = 0.0
    """Millimetres along the columns from plane to plane: the gantry's tilt."""


AXIAL: Final = Geometry()


@dataclass(eq=False)
class Image:
    """One instance: its header without pixels, and the values that the patient has there, in rescaled units.

    ``store`` writes the pixels into a header; an axis that encodes them otherwise replaces it.
    """

    header: Dataset
    values: Array
    store: Callable[[Dataset, Array], None] = field(default_factory=lambda: store_unsigned)


@dataclass(frozen=True)
class TruePlane:
    """Where an image truly lies, whatever its header says later."""

    image: Image
    position: Array
    orientation: Array
    spacing: tuple[float, float]
    thickness: float
    """Distance to the next plane, along the normal."""


@dataclass(eq=False)
class Series:
    """Images of one series; ``truth``: the planes of which a right answer consists, none where no answer about it is right.

    ``chosen``: the same for an application that wants the stack of the first echo, where that makes a difference.
    """

    images: list[Image]
    truth: list[TruePlane]
    chosen: list[TruePlane] = field(default_factory=list)


@dataclass(eq=False)
class Draft:
    """An upload in the making. Axes change it, in the order of their phases."""

    random: random.Random
    noise: np.random.Generator
    series: list[Series] = field(default_factory=list)
    companions: list[Dataset] = field(default_factory=list)
    encode: Callable[[Dataset, int], bytes] = field(default_factory=lambda: encode_explicit)
    bytes_steps: list[Callable[[bytes, int], bytes]] = field(default_factory=list)
    """Applied to each image's file: its bytes and its number in the upload."""
    name: Callable[[int], str] = field(default_factory=lambda: lambda number: f"Zqplant Vaughnzq/IMG{number:04d}.dcm")
    order: Callable[[list[tuple[str, bytes]]], None] | None = None
    members: list[tuple[str, bytes]] = field(default_factory=list)
    """Further files of the upload that are no image of the study."""
    pack: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]] = field(default_factory=lambda: pack_zip)
    """From members to objects under ``input/``."""
    listing: str = "sorted"
    """In which order the application's folder is listed: sorted, reversed, shuffled."""
    uids: int = 0

    def uid(self) -> str:
        """A new UID of this draft's own."""
        self.uids += 1
        return f"{UID_ROOT}.{self.random.getrandbits(48)}.{self.uids}"

    @property
    def main(self) -> Series:
        """The series that the application is made for."""
        return self.series[0]

    @property
    def images(self) -> list[Image]:
        """The main series' images."""
        return self.main.images

    def headers(self) -> Iterator[Dataset]:
        """Headers of all images of all series, and of the companions."""
        for series in self.series:
            yield from (image.header for image in series.images)
        yield from self.companions

    def acquire(self, geometry: Geometry = AXIAL, like: Image | None = None) -> Series:
        """A new series of the object on these planes, in a series and frame of reference of its own unless ``like`` another image."""
        study, series, frame = (
            (like.header.StudyInstanceUID, like.header.SeriesInstanceUID, like.header.FrameOfReferenceUID)
            if like
            else (self.series[0].images[0].header.StudyInstanceUID if self.series else self.uid(), self.uid(), self.uid())
        )
        row, column = np.array(geometry.row, float), np.array(geometry.column, float)
        normal = np.cross(row, column)
        planes, rows, columns = geometry.shape
        first = (
            CENTER
            - normal * geometry.step * (planes - 1) / 2
            - column * (geometry.spacing[0] * (rows - 1) + geometry.shear * (planes - 1)) / 2
            - row * geometry.spacing[1] * (columns - 1) / 2
        )
        orientation = np.array([float(f"{value:.9f}") for value in (*row, *column)])
        images, truth = [], []
        for number in range(planes):
            position = np.array(
                [float(f"{value:.6f}") for value in first + normal * geometry.step * number + column * geometry.shear * number]
            )
            header = header_of(str(study), str(series), str(frame), self.uid(), number + 1)
            header.ImagePositionPatient = [f"{value:.6f}" for value in position]
            header.ImageOrientationPatient = [f"{value:.9f}" for value in orientation]
            header.PixelSpacing = [f"{value:g}" for value in geometry.spacing]
            header.SliceThickness = header.SpacingBetweenSlices = f"{geometry.step:g}"
            header.Rows, header.Columns = rows, columns
            image = Image(header, self._values(position, orientation, geometry.spacing, (rows, columns)))
            images.append(image)
            truth.append(TruePlane(image, position, orientation, geometry.spacing, geometry.step))
        return Series(images, truth)

    def _values(self, position: Array, orientation: Array, spacing: tuple[float, float], shape: tuple[int, int]) -> Array:
        inside, smooth = object_at(points_of(position, orientation, spacing, shape))
        air = self.noise.integers(10, 60, shape)
        texture = self.noise.random(shape)
        holes, edges = self.noise.integers(380, 500, shape), self.noise.integers(502, 580, shape)
        solid = np.where(texture < 0.25, holes, np.where(texture < 0.45, edges, np.rint(smooth)))
        return np.where(inside, solid, air).astype(float)

    def another(self, image: Image, values: Array | None = None, **changes: Any) -> Image:
        """A second instance of an image, with other values or attributes where they are given."""
        header = copy.deepcopy(image.header)
        header.SOPInstanceUID = self.uid()
        for name, value in changes.items():
            setattr(header, name, value)
        return Image(header, image.values.copy() if values is None else values, image.store)

    def other_values(self, image: Image) -> Array:
        """Values that answer otherwise: another contrast at the same place."""
        return np.where(image.values > 100, np.roll(image.values, (5, 7), (0, 1)) * 0.9 + 40, image.values).round()

    def objects(self) -> list[tuple[str, bytes]]:
        """The objects of the upload: (key, content)."""
        files = []
        for item in [*(image for series in self.series for image in series.images), *self.companions]:
            header = item if isinstance(item, Dataset) else with_same_elements(item.header)
            if isinstance(item, Image):
                item.store(header, item.values)
            content = self.encode(header, len(files)) if isinstance(item, Image) else encode_explicit(header, len(files))
            if isinstance(item, Image):
                for step in self.bytes_steps:
                    content = step(content, len(files))
            files.append((self.name(len(files)), content))
        if self.order:
            self.order(files)
        return self.pack([*files, *self.members])


def good_draft(seed: str) -> Draft:
    """The unmutated study; the same seed gives the same study."""
    chosen = random.Random(seed)  # noqa: S311  it must be repeatable
    return Draft(chosen, np.random.default_rng(chosen.getrandbits(64)))


def points_of(position: Array, orientation: Array, spacing: tuple[float, float], shape: tuple[int, int]) -> Array:
    """Centres of a plane's pixels, (rows, columns, 3)."""
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    return np.asarray(
        position + rows[..., None] * orientation[3:] * spacing[0] + columns[..., None] * orientation[:3] * spacing[1], dtype=float
    )


def object_at(points: Array) -> tuple[Array, Array]:
    """Whether points lie in the object, and its smooth value there: a bent horn that runs through all planes, with a notch on one side."""
    x, y, z = np.moveaxis(points - CENTER, -1, 0)
    across, deep = x - 4 - 0.18 * z, y + 2 - 0.004 * z**2
    horn = (across / (15 - 0.12 * z)) ** 2 + (deep / (10 + 0.09 * z)) ** 2 < 1
    notch = (across > 3) & (np.abs(deep - 2) < 2.5) & (z < 12)
    ends = np.abs(z) < 31
    smooth = 520 + 1080 * np.clip(0.5 + 0.011 * across + 0.017 * deep + 0.006 * z, 0, 1)
    return horn & ~notch & ends, smooth


def header_of(study: str, series: str, frame: str, sop: str, number: int) -> Dataset:
    """The header of an MR image with every planted identifier; geometry and pixels are the caller's."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, sop
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
    for name, value in IDENTIFIERS.items():
        setattr(header, name, value)
    header.PatientSex, header.PatientAge, header.PatientWeight = "O", "059Y", "72"
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = "20200417"
    header.StudyTime = header.SeriesTime = header.AcquisitionTime = header.ContentTime = "120000"
    header.Modality, header.SeriesNumber, header.SeriesDescription, header.InstanceNumber = "MR", 3, "T1 volume", number
    header.StudyDescription, header.ProtocolName, header.BodyPartExamined = "MR study", "T1", "HEAD"
    header.Manufacturer, header.ManufacturerModelName = "Invented", "Invented"
    header.DeviceSerialNumber, header.SoftwareVersions = "SERIALZQ3", "1"
    header.PositionReferenceIndicator, header.PatientPosition = "", "HFS"
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions, header.MRAcquisitionType = "GR", "SP", "", "3D"
    header.RepetitionTime, header.EchoTime, header.EchoTrainLength, header.EchoNumbers = "18", "10", "1", 1
    header.AcquisitionNumber = 1
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    return header


def store_unsigned(header: Dataset, values: Array) -> None:
    """Pixels as whole numbers of 16 bits, as the header already says."""
    header.Rows, header.Columns = values.shape
    header.PixelData = np.rint(values).astype("<u2").tobytes()
    header["PixelData"].VR = "OW"


def with_same_elements(header: Dataset) -> Dataset:
    """A data set that elements can be added to and taken from without changing this one; copying each of them would take longest of all."""
    found = Dataset()
    for element in header:
        found.add(element)
    return found


def with_meta(header: Dataset, syntax: str) -> Dataset:
    """The data set with its file meta information."""
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.get("SOPClassUID") or MRImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID") or "1.2.3"
    header.file_meta.TransferSyntaxUID = syntax
    return header


def encode_explicit(header: Dataset, number: int) -> bytes:
    """A data set as a DICOM file in explicit VR little endian."""
    return saved(with_meta(header, ExplicitVRLittleEndian))


def saved(header: Dataset, **options: Any) -> bytes:
    """A data set with file meta information as a DICOM file (PS3.10)."""
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True, **options)
    return stream.getvalue()


def pack_zip(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """One zip under a name that is the patient's."""
    return [("input/Zqplant Vaughnzq 1961-02-03.zip", zipped(members, comment=b"created for Zqplant Vaughnzq"))]


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """A zip of these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method, compresslevel=1 if method == zipfile.ZIP_DEFLATED else None) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, (2020, 4, 17, 0, 0, 0)), content, compress_type=method)
        archive.comment = comment
    return stream.getvalue()
