"""Whether pip finds an answer to an application's requirements, asked before any money is spent, with no package installed or run.

pip answers for the image (its Python, Linux on x86_64) with this machine's own configuration. It looks at wheels alone, because to look
into a package that comes as source it would have to run it. For such a package, and for one that is not there, an empty wheel stands in, so
that what is wrong with the others is found all the same. Here belong that question, what pip's words mean, and the answers, kept by a hash
of everything that was asked. What a list of requirements looks like is ``requirements``'s; gathering the wheels is ``wheelhouse``'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from monai_aws_pipeline.maps import wheelhouse
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.scratch import scratch

POINT: Final = "requirements"
SECONDS: Final = 180.0
_INDEX_SECONDS: Final = 60.0
_NEWEST_GLIBC: Final = 39
"""Of Ubuntu 24.04. A base image with an older one takes fewer wheels, which only the build can tell."""
_PLATFORMS: Final = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(_NEWEST_GLIBC, 4, -1)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"),
)  # fmt: skip
_UNREACHABLE: Final = re.compile(
    r"connection broken by|Could not fetch URL|HTTP error|ProxyError|SSLError|Temporary failure|timed out", re.IGNORECASE
)
_NOT_FOUND: Final = re.compile(r"No matching distribution found for ([^\r\n]{1,200})")
_CONFLICT: Final = re.compile(r"The conflict is caused by:\n((?:[ \t]+\S.*\n?)+)")
_CONFLICT_LINES: Final = 6
_MOST_ABSENT: Final = 5
"""Packages without a wheel for which pip is asked again without them."""


@dataclass(frozen=True)
class Question:
    """Requirements and constraints as lines of pip, for a Python such as ``3.12``.

    ``wheels_only``: what has no wheel cannot be built either, as when a wheelhouse is gathered for another Python than this process's.
    """

    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    python: str
    wheels_only: bool = False

    @property
    def key(self) -> str:
        """SHA-256 over everything that decides about the answer, pip's own configuration included."""
        parts = [sorted(self.requirements), sorted(self.constraints), self.python, *_PLATFORMS, wheelhouse.pip_configuration()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What pip said. ``packages``: canonical name and version of everything that would be installed, None where there is no answer.

    ``whole``: nothing was left out of the question, so that nothing else will be installed.
    """

    findings: tuple[Finding, ...] = ()
    packages: Mapping[str, str] | None = None
    whole: bool = True


@dataclass(frozen=True)
class _Said:
    """How one run of pip ended, and what it said; ``packages`` as in ``Answer``."""

    ended: int
    words: str
    packages: Mapping[str, str] = field(default_factory=dict)


def ask(question: Question, cache: Path, seconds: float = SECONDS, report: Callable[[str], None] = lambda _: None) -> Answer:
    """Ask pip. No finding means that there is an answer; what cannot be found out here is a warning.

    Args:
        question: What is asked.
        cache: Folder of answers; the same question is asked once.
        seconds: How long pip may take, each time it is asked.
        report: Told what pip is asked, each time it is.
    """
    if not question.requirements:
        return Answer(packages={})
    known = cache / "resolved" / question.key
    if (packages := _kept(known)) is not None:
        return Answer(packages=packages)
    findings: list[Finding] = []
    absent: dict[str, str] = {}
    report(f"asking pip whether the requirements can be met (it may take up to {seconds:.0f} s)")
    try:
        while (said := _ask_pip(question, absent, seconds)).ended:
            finding, package = _meaning(said.words, question, report)
            findings.append(finding)
            if package is None or package[0] in absent or len(absent) == _MOST_ABSENT:
                return Answer(tuple(findings))
            absent |= dict([package])
            report(f"asking pip whether the others can be met, without {package[0]}")
    except subprocess.TimeoutExpired:
        return Answer((*findings, _unknown(f"pip gave no answer within {seconds:.0f} s")))
    if not absent:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(dict(said.packages)), "utf-8")
    return Answer(tuple(findings), said.packages, whole=not absent)


def _kept(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else None


def _ask_pip(question: Question, absent: Mapping[str, str], seconds: float) -> _Said:
    """``absent``: packages that have no wheel, name and version; empty ones stand in for them."""
    with scratch("monai-aws-pip") as folder:
        (folder / "requirements.txt").write_text("\n".join(question.requirements), "utf-8")
        (folder / "constraints.txt").write_text("\n".join(question.constraints), "utf-8")
        (folder / "stand-ins").mkdir()
        for name, version in absent.items():
            _stand_in(folder / "stand-ins", name, version)
        files = ["--requirement", str(folder / "requirements.txt"), "--constraint", str(folder / "constraints.txt")]
        files += ["--report", str(folder / "report.json"), *(["--find-links", str(folder / "stand-ins")] if absent else [])]
        arguments = ["install", "--dry-run", "--ignore-installed", "--only-binary=:all:", *_target(question.python), *files]
        ended, words = _pip(arguments, seconds, folder)
        return _Said(ended, words, {} if ended else _reported(folder / "report.json"))


def _reported(path: Path) -> dict[str, str]:
    """Names and versions in pip's installation report (https://pip.pypa.io/en/stable/reference/installation-report)."""
    try:
        found = (each["metadata"] for each in json.loads(path.read_text("utf-8"))["install"])
        return {canonicalize_name(str(each["name"])): str(each["version"]) for each in found}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _stand_in(folder: Path, name: str, version: str) -> None:
    """A wheel that holds nothing and requires nothing."""
    stem = f"{name.replace('-', '_')}-{version}"
    members = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: monai-aws\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)


