"""The studies that browsers look at just now: each read once, kept in a private folder within bounds, and forgotten after a while.

Here belongs who is kept and for how long, and where a study comes from: from the archive where that has it with this answer's results, so
that nothing is unpacked and the original may have expired; else from the bucket.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from monai_aws_pipeline.archive.dicomweb import DicomWebArchive
from monai_aws_pipeline.archive.errors import ArchiveError
from monai_aws_pipeline.contract import ResultRecord
from monai_aws_pipeline.host_agent.intake.dicom import Instance
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.viewer.archive_source import ArchiveSource
from monai_aws_pipeline.portal.viewer.bucket_source import BucketFetch, BucketSource, StoredStudy
from monai_aws_pipeline.portal.viewer.study_view import StudyView, ViewError

KEPT_SECONDS: Final = 1800.0
"""Since a study was last looked at."""
MOST_STUDIES: Final = 8
MOST_BYTES: Final = 16 << 30
_AT_ONCE: Final = 2
"""Studies that are fetched and unpacked at the same time."""
_WAIT_SECONDS: Final = 120.0

log = logging.getLogger(__name__)

Archive = Callable[[], DicomWebArchive]


class Turns:
    """So many studies are fetched and unpacked at the same time; whoever waits too long is told so."""

    def __init__(self, places: int = _AT_ONCE, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._places, self._wait = threading.BoundedSemaphore(places), wait_seconds

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place. Raises ViewError."""
        if not self._places.acquire(timeout=self._wait):
            raise ViewError("view_busy", status=503)
        try:
            yield
        finally:
            self._places.release()


@dataclass
class OpenStudy:
    """One answer that is looked at; its files lie in ``folder``. Each part is read when it is first asked for."""

    record: ResultRecord
    folder: Path
    fetch: BucketFetch
    archive: Archive | None
    turns: Turns
    users: int = 0
    used_at: float = 0.0
    held: int = 0
    """What its folder takes."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _making: threading.Lock = field(default_factory=threading.Lock)
    _results: tuple[tuple[Instance, ...], dict[str, Path]] | None = None
    _stored: StoredStudy | None = None
    _view: StudyView | None = None

    @property
    def stored(self) -> StoredStudy:
        """Its files from the bucket. Raises ViewError."""
        with self._lock:
            if self._stored is None:
                with self.turns.taken():
                    self._stored = self._read()
            return self._stored

    @property
    def view(self) -> StudyView:
        """What DICOMweb answers from. Raises ViewError."""
        with self._lock:
            if self._view is None:
                with self.turns.taken():
                    self._view = self._from_archive() or self._from_bucket()
            return self._view

    def made(self, name: str, make: Callable[[OpenStudy], bytes]) -> bytes:
        """A file that is made of its own once, and lies in its folder from then on. Raises ViewError."""
        path = self.folder / name
        if not path.exists():
            _ = self.stored
            with self._making, self.turns.taken():
                if not path.exists():
                    content = make(self)
                    path.with_suffix(".partial").write_bytes(content)
                    path.with_suffix(".partial").replace(path)
                    self._measure()
        return path.read_bytes()

    def _read(self) -> StoredStudy:
        results, meshes = self._read_results()
        uid, originals = self.fetch.original(self.record, results[0].study_uid if results else "", self.folder)
        self._measure()
        return StoredStudy(uid, originals, tuple(each for each in results if each.study_uid == uid), meshes)

    def _read_results(self) -> tuple[tuple[Instance, ...], dict[str, Path]]:
        if self._results is None:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._results = self.fetch.results(self.record, self.folder)
        return self._results

    def _from_bucket(self) -> StudyView:
        self._stored = self._stored or self._read()
        return StudyView(self.record.study, self._stored.uid, BucketSource(self._stored))

    def _from_archive(self) -> StudyView | None:
        """None where there is no archive, where it has not all of this answer yet, or where it does not answer."""
        results, _ = self._read_results()
        if self.archive is None or not results:
            return None
        uid = results[0].study_uid
        try:
            source = ArchiveSource(self.archive(), uid, frozenset(each.sop_uid for each in results), self.folder)
        except ArchiveError as error:
            log.warning("the viewer reads from the bucket, because the archive does not answer: %s", error.cause)
            return None
        return StudyView(self.record.study, uid, source) if source.is_whole else None

    def _measure(self) -> None:
        self.held = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Views:
    """All that are open. ``folder``: a private one, whose end is its owner's affair. Safe to use from several threads."""

    def __init__(
        self, files: StudyFiles, fetch: BucketFetch, folder: Path, archive: Archive | None = None, kept_seconds: float = KEPT_SECONDS
    ) -> None:
        self._files, self._fetch, self._folder, self._archive, self._kept = files, fetch, folder, archive, kept_seconds
        self._open: dict[tuple[str, str], OpenStudy] = {}
        self._lock = threading.Lock()
        self._turns = Turns()
        self._timer: threading.Timer | None = None

    @contextmanager
    def opened(self, study: str, job: str) -> Iterator[OpenStudy]:
        """One answer, whose files stay while the block is in it. Raises ViewError, NotThereError."""
        found = self._taken(study, job)
        try:
            yield found
        finally:
            with self._lock:
                found.users -= 1
                found.used_at = time.monotonic()
            self._forget_later()

    def _taken(self, study: str, job: str) -> OpenStudy:
        with self._lock:
            found = self._open.get((study, job))
            if found is not None:
                found.users += 1
                return found
        record = self._files.record(study, job)
        self.forget_the_old(room_for_one=True)
        with self._lock:
            made = OpenStudy(record, self._folder / secrets.token_hex(16), self._fetch, self._archive, self._turns)
            found = self._open.setdefault((study, job), made)
            found.users += 1
            return found

    def forget_all(self) -> None:
        """Remove all that nobody looks at just now."""
        with self._lock:
            gone = [self._open.pop(name) for name, each in list(self._open.items()) if not each.users]
        for each in gone:
            shutil.rmtree(each.folder, ignore_errors=True)

    def forget_the_old(self, *, room_for_one: bool = False) -> None:
        """Remove what nobody has looked at for a while, and the oldest of what is too much."""
        with self._lock:
            now = time.monotonic()
            idle = sorted((each.used_at, name) for name, each in self._open.items() if not each.users)
            sizes = {name: each.held for name, each in self._open.items()}
            gone = []
            for used_at, name in idle:
                too_many = len(sizes) + room_for_one > MOST_STUDIES or sum(sizes.values()) > MOST_BYTES
                if too_many or now - used_at >= self._kept:
                    del sizes[name]
                    gone.append(self._open.pop(name))
            if len(sizes) + room_for_one > MOST_STUDIES:
                raise ViewError("view_full", status=503)
        for each in gone:
            shutil.rmtree(each.folder, ignore_errors=True)

    def _forget_later(self) -> None:
        with self._lock:
            if self._timer is not None and self._timer.is_alive():
                return
            self._timer = threading.Timer(self._kept + 1, self._forget_and_look_again)
            self._timer.daemon = True
            self._timer.start()

    def _forget_and_look_again(self) -> None:
        self.forget_the_old()
        with self._lock:
            self._timer = None
            left = bool(self._open)
        if left:
            self._forget_later()
