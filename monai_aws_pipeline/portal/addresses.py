"""The addresses that are written into the lineage: where a study's page, its files and its folder in S3 open. Pure: no I/O.

The routes behind them are in ``app``. An address names a study by its pseudonym and a job by its hash, and nothing else.
Source of the console's addresses: IAM User Guide, "Sign in to the AWS Management Console", by partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from monai_aws_pipeline.settings import Settings

PREVIEW_FILE: Final = "preview.png"
LINEAGE_WIDTH: Final = 600
LINEAGE_PREVIEW_FILE: Final = f"preview-{LINEAGE_WIDTH}.png"
"""The same at a width that Dagster's page of a partition does not cut, on a screen of 1,400 pixels."""
RECORD_FILE: Final = "result.json"
LOG_FILE: Final = "map.log"
ORIGINAL_FOLDER: Final = "original"


@dataclass(frozen=True)
class Addresses:
    """Where things of one deployment open. ``links``: our own pages, ``console``: AWS's, ``ui``: Dagster's; empty where there is none."""

    bucket: str
    region: str = ""
    links: str = ""
    console: str = ""
    ui: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Addresses:
        """As the settings have them."""
        console = _console(settings.region) if settings.console_url == "auto" else settings.console_url
        return cls(settings.bucket, settings.region, settings.links_url, console, settings.ui_address.rstrip("/"))

    def page(self, study: str, job: str) -> str:
        """The page of one job's answer to a study, or of a job that ended before its study was known; empty without links."""
        return f"{self.links}{path_of(study, job)}" if self.links else ""

    def viewer(self, study: str, job: str) -> str:
        """Where an answer opens in the viewer, its segmentation laid over the images; empty without links, or where it is no study's."""
        return f"{self.links}{viewer_path(study, job)}" if self.links and study else ""

    def volume(self, study: str, job: str) -> str:
        """Where it opens in 3D; empty like the viewer's."""
        return f"{self.links}{volume_path(study, job)}" if self.links and study else ""

    def day(self, day: str) -> str:
        """The page of everything that was committed on a day, named ``YYYY-MM-DD``; empty without links."""
        return f"{self.links}/days/{day}/" if self.links else ""

    def in_console(self, folder: str) -> str:
        """The folder of a key prefix in the S3 console; empty without one."""
        if not self.console:
            return ""
        query = urlencode({"region": self.region, "prefix": folder, "showversions": "false"}, safe="/", quote_via=quote)
        return f"{self.console}/s3/buckets/{self.bucket}?{query}"

    def lineage(self, study: str) -> str:
        """What happened to a study in Dagster's UI; empty without one, or where the study is not known."""
        return f"{self.ui}{study_path(study)}" if self.ui and study else ""

    def s3(self, key: str) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{key}"

    def s3_link(self, key: str) -> str:
        """The same as Markdown that opens its folder in the S3 console; as it is without one."""
        console = self.in_console(key.rpartition("/")[0] + "/")
        return f"[{self.s3(key)}]({console})" if console else self.s3(key)


def study_path(study: str) -> str:
    """The path within Dagster's UI of what happened to a study: its partition alone shows nothing of one that has no answer."""
    return f"/assets/inference_result?{urlencode({'view': 'events', 'partition': study})}"


def path_of(study: str, job: str) -> str:
    """The path of a page, which ends with a slash: the files of a job lie below it. Without a job: of all answers to the study."""
    return f"/{'/'.join(['studies', study, job] if study else ['jobs', job])}/".replace("//", "/")


def viewer_path(study: str, job: str) -> str:
    """The path of an answer in the viewer."""
    return f"/viewer/{study}/{job}/"


def volume_path(study: str, job: str) -> str:
    """The path of an answer in 3D."""
    return f"/3d/{study}/{job}/"


def _console(region: str) -> str:
    if region.startswith("cn-"):
        return "https://console.amazonaws.cn"
    if region.startswith("us-gov-"):
        return "https://console.amazonaws-us-gov.com"
    return f"https://{region}.console.aws.amazon.com"
