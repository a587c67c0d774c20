"""What an application must answer to its golden study: ``golden/expect.yaml``, read strictly, and judged point by point.

Here belong the expectation's shape, its checking and the judging of what was found, as pure functions. What was found is measured by
``host_agent.golden``; where the files come from is in ``golden.py``. Shipped to hosts, so it needs no YAML: there the expectation is the
same thing as JSON. It comes from somebody's repository or bucket, so sizes are bounded and what is unknown is an error.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]

from monai_aws_pipeline.contract.outputs import DICOM, DICOM_SEG, MESH, OTHER
from monai_aws_pipeline.errors import NamedError

EXPECT_FILE: Final = "golden/expect.yaml"
MAX_BYTES: Final = 64 * 1024
MAX_RULES: Final = 100

LABEL_STUDY: Final = "monai-aws.golden-study"
LABEL_EXPECT: Final = "monai-aws.golden-expect"
LABEL_REFERENCE: Final = "monai-aws.golden-reference"
"""Labels of an image: SHA-256 of the study, the expectation (JSON) and the reference that it was judged with; empty where there is none."""

KINDS: Final = (DICOM_SEG, DICOM, MESH, OTHER)
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+){3,}")
_NOWHERE: Final = "was not found"


class ExpectationError(NamedError, ValueError):
    """The expectation is wrong. ``findings`` lists all of it, each with what is expected instead."""

    def __init__(self, findings: list[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{EXPECT_FILE}: " + "; ".join(findings))


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, both included; None for an open end."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value lies in it."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def text(self, unit: str = "") -> str:
        """In words, for example ``from 1900 to 2030 ml``."""
        unit = f" {unit}" if unit else ""
        if self.low is not None and self.high is not None:
            return f"{self.low:g}{unit}" if self.low == self.high else f"from {self.low:g} to {self.high:g}{unit}"
        return f"at least {self.low:g}{unit}" if self.low is not None else f"at most {self.high:g}{unit}"


@dataclass(frozen=True)
class FileRule:
    """How many files of a sort the application writes. ``name``: pattern (``*``, ``?``) of the path below the output folder."""

    count: Range
    kind: str = ""
    name: str = ""
    sop_class: str = ""

    @property
    def title(self) -> str:
        """The rule's name in a report."""
        return " ".join(part for part in (self.kind, self.name, f"of SOP class {self.sop_class}" if self.sop_class else "") if part)


@dataclass(frozen=True)
class SegmentRule:
    """What a segment of the DICOM SEG is like: its volume in millilitres, its Dice with the reference's segment of the same label."""

    label: str
    volume_ml: Range | None = None
    dice: float | None = None


@dataclass(frozen=True)
class Expectation:
    """The whole of ``expect.yaml``. ``seconds``: longest run of the application; ``memory_mib``: its peak memory in MiB."""

    files: tuple[FileRule, ...] = ()
    segments: tuple[SegmentRule, ...] = ()
    seconds: float | None = None
    memory_mib: float | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether a Dice is asked for."""
        return any(rule.dice is not None for rule in self.segments)

    def to_json(self) -> bytes:
        """The same as canonical JSON: equal expectations have equal bytes, and so the same SHA-256."""
        data: dict[str, Any] = {
            "files": [
                {
                    **{name: value for name, value in (("kind", rule.kind), ("name", rule.name), ("sop-class", rule.sop_class)) if value},
                    "count": _range_data(rule.count),
                }
                for rule in self.files
            ],
            "segments": {
                rule.label: {
                    **({"volume-ml": _range_data(rule.volume_ml)} if rule.volume_ml else {}),
                    **({"dice": {"min": rule.dice}} if rule.dice is not None else {}),
                }
                for rule in self.segments
            },
            "limits": {
                **({"seconds": self.seconds} if self.seconds is not None else {}),
                **({"memory-mib": self.memory_mib} if self.memory_mib is not None else {}),
            },
        }
        return (json.dumps({name: value for name, value in data.items() if value}, sort_keys=True, separators=(",", ":")) + "\n").encode()


@dataclass(frozen=True)
class FoundFile:
    """One file the application wrote: path below the output folder, kind, SOP class UID (empty where it is not DICOM)."""

    name: str
    kind: str
    sop_class: str = ""


@dataclass(frozen=True)
class FoundSegment:
    """One segment as measured. ``dice`` with the reference's segment of that label; None, with a reason, where there is none."""

    label: str
    volume_ml: float
    dice: float | None = None
    no_dice: str = ""


