"""The code location of ``tests.bench.events``: the sensor as a deployment has it, but for the time that it waits between ticks."""

from dagster import Definitions
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.sensor import study_results_sensor

definitions = Definitions(
    sensors=[study_results_sensor(1)], resources={"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource()}
)
