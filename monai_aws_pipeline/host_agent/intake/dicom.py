"""Reading what was uploaded: which studies, series and instances it holds, and whether each instance is whole.

Here belongs pydicom on the input side. Nothing here keeps or logs a value of a patient. Sources: PS3.3 C.7.2.1 (General Study),
C.12.1 (SOP Common), C.7.6.3 (Image Pixel), PS3.10 (file format).
"""

from __future__ import annotations

import hashlib
import logging
import re
import struct
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom import config
from pydicom.uid import UID, EnhancedUSVolumeStorage, MediaStorageDirectoryStorage
from pydicom.uid import UID_dictionary as KNOWN_UIDS  # type: ignore[attr-defined]

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake import image_header
from monai_aws_pipeline.host_agent.intake.dicom_structure import Structure, media_class_of, read_structure
from monai_aws_pipeline.host_agent.intake.image_header import ImageHeader, header_of
from monai_aws_pipeline.host_agent.intake.series_words import MODALITIES
from monai_aws_pipeline.host_agent.log_redaction.identifying_attributes import GATHER, Identifying, Pool

# pydicom quotes offending values in warnings and log lines; a value may be a name.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
# An element whose length does not fit its value representation, as private ones often are, stops nobody who does not ask for it.
config.convert_wrong_length_to_UN = True

_STUDY_UID, _SERIES_UID, _SOP_UID, _SOP_CLASS = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016
_MODALITY, _PATIENT_ID, _PHOTOMETRIC = 0x00080060, 0x00100020, 0x00280004
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100
_WANTED: Final = image_header.WANTED | {_STUDY_UID, _SERIES_UID, _SOP_UID, _SOP_CLASS, _MODALITY, _PATIENT_ID, _BITS}
_UID_NAMES: Final = {_STUDY_UID: "StudyInstanceUID", _SERIES_UID: "SeriesInstanceUID", _SOP_UID: "SOPInstanceUID"}
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_CLAIM_FROM: Final = 256 << 20
_CLAIM_RATIO: Final = 1000
"""No image of this size compresses a thousandfold: what claims to would only fill a reader's memory."""


@dataclass(frozen=True)
class Instance:
    """One DICOM file and what it belongs to."""

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    modality: str
    patient: bytes = field(default=b"", repr=False)
    """SHA-256 of the patient's id, to notice two patients in one study; empty where there is none. Kept nowhere."""
    identifying: Identifying = field(default=Identifying(), repr=False)
    """What ``identifiers.py`` takes out of an application's log. Kept nowhere."""
    image: bool = True
    """Whether it is an image: by its SOP class, and where that is not DICOM's own, by having pixels."""
    header: ImageHeader = field(default_factory=ImageHeader, repr=False)


