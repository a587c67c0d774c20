"""Settings that do not go together are found by the names of base images that their makers use; other names are left alone."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.maps.findings import Severity
from monai_aws_pipeline.maps.settings_compatibility import examine, python_of

CUDA = "nvidia/cuda:13.0.0-runtime-ubuntu24.04"


@pytest.mark.parametrize(
    ("image", "python"),
    [
        (CUDA, "3.12"),
        ("ubuntu:24.04", "3.12"),
        ("registry.example.org/library/ubuntu:noble@sha256:0", "3.12"),
        ("nvidia/cuda:12.4.1-base-ubuntu22.04", "3.10"),
        ("debian:12", "3.11"),
        ("debian:bookworm-slim", "3.11"),
        ("debian:trixie-20260101", "3.13"),
        ("python:3.11-slim-bookworm", "3.11"),
        ("own/base:ubuntu24.04", ""),
        ("registry:5000/monai-aws/base:bookworm-0123", ""),
        ("debian:120", ""),
    ],
)
def test_the_python_of_a_base_image_is_known_by_its_makers_names(image: str, python: str):
    assert python_of(image) == python


@pytest.mark.parametrize(
    ("image", "packager", "python", "wheels", "constraints", "said"),
    [
        (CUDA, "layered", "3.12", True, True, {}),
        ("own/base:1", "layered", "3.11", True, False, {}),
        ("debian:12", "layered", "3.12", True, False, {"MONAI_AWS_MAP_PYTHON=3.11": Severity.ERROR}),
        ("debian:12", "layered", "3.12", False, False, {"MONAI_AWS_MAP_PYTHON=3.11": Severity.WARNING}),
        ("python:3.11-alpine", "layered", "3.11", False, False, {"Debian nor Ubuntu": Severity.WARNING}),
        (CUDA, "monai-deploy", "3.12", False, False, {}),
        (CUDA, "monai-deploy", "3.12", True, False, {"MONAI_AWS_WHEELHOUSE=none": Severity.ERROR}),
        (CUDA, "monai-deploy", "3.12", False, True, {"constraints.txt": Severity.WARNING}),
        (CUDA, "monai-deploy", "3.11", False, False, {"MONAI_AWS_MAP_PYTHON=3.12": Severity.ERROR}),
        ("debian:12", "monai-deploy", "3.12", False, False, {"Ubuntu 24.04": Severity.ERROR}),
        ("own/base:1", "monai-deploy", "3.12", False, False, {"Ubuntu 24.04": Severity.WARNING}),
    ],
)
def test_each_combination_that_does_not_build_is_named_with_the_setting_that_mends_it(
    image: str, packager: str, python: str, wheels: bool, constraints: bool, said: dict[str, Severity]
):
    found = examine(image, packager, python, collect_wheels=wheels, has_constraints=constraints)
    assert len(found) == len(said), found
    for words, severity in said.items():
        assert [each.severity for each in found if words in str(each)] == [severity]


def test_everything_is_said_at_once():
    found = examine("debian:12", "monai-deploy", "3.11", collect_wheels=True, has_constraints=True)
    assert len(found) == 4
