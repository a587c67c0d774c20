"""Taking out of text whatever names the patient, a physician, an institution, a visit or the study, before anyone keeps it.

An application is somebody's code and may print any header value, in any form; its log is kept beside the results. ``IdentifierFilter`` is
made of one study and cleans an application's lines, and every other text that quotes one. Here belongs what is taken out and what stays;
which attributes count is in ``identifying_attributes.py``, in which forms their values are found in ``identifier_forms.py``,
``identifier_dates.py`` and ``identifier_uids.py``.

Taken out wherever it stands:

- Names of persons, each part alone, in any order and case, glued together, in file names, with their initials, cut short.
- Numbers that were given to somebody (ids, accession numbers, serial numbers) and free texts (descriptions, comments, addresses) as a
  whole, numbers also without what stands between their digits; of a text of more than four words, each run of four. Other words of a text
  only where they are parts of a person's name.
- Dates of the study and of birth in the usual notations, times with their seconds, ages.
- UIDs of every kind by their look, whether or not the study has them, but for those that DICOM itself registers (1.2.840.10008).
- The value in a printed element of an identifying or private attribute, whatever it is.

And what stays, because a log without it would tell nothing. Some values are **short or common**: numbers of fewer than five digits, single
letters, and words of ``log_words.py``. A StudyID 10, a StationName "info", an InstitutionName "Error in line" are of that kind. Standing
alone they are removed only beside their label ("StudyID: 10", "(0020,0010) SH: '10'", "patient 0815"). That is safe: without the label
nobody can tell them from the numbers and words of every log, so that they lead to nobody, and with the label they are gone.

For a person's name the rule is narrower. A part that is no log word is always removed, from two letters on. A part that is one ("Line",
"An", "Error") or a single letter is removed beside another part of the same name ("An Line", "Line^An", "an_line.nii.gz") and beside a
label; alone it stays, because it then reads as the word that it is. The date in a line's own time stamp stays where it is today's.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import chain, combinations, groupby, permutations, product
from typing import Any, Final, Self

from monai_aws_pipeline.host_agent.intake.dicom import Study
from monai_aws_pipeline.host_agent.intake.dicom_structure import Element
from monai_aws_pipeline.host_agent.log_redaction.identifier_dates import Moments, stamp_end
from monai_aws_pipeline.host_agent.log_redaction.identifier_forms import (
    Span,
    Token,
    clean,
    decoded,
    is_lone,
    lowered,
    readings,
    spellings,
    tokens,
    words,
)
from monai_aws_pipeline.host_agent.log_redaction.identifier_uids import Uids
from monai_aws_pipeline.host_agent.log_redaction.identifying_attributes import Kind, kind_of, labels_of
from monai_aws_pipeline.host_agent.log_redaction.log_words import LOG_WORDS
from monai_aws_pipeline.host_agent.runtime.engine import LINE_BYTES

REMOVED: Final = "[removed]"

_DIGITS: Final = 5
"""From so many digits on, a number is removed wherever it stands."""
_RUN: Final = 4
_CUT: Final = 6
"""Letters of a name that was cut short, where no other part of it stands beside it."""
_GLUED: Final = 7
"""Letters of a name that is found within a longer word, whatever the rest of it is."""
_GLUED_TO_WORD: Final = 4
"""Letters of a name that is found where the rest of the word is one that every log has ("smithseg", "ctsmith")."""
_PARTS: Final = 6
_PART_LETTERS: Final = 64
"""What a name has at most in each of its three writings. PS3.5 6.2, PN."""
_JOINED_AT_MOST: Final = 100_000
"""From so many forms of names on, only two parts of each are joined."""
_GAP: Final = 4
"""Characters between two parts that belong together: ", " and its like, or what is left of two letters that nobody could read."""
_LABEL_TOKENS: Final = 6
_LABEL_CHARACTERS: Final = 80
_TEXT_TOKENS: Final = 32
_BIRTH_DATE: Final = 0x00100030
_END: Final = ""
_FILLERS: Final = frozenset(
    {
        "value", "values", "is", "was", "are", "of", "no", "number", "equals", "text", "str", "b", "u", "vr", "ae", "as", "cs", "da", "ds",
        "dt", "lo", "lt", "pn", "sh", "st", "tm", "uc", "ui", "un", "ut",
    }
)  # fmt: skip
_HASH: Final = 8
"""Hexadecimal digits in a row, not all of them letters of one name."""
_HEX_LETTERS: Final = re.compile(r"[a-f]{1,7}")
_HEX_BEFORE: Final = re.compile(r"[0-9a-fA-F]+$")
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_SEPARATORS: Final = re.compile(r"[\s^=,_.-]{0,2}")
_HUMP: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PRINTED: Final = re.compile(
    r"\((?P<group>[0-9a-fA-F]{4}),\s?(?P<element>[0-9a-fA-F]{4})\)\s(?:.{0,120}?\s)?"
    r"(?P<vr>AE|AS|CS|DA|DS|DT|IS|LO|LT|PN|SH|ST|TM|UC|UN|UT)(?::\s|\s(?=[\[=(]))"
)
"""An element as pydicom or dcmdump prints it, up to its value."""


class IdentifierFilter:
    """Cleans the texts about one study. ``elements``: what its instances hold of identifying attributes; ``uids``: its own.

    Made once a study. ``today``: the date of the host's clock, UTC.
    """

    def __init__(self, elements: Iterable[Element], uids: Iterable[str] = (), today: date | None = None):
        today = today or datetime.now(UTC).date()
        self._today = {today + timedelta(days) for days in (-1, 0, 1)}
        self._names = _Names()
        self._terms = _Terms()
        self._moments = Moments()
        self._uids = Uids()
        found = sorted(set(elements))
        character_sets = [raw for tag, vr, raw in found if kind_of(tag, vr) is Kind.CHARACTER_SET][:8]
        for tag, vr, raw in found:
            self._learn(kind_of(tag, vr), tag, raw, character_sets)
        for uid in uids:
            self._learn_uid(uid)
        self._names.complete()
        self._moments.complete()

    @classmethod
    def of(cls, study: Study, today: date | None = None) -> Self:
        """The filter of a study, of what each of its instances holds."""
        elements: set[Element] = set()
        for held in {id(held): held for item in (*study.instances, *study.companions) for held in item.identifying}.values():
            elements.update(held)
        uids = {study.uid} | {uid for item in (*study.instances, *study.companions) for uid in (item.series_uid, item.sop_uid)}
        return cls(elements, uids, today)

    def __call__(self, lines: Iterable[str]) -> list[str]:
        """The lines of a log, in order. One that was cut at the engine's longest line is put together again first."""
        whole: list[str] = []
        cut = False
        for line in lines:
            if cut:
                whole[-1] += line
            else:
                whole.append(line)
            cut = len(line) * 4 >= LINE_BYTES and len(line.encode("utf-8", "replace")) >= LINE_BYTES
        return [self.one(line) for line in whole]

    def one(self, text: str) -> str:
        """One text without identifiers, and without control characters."""
        text = clean(text)
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        spans = list(_printed_elements(text))
        for reading in readings(text):
            spans += [(reading.source[start], reading.source[end]) for start, end in self._spans(reading.text)]
        return _without(text, spans)

    def _spans(self, text: str) -> Iterator[Span]:
        found = tokens(text)
        yield from self._names.spans(text, found)
        yield from self._terms.spans(text, found)
        if any(char.isdigit() for char in text):
            low = text.lower()
            yield from self._uids.spans(low)
            yield from self._moments.spans(low, stamp_end(text, self._today))

    def _learn(self, kind: Kind | None, tag: int, raw: bytes, character_sets: list[bytes]) -> None:
        if kind in (Kind.DATE, Kind.TIME, Kind.MOMENT, Kind.AGE):
            self._moments.learn(kind, raw.decode("ascii", "replace"), born=tag == _BIRTH_DATE)
        elif kind is Kind.UID:
            for uid in raw.decode("ascii", "replace").split("\\"):
                self._learn_uid(uid.strip(" \0"))
        elif kind is Kind.PERSON:
            self._names.learn(raw, decoded(raw, character_sets, person=True), tag)
        elif kind in (Kind.NUMBER, Kind.TEXT):
            for text in decoded(raw, character_sets):
                self._terms.learn(kind, raw, text, labels_of(tag))

    def _learn_uid(self, uid: str) -> None:
        if not self._uids.learn(uid):
            labels = ("uid", "studyinstanceuid", "seriesinstanceuid", "sopinstanceuid", "frameofreferenceuid", "studyuid", "seriesuid")
            found = words(uid)  # one with letters is none, and is told apart by them
            self._terms.add(found, frozenset(labels), free=_is_somebodys(found) and not all(map(str.isdecimal, found)))


