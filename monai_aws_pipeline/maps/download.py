"""Files that the settings name by address and SHA-256 (models, the golden study, its reference): fetched into the cache and checked.

Here belongs the reading of paths, ``file:`` and ``https:`` addresses. Reading from S3 is a callable handed in, because nothing in this
folder knows AWS. The cache is keyed by the hash, so a file that did not change is never fetched twice. How models lie in the image is in
``models``.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from monai_aws_pipeline.contract import is_sha256
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.scratch import scratch

S3Download = Callable[[str, str, Path], None]
"""``download(bucket, key, target)``: writes the object to ``target`` or raises."""
S3Look = Callable[[str, str], None]
"""``look(bucket, key)``: raises ModelMissingError where there is no such object, ModelUnreachableError where that cannot be told."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TIMEOUT_S: Final = 60


class ModelError(NamedError):
    """The model (or another file that is fetched as it is) cannot be used. The message says why and what to do."""


class ModelMissingError(ModelError):
    """There is no file at the given place."""


class ModelAlteredError(ModelError):
    """The file is not the one the settings name by SHA-256, or they name none. ``found``: its SHA-256, empty where it was not looked at."""

    def __init__(self, message: str, found: str = "") -> None:
        self.found = found
        super().__init__(message)


class ModelUnreachableError(ModelError):
    """The place of the file could not be read."""


@dataclass(frozen=True)
class Named:
    """A file that settings name. ``what`` in the user's words; ``uri`` and ``sha256`` are the two settings; ``folder`` in the cache."""

    what: str
    uri: str
    sha256: str
    folder: str


MODEL: Final = Named("model", "MONAI_AWS_MODEL_URI", "MONAI_AWS_MODEL_SHA256", "models")
GOLDEN_STUDY: Final = Named("golden study", "MONAI_AWS_GOLDEN_STUDY", "MONAI_AWS_GOLDEN_STUDY_SHA256", "golden")
GOLDEN_REFERENCE: Final = Named("golden reference", "MONAI_AWS_GOLDEN_REFERENCE", "MONAI_AWS_GOLDEN_REFERENCE_SHA256", "golden")


