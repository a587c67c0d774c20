"""The manifests of a MAP as the SDK's own packager (holoscan-cli) writes them, without docker, network, model bytes or copies.

Here belongs the one place that touches holoscan-cli's classes; they are the packager's internals, so the version is pinned and checked.
The packager downloads a list of its releases at each run unless given one: ours is written here, so that a build does not break when
upstream moves a file.
"""

from __future__ import annotations

import json
import logging
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.scratch import scratch

CLI_VERSION: Final = "4.2.0"
SDK_VERSION: Final = "4.0.0"
"""MONAI Deploy App SDK whose format is written when the application's requirements name no other."""
HOLOSCAN_VERSION: Final = "4.2.0"

_LOCK: Final = threading.Lock()


class RendererError(NamedError):
    """The SDK's packager refused the application, or is not the version this project knows."""


@dataclass(frozen=True)
class RenderedMap:
    """What the SDK's packager makes of an application.

    ``environment``: the ``HOLOSCAN_…`` variables of the image, in the packager's order. ``tools``: the entry point, a shell script.
    """

    app_json: str
    pkg_json: str
    tools: str
    environment: tuple[tuple[str, str], ...]
    sdk_version: str
    holoscan_version: str
    platform_tag: str


def render(
    application: Path,
    *,
    tag: str,
    base_image: str,
    models: tuple[str, ...] = (),
    timeout_s: int = 0,
    sdk_version: str = SDK_VERSION,
    holoscan_version: str = HOLOSCAN_VERSION,
    config: str = "",
) -> RenderedMap:
    """Render the manifests of an application folder that holds ``app.yaml``.

    Args:
        application: Folder with ``__main__.py``, the entry point.
        tag: Image name and tag, ``name:tag``.
        base_image: Recorded in the artifacts list only; it is not looked up.
        models: Names of the models; their bytes are not needed.
        timeout_s: The application's own timeout in seconds, 0 for none.
        sdk_version, holoscan_version: Versions the application is built with.
        config: Text that the packager reads in place of ``app.yaml``; empty: the file itself.

    Raises:
        RendererError: The packager refused the application (its own words), or another version of it is installed.
    """
    _check_cli()
    from holoscan_cli.common.enum_types import Platform, SdkType  # imported late: half a second, and only builds need it
    from holoscan_cli.packager.arguments import PackagingArguments

    with _LOCK, scratch("monai-aws-renderer") as folder, _quiet_packager(), _known_versions(holoscan_version, sdk_version):
        source = folder / "artifacts.json"
        source.write_text(json.dumps(artifacts_list(holoscan_version, base_image)), "utf-8")
        for name in models:  # the packager reads a model's name from its folder and records nothing else of it
            (folder / "models" / name).mkdir(parents=True)
        (folder / "app.yaml").write_text(config, "utf-8")
        arguments = Namespace(
            application=application, config=folder / "app.yaml" if config else application / "app.yaml", docs=None,
            models=folder / "models" if models else None,
            platform=[Platform.x86_64], timeout=timeout_s, version=None, add_hosts=None, additional_libs=None, base_image=None,
            build_image=None, build_cache=folder, cmake_args=None, cuda=13, holoscan_sdk_file=None, includes=[], input_data=None,
            monai_deploy_sdk_file=None, no_cache=False, sdk=SdkType.MonaiDeploy, sdk_version=None, source=str(source), output=None, tag=tag,
            username="holoscan", uid=1000, gid=1000,
        )  # fmt: skip
        try:
            packaging = PackagingArguments(arguments, str(folder))
            dockerfile = _dockerfile(packaging)
        except Exception as error:  # the packager raises bare Exceptions of many kinds
            raise RendererError(
                f"the SDK's packager refused the application: {error}. Correct app.yaml (docs/your-own-model.md shows a whole one)"
            ) from error
        return RenderedMap(
            app_json=json.dumps(packaging.application_manifest.data, indent=2, sort_keys=True) + "\n",
            pkg_json=json.dumps(packaging.package_manifest.data, indent=2, sort_keys=True) + "\n",
            tools=(_templates() / "tools.sh").read_text("utf-8"),
            environment=_variables(dockerfile),
            sdk_version=sdk_version,
            holoscan_version=holoscan_version,
            platform_tag=str(packaging.platforms[0].tag),
        )


def artifacts_list(holoscan_version: str, base_image: str) -> dict[str, Any]:
    """The list of releases that ``--source`` takes, with one release. Also used with the official ``monai-deploy package`` command."""
    images = {"dgpu": base_image, "igpu": base_image, "cpu": base_image}
    return {
        holoscan_version: {
            "holoscan": {
                "debian-version": holoscan_version,
                "wheel-version": holoscan_version,
                "base-images": images,
                "build-images": {configuration: {} for configuration in images},
            },
            "health-probes": {"linux/amd64": "", "linux/arm64": ""},
        }
    }


def _check_cli() -> None:
    try:
        found = version("holoscan-cli")
    except PackageNotFoundError:
        found = "none"
    if found != CLI_VERSION:
        raise RendererError(f"holoscan-cli {found} is installed, {CLI_VERSION} is needed: pip install holoscan-cli=={CLI_VERSION}")


def _templates() -> Path:
    import holoscan_cli.packager

    return Path(holoscan_cli.packager.__file__).parent / "templates"


def _dockerfile(packaging: Any) -> str:
    """The packager's own Dockerfile; only its HOLOSCAN_ variables are used here."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_templates()), undefined=StrictUndefined, autoescape=True)
    template = environment.get_template("Dockerfile.jinja2")
    return template.render({**packaging.build_parameters.to_jinja, **packaging.platforms[0].to_jinja})


def _variables(dockerfile: str) -> tuple[tuple[str, str], ...]:
    lines = (line.removeprefix("ENV ") for line in dockerfile.splitlines() if line.startswith("ENV HOLOSCAN_"))
    return tuple((name, value) for name, _, value in (line.partition("=") for line in lines))


@contextmanager
def _known_versions(holoscan_version: str, sdk_version: str) -> Iterator[None]:
    """Answer the packager's question for installed versions with the application's: neither SDK needs to be installed here."""
    from holoscan_cli.packager import platforms

    original = platforms.detect_sdk_version
    platforms.detect_sdk_version = lambda *_: (holoscan_version, sdk_version)
    try:
        yield
    finally:
        platforms.detect_sdk_version = original


@contextmanager
def _quiet_packager() -> Iterator[None]:
    """Keep the packager's own progress lines out of our log."""
    logger = logging.getLogger("packager")
    others = [logging.getLogger(name) for name in ("common", "packager.parameters", "platform.parameters")]
    levels = [(each, each.level) for each in (logger, *others)]
    for each, _ in levels:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for each, level in levels:
            each.setLevel(level)
