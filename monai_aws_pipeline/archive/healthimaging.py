"""HealthImaging as an archive: DICOMweb signed by SigV4, and its image sets, of which DICOMweb shows the primary ones only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from .dicomweb import DicomWebArchive
from .errors import ArchiveAccessError, ArchiveAwayError, ArchiveRefusalError
from .signing import SigV4, healthimaging_address


@dataclass(frozen=True)
class ImageSet:
    """One image set of a series."""

    id: str
    is_primary: bool


class HealthImagingArchive(DicomWebArchive):
    """One data store. ``client``: boto3's ``medical-imaging``; its retries are for the image sets, ours for DICOMweb."""

    kind = "healthimaging"

    def __init__(self, client: Any, datastore: str, credentials: Any, **options: Any) -> None:
        super().__init__(healthimaging_address(client, datastore), SigV4(credentials, client.meta.region_name), **options)
        self._client, self.datastore = client, datastore

    def present(self, study: str, series: str) -> set[str]:
        """What the series has, hidden instances too: they would be stored a second time otherwise."""
        found = super().present(study, series)
        for each in self.image_sets(series):
            if not each.is_primary:
                shown = self._read_json(f"/studies/{study}/series/{series}/metadata", {"imageSetId": each.id})
                found |= {str(item["00080018"]["Value"][0]) for item in shown}
        return found

    def image_sets(self, series: str) -> list[ImageSet]:
        """All image sets of a series. Raises ArchiveError."""
        return self._searched({"DICOMSeriesInstanceUID": series})

    def image_sets_of_study(self, study: str) -> list[ImageSet]:
        """All image sets of a study, primary or not. Raises ArchiveError."""
        return self._searched({"DICOMStudyInstanceUID": study})

    def _searched(self, value: dict[str, str]) -> list[ImageSet]:
        criteria = {"filters": [{"values": [value], "operator": "EQUAL"}]}
        try:
            pages = self._client.get_paginator("search_image_sets").paginate(datastoreId=self.datastore, searchCriteria=criteria)
            found = [each for page in pages for each in page["imageSetsMetadataSummaries"]]
        except ClientError as error:
            code = error.response["Error"]["Code"]
            said = f"HealthImaging answers {code} to SearchImageSets."
            if "Denied" in code:
                raise ArchiveAccessError(said, "Allow medical-imaging:SearchImageSets on the data store.") from None
            if code in ("ThrottlingException", "InternalServerException"):
                raise ArchiveAwayError(said) from None
            raise ArchiveRefusalError(said, "Check the data store's id and its region.") from None
        except BotoCoreError as error:
            raise ArchiveAwayError(f"HealthImaging cannot be reached ({type(error).__name__}).") from None
        return [ImageSet(each["imageSetId"], bool(each.get("isPrimary", True))) for each in found]
