"""map_source: the application's source, observed and never built here. Data version: its commit, or a hash of its content.

What the lineage says of an application (title, repository, version) is here for map_image too. The sensor ``map_source_changed`` is in
``automation``; what follows from one of its looks is decided here.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

from dagster import AssetKey, AssetObservation, DataVersion, ObserveResult, observable_source_asset

from monai_aws_pipeline.deployment.lineage import DATA_VERSION_TAG
from monai_aws_pipeline.deployment.source_login import source_login
from monai_aws_pipeline.maps import source
from monai_aws_pipeline.maps.git import Login, SourceError
from monai_aws_pipeline.maps.manifest import ManifestError, read_app_config
from monai_aws_pipeline.redaction import without_login
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

KEY = AssetKey("map_source")

FIRST_PAUSE_S: Final = 60.0
LONGEST_PAUSE_S: Final = 3600.0


@observable_source_asset(
    key=KEY,
    group_name="platform",
    tags={"dagster/kind/git": ""},
    description="The MAP application's source at app_ref: its commit, or a hash of its content where the folder is outside git or holds "
    "changes. Observe it to see whether map_image is behind; the sensor map_source_changed does so every minute. It takes some seconds "
    "and costs nothing.",
)
def map_source(settings: SettingsResource) -> ObserveResult:
    """Ask the git remote (or look at the folder) for what app_ref means now."""
    seen = observation(settings.load())
    return ObserveResult(data_version=DataVersion(version_in(seen)), metadata=seen.metadata)


def observation(settings: Settings, known: str = "") -> AssetObservation:
    """What the source is now, as an event for the lineage. Raises SourceError or, for its login, CloudError.

    ``known``: a version whose title is not asked again, because nothing is recorded of it.
    """
    login = source_login(settings)
    seen = source.look(settings.app_source, settings.app_ref, login)
    title = "" if seen.version == known else title_of(settings, login)
    tags = {DATA_VERSION_TAG: seen.version}
    return AssetObservation(asset_key=KEY, description=str(seen), tags=tags, metadata=application_metadata(settings, title, seen))


def version_in(seen: AssetObservation) -> str:
    """The version that an observation has recorded."""
    return str(seen.tags[DATA_VERSION_TAG])


def application_metadata(settings: Settings, title: str, seen: source.Observed) -> dict[str, str]:
    """Which application it is and where it comes from. What is no git commit is not called one."""
    return {
        **({"application": title} if title else {}),
        "repository": without_login(settings.app_source),
        "ref": settings.app_ref,
        "content" if seen.dirty else "commit": seen.version,
    }


def title_of(settings: Settings, login: Login | None) -> str:
    """The application's title in its app.yaml, empty where that cannot be read: what is wrong with it the doctor says."""
    try:
        folder = source.folder_of(settings.app_source, settings.app_ref, settings.app_dir)
        if folder:
            return read_app_config(folder).title
        with scratch("monai-aws-title") as copy:
            copied = source.checkout(settings.app_source, settings.app_ref, settings.app_dir, copy / "source", login)
            return read_app_config(copied.path).title
    except (SourceError, ManifestError):
        return ""


@dataclass(frozen=True)
class Watched:
    """What the sensor remembers: the last version, how many it has seen, and whether a run for it is still to be started.

    ``failures``: looks that failed since; ``not_before``: when to look again (Unix time).
    """

    version: str = ""
    count: int = 0
    pending: bool = False
    failures: int = 0
    not_before: float = 0.0

    @classmethod
    def parse(cls, cursor: str | None) -> "Watched":
        """From the sensor's cursor; one that is not ours counts as nothing seen, which observes the source again and harms nobody."""
        try:
            known = json.loads(cursor or "")
            return cls(
                str(known["version"]), int(known["count"]), known["pending"] is True, int(known["failures"]), float(known["not_before"])
            )
        except (ValueError, KeyError, TypeError):
            return cls()

    def to_text(self) -> str:
        """For the cursor."""
        return json.dumps(asdict(self))

    def saw(self, version: str, starts: bool) -> "Watched":
        """After a look that came through. ``starts``: whether a change is to start a run."""
        changed = version != self.version
        return Watched(version, self.count + changed, starts and (changed or self.pending))

    def started(self) -> "Watched":
        """After a run was asked for."""
        return replace(self, pending=False)

    def missed(self, now: float) -> "Watched":
        """After a look that failed: the next one waits, each time twice as long, an hour at most."""
        pause = min(FIRST_PAUSE_S * 2**self.failures, LONGEST_PAUSE_S)
        return replace(self, failures=self.failures + 1, not_before=now + pause)

    @property
    def run_key(self) -> str:
        """One run for each change: a tick that is repeated asks for the same run, and a commit that comes back asks for another."""
        return f"{self.version}@{self.count}"
