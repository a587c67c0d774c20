"""What an application is given of a study, and what it says of itself: the section ``monai-aws`` of its app.yaml, kept in a label.

Here belongs the contract as a value: written by people (app.yaml), completed by what the code shows, carried by the image, read on a host.
No DICOM file is looked at; whether a study keeps the contract is judged in ``host_agent.map_requirements``. The page for people is
docs/study-contract.md. Standard library and pydicom's names alone.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydicom import uid
from pydicom.datadict import tag_for_keyword

from monai_aws_pipeline.contract import ExpectedVolume

LABEL_STUDY_CONTRACT: Final = "monai-aws.study-contract"
"""Label of an image: ``StudyContract.to_label``. An image without it was built elsewhere or before, and asks what its older labels say."""
LABEL_VOLUME: Final = "monai-aws.require-volume"
"""Label of an image: ``true`` where its application needs a regular volume. Read where ``LABEL_STUDY_CONTRACT`` is missing."""
LABEL_CHARACTERS: Final = 8192

SMALLEST_STACK: Final = 3
"""Planes of which a volume has at least so many."""
LARGEST_MINIMUM: Final = 10_000
_SECTION: Final = ("require-volume", "min-slices", "series", "stack", "handles", "companions", "volumes-ml")
_MAX_STACK_RULES: Final = 8
_MAX_VOLUMES: Final = 32
_LARGEST_ML: Final = 1e6
_MAX_TEXT: Final = 1024 * 1024
_MAX_FILES: Final = 2000

VOLUME_OPERATOR: Final = "DICOMSeriesToVolumeOperator"
"""The SDK's own way from a series to a volume, with the traps of ``Handles``."""
_VOLUME_OPERATORS: Final = frozenset({VOLUME_OPERATOR, "MonaiBundleInferenceOperator", "MonaiSegInferenceOperator"})
_ALL_MATCHED: Final = "all_matched"


class Handles(StrEnum):
    """Kinds of images that applications are known to read wrongly: given to those alone that say they read them right."""

    MONOCHROME1 = "monochrome1"
    PIXEL_TYPE = "pixel-type"
    ENHANCED = "enhanced"
    GANTRY_TILT = "gantry-tilt"
    FLOAT_PIXELS = "float-pixels"
    COLOR = "color"
    NON_SQUARE = "non-square-pixels"


class SeriesChoice(StrEnum):
    """Which of several series that the rules take an application is given."""

    LARGEST = "largest"
    ALL = "all"


