"""The texts of a study's header in UTF-8, whatever they were written in. pydicom alone, no SDK.

A name in two alphabets has several character sets, and highdicom takes only some lists of them; others are mistyped, or the bytes are of
another one than is said. What a result repeats of the study must be readable all the same. Source: PS3.3 C.12.1.1.2, PS3.5 6.1.2.
"""

from __future__ import annotations

import warnings
from typing import Final

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes, default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

UTF_8: Final = "ISO_IR 192"
TEXTS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations that SpecificCharacterSet speaks of."""
IMAGE_GROUPS: Final = 0x5000
"""From this group on, a header holds curves, functional groups, overlays and pixels."""
_SINGLE: Final = frozenset({"LT", "ST", "UT"})
"""Those in which a backslash is a character of the text."""


def to_utf8(dataset: Dataset) -> None:
    """Decode the texts of a header in place, as it was read; what was looked at before stays as pydicom decoded it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the text
        _convert(dataset, [])
    dataset.SpecificCharacterSet = UTF_8


def decoded(raw: bytes, declared: list[str], *, name: bool = False) -> str:
    """A text by its declared character sets; where they are none or do not fit, as UTF-8, else as Latin-1, which fits all bytes.

    Args:
        raw: The value as it is in the file.
        declared: The values of SpecificCharacterSet.
        name: Whether it is a person's name, in which ``^`` and ``=`` end a character set.
    """
    known = convert_encodings(declared)
    text = ""
    for encodings in ([known] if known != [default_encoding] else []) + [["utf-8"], ["latin-1"]]:
        try:
            with config.strict_reading():
                text = decode_bytes(raw, encodings, PN_DELIMS if name else TEXT_VR_DELIMS)
            break
        except (UnicodeError, LookupError):
            continue
    return text


def _convert(dataset: Dataset, inherited: list[str]) -> None:
    declared = _character_sets(dataset) or inherited
    for tag in list(dataset.keys()):
        if tag.is_private or tag.group >= IMAGE_GROUPS:
            continue
        element = dataset.get_item(tag)
        representation = element.VR if element.VR or not dictionary_has_tag(tag) else dictionary_VR(tag)
        if representation == "SQ":
            for item in dataset[tag].value:
                _convert(item, declared)
        elif representation in TEXTS and isinstance(element, RawDataElement) and element.value:
            text = decoded(element.value, declared, name=representation == "PN")
            texts = [text] if representation in _SINGLE else text.split("\\")
            values = [each.rstrip(" \0") for each in texts]
            dataset[tag] = DataElement(tag, representation, values[0] if len(values) == 1 else values, validation_mode=config.IGNORE)
    if "SpecificCharacterSet" in dataset:
        dataset.SpecificCharacterSet = UTF_8


def _character_sets(dataset: Dataset) -> list[str]:
    value = dataset.get("SpecificCharacterSet") or []
    return [value] if isinstance(value, str) else [str(each) for each in value]
