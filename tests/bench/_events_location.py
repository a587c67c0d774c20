"""The code location of ``tests.bench.events``: the sensor as a deployment has it, but for the time that it waits between ticks."""

from dagster import Definitions

from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies.sensor import study_results_sensor

definitions = Definitions(
    sensors=[study_results_sensor(1)], resources={"cloud": CloudResource(region="us-east-1"), "settings": SettingsResource()}
)
