"""What may be said of a study's series in a record: values of the standard's closed vocabularies, and counts.

Here belong those vocabularies. A header's text is whatever a sender wrote there, a name among it, so nothing else of it is repeated:
what is not the standard's own is ``other``. The same holds for what an application's rules ask.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import pydicom
from pydicom.datadict import tag_for_keyword

from monai_aws_pipeline.maps.spec.series_rules import ORIENTATIONS, Rules, UndecidedError, missed

if TYPE_CHECKING:
    from monai_aws_pipeline.host_agent.intake.dicom import Instance

OTHER: Final = "other"
_IN_USE: Final = (
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LS MG "
    "MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD "
    "RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC"
)
_RETIRED: Final = "AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST TH VF"
MODALITIES: Final = frozenset(f"{_IN_USE} {_RETIRED}".split())
"""Defined terms of Modality (PS3.3 section C.7.3.1.1.1)."""
_IMAGE_TYPE: Final = (
    frozenset({"ORIGINAL", "DERIVED"}),
    frozenset({"PRIMARY", "SECONDARY"}),
    frozenset(
        {
            "AXIAL", "LOCALIZER", "MPR", "PROJECTION IMAGE", "VOLUME", "DENSITY MAP", "DIFFUSION MAP", "IMAGE ADDITION", "MODULUS SUBTRACT",
            "PHASE MAP", "PHASE SUBTRACT", "T1 MAP", "T2 MAP", "VELOCITY MAP",
        }
    ),
)  # fmt: skip
"""Values 1 to 3 of ImageType (PS3.3 sections C.7.6.1.1.2, C.8.2.1.1.1, C.8.3.1.1.1, C.8.16.1); those after them are the maker's own."""
_KINDS: Final = 8
_RULES: Final = 4
_TERMS: Final = 6


def modality(text: str) -> str:
    """A series' Modality where it is one of the standard's."""
    return text if text in MODALITIES else OTHER


def found(series: Iterable[Sequence[Instance]], rules: Rules) -> str:
    """The series of a study by kind, the most frequent first: how many, modality, image type, images, and what differs."""
    counts, images = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    for each in series:
        one = usual(each)
        kind = (modality(one.modality), _image_type(one.header.image_type), _missing(one, rules))
        counts[kind] += 1
        images[kind] += len(each)
    said = []
    for (name, shown, lacks), count in counts.most_common(_KINDS):
        pictures = images[name, shown, lacks]
        of = f"{pictures} image{'s' if pictures != 1 else ''}"
        said.append(f"{count} series of {name} ({shown}, {of}{f'; differs in {lacks}' if lacks else ''})")
    more = len(counts) - _KINDS
    return ", ".join(said) + (f", and {more} more kinds" if more > 0 else "")


def wanted(rules: Rules) -> str:
    """What the rules of an application ask, rule by rule: names of attributes, with values where the standard has a closed list of them."""
    each = list(dict.fromkeys(", ".join(_asked(key, value) for key, value in asked.items() if value) for _, asked in rules))
    more = f"; and {len(each) - _RULES} more" if len(each) > _RULES else ""
    return "; or ".join(each[:_RULES]) + more


def usual(images: Sequence[Instance]) -> Instance:
    """The first image of the class that most images of a series have: a capture among them does not speak for it."""
    most = Counter(image.sop_class for image in images).most_common(1)[0][0]
    return next(image for image in images if image.sop_class == most)


def _image_type(values: Sequence[str]) -> str:
    known = [value if value in terms else OTHER for value, terms in zip(values, _IMAGE_TYPE, strict=False) if value]
    return "\\".join(known) or "no image type"


def _missing(one: Instance, rules: Rules) -> str:
    """The attributes in which a series misses the rule that it comes nearest to."""
    try:
        header = pydicom.dcmread(one.path, stop_before_pixels=True)
        nearest = min((missed(asked, header) for _, asked in rules), key=len)
    except (UndecidedError, ValueError, TypeError, AttributeError, KeyError):  # a rule that nobody can decide is said as it is asked
        return ""
    return " and ".join(dict.fromkeys(map(_keyword, nearest)))


def _keyword(key: str) -> str:
    return key if tag_for_keyword(key) is not None else OTHER


def _asked(key: str, value: Any) -> str:
    terms = _terms(key, value)
    return f"{_keyword(key)} {' or '.join(terms)}" if terms else _keyword(key)


def _terms(key: str, value: Any) -> list[str]:
    """The values that a condition asks for, where the standard has a closed list of them."""
    if key == "Modality" and isinstance(value, str):
        return _matching(value)
    if key == "ImageOrientationPatient":
        return [str(value).lower()] if str(value).lower() in ORIENTATIONS else [OTHER]
    if key == "ImageType":
        each = [str(term) for term in (value if isinstance(value, list) else [value])]
        known = frozenset().union(*_IMAGE_TYPE)
        return [
            f"{'not ' if term.startswith('!') else ''}{name if (name := term.lstrip('!').upper()) in known else OTHER}" for term in each
        ]
    return []


def _image_type_term(term: str) -> str:
    return term if any(term in terms for terms in _IMAGE_TYPE) else OTHER


def _matching(pattern: str) -> list[str]:
    """The modalities that a text or pattern takes, as the SDK compares them."""
    try:
        taken = sorted(term for term in MODALITIES if term == pattern.upper() or re.search(pattern, term, re.IGNORECASE))
    except re.error:
        return [OTHER]
    exact = [term for term in taken if term == pattern.upper()]
    return exact or (taken if 0 < len(taken) <= _TERMS else [OTHER])
