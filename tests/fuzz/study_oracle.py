"""Whether an end is right: an answer by its place in the patient and its volume, a refusal by its name, and no identifier anywhere.

Here belongs judging; what each study may end in is said by its axes.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray

from monai_aws_pipeline.contract import ResultRecord, Status
from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_draft import BIRTH_DATE, THRESHOLD, UID_ROOT, Draft, TruePlane, points_of
from tests.fuzz.study_host import StudyEnd, ended_well

Array = NDArray[Any]

DICE: Final = 0.995
"""The texture makes one plane of twenty-four that is another one cost more than this."""
VOLUME: Final = 0.02
"""Relative difference of the volume in ``measurements.json``."""

_ORIGINAL: Final = re.compile(r"(processed|quarantine)/.*upload((\.[a-z0-9]+){1,2}|/\d+(\.[a-z0-9]+)?)$")
_BINARY: Final = (".png", ".stl", ".dcm")
_PLANTED: Final = re.compile(r"[\w^-]*zq[\w^-]*", re.IGNORECASE)
_BORN: Final = re.compile(
    rf"{BIRTH_DATE}|{BIRTH_DATE[:4]}-{BIRTH_DATE[4:6]}-{BIRTH_DATE[6:]}|{BIRTH_DATE[6:]}\.{BIRTH_DATE[4:6]}\.{BIRTH_DATE[:4]}"
)
_OTHER_SCRIPTS: Final = re.compile("山田|太郎|小东|やまだ")
_LONG_MARKERS: Final = (b"zqplant", b"vaughnzq", b"pidzq77", b"acczq9", b"hospitalzq", BIRTH_DATE.encode())


@dataclass(frozen=True)
class Planes:
    """Masks on planes: position (3), orientation (6), spacing (row, column), thickness in mm, mask (rows, columns)."""

    planes: tuple[tuple[Array, Array, tuple[float, float], float, Array], ...]

    def contains(self, points: Array) -> Array:
        """For each of (n, 3) points whether the mask holds there; the nearest pixel of the nearest plane counts."""
        found = np.zeros(len(points), bool)
        for position, orientation, spacing, thickness, mask in self.planes:
            away = points - position
            normal = np.cross(orientation[:3], orientation[3:])
            rows = np.floor(away @ orientation[3:] / spacing[0] + 0.5).astype(int)
            columns = np.floor(away @ orientation[:3] / spacing[1] + 0.5).astype(int)
            inside = (np.abs(away @ normal) <= thickness / 2) & (rows >= 0) & (columns >= 0)
            inside &= (rows < mask.shape[0]) & (columns < mask.shape[1])
            found[inside] |= mask[rows[inside], columns[inside]]
        return found

    @property
    def points(self) -> Array:
        """Centres of all pixels where the mask holds, (n, 3)."""
        found = [points_of(position, orientation, spacing, mask.shape)[mask] for position, orientation, spacing, _, mask in self.planes]
        return np.concatenate(found) if found else np.zeros((0, 3))

    @property
    def volume_ml(self) -> float:
        """Pixels times area times thickness."""
        return sum(float(mask.sum()) * spacing[0] * spacing[1] * thickness for _, _, spacing, thickness, mask in self.planes) / 1000


@dataclass(frozen=True)
class Verdict:
    """How an upload ended: ``answered`` or a code; what is wrong with it, what has no name, what leaked; empty where nothing."""

    end: str
    wrong: str = ""
    unnamed: str = ""
    leaks: tuple[str, ...] = ()
    detail: str = ""


def judge(end: StudyEnd, draft: Draft, *, first_echo: bool = False) -> Verdict:
    """Hold an end against the truths of its draft. ``first_echo``: the application said that it wants this stack of several."""
    truths = [series.chosen if first_echo and series.chosen else series.truth for series in draft.series]
    leaks = tuple(leaks_of(end))
    if end.hung:
        return Verdict("hung", unnamed="no end came", leaks=leaks)
    if not end.records:
        return Verdict("nothing", unnamed="no record was written", leaks=leaks, detail=end.logged[-2000:])
    ends = {name_of(record) for record in end.records}
    name = "answered" if "answered" in ends else sorted(ends)[0]
    wrong = next((text for record in end.records if ended_well(record) and (text := wrong_answer(record, end, truths))), "")
    unnamed = next((text for record in end.records if not ended_well(record) and (text := unnamed_end(record))), "")
    if end.left:
        unnamed = unnamed or f"{len(end.left)} object(s) were left under input/"
    refusals = [record.error.message for record in end.records if record.error]
    return Verdict(name, wrong, unnamed, leaks, "\n".join([*refusals, *end.failures]))


def name_of(record: ResultRecord) -> str:
    """``answered`` or the code of a record."""
    return "answered" if ended_well(record) else record.error.code if record.error else "?"


def unnamed_end(record: ResultRecord) -> str:
    """What is wrong with the name of an end: only a refusal with cause and remedy says that the study is at fault."""
    error = record.error
    if not error or error.code not in set(Code) or len(error.message) < 20:
        return "an end without code, cause and remedy"
    if record.status is not Status.QUARANTINED or error.code == Code.INTERNAL:
        return f"{record.status} with {error.code}, although the study is at fault"
    return "a traceback" if "Traceback" in error.message else ""


def wrong_answer(record: ResultRecord, end: StudyEnd, truths: Sequence[Sequence[TruePlane]]) -> str:
    """How an answer differs from each that would be right; empty where it is one of them."""
    segmentations = [item.key for item in record.outputs if item.kind == "dicom-seg"]
    if len(segmentations) != 1:
        return f"{len(segmentations)} segmentations"
    answer = planes_of_seg(end.body(segmentations[0]))
    measured = [item.key for item in record.outputs if item.kind == "measurements"]
    volume = sum(float(each["volume_ml"]) for each in json.loads(end.body(measured[0]))["segments"]) if measured else -1.0
    differences = [_difference(answer, volume, masks_of(truth)) for truth in truths if truth]
    if not differences:
        return f"an answer of {answer.volume_ml:.2f} ml where none is right"
    return "" if "" in differences else differences[0]


def _difference(answer: Planes, volume: float, truth: Planes) -> str:
    dice = dice_of(answer, truth)
    if dice < DICE:
        return f"Dice {dice:.3f}, {answer.volume_ml:.2f} ml for {truth.volume_ml:.2f} ml"
    if volume < 0:
        return "no volume was measured"
    if abs(volume - truth.volume_ml) > VOLUME * truth.volume_ml:
        return f"measured {volume:.2f} ml for {truth.volume_ml:.2f} ml"
    return ""


def dice_of(one: Planes, other: Planes) -> float:
    """Overlap by patient coordinates: which part of each one's points lies in the other. 1 where both are the same."""
    mine, theirs = one.points, other.points
    if not len(mine) or not len(theirs):
        return 0.0
    precision, recall = float(other.contains(mine).mean()), float(one.contains(theirs).mean())
    return 2 * precision * recall / max(1e-9, precision + recall)


