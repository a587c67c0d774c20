"""The official packager, ``monai-deploy package``, on a build machine: what is sent for it, its command line, and the tag in its answer.

The command is used as it is: it writes its own Dockerfile and calls ``docker buildx`` itself. Ours are the list of releases it would
otherwise download (a build must not break when upstream moves a file) and the environment it runs in, which ``infra/host/provision.sh``
makes from ``REQUIREMENTS`` on the machines that need it.
Source: holoscan-cli 4.2.0, ``holoscan_cli/packager``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.maps import dockerfile, sdk_renderer
from monai_aws_pipeline.maps.build_context import LABEL_CONTENT, LABEL_MODEL, LABEL_REVISION, BuildContext
from monai_aws_pipeline.maps.golden import NO_LABELS
from monai_aws_pipeline.maps.source import Source

REQUIREMENTS: Final = (
    f"monai-deploy-app-sdk=={sdk_renderer.SDK_VERSION}\n"
    f"holoscan-cu13=={sdk_renderer.HOLOSCAN_VERSION}\n"
    f"holoscan-cli=={sdk_renderer.CLI_VERSION}\n"
)
"""What the packager itself needs; the application's own requirements go into its image."""
PROGRAM: Final = "/opt/monai-aws/sdk/bin/monai-deploy"
"""Where provisioning puts it."""
PLATFORM: Final = "x86_64"
_MARKS: Final = (LABEL_MODEL, LABEL_CONTENT, LABEL_REVISION, *NO_LABELS)
_TAG: Final = re.compile(r"^\s*Docker Tag:\s+(\S+)\s*$")
_REFERENCE: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,200}:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class OfficialPackagerError(NamedError):
    """The packager's answer is not understood."""


def write_folder(context: BuildContext, source: Source, target: Path, *, base_image: str) -> None:
    """Lay out what the packager reads: ``app/``, ``models/NAME``, ``artifacts.json``. ``target`` must not exist or be empty."""
    shutil.copytree(source.path, target / "app", ignore=shutil.ignore_patterns("golden"))
    for each in context.models:
        each.lay_out(target / "models", unpack=context.unpack_models)
    if context.packager_config:
        (target / "app.yaml").write_text(context.packager_config, "utf-8")
    releases = sdk_renderer.artifacts_list(sdk_renderer.HOLOSCAN_VERSION, base_image)
    (target / "artifacts.json").write_text(json.dumps(releases, indent=1), "utf-8")
    (target / "tag").write_text(context.tag, "utf-8")


def package_command(folder: str, context: BuildContext, *, name: str, base_image: str, timeout_s: int, has_model: bool) -> list[str]:
    """``monai-deploy package`` for a folder that ``write_folder`` laid out."""
    return [
        PROGRAM, "package", f"{folder}/app",
        "--config", f"{folder}/app.yaml" if context.packager_config else f"{folder}/app/app.yaml",
        *(["--models", f"{folder}/models"] if has_model else []),
        "--tag", f"{name}:{context.tag}",
        "--platform", PLATFORM,
        "--source", f"{folder}/artifacts.json",
        "--base-image", base_image,
        "--uid", str(dockerfile.UID), "--gid", str(dockerfile.UID),
        "--build-cache", f"{folder}/cache",
        *(["--timeout", str(timeout_s)] if timeout_s else []),
    ]  # fmt: skip


def marking(image: str, context: BuildContext) -> str:
    """A Dockerfile that gives the packager's image the labels it has no option for: model, commit, content, and the golden study.

    By them a host proves the MAP before a promotion, and a result says which model and commit it is from.
    """
    marks = ((name, value) for name, value in context.labels if name in _MARKS)
    return f"FROM {image}\n" + "".join(f"LABEL {dockerfile.quoted(name)}={dockerfile.quoted(value)}\n" for name, value in marks)


def tag_in(lines: Iterable[str]) -> str:
    """The tag that the packager gave its image. It is another one than it was asked for, so it is read and never guessed.

    Raises OfficialPackagerError when there is none, or more than one.
    """
    found = {match[1] for line in lines if (match := _TAG.match(line))}
    if len(found) != 1 or not _REFERENCE.fullmatch(tag := found.pop()):
        raise OfficialPackagerError(
            f"monai-deploy package named no image; read the run's log. This project knows holoscan-cli {sdk_renderer.CLI_VERSION}"
        )
    return tag
