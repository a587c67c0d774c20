"""Writes the folder that a MAP image is built from: manifests of the SDK's own renderer, application, model and wheels, in layers.

Here belongs the laying out of files, their fixed times and modes, and the hashes that name what is built. What the texts say is in
``recipe.py``; who builds it, and where, is the caller's: ``docker build --network NETWORK --tag IMAGE PATH`` with BuildKit.
Files keep their fixed modification time only when the folder is carried to the build host with its times, as a tar does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.maps import dockerfile, sdk_renderer, wheelhouse
from monai_aws_pipeline.maps import models as model_files
from monai_aws_pipeline.maps.golden import FOLDER as GOLDEN_FOLDER
from monai_aws_pipeline.maps.golden import NO_LABELS, Golden
from monai_aws_pipeline.maps.manifest import AppConfig, read_app_config
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.requirements import CONSTRAINTS, requirements_text
from monai_aws_pipeline.maps.source import Source, content_hash
from monai_aws_pipeline.maps.spec import series_rules
from monai_aws_pipeline.maps.spec.series_rules import LABEL_RULES
from monai_aws_pipeline.maps.spec.study_contract import LABEL_STUDY_CONTRACT, contract_for

LABEL_MODEL: Final = "monai-aws.model-sha256"
LABEL_CONTENT: Final = "monai-aws.content"
LABEL_DEPENDENCIES: Final = "monai-aws.dependencies"
LABEL_REVISION: Final = "org.opencontainers.image.revision"

_STAGE_TAG: Final = re.compile(r"(dependencies|model)-[0-9a-f]{32}")
_PIN: Final = re.compile(r"^\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*==\s*([0-9][0-9A-Za-z.]*)")


class BuildContextError(NamedError, ValueError):
    """The build context cannot be made from what was given."""


@dataclass(frozen=True)
class Layer:
    """One layer of the image. ``key`` changes exactly when the layer must; ``bytes`` is what the context holds for it."""

    name: str
    key: str
    bytes: int


@dataclass(frozen=True)
class Stage:
    """A stage of the Dockerfile whose image is worth keeping. ``key``: SHA-256 over everything that it is made from."""

    name: str
    key: str

    @property
    def tag(self) -> str:
        """The tag that its image is kept under."""
        return f"{self.name}-{self.key[:32]}"


def is_stage_tag(tag: str) -> bool:
    """Whether a tag is one that a stage's image is kept under, and no MAP's."""
    return _STAGE_TAG.fullmatch(tag) is not None


@dataclass(frozen=True)
class BuildContext:
    """A folder that is ready for ``docker build``, and what it will make.

    ``tag``: ``VERSION-COMMIT7-CONTENT8``. ``content_hash``: SHA-256 over everything that decides about the image except the commit.
    ``dependency_key``: names the dependency layer. ``stages``: those below the application, the lowest first. ``network``: value of
    ``docker build --network``; ``none`` when nothing has to be fetched. ``model_sha256``: ``models.combined_hash``. ``unpack_models`` and
    ``packager_config``: what ``app.yaml`` says (``manifest.AppConfig``). ``application``: the application's files, on this machine.
    """

    path: Path
    tag: str
    version: str
    commit: str
    content_hash: str
    dependency_key: str
    network: str
    app_json: str
    pkg_json: str
    model_sha256: str
    sdk_version: str
    layers: tuple[Layer, ...]
    stages: tuple[Stage, ...]
    environment: dockerfile.Pairs
    labels: dockerfile.Pairs
    golden: Golden | None = None
    application: Path = Path()
    models: tuple[Model, ...] = ()
    unpack_models: bool = True
    packager_config: str = ""


def write_context(
    source: Source,
    target: Path,
    *,
    base_image: str,
    image_name: str = "map",
    models: Sequence[Model] = (),
    gathered: str = "",
    wheels: Path | None = None,
    kept: Collection[str] = (),
    timeout_s: int = 0,
    packager: str = "layered",
    golden: Golden | None = None,
) -> BuildContext:
    """Write the build context of an application.

    Args:
        source: The application's files (``source.checkout``).
        target: Folder to write; must not exist or be empty.
        base_image: Image the MAP starts from: Debian or Ubuntu, best with python3, pip and jq.
        image_name: Repository name; only recorded in the label ``tag``.
        models: The models, already checked by their SHA-256; each lies in the image as ``/opt/holoscan/models/NAME``.
        gathered: Name of the wheelhouse (``wheelhouse.name_of``) that the packages come from; empty: the build host's pip uses its index.
        wheels: That wheelhouse (``wheelhouse.collect``). Not needed where the dependencies are kept, nor to learn the tag.
        kept: Names of the stages that the build takes from the registry; their files are left out.
        timeout_s: The application's own timeout, written into ``app.json``; 0 for none.
        packager: Who will build it; another packager makes another image.
        golden: The golden study that the image has to answer; its hashes become labels, and nothing of it goes into the image.

    Raises:
        ManifestError: ``app.yaml`` is wrong.
        RendererError: The SDK's packager refused the application.
        BuildContextError: No entry point, or a target that is not empty.
        ModelError: A zip that is refused.
        BrokenWheelhouseError: The wheelhouse is not complete.
    """
    if target.exists() and any(target.iterdir()):
        raise BuildContextError(f"{target} is not empty")
    config = read_app_config(source.path)
    if wheels and not gathered:
        raise BuildContextError("wheels need the name of their wheelhouse, which names the layer made from them")
    house = wheelhouse.read(wheels) if wheels else None
    if gathered and config.pip_packages:
        raise BuildContextError("app.yaml has 'pip-packages', which a wheelhouse does not see: move them to requirements.txt beside it")
    requirements, constraints = requirements_text(source.path, config.pip_packages), _text(source.path / CONSTRAINTS)
    pins = sdk_pins(requirements, constraints)
    model_sha256 = model_files.combined_hash(models)
    rendered = sdk_renderer.render(
        source.path, tag=f"{image_name}:{config.version}", base_image=base_image, models=tuple(each.name for each in models),
        timeout_s=timeout_s, sdk_version=pins[0], holoscan_version=pins[1], config=config.for_packager,
    )  # fmt: skip

    script = dockerfile.install_script(config.system_packages)
    if "dependencies" not in kept:
        _write_dependencies(target / "dependencies", script, requirements, constraints, house)
    if "model" not in kept:
        for each in models:
            each.lay_out(target / "model" / "opt" / "holoscan" / "models", unpack=config.unpack_models)
    _write_application(target / "app", source, rendered)

    packages = [gathered] if gathered else [requirements, constraints]
    dependency_key = _digest([dockerfile.dependency_stage(base_image), script, *packages])
    application_key = content_hash(target / "app")
    # Another golden study or expectation makes another image, so that one that is there already was judged by what is asked for now.
    marks = {LABEL_MODEL: model_sha256, LABEL_DEPENDENCIES: dependency_key, **(golden.labels if golden else NO_LABELS)}
    contract = contract_for(source.path, config.study, _required_names(requirements))
    marks |= {LABEL_RULES: series_rules.label_of(source.path), LABEL_STUDY_CONTRACT: contract.to_label()}
    # The name holds the hash, so the hash cannot hold the name.
    without_name = _dockerfile(base_image, rendered, _labels(base_image, config, rendered, marks))
    content = _digest([dependency_key, model_sha256, application_key, without_name, *([] if packager == "layered" else [packager])])
    tag = f"{config.version.replace('+', '-')}-{source.commit[:7]}-{content[:8]}"
    marks |= {"tag": f"{image_name}:{tag}", LABEL_REVISION: source.commit, LABEL_CONTENT: content}
    labels = _labels(base_image, config, rendered, marks)
    (target / "Dockerfile").write_text(_dockerfile(base_image, rendered, labels), "utf-8")
    _fix_times(target)
    return BuildContext(
        path=target,
        tag=tag,
        version=config.version,
        commit=source.commit,
        content_hash=content,
        dependency_key=dependency_key,
        network="none" if kept or (gathered and not config.system_packages) else "default",
        app_json=rendered.app_json,
        pkg_json=rendered.pkg_json,
        model_sha256=model_sha256,
        sdk_version=rendered.sdk_version,
        layers=(
            Layer("dependencies", dependency_key, house.bytes if house else 0),
            Layer("model", model_sha256, sum(each.bytes for each in models)),
            Layer("application", application_key, _bytes(target / "app")),
        ),
        golden=golden,
        environment=rendered.environment,
        labels=tuple(labels.items()),
        stages=_stages(dependency_key, model_files.layout_key(models, unpack=config.unpack_models)),
        application=target / "app" / "opt" / "holoscan" / "app",
        models=tuple(models),
        unpack_models=config.unpack_models,
        packager_config=config.for_packager,
    )


def _stages(dependency_key: str, model_layer: list[str]) -> tuple[Stage, ...]:
    dependencies = Stage("dependencies", dependency_key)
    if not model_layer:
        return (dependencies,)
    return (dependencies, Stage("model", _digest([dependency_key, dockerfile.model_stage(has_model=True), *model_layer])))


def sdk_pins(requirements: str, constraints: str) -> tuple[str, str]:
    """Versions of the MONAI Deploy App SDK and of holoscan that an application pins, or the ones this project knows."""
    pins: dict[str, str] = {}
    for line in [*constraints.splitlines(), *requirements.splitlines()]:
        if found := _PIN.match(line):
            pins[re.sub(r"[-_.]+", "-", found[1]).lower()] = found[2]
    holoscan = next((pins[name] for name in ("holoscan-cu13", "holoscan-cu12", "holoscan") if name in pins), sdk_renderer.HOLOSCAN_VERSION)
    return pins.get("monai-deploy-app-sdk", sdk_renderer.SDK_VERSION), holoscan


def _required_names(requirements: str) -> list[str]:
    return [found[0] for line in requirements.splitlines() if (found := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line.strip()))]


def _write_dependencies(folder: Path, script: str, requirements: str, constraints: str, house: wheelhouse.Wheelhouse | None) -> None:
    folder.mkdir(parents=True)
    (folder / "install.sh").write_text(script, "utf-8")
    (folder / "requirements.txt").write_text(requirements, "utf-8")
    (folder / "constraints.txt").write_text(constraints, "utf-8")
    (folder / "python.txt").write_text(house.python_version if house else "", "utf-8")
    if house is None:
        return
    (folder / "wheels.txt").write_text("".join(f"{wheel.name}=={wheel.version}\n" for wheel in house.wheels), "utf-8")
    for wheel in house.wheels:
        model_files.place_file(house.path / wheel.file, folder / "wheels" / wheel.file)


def _write_application(root: Path, source: Source, rendered: sdk_renderer.RenderedMap) -> None:
    """The application layer as a tree that is copied onto ``/``. Nothing in it belongs to the user that runs it."""
    shutil.copytree(
        source.path,
        root / "opt" / "holoscan" / "app",
        ignore=lambda folder, names: {GOLDEN_FOLDER} & set(names) if Path(folder) == source.path else set(),
    )
    manifests, work = root / "etc" / "holoscan", root / "var" / "holoscan"
    manifests.mkdir(parents=True)
    work.mkdir(parents=True)
    (manifests / "app.json").write_text(rendered.app_json, "utf-8")
    (manifests / "pkg.json").write_text(rendered.pkg_json, "utf-8")
    shutil.copyfile(source.path / "app.yaml", work / "app.yaml")
    (work / "tools").write_text(rendered.tools, "utf-8")
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    (work / "tools").chmod(0o755)


def _labels(base_image: str, config: AppConfig, rendered: sdk_renderer.RenderedMap, marks: Mapping[str, str]) -> dict[str, str]:
    return {
        "base": base_image,
        "org.opencontainers.image.title": config.title,
        "org.opencontainers.image.version": config.version,
        "org.nvidia.holoscan": rendered.holoscan_version,
        "org.monai.deploy.app-sdk": rendered.sdk_version,
        **marks,
    }


def _dockerfile(base_image: str, rendered: sdk_renderer.RenderedMap, labels: Mapping[str, str]) -> str:
    has_model = bool(labels[LABEL_MODEL])
    return dockerfile.dockerfile(base_image, has_model=has_model, environment=rendered.environment, labels=tuple(labels.items()))


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _fix_times(folder: Path) -> None:
    """Give every file a time that follows from its content.

    Not one time for all: BuildKit takes a file of the same name, size and time as one it was sent before, and would build from the old one.
    """
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
            os.utime(path, (dockerfile.EPOCH, dockerfile.EPOCH))
        elif path.suffix != ".whl":  # wheels are in no layer, carry their version in their name, and are shared with the cache
            with path.open("rb") as stream:
                moment = dockerfile.EPOCH + int(hashlib.file_digest(stream, "sha256").hexdigest()[:6], 16)
            os.utime(path, (moment, moment))


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
