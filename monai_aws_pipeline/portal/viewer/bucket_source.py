"""A study read from the bucket itself: its original from ``processed/``, unpacked within the intake's own limits, and one answer's results.

Here belongs what a viewer needs of it, in a folder that somebody else owns (``views``). Fetched and unpacked it is by the code that hosts
take uploads in with (``host_agent/kept_files``), within the same limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset

from monai_aws_pipeline.contract import OutputFile, ResultRecord, Status
from monai_aws_pipeline.contract.outputs import DICOM, DICOM_SEG, MESH
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Instance, read_instance
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.host_agent.kept_files import fetch_original, fetch_result
from monai_aws_pipeline.portal.study_files import StudyFiles, files_of
from monai_aws_pipeline.portal.viewer.frames import Frame, FrameError, read_frames
from monai_aws_pipeline.portal.viewer.study_view import ViewError, is_shown

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

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
        self._store, self._files, self._limits = Store(s3, files.store.bucket), files, limits

    def results(self, record: ResultRecord, folder: Path) -> tuple[tuple[Instance, ...], dict[str, Path]]:
        """DICOM results and surfaces of an answer, fetched. Raises ViewError."""
        if record.status is not Status.SUCCEEDED:
            raise ViewError("view_not_answered")
        wanted = [output for output in files_of(record).values() if output.kind in _DICOM_KINDS or _is_mesh(output)][:_MOST_OUTPUTS]
        if sum(output.bytes for output in wanted) > self._limits.unpacked_bytes:
            raise ViewError("view_results_too_large", status=413)
        found: list[Instance] = []
        meshes: dict[str, Path] = {}
        with _named_for_a_person(gone="view_file_gone", refused="view_result_unreadable"):
            for number, output in enumerate(wanted):
                if _is_mesh(output):
                    meshes[output.key.rpartition("/")[2]] = fetch_result(self._store, output, folder / f"result-{number:03d}.stl")
                    continue
                instance = read_instance(fetch_result(self._store, output, folder / f"result-{number:03d}.dcm"), whole=False)
                if instance is not None and is_shown(instance.sop_class):
                    found.append(instance)
        return tuple(found), meshes

    def original(self, record: ResultRecord, uid: str, folder: Path) -> tuple[str, tuple[Instance, ...]]:
        """The images of the study that an answer is about, fetched and unpacked, and its UID. ``uid``: empty where no result says it.

        Raises ViewError.
        """
        original = next(iter(self._files.originals(record).values()), None)  # of an answered study there is one: folders become a zip
        if original is None:
            raise ViewError("view_original_gone")
        with _named_for_a_person(gone="view_original_gone", refused="view_original_refused"):
            studies = {study.uid: study for study in fetch_original(self._store, original.key, folder, self._limits)}
        if not uid and len(studies) == 1:
            (uid,) = studies
        if uid not in studies:
            raise ViewError("view_which_study")
        return uid, studies[uid].instances


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


@contextmanager
def _named_for_a_person(*, gone: str, refused: str) -> Iterator[None]:
    """What the intake's code refuses, by keys of our texts."""
    try:
        yield
    except RefusedError as error:
        raise ViewError(gone) if error.code is Code.UPLOAD_MISSING else ViewError(refused, status=502, why=error) from error
    except FailedError as error:
        is_full = error.code is Code.DISK_FULL
        raise ViewError("view_disk_full", status=503) if is_full else ViewError("view_bucket_failed", status=502, why=error) from error


def _is_mesh(output: OutputFile) -> bool:
    return output.kind == MESH and output.key.lower().endswith(".stl")
