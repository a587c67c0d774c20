"""What an installation brings along: importable names are the project's own, and never one that somebody else has too."""

from __future__ import annotations

import tomllib

import pytest
from setuptools import find_namespace_packages

from monai_aws_pipeline.settings import PROJECT_ROOT

FIND = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]


def top_levels(include: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in find_namespace_packages(str(PROJECT_ROOT), include=include)}


def test_two_names_are_installed_both_of_them_ours():
    assert list(FIND) == ["include"]
    assert top_levels(FIND["include"]) == {"monai_aws_pipeline", "lambda_fn"}


@pytest.mark.parametrize("other", ["examples", "tests", "infra", "docs"])
def test_a_folder_of_the_clone_would_be_noticed(other: str):
    assert other in top_levels([f"{other}*"])


def test_every_package_of_ours_is_installed():
    packages = set(find_namespace_packages(str(PROJECT_ROOT), include=FIND["include"]))
    for path in PROJECT_ROOT.glob("monai_aws_pipeline/**/*.py"):
        assert ".".join(path.parent.relative_to(PROJECT_ROOT).parts) in packages
