"""The three descriptions of a MAP: ``app.yaml`` (written by people), ``app.json`` and ``pkg.json`` (written by the packager).

Here belongs reading them into values and saying everything that is wrong with them at once. They come from other people's repositories and
images, so nothing in them is trusted: sizes are bounded, YAML aliases refused, names checked. How a MAP is run from ``app.json`` is in
``hosting.py``; whether an image keeps the format, in ``conformance.py``. Format: MONAI Application Package specification 1.0.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import yaml

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.maps.spec.run import AppManifestError, RunSpec, is_older, parse_app_json, respelled
from monai_aws_pipeline.maps.spec.study_contract import Declared, parse_section

APP_YAML: Final = "app.yaml"
MAX_BYTES: Final = 64 * 1024

_MAX_SYSTEM_PACKAGES: Final = 50
_SYSTEM_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}")
"""A name as Debian's policy has it (deb-control(5), "Package")."""
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,39}")
_OLDER_SDK: Final = "monai-deploy"
_OLDER_MODELS: Final = "/opt/monai/models"
"""What manifests of MONAI Deploy App SDK 0.5 and before leave unsaid."""
_RENAMED: Final = {  # what the packager takes without a word, and does not read
    "input_formats": "input-formats",
    "output_formats": "output-formats",
    "inputFormats": "input-formats",
    "outputFormats": "output-formats",
    "pip_packages": "pip-packages",
}


