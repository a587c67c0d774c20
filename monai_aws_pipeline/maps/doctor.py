"""What is wrong with an application before any money is spent on building it: all findings at once, each with its remedy.

Here belong the order of the examinations, what is said of app.yaml, the entry point and the models, and the traps of the MONAI Deploy App
SDK 4.0.0, which were measured; an application that does not use the SDK hears nothing of them. Nothing of the application is run, nothing
is installed. What the code imports is judged in ``imports``, what it does in ``code_traps``; whether pip finds an answer to requirements is
asked by ``resolution``; whether the settings go together is in ``combinations``; whether the built image keeps the format, in
``conformance``. Who fetches application and models, and looks at the golden study too, is ``deployment.doctor``.
"""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from monai_aws_pipeline.maps import (
    app_code,
    code_traps,
    dockerfile,
    imports,
    requirements,
    resolution,
    sdk_renderer,
    settings_compatibility,
    wheelhouse,
)
from monai_aws_pipeline.maps.app_code import ENTRY_POINT, AppCode
from monai_aws_pipeline.maps.download import ModelError
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.imports import Installed
from monai_aws_pipeline.maps.manifest import APP_YAML, AppConfig, AppYamlMissingError, ManifestError, line_of, read_app_config
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.requirements import (
    CLI,
    CONSTRAINTS,
    CUDART_ITSELF,
    CUDART_PIN,
    HOLOSCAN,
    OTHER_HOLOSCANS,
    REQUIREMENTS,
    SDK,
    Pins,
)
from monai_aws_pipeline.maps.source import Source
from monai_aws_pipeline.scratch import scratch

CLI_WITHOUT_PACKAGER: Final = Version("4.3.0")
THIS_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
GUIDE: Final = "docs/your-own-model.md"
SETTINGS_FILE: Final = ".env"

_BUNDLE: Final = "MonaiBundleInferenceOperator"
_BY_THE_PACKAGER: Final = frozenset({SDK, HOLOSCAN, CLI, "numpy", "colorama", "tritonclient", "typeguard"})
"""What the official packager installs by itself, with what the SDK requires."""
_MODEL_VARIABLE: Final = "HOLOSCAN_MODEL_PATH"
_BUNDLE_FILES: Final = ("metadata.json", "inference.json")
_KEY: Final = re.compile(r"'([A-Za-z][A-Za-z_.-]*)'")


@dataclass(frozen=True)
class Plan:
    """How the application would be built and run: the settings that decide about it. ``name``: what it is called where it has no title."""

    base_image: str
    collect_wheels: bool = False
    model_uri: str = ""
    model_sha256: str = ""
    packager: str = "layered"
    python: str = "3.12"
    network: str = "none"
    gpus: str = "all"
    name: str = "My application"

    @property
    def layered(self) -> bool:
        """Whether the packages are installed by this project, which adds the SDK's pins."""
        return self.packager == "layered"


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
class Resolved:
    """What is known of the packages that an image will hold, and what was found on the way there."""

    installed: Installed
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _Read:
    """The application's folder, read once. ``own``: its requirements as written; ``required``: with the SDK's pins where they are added."""

    folder: Path
    code: AppCode
    config: AppConfig | None
    own: Pins
    required: Pins
    constrained: Pins
    uses_sdk: bool
    findings: tuple[Finding, ...] = field(default=())


def resolve(folder: Path, plan: Plan, cache: Path, report: Callable[[str], None]) -> Resolved:
    """What pip would install by what was read of the requirements: names and versions alone, none of their options or addresses."""
    read = _read(folder, plan)
    wheels = plan.collect_wheels and plan.layered
    if wheels and (gathered := _gathered(folder, cache, plan.python)):
        names = frozenset(wheel.name for wheel in gathered.wheels)
        paths = [gathered.path / wheel.file for wheel in gathered.wheels]
        versions = {wheel.name: wheel.version for wheel in gathered.wheels}
        return Resolved(Installed(names, complete=True, modules=imports.modules_in(paths), versions=versions))
    constrained = read.constrained if plan.layered else Pins()
    question = resolution.Question(
        requirements=tuple(str(each) for each in read.required.requirements if not each.url),
        constraints=tuple(str(each) for each in constrained.requirements if not each.url and not each.extras),
        python=plan.python,
        wheels_only=wheels and plan.python != THIS_PYTHON,
    )
    answer = resolution.ask(question, cache, report=report)
    if answer.packages is None:
        return Resolved(_guessed(read, plan), answer.findings)
    # What an address, an option or another file brings is not known here.
    whole = answer.whole and not any(finding.severity is Severity.ERROR for finding in read.own.findings)
    names = frozenset(answer.packages) | read.required.names | (frozenset() if plan.layered else _BY_THE_PACKAGER)
    return Resolved(Installed(names, complete=whole, versions=answer.packages), answer.findings)


