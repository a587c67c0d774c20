"""map_image: the MONAI Application Package in ECR. Data version: the image digest.

Three ops: plan (what would be built, and is it there already), build and push (one machine's whole life: launch, SSH, source and
model, build, push, terminate), record (read back from the registry). The machine lives inside one op, because only a block that
owns it from launch to end can promise that it ends. How the image is put together is in ``maps``.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster import (
    AssetIn,
    DataVersion,
    Failure,
    In,
    MetadataValue,
    Nothing,
    OpExecutionContext,
    Out,
    Output,
    graph_asset,
    op,
)

from monai_aws_pipeline.cloud.errors import RegistryError
from monai_aws_pipeline.cloud.objects import looking_into
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import ROLE_MAP_BUILD
from monai_aws_pipeline.deployment import bill_of_materials, doctor, golden_gate, import_gate, packaging
from monai_aws_pipeline.deployment.ami import min_driver
from monai_aws_pipeline.deployment.build_machine import BUILD_POOL, build_machine, provision
from monai_aws_pipeline.deployment.host_bundle import make_bundle
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.deployment.map_source import application_metadata
from monai_aws_pipeline.deployment.source_login import asked_login, source_login
from monai_aws_pipeline.maps import build_context, golden, models, monai_deploy, requirements, source, wheelhouse
from monai_aws_pipeline.maps.doctor import Examination
from monai_aws_pipeline.maps.findings import Severity
from monai_aws_pipeline.maps.manifest import read_app_config
from monai_aws_pipeline.maps.sbom import MapImage
from monai_aws_pipeline.maps.source import Observed
from monai_aws_pipeline.maps.spec.expectation import Point
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings


@dataclass(frozen=True)
class MapPlan:
    """What is to be in the registry. ``digest`` is empty where it has to be built, from ``start`` on.

    ``golden``: what can be said of the golden study once it is there.
    """

    tag: str
    version: str
    title: str
    source: Observed
    sdk_version: str
    model_sha256: str
    machine_image: str
    digest: str = ""
    start: packaging.Start = field(default_factory=packaging.Start)
    golden: str = ""


@dataclass(frozen=True)
class BuiltMap:
    """A plan and what became of it; seconds by phase; the points of the golden gate where it was held; how the image met its imports."""

    plan: MapPlan
    reused: bool
    seconds: dict[str, float]
    golden: tuple[Point, ...] = ()
    imports: str = ""


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


@contextmanager
def working_folder(settings: Settings) -> Iterator[Path]:
    """A folder beside the cache, so that wheels and models are linked into a build context instead of copied."""
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    with scratch("build", settings.cache_dir) as folder:
        yield folder


def require_sound(examination: Examination, report: Report, warn: Report) -> source.Source:
    """The examined source. Warnings are logged; with one error or more raises Failure that lists all findings with their remedies."""
    if examination.errors or examination.source is None:
        findings = [str(finding) for finding in examination.findings]
        lines = "\n".join(f"  {finding}" for finding in findings)
        raise Failure(
            f"The application cannot be built; no build machine was started. What the doctor found (also: monai-aws doctor app):\n{lines}",
            metadata={"findings": MetadataValue.json(findings)},
            allow_retries=False,
        )
    warnings = [finding for finding in examination.findings if finding.severity is Severity.WARNING]
    for finding in examination.findings:
        (warn if finding in warnings else report)(str(finding))
    if not warnings:
        report("the doctor found nothing wrong with the application")
    return examination.source


def prepare_context(
    settings: Settings,
    clients: Clients,
    folder: Path,
    report: Report,
    *,
    examined: source.Source | None = None,
    start: packaging.Start | None = None,
) -> build_context.BuildContext:
    """Everything the image is built from, in one folder: source, model, wheels, manifests. What is cached is not fetched again.

    ``examined``: the copy of the source that the doctor has looked at, used instead of another one. ``start``: where the build will start;
    without it the context is good for its names alone, and no wheel is gathered.
    """
    checked_out = examined or source.checkout(
        settings.app_source, settings.app_ref, settings.app_dir, folder / "source", source_login(settings)
    )
    report(f"the source is {checked_out.observed}")
    fetched = models.fetch(settings.model_uri, settings.model_sha256, settings.cache_dir, download_s3=_from_s3(clients))
    gathered, wheels = "", None
    if settings.wheelhouse == "collect" and settings.packager == "layered":
        wanted = requirements.requirements_file(checked_out.path, folder / "requirements")
        gathered = wheelhouse.name_of(wanted, settings.map_python)
        if start and not start.kept:
            wheels = wheelhouse.collect(
                wanted, settings.cache_dir, settings.map_python, lambda line: report(f"{packaging.BUILD_LINE}{line}")
            )
    context = build_context.write_context(
        checked_out,
        folder / "context",
        base_image=settings.base_image,
        image_name=settings.ecr_repository,
        models=fetched,
        gathered=gathered,
        wheels=wheels,
        kept=start.kept if start else (),
        timeout_s=settings.map_timeout_s,
        golden=golden.gather(settings, checked_out.path, download_s3=_from_s3(clients)),
        packager=settings.packager,
    )
    if settings.packager == "layered" or start is None:
        return context
    monai_deploy.write_folder(context, checked_out, folder / "official", base_image=settings.base_image)
    return replace(context, path=folder / "official")


def _from_s3(clients: Clients) -> Callable[[str, str, Path], None]:
    def download(bucket: str, key: str, target: Path) -> None:
        clients.s3.download_file(bucket, key, str(target))

    return download


@op(description="What would be built from the source as it is now, and is it in the registry already?", ins={"ready": In(Nothing)})
def plan_map(context: OpExecutionContext, settings: SettingsResource, cloud: CloudResource) -> MapPlan:
    """Observe source and registry; decide."""
    with repeating(context.log.info) as report:
        report("looking at the application and at what the registry holds")
        chosen, clients = settings.load(), cloud.clients()
        with working_folder(chosen) as folder:
            seen = doctor.consult(
                chosen, target=folder / "source", download_s3=_from_s3(clients), look_s3=looking_into(clients.s3),
                login=lambda: asked_login(chosen), report=report,
            )  # fmt: skip
            sound = require_sound(seen, report, context.log.warning)
            registry = Registry(clients.ecr, chosen.ecr_repository)
            registry.ensure(chosen.deployment, chosen.owner)
            wanted = prepare_context(chosen, clients, folder, report, examined=sound)
            title = read_app_config(sound.path).title
        plan = MapPlan(
            tag=wanted.tag,
            version=wanted.version,
            title=title,
            source=sound.observed,
            sdk_version=wanted.sdk_version,
            model_sha256=wanted.model_sha256,
            golden=f"passed ({wanted.golden.study_sha256})" if wanted.golden else "",
            machine_image=materialized_version(context.instance, "gpu_ami"),
        )
        found = registry.find(tag=plan.tag)
        if found:
            golden_gate.keep(clients.s3, chosen.bucket, wanted.golden)  # the bucket may have been emptied since
            report(f"nothing changed: {plan.tag} is in the registry as {found.digest}")
            return replace(plan, digest=found.digest)
        # What is put together needs the dependencies alone; the official packager starts from nothing of ours.
        stages = {"layered": wanted.stages if wanted.golden else wanted.stages[:1]}.get(chosen.packager, ())
        start = packaging.starting_point(stages, lambda tag: kept.reference if (kept := registry.find(tag=tag)) else "")
        report(f"{plan.tag} has to be built; kept in the registry of it: {' and '.join(start.kept) or 'nothing'}")
        return replace(plan, start=start)


@op(description="Launch a build machine, build the MAP there over SSH, push it, terminate the machine.", pool=BUILD_POOL)
def build_and_push(context: OpExecutionContext, settings: SettingsResource, cloud: CloudResource, plan: MapPlan) -> BuiltMap:
    """The machine's whole life; nothing of it is left, whatever happens."""
    with repeating(context.log.info) as report:
        if plan.digest:
            return BuiltMap(plan, reused=True, seconds={})
        report("putting together what is built")
        chosen, clients = settings.load(), cloud.clients()
        repository = Registry(clients.ecr, chosen.ecr_repository).ensure(chosen.deployment, chosen.owner)
        clock = _Clock()
        with working_folder(chosen) as folder:
            prepared = prepare_context(chosen, clients, folder, report, start=plan.start)
            if prepared.tag != plan.tag:
                raise Failure(
                    f"The source changed while the build was planned ({plan.tag} became {prepared.tag}). Materialise map_image again."
                )
            clock.lap("prepare")
            with build_machine(
                clients, chosen, role=ROLE_MAP_BUILD, image=plan.machine_image, run_id=context.run_id, report=report
            ) as built:
                if chosen.ami_mode == "stock":
                    provision(built.remote, make_bundle(chosen, folder / "bundle", report, builds=True).path, min_driver(chosen), report)
                clock.lap("machine")
                build_host = packaging.BuildHost(built.remote, repository, chosen.region, chosen.build_ttl_minutes * 60, report)
                if chosen.packager == "layered" and prepared.golden is None:
                    made = _assemble(build_host, clients, chosen, prepared, plan.start, folder, clock)
                else:
                    made = _build_and_judge(build_host, clients, chosen, prepared, plan.start, folder, clock)
            clock.lap("terminate")
        if made.content:
            described = MapImage(repository, made.digest, plan.version, datetime.now(UTC))
            bill_of_materials.keep(clients.s3, chosen.bucket, described, made.content, report)
        return BuiltMap(replace(plan, digest=made.digest), reused=False, seconds=clock.laps, golden=made.points, imports=made.imports)