def masks_of(truth: Sequence[TruePlane]) -> Planes:
    """The right mask on these planes."""
    return Planes(tuple((p.position, p.orientation, p.spacing, p.thickness, p.image.values >= THRESHOLD) for p in truth))


def planes_of_seg(content: bytes) -> Planes:
    """The frames of a SEG where they say they lie; their thickness is the distance that the SEG declares."""
    data = pydicom.dcmread(io.BytesIO(content))
    shared = data.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = (float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1]))
    positions = [np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float) for frame in data.PerFrameFunctionalGroupsSequence]
    along = np.unique(np.round(np.array(positions) @ np.cross(orientation[:3], orientation[3:]), 3))
    thickness = float(np.median(np.diff(along))) if len(along) > 1 else float(measures.SliceThickness)
    pixels = np.reshape(data.pixel_array, (len(positions), int(data.Rows), int(data.Columns))) > 0
    return Planes(tuple((position, orientation, spacing, thickness, mask) for position, mask in zip(positions, pixels, strict=True)))


def leaks_of(end: StudyEnd) -> list[str]:
    """Where a planted identifier turns up: object keys, what lies beside objects, our own files, the application's log, the agent's."""
    found = [f"log: {text}" for text in planted(end.logged)]
    for item in end.stored:
        place = re.sub(r"[0-9a-f]{16,}", "…", item.key)
        found += [f"key: {text}" for text in planted(item.key)]
        found += [f"beside {place}: {text}" for text in planted(item.beside)]
        if _ORIGINAL.fullmatch(item.key) or PurePosixPath(item.key).suffix == ".dcm":
            continue  # the study itself, and objects of it
        if PurePosixPath(item.key).suffix in _BINARY:
            found += [f"in {place}: {marker.decode()}" for marker in _LONG_MARKERS if marker in item.body.lower()]
        else:
            found += [f"in {place}: {text}" for text in planted(item.body.decode("utf-8", "replace"))]
    return sorted(set(found))


def planted(text: str) -> list[str]:
    """Identifiers of a draft that a text holds, each once."""
    found = {match[0] for pattern in (_PLANTED, _BORN, _OTHER_SCRIPTS) for match in pattern.finditer(text)}
    return sorted(found | ({"a UID"} if UID_ROOT in text else set()))
