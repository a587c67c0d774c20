"""What the page of a definition in Dagster says beside its own words: who answers for it, what it costs, where its code and its guide are.

Here belong the guide of each definition and the way a link takes; what a definition makes, when to run it, how long that takes and what it
costs is its description, where it is defined. ``tests/unit/test_pages.py`` holds that no definition goes without any of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final

from dagster import (
    AssetsDefinition,
    AssetSpec,
    CodeReferencesMetadataValue,
    Definitions,
    JobDefinition,
    LocalFileCodeReference,
    MetadataValue,
    ScheduleDefinition,
    SensorDefinition,
    SourceAsset,
    TableColumn,
    TableRecord,
    TableSchema,
    UrlCodeReference,
)
from dagster._core.definitions.external_asset import create_external_asset_from_source_asset
from dagster._core.definitions.metadata.source_code import CodeReferencesMetadataSet
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.definitions.utils import is_valid_owner

from monai_aws_pipeline.metadata_keys import KEYS
from monai_aws_pipeline.settings import PACKAGE_ROOT, PROJECT_ROOT, Settings

DOCS: Final = PROJECT_ROOT / "docs"
COSTS_TAG: Final = "monai-aws/costs"
Job = JobDefinition | UnresolvedAssetJobDefinition


class Costs(StrEnum):
    """What running something costs on AWS: the time of a machine, storage or calls below a dollar a month, or nothing."""

    MACHINE = "machine-time"
    SMALL = "small-change"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Page:
    """``guide``: the page below docs/ that says more, and its heading, as a link does; ``costs``: for whoever is about to click."""

    guide: str
    costs: Costs

    @property
    def file(self) -> Path:
        """The guide as a file of this clone."""
        return DOCS / self.guide.partition("#")[0]


PAGES: Final[Mapping[str, Page]] = {
    # assets
    "map_source": Page("your-own-model.md#1-the-application-folder", Costs.NOTHING),
    "gpu_ami": Page("operations.md#the-machine-image", Costs.MACHINE),
    "map_image": Page("building.md#three-layers", Costs.MACHINE),
    "live_map": Page("architecture.md#which-map-is-live", Costs.MACHINE),
    "inference_host": Page("hosting.md#how-the-map-is-hosted", Costs.MACHINE),
    "s3_trigger": Page("architecture.md#the-way-of-a-study", Costs.SMALL),
    "inference_result": Page("operations.md#re-runs", Costs.MACHINE),
    "unanswered_studies": Page("operations.md#in-the-morning", Costs.NOTHING),
    "studies_by_map": Page("operations.md#in-the-morning", Costs.NOTHING),
    "studies_by_day": Page("operations.md#older-studies", Costs.SMALL),
    "archived_study": Page("archive.md#what-is-stored", Costs.SMALL),
    # checks
    "machine_starts": Page("operations.md#the-machine-image", Costs.MACHINE),
    "map_conformance": Page("golden.md#what-else-is-known-of-an-image", Costs.NOTHING),
    "map_vulnerabilities": Page("golden.md#what-else-is-known-of-an-image", Costs.NOTHING),
    "answered": Page("operations.md#in-the-morning", Costs.NOTHING),
    "outputs_valid": Page("operations.md#in-the-morning", Costs.NOTHING),
    "geometry_on_source": Page("operations.md#in-the-morning", Costs.NOTHING),
    "mesh_agrees": Page("operations.md#in-the-morning", Costs.NOTHING),
    "plausible_volume": Page("operations.md#in-the-morning", Costs.NOTHING),
    "within_time_and_cost": Page("operations.md#in-the-morning", Costs.NOTHING),
    "by_live_map": Page("operations.md#in-the-morning", Costs.NOTHING),
    "archived": Page("archive.md#not-archived", Costs.NOTHING),
    # jobs
    "build_map": Page("building.md#however-it-ends", Costs.MACHINE),
    "promote_map": Page("operations.md#monai-aws-promote-map", Costs.MACHINE),
    "release_map": Page("architecture.md#when-the-source-changes", Costs.MACHINE),
    "rollback_map": Page("operations.md#a-new-map-answers-wrongly", Costs.NOTHING),
    "deploy_inference": Page("hosting.md#one-map-at-a-time", Costs.MACHINE),
    "replace_hosts": Page("operations.md#monai-aws-hosts-replace-host", Costs.MACHINE),
    "deploy_all": Page("aws.md#3-run", Costs.MACHINE),
    "rerun_studies": Page("operations.md#re-runs", Costs.MACHINE),
    "call_back_studies": Page("operations.md#older-studies", Costs.NOTHING),
    "sweep_orphans": Page("operations.md#machines-that-should-not-be-there", Costs.NOTHING),
    "teardown": Page("operations.md#monai-aws-teardown", Costs.NOTHING),
    # schedules
    "scheduled_map_rebuild": Page("building.md#the-same-again", Costs.MACHINE),
    "scheduled_ami_refresh": Page("operations.md#the-machine-image", Costs.MACHINE),
    "scheduled_orphan_sweep": Page("operations.md#machines-that-should-not-be-there", Costs.NOTHING),
    # sensors
    "study_results": Page("architecture.md#how-results-reach-the-lineage", Costs.NOTHING),
    "study_checks": Page("operations.md#in-the-morning", Costs.NOTHING),
    "archived_studies": Page("archive.md#not-archived", Costs.NOTHING),
    "study_window": Page("operations.md#older-studies", Costs.NOTHING),
    "notifications": Page("operations.md#notifications", Costs.SMALL),
    "map_source_changed": Page("architecture.md#when-the-source-changes", Costs.MACHINE),
    "live_map_changed": Page("architecture.md#which-map-is-live", Costs.NOTHING),
    "run_cleanup": Page("operations.md#machines-that-should-not-be-there", Costs.NOTHING),
    "hosts_to_replace": Page("operations.md#monai-aws-hosts-replace-host", Costs.MACHINE),
}


@dataclass(frozen=True)
class Place:
    """A line of a file of this project."""

    file: Path
    line: int

    @property
    def path(self) -> str:
        """From the project's folder on."""
        return self.file.relative_to(PROJECT_ROOT).as_posix()


