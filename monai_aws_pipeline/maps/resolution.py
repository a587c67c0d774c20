"""Whether pip finds an answer to an application's requirements, asked before any money is spent, with no package installed or run.

pip answers for the image (its Python, Linux on x86_64) with this machine's own configuration. It looks at wheels alone, because to look
into a package that comes as source it would have to run it. Here belong that question, what pip's words mean, and the answers, kept by a
hash of everything that was asked. What a list of requirements looks like is the doctor's; gathering the wheels is ``wheelhouse``'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
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


def examine(question: Question, cache: Path, seconds: float = SECONDS) -> list[Finding]:
    """Ask pip; an empty list means that there is an answer. What cannot be found out here is a warning.

    Args:
        question: What is asked.
        cache: Folder of answers; the same question is asked once.
        seconds: How long pip may take.
    """
    if not question.requirements:
        return []
    known = cache / "resolved" / question.key
    if known.exists():
        return []
    try:
        ended, said = _ask_pip(question, seconds)
    except subprocess.TimeoutExpired:
        return [_unknown(f"pip gave no answer within {seconds:.0f} s")]
    if ended == 0:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()
        return []
    return [_meaning(said, question)]


def _ask_pip(question: Question, seconds: float) -> tuple[int, str]:
    with scratch("monai-aws-pip") as folder:
        (folder / "requirements.txt").write_text("\n".join(question.requirements), "utf-8")
        (folder / "constraints.txt").write_text("\n".join(question.constraints), "utf-8")
        files = ["--requirement", str(folder / "requirements.txt"), "--constraint", str(folder / "constraints.txt")]
        arguments = ["install", "--dry-run", "--ignore-installed", "--only-binary=:all:", *_target(question.python), *files]
        return _pip(arguments, seconds, folder)


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


def _meaning(said: str, question: Question) -> Finding:
    """The finding that pip's words mean."""
    if conflict := _CONFLICT.search(said):
        lines = [wheelhouse.without_addresses(line.strip()) for line in conflict[1].splitlines()[:_CONFLICT_LINES]]
        message = f"no versions go together: {'; '.join(lines)}"
        return Finding(POINT, message, "Loosen or correct one of these requirements, or the constraints")
    if _UNREACHABLE.search(said):
        return _unknown("pip did not reach its package index")
    if missing := _NOT_FOUND.search(said):
        return _not_found(missing[1], question)
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:]
    return _unknown(f"pip could not be asked ({wheelhouse.without_addresses(' '.join(lines))[:300]})")


def _not_found(wanted: str, question: Question) -> Finding:
    """``wanted`` has no wheel for the image. Whether there is a source of it tells the index."""
    shown = wheelhouse.without_addresses(wanted.strip())
    try:
        requirement = Requirement(re.sub(r"\s*\(from [^)]*\)", "", wanted).strip())
        with scratch("monai-aws-pip") as folder:
            arguments = ["index", "versions", requirement.name, "--pre", "--python-version", question.python]
            said = _pip(arguments, _INDEX_SECONDS, folder)[1]
    except (InvalidRequirement, subprocess.TimeoutExpired):
        return _unknown(f"pip finds no {shown}")
    available = _versions(said)
    if not available and not question.wheels_only and wheelhouse.has_no_index():
        return _unknown(f"pip finds no {shown}, and its configuration here names no index")
    if any(requirement.specifier.contains(version, prereleases=True) for version in available):
        message = f"{shown} has no wheel for Python {question.python} on Linux, only a source"
        if question.wheels_only:
            return Finding(POINT, message, "Choose a version that has one")
        return Finding(POINT, message, "Choose a version that has one, or see that the base image can build it", Severity.WARNING)
    there_are = f"; the newest of it are {', '.join(map(str, available[:3]))}" if available else ", and pip knows no package of that name"
    message = f"there is no {shown} for Python {question.python} on Linux{there_are}"
    return Finding(POINT, message, "Correct the name or the version")


def _versions(said: str) -> list[Version]:
    found = re.search(r"^Available versions: (.*)$", said, re.MULTILINE)
    versions = []
    for text in found[1].split(",") if found else ():
        try:
            versions.append(Version(text.strip()))
        except InvalidVersion:
            continue
    return sorted(versions, reverse=True)


def _unknown(why: str) -> Finding:
    remedy = "Check pip's configuration and network here (python -m pip config list), or go on: then the build finds it out"
    return Finding(POINT, f"whether the requirements can be met is not known: {why}", remedy, Severity.WARNING)
