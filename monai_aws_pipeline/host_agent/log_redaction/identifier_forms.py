"""Every form in which a log may show a DICOM value: decoded rightly and wrongly, transliterated, escaped, joined, in parts.

Here belongs the one common form that a value and a log line are both brought into, so that they can be compared: ``readings`` of a line,
``tokens`` of a text, ``spellings`` of a value. What is taken out, and what stays, is decided in ``identifiers.py``. Sources: PS3.5 6.1
(character sets) and 6.2 (PN, DA, TM, DT, AS); Unicode Standard Annex 15 (normalization forms).
"""

from __future__ import annotations

import contextlib
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

Span = tuple[int, int]
Token = tuple[str, int, int]
"""A word or a number in lower case, with where it starts and ends."""

_NO_SPACES = "\u0e00-\u0eff\u2e80-\u312f\u3130-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
"""Scripts without spaces between words (Han, Kana, Hangul within names, Thai, Lao): each character is a token of its own."""
_TOKEN: Final = re.compile(rf"[{_NO_SPACES}]|[^\W\d_{_NO_SPACES}]+|\d+")
_LONE: Final = re.compile(rf"[{_NO_SPACES}]")
_MISREAD: Final = 1024
_CONTROL_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x0c\x0e-\x1f\x7f]")
_ESCAPE: Final = re.compile(
    r"(?:\\{1,4}x[0-9a-fA-F]{2})+|(?:%[0-9a-fA-F]{2})+|\\{1,4}u[0-9a-fA-F]{4}|\\{1,4}U[0-9a-fA-F]{8}|(?:\\[0-3][0-7]{2})+"
    r"|\\[abfnrtv0]|&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,8});"
)
_ESCAPED_BYTE: Final = re.compile(r"\\+x(..)|%(..)|\\([0-7]{3})")
_PLAIN: Final = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
     "ð": "d", "Ð": "D", "þ": "th", "Þ": "TH", "\u0131": "i", "ħ": "h", "Ħ": "H", "ŋ": "n", "Ŋ": "N", "ŧ": "t", "Ŧ": "T", "ĸ": "k"}
)  # fmt: skip
_TWO_LETTERS: Final = str.maketrans(
    {"ä": "ae", "Ä": "Ae", "ö": "oe", "Ö": "Oe", "ü": "ue", "Ü": "Ue", "å": "aa", "Å": "Aa", "ø": "oe", "Ø": "Oe", "ñ": "ny", "Ñ": "Ny"}
)
_UMLAUTS: Final = str.maketrans({"ä": "ae", "Ä": "Ae", "ö": "oe", "Ö": "Oe", "ü": "ue", "Ü": "Ue"})
_ONE_LETTER: Final = str.maketrans({"ß": "s", "æ": "a", "Æ": "A", "œ": "o", "Œ": "O", "þ": "t", "Þ": "T"})


@dataclass(frozen=True)
class Reading:
    """A line as it can be understood. ``source[i]`` is where the line has character ``i`` of ``text``; one more for the end."""

    text: str
    source: Sequence[int]


def clean(line: str) -> str:
    """A line without what only a terminal understands (colours, cursor movements, titles, other control characters)."""
    return _CONTROL.sub("", _CONTROL_SEQUENCE.sub("", line))


def readings(line: str) -> Iterator[Reading]:
    """A line as it stands, and where it holds escapes (of Python, JSON, URLs, HTML) with what those stand for."""
    plain = line.isascii()
    yield Reading(line, range(len(line) + 1)) if plain else _plain(line, range(len(line) + 1))
    if ("\\" in line or "%" in line or "&" in line) and _ESCAPE.search(line):
        yield _plain(*_unescaped(line))


def tokens(text: str) -> list[Token]:
    """The words and numbers of a reading's text; an underscore separates, and so does the change between letters and digits."""
    return [(found[0], found.start(), found.end()) for found in _TOKEN.finditer(lowered(text))]


def lowered(text: str) -> str:
    """A text in lower case, of the same length. Greek has two small letters for Σ, and which one depends on what follows the word."""
    low = text.lower()
    if len(low) != len(text):  # never of what ``readings`` has made plain
        low = "".join(lower if len(lower := char.lower()) == 1 else char for char in text)
    return low.replace("\u03c2", "\u03c3")


def words(text: str) -> tuple[str, ...]:
    """The tokens of a value."""
    plain = text if text.isascii() else _plain(unicodedata.normalize("NFC", text), range(len(text) + 1)).text
    return tuple(token for token, _, _ in tokens(clean(plain)))


def is_lone(token: str) -> bool:
    """Whether a token is one character of a script without spaces: a part of a name, and seldom the whole of one."""
    return bool(_LONE.fullmatch(token))