# --------------------------------------------------------------------------------------------------------------------------- persons


class _Names:
    """The parts of persons' names. Spellings of one attribute are one person's: "Zqplant^An" and "Zqplant^Anna" differ in one file."""

    def __init__(self) -> None:
        self._people: dict[str, set[int]] = {}
        self._parts: dict[int, set[str]] = {}
        self._sorted: dict[int, list[str]] = {}
        self._labels: frozenset[str] = frozenset()
        self._initials: dict[str, set[int]] = {}
        self._free: set[str] = set()
        self._long: list[str] = []
        self._starts: dict[str, list[str]] = {}
        self._terms = _Terms()
        self._inside: dict[str, tuple[Span, ...]] = {}

    def learn(self, raw: bytes, texts: Iterable[str], tag: int) -> None:
        """Take in one value, which may be several names, each in up to three writings. ``texts``: what it may be, likeliest first."""
        self._labels |= labels_of(tag)
        for place, text in enumerate(texts):
            for name in re.split(r"[\\=]", text):
                found = spellings(raw if name == text else name.encode("utf-8", "replace"), name)
                for form in found.right if place == 0 else ():
                    self._add_name(form, tag)
                for form in found.wrong if place == 0 else (*found.right, *found.wrong):
                    self._add_form(form, tag, letters=3)
                for form in found.lost:
                    self._add_form(form, tag, letters=4)
            if not text.isascii():
                self._terms.add(words(text), labels_of(tag), free=True)

    def complete(self) -> None:
        """Make what finds parts of parts."""
        self._free -= LOG_WORDS
        self._sorted = {tag: sorted(parts) for tag, parts in self._parts.items()}
        self._long = sorted(part for part in self._free if len(part) > _CUT)
        for part in self._long:
            if len(part) >= _GLUED:
                self._starts.setdefault(part[:_GLUED], []).append(part)

    def spans(self, text: str, found: list[Token]) -> Iterator[Span]:
        """Where a text names somebody."""
        yield from self._terms.spans(text, found)
        for at, (token, start, end) in enumerate(found):
            if token in self._free:
                if not _in_hash(text, token, start, end):
                    yield start, end
                    yield from self._beside(found, at)
            elif token in self._people:
                if (len(token) > 1 or is_lone(token)) and _is_labelled(found, at, self._labels):
                    yield start, end
                yield from self._neighbours(found, at)
            elif token not in LOG_WORDS and len(token) >= _CUT - 2:
                for inner_start, inner_end in self._within(text[start:end]):
                    yield start + inner_start, start + inner_end

    def _add_name(self, name: str, tag: int) -> None:
        components = [found for component in re.split(r"[\^,;]", name) if (found := words(component))]
        everything = tuple(token for component in components for token in component)
        for token in everything:
            self._people.setdefault(token, set()).add(tag)
            self._parts.setdefault(tag, set()).add(token)
            if token.isdecimal():
                if len(token) >= _DIGITS:
                    self._free.add(token)
            elif not is_lone(token) and len(token) > 1:
                self._free.add(token)
                self._initials.setdefault(token[0], set()).add(tag)
        for component in (*components, everything):
            if sum(map(is_lone, component)) > 1:
                self._terms.add(component, labels_of(tag), free=True)
        self._join(components, everything)

    def _add_form(self, form: str, tag: int, *, letters: int) -> None:
        """A wrong reading of a name: its short pieces are no parts of a name, and are found only as a whole."""
        found = words(form)
        self._free.update(token for token in found if not token.isdecimal() and not is_lone(token) and len(token) >= letters)
        for part in (found, *map(words, re.split(r"[\^,;\s]+", form))):
            if len(part) > 1 and sum(map(len, part)) >= _DIGITS:
                self._terms.add(part, labels_of(tag), free=True)

    def _join(self, components: list[tuple[str, ...]], everything: tuple[str, ...]) -> None:
        """Names without anything between their parts, as file names and accounts have them; some parts may be their first letter alone."""
        whole = ["".join(component) for component in components]
        runs = ("".join(part[first:last]) for part in components for first, last in combinations(range(len(part[:_PARTS]) + 1), 2))
        self._free.update(joined for joined in (*runs, *whole, "".join(whole), "".join(reversed(whole))) if len(joined) > 3)
        parts = (part for part in (*whole, *everything) if part.isalpha() and len(part) <= _PART_LETTERS and not any(map(is_lone, part)))
        pieces = list(dict.fromkeys(parts))[:_PARTS]
        for count in (2, 3) if len(self._free) < _JOINED_AT_MOST else (2,):
            for chosen, cut in product(permutations(pieces, count), product((False, True), repeat=count)):
                joined = "".join(piece[0] if short else piece for piece, short in zip(chosen, cut, strict=True))
                if not all(cut) and len(joined) > 3:
                    self._free.add(joined)

    def _neighbours(self, found: list[Token], at: int) -> Iterator[Span]:
        """A part that is a common word goes with another part of the same name right before or behind it."""
        token, start, end = found[at]
        for other in (at - 1, at + 1):
            if not 0 <= other < len(found) or found[other][0] == token or _gap(found, at, other) > _GAP:
                continue
            if token.isdecimal() and found[other][0] not in self._free:
                continue
            if self._people[token] & self._people.get(found[other][0], set()):
                yield start, end
                return

    def _beside(self, found: list[Token], at: int) -> Iterator[Span]:
        """What goes with a part that is removed: its initials, and another part that was cut short."""
        people = self._people.get(found[at][0], set())
        for step in (-1, 1) if people else ():
            last, other = at, at + step
            while 0 <= other < len(found) and _gap(found, last, other) <= _GAP:
                token, start, end = found[other]
                if len(token) == 1:
                    if not people & (self._initials.get(token, set()) | self._people.get(token, set())):
                        break
                    yield start, end
                    last, other = other, other + step
                    continue
                if token not in LOG_WORDS and token not in self._free and any(_begins(self._sorted[person], token) for person in people):
                    yield start, end
                break

    def _within(self, word: str) -> tuple[Span, ...]:
        """Where a longer word holds a name ("ZqplantSeg", "zqplantseg"), or is one cut short. The same words come again and again."""
        known = self._inside.get(word)
        if known is None:
            if len(self._inside) > 100_000:
                self._inside.clear()
            known = self._inside[word] = tuple(self._look_within(word))
        return known

    def _look_within(self, word: str) -> Iterator[Span]:
        low = lowered(word)
        if len(low) >= _CUT and _begins(self._long, low):
            yield 0, len(word)
            return
        if not (word.islower() or word.isupper() or word.istitle()):
            for hump in _HUMP.finditer(word):
                if len(hump[0]) > 2 and hump[0].lower() in self._free:
                    yield hump.span()
        at = 0
        while at <= len(low) - _GLUED:
            inside = max((len(part) for part in self._starts.get(low[at : at + _GLUED], ()) if low.startswith(part, at)), default=0)
            if inside:
                yield at, at + inside
            at += inside or 1
        for size in range(_GLUED_TO_WORD, min(_GLUED, len(low) - 1)):
            if low[:size] in self._free and low[size:] in LOG_WORDS:
                yield 0, size
            if low[-size:] in self._free and low[:-size] in LOG_WORDS:
                yield len(low) - size, len(low)


