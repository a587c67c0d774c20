"""The viewers as the settings have them: which archive is read, within which limits, and where files lie meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from monai_aws_pipeline.archive.dicomweb import Patience
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.operations.archive import StudyArchive, place_of
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.viewer.bucket_source import BucketFetch
from monai_aws_pipeline.portal.viewer.packages import Packages
from monai_aws_pipeline.portal.viewer.routes import Viewer
from monai_aws_pipeline.portal.viewer.views import Archive, Views
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

_PATIENCE: Final = Patience(tries=3, first=0.2, longest=2.0)
_ANSWER_S: Final = 30
"""A person waits: what does not answer by then is read from the bucket."""


@contextmanager
def viewer_of(settings: Settings, clients: Clients, files: StudyFiles, report: Callable[[str], None]) -> Iterator[Viewer]:
    """The viewers for as long as the block lasts; what they keep of studies is gone afterwards."""
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    packages = Packages(settings.cache_dir, report)
    with scratch("viewed-studies", settings.cache_dir) as folder:
        fetch = BucketFetch(clients.s3, files, IntakeLimits.of(settings))
        yield Viewer(Views(files, fetch, folder, archive_of(settings, clients)), packages)


def archive_of(settings: Settings, clients: Clients) -> Archive | None:
    """How the archive is reached, anew for each study, because secrets and credentials change; None where there is none."""
    if not place_of(settings):
        return None
    return partial(StudyArchive(clients, settings).connect, patience=_PATIENCE, timeout_s=_ANSWER_S)
