"""All routes of the viewers, as the application takes them in."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import Route

from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.viewer.dicomweb import DicomWebRoutes
from monai_aws_pipeline.portal.viewer.packages import Packages
from monai_aws_pipeline.portal.viewer.pages import ViewerPages
from monai_aws_pipeline.portal.viewer.views import Views


@dataclass(frozen=True)
class Viewer:
    """The studies that are looked at, and the viewers' files."""

    views: Views
    packages: Packages

    def routes(self, files: StudyFiles) -> list[Route]:
        """Pages, files and DICOMweb."""
        return [*ViewerPages(files, self.views, self.packages).routes(), *DicomWebRoutes(self.views).routes()]