# ------------------------------------------------------------------------------------------------------------------ numbers and texts


class _Terms:
    """Values that are removed as a whole: by their words and numbers in order, whatever stands between these."""

    def __init__(self) -> None:
        self._tree: dict[str, Any] = {}
        self._runs: set[tuple[str, ...]] = set()

    def learn(self, kind: Kind, raw: bytes, text: str, labels: frozenset[str]) -> None:
        """Take in one value."""
        for value in text.split("\\") if kind is Kind.NUMBER else re.split(r"[\r\n\f]+|\\", text):
            if not value.strip():
                continue
            written = spellings(raw if value == text else value.encode("utf-8", "replace"), value)
            for form in (*written.right, *written.wrong, *written.lost):
                found = words(form)
                if kind is Kind.NUMBER:
                    self._number(found, labels)
                else:
                    self._text(found, labels)
            for piece in re.split(r"[,;|/]", value) if kind is Kind.TEXT else ():
                if len(found := words(piece)) > 1 and _tells(found):
                    self._text(found, labels)

    def add(self, found: tuple[str, ...], labels: frozenset[str], *, free: bool) -> None:
        """Remove these tokens in this order: everywhere, or beside a label only."""
        if not found:
            return
        node = self._tree
        for token in found[:_TEXT_TOKENS]:
            node = node.setdefault(token, {})
        known, was_free = node.get(_END, (frozenset(), False))
        node[_END] = (known | labels, was_free or free)

    def spans(self, text: str, found: list[Token]) -> Iterator[Span]:
        """Where a text holds one of the values."""
        for at, (token, start, end) in enumerate(found):
            node = self._tree.get(token) or (self._tree.get(token.lstrip("0")) if token.isdecimal() else None)
            if node:
                yield from self._longest(text, found, at, node, start)
            elif end - start > 3 and not text[start:end].islower():
                humps = list(_HUMP.finditer(text, start, end))
                if len(humps) > 1 and (last := humps[-1][0].lower()) in self._tree:
                    yield from self._longest(text, found, at, self._tree[last], humps[-1].start())
        if self._runs:
            for at in range(len(found) - _RUN + 1):
                if tuple(token for token, _, _ in found[at : at + _RUN]) in self._runs:
                    yield found[at][1], found[at + _RUN - 1][2]

    def _number(self, found: tuple[str, ...], labels: frozenset[str]) -> None:
        self.add(found, labels, free=_is_somebodys(found))
        if (joined := _joined_digits(found)) != found:
            self.add(joined, labels, free=_is_somebodys(joined))
        if len(found) > _RUN:
            self._runs.update(run for run in set(_runs(found)) if _is_somebodys(run))
        if len(found) == 1 and found[0].isdecimal() and (plain := found[0].lstrip("0")) and plain != found[0]:
            self.add((plain,), labels, free=len(plain) >= _DIGITS)

    def _text(self, found: tuple[str, ...], labels: frozenset[str]) -> None:
        self.add(found, labels, free=len(found) <= _RUN and _tells(found))
        if len(found) > _RUN:
            self._runs.update(run for run in set(_runs(found)) if _tells(run))

    def _longest(self, text: str, found: list[Token], first: int, node: dict[str, Any], start: int) -> Iterator[Span]:
        """The longest value that begins here. What consists of digits or single letters stands close together or is something else."""
        best: Span | None = None
        widest, loose = 0, len(found[first][0]) > 1 and not found[first][0].isdecimal()
        last = first
        while True:
            if _END in node:
                labels, free = node[_END]
                end = found[last][2]
                close = widest <= (_GAP if loose else 1)
                if (free and close and not _in_decimal(text, start, end)) or (close and _is_labelled(found, first, labels)):
                    best = (start, end)
            last += 1
            if last >= len(found) or found[last][0] not in node:
                break
            node = node[found[last][0]]
            gap = _gap(found, last - 1, last)
            widest = max(widest, gap)
            if gap > 2 * _GAP:
                break
            loose = loose or (len(found[last][0]) > 1 and not found[last][0].isdecimal())
        if best:
            yield best