def _gathered(folder: Path, cache: Path, python: str) -> wheelhouse.Wheelhouse | None:
    """The wheels of an application, where they are gathered already."""
    try:
        with scratch("monai-aws-requirements") as place:
            name = wheelhouse.name_of(requirements.requirements_file(folder, place), python)
        return wheelhouse.read(cache / "wheelhouses" / name)
    except (wheelhouse.WheelhouseError, UnicodeDecodeError):  # said by the point that it belongs to
        return None


def _guessed(read: _Read, plan: Plan) -> Installed:
    return Installed.guessed(read.required.names if plan.layered else read.required.names | _BY_THE_PACKAGER)


def examine(source: Source, plan: Plan, models: Sequence[Model] = (), installed: Installed | None = None) -> list[Finding]:
    """Examine an application; an empty list means that nothing is known against building it.

    Args:
        source: The application's files.
        plan: How it would be built.
        models: Its models, already checked by their SHA-256; none where there are none, or where they could not be fetched.
        installed: What the image will hold (``resolve``); None where that was not asked.
    """
    read = _read(source.path, plan)
    code, config = read.code, read.config
    present = installed or _guessed(read, plan)
    old = code_traps.old_api(code)
    findings = [*read.findings, *_entry_point(code, plan)]
    findings += read.own.findings
    findings += read.constrained.findings
    findings += requirements.contradictions(read.own, read.constrained)
    if old:
        findings += old  # what else its SDK lacks today follows from that
    elif read.uses_sdk or read.own.named(SDK):
        findings += _sdk_traps(read, plan, installed)
    findings += imports.examine(code, present, read.own.names, plan.python)
    findings += imports.hides_pythons_own(code)
    findings += imports.links_gl(code, present, config.system_packages if config else ())
    findings += code_traps.reads_images(code, config)
    findings += code_traps.needs_arguments(code)
    findings += code_traps.needs_network(code, plan.network)
    findings += code_traps.series_choice(code, config)
    findings += code_traps.volumes(code, config)
    findings += code_traps.decoders(None if _knows_nothing(read) else read.required.names)
    findings += _models(code, config, plan, models)
    system_packages = bool(config and config.system_packages)
    has_constraints = (source.path / CONSTRAINTS).is_file()
    findings += examine_settings(plan, has_constraints=has_constraints, has_system_packages=system_packages)
    return findings


def _knows_nothing(read: _Read) -> bool:
    return not read.own.requirements and not (read.folder / REQUIREMENTS).is_file()


