"""What an archive answered for one study, as the record of it says: by series and code, with no identifier of a study in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

SCHEMA: Final = 1
CONFLICT: Final = "archive_conflict"
UNSAID: Final = 0
"""Code of an instance that the archive's answer does not mention."""

WORDS: Final[Mapping[int, str]] = {
    UNSAID: "the archive did not say what became of it",
    0x0110: "processing failure",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xA700: "out of resources",
    0xA900: "the data set does not match its SOP class, or another study was named",
    0xC000: "the archive cannot understand it",
    0xC122: "transfer syntax not supported",
    0xB000: "elements were coerced",
    0xB006: "elements were discarded",
    0xB007: "the data set does not match its SOP class",
    0xB100: "pixels could not be transcoded",
    0xB110: "frames could not be read from the pixels",
    0xB111: "the number of frames does not match the pixels",
    0xB112: "the offset table does not match the frames",
    0xB120: "transfer syntax not supported; kept as it is",
    0xB201: "a UID is malformed",
    0xB202: "a value is longer than its representation allows",
}
"""What codes mean. Sources: DICOM PS3.18 table 10.5.3-2 and PS3.4 table C.4-1; HealthImaging Developer Guide, Warning Codes."""


def words_of(code: int) -> str:
    """A code in words; the ranges of DICOM where the code itself is not known."""
    if code in WORDS:
        return WORDS[code]
    if 0xA700 <= code <= 0xA7FF:
        return WORDS[0xA700]
    if 0xA900 <= code <= 0xA9FF:
        return WORDS[0xA900]
    return "the archive cannot understand it" if 0xC000 <= code <= 0xCFFF else "a code of the archive's own"


@dataclass(frozen=True)
class SeriesRecord:
    """One series. ``sent`` = ``stored`` + all ``refused``; ``there`` was in the archive before and was not sent.

    ``refused`` and ``warned``: instances by the archive's own code. ``comments``: the archive's own words, where it has some.
    """

    number: str
    modality: str
    is_result: bool
    there: int = 0
    sent: int = 0
    stored: int = 0
    refused: Mapping[int, int] = field(default_factory=dict)
    warned: Mapping[int, int] = field(default_factory=dict)
    image_sets: tuple[str, ...] = ()
    hidden: bool = False
    """Whether part of it lies in a non-primary image set, which viewers are not shown."""
    corrected: tuple[str, ...] = ()
    """Attributes that were changed in the archived copy."""
    withheld: int = 0
    """Results that were not sent, because they would have been hidden (``archive_conflict``)."""
    conflicts: tuple[str, ...] = ()
    """The attributes in which those differ from their study."""

    @property
    def is_whole(self) -> bool:
        """Whether all of it is in the archive, and shown."""
        return not self.refused and not self.hidden and not self.withheld and self.stored == self.sent


@dataclass(frozen=True)
class ArchiveRecord:
    """One study, once the archive has answered for all of it."""

    study: str
    job: str
    archive: str
    """``healthimaging`` or ``dicomweb``, with nothing of its address."""
    series: tuple[SeriesRecord, ...]
    seconds: float
    bytes: int
    requests: int
    tries: int
    datastore: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the study is in the archive as it should be."""
        return all(each.is_whole for each in self.series)

    @property
    def refusals(self) -> dict[str, int]:
        """Instances that were refused, by code and what it means."""
        found: dict[str, int] = {}
        for each in self.series:
            for code, count in each.refused.items():
                said = f"0x{code:04X}: {words_of(code)}"
                found[said] = found.get(said, 0) + count
        return found

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is not as it should be, a sentence each; empty for a whole one."""
        said = [f"the archive refused {count} of its instances ({why})" for why, count in self.refusals.items()]
        for each in self.series:
            what = f"series {each.number or 'without a number'} ({each.modality})"
            if each.withheld:
                said.append(f"{CONFLICT}: {each.withheld} of {what} would be hidden, for its study differs in {', '.join(each.conflicts)}")
            if each.hidden:
                said.append(f"a part of {what} is hidden in a non-primary image set")
        return tuple(said)

    def to_json(self) -> str:
        """Text that ``from_json`` reads back."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ArchiveRecord:
        """The record that ``to_json`` wrote."""
        data: dict[str, Any] = json.loads(text)
        data.pop("schema")
        return cls(**{**data, "series": tuple(_series(each) for each in data["series"])})

    @classmethod
    def parse(cls, text: str) -> ArchiveRecord | None:
        """As ``from_json``; None for a text that is no record of this schema."""
        try:
            return cls.from_json(text)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def _series(data: Mapping[str, Any]) -> SeriesRecord:
    codes = {name: {int(code): count for code, count in data[name].items()} for name in ("refused", "warned")}
    return SeriesRecord(**{**data, **codes, **{name: tuple(data[name]) for name in ("image_sets", "corrected", "conflicts")}})
