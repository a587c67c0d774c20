"""The documents hold together: every link leads to a file, every make target that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`| {4})(?:\w+=\S+ )*make ([a-z-]+)", page.read_text()))
    assert named <= targets


def test_every_make_target_is_explained():
    text = (ROOT / "Makefile").read_text()
    explained = set(re.findall(r'echo "make ([a-z-]+)', text))
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)) - {"help", "use", "dev", "any"}
    assert explained == targets


def test_the_errors_that_a_page_names_are_there():
    """docs/building.md, "What ends a build"."""
    code = "\n".join(path.read_text() for path in (ROOT / "monai_aws_pipeline").rglob("*.py"))
    named = set(re.findall(r"`([A-Z][A-Za-z]+Error)`", (ROOT / "docs" / "building.md").read_text()))
    assert len(named) > 8
    assert {name for name in named if f"class {name}(" not in code} == set()
