"""An answered study to look at: oblique, uneven in its spacings, with a segmentation and a surface of one corner-shaped thing in it.

Its geometry has no symmetry, so that whatever is turned, mirrored or shifted on the way lies elsewhere. Values that identify are planted
wherever DICOM has room for them. ``overlay`` reads it back through a DICOMweb and holds it against what was stored.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.message import EmailMessage
from functools import cache
from typing import Any

import highdicom
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import OutputFile, ResultRecord
from tests.support.studies import dicom_bytes, tiny_study, zip_of
from tests.unit.studies.records import Bucket, succeeded

ROWS, COLUMNS, PLANES = 21, 19, 7
SPACING, STEP = (1.3, 0.7), 2.9
NAMED = ("DOE^JANE", "MRN-4711", "ACC-0815", "GENERAL HOSPITAL", "19610203", "20010203", "WRITTEN BY DR WHO")
"""What identifies. None of it may come out anywhere."""
BRIGHT, DARK = 800, 40

Get = Callable[[str, str], tuple[int, str, bytes]]
"""``get(path, accept)``: status, content type and body."""


@dataclass(frozen=True)
class ViewedStudy:
    """What lies in the bucket: images in the order of their planes, segmentation, mask (planes, rows, columns) and surface."""

    record: ResultRecord
    images: list[Dataset]
    seg: Dataset
    mask: np.ndarray

    @property
    def uids(self) -> set[str]:
        """All that are its own."""
        found = {
            str(each[name].value)
            for each in (*self.images, self.seg)
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        }
        return found | {str(self.images[0].FrameOfReferenceUID)}

    def place(self, plane: int, row: float, column: float) -> np.ndarray:
        """Millimetres in the patient (LPS) of a voxel."""
        return origin() + axes() @ np.array([column * SPACING[1], row * SPACING[0], plane * STEP])


def axes() -> np.ndarray:
    """Directions of a row, a column and the normal, as columns."""
    a, b = np.deg2rad(20), np.deg2rad(-33)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return np.asarray(turn @ tilt)


def origin() -> np.ndarray:
    return np.array([-31.0, 17.0, 103.0])


def thing() -> np.ndarray:
    """Three bars of different lengths that meet in a corner."""
    mask = np.zeros((PLANES, ROWS, COLUMNS), bool)
    mask[1:3, 3:5, 2:15] = mask[1:3, 3:18, 2:4] = mask[1:6, 3:5, 2:4] = True
    return mask


def images_of(mask: np.ndarray) -> list[Dataset]:
    found = tiny_study(PLANES, size=4, patient_name=NAMED[0])
    for plane, image in enumerate(found):
        image.Rows, image.Columns = ROWS, COLUMNS
        image.PixelData = np.where(mask[plane], BRIGHT, DARK).astype("<u2").tobytes()
        image.ImageOrientationPatient = [float(value) for value in axes()[:, :2].T.ravel().round(9)]
        image.ImagePositionPatient = [float(value) for value in (origin() + axes()[:, 2] * plane * STEP).round(6)]
        image.PixelSpacing, image.SliceThickness = list(SPACING), STEP
        image.PatientID, image.AccessionNumber, image.InstitutionName = NAMED[1], NAMED[2], NAMED[3]
        image.PatientBirthDate, image.StudyDate, image.SeriesDescription = NAMED[4], NAMED[5], NAMED[6]
        request = Dataset()
        request.RequestedProcedureDescription, request.RequestedProcedureID = NAMED[6], NAMED[2]
        image.RequestAttributesSequence = [request]
        image.add_new(0x00091001, "LO", NAMED[6])
        image.add_new(0x00090010, "LO", "A VENDOR")
    return found


def seg_of(images: list[Dataset], mask: np.ndarray) -> Dataset:
    description = highdicom.seg.SegmentDescription(
        1, "Thing", codes.SCT.AnatomicalStructure, codes.SCT.Brain, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    return highdicom.seg.Segmentation(
        images, mask.astype(np.uint8), highdicom.seg.SegmentationTypeValues.BINARY, [description], generate_uid(), 900, generate_uid(), 1,
        "tests", "tests", "1", "1", content_creator_name=NAMED[0],
    )  # fmt: skip


def stl_of(study: ViewedStudy, sign: tuple[float, float, float] = (1, 1, 1)) -> bytes:
    """The corners of the thing's voxels, of each a small triangle. ``sign``: what the coordinates are multiplied with."""
    records = b""
    filled = np.argwhere(study.mask)
    for plane, row, column in itertools.product(*((low, high) for low, high in zip(filled.min(0), filled.max(0), strict=True))):
        place = study.place(plane, row, column) * sign
        records += struct.pack("<12fH", 0, 0, 1, *place, *np.add(place, [0.01, 0, 0]), *np.add(place, [0, 0.01, 0]), 0)
    return b"\0" * 80 + struct.pack("<I", len(records) // 50) + records


@cache
def _made(number: int) -> tuple[list[bytes], bytes]:
    """The files of one study, made once in a process: each test may change what it reads of them."""
    mask = thing()
    images = images_of(mask)
    return [dicom_bytes(each) for each in images], dicom_bytes(seg_of(images, mask))


def answered(bucket: Bucket, number: int = 1, sign: tuple[float, float, float] = (1, 1, 1)) -> ViewedStudy:
    """Put one into a bucket as a host leaves it, its images shuffled in the upload."""
    kept, kept_seg = _made(number)
    images, mask = [dcmread(io.BytesIO(each)) for each in kept], thing()
    study = ViewedStudy(succeeded(number), images, dcmread(io.BytesIO(kept_seg)), mask)
    contents = {"dicom/seg.dcm": (dicom_bytes(study.seg), "dicom-seg"), "mesh/thing.stl": (stl_of(study, sign), "mesh")}
    outputs = []
    for name, (content, kind) in contents.items():
        key = f"output/{study.record.study}/{study.record.job}/{name}"
        bucket.put(key, content)
        outputs.append(OutputFile(key, hashlib.sha256(content).hexdigest(), len(content), kind))
    order = [3, 0, 6, 2, 5, 1, 4]
    upload = zip_of({f"JANE DOE/{place}.dcm": dicom_bytes(images[index]) for place, index in enumerate(order)})
    bucket.put(f"processed/{study.record.study}/{study.record.job}/upload.zip", upload)
    record = replace(study.record, outputs=tuple(outputs))
    bucket.commit(record)
    return replace(study, record=record)


# ------------------------------------------------------------------------------------------------------------------ read back


@dataclass(frozen=True)
class Overlay:
    """What a DICOMweb gives of a study: for each frame of its segmentation the mask, and the pixels of the image that it refers to."""

    masks: np.ndarray
    pixels: np.ndarray
    places: np.ndarray
    """Of the upper left pixel of each frame, in mm."""
    image_places: np.ndarray
    """The same of the images."""


def overlay(get: Get, root: str) -> Overlay:
    """Read it back: the segmentation frame by frame, and each image that a frame refers to."""
    (study,) = _json(get, f"{root}/studies")
    base = f"{root}/studies/{study['0020000D']['Value'][0]}"
    series = {each["00080060"]["Value"][0]: each["0020000E"]["Value"][0] for each in _json(get, f"{base}/series")}
    (seg,) = _json(get, f"{base}/series/{series['SEG']}/metadata")
    images = {each["00080018"]["Value"][0]: each for each in _json(get, f"{base}/series/{series['MR']}/metadata")}
    masks, pixels, places, image_places = [], [], [], []
    for number, groups in enumerate(seg["52009230"]["Value"], 1):
        frame = f"{base}/series/{series['SEG']}/instances/{seg['00080018']['Value'][0]}/frames/{number}"
        bits = np.unpackbits(np.frombuffer(_part(*get(frame, FRAMES)), np.uint8), bitorder="little")
        masks.append(bits[: ROWS * COLUMNS].reshape(ROWS, COLUMNS))
        source = groups["00089124"]["Value"][0]["00082112"]["Value"][0]["00081155"]["Value"][0]
        image = images[source]
        pixels.append(
            np.frombuffer(_part(*get(f"{base}/series/{series['MR']}/instances/{source}/frames/1", FRAMES)), "<u2").reshape(ROWS, COLUMNS)
        )
        places.append(groups["00209113"]["Value"][0]["00200032"]["Value"])
        image_places.append(image["00200032"]["Value"])
    return Overlay(np.array(masks), np.array(pixels), np.array(places, float), np.array(image_places, float))


def part10(get: Get, root: str, modality: str = "SEG") -> Dataset:
    """The first object of a modality as a file."""
    (study,) = _json(get, f"{root}/studies")
    base = f"{root}/studies/{study['0020000D']['Value'][0]}"
    (uid,) = [each["0020000E"]["Value"][0] for each in _json(get, f"{base}/series") if each["00080060"]["Value"] == [modality]]
    first = _json(get, f"{base}/series/{uid}/instances")[0]["00080018"]["Value"][0]
    return dcmread(io.BytesIO(_part(*get(f"{base}/series/{uid}/instances/{first}", 'multipart/related; type="application/dicom"'))))


def check(found: Overlay, study: ViewedStudy) -> None:
    """That the masks are those in S3, to the voxel, and lie on the thing in the images that came with them."""
    stored = dcmread(io.BytesIO(dicom_bytes(study.seg)))
    there = np.asarray(stored.pixel_array)
    assert there.shape == found.masks.shape
    assert dice(found.masks, there) == 1.0
    assert int(found.masks.sum()) == int(study.mask.sum())
    assert np.array_equal(found.pixels == BRIGHT, found.masks.astype(bool)), "the mask is where the images are bright"
    assert np.allclose(found.places, found.image_places, atol=1e-4)
    planes = [plane for plane in range(PLANES) if study.mask[plane].any()]
    assert np.allclose(sorted(map(tuple, found.places)), sorted(tuple(study.place(plane, 0, 0)) for plane in planes), atol=1e-3)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * np.logical_and(one, other).sum() / (one.astype(bool).sum() + other.astype(bool).sum()))


FRAMES = 'multipart/related; type="application/octet-stream"'


def _json(get: Get, path: str) -> list[Any]:
    status, kind, body = get(path, "application/dicom+json")
    assert (status, kind) == (200, "application/dicom+json"), body[:500]
    found = json.loads(body)
    assert isinstance(found, list)
    return found


def _part(status: int, kind: str, body: bytes) -> bytes:
    assert status == 200, body[:500]
    said = EmailMessage()
    said["content-type"] = kind
    boundary = str(said.get_param("boundary")).encode()
    _, part, end = (b"\r\n" + body).split(b"\r\n--" + boundary)
    assert end.startswith(b"--")
    return part.partition(b"\r\n\r\n")[2]