@dataclass(frozen=True)
class _Pushed:
    """A pushed MAP: what is in it (where a bucket keeps that), how it met its imports, and the points of its golden study."""

    digest: str
    content: dict[str, Any] | None
    imports: str
    points: tuple[Point, ...] = ()


def _assemble(
    build_host: packaging.BuildHost,
    clients: Clients,
    settings: Settings,
    prepared: build_context.BuildContext,
    start: packaging.Start,
    work: Path,
    clock: _Clock,
) -> _Pushed:
    """The MAP on top of a dependency image in the registry, which is made first where it is not there. It never lies on the machine."""
    build_host.report("no golden study is configured: the image is pushed without having answered one")
    dependencies, built = start.image.rpartition("@")[2], ""
    if not dependencies:
        packaging.send(build_host, prepared)
        clock.lap("send")
        packaging.log_in(build_host)
        built = packaging.build(build_host, prepared, start, "dependencies")
        clock.lap("build")
        # Kept also where the application's imports fail: what is corrected may be its code.
        (dependencies,) = packaging.push(build_host, [built], start).values()
        clock.lap("keep")
    gate = import_gate.Bench(build_host.remote, settings, build_host.report, work / "imports")
    imports = import_gate.hold_below(gate, clients.s3, dependencies, lambda: built or packaging.pull(build_host, dependencies), prepared)
    clock.lap("imports")
    content = None
    if settings.bucket:

        def look_into() -> dict[str, Any]:
            return bill_of_materials.inventory(build_host.remote, packaging.pull(build_host, dependencies), build_host.report)

        packages = bill_of_materials.of_dependencies(clients.s3, settings.bucket, dependencies, look_into)
        content = bill_of_materials.with_models(packages, prepared.path / "model")
        clock.lap("inventory")
    base = Registry(clients.ecr, settings.ecr_repository).parts(dependencies)
    digest = packaging.push_assembled(build_host, prepared, base, work / "image")
    clock.lap("push")
    return _Pushed(digest, content, imports)


