"""Dates, times of day and ages of a study, found in text in the notations that people and programs use.

Here belongs what a date may look like. A text is searched for whatever looks like one, and what it may mean is looked up among the
study's: no notation is made of a date, so that a thousand dates cost as much as one. Months are known in English and German.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from datetime import date
from typing import Final

from monai_aws_pipeline.host_agent.log_redaction.identifier_forms import Span
from monai_aws_pipeline.host_agent.log_redaction.identifying_attributes import Kind

_STAMP: Final = re.compile(
    r"\W{0,3}(?:\w{1,10}\W{1,3})?(?:[IWEF](?=\d))?((?:\d{4})[-/.]?(?:\d\d)[-/.]?(?:\d\d))[T ]\d\d:?\d\d:?\d\d(?:[.,]\d{1,9})?"
)
_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        ("jan", "feb", "mar maer", "apr", "may mai", "jun", "jul", "aug", "sep", "oct okt", "nov", "dec dez"), 1
    )
    for name in names.split()
}  # fmt: skip
_MONTH: Final = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]{{0,6}}"
_DATES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\d)(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)(?:\d{4}(?:\d\d)?(?:\.\d{1,6})?(?:[+-]\d{4})?)?(?!\d)",
        r"(?<![\d.])(?P<y>\d{4})(?P<s>,?\s|[-/._:])(?P<m>\d{1,2})(?P=s)\s?(?P<d>\d{1,2})(?!\d|\.\d)",
        r"(?<![\da-z.])(?P<a>\d\d)(?P<b>\d\d)(?P<z>\d\d)(?![\da-z]|\.\d)",
        r"(?<![\d.])(?P<a>\d{1,2})(?P<s>[-/._ ])\s?(?P<b>\d{1,2})(?P=s)\s?(?P<z>\d{4}|\d{2})(?!\d|\.\d)",
        rf"(?<!\d)(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:\sof)?[\s.,_/-]{{0,3}}{_MONTH}[\s.,'_/-]{{0,3}}(?P<z>\d{{4}}|\d\d)(?!\d)",
        rf"(?<![a-z]){_MONTH}[\s._/-]{{0,3}}(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:\s\d\d:\d\d:\d\d)?(?:\s[a-z]{{3,4}})?[\s,._/-]{{1,3}}(?P<z>\d{{4}})(?!\d)",
        r"(?<!\d)(?P<y>\d{4})\s?[年년]\s?(?P<m>\d{1,2})\s?[月월]\s?(?P<d>\d{1,2})",
        rf"(?<!\d)(?P<y>\d{{4}})[\s._/-]{{0,2}}{_MONTH}[\s._/-]{{0,2}}(?P<d>\d{{1,2}})(?!\d)",
    )
)
_TIME: Final = re.compile(r"(?<![\d:.])(\d\d)(:?)(\d\d)\2(\d\d)(?:[.,]\d{1,6})?(?![\d:])")
_AGE: Final = re.compile(r"(?<![\d.])(\d{1,3})[\s_-]{0,2}(years?|yrs?|y/?o|y|months?|weeks?|days?|[mwd])(?![a-z])")
_LABELLED_AGE: Final = re.compile(r"(?<![a-z])(?:patient_?s?)?_?age[d]?\W{0,4}(?:is|of|at|in years)?\W{0,4}(\d{1,3})(?!\d)")
_LABELLED_YEAR: Final = re.compile(
    r"(?<![a-z])(?:born|birth|dob|birth_?year|birth_?date|year of birth)\W{0,4}(?:in|year|date|on)?\W{0,4}(\d{4})(?!\d)"
)


class Moments:
    """Dates, times of day with seconds, and ages."""

    def __init__(self) -> None:
        self._dates: set[date] = set()
        self._births: set[date] = set()
        self._times: set[tuple[str, str, str]] = set()
        self._ages: set[tuple[int, str]] = set()

    def learn(self, kind: Kind, text: str, *, born: bool) -> None:
        """Take in one value, of which a multiple one or a range is several."""
        if kind is Kind.AGE:
            self._ages |= {(int(number), unit.lower()) for number, unit in re.findall(r"(\d{1,3})\s*([DWMYdwmy])", text)}
        if kind in (Kind.DATE, Kind.MOMENT):
            for found in re.finditer(r"(?<!\d)(\d{4})[.\-/]?(\d\d)[.\-/]?(\d\d)", text):
                if made := _date("".join(found.groups())):
                    (self._births if born else self._dates).add(made)
        if kind in (Kind.TIME, Kind.MOMENT):
            pattern = r"(?<![\d.])(\d\d):?(\d\d):?(\d\d)(?!\d)" if kind is Kind.TIME else r"\d{8}(\d\d)(\d\d)(\d\d)"
            self._times |= {found.groups() for found in re.finditer(pattern, text)}  # type: ignore[misc]

    def complete(self) -> None:
        """Ages follow from the dates, whether or not they are written anywhere. Midnight says that a time is not known."""
        self._times.discard(("00", "00", "00"))
        years = {(when.year, when.month, when.day) for when in sorted(self._dates)[:5000]}
        for birth in sorted(self._births)[:8]:
            self._ages |= {(year - birth.year - ((month, day) < (birth.month, birth.day)), "y") for year, month, day in years}

    def spans(self, low: str, behind: int) -> Iterator[Span]:
        """Where a text tells one of them, ``behind`` its own time stamp."""
        dates = self._dates | self._births
        if dates:
            for pattern in _DATES:
                yield from (found.span() for found in pattern.finditer(low) if found.start() >= behind and dates & _meant(found))
        if self._births:
            born = {when.year for when in self._births}
            yield from (found.span(1) for found in _LABELLED_YEAR.finditer(low) if int(found[1]) in born)
        if self._times:
            for found in _TIME.finditer(low):
                if found.start() >= behind and (found[1], found[3], found[4]) in self._times:
                    yield found.span()
        if self._ages:
            yield from (found.span() for found in _AGE.finditer(low) if self._is_age(found))
            numbers = {number for number, _ in self._ages}
            yield from (found.span(1) for found in _LABELLED_AGE.finditer(low) if int(found[1]) in numbers)

    def _is_age(self, found: re.Match[str]) -> bool:
        number, unit = found[1], found[2]
        if (int(number), unit[0]) not in self._ages:
            return False
        return len(unit) > 1 or len(number) == 3 or (unit == "y" and len(number) > 1)  # 2 m and 3 d are other quantities


def stamp_end(text: str, days: Container[date]) -> int:
    """Where a line's own time stamp of one of these days ends; 0 where it has none."""
    stamp = _STAMP.match(text)
    return stamp.end() if stamp and _date(re.sub(r"\D", "", stamp[1])) in days else 0


def _meant(found: re.Match[str]) -> set[date]:
    """The dates that a match may mean: day or month first, two digits of a year."""
    parts = {name: value for name, value in found.groupdict().items() if value}
    years = [int(parts.get("y") or parts["z"])]
    if len(parts.get("z", "0000")) == 2:
        years = [1900 + years[0], 2000 + years[0]]
    if "name" in parts:
        days = [(_MONTHS[parts["name"]], int(parts["d"]))]
    elif "a" in parts:
        one, other = int(parts["a"]), int(parts["b"])
        days = [(one, other), (other, one)]
        if len(parts["z"]) == 2:
            return _made([1900 + one, 2000 + one], [(other, int(parts["z"]))]) | _made(years, days)
    else:
        days = [(int(parts["m"]), int(parts["d"])), (int(parts["d"]), int(parts["m"]))]
    return _made(years, days)


def _made(years: list[int], days: list[tuple[int, int]]) -> set[date]:
    made = set()
    for year in years:
        for month, day in days:
            if 1 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= 31 and (found := _date(f"{year:04d}{month:02d}{day:02d}")):
                made.add(found)
    return made


def _date(digits: str) -> date | None:
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:  # the 31st of February, or nothing at all
        return None
