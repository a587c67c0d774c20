"""The doctor's whole visit: fetch what the settings name, and say everything that is known against it at once, before a machine starts.

Here belong fetching and the order of the examinations. What they look for is in ``maps.doctor`` (application, pins, model, settings) and in
``golden_study``, which judges by the agent's own intake and therefore does not belong to ``maps``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.deployment import golden_study
from monai_aws_pipeline.maps import model
from monai_aws_pipeline.maps.doctor import Examination, Plan, examine, examine_settings, resolve
from monai_aws_pipeline.maps.findings import Finding
from monai_aws_pipeline.maps.git import Login, SourceError
from monai_aws_pipeline.maps.source import checkout
from monai_aws_pipeline.settings import Settings


def consult(
    settings: Settings,
    *,
    target: Path,
    download_s3: model.S3Download | None = None,
    login: Callable[[], Login | None] = lambda: None,
    report: Report = lambda _: None,
) -> Examination:
    """Examine the application, the model and the golden study that the settings name. Raises nothing that is their fault.

    Args:
        settings: Where they are and how they would be built.
        target: Folder for a copy of the application; must not exist or be empty. The model goes into the cache.
        download_s3: Reads ``s3:`` addresses.
        login: Finds what opens a private repository. May raise SourceError.
        report: Told what takes its time.
    """
    plan = Plan(
        settings.base_image, settings.wheelhouse == "collect", settings.model_uri, settings.model_sha256, settings.packager,
        settings.map_python,
    )  # fmt: skip
    findings: list[Finding] = []
    model_file = None
    if plan.model_uri:
        try:
            model_file = model.fetch_model(plan.model_uri, plan.model_sha256, settings.cache_dir, download_s3=download_s3)
        except model.ModelError as wrong:
            findings.append(Finding("model", str(wrong), "Correct MONAI_AWS_MODEL_URI and MONAI_AWS_MODEL_SHA256"))
    try:
        source = checkout(settings.app_source, settings.app_ref, settings.app_dir, target, login())
    except SourceError as wrong:
        return Examination((Finding("source", wrong.cause, wrong.remedy), *examine_settings(plan), *findings))
    findings += golden_study.examine(settings, source.path, download_s3=download_s3)
    findings += resolve(source.path, plan, settings.cache_dir, report)
    return Examination((*examine(source, plan, model_file), *findings), source)