def _build_and_judge(
    build_host: packaging.BuildHost,
    clients: Clients,
    settings: Settings,
    prepared: build_context.BuildContext,
    start: packaging.Start,
    work: Path,
    clock: _Clock,
) -> _Pushed:
    """The MAP as an image on the machine, pushed when it has answered the golden study."""
    packaging.send(build_host, prepared)
    clock.lap("send")
    packaging.log_in(build_host)
    layered = settings.packager == "layered"
    candidate = packaging.build(build_host, prepared, start) if layered else packaging.build_officially(build_host, settings, prepared)
    clock.lap("build")
    # The image is on the machine and nowhere else: what cannot make its imports, or does not answer the golden study, is not pushed.
    try:
        gate = import_gate.Bench(build_host.remote, settings, build_host.report, work / "imports")
        imports = import_gate.hold(gate, candidate, prepared)
        clock.lap("imports")
        judged = golden_gate.hold(build_host.remote, candidate, prepared.golden, settings, work / "golden", build_host.report)
    except Failure:
        if layered:
            # So that the next run builds nothing again where the expectation, the model or the application's own code is corrected.
            packaging.keep(build_host, prepared, start)
        raise
    golden_gate.keep(clients.s3, settings.bucket, prepared.golden)
    clock.lap("golden")
    content = bill_of_materials.inventory(build_host.remote, candidate, build_host.report) if settings.bucket else None
    clock.lap("inventory")
    stages = packaging.name_stages(build_host, prepared, start) if layered else []
    digests = packaging.push(build_host, [candidate, *stages], start)
    clock.lap("push")
    return _Pushed(digests[prepared.tag], content, f"passed ({imports})", judged.points if judged else ())


