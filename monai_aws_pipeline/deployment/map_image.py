"""map_image: the MONAI Application Package in ECR. Data version: the image digest.

Three ops: plan (what would be built, and is it there already), build and push (one machine's whole life: launch, SSH, source and
model, build, push, terminate), record (read back from the registry). The machine lives inside one op, because only a block that
owns it from launch to end can promise that it ends. How the image is put together is in ``maps``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dagster import (
    AssetIn,
    Config,
    DataVersion,
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
from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.contract import ROLE_MAP_BUILD
from monai_aws_pipeline.deployment.ami import min_driver
from monai_aws_pipeline.deployment.build_machine import build_machine, provision
from monai_aws_pipeline.deployment.host_bundle import make_bundle
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.maps import build_context, source
from monai_aws_pipeline.resources import CloudResource, SettingsResource

CONTEXT_FOLDER = "/tmp/monai-aws-build"  # noqa: S108  # on a machine that is ours alone
# Login tokens of the registry live in memory only and never in an image: this folder is a tmpfs on every systemd machine.
DOCKER_CONFIG = "/run/monai-aws-docker"
LOGIN_TOKEN = (
    "import base64,boto3,sys;"
    "d=boto3.client('ecr',region_name=sys.argv[1]).get_authorization_token()['authorizationData'][0];"
    "sys.stdout.write(base64.b64decode(d['authorizationToken']).decode().partition(':')[2])"
)

Report = Callable[[str], None]

BUILD_LINE = "│ "  # marks what another program printed, so that a reader of the log can tell it from our own words


class BuildMapConfig(Config):
    """``rebuild``: build and push although an image of the same content is there."""

    rebuild: bool = False


@dataclass(frozen=True)
class MapPlan:
    """What is to be in the registry. ``digest`` is empty where it has to be built."""

    tag: str
    version: str
    commit: str
    content: str
    model_sha256: str
    machine_image: str
    digest: str = ""


@dataclass(frozen=True)
class BuiltMap:
    """A plan and what became of it; seconds by phase."""

    plan: MapPlan
    reused: bool
    seconds: dict[str, float]


@op(description="What would be built from the source as it is now, and is it in the registry already?", ins={"ready": In(Nothing)})
def plan_map(context: OpExecutionContext, config: BuildMapConfig, settings: SettingsResource, cloud: CloudResource) -> MapPlan:
    """Observe source and registry; decide."""
    chosen, clients = settings.load(), cloud.clients()
    registry = Registry(clients.ecr, chosen.ecr_repository)
    registry.ensure(chosen.deployment, chosen.owner)
    with tempfile.TemporaryDirectory(prefix="monai-aws-source-") as folder:
        checked_out = source.checkout(chosen.app_source, chosen.app_ref, chosen.app_dir, Path(folder))
        inputs = build_context.inputs(checked_out, chosen.base_image, chosen.model_sha256, chosen.packager, chosen.map_python)
    plan = MapPlan(
        tag=inputs.tag,
        version=inputs.version,
        commit=inputs.commit,
        content=inputs.content_hash,
        model_sha256=chosen.model_sha256,
        machine_image=materialized_version(context, "gpu_ami"),
    )
    found = registry.find(tag=plan.tag)
    if found and not config.rebuild:
        context.log.info(f"nothing changed: {plan.tag} is in the registry as {found.digest}")
        return replace(plan, digest=found.digest)
    context.log.info(f"{plan.tag} has to be built")
    return plan


@op(description="Launch a build machine, build the MAP there over SSH, push it, terminate the machine.")
def build_and_push(context: OpExecutionContext, settings: SettingsResource, cloud: CloudResource, plan: MapPlan) -> BuiltMap:
    """The machine's whole life; nothing of it is left, whatever happens."""
    if plan.digest:
        return BuiltMap(plan, reused=True, seconds={})
    chosen, clients, report = settings.load(), cloud.clients(), context.log.info
    repository = Registry(clients.ecr, chosen.ecr_repository).ensure(chosen.deployment, chosen.owner)
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="monai-aws-map-") as folder:
        prepared = _prepare_context(chosen, plan, Path(folder), cloud, report)
        clock.lap("prepare")
        with build_machine(clients, chosen, role=ROLE_MAP_BUILD, image=plan.machine_image, run_id=context.run_id, report=report) as built:
            if chosen.ami_mode == "stock":
                bundle = make_bundle(chosen, Path(folder) / "bundle", report)
                provision(built.remote, bundle.path, min_driver(chosen), report)
            clock.lap("machine")
            sent = built.remote.send_folder(prepared, CONTEXT_FOLDER, report, what="Sending source, model and wheels")
            report(f"sent {sent / 1e6:.0f} MB")
            clock.lap("send")
            _login(built.remote, chosen.region, repository, report)
            reference = f"{repository}:{plan.tag}"
            _build(built.remote, chosen, reference, report)
            clock.lap("build")
            digest = _push(built.remote, reference, report)
            clock.lap("push")
        clock.lap("terminate")
    return BuiltMap(replace(plan, digest=digest), reused=False, seconds=clock.laps)