@dataclass(frozen=True)
class Study:
    """The images that share one StudyInstanceUID, in a stable order. ``companions``: its objects that are no image (reports, raw data,
    …)."""

    uid: str
    instances: tuple[Instance, ...]
    companions: tuple[Instance, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that occur, sorted; only the standard's own, because the field is free text to a careless sender."""
        return tuple(sorted({item.modality for item in self.instances} & MODALITIES))

    @property
    def series(self) -> int:
        """Number of series of images."""
        return len({item.series_uid for item in self.instances})

    def series_of_images(self) -> dict[str, list[Instance]]:
        """The images by their SeriesInstanceUID, in order of that."""
        found: defaultdict[str, list[Instance]] = defaultdict(list)
        for item in self.instances:
            found[item.series_uid].append(item)
        return {uid: found[uid] for uid in sorted(found)}


def read_studies(files: list[Path]) -> tuple[Study, ...]:
    """Group files into studies, in order of StudyInstanceUID. Raises RefusedError.

    A DICOMDIR is left out. The same image twice counts once; one SOPInstanceUID with different contents is refused, and so is a study of
    two patients and a series of two studies. What is no image is a companion of its study and never a reason to refuse it; a study of
    companions alone counts where there is no other.
    """
    by_sop: dict[str, Instance] = {}
    companions: defaultdict[str, dict[str, Instance]] = defaultdict(dict)
    pool = Pool()
    seen = 0
    for path in sorted(files):
        instance = _image_or_companion(path, pool)
        if instance is None:
            continue
        seen += 1
        if not instance.image:
            companions[instance.study_uid].setdefault(instance.sop_uid, instance)
            continue
        known = by_sop.setdefault(instance.sop_uid, instance)
        if known is not instance and _sha256(known.path) != _sha256(path):
            raise RefusedError(Code.INSTANCE_CONFLICT, "Two files have the same SOPInstanceUID and different content.")
    if not seen:
        raise RefusedError(Code.NO_DICOM, "The upload holds a DICOMDIR and no instance.")
    grouped: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in by_sop.values():
        grouped[instance.study_uid].append(instance)
    _refuse_mixed(by_sop.values())
    if not grouped and not any(companions):
        raise RefusedError(Code.NO_IMAGES, "The upload holds DICOM objects, and none of them is a whole image.")
    uids = sorted(grouped) if grouped else sorted(uid for uid in companions if uid)
    companions[uids[0]].update(companions.pop("", {}))  # damaged ones, whose study is not known, are counted once
    return tuple(Study(uid, tuple(grouped[uid]), tuple(companions[uid].values())) for uid in uids)


def _image_or_companion(path: Path, pool: Pool) -> Instance | None:
    """An instance; of a class that is no image's also one that is damaged or incomplete, because nothing of it is needed."""
    try:
        return read_instance(path, pool, whole=False)
    except RefusedError:
        media_class = media_class_of(path)
        if not media_class or _is_image_class(media_class, has_pixels=True):
            raise
        return Instance(path, "", "", path.name, media_class, "", image=False)


def read_instance(path: Path, pool: Pool | None = None, *, whole: bool = True) -> Instance | None:
    """Read one file's header; None for a DICOMDIR. Raises RefusedError for a damaged, truncated or incomplete file.

    ``pool``: where the instances of one upload share equal values. ``whole``: judge the pixels of every object, not those of images
    alone, and take no SOP class from the meta information.
    """
    try:
        found = read_structure(path, _WANTED, gather=GATHER)
    except RefusedError:
        raise
    except (struct.error, ValueError, LookupError) as error:  # the walk checks its bounds; this is for the case nobody thought of
        raise RefusedError(Code.DICOM_DAMAGED, "A DICOM file cannot be read to the end of its header.") from error
    if found.media_class == MediaStorageDirectoryStorage:
        return None
    patient = text_of(found, _PATIENT_ID).encode()
    sop_class = text_of(found, _SOP_CLASS) or found.media_class
    image = _is_image_class(sop_class, has_pixels=found.pixel_bytes >= 0)
    instance = Instance(
        path=path,
        study_uid=_uid(found, _STUDY_UID),
        series_uid=_uid(found, _SERIES_UID),
        sop_uid=_uid(found, _SOP_UID),
        sop_class=text_of(found, _SOP_CLASS) if whole else sop_class,
        modality=text_of(found, _MODALITY),
        patient=hashlib.sha256(patient).digest() if patient else b"",
        identifying=(pool or Pool()).of(found.gathered),
        image=image,
        header=header_of(found) if image else ImageHeader(),
    )
    if image or whole:
        check_pixels(found)
    return instance


def _is_image_class(sop_class: str, *, has_pixels: bool) -> bool:
    """Whether objects of a SOP class are images. PS3.4 annex B.5; a class that is not DICOM's own tells nothing, and its pixels do."""
    name = class_name(sop_class)
    return "Image Storage" in name or sop_class == EnhancedUSVolumeStorage if name else has_pixels


def class_name(sop_class: str) -> str:
    """The name of a SOP class in PS3.6; empty where it is none of DICOM's own."""
    known = KNOWN_UIDS.get(sop_class)
    return known[0] if known else ""


def check_pixels(found: Structure) -> None:
    """Refuse an image whose pixels are fewer than its rows, columns and frames say, or whose claim is absurd. Raises RefusedError."""
    frames = max(1, _number(found, _FRAMES, 1))
    if found.pixel_bytes < 0:
        # Not every object with rows has pixels, but every image has: its file was cut off before them.
        if _ROWS in found.values or "Image Storage" in class_name(text_of(found, _SOP_CLASS)):
            raise RefusedError(Code.DICOM_TRUNCATED, "A DICOM image ends before its pixels begin.")
        return
    claimed = claimed_pixel_bytes(found)
    if found.fragments >= 0:
        if found.fragments < frames or not found.pixel_bytes:
            raise RefusedError(Code.DICOM_TRUNCATED, "A DICOM image has fewer compressed frames than it says.")
        if claimed > _CLAIM_FROM and claimed > _CLAIM_RATIO * found.pixel_bytes:
            raise RefusedError(Code.DICOM_TOO_LARGE, "A DICOM image claims far more pixels than its compressed data can hold.")
    elif not _is_encapsulated(found.syntax) and found.pixel_bytes < claimed:
        raise RefusedError(Code.DICOM_TRUNCATED, "A DICOM image is shorter than its own rows, columns and frames say.")
    elif not _is_encapsulated(found.syntax) and claimed and found.pixel_bytes - claimed >= max(2, claimed):
        # Readers take what is too much for further frames.
        raise RefusedError(Code.DICOM_DAMAGED, "A DICOM image holds more pixels than its own rows, columns and frames say.")


def claimed_pixel_bytes(found: Structure) -> int:
    """Bytes of the uncompressed pixels by the image's own description. PS3.5 section 8.2."""
    pixels = _number(found, _ROWS) * _number(found, _COLUMNS) * max(1, _number(found, _FRAMES, 1))
    bits = pixels * _number(found, _SAMPLES, 1) * _number(found, _BITS)
    if text_of(found, _PHOTOMETRIC) == "YBR_FULL_422":
        bits = bits * 2 // 3
    return (bits + 7) // 8


def text_of(found: Structure, tag: int) -> str:
    """A value as text without its padding; empty where there is none."""
    value = found.values.get(tag)
    return value.data.decode("utf-8", "replace").strip(" \0") if value else ""


def _number(found: Structure, tag: int, missing: int = 0) -> int:
    """A whole number of VR US or IS. Raises RefusedError for anything else."""
    value = found.values.get(tag)
    if value is None or not value.data:
        return missing
    if tag == _FRAMES:
        text = text_of(found, tag)
        if re.fullmatch(r"\+?[0-9]{1,10}", text):
            return int(text)
    elif len(value.data) == 2 and value.vr in ("US", ""):
        return int.from_bytes(value.data, "little" if found.little_endian else "big")
    raise RefusedError(Code.DICOM_DAMAGED, "A DICOM image does not tell its size in numbers.")


def _is_encapsulated(syntax: str) -> bool:
    try:
        return UID(syntax).is_encapsulated
    except ValueError:  # private or none: read as native
        return False


def _uid(found: Structure, tag: int) -> str:
    value = found.values.get(tag)
    text = text_of(found, tag)
    if value is None or not text:
        raise RefusedError(Code.DICOM_INCOMPLETE, f"A DICOM file has no {_UID_NAMES[tag]}.")
    if value.vr not in ("UI", "UN", "") or len(text) > 64 or not _UID.fullmatch(text):
        raise RefusedError(Code.DICOM_BAD_UID, f"A DICOM file has a {_UID_NAMES[tag]} that is no UID.")
    return text


def _refuse_mixed(instances: Iterable[Instance]) -> None:
    study_of: dict[str, str] = {}
    patient_of: dict[str, bytes] = {}
    for item in instances:
        if study_of.setdefault(item.series_uid, item.study_uid) != item.study_uid:
            raise RefusedError(Code.STUDY_MIXED, "One series belongs to two studies.")
        if item.patient and patient_of.setdefault(item.study_uid, item.patient) != item.patient:
            raise RefusedError(Code.STUDY_MIXED, "The instances of one study name two patients.")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
