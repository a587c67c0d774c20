"""Requirements and constraints of an application as values: lines that can be used, exact versions that they name, the SDK's own pins.

Here belongs reading the two files and ``with_sdk_pins``, which everything that builds, gathers or asks pip uses alike. Whether pip finds an
answer to them is ``resolution``'s; what is wrong with an application as a whole is said by ``doctor``.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from monai_aws_pipeline.maps import sdk_renderer
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.spec.study_contract import python_files

REQUIREMENTS: Final = "requirements.txt"
CONSTRAINTS: Final = "constraints.txt"

SDK: Final = "monai-deploy-app-sdk"
CLI: Final = "holoscan-cli"
HOLOSCAN: Final = "holoscan-cu13"
OTHER_HOLOSCANS: Final = ("holoscan", "holoscan-cu12")
"""Distributions that write the same folder ``holoscan``, in the spelling of ``canonicalize_name``."""
TOOLKIT: Final = "cuda-toolkit"
CUDART_ITSELF: Final = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13")
SDK_PINS: Final = (
    f"{SDK}=={sdk_renderer.SDK_VERSION}",
    f"{HOLOSCAN}=={sdk_renderer.HOLOSCAN_VERSION}",
    f"{CLI}=={sdk_renderer.CLI_VERSION}",
    f"{TOOLKIT}[cudart]==13.0.3",
    "pydicom>=3",
)
"""What MONAI Deploy App SDK 4.0.0 was tested with here and does not pin itself (docs/your-own-model.md, "Requirements")."""
CUDART_PIN: Final = SDK_PINS[3]

_USES_SDK: Final = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t]*(?:from|import)[ \t]+monai\.deploy\b", re.MULTILINE)
_MAX_TEXT: Final = 1024 * 1024
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://|\bfile:", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,80}")
_IMAGE: Final = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "sys_platform": "linux",
}
"""What markers of requirements ask about (PEP 508), as it is in the image; the machine that reads them may be another."""
_ENCODING: Final = "utf-8-sig"
"""UTF-8, with the mark that Windows puts before it, as pip reads it."""
_NEWER_PYDICOMS: Final = ("3.0.0", "3.0.1", "3.0.2", "3.1.0", "3.9.0", "4.0.0")


@dataclass(frozen=True)
class Pins:
    """A requirements or constraints file as far as it can be read. ``lines``: of each requirement, in the same order; 0 where none."""

    requirements: tuple[Requirement, ...] = ()
    findings: tuple[Finding, ...] = ()
    lines: tuple[int, ...] = ()

    def named(self, *names: str) -> Requirement | None:
        """The first requirement with one of these names."""
        return next((each for each in self.requirements if canonicalize_name(each.name) in names), None)

    def line_of(self, *names: str) -> int:
        """The line of that requirement, 0 where there is none."""
        found = (line for each, line in zip(self.requirements, self.lines, strict=True) if canonicalize_name(each.name) in names)
        return next(found, 0)

    def in_image(self, python: str) -> Pins:
        """Those whose markers hold in the image, without their markers. ``python``: the image's, such as ``3.12``."""
        environment = {**_IMAGE, "python_version": python, "python_full_version": f"{python}.0", "implementation_version": f"{python}.0"}
        kept = [
            (_without_marker(each), line)
            for each, line in zip(self.requirements, self.lines, strict=True)
            if each.marker is None or each.marker.evaluate(environment)
        ]
        return replace(self, requirements=tuple(each for each, _ in kept), lines=tuple(line for _, line in kept))

    @property
    def names(self) -> frozenset[str]:
        """Canonical names of all of them."""
        return frozenset(canonicalize_name(each.name) for each in self.requirements)


def _without_marker(requirement: Requirement) -> Requirement:
    bare = copy.copy(requirement)
    bare.marker = None
    return bare


def read_pins(path: Path, point: str, extra: Iterable[str] = ()) -> Pins:
    """Read a file, and further lines that count as part of it; a file that is not there has no lines."""
    if not path.is_file():
        return Pins()
    if path.stat().st_size > _MAX_TEXT:
        message = f"{path.name} is larger than {_MAX_TEXT // 1024} KiB"
        return Pins(findings=(Finding(point, message, "List packages only", file=path.name),))
    try:
        text = path.read_text(_ENCODING)
    except UnicodeDecodeError:
        return Pins(findings=(Finding(point, f"{path.name} is not UTF-8 text", "Save it as UTF-8", file=path.name),))
    return parse_pins("\n".join([text, *extra]), point)


