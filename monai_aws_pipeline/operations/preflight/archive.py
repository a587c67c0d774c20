"""Whether the archive that settings name is there and lets us in: one search for at most one study, from this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_aws_pipeline.archive.errors import ArchiveAwayError, ArchiveError
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.operations.archive import NoArchiveError, StudyArchive
from monai_aws_pipeline.operations.preflight.answers import Judgement, Probe, State

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings


def archive_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """The archive."""
    return [Probe("archive", "the archive for one study", lambda: _archive(clients, settings))]


def _archive(clients: Clients, settings: Settings) -> Judgement:
    try:
        archive = StudyArchive(clients, settings)
    except NoArchiveError:
        return Judgement("MONAI_AWS_ARCHIVE is none: studies and results stay in the bucket", State.SKIPPED)
    try:
        archive.answers()
    except ArchiveAwayError as error:
        return Judgement(error.cause, State.WARNING, "Hosts must reach it, from their subnets; only they and archived_study store in it.")
    except ArchiveError as error:
        return Judgement(error.cause, State.ERROR, error.remedy)
    return Judgement(f"the archive ({archive.place.kind}) answers")
