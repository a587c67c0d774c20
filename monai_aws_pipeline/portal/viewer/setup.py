"""The viewers as the settings have them: which archive is read, within which limits, and where files lie meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from monai_aws_pipeline.archive.connection import ArchivePlace, connect
from monai_aws_pipeline.archive.dicomweb import Patience
from monai_aws_pipeline.archive.signing import SERVICE
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.viewer.bucket_source import BucketFetch
from monai_aws_pipeline.portal.viewer.packages import Packages
from monai_aws_pipeline.portal.viewer.routes import Viewer
from monai_aws_pipeline.portal.viewer.views import Archive, Views
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

_PATIENCE = Patience(tries=3, first=0.2, longest=2.0)
"""A person waits: what does not answer by then is read from the bucket."""


@contextmanager
def viewer_of(settings: Settings, clients: Clients, files: StudyFiles, report: Callable[[str], None]) -> Iterator[Viewer]:
    """The viewers for as long as the block lasts; what they keep of studies is gone afterwards."""
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    packages = Packages(settings.cache_dir, report)
    packages.fetch_in_background()
    with scratch("viewed-studies", settings.cache_dir) as folder:
        yield Viewer(Views(files, BucketFetch(clients.s3, files, limits_of(settings)), folder, archive_of(settings, clients)), packages)


def limits_of(settings: Settings) -> IntakeLimits:
    """Those that hosts take uploads in with."""
    return IntakeLimits(
        upload_bytes=settings.upload_max_mib << 20,
        unpacked_bytes=settings.unpacked_max_mib << 20,
        files=settings.upload_max_files,
        ratio=settings.unpack_max_ratio,
    )


def archive_of(settings: Settings, clients: Clients) -> Archive | None:
    """How the archive is reached, anew for each study: secrets and credentials change; None where there is none."""
    place = ArchivePlace(settings.archive, settings.archive_address, settings.datastore_id, settings.archive_secret)
    if not place:
        return None

    def client(service: str) -> Any:
        return clients.imaging if service == SERVICE else clients.secrets

    return lambda: connect(place, client, clients.signing_credentials(), patience=_PATIENCE)