def _target(python: str) -> list[str]:
    return ["--python-version", python, *(word for platform in _PLATFORMS for word in ("--platform", platform))]


def _pip(arguments: Sequence[str], seconds: float, scratch: Path) -> tuple[int, str]:
    """Exit code and words. What pip downloads to look into goes with ``scratch``, also where it is killed."""
    options = ["--disable-pip-version-check", "--no-input", "--retries", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *options, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=seconds, check=False, env={**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _meaning(said: str, question: Question, report: Callable[[str], None]) -> tuple[Finding, tuple[str, str] | None]:
    """The finding that pip's words mean; and name and version of a package that has no wheel, without which pip can go on."""
    if conflict := _CONFLICT.search(said):
        lines = [wheelhouse.without_addresses(line.strip()) for line in conflict[1].splitlines()[:_CONFLICT_LINES]]
        message = f"no versions go together: {'; '.join(lines)}"
        return Finding(POINT, message, "Loosen or correct one of these requirements, or the constraints"), None
    if _UNREACHABLE.search(said):
        return _unknown("pip did not reach its package index"), None
    if missing := _NOT_FOUND.search(said):
        return _not_found(missing[1], question, report)
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:]
    return _unknown(f"pip could not be asked ({wheelhouse.without_addresses(' '.join(lines))[:300]})"), None


def _not_found(wanted: str, question: Question, report: Callable[[str], None]) -> tuple[Finding, tuple[str, str] | None]:
    """``wanted`` has no wheel for the image. Whether there is a source of it tells the index."""
    shown = wheelhouse.without_addresses(wanted.strip())
    try:
        requirement = Requirement(re.sub(r"\s*\(from [^)]*\)", "", wanted).strip())
        report(f"asking the package index which versions of {requirement.name} there are")
        with scratch("monai-aws-pip") as folder:
            arguments = ["index", "versions", requirement.name, "--pre", "--python-version", question.python]
            said = _pip(arguments, _INDEX_SECONDS, folder)[1]
    except (InvalidRequirement, subprocess.TimeoutExpired):
        return _unknown(f"pip finds no {shown}"), None
    available = _versions(said)
    if not available and not question.wheels_only and wheelhouse.has_no_index():
        return _unknown(f"pip finds no {shown}, and its configuration here names no index"), None
    fitting = [version for version in available if requirement.specifier.contains(version, prereleases=True)]
    version = next((each for each in fitting if not each.is_prerelease), fitting[0] if fitting else _fitting(requirement))
    package = (canonicalize_name(requirement.name), str(version)) if version else None
    if fitting:
        message = f"{shown} has no wheel for Python {question.python} on Linux, only a source"
        if question.wheels_only:
            return Finding(POINT, message, "Choose a version that has one"), package
        return Finding(POINT, message, "Choose a version that has one, or see that the base image can build it", Severity.WARNING), package
    there_are = f"; the newest of it are {', '.join(map(str, available[:3]))}" if available else ", and pip knows no package of that name"
    message = f"there is no {shown} for Python {question.python} on Linux{there_are}"
    return Finding(POINT, message, "Correct the name or the version"), package


def _fitting(requirement: Requirement) -> Version | None:
    """Some version that a requirement takes, where there is none in truth."""
    named = [each.version.removesuffix(".*") for each in requirement.specifier]
    return next((found for found in _parsed([*named, "1", "0", "99999"]) if requirement.specifier.contains(found, prereleases=True)), None)


def _versions(said: str) -> list[Version]:
    found = re.search(r"^Available versions: (.*)$", said, re.MULTILINE)
    return sorted(_parsed(found[1].split(",") if found else ()), reverse=True)


def _parsed(texts: Iterable[str]) -> list[Version]:
    versions = []
    for text in texts:
        try:
            versions.append(Version(text.strip()))
        except InvalidVersion:
            continue
    return versions


def _unknown(why: str) -> Finding:
    remedy = "Check pip's configuration and network here (python -m pip config list), or go on: then the build finds it out"
    return Finding(POINT, f"whether the requirements can be met is not known: {why}", remedy, Severity.WARNING)