@op(description="Read the pushed image back from the registry and record it.", out=Out(Nothing))
def record_map(context: OpExecutionContext, settings: SettingsResource, cloud: CloudResource, built: BuiltMap) -> Output[None]:
    """The registry's word is recorded, not the build's."""
    chosen = settings.load()
    image: PushedImage = Registry(cloud.clients().ecr, chosen.ecr_repository).require(tag=built.plan.tag)
    if image.digest != built.plan.digest:
        raise RegistryError(
            f"{built.plan.tag} is {image.digest} in the registry, but {built.plan.digest} was pushed.",
            "Someone else pushed the same tag; build again.",
        )
    metadata = {
        "digest": image.digest,
        "image": image.reference,
        "tag": built.plan.tag,
        "app_version": built.plan.version,
        "commit": built.plan.commit,
        "model_sha256": built.plan.model_sha256 or "no model file",
        "bytes_compressed": image.bytes,
        "pushed_at": image.pushed_at,
        "built_on": built.plan.machine_image,
        "packager": chosen.packager,
        "reused": MetadataValue.bool(built.reused),
        **{f"seconds_{phase}": seconds for phase, seconds in built.seconds.items()},
    }
    return Output(None, data_version=DataVersion(image.digest), metadata=metadata)


@graph_asset(
    ins={"map_source": AssetIn(dagster_type=Nothing), "gpu_ami": AssetIn(dagster_type=Nothing)},
    group_name="platform",
    kinds={"docker"},
    description="The MONAI Application Package in ECR, built over SSH on a machine that exists only for that.",
)
def map_image(map_source, gpu_ami):  # type: ignore[no-untyped-def]
    """Plan, build and push, record."""
    return record_map(build_and_push(plan_map([map_source, gpu_ami])))


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


def _login(remote: Remote, region: str, repository: str, report: Report) -> None:
    """Log the machine's engine in with the machine's own role. The token goes through a pipe, never through argv or a disk."""
    registry = repository.partition("/")[0]
    remote.run(
        f"sudo mkdir -p -m 700 {DOCKER_CONFIG} && sudo /opt/monai-aws/venv/bin/python -c {shlex.quote(LOGIN_TOKEN)} {shlex.quote(region)} | "
        f"sudo env DOCKER_CONFIG={DOCKER_CONFIG} docker login --username AWS --password-stdin {shlex.quote(registry)}",
        report,
        what="Logging in to ECR",
        seconds=60,
    )


def _build(remote: Remote, settings: Settings, reference: str, report: Report) -> None:
    # Without an index to ask, a build that tries to reach one is a mistake worth failing for.
    network = "--network none" if settings.wheelhouse == "collect" else ""
    remote.run(
        f"cd {CONTEXT_FOLDER} && sudo env DOCKER_BUILDKIT=1 DOCKER_CONFIG={DOCKER_CONFIG} "
        f"docker build --progress plain {network} --tag {shlex.quote(reference)} .",
        lambda line: report(f"{BUILD_LINE}{line}"),
        what="Building the MAP",
        seconds=settings.build_ttl_minutes * 60,
    )


def _push(remote: Remote, reference: str, report: Report) -> str:
    """Push and return the digest that the registry answered with."""
    lines = remote.run(
        f"sudo env DOCKER_CONFIG={DOCKER_CONFIG} docker push {shlex.quote(reference)}",
        lambda line: report(f"{BUILD_LINE}{line}"),
        what="Pushing the MAP",
        seconds=3600,
    )
    found = [match[1] for line in lines if (match := re.search(r"digest: (sha256:[0-9a-f]{64})", line))]
    if not found:
        raise RegistryError("docker push named no digest.", "Look at its output above; a proxy in between may have answered.")
    return found[-1]
