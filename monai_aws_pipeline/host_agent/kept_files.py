"""Files of an answered study, fetched from the bucket again: its results as they were committed, its original as it was taken in.

The one way for whoever comes after the host that answered: the archive that is stored from the bucket, and the viewer. Nothing is fetched
that is another than was recorded, or for which the disk has no room. What a refusal means to a person is the caller's affair. An object is
asked for by its ETag and never by its version, which takes a permission that the operator's role has not.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_aws_pipeline.contract import OutputFile
from monai_aws_pipeline.host_agent.aws.bucket import Store, StoredObject
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Study, read_studies
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits, check_size, unpack, with_free_space
from monai_aws_pipeline.host_agent.results.outputs import sha256_of


def fetch_result(store: Store, output: OutputFile, target: Path) -> Path:
    """A result as its record has it. Raises RefusedError where it is gone or another by now, FailedError for disk and bucket."""
    there = _found(store, output.key)
    if there.size == output.bytes:
        _download(store, there, target)
        if sha256_of(target) == output.sha256:
            return target
    raise RefusedError(Code.UPLOAD_REPLACED, "A result in the bucket is not the one that was committed.")


def fetch_original(store: Store, key: str, folder: Path, limits: IntakeLimits) -> tuple[Study, ...]:
    """The studies of a kept original, unpacked into ``folder``/original; the upload itself does not stay.

    Raises RefusedError where it is gone or is not what hosts take in, FailedError for disk and bucket.
    """
    there = _found(store, key)
    check_size(there.size, limits)
    with TemporaryDirectory(prefix="upload-", dir=folder) as place:
        _download(store, there, Path(place) / "upload.zip")
        return unpack_original(Path(place) / "upload.zip", folder / "original", limits)


def unpack_original(upload: Path, target: Path, limits: IntakeLimits) -> tuple[Study, ...]:
    """The studies of an upload in a new folder, which is not there where it is refused. Raises RefusedError, FailedError."""
    target.mkdir()
    try:
        unpack(upload, target, with_free_space(limits, shutil.disk_usage(target).free))
        return read_studies(sorted(target.glob("*.dcm")))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _found(store: Store, key: str) -> StoredObject:
    there = store.find(key)
    if there is None:
        raise RefusedError(Code.UPLOAD_MISSING, "The study's original or a result of it has left the bucket.")
    return there


def _download(store: Store, there: StoredObject, target: Path) -> None:
    if there.size > with_free_space(IntakeLimits(), shutil.disk_usage(target.parent).free).disk_bytes:
        raise FailedError(Code.DISK_FULL, "A file of the study is larger than this disk has room for.")
    store.download(there.key, "", there.etag, target)