def decoded(raw: bytes, character_sets: Iterable[bytes], *, person: bool = False) -> dict[str, None]:
    """The texts that a value may be, likeliest first: by the character sets that the study names, as UTF-8, as Latin-1."""
    found: dict[str, None] = {}
    if not (raw.isascii() and b"\x1b" not in raw):
        for named in character_sets:
            try:
                encodings = convert_encodings([part.strip() for part in named.decode("ascii", "replace").split("\\")])
                found[decode_bytes(raw, encodings, PN_DELIMS if person else TEXT_VR_DELIMS)] = None
            except (LookupError, ValueError):  # a character set that nobody knows: the others remain
                continue
        with contextlib.suppress(UnicodeDecodeError):
            found[raw.decode("utf-8")] = None
    found[raw.decode("latin-1")] = None
    return found


@dataclass(frozen=True)
class Spellings:
    """How a value may be written: rightly (transliterated too), read in a wrong character set, or with characters lost or escaped."""

    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def spellings(raw: bytes, text: str) -> Spellings:
    """The spellings of ``text``, which ``raw`` is decoded to.

    Letters for others (e for é) and escapes need none of their own, because ``readings`` brings lines into the same form. Of a text longer
    than any name, wrong readings are made of the first 1,024 characters.
    """
    if text.isascii() and raw.isascii() and b"\x1b" not in raw:
        return Spellings((text,))
    right = dict.fromkeys((text, *(text.translate(letters) for letters in (_TWO_LETTERS, _UMLAUTS, _ONE_LETTER))))
    raw, begin = raw[: 2 * _MISREAD], text[:_MISREAD]
    octets = begin.encode("utf-8", "replace")
    wrong = dict.fromkeys(data.decode(codec, "replace") for data in (raw, octets) for codec in ("latin-1", "cp1252"))
    lost = dict.fromkeys(
        data.decode(codec, errors)
        for data in (raw, octets, begin.encode("latin-1", "replace"))
        for codec in ("ascii", "utf-8")
        for errors in ("replace", "ignore")
    )
    lost |= dict.fromkeys(begin.encode(codec, "replace").decode(codec) for codec in ("ascii", "latin-1", "cp1252"))
    lost |= dict.fromkeys((repr(raw)[2:-1], quote(raw), quote(octets)))
    return Spellings(tuple(right), tuple(form for form in wrong if form not in right), tuple(form for form in lost if form not in right))


@lru_cache(4096)
def _plain_character(char: str) -> str:
    """One character without accents and width, or several where it stands for several; empty where it has no width."""
    if unicodedata.category(char) in ("Mn", "Cf"):
        return ""
    parts = unicodedata.normalize("NFKD", char.translate(_PLAIN))
    return unicodedata.normalize("NFC", "".join(part for part in parts if unicodedata.category(part) != "Mn")).translate(_PLAIN)


def _plain(line: str, source: Sequence[int]) -> Reading:
    """What has no width belongs to the character before it, so that it goes with it."""
    text: list[str] = []
    places: list[int] = []
    for char, place in zip(line, source, strict=False):
        for plain in char if char < "\x80" else _plain_character(char):
            text.append(plain if len(plain.lower()) == 1 else "?")
            places.append(place)
    return Reading("".join(text), [*places, source[len(line)]])


def _unescaped(line: str) -> tuple[str, list[int]]:
    text: list[str] = []
    places: list[int] = []
    behind = 0
    for found in _ESCAPE.finditer(line):
        start, end = found.span()
        text += line[behind:start]
        places += range(behind, start)
        made = _meaning(found[0])
        text += [char for char, _ in made]
        places += [start + place for _, place in made]
        behind = end
    text += line[behind:]
    places += range(behind, len(line) + 1)
    return "".join(text), places


def _meaning(escape: str) -> list[tuple[str, int]]:
    """The characters of an escape, each with where it begins within it."""
    if escape[0] == "&":
        return [(char, 0) for char in html.unescape(escape)]
    if code := re.fullmatch(r"\\+[uU]([0-9a-fA-F]+)", escape):
        number = int(code[1], 16)
        return [(chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "?", 0)]
    parts = list(_ESCAPED_BYTE.finditer(escape))
    if not parts:
        return [(" ", 0)]  # a line break, a tabulator
    octets = bytes(int(part[1] or part[2], 16) if part[1] or part[2] else int(part[3], 8) for part in parts)
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return [(chr(octet), part.start()) for octet, part in zip(octets, parts, strict=True)]
    made, at = [], 0
    for char in text:
        made.append((char, parts[at].start()))
        at += len(char.encode("utf-8"))
    return made