@dataclass(frozen=True)
class Found:
    """What the application did with the study. ``failure`` says why there is no result; empty where there is one."""

    files: tuple[FoundFile, ...] = ()
    segments: tuple[FoundSegment, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Point:
    """One point of the judgement, in words."""

    name: str
    expected: str
    found: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.name}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Verdict:
    """Passed exactly when every point is met."""

    points: tuple[Point, ...]

    @property
    def passed(self) -> bool:
        """Whether every point is met."""
        return all(point.ok for point in self.points)

    @property
    def missed(self) -> tuple[Point, ...]:
        """The points that are not met."""
        return tuple(point for point in self.points if not point.ok)


def judge(expected: Expectation, found: Found) -> Verdict:
    """Hold what was found against what is expected. Without a result there is one point alone: all others would say the same."""
    answer = Point("application", "answers the study", found.failure or f"answered in {found.seconds:.1f} s", not found.failure)
    if found.failure:
        return Verdict((answer,))
    points = [answer]
    points += [_files(rule, found.files) for rule in expected.files]
    for rule in expected.segments:
        points += _segment(rule, [segment for segment in found.segments if segment.label == rule.label])
    if expected.seconds is not None:
        limit = Range(high=expected.seconds)
        points.append(Point("seconds", limit.text("s"), f"{found.seconds:.1f} s", limit.holds(found.seconds)))
    if expected.memory_mib is not None:
        limit, peak = Range(high=expected.memory_mib), found.peak_bytes / 2**20
        # A run that was over before its memory was read meets nothing: what was not measured is not known.
        measured = found.peak_bytes > 0
        points.append(
            Point("peak memory", limit.text("MiB"), f"{peak:.0f} MiB" if measured else "not measured", measured and limit.holds(peak))
        )
    return Verdict(tuple(points))


def _files(rule: FileRule, files: tuple[FoundFile, ...]) -> Point:
    count = sum(
        1
        for file in files
        if (not rule.kind or file.kind == rule.kind)
        and (not rule.name or fnmatch.fnmatchcase(file.name, rule.name))
        and (not rule.sop_class or file.sop_class == rule.sop_class)
    )
    return Point(f"files {rule.title}", rule.count.text(), str(count), rule.count.holds(count))


def _segment(rule: SegmentRule, segments: list[FoundSegment]) -> list[Point]:
    """Points of one label. Several segments of one label are several answers to one question, which is none."""
    unclear = _NOWHERE if not segments else f"{len(segments)} segments have this label" if len(segments) > 1 else ""
    points = []
    if rule.volume_ml is not None:
        volume = segments[0].volume_ml if segments else 0.0
        ok = not unclear and rule.volume_ml.holds(volume)
        points.append(Point(f"volume of {rule.label}", rule.volume_ml.text("ml"), unclear or f"{volume:.1f} ml", ok))
    if rule.dice is not None:
        dice = segments[0].dice if segments else None
        limit = Range(low=rule.dice)
        said = unclear or (segments[0].no_dice or "no reference" if dice is None else f"{dice:.4f}")
        points.append(Point(f"Dice of {rule.label}", limit.text(), said, not unclear and dice is not None and limit.holds(dice)))
    return points


# ------------------------------------------------------------------------------------------------------------------------- reading


def read_json(text: bytes) -> Expectation:
    """What ``Expectation.to_json`` wrote. Raises ExpectationError."""
    if len(text) > MAX_BYTES:
        raise ExpectationError([f"larger than {MAX_BYTES // 1024} KiB"])
    try:
        return parse_expectation(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ExpectationError):
            raise
        raise ExpectationError(["not JSON"]) from error


def parse_expectation(data: Any) -> Expectation:
    """Check the parsed file. Raises ExpectationError with every finding at once."""
    reader = _Reader()
    top = reader.mapping(data, "the file", ("files", "segments", "limits"))
    files = [reader.file(item, f"files[{number}]") for number, item in enumerate(reader.sequence(top.get("files"), "files"), 1)]
    segments = reader.mapping(top.get("segments"), "segments", None)
    rules = [reader.segment(label, value) for label, value in segments.items()]
    limits = reader.mapping(top.get("limits"), "limits", ("seconds", "memory-mib"))
    if not (files or rules or limits) and not reader.findings:
        reader.findings.append("expects nothing: say at least which files the application writes")
    made = Expectation(
        files=tuple(rule for rule in files if rule),
        segments=tuple(rule for rule in rules if rule),
        seconds=reader.number(limits.get("seconds"), "limits.seconds", 0.1, 86400),
        memory_mib=reader.number(limits.get("memory-mib"), "limits.memory-mib", 1, 2**20),
    )
    if reader.findings:
        raise ExpectationError(reader.findings)
    return made


