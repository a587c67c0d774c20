"""What there is instead of a page: in the browser's language, in the house's style, with every security header, and without a stack."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import Status
from monai_aws_pipeline.operations.status import Depth
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import Portal, build_app
from monai_aws_pipeline.portal.identity import LoadBalancer, SigningKeys
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.safety import REQUEST_HEADER, Rate
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.texts import LANGUAGES, TEXTS, texts_in
from monai_aws_pipeline.portal.uploads import MIB, Uploads
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

LINKS = "http://127.0.0.1:3070"
S, J = study_of(1), job_of(1)
SECRET = "what was asked for"

pytestmark = pytest.mark.usefixtures("aws")


def failing(study: str, failed: Sequence[str]) -> str:
    raise RuntimeError(SECRET)


def browser_of(bucket: Bucket, language: str = "en", **changes: Any) -> TestClient:
    clients = Clients("us-east-1")
    files = StudyFiles(clients, bucket.name)
    watcher = Watcher(files.store, lambda: Surroundings(Depth(0, 0), Depth(0, 0)))
    portal = replace(Portal(Uploads(clients, bucket.name, 64 * MIB), watcher, failing), **changes)
    app = build_app(files, Addresses(bucket.name, links=LINKS), portal)
    return TestClient(app, base_url=LINKS, follow_redirects=False, headers={REQUEST_HEADER: "1", "accept-language": language})


def broken(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(StudyFiles, "answers", lambda *_: 1 / 0)
    return browser.get(f"/studies/{S}/")


CASES: dict[tuple[int, str], Callable[[TestClient, Bucket, pytest.MonkeyPatch], Any]] = {
    (404, "no_such_page"): lambda browser, *_: browser.get("/nothing"),
    (404, "no_such_answer"): lambda browser, *_: browser.get(f"/studies/{S}/{J}/"),
    (404, "named_by_digits"): lambda browser, *_: browser.get("/studies/x/"),
    (404, "no_day_table"): lambda browser, *_: browser.get("/days/2026-03-14/"),
    (404, "day_named"): lambda browser, *_: browser.get("/days/x/"),
    (405, "read_with_get"): lambda browser, *_: browser.post(f"/studies/{S}/"),
    (421, "other_name"): lambda browser, *_: browser.get("/", headers={"host": "evil.example"}),
    (403, "other_origin"): lambda browser, *_: browser.post("/", headers={"origin": "http://evil.example"}),
    (429, "too_often"): lambda browser, *_: [browser.get("/recent") for _ in range(3)][-1],
    (500, "internal"): lambda browser, _, monkeypatch: broken(browser, monkeypatch),
}


def as_shown(text: str) -> str:
    """The first words of a text, up to what is put in or escaped."""
    return text.partition("{")[0].partition("'")[0]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("status", "key"), CASES)
def test_a_refusal_is_a_page_of_the_house_in_the_browsers_language(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, status: int, key: str, language: str
):
    t = texts_in(language)
    answer = CASES[status, key](browser_of(bucket, language, rate=Rate(burst=2, per_second=0, clock=lambda: 0.0)), bucket, monkeypatch)
    assert answer.status_code == status
    assert f'<html lang="{language}">' in answer.text
    assert t[f"title_{status}"] in answer.text
    assert as_shown(t[key]) in answer.text
    for other in ("/static/style.css", f'href="?language={language}"', '<main id="content">'):
        assert other in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert not [word for word in ("Traceback", "Error", "evil.example") if word in answer.text]


@pytest.mark.parametrize("language", LANGUAGES)
def test_who_is_not_logged_in_is_told_so_in_style(bucket: Bucket, language: str):
    browser = browser_of(bucket, language, balancer=LoadBalancer("arn", SigningKeys("https://keys.example", lambda _: b"")))
    answer = browser.get("/")
    assert answer.status_code == 401
    assert texts_in(language)["user_unnamed"] in answer.text
    assert browser.get("/static/style.css").status_code == 200
    assert browser.get("/api/uploads/x").json() == {"error": "unknown_user"}


def test_another_name_gets_the_style_of_its_page_and_nothing_else(bucket: Bucket):
    browser = browser_of(bucket)
    assert browser.get("/static/style.css", headers={"host": "evil.example"}).status_code == 200
    for path in ("/recent", "/api/uploads/x", "/follow/x", f"/studies/{S}/"):
        assert browser.get(path, headers={"host": "evil.example"}).status_code == 421
    assert f"{LINKS}/" in browser.get("/", headers={"host": "evil.example"}).text


@pytest.mark.parametrize("host", ["[", "[::1", "", "a b", "127.0.0.1:x", "127.0.0.1:3070:1", "@127.0.0.1", "127.0.0.1/"])
def test_what_is_no_name_of_a_host_is_another_name(bucket: Bucket, host: str):
    assert browser_of(bucket).get("/", headers={"host": host}).status_code == 421


def test_what_nobody_foresaw_is_said_without_its_words_and_logged_without_what_was_asked_for(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
):
    bucket.commit(refused(1, study=S, status=Status.FAILED))
    with caplog.at_level(logging.INFO, logger="monai_aws_pipeline"):
        answer = browser_of(bucket).post(f"/api/studies/{S}/again", json={"job": J})
    assert (answer.status_code, answer.json()) == (500, {"error": "internal"})
    assert "content-security-policy" in answer.headers
    (logged,) = [record.getMessage() for record in caplog.records]
    assert "RuntimeError" in logged
    assert "failing" in logged
    assert not [each for each in (SECRET, S, J) if each in logged]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_damaged_record_and_a_picture_that_is_none_say_what_is_wrong(bucket: Bucket, language: str):
    browser, t = browser_of(bucket, language), texts_in(language)
    bucket.commit(succeeded(1), b"<svg onload=alert(1)>")
    answer = browser.get(f"/studies/{S}/{J}/preview.png")
    assert (answer.status_code, as_shown(t["preview_unreadable"]) in answer.text) == (502, True)
    bucket.put(succeeded(1).commit_key, "{")
    answer = browser.get(f"/studies/{S}/{J}/")
    assert (answer.status_code, as_shown(t["record_unreadable"]) in answer.text) == (502, True)


def test_a_language_that_is_chosen_on_a_refusal_is_kept(bucket: Bucket):
    browser = browser_of(bucket)
    assert TEXTS["no_such_page"][1][:20] in browser.get("/nothing?language=es").text
    assert 'lang="es"' in browser.get("/").text
