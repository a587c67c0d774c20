"""A data store of the embedded HealthImaging, and invented studies to put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from monai_aws_pipeline.archive.conflicts import ArchiveFile, read_file
from monai_aws_pipeline.archive.dicomweb import Patience
from monai_aws_pipeline.archive.healthimaging import HealthImagingArchive
from tests.integration.local_cloud.conftest import Account, unique
from tests.unit.local_cloud.dicom import write, write_binary_seg

QUICK = Patience(tries=4, first=0.01, longest=0.05)
FACTS = {"StudyID": "", "AccessionNumber": "A1"}


def study_files(folder: Path, images: int = 20) -> list[ArchiveFile]:
    """A study of so many images, and its segmentation."""
    paths = [write(folder / f"{n}.dcm", SOPInstanceUID=f"1.2.3.1.{n}", InstanceNumber=n, **FACTS) for n in range(1, images + 1)]
    seg = write_binary_seg(folder / "seg.dcm", SOPInstanceUID="1.2.3.2.1", **FACTS)
    return [*(read_file(path, is_result=False) for path in paths), read_file(seg, is_result=True)]


class Store:
    """An active data store, and archives on it as anybody's."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.client, _ = self._session(None)
        self.id = str(self.client.create_datastore(datastoreName=unique("archive"))["datastoreId"])
        for _ in range(2):
            self.client.get_datastore(datastoreId=self.id)

    def _session(self, keys: tuple[str, str, str] | None) -> tuple[Any, Any]:
        access, secret, token = keys or (*self.account.admin_keys(), None)
        session = boto3.Session(aws_access_key_id=access, aws_secret_access_key=secret, aws_session_token=token, region_name="us-east-1")
        config = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
        return session.client("medical-imaging", endpoint_url=self.account.cloud.endpoint, config=config), session.get_credentials()

    def archive(self, keys: tuple[str, str, str] | None = None) -> HealthImagingArchive:
        client, credentials = self._session(keys)
        return HealthImagingArchive(client, self.id, credentials, patience=QUICK)
