"""Both languages have every text, with the same values in it; pages and scripts use no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monai_aws_pipeline.portal import app
from monai_aws_pipeline.portal.pages import TEMPLATES
from monai_aws_pipeline.portal.texts import LANGUAGES, NAMES, TEXTS, language_of, texts_in

SOURCES = [*app.STATIC.glob("*.js"), *TEMPLATES.glob("*.html")]


@pytest.mark.parametrize("key", TEXTS)
def test_each_text_is_there_in_both_languages_with_the_same_values(key: str):
    english, spanish = TEXTS[key]
    assert english.strip()
    assert spanish.strip()
    assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", spanish))


def test_each_language_has_a_name():
    assert set(NAMES) == set(LANGUAGES)
    assert all(set(texts_in(language)) == set(TEXTS) for language in LANGUAGES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_a_page_or_a_script_says_is_in_the_table(path: Path):
    source = path.read_text()
    used = re.findall(r"\bt\.(\w+)" if path.suffix == ".html" else r"texts\.(?!js\b)(\w+)|(?<!\w)say\(\"(\w+)\"|Refused\(\"(\w+)\"", source)
    keys = {key for found in used for key in ([found] if isinstance(found, str) else found) if key}
    assert not keys - set(TEXTS)


@pytest.mark.parametrize("path", sorted(app.STATIC.parent.rglob("*.py")), ids=lambda path: path.name)
def test_what_a_module_refuses_with_is_in_the_table(path: Path):
    refused = (
        r"(?:NotThereError|UnknownUserError|UploadRefusedError|ViewError|NotYetError)\(\s*\"(\w+)\"|refusal\(\s*[\w()]+, \d+, \"(\w+)\""
    )
    keys = {key for found in re.findall(refused, path.read_text()) for key in found if key}
    assert not keys - set(TEXTS)


@pytest.mark.parametrize(
    ("wanted", "kept", "accepted", "language"),
    [
        ("", "", "", "en"),
        ("", "", "es", "es"),
        ("", "", "de-DE,de;q=0.9,es-AR;q=0.5,en;q=0.4", "es"),
        ("", "", "en;q=0.4, es;q=0.8", "es"),
        ("", "", "es;q=0", "en"),
        ("", "", "es;q=nan, en;q=x,;;;", "en"),
        ("", "es", "en", "es"),
        ("en", "es", "es", "en"),
        ("xx", "<script>", "fr", "en"),
    ],
)
def test_the_language_is_the_one_that_was_asked_for_or_the_browsers(wanted: str, kept: str, accepted: str, language: str):
    assert language_of(wanted, kept, accepted) == language


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(path: Path):
    source = path.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=\"/static/)|\son\w+=|<style|\sstyle=|javascript:|innerHTML|\beval\(", source)
    assert not re.search(r"(?:src|href|import|from)\W{1,3}(?:https?:)?//", source)
