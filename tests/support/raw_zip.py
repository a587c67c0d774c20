"""Zips built byte by byte, for what no library would write: flags, methods and kinds of file of each entry's own."""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass

STORED, DEFLATE, DEFLATE64, LZMA, ZSTANDARD = 0, 8, 9, 14, 93
ENCRYPTED = 1
_UNIX = 3


@dataclass(frozen=True)
class Entry:
    """One entry; ``method`` and ``flags`` are what the zip claims, and only STORED and DEFLATE are carried out."""

    name: str
    content: bytes = b""
    method: int = DEFLATE
    flags: int = 0
    mode: int = 0
    crc: int | None = None


def link(name: str, to: str, flags: int = 0) -> Entry:
    """A symbolic link."""
    return Entry(name, to.encode(), STORED, flags, stat.S_IFLNK | 0o777)


def encrypted(name: str, content: bytes) -> Entry:
    """An entry whose content nobody can read without a password."""
    return Entry(name, content, STORED, ENCRYPTED)


def raw_zip(*entries: Entry, comment: bytes = b"", disk: int = 0) -> bytes:
    """The zip; ``disk``: the number of this part, where it is one of a split zip."""
    body, table = bytearray(), bytearray()
    for entry in entries:
        data = entry.content
        if entry.method == DEFLATE:
            packer = zlib.compressobj(1, zlib.DEFLATED, -15)
            data = packer.compress(entry.content) + packer.flush()
        name = entry.name.encode()
        crc = zlib.crc32(entry.content) if entry.crc is None else entry.crc
        flags = entry.flags | (0 if entry.name.isascii() else 0x800)
        shared = struct.pack("<HHHHIIIHH", flags, entry.method, 0, 0x21, crc, len(data), len(entry.content), len(name), 0)
        at = len(body)
        body += b"PK\x03\x04" + struct.pack("<H", 20) + shared + name + data
        table += b"PK\x01\x02" + struct.pack("<BBH", 20, _UNIX, 20) + shared + struct.pack("<HHHII", 0, 0, 0, entry.mode << 16, at) + name
    count = len(entries)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", disk, disk, count, count, len(table), len(body), len(comment))
    return bytes(body + table) + end + comment