def parse_pins(text: str, point: str) -> Pins:
    """Read the text of a requirements (``point`` is ``requirements``) or constraints file; every line that cannot be used is a finding."""
    requirements, findings, numbers = [], [], []
    for number, line in _lines(text):
        where = f"line {number}"
        if line.startswith("-"):
            findings.append(_option(line, number, point))
            continue
        line_without_hashes = re.split(r"\s--hash\b", line)[0].strip()
        try:
            requirement = Requirement(line_without_hashes)
        except InvalidRequirement:
            remedy = "Write NAME==VERSION; a path or a bare address works on one machine only"
            findings.append(Finding(point, f"{where} is not a requirement", remedy, file=f"{point}.txt", line=number))
            continue
        if requirement.url:
            # The address is not repeated: it may hold credentials.
            remedy = f"Write {requirement.name}==VERSION and configure the index on the machine that gathers the wheels"
            findings.append(Finding(point, f"{where} takes {requirement.name} from an address", remedy, file=f"{point}.txt", line=number))
        requirements.append(requirement)
        numbers.append(number)
    return Pins(tuple(requirements), tuple(findings), tuple(numbers))


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


def _option(line: str, number: int, point: str) -> Finding:
    where, file = f"line {number}", f"{point}.txt"
    name = re.split(r"[\s=]", line)[0]
    name = name if _NAME.fullmatch(name) else "an option"
    if name in ("-r", "--requirement", "-c", "--constraint"):
        message = f"{where} ({name}) names another file, which is not taken along"
        return Finding(point, message, "Write its lines here, or into constraints.txt", file=file, line=number)
    if _ADDRESS.search(line):
        remedy = "Leave it to pip's own configuration; an address here works on one machine"
        return Finding(point, f"{where} ({name}) names an address", remedy, file=file, line=number)
    if name in ("-e", "--editable"):
        remedy = "Put its modules into the application's folder, or write NAME==VERSION"
        return Finding(point, f"{where} ({name}) names a folder, which is no part of the build", remedy, file=file, line=number)
    message = f"{where} ({name}) is an option of pip"
    return Finding(point, message, "Leave it to pip's own configuration", Severity.WARNING, file=file, line=number)


def contradictions(required: Pins, constrained: Pins) -> list[Finding]:
    """Two exact versions of one package in one place, and exact constraints that a requirement excludes."""
    findings = []
    for pins, point in ((required, "requirements"), (constrained, "constraints")):
        findings += [
            Finding(point, f"{name} is pinned to {' and to '.join(versions)}", "Keep one of them", file=f"{point}.txt")
            for name, versions in sorted(exact(pins).items())
            if len(versions) > 1
        ]
    for constraint in constrained.requirements:
        if constraint.extras:
            message = f"{constraint.name} has extras, which pip refuses here"
            findings.append(Finding("constraints", message, "Write the name without [...]", file=CONSTRAINTS))
    fixed = exact(constrained)
    for requirement in required.requirements:
        for version in fixed.get(canonicalize_name(requirement.name), ()):
            if requirement.specifier and not requirement.specifier.contains(version, prereleases=True):
                message = f"{requirement.name} is pinned to {version}, but requirements.txt wants {requirement.specifier}"
                findings.append(Finding("constraints", message, "Make both say the same version", file=CONSTRAINTS))
    for name, versions in sorted(fixed.items()):
        if any("+" in version for version in versions):
            message = f"{name} is pinned to a build of one index ({', '.join(versions)})"
            findings.append(Finding("constraints", message, "Remove what follows the '+'", Severity.WARNING, file=CONSTRAINTS))
    loose = [
        requirement.name
        for requirement in required.requirements
        if not requirement.url and not pin_of(requirement) and canonicalize_name(requirement.name) not in fixed
    ]
    if loose:
        message = f"{', '.join(loose[:10])} {'is' if len(loose) == 1 else 'are'} not pinned, so that a later build installs other versions"
        findings.append(
            Finding("requirements", message, "Write NAME==VERSION, or add constraints.txt", Severity.WARNING, file=REQUIREMENTS)
        )
    return findings