@dataclass
class _Reader:
    """Collects findings while it reads, so that all of them are said at once."""

    findings: list[str] = field(default_factory=list)

    def mapping(self, value: Any, where: str, known: tuple[str, ...] | None) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            self.findings.append(f"{where} must be a mapping of names to values")
            return {}
        if len(value) > MAX_RULES:
            self.findings.append(f"{where} has more than {MAX_RULES} entries")
            return {}
        if known is not None:
            for key in sorted(set(value) - set(known)):
                self.findings.append(f"{where}: '{_shown(key)}' is not known; known are {', '.join(known)}")
        return value

    def sequence(self, value: Any, where: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_RULES:
            self.findings.append(f"{where} must be a list of at most {MAX_RULES} entries")
            return []
        return value

    def file(self, value: Any, where: str) -> FileRule | None:
        entry = self.mapping(value, where, ("kind", "name", "sop-class", "count"))
        kind, name, sop_class = (self.text(entry.get(key), f"{where}.{key}") for key in ("kind", "name", "sop-class"))
        if kind and kind not in KINDS:
            self.findings.append(f"{where}.kind must be one of {', '.join(KINDS)}")
        if sop_class and not (sop_class := _sop_class(sop_class)):
            self.findings.append(f"{where}.sop-class must be a SOP class UID or its name, such as Segmentation Storage")
        if not any(entry.get(key) for key in ("kind", "name", "sop-class")):
            self.findings.append(f"{where} must say kind, name or sop-class")
        if "count" not in entry:
            self.findings.append(f"{where}.count is missing: a number, or min and max")
            return None
        count = entry["count"]
        found = self.bounds({"min": count, "max": count} if isinstance(count, int) else count, f"{where}.count", 0, 100_000, whole=True)
        return FileRule(found, kind, name, sop_class) if found else None

    def segment(self, label: str, value: Any) -> SegmentRule | None:
        where = f"segments.{_shown(label)}"
        if not 0 < len(label) <= 64 or not label.isprintable():
            self.findings.append("segments: a label has 1 to 64 printable characters (SegmentLabel)")
            return None
        entry = self.mapping(value, where, ("volume-ml", "dice"))
        volume = self.bounds(entry["volume-ml"], f"{where}.volume-ml", 0, 1e6) if "volume-ml" in entry else None
        dice = self.mapping(entry.get("dice"), f"{where}.dice", ("min",))
        if "dice" in entry and "min" not in dice:
            self.findings.append(f"{where}.dice must say min")
        if not entry:
            self.findings.append(f"{where} must say volume-ml or dice")
        return SegmentRule(label, volume, self.number(dice.get("min"), f"{where}.dice.min", 0, 1))

    def bounds(self, value: Any, where: str, low: float, high: float, *, whole: bool = False) -> Range | None:
        entry = self.mapping(value, where, ("min", "max"))
        if not entry:
            self.findings.append(f"{where} must say min, max or both")
            return None
        found = Range(*(self.number(entry.get(key), f"{where}.{key}", low, high, whole=whole) for key in ("min", "max")))
        if found.low is not None and found.high is not None and found.low > found.high:
            self.findings.append(f"{where}: min is larger than max")
        return found

    def number(self, value: Any, where: str, low: float, high: float, *, whole: bool = False) -> float | None:
        if value is None:
            return None
        kinds = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not low <= value <= high:
            self.findings.append(f"{where} must be a {'whole ' if whole else ''}number from {low:g} to {high:g}")
            return None
        return value

    def text(self, value: Any, where: str) -> str:
        if value is None:
            return ""
        if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
            self.findings.append(f"{where} must be a text of at most 200 printable characters")
            return ""
        return value


def _range_data(limits: Range) -> dict[str, float]:
    return {name: value for name, value in (("min", limits.low), ("max", limits.high)) if value is not None}


def _sop_class(text: str) -> str:
    """The UID of a SOP class given as UID or as its name in PS3.6, empty where there is none."""
    if _UID.fullmatch(text):
        return text if len(text) <= 64 else ""
    return next((uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and name.lower() == text.lower()), "")


def _shown(text: str) -> str:
    return text[:64] if text.isprintable() else "?"
