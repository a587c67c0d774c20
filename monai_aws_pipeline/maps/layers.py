"""The layers of an image, read as what they are: archives from somebody else. Which paths they hold, and the text of a few small files.

Nothing is unpacked to disk and nothing is kept but names and the texts that were asked for. Every size, length and count is bounded before
memory is taken for it, so tarfile's own reading (which takes a header's word for how much to read) is used for single headers only.
Format: OCI image layers (https://github.com/opencontainers/image-spec/blob/main/layer.md), whiteouts included.
"""

from __future__ import annotations

import gzip
import io
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import zstandard

MAX_UNPACKED_BYTES: Final = 2 * 1024**3
MAX_MEMBERS: Final = 200_000
MAX_TEXT_BYTES: Final = 64 * 1024 + 1
"""One more than a manifest may have, so that its reader sees that it is too long."""

MAX_WINDOW_BYTES: Final = 128 * 1024**2
"""Memory that a zstd frame may ask of its reader: what the zstd command grants unasked. RFC 8878 wants 8 MiB at least."""

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPED: Final = b"\x2a\x4d\x18"
"""A frame that readers skip begins with 50 to 5F and this (RFC 8878, 3.1.2); pzstd writes one before each of its frames."""
_BLOCK: Final = 512
_STEP: Final = 1024 * 1024
_MAX_EXTENSION: Final = 64 * 1024
_MAX_PATH: Final = 4096
_MAX_DEPTH: Final = 64
_MAX_PATHS_BYTES: Final = 64 * 1024**2
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_NO_CONTENT: Final = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


class LayerRefusedError(ValueError):
    """A layer is damaged, larger than it may be, or of a kind that is not read here."""


@dataclass(frozen=True)
class Layer:
    """What one layer holds. Paths are absolute. ``removed``: paths it takes away; ``emptied``: folders whose earlier content it hides."""

    paths: frozenset[str]
    texts: dict[str, str] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    emptied: frozenset[str] = frozenset()


def read_layer(blob: bytes, wanted: Collection[str], *, max_unpacked: int = MAX_UNPACKED_BYTES, max_members: int = MAX_MEMBERS) -> Layer:
    """Read one layer: tar, or tar with gzip or zstd, told apart by their first bytes as engines do; a media type may say anything.

    Args:
        blob: The layer as the registry holds it; its digest is checked by whoever fetched it.
        wanted: Absolute paths of files whose text is kept, up to ``MAX_TEXT_BYTES`` each.
        max_unpacked: Bytes that it may unpack to.
        max_members: Entries that it may have.

    Raises:
        LayerRefusedError: Damaged, larger than it may be, or compressed in another way.
    """
    is_zstd = blob[:4] == _ZSTD or (blob[1:4] == _SKIPPED and 0x50 <= blob[0] <= 0x5F)
    if blob[:2] == b"\x1f\x8b":
        stream: io.BufferedIOBase | zstandard.ZstdDecompressionReader = gzip.GzipFile(fileobj=io.BytesIO(blob))
    elif is_zstd:
        # Across frames, because a compressor with several threads, or one that writes an index, makes more than one.
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        stream = unpacker.stream_reader(io.BytesIO(blob), read_across_frames=True)
    else:
        stream = io.BytesIO(blob)
    try:
        return _read(_Bounded(stream, max_unpacked), frozenset(wanted), max_members, must_end=is_zstd)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, tarfile.TarError) as error:
        raise LayerRefusedError(f"is damaged ({error})") from error


def flatten(layers: Iterable[Layer]) -> Layer:
    """What an image shows that has these layers, from the lowest to the uppermost."""
    paths: set[str] = set()
    texts: dict[str, str] = {}
    for layer in layers:
        gone = _hides(layer)
        paths = {path for path in paths if not gone(path)} | layer.paths
        texts = {path: text for path, text in texts.items() if not gone(path) and path not in layer.paths} | layer.texts
    return Layer(frozenset(paths), texts)


def _hides(layer: Layer) -> Callable[[str], bool]:
    hidden = layer.removed | layer.emptied

    def gone(path: str) -> bool:
        return path in layer.removed or any(folder in hidden for folder in _folders(path))

    return gone


def _folders(path: str) -> Iterator[str]:
    """The folders a path lies in. A path has a bounded depth, so this is quick whatever the layer holds."""
    while (path := posixpath.dirname(path)) != "/":
        yield path