def with_pages(defined: Definitions, settings: Settings) -> Definitions:
    """Definitions with owner, cost, code and guide on each; one that has no page in the table is left as it is."""
    pages = _Pages(settings)
    jobs = {job.name: pages.job(job) for job in defined.jobs or ()}
    return Definitions(
        assets=[pages.asset(each) for each in defined.assets or ()],
        asset_checks=[pages.checks(each) for each in defined.asset_checks or ()],
        jobs=list(jobs.values()),
        schedules=[pages.schedule(each, jobs) for each in defined.schedules or ()],
        sensors=[pages.sensor(each, jobs) for each in defined.sensors or ()],
        resources=defined.resources,
        executor=defined.executor,
    )


class _Pages:
    """Each kind of definition with what belongs on its page."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def owner(self) -> str:
        """The setting, as Dagster takes owners: an address for mail, or a team."""
        owner = self._settings.owner
        return owner if is_valid_owner(owner) else f"team:{owner}"

    def asset(self, asset: Any) -> AssetsDefinition:
        """An asset; an observable source becomes what Dagster makes of it anyway, because only that has an owner."""
        whole = create_external_asset_from_source_asset(asset) if isinstance(asset, SourceAsset) else asset
        made: AssetsDefinition = self.checks(whole).map_asset_specs(self._spec)
        return made

    def checks(self, definition: Any) -> Any:
        """What defines asset checks."""
        attributes = definition.get_attributes_dict()
        specs = {
            output: spec.with_metadata({**(spec.metadata or {}), **self.links(spec.name)})
            for output, spec in attributes["check_specs_by_output_name"].items()
        }
        if not specs:
            return definition
        return definition.__class__.dagster_internal_init(**{**attributes, "check_specs_by_output_name": specs})

    def job(self, job: Any) -> Job:
        """A job."""
        made: Job = job.with_metadata({**(job.metadata or {}), **self.links(job.name)})
        return made

    def schedule(self, schedule: Any, jobs: Mapping[str, Job]) -> ScheduleDefinition:
        """A schedule, with the job that it starts as it is in ``jobs``: Dagster takes no two of one name."""
        metadata = {**(schedule.metadata or {}), **self.links(schedule.name)}
        made: ScheduleDefinition = schedule.with_attributes(job=jobs.get(schedule.job_name), metadata=metadata)
        return made

    def sensor(self, sensor: Any, jobs: Mapping[str, Job]) -> SensorDefinition:
        """A sensor, likewise."""
        started = [jobs.get(job.name, job) for job in sensor.jobs] if sensor.has_jobs else None
        metadata = {**(sensor.metadata or {}), **self.links(sensor.name)}
        made: SensorDefinition = sensor.with_attributes(jobs=started, metadata=metadata)
        return made

    def links(self, name: str) -> dict[str, Any]:
        """Metadata of the definition with a name: owner, guide, code."""
        page, place = PAGES.get(name), code_of(name)
        if page is None or place is None:
            return {}
        return {
            "owner": self.owner,
            COSTS_TAG: page.costs.value,
            "guide": self._link(heading_of(page.guide) or Place(page.file, 1), page.guide.partition("#")[2]),
            "code": self._link(place, f"L{place.line}"),
        }

    def _spec(self, spec: AssetSpec) -> AssetSpec:
        name = spec.key.to_user_string()
        links, page = self.links(name), PAGES.get(name)
        if not links or page is None:
            return spec
        about = {"guide": links["guide"], "metadata_keys": _key_table(name)}
        return spec.merge_attributes(
            owners=[self.owner], tags={COSTS_TAG: page.costs.value}, metadata={**about, **self._code_references(name, page)}
        )

    def _code_references(self, name: str, page: Page) -> CodeReferencesMetadataSet:
        """For the asset's page, which opens them in an editor, or on the web where the code is there too."""
        places = {"code": code_of(name), "guide": heading_of(page.guide)}
        references = [
            UrlCodeReference(url=f"{self._settings.code_url}/{place.path}#L{place.line}", label=label)
            if self._settings.code_url
            else LocalFileCodeReference(file_path=str(place.file), line_number=place.line, label=label)
            for label, place in places.items()
            if place
        ]
        return CodeReferencesMetadataSet(code_references=CodeReferencesMetadataValue(code_references=references))

    def _link(self, place: Place, anchor: str) -> MetadataValue[Any]:
        """An address where the setting names one, else file and line on Dagster's machine, to copy into an editor."""
        if self._settings.code_url:
            return MetadataValue.url(f"{self._settings.code_url}/{place.path}#{anchor}")
        return MetadataValue.path(f"{place.file}:{place.line}")