@dataclass(frozen=True)
class StudyContract:
    """What an application asks of a study.

    ``volume``: a series must be one clean stack of at least ``min_slices`` planes. ``series``: the largest of those that its rules take, or
    all. ``stack``: attribute and value that choose one stack of a series that holds several. ``handles``: see ``Handles``.
    ``sdk_volume``: volumes are built by the SDK's own operator. ``companions``: objects that are no image are given too.
    ``syntaxes``: UIDs of the transfer syntaxes that it decodes; None where that is not known. ``volumes``: what is plausible for its
    segments; no answer is refused by it.
    """

    volume: bool = False
    min_slices: int = SMALLEST_STACK
    series: SeriesChoice = SeriesChoice.LARGEST
    stack: tuple[tuple[str, str], ...] = ()
    handles: frozenset[Handles] = frozenset()
    sdk_volume: bool = False
    companions: bool = False
    syntaxes: frozenset[str] | None = None
    volumes: tuple[ExpectedVolume, ...] = ()

    def to_label(self) -> str:
        """Canonical JSON for ``LABEL_STUDY_CONTRACT``."""
        data: dict[str, Any] = {
            "volume": self.volume,
            "min-slices": self.min_slices,
            "series": self.series.value,
            "stack": dict(self.stack),
            "handles": sorted(self.handles),
            "sdk-volume": self.sdk_volume,
            "companions": self.companions,
        }
        if self.syntaxes is not None:
            data["syntaxes"] = sorted(self.syntaxes)
        if self.volumes:
            data["volumes-ml"] = {volume.label: volume.ends for volume in self.volumes}
        return json.dumps(data, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def contract_of(labels: Mapping[str, str]) -> StudyContract:
    """The contract in an image's labels; what cannot be read of somebody's image asks for nothing."""
    text = labels.get(LABEL_STUDY_CONTRACT, "")
    if not text or len(text) > LABEL_CHARACTERS:
        return StudyContract(volume=labels.get(LABEL_VOLUME) == "true")
    try:
        data = json.loads(text)
        section = {name: data[name] for name in _SECTION[1:] if name in data}
        findings: list[str] = []
        declared = parse_section({"require-volume": data.get("volume", False), **section}, findings)
        syntaxes = data.get("syntaxes")
        known = frozenset(str(each) for each in syntaxes) if isinstance(syntaxes, list) else None
        if not findings:
            return declared.completed(sdk_volume=data.get("sdk-volume") is True, volume=False, syntaxes=known)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    return StudyContract(volume=labels.get(LABEL_VOLUME) == "true")


@dataclass(frozen=True)
class Declared:
    """The section ``monai-aws`` of an app.yaml. ``volume``: None where it does not say whether a volume is needed."""

    volume: bool | None = None
    min_slices: int = SMALLEST_STACK
    series: SeriesChoice | None = None
    stack: tuple[tuple[str, str], ...] = ()
    handles: frozenset[Handles] = frozenset()
    companions: bool = False
    volumes: tuple[ExpectedVolume, ...] = ()

    def completed(self, *, sdk_volume: bool, volume: bool, syntaxes: frozenset[str] | None) -> StudyContract:
        """The contract, with what the code shows where the section says nothing."""
        return StudyContract(
            volume=volume if self.volume is None else self.volume,
            min_slices=self.min_slices,
            series=self.series or SeriesChoice.LARGEST,
            stack=self.stack,
            handles=self.handles,
            sdk_volume=sdk_volume,
            companions=self.companions,
            syntaxes=syntaxes,
            volumes=self.volumes,
        )


def parse_section(section: Any, findings: list[str]) -> Declared:
    """Read the section ``monai-aws``; what is wrong with it goes into ``findings``, each with what is expected instead."""
    if section is None:
        return Declared()
    if not isinstance(section, dict):
        findings.append("'monai-aws' must be a mapping, such as 'monai-aws: {require-volume: true}'")
        return Declared()
    unknown = sorted(str(name) for name in section if name not in _SECTION)
    if unknown:
        shown = ", ".join(f"'{name[:40]}'" if name.isprintable() else "?" for name in unknown[:5])
        findings.append(f"'monai-aws' may hold {', '.join(_SECTION)}; not known: {shown}")
    return Declared(
        volume=_switch(section, "require-volume", findings),
        min_slices=_minimum(section.get("min-slices"), findings),
        series=_choice(section.get("series"), findings),
        stack=_stack(section.get("stack"), findings),
        handles=_handles(section.get("handles"), findings),
        companions=bool(_switch(section, "companions", findings)),
        volumes=_volumes(section.get("volumes-ml"), findings),
    )


def contract_for(application: Path, declared: Declared, requirements: Iterable[str] | None) -> StudyContract:
    """The contract of an application by its folder, its section and the names of its requirements (None: not known)."""
    used = used_names(application)
    return declared.completed(
        sdk_volume=VOLUME_OPERATOR in used,
        volume=bool(used & _VOLUME_OPERATORS),
        syntaxes=None if requirements is None else decoded_syntaxes(requirements),
    )


def used_names(application: Path) -> frozenset[str]:
    """Names that the application's code uses (not those in its comments or texts); what is no Python is passed over."""
    return frozenset(name for path in python_files(application) for name in _names(path))


def takes_all_matched(application: Path) -> bool:
    """Whether the code asks the SDK's selector for every series that its rules take."""
    return any(
        keyword.arg == _ALL_MATCHED and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for path in python_files(application)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    )


def python_files(application: Path) -> list[Path]:
    """The application's Python files of a size that somebody wrote by hand."""
    return [path for path in sorted(application.rglob("*.py"))[:_MAX_FILES] if path.is_file() and path.stat().st_size <= _MAX_TEXT]


# ------------------------------------------------------------------------------------------------------------------------- decoders

_NATIVE: Final = frozenset(
    {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless}
)
"""What pydicom decodes by itself, with numpy."""
_JPEG_8: Final = frozenset({uid.JPEGBaseline8Bit})
_JPEG: Final = frozenset({*_JPEG_8, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1})
_JPEG_LS: Final = frozenset({uid.JPEGLSLossless, uid.JPEGLSNearLossless})
_JPEG_2000: Final = frozenset({uid.JPEG2000Lossless, uid.JPEG2000})
_HTJ2K: Final = frozenset({uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K})
_DECODERS: Final[Mapping[str, frozenset[str]]] = {
    "pillow": _JPEG_8 | _JPEG_2000,
    "pyjpegls": _JPEG_LS,
    "pylibjpeg-openjpeg": _JPEG_2000 | _HTJ2K,
    "pylibjpeg-libjpeg": _JPEG | _JPEG_LS,
    "python-gdcm": _JPEG | _JPEG_LS | _JPEG_2000,
    "nvidia-nvimgcodec-cu12": _JPEG | _JPEG_2000 | _HTJ2K,
    "nvidia-nvimgcodec-cu13": _JPEG | _JPEG_2000 | _HTJ2K,
    "highdicom": _JPEG_8 | _JPEG_2000 | _JPEG_LS,  # requires pillow and pyjpegls
    "simpleitk": _JPEG | _JPEG_LS | _JPEG_2000,  # reads DICOM by itself, with GDCM inside
    "itk": _JPEG | _JPEG_LS | _JPEG_2000,
}
"""By package, in the spelling of ``packaging.utils.canonicalize_name``. Source: pydicom's "Plugins for Pixel Data Compression"."""


def decoded_syntaxes(requirements: Iterable[str]) -> frozenset[str]:
    """The transfer syntaxes that an application with these packages decodes."""
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in requirements}
    return frozenset(str(each) for each in _NATIVE.union(*(_DECODERS.get(name, frozenset()) for name in names)))


