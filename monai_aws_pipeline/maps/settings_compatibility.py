"""Whether the settings that decide how a MAP is built go together: packager, base image, its Python, and where the wheels come from. Pure.

What a base image is made of is read from its name, as far as the name is one that its makers use; a name of somebody's own says nothing.
"""

from __future__ import annotations

import re
from typing import Final

from monai_aws_pipeline.maps.findings import Finding, Severity

OFFICIAL: Final = "monai-deploy"
OFFICIAL_PYTHON: Final = "3.12"
"""The Python of Ubuntu 24.04, which the official packager's Dockerfile pins."""
_PYTHONS: Final = (
    (re.compile(r"(?:^|/)(?:nvidia/cuda:.*-|ubuntu:)(?:ubuntu)?(?:24\.04|noble)(?:$|[-.@])"), "3.12"),
    (re.compile(r"(?:^|/)(?:nvidia/cuda:.*-|ubuntu:)(?:ubuntu)?(?:22\.04|jammy)(?:$|[-.@])"), "3.10"),
    (re.compile(r"(?:^|/)debian:(?:12|bookworm)(?:$|[-.@])"), "3.11"),
    (re.compile(r"(?:^|/)debian:(?:13|trixie)(?:$|[-.@])"), "3.13"),
)
_PYTHON_IMAGE: Final = re.compile(r"(?:^|/)python:(3\.\d{1,2})(?:$|[-.@])")
_OTHER_SYSTEM: Final = re.compile(r"alpine|rockylinux|almalinux|centos|fedora|amazonlinux|opensuse|(?:^|[/:-])ubi\d", re.IGNORECASE)


def examine(
    base_image: str, packager: str, python: str, *, collect_wheels: bool, has_constraints: bool, has_system_packages: bool = False
) -> list[Finding]:
    """Everything that does not go together.

    Args:
        base_image: The setting of that name.
        packager: ``layered`` or ``monai-deploy``.
        python: The setting ``map_python``.
        collect_wheels: Whether a wheelhouse is asked for.
        has_constraints: Whether the application has a ``constraints.txt``.
        has_system_packages: Whether its ``app.yaml`` asks for packages of the base image's distribution.
    """
    findings = []
    if has_system_packages:
        findings += _system_packages(base_image, packager, collect_wheels=collect_wheels)
    if _OTHER_SYSTEM.search(base_image):
        message = f"{base_image} seems to be neither Debian nor Ubuntu, whose packages a build may need"
        findings.append(Finding("base-image", message, "Set MONAI_AWS_BASE_IMAGE to an image of one of them", Severity.WARNING))
    found = python_of(base_image)
    if packager == OFFICIAL:
        findings += _official(base_image, found, python, collect_wheels=collect_wheels, has_constraints=has_constraints)
    elif found and found != python:
        severity = Severity.ERROR if collect_wheels else Severity.WARNING
        why = "the wheels would be gathered for another one" if collect_wheels else "the requirements are examined for another one"
        message = f"{base_image} has Python {found}, and MONAI_AWS_MAP_PYTHON says {python}: {why}"
        findings.append(Finding("base-image", message, f"Set MONAI_AWS_MAP_PYTHON={found}, or another base image", severity))
    return findings


def _system_packages(base_image: str, packager: str, *, collect_wheels: bool) -> list[Finding]:
    if packager == OFFICIAL:
        message = "the official packager does not install the system-packages of app.yaml"
        remedy = "Set MONAI_AWS_BASE_IMAGE to an image that holds them, or MONAI_AWS_PACKAGER=layered"
        return [Finding("system-packages", message, remedy, Severity.WARNING, "app.yaml")]
    if collect_wheels:
        message = (
            "app.yaml asks for system-packages, which apt fetches on the build machine, and MONAI_AWS_WHEELHOUSE=collect is for machines "
            "without internet"
        )
        remedy = f"See that {base_image} holds them already, or that the machine reaches the distribution's servers"
        return [Finding("system-packages", message, remedy, Severity.WARNING, "app.yaml")]
    return []


def python_of(base_image: str) -> str:
    """The Python that a base image brings or installs, by its name; nothing where the name does not tell."""
    if image := _PYTHON_IMAGE.search(base_image):
        return image[1]
    return next((version for pattern, version in _PYTHONS if pattern.search(base_image)), "")


def _official(base_image: str, found: str, python: str, *, collect_wheels: bool, has_constraints: bool) -> list[Finding]:
    findings = []
    if found != OFFICIAL_PYTHON:
        message = f"the official packager's Dockerfile pins the Python of Ubuntu 24.04, and {base_image} is " + (
            f"an image with Python {found}" if found else "no image of it by its name"
        )
        remedy = "Set MONAI_AWS_BASE_IMAGE=nvidia/cuda:13.0.0-runtime-ubuntu24.04, or MONAI_AWS_PACKAGER=layered"
        findings.append(Finding("packager", message, remedy, Severity.ERROR if found else Severity.WARNING))
    if python != OFFICIAL_PYTHON:
        message = f"the official packager builds with Python {OFFICIAL_PYTHON}, and MONAI_AWS_MAP_PYTHON says {python}"
        findings.append(Finding("packager", message, f"Set MONAI_AWS_MAP_PYTHON={OFFICIAL_PYTHON}, or MONAI_AWS_PACKAGER=layered"))
    if collect_wheels:
        message = "the official packager takes the packages from the internet, and MONAI_AWS_WHEELHOUSE=collect is for builds without it"
        findings.append(Finding("packager", message, "Set MONAI_AWS_WHEELHOUSE=none, or MONAI_AWS_PACKAGER=layered"))
    if has_constraints:
        message = "the official packager does not read constraints.txt, so that what it pins is not pinned"
        remedy = "Write its lines into requirements.txt, or set MONAI_AWS_PACKAGER=layered"
        findings.append(Finding("packager", message, remedy, Severity.WARNING))
    return findings