class _Bounded:
    """A stream that refuses to give more than it may, and reads no more at once than it is asked for."""

    def __init__(self, stream: io.BufferedIOBase | zstandard.ZstdDecompressionReader, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def take(self, count: int) -> bytes:
        """Up to ``count`` bytes, fewer only at the end."""
        if count > self._left:
            raise LayerRefusedError("unpacks to more than a layer may hold")
        parts, missing = [], count
        while missing:
            part = self._stream.read(min(missing, _STEP))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self._left -= count - missing
        return b"".join(parts)

    def skip(self, count: int) -> None:
        """Go past ``count`` bytes without keeping them."""
        if count > self._left:
            raise LayerRefusedError("unpacks to more than a layer may hold")
        while count:
            step = len(self.take(min(count, _STEP)))
            if not step:
                raise LayerRefusedError("ends in the middle of a file")
            count -= step


def _read(stream: _Bounded, wanted: frozenset[str], max_members: int, *, must_end: bool) -> Layer:
    """``must_end``: the archive has to end with its empty block, since a zstd frame that was cut off just gives nothing more."""
    paths: set[str] = set()
    removed: set[str] = set()
    emptied: set[str] = set()
    texts: dict[str, str] = {}
    named: dict[str, str] = {}  # what an extended header says about the entry that follows it
    entries = length = 0
    while True:
        block = stream.take(_BLOCK)
        if must_end and not block:
            raise LayerRefusedError("ends before its archive does")
        if not block or block == bytes(_BLOCK):
            break
        entries += 1
        if entries > max_members:
            raise LayerRefusedError(f"has more than {max_members} entries")
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if header.size < 0:
            raise LayerRefusedError("has an entry of negative size")
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            named |= _extension(header, stream)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in named):
            raise LayerRefusedError("has a sparse file, which no image builder writes")
        path, size = _path(named.get("path", header.name)), _size(named.get("size"), header.size)
        named = {}
        if path and header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and path in wanted:
            kept = min(size, MAX_TEXT_BYTES)
            texts[path] = stream.take(kept).decode("utf-8", errors="replace")
            stream.skip(_padded(size) - kept)
        elif header.type not in _NO_CONTENT:
            stream.skip(_padded(size))
        length += len(path)
        if length > _MAX_PATHS_BYTES:
            raise LayerRefusedError("has names that are too long altogether")
        if path:
            _note(path, paths, removed, emptied)
    return Layer(frozenset(paths), texts, frozenset(removed), frozenset(emptied))


def _note(path: str, paths: set[str], removed: set[str], emptied: set[str]) -> None:
    folder, name = posixpath.split(path)
    if name == _OPAQUE:
        emptied.add(folder)
    elif name.startswith(_WHITEOUT):
        removed.add(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
    else:
        paths.add(path)


def _extension(header: tarfile.TarInfo, stream: _Bounded) -> dict[str, str]:
    """What a pax or GNU header says about the next entry: its path and size; the rest is passed over."""
    if header.size > _MAX_EXTENSION:
        raise LayerRefusedError("has an extended header that is larger than any path")
    body = stream.take(_padded(header.size))[: header.size]
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": body.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if header.type != tarfile.XHDTYPE:
        return {}
    found: dict[str, str] = {}
    while body:
        length, space, _ = body.partition(b" ")
        if not space or not length.isdigit() or len(length) > 6 or not len(length) + 2 < int(length) <= len(body):
            raise LayerRefusedError("has a damaged extended header")
        key, _, value = body[len(length) + 1 : int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        body = body[int(length) :]
    return {key: value for key, value in found.items() if key in ("path", "size") or key.startswith("GNU.sparse")}


def _size(said: str | None, otherwise: int) -> int:
    if said is None:
        return otherwise
    if not said.isascii() or not said.isdigit() or len(said) > 15:
        raise LayerRefusedError("has a damaged extended header")
    return int(said)


def _path(name: str) -> str:
    """The absolute path of an entry; nothing for one that would lie outside the image."""
    if len(name) > _MAX_PATH or name.count("/") > _MAX_DEPTH or "\0" in name or ".." in name.split("/"):
        return ""
    path = posixpath.normpath("/" + name.strip("/"))
    return "" if path == "/" else path


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
