"""What is wrong with an application before any money is spent on building it: all findings at once, each with its remedy.

Here belongs reading an application's folder, its pins and its model; nothing of it is run and nothing is installed. The traps of the
MONAI Deploy App SDK 4.0.0 were measured; an application that does not use the SDK hears nothing of them. Whether pip finds an answer to the
requirements is asked by ``resolution``; whether the settings go together is in ``combinations``; whether the built image keeps the format,
in ``conformance``. Who fetches application and model, and looks at the golden study too, is ``deployment.doctor``.
"""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from monai_aws_pipeline.maps import combinations, recipe, resolution, sdk_renderer, wheelhouse
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.manifest import AppConfig, ManifestError, read_app_config
from monai_aws_pipeline.maps.source import Source

SDK: Final = "monai-deploy-app-sdk"
CLI: Final = "holoscan-cli"
HOLOSCAN: Final = "holoscan-cu13"
CLI_WITHOUT_PACKAGER: Final = Version("4.3.0")
THIS_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
CUDART_PIN: Final = "cuda-toolkit[cudart]==13.0.3"
CUDART_ITSELF: Final = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13")

_MAX_TEXT: Final = 1024 * 1024
_MAX_FILES: Final = 2000
_USES_SDK: Final = re.compile(r"^\s*(?:from|import)\s+(?:monai\.deploy|holoscan)\b", re.MULTILINE)
_READS_MODEL: Final = re.compile(r"HOLOSCAN_MODEL_PATH|MonaiBundleInferenceOperator|\.model_path\b|context\.models\b")
_BUNDLE: Final = "MonaiBundleInferenceOperator"
_BUNDLE_FILES: Final = ("metadata.json", "inference.json")
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://|\bfile:", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,80}")


@dataclass(frozen=True)
class Plan:
    """How the application would be built: the settings that decide about it."""

    base_image: str
    collect_wheels: bool = False
    model_uri: str = ""
    model_sha256: str = ""
    packager: str = "layered"
    python: str = "3.12"


@dataclass(frozen=True)
class Examination:
    """All findings, and the copy of the application they are about (None where there is none)."""

    findings: tuple[Finding, ...]
    source: Source | None = None

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings a build must not start with."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)


@dataclass(frozen=True)
class Pins:
    """A requirements or constraints file as far as it can be read."""

    requirements: tuple[Requirement, ...] = ()
    findings: tuple[Finding, ...] = ()

    def named(self, *names: str) -> Requirement | None:
        """The first requirement with one of these names."""
        return next((each for each in self.requirements if canonicalize_name(each.name) in names), None)


@dataclass(frozen=True)
class _Code:
    """What the application's Python files say, as text."""

    findings: tuple[Finding, ...] = ()
    uses_sdk: bool = False
    reads_model: bool = False
    uses_bundle: bool = False


def resolve(folder: Path, plan: Plan, cache: Path, report: Callable[[str], None]) -> list[Finding]:
    """Whether pip finds an answer to what was read of the requirements: names and versions alone, none of their options or addresses."""
    requirements = folder / "requirements.txt"
    wheels = plan.collect_wheels and plan.packager == "layered"
    with suppress(wheelhouse.WheelhouseError, UnicodeDecodeError):  # said by the point that it belongs to
        if wheels and wheelhouse.is_collected(requirements, cache, plan.python):
            return []
    required = _requirements(folder, _config(folder, plan)[0], plan)
    constrained = _read_pins(folder / "constraints.txt", "constraints") if plan.packager == "layered" else Pins()
    report(f"asking pip whether the requirements can be met (up to {resolution.SECONDS:.0f} s the first time)")
    question = resolution.Question(
        requirements=tuple(str(each) for each in required.requirements if not each.url),
        constraints=tuple(str(each) for each in constrained.requirements if not each.url and not each.extras),
        python=plan.python,
        wheels_only=wheels and plan.python != THIS_PYTHON,
    )
    return resolution.examine(question, cache)


