"""Reading what was uploaded: which studies, series and instances it holds, and whether each instance is whole.

Here belongs pydicom on the input side. Nothing here keeps or logs a value of a patient. Sources: PS3.3 C.7.2.1 (General Study),
C.12.1 (SOP Common), C.7.6.3 (Image Pixel), PS3.10 (file format).
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import FileDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from monai_aws_pipeline.host_agent.errors import Code, RefusedError

# pydicom quotes offending values in warnings and log lines; a value may be a name.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_TAGS: Final = [
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "Rows", "Columns", "BitsAllocated",
    "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation",
]  # fmt: skip

_IDENTIFYING: Final = [
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthDate", "PatientBirthName", "PatientMotherBirthName",
    "PatientAddress", "PatientTelephoneNumbers", "AccessionNumber", "StudyID", "ReferringPhysicianName", "PerformingPhysicianName",
    "OperatorsName", "NameOfPhysiciansReadingStudy", "RequestingPhysician", "InstitutionName", "InstitutionAddress", "StationName",
]  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """One DICOM file and what it belongs to."""

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    modality: str


@dataclass(frozen=True)
class Study:
    """The instances that share one StudyInstanceUID, in a stable order."""

    uid: str
    instances: tuple[Instance, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that occur, sorted; only well-formed codes, because the field is free text to a careless sender."""
        return tuple(sorted({item.modality for item in self.instances if item.modality.isalnum() and len(item.modality) <= 16}))

    @property
    def series(self) -> int:
        """Number of series."""
        return len({item.series_uid for item in self.instances})


def read_studies(files: list[Path]) -> tuple[Study, ...]:
    """Group files into studies, in order of StudyInstanceUID. Raises RefusedError.

    A DICOMDIR is left out. The same instance twice counts once; one SOPInstanceUID with different contents is refused.
    """
    by_sop: dict[str, Instance] = {}
    for path in sorted(files):
        instance = read_instance(path)
        if instance is None:
            continue
        known = by_sop.setdefault(instance.sop_uid, instance)
        if known is not instance and _sha256(known.path) != _sha256(path):
            raise RefusedError(Code.INSTANCE_CONFLICT, "Two files have the same SOPInstanceUID and different content.")
    if not by_sop:
        raise RefusedError(Code.NO_DICOM, "The upload holds a DICOMDIR and no instance.")
    grouped: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in by_sop.values():
        grouped[instance.study_uid].append(instance)
    return tuple(Study(uid, tuple(grouped[uid])) for uid in sorted(grouped))


def identifier_filter(study: Study) -> Callable[[Iterable[str]], list[str]]:
    """What takes everything out of an application's log that names the patient, or the study by its own UIDs.

    The application is somebody's code and may print any header value; its log is kept beside the results. Values of one character are
    left: taking every "1" out of a log hides nothing and destroys it. Attributes: PS3.15 table E.1-1, those that hold a plain text.
    """
    texts: set[str] = {study.uid}
    for instance in {item.series_uid: item for item in study.instances}.values():
        texts.add(instance.series_uid)
        try:
            data = pydicom.dcmread(instance.path, stop_before_pixels=True, specific_tags=list(_IDENTIFYING))
            values = [value for element in data for value in (element.value if isinstance(element.value, MultiValue) else [element.value])]
        except Exception as wrong:  # what cannot be read cannot be recognised in a log either
            raise RefusedError(Code.DICOM_DAMAGED, "A DICOM header holds a patient attribute that cannot be read.") from wrong
        for value in values:
            texts.add(str(value).strip(" \0"))
            texts.update(re.split(r"[\^=\s,]+", str(value)))
    found = sorted((re.escape(text) for text in texts if len(text) > 1), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)", re.IGNORECASE)
    return lambda lines: [pattern.sub("[removed]", line) for line in lines]


def read_instance(path: Path) -> Instance | None:
    """Read one file's header; None for a DICOMDIR. Raises RefusedError for a damaged or incomplete file."""
    try:
        with path.open("rb") as stream:
            data = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
            left = path.stat().st_size - stream.tell()
        if data.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return None
        instance = Instance(
            path=path,
            study_uid=_uid(data, "StudyInstanceUID"),
            series_uid=_uid(data, "SeriesInstanceUID"),
            sop_uid=_uid(data, "SOPInstanceUID"),
            sop_class=str(data.get("SOPClassUID") or ""),
            modality=str(data.get("Modality") or ""),
        )
        missing = is_cut_short(data, left)
    except RefusedError:
        raise
    except Exception as wrong:  # pydicom raises a dozen kinds on damaged bytes, and each means the same here
        raise RefusedError(Code.DICOM_DAMAGED, "A DICOM file cannot be read to the end of its header.") from wrong
    if missing:
        raise RefusedError(Code.DICOM_DAMAGED, "A DICOM file is shorter than its own rows, columns and frames say.")
    return instance


def is_cut_short(data: FileDataset, left: int) -> bool:
    """Whether an image ends before its pixels do. ``left``: bytes from the PixelData element (or the end of the header) to the end of file.

    The reader itself takes a value that the end of file cuts off as if it were whole.
    """
    is_image = "Rows" in data or "Image Storage" in UID(str(data.get("SOPClassUID") or "")).name
    syntax = data.file_meta.get("TransferSyntaxUID")
    if not is_image or syntax == DeflatedExplicitVRLittleEndian:
        return False
    header = 8 if syntax == ImplicitVRLittleEndian else 12  # tag, VR and length before the value: PS3.5 section 7.1
    return left < header + stored_pixel_bytes(data)


def stored_pixel_bytes(data: FileDataset) -> int:
    """Bytes that PixelData must have at least, 0 where that cannot be known (compressed, or no image). PS3.5 section 8.2."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None or syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian or "Rows" not in data:
        return 0
    pixels = int(data.Rows) * int(data.get("Columns") or 0) * int(data.get("NumberOfFrames") or 1)
    bits = pixels * int(data.get("SamplesPerPixel") or 1) * int(data.get("BitsAllocated") or 0)
    if data.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    return (bits + 7) // 8


def _uid(data: FileDataset, name: str) -> str:
    value = str(data.get(name) or "").strip(" \0")
    if not value or len(value) > 64:
        raise RefusedError(Code.DICOM_INCOMPLETE, f"A DICOM file has no usable {name}.")
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
