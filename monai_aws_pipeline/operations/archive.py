"""The archive as the control plane asks it: is it there, what has it answered, and storing a study from the bucket without a host.

Hosts store what they have answered; this is for what they could not, and for who watches. No Dagster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from monai_aws_pipeline.archive.connection import ArchivePlace, connect
from monai_aws_pipeline.archive.dicomweb import DicomWebArchive, Patience
from monai_aws_pipeline.archive.errors import ArchiveError
from monai_aws_pipeline.archive.record import ArchiveRecord
from monai_aws_pipeline.archive.signing import SERVICE
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ResultRecord, archive_key
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.host_agent.archiving import archive_answer, from_bucket, write_record
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import JobError
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.operations.kept_original import kept_original
from monai_aws_pipeline.settings import Settings

_PROBE: Final = Patience(tries=2, first=0.5, longest=1.0)
_PROBE_S: Final = 20


class NoArchiveError(NamedError):
    """The deployment has no archive."""

    remedy = "Set MONAI_AWS_ARCHIVE to healthimaging or dicomweb (docs/archive.md), materialise inference_host, and try again."


class NoKeptOriginalError(NamedError):
    """The study's original is not in the bucket any more."""

    remedy = "Upload it again: it is archived with its answer."


def place_of(settings: Settings) -> ArchivePlace:
    """The archive that settings name."""
    return ArchivePlace(
        settings.archive, settings.archive_address, settings.datastore_id, settings.archive_secret, correct=settings.archive_correct
    )


class StudyArchive:
    """The archive of one deployment. Raises NoArchiveError where it has none."""

    def __init__(self, clients: Clients, settings: Settings) -> None:
        self._clients, self._settings, self.place = clients, settings, place_of(settings)
        if not self.place:
            raise NoArchiveError("MONAI_AWS_ARCHIVE is none: this deployment archives no studies.")

    @cached_property
    def _store(self) -> Store:
        return Store(self._clients.s3, self._settings.require_bucket())

    def connect(self, **options: Any) -> DicomWebArchive:
        """The archive itself. Raises ArchiveError where its secret cannot be read."""
        by_service: dict[str, Callable[[], Any]] = {SERVICE: lambda: self._clients.imaging, "secretsmanager": lambda: self._clients.secrets}
        return connect(self.place, lambda service: by_service[service](), self._clients.signing_credentials(), **options)

    def answers(self) -> None:
        """Ask whether it is there and lets us in, within seconds. Raises ArchiveError."""
        self.connect(patience=_PROBE, timeout_s=_PROBE_S).answers()

    def record(self, study: str, job: str) -> ArchiveRecord | None:
        """What it answered for a study; None where it has not answered, or where the record is damaged."""
        return ArchiveRecord.parse(self._store.read(archive_key(study, job)) or "")

    def original_of(self, record: ResultRecord) -> str:
        """Key of the original that a study was answered from. Raises NoKeptOriginalError."""
        kept = kept_original(self._clients.s3, self._settings.require_bucket(), record)
        if not kept:
            raise NoKeptOriginalError(f"The original of study {record.study} is not in the bucket any more.")
        return kept[0].key

    def store(self, record: ResultRecord, original: str, folder: Path) -> ArchiveRecord:
        """Store an answered study from the bucket, by way of ``folder``, and write what the archive answered. Raises ArchiveError."""
        archive = self.connect()
        try:
            answer = from_bucket(self._store, record, original, folder, IntakeLimits.of(self._settings))
        except JobError as error:
            raise ArchiveError(error.cause, error.remedy) from error
        return write_record(self._store, archive_answer(archive, answer, folder / "corrected", correct=self.place.correct))