def examine(source: Source, plan: Plan, model_file: Path | None = None) -> list[Finding]:
    """Examine an application; an empty list means that nothing is known against building it.

    Args:
        source: The application's files.
        plan: How it would be built.
        model_file: The model, already checked by its SHA-256; None where there is none.
    """
    config, findings = _config(source.path, plan)
    code = _code(source.path)
    required = _requirements(source.path, config, plan)
    constrained = _read_pins(source.path / "constraints.txt", "constraints")
    findings += code.findings
    findings += required.findings
    findings += constrained.findings
    findings += _contradictions(required, constrained)
    if code.uses_sdk or required.named(SDK):
        findings += _sdk_traps(required, constrained, plan.base_image)
    findings += _model(code, plan, model_file)
    findings += examine_settings(plan, has_constraints=(source.path / "constraints.txt").is_file())
    return findings


def examine_settings(plan: Plan, *, has_constraints: bool = False) -> list[Finding]:
    """What can be said without the application."""
    try:
        recipe.dependency_stage(plan.base_image)
    except recipe.RecipeError as wrong:
        return [Finding("base-image", str(wrong), "Set MONAI_AWS_BASE_IMAGE to REPOSITORY:TAG or REPOSITORY@DIGEST")]
    return combinations.examine(
        plan.base_image, plan.packager, plan.python, collect_wheels=plan.collect_wheels, has_constraints=has_constraints
    )


# ------------------------------------------------------------------------------------------------------------- app.yaml and code


def _config(folder: Path, plan: Plan) -> tuple[AppConfig | None, list[Finding]]:
    try:
        config = read_app_config(folder)
    except ManifestError as wrong:
        return None, [Finding("app.yaml", each, "Correct app.yaml; docs/your-own-model.md shows a whole one") for each in wrong.findings]
    if config.pip_packages and plan.collect_wheels:
        return config, [
            Finding("app.yaml", "'pip-packages' is not seen when wheels are collected", "Move its packages to requirements.txt beside it")
        ]
    return config, []


def _code(folder: Path) -> _Code:
    """Read every Python file: it must parse, and its words say what the application uses."""
    findings, texts = [], []
    if not (folder / "__main__.py").is_file():
        remedy = "Add one: 'python3 FOLDER' must start the application"
        findings.append(Finding("entry-point", "the application folder has no __main__.py", remedy))
    for path in sorted(folder.rglob("*.py"))[:_MAX_FILES]:
        if path.stat().st_size > _MAX_TEXT:
            continue
        text = path.read_text("utf-8", errors="replace")
        texts.append(text)
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as wrong:
            line = f" near line {wrong.lineno}" if isinstance(wrong, SyntaxError) and wrong.lineno else ""
            # Newer syntax than this process's Python knows is not wrong by itself: the MAP may have a newer one.
            severity = Severity.ERROR if path.name == "__main__.py" and path.parent == folder else Severity.WARNING
            where = str(path.relative_to(folder))
            findings.append(Finding("entry-point", f"{where} is not Python that this machine can read{line}", "Correct the file", severity))
    said = "\n".join(texts)
    return _Code(tuple(findings), bool(_USES_SDK.search(said)), bool(_READS_MODEL.search(said)), _BUNDLE in said)


# ------------------------------------------------------------------------------------------------------------------------- pins


def _requirements(folder: Path, config: AppConfig | None, plan: Plan) -> Pins:
    path = folder / "requirements.txt"
    extra = list(config.pip_packages) if config else []
    if path.is_file():
        return _read_pins(path, "requirements", extra)
    severity = Severity.ERROR if plan.collect_wheels else Severity.WARNING
    remedy = "Add one that lists what the application imports; it may be empty"
    missing = Finding("requirements", "there is no requirements.txt", remedy, severity)
    read = parse_pins("\n".join(extra), "requirements")
    return Pins(read.requirements, (missing, *read.findings))


def _read_pins(path: Path, point: str, extra: Iterable[str] = ()) -> Pins:
    if not path.is_file():
        return Pins()
    if path.stat().st_size > _MAX_TEXT:
        return Pins(findings=(Finding(point, f"{path.name} is larger than {_MAX_TEXT // 1024} KiB", "List packages only"),))
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return Pins(findings=(Finding(point, f"{path.name} is not UTF-8 text", "Save it as UTF-8"),))
    return parse_pins("\n".join([text, *extra]), point)


