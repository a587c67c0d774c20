"""What happens on a build machine between the sent context and the pushed image: log in, build, push, keep the layers.

Here belong the commands that are run there over SSH and what is read from their output. Which machine that is, and what lies between
building and pushing, is map_image's business; what the image is made of is in ``maps``.

Every build machine is new, so its engine remembers nothing. The registry does: the stages below the application are kept there as
images of their own, under tags that name everything they were made from, and a build starts from the highest one that is there.

There are two ways from there to the MAP. Where nothing has to run the image before it is pushed, it is put together in the registry
(``push_assembled``): the machine pulls nothing and pushes the layers that changed. Where a golden study has to be answered first, the
machine needs the image: it pulls what is kept, builds the rest on top and pushes that (``build``, ``push``).
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monai_aws_pipeline.cloud.errors import RegistryError
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.registry import ImageParts
from monai_aws_pipeline.contract import DIGEST_PATTERN
from monai_aws_pipeline.deployment import registry_upload
from monai_aws_pipeline.maps import assembly, dockerfile, monai_deploy
from monai_aws_pipeline.maps.build_context import BuildContext, Stage
from monai_aws_pipeline.remote import FULL, FULL_REMEDY, Remote, RemoteCommandError, RemoteError
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

CONTEXT_FOLDER = "/tmp/monai-aws-build"  # noqa: S108  # on a machine that is ours alone
IMAGE_FOLDER = "/tmp/monai-aws-image"  # noqa: S108
UPLOAD_FOLDER = "/tmp/monai-aws-upload"  # noqa: S108
# Login tokens of the registry live in memory only and never in an image: this folder is a tmpfs on every systemd machine.
DOCKER_CONFIG = "/run/monai-aws-docker"
# Without attestations: buildx adds some where the engine keeps images in containerd (Docker 29), and what is pushed is then an index, whose
# digest ECR's basic scan does not know. What is in an image is written by us (docs/building.md).
BUILD_ENVIRONMENT = "DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1"
UPLOAD = "sudo /opt/monai-aws/venv/bin/python"
PRINT_LOGIN = (
    "import base64,boto3,sys;"
    "d=boto3.client('ecr',region_name=sys.argv[1]).get_authorization_token()['authorizationData'][0];"
    "sys.stdout.write(base64.b64decode(d['authorizationToken']).decode().partition(':')[2])"
)

_NO_PACKAGER = "The machine has no official packager: its image was baked for another MONAI_AWS_PACKAGER. Materialise gpu_ami first."

BUILD_LINE = "│ "  # marks what another program printed, so that a reader of the log can tell it from our own words


@dataclass(frozen=True)
class BuildHost:
    """A build machine with the context on it. ``repository``: URI in ECR; ``seconds``: longest build."""

    remote: Remote
    repository: str
    region: str
    seconds: float
    report: Report

    def log_build_output(self, line: str) -> None:
        """Report a line that another program printed."""
        self.report(f"{BUILD_LINE}{line}")


class BuildFailedError(RemoteCommandError):
    """The image could not be built. Holds the last lines that were printed, and what to do about the cause that they name."""


_CAUSES: Final = (
    (FULL, FULL_REMEDY),  # first: whatever else the lines speak of may be its consequence
    (
        dockerfile.NO_SYSTEM_PACKAGES,
        "apt could not install the system-packages of app.yaml: correct their names, or let MONAI_AWS_BASE_IMAGE hold them.",
    ),
    (
        r"no matching distribution found|resolutionimpossible|could not find a version",
        "pip finds no answer to the requirements: correct requirements.txt or constraints.txt (monai-aws doctor app says more).",
    ),
    (
        r"temporary failure (in name resolution|resolving)|could not resolve host|network is unreachable|connection timed out",
        "The machine does not reach the internet: gather the wheels here with MONAI_AWS_WHEELHOUSE=collect, on a base image with Python.",
    ),
    (
        r"pull access denied|manifest unknown|failed to resolve source metadata|manifest for .* not found",
        "The base image cannot be pulled: correct MONAI_AWS_BASE_IMAGE, or let the build role read it.",
    ),
    (r"gather them for 3\.\d+", "Set MONAI_AWS_MAP_PYTHON to the Python of the base image."),
    (r"choose a base image that has them", "Set MONAI_AWS_BASE_IMAGE to one with python3, pip and jq, such as one made for that."),
)
"""What lines of a failed build mean, and what to do. The first that fits counts."""
_NO_KNOWN_CAUSE: Final = "The whole output is in the run's log. Correct what it names, and materialise map_image again."


@contextmanager
def named_failure() -> Iterator[None]:
    """A block that builds: a command that fails in it becomes a BuildFailedError with its remedy."""
    try:
        yield
    except RemoteCommandError as failed:
        raise BuildFailedError(failed.what, failed.exit_code, failed.tail, remedy(failed.tail)) from failed


def remedy(tail: Sequence[str]) -> str:
    """What to do about a build that ended with these lines."""
    said = "\n".join(tail)
    return next((what for sign, what in _CAUSES if re.search(sign, said, re.IGNORECASE)), _NO_KNOWN_CAUSE)


@dataclass(frozen=True)
class Start:
    """Where a build starts: ``kept`` are the stages that it does not build, the lowest first; ``image`` the highest of them, by digest."""

    kept: tuple[str, ...] = ()
    image: str = ""

    @property
    def arguments(self) -> str:
        """For ``docker build``."""
        return f"--build-arg {self.kept[-1].upper()}={shlex.quote(self.image)} " if self.kept else ""


def starting_point(stages: Sequence[Stage], find: Callable[[str], str]) -> Start:
    """The highest stage that the registry keeps. ``find`` gives the reference of the image with a tag, or nothing."""
    for count in range(len(stages), 0, -1):
        if image := find(stages[count - 1].tag):
            return Start(tuple(stage.name for stage in stages[:count]), image)
    return Start()


def log_in(build_host: BuildHost) -> None:
    """Log the machine's engine in with the machine's own role. The token goes through a pipe, never through argv or a disk."""
    registry = build_host.repository.partition("/")[0]
    build_host.remote.run(
        f"set -o pipefail; sudo mkdir -p -m 700 {DOCKER_CONFIG} && "
        f"sudo /opt/monai-aws/venv/bin/python -c {shlex.quote(PRINT_LOGIN)} {shlex.quote(build_host.region)} | "
        f"sudo env DOCKER_CONFIG={DOCKER_CONFIG} docker login --username AWS --password-stdin {shlex.quote(registry)}",
        build_host.report,
        what="Logging in to ECR",
        seconds=60,
    )


def send(build_host: BuildHost, context: BuildContext) -> None:
    """Lay the build context onto the machine."""
    sent = build_host.remote.send_folder(context.path, CONTEXT_FOLDER, build_host.report, what="Sending what is built")
    build_host.report(f"sent {sent / 1e6:.0f} MB")


def build(build_host: BuildHost, context: BuildContext, start: Start, target: str = "application") -> str:
    """Build the context that lies on the machine, up to a stage. Returns the image's reference there; nothing is pushed."""
    tags = {stage.name: stage.tag for stage in context.stages} | {"application": context.tag}
    reference = f"{build_host.repository}:{tags[target]}"
    what = "Building the MAP" if target == "application" else f"Building the {target}"
    with named_failure():
        build_host.remote.run(
            _build_command(context, start, reference, target), build_host.log_build_output, what=what, seconds=build_host.seconds
        )
    return reference


