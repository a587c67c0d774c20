"""An answered study into the archive: which files of it and of its results are sent, and what is written down of the answer.

Comes after the commit; nothing of that waits for it or depends on it. Hosts store from the files that they have, and from the bucket where
they have none any more, as the control plane does (``archived_study``). How requests are made and tried again belongs to ``archive/``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monai_aws_pipeline.archive.conflicts import read_file, without_conflicts
from monai_aws_pipeline.archive.dicomweb import DicomWebArchive
from monai_aws_pipeline.archive.errors import ArchiveAwayError, ArchiveError, ArchiveFileError
from monai_aws_pipeline.archive.record import ArchiveRecord
from monai_aws_pipeline.archive.study import archive_study
from monai_aws_pipeline.contract import OutputFile, ResultRecord, Status, archive_key
from monai_aws_pipeline.contract.outputs import DICOM, DICOM_SEG
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import InterruptedJobError, JobError, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Study
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.host_agent.kept_files import fetch_original, fetch_result, unpack_original
from monai_aws_pipeline.host_agent.results.outputs import sha256_of

log = logging.getLogger(__name__)

CLOSED_S: Final = 300.0
"""So long after an archive was away a host tries none: its jobs end as answered, and are archived from the bucket later."""


@dataclass(frozen=True)
class Answer:
    """An answered study as it was received, and its results, as DICOM files of this machine."""

    study: str
    job: str
    originals: tuple[Path, ...]
    results: tuple[Path, ...]


# ------------------------------------------------------------------------------------------------------------------- which files


def answered(records: Iterable[ResultRecord]) -> list[ResultRecord]:
    """Those of which there is something to archive: a refused study has no results."""
    return [record for record in records if record.status is Status.SUCCEEDED]


def from_folders(record: ResultRecord, received: Sequence[Path], written: Path) -> Answer | None:
    """An answer from what lies here: the study's files in ``received``, the MAP's in ``written``; None where they are another try's."""
    by_digest = {sha256_of(path): path for path in written.rglob("*") if path.is_file()}
    results = [by_digest.get(output.sha256) for output in _dicom_of(record)]
    originals = sorted(path for folder in received for path in folder.glob("*.dcm"))
    if not originals or not all(results):
        return None
    return Answer(record.study, record.job, tuple(originals), tuple(path for path in results if path))


def from_bucket(
    store: Store,
    record: ResultRecord,
    original: str,
    folder: Path,
    limits: IntakeLimits,
    is_wanted: Callable[[Study], bool] | None = None,
) -> Answer:
    """An answer fetched into ``folder``: its original from the key ``original``, its results from where the record says.

    ``is_wanted`` picks the study of an original that holds several; without it, its results say which one it is.
    Raises ArchiveFileError, and FailedError for a bucket that fails.
    """
    with _named_for_the_archive():
        results = [fetch_result(store, output, folder / f"result-{number}.dcm") for number, output in enumerate(_dicom_of(record))]
        studies = fetch_original(store, original, folder, limits)
    uid = read_file(results[0], is_result=True).study_uid if results else ""
    mine = [study for study in studies if (is_wanted(study) if is_wanted else not uid or study.uid == uid)]
    if len(mine) != 1:
        raise ArchiveFileError(
            "The original does not hold the study that was answered."
            if not mine
            else "The original holds several studies, and no DICOM result says which of them was answered."
        )
    return Answer(record.study, record.job, files_of(mine[0]), tuple(results))


def unpacked(upload: Path, folder: Path, limits: IntakeLimits) -> tuple[Study, ...]:
    """The studies of an upload that was answered, in a new folder. Raises ArchiveFileError where it cannot be read any more."""
    with _named_for_the_archive():
        return unpack_original(upload, folder, limits)


@contextmanager
def _named_for_the_archive() -> Iterator[None]:
    try:
        yield
    except RefusedError as error:
        raise ArchiveFileError(f"{error.cause} The study cannot be read as it was when it was answered ({error.code}).") from None


def files_of(study: Study) -> tuple[Path, ...]:
    """Every file of a study, images and what came beside them."""
    return tuple(item.path for item in (*study.instances, *study.companions))


def _dicom_of(record: ResultRecord) -> list[OutputFile]:
    return [output for output in record.outputs if output.kind in (DICOM, DICOM_SEG)]


# ----------------------------------------------------------------------------------------------------------------------- storing


def archive_answer(archive: DicomWebArchive, answer: Answer, folder: Path, *, correct: bool) -> ArchiveRecord:
    """Store it. ``folder``: where corrected copies are made. Raises ArchiveError."""
    files = [read_file(path, is_result=False) for path in answer.originals]
    files += [read_file(path, is_result=True) for path in answer.results]
    folder.mkdir(exist_ok=True)
    kept, withheld = without_conflicts(files, folder, correct=correct)
    return archive_study(archive, kept, answer.study, answer.job, withheld=withheld)


def write_record(store: Store, record: ArchiveRecord) -> ArchiveRecord:
    """Write it once. Only one that is not whole gives way to a later one; returns the one that stands."""
    key = archive_key(record.study, record.job)
    if store.put_once(key, record.to_json()):
        return record
    text, etag = store.read_tagged(key)
    earlier = ArchiveRecord.parse(text)
    if earlier and earlier.is_whole:
        return earlier
    return record if store.put_over(key, record.to_json(), etag) else earlier or record


class Archiver:
    """What a host does about answered studies. ``connect`` opens the archive anew for each."""

    def __init__(self, store: Store, connect: Callable[[], DicomWebArchive], stop: threading.Event, *, correct: bool = False) -> None:
        self._store, self._connect, self._stop, self._correct = store, connect, stop, correct
        self._closed_until = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether the archive was away a short while ago."""
        return time.monotonic() < self._closed_until

    def missing(self, records: Iterable[ResultRecord]) -> list[ResultRecord]:
        """Those of which no archive has answered yet."""
        return [each for each in records if self._store.find(archive_key(each.study, each.job)) is None]

    def store(self, study: str, job: str, fetch: Callable[[], Answer | None], folder: Path) -> None:
        """Store one answer and write the record. What does not succeed is logged and left to ``archived_study``; the study is answered.

        Raises InterruptedJobError where the host is stopping.
        """
        if self.is_closed:
            log.info("job %s: study %s is not archived now: the archive was away; it is stored from the bucket later", job, study)
            return
        try:
            answer = fetch()
            if answer is None:
                log.info("job %s: another host answered study %s, and archives it", job, study)
                return
            record = write_record(self._store, archive_answer(self._connect(), answer, folder, correct=self._correct))
        except ArchiveAwayError as error:
            if self._stop.is_set():
                raise InterruptedJobError("the host is stopping") from None
            self._closed_until = time.monotonic() + CLOSED_S
            log.warning("job %s: study %s is answered and not archived yet: %s", job, study, error)
        except (ArchiveError, JobError) as error:
            log.warning("job %s: study %s is answered and not archived: %s", job, study, error)
        else:
            log.info("job %s: study %s archived in %.1f s (%d requests)", job, study, record.seconds, record.requests)
            for trouble in record.troubles:
                log.warning("job %s: study %s: %s", job, study, trouble)