def fetch_file(named: Named, uri: str, sha256: str, cache: Path, *, download_s3: S3Download | None = None) -> Path:
    """Bring a file to ``cache/FOLDER/SHA256/NAME`` and return that path.

    Args:
        named: What it is, for the words of an error.
        uri: Path, ``file:``, ``https:`` or ``s3:`` address of one file. A relative path is taken from the working folder.
        sha256: Expected SHA-256, 64 hex digits.
        cache: Folder of cached files.
        download_s3: Reads ``s3:`` addresses.

    Raises:
        ModelMissingError, ModelAlteredError, ModelUnreachableError.
    """
    _check_hash(named, uri, sha256)
    name = _file_name(named, uri)
    target = cache / named.folder / sha256 / name
    if target.is_file() and sha256_of(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch("partial", target.parent) as folder:
        partial = folder / name
        _copy(named, uri, partial, download_s3)
        found = sha256_of(partial)
        if found != sha256:
            raise _altered(named, name, found, sha256)
        partial.chmod(0o644)
        partial.replace(target)
    return target


def fetch_folder(named: Named, uri: str, sha256: str, cache: Path) -> Path:
    """Copy a folder of this machine to ``cache/FOLDER/SHA256/NAME`` and return that path. ``sha256``: as ``folder_hash`` counts it.

    Raises what ``fetch_file`` does.
    """
    source = local_path(uri)
    if source is None or not source.is_dir():
        raise ModelMissingError(f"there is no {named.what} folder at {uri}; check {named.uri}")
    _check_hash(named, uri, sha256)
    target = cache / named.folder / sha256 / _file_name(named, uri)
    if target.is_dir() and folder_hash(target) == sha256:
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch("partial", target.parent) as folder:
        partial = folder / target.name
        for name in _files_of(source):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
            (partial / name).chmod(0o644)
        if (found := folder_hash(partial)) != sha256:
            raise _altered(named, target.name, found, sha256)
        partial.replace(target)
    return target


def folder_hash(folder: Path) -> str:
    """SHA-256 in hex over names and bytes of a folder's files. Raises ModelError for an empty folder and for files that are none.

    What this prints:
    ``(cd FOLDER && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)``.
    """
    whole = hashlib.sha256()
    for name in _files_of(folder):
        whole.update(f"{sha256_of(folder / name)}  ./{name}\n".encode())
    return whole.hexdigest()


def _files_of(folder: Path) -> list[str]:
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ModelError(f"{name} in the model's folder is a link or no file; put the file itself there")
        if not name.isprintable() or "\\" in name:
            raise ModelError("a file in the model's folder has a name with a control character or a backslash; rename it")
        if path.is_file():
            names.append(name)
    if not names:
        raise ModelError("the model's folder holds no file")
    return sorted(names, key=str.encode)


def look(named: Named, uri: str, look_s3: S3Look | None = None) -> None:
    """Whether there is something at an address, with nothing fetched: a file in the cache is no proof of that.

    Raises ModelMissingError where there is nothing, ModelUnreachableError where that cannot be found out.
    """
    parts = urlsplit(uri)
    if (path := local_path(uri)) is not None:
        if not path.exists():
            raise ModelMissingError(f"there is no {named.what} file at {path}; check {named.uri}")
    elif parts.scheme == "s3":
        if look_s3 is None:
            raise ModelUnreachableError(f"an s3: {named.what} needs AWS access, which this caller has not")
        look_s3(parts.netloc, parts.path.lstrip("/"))
    elif parts.scheme == "https":
        request = urllib.request.Request(uri, method="HEAD")  # noqa: S310  https only
        try:
            urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise ModelMissingError(f"the server answered {error.code} for the {named.what}; check {named.uri}") from error
            raise ModelUnreachableError(f"the server answered {error.code} when asked whether the {named.what} is there") from error
        except OSError as error:
            raise ModelUnreachableError(f"the server of the {named.what} could not be asked ({type(error).__name__})") from error


def is_cached(named: Named, uri: str, sha256: str, cache: Path) -> bool:
    """Whether the cache holds what an address is said to hold."""
    return bool(sha256) and (cache / named.folder / sha256 / _file_name(named, uri)).exists()


def local_path(uri: str) -> Path | None:
    """The path that an address means on this machine; None for an address of elsewhere."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path) if parts.scheme else uri).expanduser() if parts.scheme in ("", "file") else None


def _check_hash(named: Named, uri: str, sha256: str) -> None:
    if not sha256 and (path := local_path(uri)) is not None and path.exists():
        found = folder_hash(path) if path.is_dir() else sha256_of(path)
        raise ModelAlteredError(f"{named.sha256} is missing, so that an altered {named.what} is not noticed; it is {found} now", found)
    if not is_sha256(sha256):
        raise ModelError(f"{named.sha256} is not 64 hex digits; get it with `sha256sum FILE`")


def _altered(named: Named, name: str, found: str, sha256: str) -> ModelAlteredError:
    return ModelAlteredError(
        f"{name} has SHA-256 {found}, but {named.sha256} says {sha256}. If the {named.what} was meant to change, "
        "set the new value; if not, somebody altered the file",
        found,
    )


def _file_name(named: Named, uri: str) -> str:
    parts = urlsplit(uri)
    path = unquote(parts.path) if parts.scheme else uri
    name = path.rstrip("/").rpartition("/")[2]
    if not _NAME.fullmatch(name):
        raise ModelError(f"{named.uri} must end with a file name of letters, digits, '.', '_' and '-'")
    return name


def _copy(named: Named, uri: str, target: Path, download_s3: S3Download | None) -> None:
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if download_s3 is None:
            raise ModelUnreachableError(f"an s3: {named.what} needs AWS access, which this caller has not")
        if not parts.netloc or not parts.path.strip("/"):
            raise ModelError(f"{named.uri}: expected s3://BUCKET/KEY")
        try:
            download_s3(parts.netloc, parts.path.lstrip("/"), target)
        except ModelError:
            raise
        except Exception as error:
            why = type(error).__name__
            raise ModelUnreachableError(
                f"the {named.what} could not be read from S3 ({why}); check the address and s3:GetObject"
            ) from error
    elif parts.scheme == "https":
        _download(named, uri, target)
    elif (source := local_path(uri)) is not None:
        if not source.is_file():
            raise ModelMissingError(f"there is no {named.what} file at {source}; check {named.uri}")
        shutil.copyfile(source, target)
    else:
        raise ModelError(f"{named.uri}: '{parts.scheme}:' is not supported; use a path, file:, https: or s3:")


def _download(named: Named, uri: str, target: Path) -> None:
    try:
        with closing(urllib.request.urlopen(uri, timeout=_TIMEOUT_S)) as response, target.open("wb") as out:  # noqa: S310  https only
            if not response.geturl().startswith("https:"):
                raise ModelUnreachableError(f"the {named.what}'s address redirects to one without encryption")
            shutil.copyfileobj(response, out)
    except urllib.error.HTTPError as error:
        kind = ModelMissingError if error.code in (404, 410) else ModelUnreachableError
        raise kind(f"the server answered {error.code} for the {named.what}; check {named.uri} and whether it needs a login") from error
    except OSError as error:
        raise ModelUnreachableError(f"the {named.what} could not be downloaded: {error}; check {named.uri} and the network") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