class ManifestError(NamedError, ValueError):
    """A description of a MAP is wrong. ``findings`` lists all of it, each with its remedy."""

    def __init__(self, what: str, findings: list[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{what}: " + "; ".join(findings))


class AppYamlMissingError(ManifestError):
    """The application folder holds no ``app.yaml``."""


@dataclass(frozen=True)
class AppConfig:
    """What ``app.yaml`` says. ``resources`` goes into ``pkg.json`` as it is.

    ``system_packages``: what apt installs below the application. ``unpack_models``: a model that is a zip is laid into the image unpacked.
    ``for_packager``: the file in the spelling that the SDK's packager reads; empty where it has that spelling already.
    """

    title: str
    version: str
    input_formats: tuple[str, ...]
    output_formats: tuple[str, ...]
    pip_packages: tuple[str, ...]
    resources: dict[str, Any]
    study: Declared = field(default_factory=Declared)
    """The section ``monai-aws``: what the application says it asks of a study."""
    system_packages: tuple[str, ...] = ()
    unpack_models: bool = True
    for_packager: str = ""


@dataclass(frozen=True)
class AppManifest:
    """What ``app.json`` says: how to run it, and which SDK wrote it."""

    run: RunSpec
    api_version: str
    sdk: str
    sdk_version: str
    version: str
    input_formats: tuple[str, ...]
    output_formats: tuple[str, ...]


@dataclass(frozen=True)
class PackageManifest:
    """What ``pkg.json`` says. ``models`` maps a model's name to its folder in the image."""

    api_version: str
    application_root: str
    model_root: str
    models: dict[str, str]
    resources: dict[str, Any]
    version: str


def read_app_config(folder: Path) -> AppConfig:
    """Read ``app.yaml`` of an application folder. Raises AppYamlMissingError or ManifestError."""
    path = folder / APP_YAML
    if not path.is_file():
        raise AppYamlMissingError(
            APP_YAML, ["the application folder holds no app.yaml; point MONAI_AWS_APP_SOURCE and MONAI_AWS_APP_DIR at the folder that does"]
        )
    if path.stat().st_size > MAX_BYTES:
        raise ManifestError(APP_YAML, [f"larger than {MAX_BYTES // 1024} KiB"])
    try:
        return parse_app_config(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise ManifestError(APP_YAML, ["not UTF-8 text"]) from error


def parse_app_config(text: str) -> AppConfig:
    """Read the text of an ``app.yaml``. Raises ManifestError with every finding."""
    data = load_yaml(text, APP_YAML)
    findings: list[str] = []
    application, resources = data.get("application"), data.get("resources")
    if not isinstance(application, dict):
        findings.append("'application' is missing: it holds title and version")
        application = {}
    if not isinstance(resources, dict):
        findings.append("'resources' is missing: it holds cpu, gpu and memory")
        resources = {}
    written = dict(application)
    for other, name in _RENAMED.items():
        if other in application:
            application = {name: application[other], **{key: value for key, value in application.items() if key != other}}
    title, version = application.get("title"), application.get("version")
    if not isinstance(title, str) or not title.strip() or len(title) > 200 or not title.isprintable():
        findings.append("'application.title' must be one line of text")
        title = ""
    if not isinstance(version, str):
        version = _as_written(text, version)  # 1.10 is a number to YAML, and 1.1
    if not version:
        findings.append("'application.version' is missing: a text such as 1.0.0")
    elif not _VERSION.fullmatch(version):
        findings.append("'application.version' may hold letters, digits, '.', '+' and '-' only, at most 40")
    section, system_packages, unpack_models = _of_the_build(data.get("monai-aws"), findings)
    study = parse_section(section, findings)
    config = AppConfig(
        title=title,
        version=version,
        input_formats=_texts(application, "input-formats", findings),
        output_formats=_texts(application, "output-formats", findings),
        pip_packages=_texts(application, "pip-packages", findings),
        resources=resources,
        study=study,
        system_packages=system_packages,
        unpack_models=unpack_models,
    )
    try:
        json.dumps(resources, allow_nan=False)
    except (TypeError, ValueError):
        findings.append("'resources' holds a value that JSON cannot hold (a date, a binary, a not-a-number)")
    if findings:
        raise ManifestError(APP_YAML, findings)
    respelled_application = {**application, "version": version}
    if respelled_application == written:
        return config
    whole = {"application": respelled_application, "resources": resources}
    return replace(config, for_packager=yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))


def _as_written(text: str, version: Any) -> str:
    """The text of a version that YAML takes for a number or a date; empty for anything else."""
    if isinstance(version, bool) or not isinstance(version, int | float | date):
        return ""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in ("application", "version"):
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        root = next((value for key, value in pairs if key.value == name), None)
    return root.value if isinstance(root, yaml.ScalarNode) else ""


def line_of(text: str, name: str) -> int:
    """The line of a key such as ``application.version`` in a YAML text, or of the nearest one above it; 0 where there is none."""
    try:
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return 0
    line = 0
    for part in name.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((key, value) for key, value in pairs if key.value == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _of_the_build(section: Any, findings: list[str]) -> tuple[Any, tuple[str, ...], bool]:
    """What the section ``monai-aws`` says of the image's making, and the section without it (what is asked of a study)."""
    if not isinstance(section, dict):
        return section, (), True
    rest = {name: value for name, value in section.items() if name not in ("system-packages", "unpack-models")}
    packages = section.get("system-packages")
    if packages is None:
        packages = []
    good = isinstance(packages, list) and all(isinstance(item, str) and _SYSTEM_PACKAGE.fullmatch(item) for item in packages)
    if not good or len(packages) > _MAX_SYSTEM_PACKAGES:
        findings.append(f"'monai-aws.system-packages' must be a list of at most {_MAX_SYSTEM_PACKAGES} Debian packages, such as [libgl1]")
        packages = []
    unpack = section.get("unpack-models", True)
    if not isinstance(unpack, bool):
        findings.append("'monai-aws.unpack-models' must be true or false")
        unpack = True
    return rest, tuple(sorted(set(packages))), unpack


def parse_app_manifest(text: str) -> AppManifest:
    """Read ``app.json`` of an image. Raises ManifestError with every finding."""
    try:
        run = parse_app_json(_bounded(text, "app.json"))
    except AppManifestError as error:
        raise ManifestError("app.json", [str(error).removeprefix("app.json: ")]) from error
    read = json.loads(text)
    data = {"sdk": _OLDER_SDK, **respelled(read)} if is_older(read) else read
    findings: list[str] = []
    manifest = AppManifest(
        run=run,
        api_version=_required(data, "apiVersion", findings),
        sdk=_required(data, "sdk", findings),
        sdk_version=_required(data, "sdkVersion", findings),
        version=_required(data, "version", findings),
        input_formats=_texts(data.get("input") or {}, "formats", findings),
        output_formats=_texts(data.get("output") or {}, "formats", findings),
    )
    if findings:
        raise ManifestError("app.json", findings)
    return manifest


def parse_package_manifest(text: str) -> PackageManifest:
    """Read ``pkg.json`` of an image. Raises ManifestError with every finding."""
    try:
        data = json.loads(_bounded(text, "pkg.json"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError("pkg.json", ["not JSON"]) from error
    if not isinstance(data, dict):
        raise ManifestError("pkg.json", ["not a JSON object"])
    if is_older(data):
        data = _todays_package(respelled(data))
    findings: list[str] = []
    models, resources = data.get("models") or {}, data.get("resources") or {}
    if not isinstance(models, dict) or not all(isinstance(path, str) and path.startswith("/") for path in models.values()):
        findings.append("'models' must map names to absolute folders")
        models = {}
    if not isinstance(resources, dict):
        findings.append("'resources' must be an object")
        resources = {}
    manifest = PackageManifest(
        api_version=_required(data, "apiVersion", findings),
        application_root=_absolute(data, "applicationRoot", findings),
        model_root=_absolute(data, "modelRoot", findings),
        models=dict(models),
        resources=resources,
        version=_required(data, "version", findings),
    )
    if findings:
        raise ManifestError("pkg.json", findings)
    return manifest


def _todays_package(data: dict[str, Any]) -> dict[str, Any]:
    """An older ``pkg.json``: models as a list of names and files, and no folder of all models."""
    listed = data.get("models")
    if isinstance(listed, list) and all(isinstance(item, dict) for item in listed):
        data["models"] = {str(item.get("name")): posixpath.dirname(str(item.get("path"))) for item in listed}
    return {"modelRoot": _OLDER_MODELS, **data}


def load_yaml(text: str, what: str) -> dict[str, Any]:
    """A YAML mapping from an untrusted file that the errors call ``what``. Raises ManifestError."""
    try:
        # An alias is a reference; a few nested ones write themselves out as gigabytes of JSON.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ManifestError(what, ["YAML aliases (*name) are not supported; write the value out"])
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise ManifestError(what, [f"not valid YAML{f' near line {line + 1}' if line is not None else ''}"]) from error
    if not isinstance(data, dict):
        raise ManifestError(what, ["empty, or not a mapping at its top level"])
    return data


def _bounded(text: str, what: str) -> str:
    if len(text) > MAX_BYTES:
        raise ManifestError(what, [f"larger than {MAX_BYTES // 1024} KiB"])
    return text


def _texts(data: Any, name: str, findings: list[str]) -> tuple[str, ...]:
    value = data.get(name) if isinstance(data, dict) else None
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) and item.isprintable() for item in value):
        findings.append(f"'{name}' must be a list of texts")
        return ()
    return tuple(value)


def _required(data: dict[str, Any], name: str, findings: list[str]) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        findings.append(f"'{name}' is missing or not a text")
        return ""
    return value


def _absolute(data: dict[str, Any], name: str, findings: list[str]) -> str:
    value = _required(data, name, findings)
    if value and (not value.startswith("/") or ".." in value.split("/")):
        findings.append(f"'{name}' must be an absolute path")
    return value