def _key_table(asset: str) -> MetadataValue[Any]:
    columns = [TableColumn("key"), TableColumn("meaning"), TableColumn("unit")]
    rows = [TableRecord({"key": name, "meaning": key.meaning, "unit": key.unit}) for name, key in KEYS.get(asset, {}).items()]
    return MetadataValue.table(rows, TableSchema(columns=columns))


@cache
def code_of(name: str) -> Place | None:
    """Where a definition is made: its function, the call that is given its name, or the constant with its name; None where none is."""
    # A function's own line before a call: what is only mentioned by its name is defined elsewhere.
    made = (
        rf"^ *def {name}\((?!self)",
        rf"^{name} = \w+\(",
        rf'\bname="{name}"',
        rf'\bkey=(?:AssetKey\()?"{name}"',
        rf'^[A-Z_]+: Final = "{name}"$',
    )
    for pattern in made:
        for file in _sources():
            if found := re.search(pattern, _text(file), re.MULTILINE):
                return Place(file, _text(file).count("\n", 0, found.start()) + 1)
    return None


def _sources() -> list[Path]:
    """Where definitions are made."""
    rooms = [path for room in ("deployment", "studies", "operations") for path in sorted((PACKAGE_ROOT / room).glob("*.py"))]
    return [*rooms, *sorted(PACKAGE_ROOT.glob("*.py"))]


@cache
def _text(file: Path) -> str:
    return file.read_text("utf-8")


def heading_of(guide: str) -> Place | None:
    """The line of a guide's heading; None where there is none of that name."""
    name, _, anchor = guide.partition("#")
    file = DOCS / name
    lines = _text(file).splitlines() if file.is_file() else []
    return next((Place(file, number) for number, line in enumerate(lines, 1) if line.startswith("#") and anchor_of(line) == anchor), None)


def anchor_of(heading: str) -> str:
    """How a link names a heading, as GitHub and GitLab make it."""
    kept = re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower())
    return kept.replace(" ", "-")
