"""A STOW-RS message whose parts are files on disk: as long as it is, never in memory; and batches that keep it within bounds.

Source: DICOM PS3.18 10.5; RFC 2046, 5.1.
"""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one request. HealthImaging takes 1 GB; a smaller one costs less when it has to be sent again."""

    bytes: int = 256 << 20
    instances: int = 100


class Message(io.RawIOBase):
    """The body of one request: a file-like object over the files, one of which is open at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        boundary = secrets.token_hex(16)
        self.media_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._pieces: list[bytes | Path] = [piece for path in paths for piece in (head, path, b"\r\n")]
        self._pieces.append(f"--{boundary}--\r\n".encode())
        self.length = sum(piece.stat().st_size if isinstance(piece, Path) else len(piece) for piece in self._pieces)
        self._rest: Iterator[bytes] = self._chunks()
        self._held, self._place = b"", 0

    def _chunks(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            with piece.open("rb") as file:
                while chunk := _read(file):
                    yield chunk

    def digest(self) -> str:
        """SHA-256 of the whole body, for its signature."""
        found = hashlib.sha256()
        for chunk in self._chunks():
            found.update(chunk)
        return found.hexdigest()

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes; empty at the end."""
        if size is None or size < 0:
            size = _CHUNK
        if not self._held:
            self._held = next(self._rest, b"")
        given, self._held = self._held[:size], self._held[size:]
        self._place += len(given)
        return given

    def tell(self) -> int:
        """How far it was read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Back to the beginning, or to the end to learn its length; no other place is needed."""
        if whence == io.SEEK_END:
            self._place = self.length
            return self.length
        self._rest, self._held, self._place = self._chunks(), b"", 0
        while self._place < offset and self.read(min(_CHUNK, offset - self._place)):
            pass
        return self._place


def _read(file: BinaryIO) -> bytes:
    return file.read(_CHUNK)


def batches(paths: Sequence[tuple[Path, int]], limits: Limits) -> Iterator[list[Path]]:
    """Files with their sizes, in their order, as many together as one request may hold; one that is larger goes alone."""
    held: list[Path] = []
    size = 0
    for path, length in paths:
        if held and (size + length > limits.bytes or len(held) >= limits.instances):
            yield held
            held, size = [], 0
        held.append(path)
        size += length
    if held:
        yield held