def examine_settings(plan: Plan, *, has_constraints: bool = False, has_system_packages: bool = False) -> list[Finding]:
    """What can be said without the application."""
    try:
        dockerfile.dependency_stage(plan.base_image)
    except dockerfile.RecipeError as error:
        return [Finding("base-image", str(error), "Set MONAI_AWS_BASE_IMAGE to REPOSITORY:TAG or REPOSITORY@DIGEST")]
    return settings_compatibility.examine(
        plan.base_image, plan.packager, plan.python, collect_wheels=plan.collect_wheels, has_constraints=has_constraints,
        has_system_packages=has_system_packages,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- app.yaml and code


def _read(folder: Path, plan: Plan) -> _Read:
    config, findings = _config(folder, plan)
    code = app_code.read(folder, plan.python)
    extra = config.pip_packages if config else ()
    own, missing = _requirements(folder, extra, plan)
    constrained = requirements.read_pins(folder / CONSTRAINTS, "constraints")
    uses_sdk = requirements.uses_sdk(folder)
    required = own
    if plan.layered and uses_sdk:
        lines = "\n".join(str(each) for each in own.requirements)
        fixed = "\n".join(str(each) for each in constrained.requirements)
        required = requirements.parse_pins(requirements.with_sdk_pins(lines, fixed), "requirements")
    own, required, constrained = (pins.in_image(plan.python) for pins in (own, required, constrained))
    return _Read(folder, code, config, own, required, constrained, uses_sdk, (*findings, *missing))


def _config(folder: Path, plan: Plan) -> tuple[AppConfig | None, list[Finding]]:
    try:
        config = read_app_config(folder)
    except AppYamlMissingError:
        message = "the application folder holds no app.yaml, which names title, version and resources"
        remedy = f"Write one beside {ENTRY_POINT}, as below, or point MONAI_AWS_APP_SOURCE and MONAI_AWS_APP_DIR at the folder that has one"
        return None, [Finding("app.yaml", message, remedy, file=APP_YAML, paste=template(plan))]
    except ManifestError as error:
        text = (folder / APP_YAML).read_text("utf-8", errors="replace")
        remedy = f"Correct app.yaml; {GUIDE} shows a whole one"
        return None, [Finding("app.yaml", each, remedy, file=APP_YAML, line=_line(text, each)) for each in error.findings]
    if config.pip_packages and plan.collect_wheels:
        message = "'pip-packages' is not seen when wheels are collected"
        line = line_of((folder / APP_YAML).read_text("utf-8"), "application.pip-packages")
        paste = "\n".join(config.pip_packages)
        remedy = "Move its packages to requirements.txt beside it"
        return config, [Finding("app.yaml", message, remedy, file=APP_YAML, line=line, paste=paste, into=REQUIREMENTS)]
    return config, []


def _line(text: str, finding: str) -> int:
    if found := re.search(r"near line (\d+)", finding):
        return int(found[1])
    key = _KEY.match(finding)
    return line_of(text, key[1]) if key else 0


def template(plan: Plan) -> str:
    """An app.yaml to begin with."""
    title = "".join(char for char in plan.name if char.isalnum() or char in " -_.").strip()[:100] or "My application"
    return (
        "application:\n"
        f'  title: "{title}"\n'
        '  version: "1.0.0"\n'
        '  input-formats: ["DICOM"]\n'
        '  output-formats: ["DICOM"]\n'
        "resources:\n"
        "  cpu: 4\n"
        f"  gpu: {1 if plan.gpus else 0}\n"
        "  memory: 8Gi\n"
    )


def _entry_point(code: AppCode, plan: Plan) -> list[Finding]:
    """The entry point must be there, and every file must be Python: of the MAP's version, as far as this one can tell."""
    findings = []
    if ENTRY_POINT not in code.files:
        remedy = "Add one: 'python3 FOLDER' must start the application"
        paste = 'from app import App  # your own names\n\nif __name__ == "__main__":\n    App().run()'
        findings.append(Finding("entry-point", "the application folder has no __main__.py", remedy, file=ENTRY_POINT, paste=paste))
    for each in code.unreadable:
        line = f" near line {each.line}" if each.line else ""
        severity = Severity.ERROR if each.certain else Severity.WARNING
        message = f"{each.file} is not Python{f' {plan.python}' if each.certain else ' that this machine can read'}{line} ({each.why})"
        remedy = "Correct the file" if each.certain else f"Correct the file, unless it is right for Python {plan.python}"
        findings.append(Finding("entry-point", message, remedy, severity, each.file, each.line))
    return findings


# ------------------------------------------------------------------------------------------------------------------- requirements


def _requirements(folder: Path, extra: Sequence[str], plan: Plan) -> tuple[Pins, list[Finding]]:
    path = folder / REQUIREMENTS
    if path.is_file():
        return requirements.read_pins(path, "requirements", extra), []
    severity = Severity.ERROR if plan.collect_wheels else Severity.WARNING
    remedy = "Add one that lists what the application imports; it may be empty"
    missing = Finding("requirements", "there is no requirements.txt", remedy, severity, REQUIREMENTS)
    return requirements.parse_pins("\n".join(extra), "requirements"), [missing]


# --------------------------------------------------------------------------------------------------------- the SDK's own traps


def _sdk_traps(read: _Read, plan: Plan, installed: Installed | None) -> list[Finding]:
    """What MONAI Deploy App SDK 4.0.0 needs and does not say itself."""
    exact: Mapping[str, tuple[str, ...]] = requirements.exact(read.constrained) | requirements.exact(read.required)
    remedy = f"Write {SDK}=={sdk_renderer.SDK_VERSION} into {REQUIREMENTS}"
    version = exact.get(SDK, ("",))[0]
    if version and version != sdk_renderer.SDK_VERSION:  # another one has traps of its own, which are not known here
        line = read.own.line_of(SDK)
        return [Finding("sdk", f"{SDK} {version} was never tried here", remedy, Severity.WARNING, REQUIREMENTS, line)]
    findings = []
    if not version and read.own.named(SDK) and plan.layered:
        pin = f"{SDK}=={sdk_renderer.SDK_VERSION}"
        findings.append(Finding("sdk", f"{SDK} is not pinned", remedy, file=REQUIREMENTS, line=read.own.line_of(SDK), paste=pin))
    findings += [*_added(read), *_cli(exact), *_holoscan(exact), *_two_holoscans(read, plan), *_cudart(read.required, plan.base_image)]
    return [*findings, *_pydicom(read, installed)]


def _added(read: _Read) -> list[Finding]:
    """Which pins the packager adds, as a thing to know."""
    before = {str(each) for each in read.own.requirements}
    lines = [str(each) for each in read.required.requirements if str(each) not in before]
    if not lines:
        return []
    message = f"the requirements leave open what the SDK needs, so that the packager adds {', '.join(lines)}"
    return [Finding("sdk", message, f"Nothing; or write them into {REQUIREMENTS}", Severity.INFO, REQUIREMENTS, paste="\n".join(lines))]


def _cli(exact: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    pin = f"{CLI}=={sdk_renderer.CLI_VERSION}"
    remedy = f"Write {pin} into {REQUIREMENTS}"
    version = exact.get(CLI, ("",))[0]
    if not version:
        message = f"{CLI} is not pinned: the SDK takes any, and the newest has no monai-deploy command"
        return [Finding("sdk", message, remedy, file=REQUIREMENTS, paste=pin)]
    if _at_least(version, CLI_WITHOUT_PACKAGER):
        message = f"{CLI} {version} has no monai-deploy command; it is gone from {CLI_WITHOUT_PACKAGER} on"
        return [Finding("sdk", message, remedy, file=REQUIREMENTS, paste=pin)]
    return []


def _holoscan(exact: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    pin = f"{HOLOSCAN}=={sdk_renderer.HOLOSCAN_VERSION}"
    remedy = f"Write {pin} into {REQUIREMENTS}"
    version = exact.get(HOLOSCAN, ("",))[0]
    if not version:
        if any(name in exact for name in OTHER_HOLOSCANS):
            return []  # which is the trouble, and said below
        message = f"{HOLOSCAN} is not pinned: the SDK takes any, and a newer one does not go with its packager"
        return [Finding("sdk", message, remedy, file=REQUIREMENTS, paste=pin)]
    if not version.startswith(sdk_renderer.HOLOSCAN_VERSION.rpartition(".")[0] + "."):
        message = f"{HOLOSCAN} {version} was never tried with SDK {sdk_renderer.SDK_VERSION}"
        return [Finding("sdk", message, remedy, Severity.WARNING, REQUIREMENTS, paste=pin)]
    return []


def _two_holoscans(read: _Read, plan: Plan) -> list[Finding]:
    """SDK 4.0.0 requires holoscan-cu13; another build of holoscan writes the same files over it."""
    other = next((name for name in OTHER_HOLOSCANS if name in read.own.names), "")
    if not other:
        return []
    beside = "the requirements name it too" if HOLOSCAN in read.own.names else f"SDK {sdk_renderer.SDK_VERSION} requires it"
    message = f"{other} is installed beside {HOLOSCAN} ({beside}): both write the folder holoscan, and which one remains is chance"
    paste = f"{HOLOSCAN}=={sdk_renderer.HOLOSCAN_VERSION}"
    remedy = f"Remove {other} from {REQUIREMENTS}" + ("" if plan.layered else f" and write {paste}")
    return [Finding("sdk", message, remedy, file=REQUIREMENTS, line=read.own.line_of(other), paste=paste)]


def _cudart(required: Pins, base_image: str) -> list[Finding]:
    toolkits = [each for each in required.requirements if each.name == "cuda-toolkit"]
    if any("cudart" in each.extras for each in toolkits) or required.named(*CUDART_ITSELF):
        return []
    # A CUDA base image brings the library along; the requirement makes the MAP work on any base.
    severity = Severity.WARNING if base_image.rpartition("/")[2].startswith("cuda:") else Severity.ERROR
    message = (
        "nothing brings libcudart.so.13, which holoscan links even where there is no GPU; "
        "the application would end with 'Multiple versions of MONAI may have been installed'"
    )
    return [Finding("sdk", message, f"Write {CUDART_PIN} into {REQUIREMENTS}", severity, REQUIREMENTS, paste=CUDART_PIN)]


def _pydicom(read: _Read, installed: Installed | None) -> list[Finding]:
    """The SDK's operators import ``pydicom.pixels.apply_rescale`` and its like, which pydicom has from 3 on; the SDK does not say so."""
    wanted = [each for each in (*read.own.requirements, *read.constrained.requirements) if each.name.lower() == "pydicom"]
    chosen = next((str(each.specifier) for each in wanted if requirements.excludes_pydicom_3(each.specifier)), "")
    version = (installed.versions or {}).get("pydicom", "") if installed else ""
    if not chosen and version and not _at_least(version, Version("3")):
        chosen = f"=={version}, which another requirement asks for"
    if not chosen:
        return []
    line = read.own.line_of("pydicom")
    message = f"SDK {sdk_renderer.SDK_VERSION} needs pydicom 3, and the requirements take pydicom{chosen}: its operators would fail"
    file = REQUIREMENTS if line or not wanted else CONSTRAINTS
    return [Finding("sdk", message, "Write pydicom==3.0.2", file=file, line=line, paste="pydicom==3.0.2")]


def _at_least(version: str, limit: Version) -> bool:
    try:
        return Version(version) >= limit
    except InvalidVersion:
        return False


# ----------------------------------------------------------------------------------------------------------------------- models


def _models(code: AppCode, config: AppConfig | None, plan: Plan, models: Sequence[Model]) -> list[Finding]:
    if not plan.model_uri:
        used = _model_use(code)
        if used is None:
            return []
        remedy = "Set MONAI_AWS_MODEL_URI and MONAI_AWS_MODEL_SHA256, unless the application does without"
        paste = "MONAI_AWS_MODEL_URI=\nMONAI_AWS_MODEL_SHA256="
        return [
            Finding(
                "model",
                "the code reads a model, and the settings name none",
                remedy,
                Severity.WARNING,
                *used,
                paste=paste,
                into=SETTINGS_FILE,
            )
        ]
    unpack = config.unpack_models if config else True
    return [*_named_otherwise(code, models), *_bundles(code, models, unpack=unpack)]


def _model_use(code: AppCode) -> tuple[str, int] | None:
    """The first place that reads a model: the SDK's bundle operator, its context, or the variable of the model's folder."""
    for file, tree in code.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                of_context = isinstance(node.value, ast.Name) and "context" in node.value.id
                found = node.attr == "model_path" or (node.attr == "models" and of_context)
            else:
                found = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value == _MODEL_VARIABLE
            if found:
                return file, getattr(node, "lineno", 0)
    return code.first_use(_BUNDLE)


def _named_otherwise(code: AppCode, models: Sequence[Model]) -> list[Finding]:
    """A model that the code asks for by a name that no model of the settings has."""
    names = [each.name for each in models]
    asked = [
        (call.file, call.line, str(keyword.value.value))
        for call in code.calls()
        for keyword in call.node.keywords
        if keyword.arg == "model_name" and isinstance(keyword.value, ast.Constant) and call.name.endswith("InferenceOperator")
    ]
    wrong = [(file, line, name) for file, line, name in asked if name and names and name not in names]
    if not wrong:
        return []
    file, line, name = wrong[0]
    message = f"the code asks for the model {name!r}, and the settings name {', '.join(names)}"
    remedy = "Name it in the setting: NAME=ADDRESS"
    return [Finding("model", message, remedy, Severity.WARNING, file, line, f"MONAI_AWS_MODEL_URI={name}=ADDRESS", SETTINGS_FILE)]


def _bundles(code: AppCode, models: Sequence[Model], *, unpack: bool) -> list[Finding]:
    used = code.first_use(_BUNDLE)
    if used is None or not models:
        return []
    try:
        wrong = [missing for each in models if (missing := _missing_in_bundle(each, unpack=unpack))]
    except ModelError as error:
        return [Finding("model", str(error), "Make the archive anew and set its SHA-256")]
    if len(wrong) < len(models):  # other models may be for other operators
        return []
    message = f"{_BUNDLE} wants {wrong[0]}"
    return [Finding("model", message, "Export it with 'python -m monai.bundle ckpt_export'", Severity.ERROR, *used)]


def _missing_in_bundle(model: Model, *, unpack: bool) -> str:
    """What keeps a model from being a bundle: one TorchScript file with its configuration inside, or a folder of configs and models."""
    if model.path.is_file() and not (model.is_zip and unpack):
        try:
            with zipfile.ZipFile(model.path) as archive:
                inside = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):
            inside = []
        missing = [name for name in _BUNDLE_FILES if not any(member.endswith(f"extra/{name}") for member in inside)]
        return f"one TorchScript file with {' and '.join(f'extra/{name}' for name in missing)} inside" if missing else ""
    files = model.files(unpack=unpack)
    if any(name.endswith((".ts", ".pt")) and "/" not in name for name in files):
        return ""  # a TorchScript file in a folder, which is looked into by the application
    missing = [f"configs/{name}" for name in _BUNDLE_FILES if f"configs/{name}" not in files]
    missing += [] if {"models/model.ts", "models/model.pt"} & set(files) else ["models/model.ts or models/model.pt"]
    return f"a folder with {' and '.join(missing)}" if missing else ""
