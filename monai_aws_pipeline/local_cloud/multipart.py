"""Takes a multipart body apart while it arrives: no more of it is held than a chunk and a part's header. Knows no DICOM and no store.

Source: RFC 2046, 5.1.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_LONGEST_HEADER: Final = 16_384


class MultipartError(ValueError):
    """A body that is no multipart message; the text says why."""


@dataclass(frozen=True)
class PartBegins:
    """A part's header fields follow one another here, names in lower case."""

    headers: dict[str, str]


@dataclass(frozen=True)
class PartData:
    """Some bytes of the part that began last."""

    data: bytes


class PartSplitter:
    """Fed with chunks, gives what they hold. ``finish`` at the end of the body."""

    def __init__(self, boundary: str) -> None:
        if not 1 <= len(boundary) <= 70:
            raise MultipartError("A boundary has between 1 and 70 characters.")
        self._mark = b"\r\n--" + boundary.encode("latin-1")
        self._held = bytearray(b"\r\n")  # the first boundary has no line before it
        self._in_header = self._in_part = self._ended = False

    def feed(self, chunk: bytes) -> Iterator[PartBegins | PartData]:
        """What this chunk completes. Raises MultipartError."""
        self._held += chunk
        while not self._ended:
            if self._in_header:
                end = self._held.find(b"\r\n\r\n")
                if end < 0 and len(self._held) <= _LONGEST_HEADER:
                    return
                if not 0 <= end <= _LONGEST_HEADER:
                    raise MultipartError("A part's header is longer than 16 KiB.")
                yield PartBegins(_fields(bytes(self._held[:end])))
                del self._held[: end + 4]
                self._in_header, self._in_part = False, True
            place = self._held.find(self._mark)
            if place < 0:
                safe = len(self._held) - len(self._mark) + 1
                if safe > 0:
                    yield from self._given(safe)
                return
            if len(self._held) < place + len(self._mark) + 2:
                yield from self._given(place)
                return
            yield from self._given(place)
            self._turn(bytes(self._held[len(self._mark) : len(self._mark) + 2]))

    def finish(self) -> None:
        """Raises MultipartError for a body that ended in the middle."""
        if not self._ended:
            raise MultipartError("The body ends before its last boundary.")

    def _given(self, length: int) -> Iterator[PartData]:
        data = bytes(self._held[:length])
        del self._held[:length]
        if self._in_part and data:
            yield PartData(data)

    def _turn(self, after: bytes) -> None:
        """At a boundary: the end, or the header of the next part."""
        if after == b"--":
            self._ended = True
        elif after == b"\r\n":
            del self._held[: len(self._mark)]  # the line break stays: a header may be empty
            self._in_header, self._in_part = True, False
        else:
            raise MultipartError("A boundary is followed by neither a line break nor two hyphens.")


def _fields(text: bytes) -> dict[str, str]:
    lines = (line.partition(b":") for line in text.split(b"\r\n") if line)
    return {name.decode("latin-1").strip().lower(): value.decode("latin-1").strip() for name, _, value in lines}
