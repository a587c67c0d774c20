"""The one place Dagster loads: assets, jobs, schedules, sensors and resources put together.

``build_defs`` is used by production, tests and the demo alike; they differ in settings and in what they override.
See https://docs.dagster.io/guides/build/projects-and-components
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Definitions, in_process_executor
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline import automation
from monai_aws_pipeline.deployment.ami import code_version, gpu_ami
from monai_aws_pipeline.deployment.ami_checks import machine_starts
from monai_aws_pipeline.deployment.inference_host import inference_host
from monai_aws_pipeline.deployment.lineage import with_code_version
from monai_aws_pipeline.deployment.live_map import live_map, live_map_changed, rollback_map
from monai_aws_pipeline.deployment.map_checks import map_conformance, map_vulnerabilities
from monai_aws_pipeline.deployment.map_image import map_image
from monai_aws_pipeline.deployment.map_source import map_source
from monai_aws_pipeline.deployment.s3_trigger import s3_trigger
from monai_aws_pipeline.notifications import notifications
from monai_aws_pipeline.pages import with_pages
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Settings, load_settings
from monai_aws_pipeline.studies.archive_sensor import archived_studies_sensor
from monai_aws_pipeline.studies.archived_study import archived, archived_study
from monai_aws_pipeline.studies.call_back import call_back_studies
from monai_aws_pipeline.studies.checks import result_checks
from monai_aws_pipeline.studies.checks_sensor import study_checks_sensor
from monai_aws_pipeline.studies.failures import unanswered_studies
from monai_aws_pipeline.studies.inference_result import inference_result
from monai_aws_pipeline.studies.rerun_job import rerun_studies
from monai_aws_pipeline.studies.sensor import study_results_sensor
from monai_aws_pipeline.studies.studies_by_day import studies_by_day
from monai_aws_pipeline.studies.studies_by_map import studies_by_map
from monai_aws_pipeline.studies.study_window import study_window


def build_defs(settings: Settings | None = None, resource_overrides: Mapping[str, Any] | None = None) -> Definitions:
    """Assemble everything. Touches no network. Raises SettingsError when a setting is wrong."""
    chosen = settings or load_settings()
    resources: dict[str, Any] = {
        "settings": SettingsResource(),
        "cloud": CloudResource(region=chosen.region),
        "s3": S3Resource(region_name=chosen.region),
    }
    defined = Definitions(
        assets=[
            map_source,
            gpu_ami,
            map_image,
            live_map,
            inference_host,
            s3_trigger,
            inference_result,
            unanswered_studies,
            studies_by_map,
            studies_by_day,
            archived_study,
        ],
        asset_checks=[machine_starts, map_conformance, map_vulnerabilities, result_checks, archived],
        jobs=[
            automation.build_map,
            automation.promote_map,
            automation.release_map,
            rollback_map,
            automation.deploy_inference,
            automation.replace_hosts,
            automation.deploy_all,
            rerun_studies,
            call_back_studies,
            automation.sweep_orphans,
            automation.teardown,
        ],
        schedules=automation.schedules(chosen),
        sensors=[
            study_results_sensor(chosen.results_interval_s),
            study_checks_sensor(chosen.results_interval_s),
            study_window,
            archived_studies_sensor(chosen.results_interval_s),
            automation.map_source_changed,
            live_map_changed,
            automation.run_cleanup,
            automation.hosts_to_replace,
            notifications,
        ],
        executor=in_process_executor,  # a process start costs seconds, and a machine's life must not span processes
        resources=resources | dict(resource_overrides or {}),
    )
    return with_pages(with_code_version(defined, gpu_ami.key, code_version(chosen)), chosen)


defs = build_defs()
