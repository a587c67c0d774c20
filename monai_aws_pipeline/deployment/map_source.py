"""map_source: the application's source, observed and never built here. Data version: its commit, or a hash of its content."""

from dagster import DataVersion, observable_source_asset

from monai_aws_pipeline.maps.source import observe
from monai_aws_pipeline.resources import SettingsResource


@observable_source_asset(
    group_name="platform", description="The MAP application's source at app_ref. Observe it to see whether map_image is behind."
)
def map_source(settings: SettingsResource) -> DataVersion:
    """Ask the git remote (or look at the folder) for what app_ref means now."""
    chosen = settings.load()
    return DataVersion(observe(chosen.app_source, chosen.app_ref))