@op(description="Read the pushed image back from the registry and record it.", out=Out(Nothing))
def record_map(settings: SettingsResource, cloud: CloudResource, built: BuiltMap) -> Output[None]:
    """The registry's word is recorded, not the build's."""
    chosen, clients = settings.load(), cloud.clients()
    image: PushedImage = Registry(clients.ecr, chosen.ecr_repository).require(tag=built.plan.tag)
    if image.digest != built.plan.digest:
        raise RegistryError(
            f"{built.plan.tag} is {image.digest} in the registry, but {built.plan.digest} was pushed.",
            "Someone else pushed that tag; build again.",
        )
    sbom = bill_of_materials.find(clients.s3, chosen.bucket, image.digest)
    metadata: dict[str, str | int | float | MetadataValue] = {
        "digest": image.digest,
        "image": image.reference,
        "tag": built.plan.tag,
        "app_version": built.plan.version,
        "sdk_version": built.plan.sdk_version,
        **application_metadata(chosen, built.plan.title, built.plan.source),
        "model_sha256": built.plan.model_sha256 or "no model file",
        "bytes_compressed": image.bytes,
        "pushed_at": image.pushed_at,
        "built_on": built.plan.machine_image,
        "packager": chosen.packager,
        "reused": MetadataValue.bool(built.reused),
        "stages_reused": ", ".join(built.plan.start.kept) or "none",
        "sbom": MetadataValue.md(Addresses.of(chosen).s3_link(sbom.key)) if sbom else "none",
        **{f"sbom_{kind}": count for kind, count in (sbom.counts if sbom else {}).items()},
        "golden": built.plan.golden or "none",
        **({"imports": built.imports} if built.imports else {}),
        **({"golden_points": golden_gate.table(built.golden)} if built.golden else {}),
        **{f"seconds_{phase}": seconds for phase, seconds in built.seconds.items()},
    }
    return Output(None, data_version=DataVersion(image.digest), metadata=metadata)


@graph_asset(
    ins={"map_source": AssetIn(dagster_type=Nothing), "gpu_ami": AssetIn(dagster_type=Nothing)},
    group_name="platform",
    kinds={"docker"},
    description="The MONAI Application Package (MAP) in ECR, built over SSH on a machine that exists only for that. Materialise it after "
    "a change of application or model; what is in the registry already is found within seconds and not built again. A build of the "
    "example took 45 to 110 s on the embedded AWS, where it is free; on AWS, where nobody has measured it, it costs the machine's time "
    "(g4dn.xlarge: 0.53 USD an hour) and 0.10 USD a month for each GB that is kept.",
)
def map_image(map_source, gpu_ami):  # type: ignore[no-untyped-def]
    """Plan, build and push, record."""
    return record_map(build_and_push(plan_map([map_source, gpu_ami])))
