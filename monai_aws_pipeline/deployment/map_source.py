"""map_source: the application's source, observed and never built here. Data version: its commit, or a hash of its content."""

from dagster import (
    AssetKey,
    AssetObservation,
    DataVersion,
    DefaultSensorStatus,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    observable_source_asset,
    sensor,
)

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.deployment.source_login import source_login
from monai_aws_pipeline.maps.git import SourceError
from monai_aws_pipeline.maps.source import observe
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.settings import Settings

KEY = AssetKey("map_source")


@observable_source_asset(
    key=KEY, group_name="platform", description="The MAP application's source at app_ref. Observe it to see whether map_image is behind."
)
def map_source(settings: SettingsResource) -> DataVersion:
    """Ask the git remote (or look at the folder) for what app_ref means now."""
    chosen = settings.load()
    return DataVersion(observe(chosen.app_source, chosen.app_ref, source_login(chosen)))


def observation(settings: Settings) -> AssetObservation:
    """What the source is now, as an event for the lineage. Raises SourceError or, for its login, CloudError."""
    version = observe(settings.app_source, settings.app_ref, source_login(settings))
    return AssetObservation(asset_key=KEY, tags={"dagster/data_version": version}, metadata={"commit": version, "ref": settings.app_ref})


@sensor(
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Records a new commit of the source, so that the lineage shows a map_image that is behind. Starts no run.",
)
def map_source_changed(context: SensorEvaluationContext, settings: SettingsResource) -> SensorResult | SkipReason:
    """Compare the source with the last tick's."""
    try:
        seen = observation(settings.load())
    except (SourceError, CloudError) as error:
        return SkipReason(f"The source could not be looked at: {error}")
    version = str(seen.tags["dagster/data_version"])
    if version == context.cursor:
        return SkipReason(f"The source is still at {version[:7]}.")
    return SensorResult(asset_events=[seen], cursor=version)