# -------------------------------------------------------------------------------------------------------------------------- reading


def _names(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.name.rpartition(".")[2] for alias in node.names)


def _tree(path: Path) -> ast.AST:
    try:
        return ast.parse(path.read_text("utf-8", errors="replace"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])  # said elsewhere


def _switch(section: Mapping[str, Any], name: str, findings: list[str]) -> bool | None:
    value = section.get(name)
    if value is None or isinstance(value, bool):
        return value
    findings.append(f"'monai-aws.{name}' must be true or false")
    return None


def _minimum(value: Any, findings: list[str]) -> int:
    if value is None:
        return SMALLEST_STACK
    if isinstance(value, int) and not isinstance(value, bool) and SMALLEST_STACK <= value <= LARGEST_MINIMUM:
        return value
    findings.append(f"'monai-aws.min-slices' must be a whole number from {SMALLEST_STACK} to {LARGEST_MINIMUM}")
    return SMALLEST_STACK


def _choice(value: Any, findings: list[str]) -> SeriesChoice | None:
    if value is None:
        return None
    if isinstance(value, str) and value in list(SeriesChoice):
        return SeriesChoice(value)
    findings.append("'monai-aws.series' must be 'largest' or 'all'")
    return None


def _stack(value: Any, findings: list[str]) -> tuple[tuple[str, str], ...]:
    wrong = "'monai-aws.stack' must map at most 8 DICOM attributes to the value wanted, such as 'stack: {EchoTime: 90}'"
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > _MAX_STACK_RULES:
        findings.append(wrong)
        return ()
    rules = []
    for name, wanted in value.items():
        plain = isinstance(wanted, str | int | float) and not isinstance(wanted, bool) and math.isfinite(_number(wanted))
        if not isinstance(name, str) or tag_for_keyword(name) is None or not plain or not 0 < len(str(wanted)) <= 64:
            findings.append(wrong)
            return ()
        rules.append((name, str(wanted)))
    return tuple(sorted(rules))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _volumes(value: Any, findings: list[str]) -> tuple[ExpectedVolume, ...]:
    """The plausible volume of each segment, by its SegmentLabel."""
    if value is None:
        return ()
    found = [_volume(label, ends) for label, ends in value.items()] if isinstance(value, dict) and len(value) <= _MAX_VOLUMES else [None]
    if None in found:
        findings.append(
            f"'monai-aws.volumes-ml' must map at most {_MAX_VOLUMES} segment labels to min, max or both in millilitres, "
            "such as 'volumes-ml: {Brain: {min: 600, max: 2200}}'"
        )
        return ()
    return tuple(sorted((each for each in found if each), key=lambda each: each.label))


def _volume(label: Any, ends: Any) -> ExpectedVolume | None:
    """None where it is no range of a label."""
    if not isinstance(label, str) or not 0 < len(label) <= 64 or not label.isprintable() or not isinstance(ends, dict):
        return None
    plain = all(isinstance(end, int | float) and not isinstance(end, bool) and 0 <= end <= _LARGEST_ML for end in ends.values())
    if not ends or not plain or not set(ends) <= {"min", "max"}:
        return None
    low, high = ends.get("min"), ends.get("max")
    return None if low is not None and high is not None and low > high else ExpectedVolume(label, low, high)


def _handles(value: Any, findings: list[str]) -> frozenset[Handles]:
    if value is None:
        return frozenset()
    if isinstance(value, list) and all(isinstance(item, str) and item in list(Handles) for item in value):
        return frozenset(Handles(item) for item in value)
    findings.append(f"'monai-aws.handles' must be a list of these: {', '.join(Handles)}")
    return frozenset()
