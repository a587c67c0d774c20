"""A portal with its viewer on a bucket of this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.operations.status import Depth
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import Portal, build_app
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.uploads import MIB, Uploads
from monai_aws_pipeline.portal.viewer.bucket_source import BucketFetch
from monai_aws_pipeline.portal.viewer.packages import Packages
from monai_aws_pipeline.portal.viewer.routes import Viewer
from monai_aws_pipeline.portal.viewer.views import Archive, Views
from tests.unit.studies.records import Bucket

LINKS = "http://127.0.0.1:3070"


class Looking:
    """A browser, and what is behind it."""

    def __init__(self, bucket: Bucket, folder: Path, limits: IntakeLimits | None = None, archive: Archive | None = None) -> None:
        clients = Clients("us-east-1")
        files = StudyFiles(clients, bucket.name)
        self.kept, cache = folder / "kept", folder / "cache"
        self.kept.mkdir(mode=0o700)
        self.views = Views(files, BucketFetch(clients.s3, files, limits or IntakeLimits()), self.kept, archive)
        self.packages = Packages(cache, lambda _: None)
        portal = Portal(
            Uploads(clients, bucket.name, 64 * MIB),
            Watcher(files.store, lambda: Surroundings(Depth(0, 0), Depth(0, 0))),
            lambda study, failed: "",
            viewer=Viewer(self.views, self.packages),
        )
        self.browser = TestClient(build_app(files, Addresses(bucket.name, links=LINKS), portal), base_url=LINKS, follow_redirects=False)

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str, bytes]:
        answer = self.browser.get(path, headers={"accept": accept})
        return answer.status_code, answer.headers["content-type"], answer.content


@pytest.fixture
def look(bucket: Bucket, tmp_path: Path) -> Callable[..., Looking]:
    return lambda **options: Looking(bucket, tmp_path, **options)


@pytest.fixture
def looking(look: Callable[..., Looking]) -> Looking:
    return look()
