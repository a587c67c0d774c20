"""The models of a MAP: one or several files, folders or zips, as the settings name them and as they lie in the image.

In the image each model is a folder of its own, ``/opt/holoscan/models/NAME``, as the SDK's packager lays them out: a file with its own name
in it, a folder as it is, a zip unpacked. Here belong the two settings, that layout, and what is refused of a zip. Bringing files here is in
``model``.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from monai_aws_pipeline.maps import download
from monai_aws_pipeline.maps.download import MODEL, ModelError, S3Download, local_path

_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})=(.+)", re.DOTALL)
_NEXT: Final = re.compile(r",(?=\s*[A-Za-z0-9][A-Za-z0-9._-]{0,99}=)")
_MAX_MODELS: Final = 32
_MAX_MEMBERS: Final = 100_000
_MAX_UNPACKED: Final = 64 * 1024**3
_DAMAGED: Final = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError)
"""What reading a damaged member raises: each way to compress has its own error, and a way that is not known is a RuntimeError."""
_CHUNK: Final = 1 << 20
_ENCRYPTED: Final = 0x1
_NOT_WANTED: Final = ("__MACOSX", ".DS_Store")


@dataclass(frozen=True)
class Asked:
    """One model as the settings name it. ``name`` is empty where they leave it to the file's."""

    name: str
    uri: str
    sha256: str


@dataclass(frozen=True)
class Model:
    """One model on this machine. ``name``: its folder in the image; ``path``: a file or a folder in the cache; ``sha256``: of that."""

    name: str
    path: Path
    sha256: str

    @property
    def is_zip(self) -> bool:
        """Whether it is an archive that is laid into the image unpacked."""
        return self.path.is_file() and self.path.suffix.lower() == ".zip"

    @property
    def bytes(self) -> int:
        """Size of what is in the cache."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def lay_out(self, folder: Path, *, unpack: bool) -> None:
        """Write its folder into ``folder``. ``unpack``: whether a zip is unpacked. Raises ModelError."""
        target = folder / self.name
        if self.is_zip and unpack:
            _unpack(self, target)
        elif self.path.is_file():
            place_file(self.path, target / self.path.name)
        else:
            for path in sorted(path for path in self.path.rglob("*") if path.is_file()):
                place_file(path, target / path.relative_to(self.path))

    def files(self, *, unpack: bool = True) -> list[str]:
        """Names of its files below its folder in the image. Raises ModelError for a zip that is refused."""
        if self.is_zip and unpack:
            return sorted(str(inside) for inside, _ in _members(self))
        if self.path.is_file():
            return [self.path.name]
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())


def asked(uri: str, sha256: str) -> tuple[Asked, ...]:
    """What the two settings name: one address, or ``NAME=ADDRESS,NAME=ADDRESS`` with as many hashes in the same order.

    Raises ModelError where they do not go together.
    """
    if not uri.strip():
        return ()
    parts = [part.strip() for part in _NEXT.split(uri)]
    hashes = [part.strip() for part in sha256.split(",")] if sha256.strip() else [""] * len(parts)
    if len(hashes) != len(parts):
        raise ModelError(f"{MODEL.sha256} holds {len(hashes)} hashes for {len(parts)} models; write one for each, in the same order")
    named = [(match[1], match[2]) if (match := _NAMED.fullmatch(part)) else ("", part) for part in parts]
    if len(parts) > 1 and not all(name for name, _ in named):
        raise ModelError(f"{MODEL.uri} names several models: write each as NAME=ADDRESS")
    if len({name for name, _ in named}) != len(named) or len(named) > _MAX_MODELS:
        raise ModelError(f"{MODEL.uri} names a model twice, or more than {_MAX_MODELS}")
    return tuple(Asked(name, address, digest) for (name, address), digest in zip(named, hashes, strict=True))


def fetch(uri: str, sha256: str, cache: Path, *, download_s3: S3Download | None = None) -> tuple[Model, ...]:
    """Bring every model that the two settings name into the cache. Raises ModelError of the kind that fits."""
    found = []
    for each in asked(uri, sha256):
        source = local_path(each.uri)
        if source is not None and source.is_dir():
            path = download.fetch_folder(MODEL, each.uri, each.sha256, cache)
        else:
            path = download.fetch_file(MODEL, each.uri, each.sha256, cache, download_s3=download_s3)
        found.append(Model(each.name or (path.name if path.is_dir() else path.stem), path, each.sha256))
    return tuple(found)


def combined_hash(models: Sequence[Model]) -> str:
    """What names all models together: the one's own SHA-256, that of ``SHA256  NAME`` lines for several, nothing for none."""
    if len(models) < 2:
        return models[0].sha256 if models else ""
    lines = sorted(f"{each.sha256}  {each.name}\n" for each in models)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def layout_key(models: Sequence[Model], *, unpack: bool) -> list[str]:
    """What decides about the layer of the models, beside what is below it."""
    if len(models) == 1 and models[0].path.is_file() and not (models[0].is_zip and unpack) and models[0].name == models[0].path.stem:
        return [models[0].path.name, models[0].sha256]
    kinds = {each.name: "unpacked" if each.is_zip and unpack else each.path.name if each.path.is_file() else "folder" for each in models}
    return [f"{each.name}/{kinds[each.name]}:{each.sha256}" for each in sorted(models, key=lambda each: each.name)]


