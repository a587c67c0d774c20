"""What happens on a build machine between the sent context and the pushed image: log in, build, push, keep the layers.

Here belong the commands that are run there over SSH and what is read from their output. Which machine that is, and what lies between
building and pushing, is map_image's business; what the image is made of is in ``maps``.

Every build machine is new, so its engine remembers nothing. The registry does: the stages below the application are kept there as
images of their own, under tags that name everything they were made from, and a build starts from the highest one that is there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from monai_aws_pipeline.cloud.errors import RegistryError
from monai_aws_pipeline.maps.build_context import BuildContext, Stage
from monai_aws_pipeline.remote import Remote, RemoteCommandError

Report = Callable[[str], None]

CONTEXT_FOLDER = "/tmp/monai-aws-build"  # noqa: S108  # on a machine that is ours alone
# Login tokens of the registry live in memory only and never in an image: this folder is a tmpfs on every systemd machine.
DOCKER_CONFIG = "/run/monai-aws-docker"
PRINT_LOGIN = (
    "import base64,boto3,sys;"
    "d=boto3.client('ecr',region_name=sys.argv[1]).get_authorization_token()['authorizationData'][0];"
    "sys.stdout.write(base64.b64decode(d['authorizationToken']).decode().partition(':')[2])"
)

BUILD_LINE = "│ "  # marks what another program printed, so that a reader of the log can tell it from our own words


@dataclass(frozen=True)
class Workbench:
    """A build machine with the context on it. ``repository``: URI in ECR; ``seconds``: longest build."""

    remote: Remote
    repository: str
    region: str
    seconds: float
    report: Report

    def foreign(self, line: str) -> None:
        """Report a line that another program printed."""
        self.report(f"{BUILD_LINE}{line}")


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


def log_in(bench: Workbench) -> None:
    """Log the machine's engine in with the machine's own role. The token goes through a pipe, never through argv or a disk."""
    registry = bench.repository.partition("/")[0]
    bench.remote.run(
        f"set -o pipefail; sudo mkdir -p -m 700 {DOCKER_CONFIG} && "
        f"sudo /opt/monai-aws/venv/bin/python -c {shlex.quote(PRINT_LOGIN)} {shlex.quote(bench.region)} | "
        f"sudo env DOCKER_CONFIG={DOCKER_CONFIG} docker login --username AWS --password-stdin {shlex.quote(registry)}",
        bench.report,
        what="Logging in to ECR",
        seconds=60,
    )


def build(bench: Workbench, context: BuildContext, start: Start) -> str:
    """Build the context that lies on the machine. Returns the image's reference there; nothing is pushed."""
    reference = f"{bench.repository}:{context.tag}"
    bench.remote.run(_build_command(context, start, reference), bench.foreign, what="Building the MAP", seconds=bench.seconds)
    return reference


def _build_command(context: BuildContext, start: Start, reference: str, target: str = "application") -> str:
    return (
        f"cd {CONTEXT_FOLDER} && sudo env DOCKER_BUILDKIT=1 DOCKER_CONFIG={DOCKER_CONFIG} "
        f"docker build --progress plain --network {context.network} {start.arguments}--target {target} --tag {shlex.quote(reference)} ."
    )


def push(bench: Workbench, reference: str) -> str:
    """Push and return the digest that the registry answered with."""
    lines = bench.remote.run(_push_command(reference), bench.foreign, what="Pushing the MAP", seconds=3600)
    found = [match[1] for line in lines if (match := re.search(r"digest: (sha256:[0-9a-f]{64})", line))]
    if not found:
        raise RegistryError("docker push named no digest.", "Look at its output above; a proxy in between may have answered.")
    return found[-1]


def keep(bench: Workbench, context: BuildContext, start: Start) -> None:
    """Push the stages that this build made, for the builds to come. Their layers are in the registry already, as the MAP's.

    A stage that cannot be kept costs the next build time and nothing else, so that is reported and not raised.
    """
    for stage in context.stages[len(start.kept) :]:
        reference = f"{bench.repository}:{stage.tag}"
        # Nothing is built here: the engine has the stage from the build before.
        command = f"{_build_command(context, start, reference, stage.name)} && {_push_command(reference)}"
        try:
            bench.remote.run(command, bench.foreign, what=f"Keeping the stage {stage.name}", seconds=600)
        except RemoteCommandError as error:
            bench.report(f"The stage {stage.name} is not kept, so the next build makes it again. {error}")
        else:
            bench.report(f"kept the stage {stage.name} as {stage.tag}")


def _push_command(reference: str) -> str:
    return f"sudo env DOCKER_CONFIG={DOCKER_CONFIG} docker push {shlex.quote(reference)}"