def exact(pins: Pins) -> dict[str, tuple[str, ...]]:
    """Exact versions by package, different ones only; lines for other platforms (markers) left out."""
    found: dict[str, dict[str, None]] = {}
    for requirement in pins.requirements:
        version = pin_of(requirement)
        if version and requirement.marker is None:
            found.setdefault(canonicalize_name(requirement.name), {})[version] = None
    return {name: tuple(versions) for name, versions in found.items()}


def pin_of(requirement: Requirement | None) -> str:
    """The version of ``==`` (without a star), or nothing."""
    for each in requirement.specifier if requirement else ():
        if each.operator in ("==", "===") and not each.version.endswith("*"):
            return each.version
    return ""


def excludes_pydicom_3(specifier: SpecifierSet) -> bool:
    """Whether no pydicom that the SDK's operators work with is taken."""
    return bool(specifier) and not any(specifier.contains(version, prereleases=True) for version in _NEWER_PYDICOMS)


# --------------------------------------------------------------------------------------------------------------------- the SDK's pins


def uses_sdk(application: Path) -> bool:
    """Whether an application's code imports the MONAI Deploy App SDK."""
    return any(_USES_SDK.search(path.read_bytes()) for path in python_files(application))


def with_sdk_pins(requirements: str, constraints: str) -> str:
    """The requirements of an application that uses the SDK, with the tested pins for what they leave open.

    What the application names itself is kept, be it in the requirements or in the constraints; one that names another SDK gets nothing, and
    where nothing is open the text is returned as it is.
    """
    named, fixed = parse_pins(requirements, "requirements"), exact(parse_pins(constraints, "constraints"))
    tested, chosen = sdk_renderer.SDK_VERSION, named.named(SDK)
    if (chosen is not None and (chosen.url or not chosen.specifier.contains(tested))) or fixed.get(SDK, (tested,))[0] != tested:
        return requirements
    added = [line for pin in SDK_PINS if (line := _open(pin, named, fixed))]
    if not added:
        return requirements
    return "\n".join([requirements.rstrip("\n"), *added]).lstrip("\n") + "\n"


def _open(pin: str, named: Pins, fixed: dict[str, tuple[str, ...]]) -> str:
    """The line that is to be added for a pin; nothing where the application has decided."""
    wanted = Requirement(pin)
    name = canonicalize_name(wanted.name)
    theirs = [each for each in named.requirements if canonicalize_name(each.name) == name]
    bare = f"{wanted.name}{'[' + ','.join(sorted(wanted.extras)) + ']' if wanted.extras else ''}"
    if name == HOLOSCAN and named.named(*OTHER_HOLOSCANS):
        return ""  # which one is meant, nobody can say here; the doctor refuses both beside each other
    if name == TOOLKIT:
        if named.named(*CUDART_ITSELF) or any("cudart" in each.extras for each in theirs):
            return ""
        decided = [pin_of(each) for each in theirs if pin_of(each)]
        return bare if name in fixed or decided else pin
    if name in fixed:
        return "" if theirs else bare
    if not theirs:
        return pin
    version = pin_of(wanted)
    undecided = bool(version) and not any(each.url or pin_of(each) for each in theirs)
    return pin if undecided and all(each.specifier.contains(version) for each in theirs) else ""


def requirements_text(application: Path, pip_packages: Iterable[str] = ()) -> str:
    """What pip is to install for an application: its requirements, what its app.yaml adds, and the SDK's pins where its code uses it."""
    own = "\n".join([*_text(application / REQUIREMENTS).splitlines(), *pip_packages]) + "\n"
    return with_sdk_pins(own, _text(application / CONSTRAINTS)) if uses_sdk(application) else own


def requirements_file(application: Path, folder: Path) -> Path:
    """A requirements file to gather wheels for, its constraints beside it: the application's own, or one with the SDK's pins in ``folder``.

    ``folder`` is written only where pins are added. Where the application has no requirements file, its own path is returned all the same.
    """
    own = application / REQUIREMENTS
    if not own.is_file() or not uses_sdk(application):
        return own
    text, constraints = own.read_text(_ENCODING), _text(application / CONSTRAINTS)
    pinned = with_sdk_pins(text, constraints)
    if pinned == text:
        return own
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REQUIREMENTS).write_text(pinned, "utf-8")
    if (application / CONSTRAINTS).is_file():
        shutil.copyfile(application / CONSTRAINTS, folder / CONSTRAINTS)
    return folder / REQUIREMENTS


def _text(path: Path) -> str:
    return path.read_text(_ENCODING) if path.is_file() else ""