def build_officially(build_host: BuildHost, settings: Settings, context: BuildContext) -> str:
    """Run the official packager on the folder that lies on the machine (``official.write_folder``). Returns the image's reference there.

    The packager names its image as it likes; that name is read from its answer. The image then gets ours, and the labels it lacks.
    """
    found = f"test -x {monai_deploy.PROGRAM} || {{ echo {shlex.quote(_NO_PACKAGER)}; exit 1; }}"
    build_host.remote.run(found, build_host.report, what="Looking for the official packager", seconds=60)
    command = monai_deploy.package_command(
        CONTEXT_FOLDER, context, name=settings.ecr_repository, base_image=settings.base_image,
        timeout_s=settings.map_timeout_s, has_model=bool(context.model_sha256),
    )  # fmt: skip
    run = f"cd {CONTEXT_FOLDER} && sudo env {BUILD_ENVIRONMENT} DOCKER_CONFIG={DOCKER_CONFIG} NO_COLOR=1 {shlex.join(command)}"
    with named_failure():
        lines = build_host.remote.run(run, build_host.log_build_output, what="monai-deploy package", seconds=build_host.seconds)
    reference = f"{build_host.repository}:{context.tag}"
    naming_dockerfile = monai_deploy.marking(monai_deploy.tag_in(lines), context)
    # Not the packager's own builder, which may be the chosen one now and sees no image of this engine.
    naming = f"sudo env {BUILD_ENVIRONMENT} BUILDX_BUILDER=default docker build --tag {shlex.quote(reference)} -"
    build_host.remote.run(
        f"printf %s {shlex.quote(naming_dockerfile)} | {naming}", build_host.log_build_output, what="Naming the MAP", seconds=60
    )
    return reference


def _build_command(context: BuildContext, start: Start, reference: str, target: str) -> str:
    return (
        f"cd {CONTEXT_FOLDER} && sudo env {BUILD_ENVIRONMENT} DOCKER_CONFIG={DOCKER_CONFIG} "
        f"docker build --progress plain --network {context.network} {start.arguments}--target {target} --tag {shlex.quote(reference)} ."
    )


def pull(build_host: BuildHost, digest: str) -> str:
    """Have an image of the repository on the machine. Returns its reference; what is there already is not pulled again."""
    log_in(build_host)
    reference = f"{build_host.repository}@{digest}"
    command = f"sudo env DOCKER_CONFIG={DOCKER_CONFIG} docker pull {shlex.quote(reference)}"
    build_host.remote.run(command, build_host.log_build_output, what="Pulling the dependencies", seconds=3600)
    return reference