# ---------------------------------------------------------------------------------------------------------------------------- zips


def _members(found: Model) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The files of a zip and where they lie below the model's folder. Raises ModelError for one that no honest archive holds.

    A single folder at the top that bears the model's own name is left out: ``net.zip`` with ``net/weights.pt`` becomes ``net/weights.pt``.
    """
    try:
        with zipfile.ZipFile(found.path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{found.path.name} is no zip that can be read; make it anew") from error
    if len(entries) > _MAX_MEMBERS or sum(entry.file_size for entry in entries) > _MAX_UNPACKED:
        raise ModelError(f"{found.path.name} unpacks to more than {_MAX_MEMBERS} files or {_MAX_UNPACKED >> 30} GiB")
    files = []
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.parts and (path.parts[0] in _NOT_WANTED or path.name in _NOT_WANTED):
            continue
        _check_member(found, entry, path)
        if not entry.is_dir():
            files.append((path, entry))
    if not files:
        raise ModelError(f"{found.path.name} holds no file")
    if {path.parts[0] for path, _ in files} == {found.name} and all(len(path.parts) > 1 for path, _ in files):
        files = [(PurePosixPath(*path.parts[1:]), entry) for path, entry in files]
    names = [str(path) for path, _ in files]
    folders = {str(parent) for path, _ in files for parent in path.parents}
    if len(set(names)) != len(names) or folders & set(names):
        raise ModelError(f"{found.path.name} holds one name twice; make it anew")
    yield from files


def _check_member(found: Model, entry: zipfile.ZipInfo, path: PurePosixPath) -> None:
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    outside = path.is_absolute() or ".." in path.parts or "\\" in entry.filename or "\0" in entry.orig_filename or ":" in entry.filename
    if outside or not path.parts or not entry.filename.isprintable() or len(entry.filename) > 1000:
        raise ModelError(f"{found.path.name} holds a file that would lie outside its folder, or with a name that is none; make it anew")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ModelError(f"{found.path.name} holds a link or a device; put the files themselves into it")
    if entry.flag_bits & _ENCRYPTED:
        raise ModelError(f"{found.path.name} is encrypted; make it anew without a password")


def _unpack(found: Model, target: Path) -> None:
    members = list(_members(found))
    with zipfile.ZipFile(found.path) as archive:
        for path, entry in members:
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(entry) as source, place.open("xb") as out:
                    shutil.copyfileobj(source, out, _CHUNK)
            except _DAMAGED as error:
                if isinstance(error, OSError) and error.errno is not None:  # bzip2's own has no number
                    why = error.strerror or os.strerror(error.errno)
                    remedy = "make room or mend the disk, and start again"
                    raise ModelError(f"{found.path.name} cannot be unpacked on this machine ({why}); {remedy}") from error
                raise ModelError(f"{found.path.name} cannot be unpacked ({type(error).__name__}); make it anew") from error
            place.chmod(0o644)


def place_file(source: Path, target: Path) -> None:
    """The file without a second copy where the file system allows it; wheels and models are large."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
