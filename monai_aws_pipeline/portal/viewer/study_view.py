"""One study as a browser may see it: its images and this answer's results, by the UIDs that stand for theirs.

Here belongs the index that every request is looked up in; nothing of a request reaches a file or an archive but by it. Where the objects
come from is a ``Source`` (``bucket_source``, ``archive_source``).
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pydicom import config
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from monai_aws_pipeline.host_agent.intake.dicom import class_name
from monai_aws_pipeline.host_agent.results.segmentation import SEGMENTATIONS
from monai_aws_pipeline.portal.texts import TextError
from monai_aws_pipeline.portal.viewer.frames import Frame
from monai_aws_pipeline.portal.viewer.veil import Veil

MOST_INSTANCES: Final = 20_000
LARGEST_INSTANCE: Final = 64 << 20
"""What is sent whole; of a larger one the frames are."""
_SHOWN_TOO: Final = frozenset((*SEGMENTATIONS, "1.2.840.10008.5.1.4.1.1.481.3"))
"""Beside images: segmentations, and RT Structure Set Storage."""
_OF_SERIES: Final[tuple[str, ...]] = ("00080060", "0020000D", "0020000E", "00200011", "0008103E", "00080005")

Json = dict[str, Any]


class ViewError(TextError):
    """The study cannot be shown, or there is no such thing in it. ``status``: of HTTP."""

    def __init__(self, key: str, status: int = 404, **values: object) -> None:
        super().__init__(key, **values)
        self.status = status


class Source(Protocol):
    """Where the objects of one study are read. UIDs are their own."""

    def headers(self) -> Iterable[Dataset]:
        """Of each object that may be shown, once: without pixels, and with its transfer syntax as AvailableTransferSyntaxUID."""

    def frames(self, series: str, instance: str, numbers: Sequence[int]) -> list[Frame]:
        """Frames by their numbers, from 1. Raises ViewError."""

    def instance(self, series: str, instance: str, most: int) -> FileDataset:
        """An object with its pixels, of at most so many bytes. Raises ViewError."""


@dataclass(frozen=True)
class _Instance:
    series: str
    uid: str
    shown: Json = field(repr=False)


class StudyView:
    """One study and one answer to it. ``study``: its pseudonym, ``study_uid``: its own. Safe to use from several threads."""

    def __init__(self, study: str, study_uid: str, source: Source) -> None:
        self.study, self._veil, self._source = study, Veil(study, study_uid), source
        self.uid = self._veil.study_uid
        found: defaultdict[str, dict[str, _Instance]] = defaultdict(dict)
        for count, header in enumerate(source.headers()):
            if count >= MOST_INSTANCES:
                raise ViewError("view_too_many", status=413, most=MOST_INSTANCES)
            instance = _Instance(str(header.SeriesInstanceUID), str(header.SOPInstanceUID), _json_of(self._veil.over(_of(header))))
            found[self._veil.uid(instance.series)][self._veil.uid(instance.uid)] = instance
        if not found:
            raise ViewError("view_nothing")
        self._series: Mapping[str, Mapping[str, _Instance]] = found

    # --------------------------------------------------------------------------------------------------------------------- search

    def study_json(self) -> Json:
        """The one match of a search for studies."""
        first = self._any()
        modalities = sorted({value for each in self._series for value in self._one(each).get("00080060", {}).get("Value", [])})
        return {
            **{tag: first[tag] for tag in ("00100010", "00100020", "0020000D") if tag in first},
            "00080061": {"vr": "CS", "Value": modalities},
            "00201206": {"vr": "IS", "Value": [len(self._series)]},
            "00201208": {"vr": "IS", "Value": [sum(len(each) for each in self._series.values())]},
        }

    def series_json(self) -> dict[str, Json]:
        """The matches of a search for series, by their UIDs."""
        found: dict[str, Json] = {}
        for uid, instances in self._series.items():
            first = self._one(uid)
            of_series: Json = {tag: first[tag] for tag in _OF_SERIES if tag in first}
            found[uid] = {**of_series, "00201209": {"vr": "IS", "Value": [len(instances)]}}
        return found

    def instances_json(self, series: str = "") -> list[Json]:
        """The whole headers of one series, or of all. Raises ViewError."""
        if series and series not in self._series:
            raise ViewError("This study has no such series.")
        return [each.shown for uid, all_of in self._series.items() if series in ("", uid) for each in all_of.values()]

    def instance_json(self, series: str, instance: str) -> Json:
        """One header. Raises ViewError."""
        return self._find(series, instance).shown

    @property
    def has_segmentation(self) -> bool:
        """Whether there is something to lay over the images."""
        return any(self._one(uid).get("00080060", {}).get("Value") == ["SEG"] for uid in self._series)

    # -------------------------------------------------------------------------------------------------------------------- retrieve

    def frames(self, series: str, instance: str, numbers: Sequence[int]) -> list[Frame]:
        """Frames of one object. Raises ViewError."""
        found = self._find(series, instance)
        return self._source.frames(found.series, found.uid, numbers)

    def part10(self, series: str, instance: str) -> bytes:
        """One object as a file, without what identifies. Raises ViewError."""
        found = self._find(series, instance)
        data = self._source.instance(found.series, found.uid, LARGEST_INSTANCE)
        self._veil.over(data)
        meta = FileMetaDataset()  # anew: of the old one an application may have made what it liked
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
        meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
        data.file_meta, data.preamble = meta, bytes(128)
        out = io.BytesIO()
        with config.disable_value_validation():
            data.save_as(out, enforce_file_format=True)
        return out.getvalue()

    def _find(self, series: str, instance: str) -> _Instance:
        found = self._series.get(series, {}).get(instance)
        if found is None:
            raise ViewError("This study has no such image.")
        return found

    def _one(self, series: str) -> Json:
        return next(iter(self._series[series].values())).shown

    def _any(self) -> Json:
        return self._one(next(iter(self._series)))


def is_shown(sop_class: str) -> bool:
    """Whether a viewer shows objects of a SOP class: images, segmentations, contours. Reports hold text, and are downloads."""
    return sop_class in _SHOWN_TOO or "Image Storage" in class_name(sop_class)


def _of(header: Dataset) -> Dataset:
    for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010):
        if tag in header:
            del header[tag]
    return header


def _json_of(data: Dataset) -> Json:
    with config.disable_value_validation():
        found: Json = data.to_json_dict(bulk_data_threshold=1 << 30, suppress_invalid_tags=True)
    return {tag: value for tag, value in found.items() if _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