def push(build_host: BuildHost, references: Sequence[str], start: Start) -> dict[str, str]:
    """Push images of one repository, the first of which has to arrive. Returns the digests that did, by tag.

    The engine pushes what was built on layers that it pulled, since it knows them to be in the registry, and what only it can save.
    """
    if start.kept:
        return push_by_engine(build_host, references)
    with scratch("monai-aws-upload") as folder:
        shutil.copyfile(registry_upload.__file__, folder / "upload.py")
        build_host.remote.send_folder(folder, UPLOAD_FOLDER, build_host.report, what="Sending what pushes")
    arguments = shlex.join(("saved", build_host.region, *references))
    try:
        lines = build_host.remote.run(
            f"{UPLOAD} {UPLOAD_FOLDER}/upload.py {arguments}", build_host.log_build_output, what="Pushing the MAP", seconds=3600
        )
    except RemoteCommandError as failed:
        if failed.exit_code != registry_upload.UNKNOWN_FORMAT:
            raise
        build_host.report("the engine pushes by itself, which takes longer: what stopped the faster way is said above")
        return push_by_engine(build_host, references)
    return _digests(lines, references)


def push_by_engine(build_host: BuildHost, references: Sequence[str]) -> dict[str, str]:
    """Push as ``docker push`` does, one after the other; as ``push``."""
    digests: dict[str, str] = {}
    for reference in references:
        try:
            lines = build_host.remote.run(_push_command(reference), build_host.log_build_output, what="Pushing the MAP", seconds=3600)
        except RemoteError as error:
            if not digests:
                raise
            build_host.report(f"{_tag(reference)} is not kept, so the next build makes it again. {error}")
        else:
            digests |= _digests(lines, [reference])
    return digests


def push_assembled(build_host: BuildHost, context: BuildContext, base: ImageParts, work: Path) -> str:
    """Put the MAP together on a dependency image that the registry holds, and push what the registry has not. Returns the digest.

    No engine takes part and nothing is pulled; the machine lends its role, which alone may push. ``work``: an empty folder here.
    """
    layers = [assembly.Blob(layer.digest, layer.bytes, layer.media_type) for layer in base.layers]
    expected = assembly.write_image(context, base.config, layers, work)
    shutil.copyfile(registry_upload.__file__, work / "upload.py")
    build_host.remote.send_folder(work, IMAGE_FOLDER, build_host.report, what="Sending the new layers")
    name = build_host.repository.partition("/")[2]
    arguments = shlex.join(("assembled", IMAGE_FOLDER, name, context.tag, build_host.region))
    command = f"{UPLOAD} {IMAGE_FOLDER}/upload.py {arguments}"
    lines = build_host.remote.run(command, build_host.log_build_output, what="Pushing the MAP", seconds=3600)
    digest = _digests(lines, [context.tag])[context.tag]
    if digest != expected:
        raise RegistryError(f"{digest} was pushed, but {expected} was put together.", "Build again.")
    return digest


def _digests(lines: Sequence[str], references: Sequence[str]) -> dict[str, str]:
    """What was printed of each of these. Raises RegistryError where nothing was printed of the first."""
    tags = {_tag(reference) for reference in references}
    said = (re.search(rf"(\S+): digest: ({DIGEST_PATTERN})", line) for line in lines)
    found = {match[1]: match[2] for match in said if match and match[1] in tags}
    if _tag(references[0]) not in found:
        raise RegistryError("The push named no digest.", "Look at its output above; a proxy in between may have answered.")
    return found


def _tag(reference: str) -> str:
    return reference.rpartition(":")[2]


def name_stages(build_host: BuildHost, context: BuildContext, start: Start) -> list[str]:
    """Name the stages that this build made, for the builds to come. Nothing is built: the engine has them from the build before.

    A stage that cannot be kept costs the next build time and nothing else, so that is reported and not raised.
    """
    named = []
    for stage in context.stages[len(start.kept) :]:
        reference = f"{build_host.repository}:{stage.tag}"
        command = _build_command(context, start, reference, stage.name)
        try:
            build_host.remote.run(command, build_host.log_build_output, what=f"Keeping the stage {stage.name}", seconds=600)
        except RemoteError as error:
            build_host.report(f"The stage {stage.name} is not kept, so the next build makes it again. {error}")
        else:
            named.append(reference)
    return named


def keep(build_host: BuildHost, context: BuildContext, start: Start) -> None:
    """Push the stages that this build made, and no MAP."""
    if not (stages := name_stages(build_host, context, start)):
        return
    try:
        push(build_host, stages, start)
    except (RemoteError, RegistryError) as error:
        build_host.report(f"The stages are not kept, so the next build makes them again. {error}")


def _push_command(reference: str) -> str:
    return f"sudo env DOCKER_CONFIG={DOCKER_CONFIG} docker push {shlex.quote(reference)}"
