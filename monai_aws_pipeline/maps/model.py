"""Files that the settings name by address and SHA-256 (the model, the golden study, its reference): fetched into the cache and checked.

Here belongs the reading of paths, ``file:`` and ``https:`` addresses. Reading from S3 is a callable handed in, because nothing in this
folder knows AWS. The cache is keyed by the hash, so a file that did not change is never fetched twice.
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

from monai_aws_pipeline.scratch import scratch

S3Download = Callable[[str, str, Path], None]
"""``download(bucket, key, target)``: writes the object to ``target`` or raises."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TIMEOUT_S: Final = 60


class ModelError(RuntimeError):
    """The model (or another file that is fetched as it is) cannot be used. The message says why and what to do."""


class ModelMissingError(ModelError):
    """There is no file at the given place."""


class ModelAlteredError(ModelError):
    """The file is not the one the settings name by SHA-256."""


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


def fetch_model(uri: str, sha256: str, cache: Path, *, download_s3: S3Download | None = None) -> Path:
    """Bring the model to ``cache/models/SHA256/NAME`` and return that path. As ``fetch_file``."""
    return fetch_file(MODEL, uri, sha256, cache, download_s3=download_s3)


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
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ModelError(f"{named.sha256} is not 64 hex digits; get it with `sha256sum FILE`")
    name = _file_name(named, uri)
    target = cache / named.folder / sha256 / name
    if target.is_file() and _sha256(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch("partial", target.parent) as folder:
        partial = folder / name
        _copy(named, uri, partial, download_s3)
        found = _sha256(partial)
        if found != sha256:
            raise ModelAlteredError(
                f"{name} has SHA-256 {found}, but {named.sha256} says {sha256}. If the {named.what} was meant to change, "
                "set the new value; if not, somebody altered the file"
            )
        partial.chmod(0o644)
        partial.replace(target)
    return target


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
        except Exception as wrong:
            why = type(wrong).__name__
            raise ModelUnreachableError(
                f"the {named.what} could not be read from S3 ({why}); check the address and s3:GetObject"
            ) from wrong
    elif parts.scheme == "https":
        _download(named, uri, target)
    elif parts.scheme in ("", "file"):
        source = Path(unquote(parts.path) if parts.scheme else uri).expanduser()
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
    except urllib.error.HTTPError as wrong:
        kind = ModelMissingError if wrong.code in (404, 410) else ModelUnreachableError
        raise kind(f"the server answered {wrong.code} for the {named.what}; check {named.uri} and whether it needs a login") from wrong
    except OSError as wrong:
        raise ModelUnreachableError(f"the {named.what} could not be downloaded: {wrong}; check {named.uri} and the network") from wrong


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