def _runs(found: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (found[at : at + _RUN] for at in range(len(found) - _RUN + 1))


def _joined_digits(found: tuple[str, ...]) -> tuple[str, ...]:
    """A number without what stands between its digits: 12-34-56 as 123456."""
    return tuple(chain.from_iterable(["".join(run)] if digits else run for digits, run in groupby(found, str.isdecimal)))


def _tells(found: tuple[str, ...]) -> bool:
    """Whether a text holds a word or a number that not every log has."""
    lone = sum(map(is_lone, found))
    return lone > 1 or any(
        len(token) >= _DIGITS if token.isdecimal() else len(token) > 2 and token not in LOG_WORDS for token in found
    )  # fmt: skip


def _is_somebodys(found: tuple[str, ...]) -> bool:
    """Whether a number or short name is seldom anything else."""
    digits = sum(len(token) for token in found if token.isdecimal())
    letters = [token for token in found if not token.isdecimal()]
    rare = [token for token in letters if token not in LOG_WORDS]
    return (
        digits >= _DIGITS
        or (digits >= _DIGITS - 1 and bool(letters))
        or any(len(token) > 2 for token in rare)
        or (digits > 1 and any(len(token) > 1 for token in rare))
        or sum(map(is_lone, letters)) > 1
    )


# ---------------------------------------------------------------------------------------------------------------------------- places


def _printed_elements(text: str) -> Iterator[Span]:
    """The values in a line that prints elements of identifying or private attributes."""
    for found in _PRINTED.finditer(text) if "(" in text else ():
        group, element, vr = int(found["group"], 16), int(found["element"], 16), found["vr"]
        kind = kind_of(group << 16 | element, vr)
        private = group % 2 == 1 and element > 0xFF
        if (kind and kind is not Kind.CHARACTER_SET) or (private and vr not in ("DS", "IS", "CS")):
            comment = text.rfind(" #", found.end())  # dcmdump's: length, multiplicity and keyword
            yield found.end(), len(text[: comment if comment >= 0 else len(text)].rstrip())


def _gap(found: list[Token], one: int, other: int) -> int:
    """Characters between two tokens."""
    first, second = (one, other) if one < other else (other, one)
    return found[second][1] - found[first][2]


def _is_labelled(found: list[Token], at: int, labels: frozenset[str]) -> bool:
    """Whether the tokens before this one are one of the labels, but for words such as "value" and "is"."""
    last = at - 1
    while last >= 0 and at - last <= 5 and found[last][0] in _FILLERS:
        last -= 1
    for end in {last, at - 1}:
        label = ""
        for place in range(end, max(-1, end - _LABEL_TOKENS), -1):
            if found[at][1] - found[place][2] > _LABEL_CHARACTERS:
                break
            label = found[place][0] + label
            if label in labels:
                return True
    return False


def _begins(parts: list[str], token: str) -> bool:
    """Whether one of the parts, which are sorted, begins with the token."""
    at = bisect_left(parts, token)
    return at < len(parts) and parts[at].startswith(token)


def _in_hash(text: str, token: str, start: int, end: int) -> bool:
    """Whether letters from a to f stand in a hash."""
    if not _HEX_LETTERS.fullmatch(token):
        return False
    before, behind = _HEX_BEFORE.search(text, max(0, start - 64), start), _HEX.match(text, end)
    return len(before[0] if before else "") + len(token) + len(behind[0] if behind else "") >= _HASH


def _in_decimal(text: str, start: int, end: int) -> bool:
    """Whether it is the fraction of a decimal number, or a short number with one. A long one may have become 4711815.0 in a table."""
    if not text[start:end].isdecimal():
        return False
    fraction = start > 1 and text[start - 1] == "." and text[start - 2].isdigit()
    return fraction or (end - start < _DIGITS and text[end : end + 1] == "." and text[end + 1 : end + 2].isdigit())


def _without(text: str, spans: list[Span]) -> str:
    """The text with one marker for each run of spans that only separators part."""
    if not spans:
        return text
    parts: list[str] = []
    behind = 0
    for start, end in sorted(spans):
        if end <= behind and parts:
            continue
        if parts and (start <= behind or _SEPARATORS.fullmatch(text, behind, start)):
            behind = end
            continue
        parts += [text[behind:start], REMOVED]
        behind = end
    return "".join(parts) + text[behind:]
