"""A study read from its archive by DICOMweb: looked for once, and its frames fetched as they are asked for.

Here belongs reading alone; how a request is signed and tried again is ``archive``'s. Series of other results than this answer's are left
out: an archive keeps the results of every run. Sources: PS3.18 10.4 (Retrieve), 8.7.3 (multipart media types).
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian

from monai_aws_pipeline.archive.dicomweb import DicomWebArchive
from monai_aws_pipeline.archive.errors import ArchiveError
from monai_aws_pipeline.host_agent.intake.dicom import class_name
from monai_aws_pipeline.portal.viewer.frames import Frame, FrameError, read_frames
from monai_aws_pipeline.portal.viewer.study_view import LARGEST_INSTANCE, MOST_INSTANCES, ViewError, is_shown

FRAMES: Final = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
"""As they are stored: the browser decodes them."""
INSTANCE: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_UID: Final = re.compile(r"[0-9.]{1,64}")


class ArchiveSource:
    """One study of an archive. ``results``: SOP Instance UIDs of this answer's objects, all of which the archive has to have.

    ``folder``: where objects lie that are fetched whole, because archives (Orthanc) do not cut frames of single bits.
    """

    def __init__(self, archive: DicomWebArchive, study_uid: str, results: frozenset[str], folder: Path) -> None:
        self._archive, self._uid, self._results, self._folder = archive, study_uid, results, folder
        self._lock = threading.Lock()
        self._headers: list[Dataset] = []
        for series in archive.series(study_uid):
            if _UID.fullmatch(series) and len(self._headers) <= MOST_INSTANCES:
                self._headers += self._of_series(series)
        self._syntaxes = {str(header.SOPInstanceUID): _first(header.get("AvailableTransferSyntaxUID")) for header in self._headers}
        self._of_bits = {str(header.SOPInstanceUID) for header in self._headers if header.get("BitsAllocated") == 1}

    @property
    def is_whole(self) -> bool:
        """Whether the archive has this answer's results, and images to lay them over."""
        return self._results <= self._syntaxes.keys() and len(self._syntaxes) > len(self._results)

    def _of_series(self, series: str) -> list[Dataset]:
        found = []
        for item in self._archive.metadata(self._uid, series)[: MOST_INSTANCES + 1]:
            with config.disable_value_validation():
                try:
                    header = Dataset.from_json(item, bulk_data_uri_handler=lambda _: None)
                    uid, sop_class = str(header.SOPInstanceUID), str(header.SOPClassUID)
                except Exception:  # noqa: S112 - an archive's answer is anybody's; what cannot be read is not shown
                    continue
            header.SeriesInstanceUID = series
            if not _UID.fullmatch(uid):  # it becomes a part of an address
                continue
            if uid in self._results or ("Image Storage" in class_name(sop_class) and is_shown(sop_class)):
                found.append(header)
        return found

    def headers(self) -> Sequence[Dataset]:
        """Of each object."""
        headers, self._headers = self._headers, []
        return headers

    def frames(self, series: str, instance: str, numbers: Sequence[int]) -> list[Frame]:
        """Fetched as they are stored. Raises ViewError."""
        if instance in self._of_bits:
            try:
                return read_frames(self._whole(series, instance), numbers)
            except FrameError as error:
                raise ViewError(str(error)) from error
        wanted = ",".join(str(number) for number in numbers)
        path = f"/studies/{self._uid}/series/{series}/instances/{instance}/frames/{wanted}"
        parts = self._parts(path, FRAMES)
        if len(parts) != len(numbers):
            raise ViewError("The archive does not give these frames.", status=502)
        usual = self._syntaxes.get(instance) or str(ExplicitVRLittleEndian)
        return [Frame(data, said or usual) for data, said in parts]

    def instance(self, series: str, instance: str, most: int) -> FileDataset:
        """The whole file. Raises ViewError."""
        parts = self._parts(f"/studies/{self._uid}/series/{series}/instances/{instance}", INSTANCE)
        if len(parts) != 1 or len(parts[0][0]) > most:
            raise ViewError("The archive does not give this object.", status=502)
        with config.disable_value_validation():
            return dcmread(BytesIO(parts[0][0]), force=True)

    def _whole(self, series: str, instance: str) -> Path:
        """The file of an object, fetched once. Raises ViewError."""
        path = self._folder / f"archived-{hashlib.sha256(instance.encode()).hexdigest()[:16]}.dcm"
        with self._lock:
            if not path.exists():
                data = self.instance(series, instance, LARGEST_INSTANCE)
                with config.disable_value_validation():
                    data.save_as(path, enforce_file_format=True)
        return path

    def _parts(self, path: str, accept: str) -> list[tuple[bytes, str]]:
        try:
            return self._archive.retrieve(path, accept)
        except ArchiveError as error:
            raise ViewError("view_archive_failed", 502, why=error) from error


def _first(value: object) -> str:
    values = value if isinstance(value, MultiValue | list) else [value]
    return str(values[0]) if values and values[0] else ""
