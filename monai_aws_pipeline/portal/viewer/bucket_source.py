"""A study read from the bucket itself: its original from ``processed/``, unpacked within the intake's own limits, and one answer's results.

Here belong fetching and reading into a folder that somebody else owns (``views``). What an upload may be, and what of it is an image of
the study, is decided by the code that hosts take it in with; names inside an archive are never used.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset

from monai_aws_pipeline.contract import OutputFile, ResultRecord, Status
from monai_aws_pipeline.contract.outputs import DICOM, DICOM_SEG, MESH
from monai_aws_pipeline.host_agent.errors import FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Instance, read_instance, read_studies
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits, check_size, keep_dicom, unpack, with_free_space
from monai_aws_pipeline.portal.study_files import StudyFiles, files_of
from monai_aws_pipeline.portal.viewer.frames import Frame, FrameError, read_frames
from monai_aws_pipeline.portal.viewer.study_view import ViewError, is_shown

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BLOCK: Final = 1 << 20
_DICOM_KINDS: Final = (DICOM_SEG, DICOM)
_MOST_OUTPUTS: Final = 200


@dataclass(frozen=True)
class StoredStudy:
    """Files of one study and of one answer to it, each read once. ``uid``: its StudyInstanceUID."""

    uid: str
    originals: tuple[Instance, ...]
    results: tuple[Instance, ...]
    meshes: Mapping[str, Path]


class BucketFetch:
    """Brings studies of one bucket into folders. ``limits``: those that hosts take uploads in with."""

    def __init__(self, s3: S3Client, files: StudyFiles, limits: IntakeLimits) -> None:
        self._s3, self._files, self._limits = s3, files, limits

    def results(self, record: ResultRecord, folder: Path) -> tuple[tuple[Instance, ...], dict[str, Path]]:
        """DICOM results and surfaces of an answer, fetched. Raises ViewError."""
        if record.status is not Status.SUCCEEDED:
            raise ViewError("view_not_answered")
        limits = self._within(folder)
        wanted = [output for output in files_of(record).values() if output.kind in _DICOM_KINDS or _is_mesh(output)][:_MOST_OUTPUTS]
        if sum(output.bytes for output in wanted) > limits.unpacked_bytes or sum(output.bytes for output in wanted) > limits.disk_bytes:
            raise ViewError("view_results_too_large", status=413)
        found: list[Instance] = []
        meshes: dict[str, Path] = {}
        for number, output in enumerate(wanted):
            path = folder / f"result-{number:03d}{'.stl' if _is_mesh(output) else '.dcm'}"
            self._fetch(output.key, output.bytes, path)
            if _is_mesh(output):
                meshes[output.key.rpartition("/")[2]] = path
                continue
            try:
                instance = read_instance(path, whole=False)
            except RefusedError as error:
                raise ViewError("view_result_unreadable", status=502, why=error) from error
            if instance is not None and is_shown(instance.sop_class):
                found.append(instance)
        return tuple(found), meshes

    def original(self, record: ResultRecord, uid: str, folder: Path) -> tuple[str, tuple[Instance, ...]]:
        """The images of the study that an answer is about, fetched and unpacked, and its UID. ``uid``: empty where no result says it.

        Raises ViewError.
        """
        originals = list(self._files.originals(record).values())
        if not originals:
            raise ViewError("view_original_gone")
        for name in ("upload", "original"):
            shutil.rmtree(folder / name, ignore_errors=True)  # of a try that failed
            (folder / name).mkdir()
        try:
            limits = self._within(folder)
            check_size(sum(each.bytes for each in originals), limits)
            fetched = [(folder / "upload" / f"{number:06d}", each) for number, each in enumerate(originals)]
            for path, each in fetched:
                self._fetch(each.key, each.bytes, path)
            if len(fetched) == 1:
                unpack(fetched[0][0], folder / "original", limits)
            else:
                keep_dicom([path for path, _ in fetched], limits)
                for path, _ in fetched:
                    if path.exists():
                        path.rename(folder / "original" / f"{path.name}.dcm")
            studies = {study.uid: study for study in read_studies(sorted((folder / "original").rglob("*.dcm")))}
        except RefusedError as error:
            raise ViewError("view_original_refused", status=502, why=error) from error
        except FailedError as error:
            raise ViewError("view_disk_full", status=503) from error
        finally:
            shutil.rmtree(folder / "upload", ignore_errors=True)
        if not uid and len(studies) == 1:
            (uid,) = studies
        if uid not in studies:
            raise ViewError("view_which_study")
        return uid, studies[uid].instances

    def _within(self, folder: Path) -> IntakeLimits:
        return with_free_space(self._limits, shutil.disk_usage(folder).free)

    def _fetch(self, key: str, size: int, path: Path) -> None:
        """One object, of no more bytes than were recorded of it."""
        try:
            body = self._s3.get_object(Bucket=self._files.store.bucket, Key=key)["Body"]
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise ViewError("view_file_gone") from error
            raise
        with body, path.open("wb") as out:
            for block in _blocks(body.iter_chunks(_BLOCK), size):
                out.write(block)


class BucketSource:
    """A study whose files lie in a folder."""

    def __init__(self, stored: StoredStudy) -> None:
        self._paths = {(each.series_uid, each.sop_uid): each.path for each in (*stored.originals, *stored.results)}

    def headers(self) -> Iterator[Dataset]:
        """Of each object, one at a time."""
        for path in self._paths.values():
            with config.disable_value_validation():
                data = dcmread(path, stop_before_pixels=True)
            data.AvailableTransferSyntaxUID = data.file_meta.TransferSyntaxUID
            yield data

    def frames(self, series: str, instance: str, numbers: Sequence[int]) -> list[Frame]:
        """Read where they lie. Raises ViewError."""
        try:
            return read_frames(self._paths[series, instance], numbers)
        except FrameError as error:
            raise ViewError(str(error)) from error

    def instance(self, series: str, instance: str, most: int) -> FileDataset:
        """The whole file. Raises ViewError."""
        path = self._paths[series, instance]
        if path.stat().st_size > most:
            raise ViewError("This object is larger than is sent whole; its frames are.", status=413)
        with config.disable_value_validation():
            return dcmread(path)


def _blocks(blocks: Iterator[bytes], most: int) -> Iterator[bytes]:
    for block in blocks:
        most -= len(block)
        if most < 0:
            raise ViewError("view_file_larger", status=502)
        yield block


def _is_mesh(output: OutputFile) -> bool:
    return output.kind == MESH and output.key.lower().endswith(".stl")
