"""The doctor's whole visit: fetch what the settings name, and say everything that is known against it at once, before a machine starts.

Here belong fetching and the order of the examinations. What they look for is in ``maps.doctor`` (application, pins, models, settings) and
in ``golden_study``, which judges by the agent's own intake and therefore does not belong to ``maps``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.deployment import golden_study
from monai_aws_pipeline.maps import download, models
from monai_aws_pipeline.maps.doctor import SETTINGS_FILE, Examination, Plan, examine, examine_settings, resolve
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.git import Login, SourceError
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.source import checkout
from monai_aws_pipeline.settings import Settings


def consult(
    settings: Settings,
    *,
    target: Path,
    download_s3: download.S3Download | None = None,
    look_s3: download.S3Look | None = None,
    login: Callable[[], Login | None] = lambda: None,
    report: Report = lambda _: None,
) -> Examination:
    """Examine the application, the models and the golden study that the settings name. Raises nothing that is their fault.

    Args:
        settings: Where they are and how they would be built.
        target: Folder for a copy of the application; must not exist or be empty. The models go into the cache.
        download_s3: Reads ``s3:`` addresses.
        look_s3: Says whether something is there (``cloud.objects.looking_into``).
        login: Finds what opens a private repository. May raise SourceError.
        report: Told what is asked, as it goes, and at least every 10 s.
    """
    with repeating(report) as say:
        return _consult(settings, target, download_s3, look_s3, login, say)


def _consult(
    settings: Settings,
    target: Path,
    download_s3: download.S3Download | None,
    look_s3: download.S3Look | None,
    login: Callable[[], Login | None],
    say: Report,
) -> Examination:
    plan = plan_of(settings)
    say("asking whether model and golden study are still where the settings say")
    findings = _no_longer_there(settings, look_s3)
    fetched: tuple[Model, ...] = ()
    say("fetching the model, unless it is in the cache")
    try:
        fetched = models.fetch(plan.model_uri, plan.model_sha256, settings.cache_dir, download_s3=download_s3)
    except download.ModelError as error:
        findings.append(_unusable(error, plan))
    say("fetching the application")
    try:
        source = checkout(settings.app_source, settings.app_ref, settings.app_dir, target, login(), needs_app_yaml=False)
    except SourceError as error:
        return Examination((Finding("source", error.cause, error.remedy), *examine_settings(plan), *findings))
    say("reading what the application requires")
    resolved = resolve(source.path, plan, settings.cache_dir, say)
    say("examining the application's code, imports and models")
    found = examine(source, plan, fetched, resolved.installed)
    say("examining the golden study")
    golden = golden_study.examine(settings, source.path, download_s3=download_s3)
    return Examination((*found, *findings, *golden, *resolved.findings), source)


def plan_of(settings: Settings) -> Plan:
    """The settings that decide how an application is built and run."""
    return Plan(
        base_image=settings.base_image,
        collect_wheels=settings.wheelhouse == "collect",
        model_uri=settings.model_uri,
        model_sha256=settings.model_sha256,
        packager=settings.packager,
        python=settings.map_python,
        network=settings.map_network,
        gpus=settings.gpus,
        name=settings.app_source.rstrip("/").rpartition("/")[2].removesuffix(".git"),
    )


def _no_longer_there(settings: Settings, look_s3: download.S3Look | None) -> list[Finding]:
    """Addresses whose content is in the cache and that lead nowhere: this machine builds on, and the next one cannot."""
    named = [(download.GOLDEN_STUDY, settings.golden_study, settings.golden_study_sha256)]
    named.append((download.GOLDEN_REFERENCE, settings.golden_reference, settings.golden_reference_sha256))
    with suppress(download.ModelError):  # said when they are fetched
        named += [(download.MODEL, each.uri, each.sha256) for each in models.asked(settings.model_uri, settings.model_sha256)]
    findings = []
    for what, uri, sha256 in named:
        try:
            if uri and download.is_cached(what, uri, sha256, settings.cache_dir):
                download.look(what, uri, look_s3)
        except download.ModelMissingError:
            message = f"there is no {what.what} at the address in {what.uri}; this machine has it in its cache, and another one would not"
            remedy = f"Put it there again, or correct {what.uri}"
            findings.append(Finding(_point(what), message, remedy, Severity.WARNING, SETTINGS_FILE))
        except download.ModelUnreachableError as error:
            message = f"whether the {what.what} is still at the address in {what.uri} was not checked: {error}"
            findings.append(Finding(_point(what), message, "Nothing, as long as the cache holds it", Severity.INFO, SETTINGS_FILE))
        except download.ModelError:
            continue  # said when it is fetched
    return findings


def _point(what: download.Named) -> str:
    return "model" if what is download.MODEL else "golden"


def _unusable(error: download.ModelError, plan: Plan) -> Finding:
    # Of several models, the message says which one it is; the setting holds the hashes of all.
    found = error.found if isinstance(error, download.ModelAlteredError) and len(models.asked(plan.model_uri, "")) == 1 else ""
    paste = f"MONAI_AWS_MODEL_SHA256={found}" if found else ""
    return Finding("model", str(error), "Correct MONAI_AWS_MODEL_URI and MONAI_AWS_MODEL_SHA256", file=SETTINGS_FILE, paste=paste)
