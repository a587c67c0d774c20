"""Whether an image is a MAP: named checks over its configuration, its manifests and the list of its files. Pure.

Here belongs what the MONAI Application Package specification and the MONAI Deploy App SDK's packagers lay down: that of today
(``/etc/holoscan``), and that of SDK 0.5 and before (``/etc/monai``), which knew fewer variables and labels and no app.yaml. Who reads the
image, and what a failed check means for a deployment, is the caller's.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from monai_aws_pipeline.maps.manifest import AppManifest, ManifestError, PackageManifest, parse_app_manifest, parse_package_manifest

POINTS: Final[Mapping[str, str]] = {
    "app.json": "the application manifest is there and complete",
    "pkg.json": "the package manifest is there and complete",
    "versions": "both manifests and the image name the same version",
    "command": "the command starts something that is in the image",
    "application": "the application's folder is there",
    "models": "every model of pkg.json has its folder with a file",
    "working-directory": "input and output folders, app.yaml and the tools script are there",
    "entry-point": "the entry point is the MAP's tools script",
    "environment": "the variables that an application reads are set",
    "labels": "the labels that a registry shows are set",
    "user": "the image runs as a user other than root",
    "secrets": "no variable or label looks like a credential",
}
"""Every check by name, in the order of the report."""

_VARIABLES: Final = (
    "INPUT_PATH", "OUTPUT_PATH", "WORKDIR", "APPLICATION", "TIMEOUT", "MODEL_PATH", "CONFIG_PATH", "APP_MANIFEST_PATH",
    "PKG_MANIFEST_PATH",
)  # fmt: skip
_LABELS: Final = ("base", "tag", "org.opencontainers.image.title", "org.opencontainers.image.version", "org.nvidia.holoscan")
_OLDER_VARIABLES: Final = ("INPUTPATH", "OUTPUTPATH", "WORKDIR", "APPLICATION", "TIMEOUT")
_OLDER_LABELS: Final = ("base", "tag", "version", "sdk_version")
_TOOLS: Final = "/var/holoscan/tools"
_OLDER_TOOLS: Final = "/opt/monai/executor/monai-exec"
_UID: Final = re.compile(r"[0-9]{1,10}")
_PASSWD_FIELDS: Final = 7
_SECRET_NAME: Final = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|ACCESS_KEY|CREDENTIAL)", re.IGNORECASE)
_SECRET_VALUE: Final = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}|://[^/\s:@]+:[^/\s@]+@|-----BEGIN|gh[pousr]_[A-Za-z0-9]{20}")


@dataclass(frozen=True)
class Finding:
    """One point that an image does not keep. ``point`` is a key of ``POINTS``.

    ``by_absence``: it follows from a path that is not among the files, and so from nothing where the list of files is not complete.
    """

    point: str
    message: str
    by_absence: bool = False


def check(
    image: Mapping[str, Any], app_json: str | None, pkg_json: str | None, files: Iterable[str], passwd: str | None = None
) -> list[Finding]:
    """Check one image; an empty list means that it conforms.

    Args:
        image: The image's configuration: the registry's config blob (``{"config": …}``) or the answer of
            ``docker inspect`` (``{"Config": …}``).
        app_json, pkg_json: Text of the manifests; None where the image has none.
        files: Absolute paths of the image's files and folders.
        passwd: Text of the image's ``/etc/passwd``, by which a user that is named is known (passwd(5)); None where the image has none.
    """
    config = image.get("config") or image.get("Config") or {}
    present = {"/" + path.strip("/") for path in files}
    findings: list[Finding] = []
    app = _app(app_json, findings)
    package = _package(pkg_json, findings)
    if app and package:
        findings += _versions(app, package, config)
    if app:
        findings += _run(app, present, older=_speaks_older(config))
    if package:
        findings += _contents(package, present)
    findings += _image(config)
    findings += _user(str(config.get("User") or ""), passwd)
    order = list(POINTS)
    return sorted(findings, key=lambda finding: order.index(finding.point))


def _app(text: str | None, findings: list[Finding]) -> AppManifest | None:
    if text is None:
        findings.append(Finding("app.json", "neither /etc/holoscan/app.json nor /etc/monai/app.json is in the image"))
        return None
    try:
        return parse_app_manifest(text)
    except ManifestError as error:
        findings += [Finding("app.json", each) for each in error.findings]
        return None


def _package(text: str | None, findings: list[Finding]) -> PackageManifest | None:
    if text is None:
        findings.append(Finding("pkg.json", "neither /etc/holoscan/pkg.json nor /etc/monai/pkg.json is in the image"))
        return None
    try:
        return parse_package_manifest(text)
    except ManifestError as error:
        findings += [Finding("pkg.json", each) for each in error.findings]
        return None


def _versions(app: AppManifest, package: PackageManifest, config: Mapping[str, Any]) -> list[Finding]:
    labels = config.get("Labels") or {}
    label = str(labels.get("version" if _speaks_older(config) else "org.opencontainers.image.version", app.version))
    if len({app.version, package.version, label}) == 1:
        return []
    return [Finding("versions", f"app.json says {app.version}, pkg.json {package.version}, the image's label {label}")]


def _speaks_older(config: Mapping[str, Any]) -> bool:
    """Whether an image tells its application things by the names of SDK 0.5 and before."""
    return any(str(item).startswith("MONAI_INPUTPATH=") for item in config.get("Env") or [])


def _run(app: AppManifest, present: set[str], *, older: bool) -> list[Finding]:
    findings = []
    programs = [part for part in app.run.command if part.startswith("/")]
    missing = [part for part in programs if not _has(present, part)]
    if not programs:
        findings.append(Finding("command", "the command names no file of the image"))
    findings += [Finding("command", f"{part} is not in the image", by_absence=True) for part in missing]
    work = app.run.working_directory
    wanted = [app.run.input_path, app.run.output_path, *([_OLDER_TOOLS] if older else [f"{work}/tools"])]
    absent = [path for path in wanted if not _has(present, path)]
    if not older and not any(_has(present, f"{work}/{name}") for name in ("app.yaml", "app.config")):
        absent.append(f"{work}/app.yaml")
    return [*findings, *(Finding("working-directory", f"{path} is not in the image", by_absence=True) for path in absent)]


def _contents(package: PackageManifest, present: set[str]) -> list[Finding]:
    findings = []
    if not _has_children(present, package.application_root):
        findings.append(Finding("application", f"{package.application_root} is missing or empty", by_absence=True))
    for name, folder in sorted(package.models.items()):
        if not _has_children(present, folder):
            findings.append(Finding("models", f"{name}: {folder} is missing or empty", by_absence=True))
    return findings


def _image(config: Mapping[str, Any]) -> list[Finding]:
    findings = []
    variables = dict(str(item).partition("=")[::2] for item in config.get("Env") or [])
    labels = {str(name): str(value) for name, value in (config.get("Labels") or {}).items()}
    older = _speaks_older(config)
    entry, tools = config.get("Entrypoint") or [], _OLDER_TOOLS if older else _TOOLS
    if not entry or posixpath.basename(str(entry[0])) != posixpath.basename(tools):
        findings.append(Finding("entry-point", f"is {json.dumps(entry)}, expected {tools}"))
    wanted = [f"MONAI_{name}" for name in _OLDER_VARIABLES] if older else [f"HOLOSCAN_{name}" for name in _VARIABLES]
    findings += [Finding("environment", f"{name} is not set") for name in wanted if name not in variables]
    findings += [Finding("labels", f"{name} is not set") for name in (_OLDER_LABELS if older else _LABELS) if not labels.get(name)]
    for name, value in [*variables.items(), *labels.items()]:
        if (_SECRET_NAME.search(name) and value) or _SECRET_VALUE.search(value):
            findings.append(Finding("secrets", f"{name} looks like a credential; it is readable by everybody who can pull the image"))
    return findings


def _user(user: str, passwd: str | None) -> list[Finding]:
    """``user``: UID or name, with or without a group, as the image's configuration has it. Official MAPs name theirs."""
    name = user.partition(":")[0] or "root"
    number = name
    if not _UID.fullmatch(name):
        lines = (line.split(":") for line in (passwd or "").splitlines())
        found = [fields[2] for fields in lines if len(fields) == _PASSWD_FIELDS and fields[0] == name]
        if not found and name != "root":
            return [Finding("user", f"is {name!r}, whom /etc/passwd of the image does not know", by_absence=True)]
        number = found[0] if found else "0"  # the first line counts
    if _UID.fullmatch(number) and int(number) > 0:
        return []
    return [Finding("user", f"runs as root ({name!r}); set another user")]


def _has(present: set[str], path: str) -> bool:
    path = posixpath.normpath(path)
    return path in present or _has_children(present, path)


def _has_children(present: set[str], folder: str) -> bool:
    prefix = folder.rstrip("/") + "/"
    return any(path.startswith(prefix) for path in present)
