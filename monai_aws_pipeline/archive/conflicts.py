"""What would hide a result in the archive, found before it is stored: attributes in which it differs from its study.

HealthImaging groups instances by seven attributes; a result that says one of them otherwise than its study, be it by a blank, is kept where
no viewer looks. An attribute that is absent counts as empty. Findings name attributes, never values.
Source: HealthImaging Developer Guide, "Understanding image sets".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydicom import config, dcmread
from pydicom.dataset import Dataset

from .errors import ArchiveFileError

OF_STUDY: Final = ("StudyDate", "AccessionNumber", "PatientID", "StudyInstanceUID", "StudyID")
_READ: Final = [*OF_STUDY, "SeriesInstanceUID", "SeriesNumber", "SOPInstanceUID", "Modality", "SpecificCharacterSet"]
_IDENTIFIES: Final = ("PatientID", "StudyInstanceUID")
"""Never changed from one value to another: that would be another patient's, or another study."""


@dataclass(frozen=True)
class ArchiveFile:
    """One DICOM file as the archive groups it. ``study``: values of ``OF_STUDY``. ``corrected``: attributes that were changed in a copy."""

    path: Path
    is_result: bool
    sop_instance: str
    series: str
    number: str
    modality: str
    study: tuple[str, ...]
    bytes: int
    corrected: tuple[str, ...] = ()

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return self.study[OF_STUDY.index("StudyInstanceUID")]


@dataclass(frozen=True)
class ArchiveConflict:
    """A file that the archive would hide, or give a number that is taken: the attributes it differs in."""

    file: ArchiveFile = field(repr=False)
    attributes: tuple[str, ...]

    @property
    def can_be_corrected(self) -> bool:
        """Whether a copy may be changed to agree: its study is the same, and no patient's id becomes another."""
        return "StudyInstanceUID" not in self.attributes and not ("PatientID" in self.attributes and self.file.study[2])


def read_file(path: Path, *, is_result: bool) -> ArchiveFile:
    """One file, its pixels unread. Raises ArchiveFileError."""
    try:
        with config.disable_value_validation():
            header = dcmread(path, stop_before_pixels=True, specific_tags=_READ)
    except Exception:  # pydicom raises almost anything on a damaged file
        raise ArchiveFileError("A file of the study cannot be read as DICOM.") from None
    values = tuple(_text(header, name) for name in OF_STUDY)
    named = [_text(header, name) for name in ("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality")]
    if not (named[0] and named[1] and values[OF_STUDY.index("StudyInstanceUID")]):
        raise ArchiveFileError("A file of the study has not all of its UIDs.")
    sop_instance, series, number, modality = named
    return ArchiveFile(path, is_result, sop_instance, series, number, modality, values, path.stat().st_size)


def _text(header: Dataset, keyword: str) -> str:
    """A value to the letter; empty where it is absent, or damaged beyond reading."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom raises almost anything; the archive's answer will say what it thinks of the file
        return ""
    original = getattr(value, "original_string", None)
    return str(original if original is not None else "" if value is None else value)


def archive_conflicts(files: Sequence[ArchiveFile]) -> list[ArchiveConflict]:
    """Files that contradict their study, which is what its first original says; an original may contradict the others too."""
    originals = [each for each in files if not each.is_result]
    if not originals:
        return []
    study = originals[0].study
    series = {each.series for each in originals}
    found: list[ArchiveConflict] = []
    for each in files:
        differs = [name for name, wanted, has in zip(OF_STUDY, study, each.study, strict=True) if wanted != has]
        if each.is_result and each.series in series:
            differs.append("SeriesInstanceUID")
        elif each.number in _taken(files, each):
            differs.append("SeriesNumber")
        if differs:
            found.append(ArchiveConflict(each, tuple(differs)))
    return found


def _taken(files: Sequence[ArchiveFile], of: ArchiveFile) -> set[str]:
    """Numbers that a file's series cannot have: of an original, any but its own first; of a result, those of the series before it."""
    originals = {each.series: each.number for each in reversed(files) if not each.is_result}
    if not of.is_result:
        return {of.number} - {originals[of.series]}
    first = next(place for place, each in enumerate(files) if each.is_result and each.series == of.series)
    results = {each.series: each.number for each in files[:first] if each.is_result}
    others = {number for uid, number in {**results, **originals}.items() if uid != of.series}
    return others | ({of.number} - {files[first].number})


def without_conflicts(files: Sequence[ArchiveFile], folder: Path, *, correct: bool) -> tuple[list[ArchiveFile], list[ArchiveConflict]]:
    """What may be stored, and the results that are not, because they would be hidden. Originals are stored as they were received.

    ``correct``: store a copy of such a result, made in ``folder``, that agrees with its study, where there can be one.
    """
    kept = corrected(archive_conflicts(files), files, folder) if correct else list(files)
    withheld = [each for each in archive_conflicts(kept) if each.file.is_result]
    hidden = {each.file.path for each in withheld}
    return [each for each in kept if each.path not in hidden], withheld


def corrected(conflicts: Sequence[ArchiveConflict], files: Sequence[ArchiveFile], folder: Path) -> list[ArchiveFile]:
    """The files, with a copy in ``folder`` of each result that can agree with its study; what cannot stays as it is.

    Copies say in ``corrected`` what was changed in them. A series gets one new number, above all that are taken.
    """
    by_path = {conflict.file.path: conflict for conflict in conflicts if conflict.file.is_result and conflict.can_be_corrected}
    originals = [each for each in files if not each.is_result]
    taken = [int(each.number) for each in files if each.number.strip().lstrip("+-").isdigit()]
    fresh: dict[str, str] = {}
    found: list[ArchiveFile] = []
    for each in files:
        conflict = by_path.get(each.path)
        if conflict is None or "SeriesInstanceUID" in conflict.attributes:
            found.append(each)
            continue
        if "SeriesNumber" in conflict.attributes and each.series not in fresh:
            fresh[each.series] = str(max(taken, default=0) + 1 + len(fresh))
        copy = _agreeing(each, conflict.attributes, originals[0].path, fresh.get(each.series, ""), folder / f"{len(found):06d}.dcm")
        found.append(copy or each)
    return found


def _agreeing(file: ArchiveFile, attributes: Sequence[str], source: Path, number: str, copy: Path) -> ArchiveFile | None:
    """A copy that says what the source says; None where its character set cannot."""
    with config.disable_value_validation():
        data = dcmread(file.path)
        study = dcmread(source, stop_before_pixels=True, specific_tags=_READ)
        for name in attributes:
            if name == "SeriesNumber":
                data.SeriesNumber = number
            elif name not in study:
                delattr(data, name)
            elif not _text(study, name).isascii() and data.get("SpecificCharacterSet") != study.get("SpecificCharacterSet"):
                return None
            else:
                data[name] = study[name]
        data.save_as(copy, enforce_file_format=True)
    again = read_file(copy, is_result=True)
    return replace(again, corrected=tuple(attributes))