def parse_pins(text: str, point: str) -> Pins:
    """Read the text of a requirements (``point`` is ``requirements``) or constraints file; every line that cannot be used is a finding."""
    requirements, findings = [], []
    for number, line in _lines(text):
        where = f"line {number}"
        if line.startswith("-"):
            findings.append(_option(line, where, point))
            continue
        line_without_hashes = re.split(r"\s--hash\b", line)[0].strip()
        try:
            requirement = Requirement(line_without_hashes)
        except InvalidRequirement:
            remedy = "Write NAME==VERSION; a path or a bare address works on one machine only"
            findings.append(Finding(point, f"{where} is not a requirement", remedy))
            continue
        if requirement.url:
            # The address is not repeated: it may hold credentials.
            remedy = f"Write {requirement.name}==VERSION and configure the index on the machine that gathers the wheels"
            findings.append(Finding(point, f"{where} takes {requirement.name} from an address", remedy))
        requirements.append(requirement)
    return Pins(tuple(requirements), tuple(findings))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Logical lines with the number of their last one: comments gone, continued lines joined, blank ones left out."""
    begun = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.endswith("\\"):
            begun += line[:-1] + " "
            continue
        whole = re.sub(r"(^|\s)#.*$", "", begun + line).strip()
        begun = ""
        if whole:
            yield number, whole


def _option(line: str, where: str, point: str) -> Finding:
    name = re.split(r"[\s=]", line)[0]
    name = name if _NAME.fullmatch(name) else "an option"
    if name in ("-r", "--requirement", "-c", "--constraint"):
        message = f"{where} ({name}) names another file, which is not taken along"
        return Finding(point, message, "Write its lines here, or into constraints.txt")
    if _ADDRESS.search(line):
        remedy = "Leave it to pip's own configuration; an address here works on one machine"
        return Finding(point, f"{where} ({name}) names an address", remedy)
    return Finding(point, f"{where} ({name}) is an option of pip", "Leave it to pip's own configuration", Severity.WARNING)


def _contradictions(required: Pins, constrained: Pins) -> list[Finding]:
    """Two exact versions of one package in one place, and exact constraints that a requirement excludes."""
    findings = []
    for pins, point in ((required, "requirements"), (constrained, "constraints")):
        findings += [
            Finding(point, f"{name} is pinned to {' and to '.join(versions)}", "Keep one of them")
            for name, versions in sorted(_exact(pins).items())
            if len(versions) > 1
        ]
    for constraint in constrained.requirements:
        if constraint.extras:
            findings.append(Finding("constraints", f"{constraint.name} has extras, which pip refuses here", "Write the name without [...]"))
    exact = _exact(constrained)
    for requirement in required.requirements:
        for version in exact.get(canonicalize_name(requirement.name), ()):
            if requirement.specifier and not requirement.specifier.contains(version, prereleases=True):
                message = f"{requirement.name} is pinned to {version}, but requirements.txt wants {requirement.specifier}"
                findings.append(Finding("constraints", message, "Make both say the same version"))
    for name, versions in sorted(exact.items()):
        if any("+" in version for version in versions):
            message = f"{name} is pinned to a build of one index ({', '.join(versions)})"
            findings.append(Finding("constraints", message, "Remove what follows the '+'", Severity.WARNING))
    loose = [
        requirement.name
        for requirement in required.requirements
        if not requirement.url and not _pin(requirement) and canonicalize_name(requirement.name) not in exact
    ]
    if loose:
        message = f"{', '.join(loose[:10])} {'is' if len(loose) == 1 else 'are'} not pinned, so that a later build installs other versions"
        findings.append(Finding("requirements", message, "Write NAME==VERSION, or add constraints.txt", Severity.WARNING))
    return findings


def _exact(pins: Pins) -> dict[str, tuple[str, ...]]:
    """Exact versions by package, different ones only; lines for other platforms (markers) left out."""
    found: dict[str, dict[str, None]] = {}
    for requirement in pins.requirements:
        version = _pin(requirement)
        if version and requirement.marker is None:
            found.setdefault(canonicalize_name(requirement.name), {})[version] = None
    return {name: tuple(versions) for name, versions in found.items()}


def _pin(requirement: Requirement | None) -> str:
    """The version of ``==`` (without a star), or nothing."""
    for each in requirement.specifier if requirement else ():
        if each.operator in ("==", "===") and not each.version.endswith("*"):
            return each.version
    return ""


# --------------------------------------------------------------------------------------------------------- the SDK's own traps


def _sdk_traps(required: Pins, constrained: Pins, base_image: str) -> list[Finding]:
    """What MONAI Deploy App SDK 4.0.0 needs and does not say itself."""
    exact: Mapping[str, tuple[str, ...]] = _exact(constrained) | _exact(required)
    remedy = f"Write {SDK}=={sdk_renderer.SDK_VERSION} into requirements.txt"
    version = exact.get(SDK, ("",))[0]
    if version and version != sdk_renderer.SDK_VERSION:  # another one has traps of its own, which are not known here
        return [Finding("sdk", f"{SDK} {version} was never tried here", remedy, Severity.WARNING)]
    findings = []
    if required.named(SDK) is None:
        findings.append(Finding("sdk", f"the code imports the MONAI Deploy App SDK, and the requirements do not name {SDK}", remedy))
    elif not version:
        findings.append(Finding("sdk", f"{SDK} is not pinned", remedy))
    return [*findings, *_cli(exact), *_holoscan(exact), *_cudart(required, base_image), *_monai(required)]


def _cli(exact: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    remedy = f"Write {CLI}=={sdk_renderer.CLI_VERSION} into requirements.txt"
    version = exact.get(CLI, ("",))[0]
    if not version:
        return [Finding("sdk", f"{CLI} is not pinned: the SDK takes any, and the newest has no monai-deploy command", remedy)]
    if _at_least(version, CLI_WITHOUT_PACKAGER):
        return [Finding("sdk", f"{CLI} {version} has no monai-deploy command; it is gone from {CLI_WITHOUT_PACKAGER} on", remedy)]
    return []


def _holoscan(exact: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    remedy = f"Write {HOLOSCAN}=={sdk_renderer.HOLOSCAN_VERSION} into requirements.txt"
    version = exact.get(HOLOSCAN, ("",))[0]
    if not version:
        return [Finding("sdk", f"{HOLOSCAN} is not pinned: the SDK takes any, and a newer one does not go with its packager", remedy)]
    if not version.startswith(sdk_renderer.HOLOSCAN_VERSION.rpartition(".")[0] + "."):
        return [Finding("sdk", f"{HOLOSCAN} {version} was never tried with SDK {sdk_renderer.SDK_VERSION}", remedy, Severity.WARNING)]
    return []


def _cudart(required: Pins, base_image: str) -> list[Finding]:
    toolkit = required.named("cuda-toolkit")
    if (toolkit and "cudart" in toolkit.extras) or required.named(*CUDART_ITSELF):
        return []
    # A CUDA base image brings the library along; the requirement makes the MAP work on any base.
    severity = Severity.WARNING if base_image.rpartition("/")[2].startswith("cuda:") else Severity.ERROR
    message = (
        "nothing brings libcudart.so.13, which holoscan links even where there is no GPU; "
        "the application would end with 'Multiple versions of MONAI may have been installed'"
    )
    return [Finding("sdk", message, f"Write {CUDART_PIN} into requirements.txt", severity)]


def _monai(required: Pins) -> list[Finding]:
    if required.named("monai"):
        return []
    remedy = "Write monai==1.6.1 into requirements.txt, if the application uses operators of the SDK that infer or read bundles"
    return [Finding("sdk", "monai itself is not in the requirements; the SDK does not bring it", remedy, Severity.WARNING)]


def _at_least(version: str, limit: Version) -> bool:
    try:
        return Version(version) >= limit
    except InvalidVersion:
        return False


# ------------------------------------------------------------------------------------------------------------------------ model


def _model(code: _Code, plan: Plan, model_file: Path | None) -> list[Finding]:
    if not plan.model_uri:
        if not code.reads_model:
            return []
        remedy = "Set MONAI_AWS_MODEL_URI and MONAI_AWS_MODEL_SHA256, unless the application does without"
        return [Finding("model", "the code reads a model, and the settings name none", remedy, Severity.WARNING)]
    if model_file is None or not code.uses_bundle:
        return []
    missing = _missing_in_bundle(model_file)
    if not missing:
        return []
    message = f"{_BUNDLE} wants one TorchScript file with {' and '.join(f'extra/{name}' for name in missing)} inside"
    return [Finding("model", message, "Export it with 'python -m monai.bundle ckpt_export'")]


def _missing_in_bundle(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return list(_BUNDLE_FILES)
    return [name for name in _BUNDLE_FILES if not any(member.endswith(f"extra/{name}") for member in inside)]
