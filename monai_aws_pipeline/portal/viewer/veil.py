"""What identifies a person taken out of DICOM before a browser gets it, and each UID replaced by one that stands for it here alone.

So neither an address that a browser asks for, nor a proxy's log of it, nor a screenshot of the viewer holds an identifier; the original as
it is stays a download of its own. Pixels are not changed. Sources: PS3.15 annex E; PS3.5 B.2 (UIDs made of a UUID's number).
"""

from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress
from typing import Final

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from monai_aws_pipeline.host_agent.log_redaction.identifying_attributes import Kind, kind_of

_REGISTERED: Final = "1.2.840.10008."
"""UIDs of the standard itself: SOP classes, transfer syntaxes, coding schemes."""
_KEPT_KINDS: Final = (None, Kind.UID, Kind.CHARACTER_SET)
_PATIENT_GROUP: Final = 0x0010
_BYTES: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW"))
_LARGEST_BYTES: Final = 64 << 10
_PIXELS: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_DEEPEST: Final = 32


class Veil:
    """Of one study: its pseudonym (16 hex digits) and its StudyInstanceUID, which keys the UIDs that stand for others."""

    def __init__(self, study: str, study_uid: str) -> None:
        self._study, self._uid = study, study_uid

    @property
    def study_uid(self) -> str:
        """The StudyInstanceUID that a browser knows: made of the pseudonym alone."""
        return study_uid_of(self._study)

    def uid(self, uid: str) -> str:
        """What stands for a UID; one of the standard's own stands for itself."""
        uid = uid.strip(" \0")
        if not uid or uid.startswith(_REGISTERED):
            return uid
        if uid == self._uid:
            return self.study_uid
        digest = hmac.new(self._uid.encode(), uid.encode(), hashlib.sha256).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"

    def over(self, data: Dataset) -> Dataset:
        """A data set, changed in place: nothing that identifies, no private element, and nothing that cannot be read."""
        with config.disable_value_validation():
            self._clean(data, 0)
            data.PatientName = data.PatientID = self._study
        return data

    def _clean(self, data: Dataset, depth: int) -> None:
        for tag in list(data.keys()):
            try:
                element = data[tag]
                keeps = depth < _DEEPEST and self._is_kept(element)
                if keeps and element.VR == "SQ":
                    for item in element.value:
                        self._clean(item, depth + 1)
                elif keeps and element.VR == "UI":
                    self._replace(element)
            except Exception:  # pydicom raises almost anything on a damaged value: what cannot be read is not shown
                keeps = False
            if not keeps:
                with suppress(KeyError):
                    del data[tag]

    def _is_kept(self, element: DataElement) -> bool:
        tag = element.tag
        if tag.is_private or tag.group == _PATIENT_GROUP or element.VR == "UN":
            return False
        if kind_of(int(tag), element.VR) not in _KEPT_KINDS:
            return False
        return element.VR not in _BYTES or int(tag) in _PIXELS or len(element.value or b"") <= _LARGEST_BYTES

    def _replace(self, element: DataElement) -> None:
        value = element.value
        if isinstance(value, MultiValue | list | tuple):
            element.value = [UID(self.uid(str(each))) for each in value]
        elif value:
            element.value = UID(self.uid(str(value)))


def study_uid_of(study: str) -> str:
    """The StudyInstanceUID that a browser knows a study by, from its pseudonym."""
    return f"2.25.{int(study, 16)}"
