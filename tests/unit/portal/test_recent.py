"""The recent studies, those whose pseudonym begins so, and asking for one again that was not answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ResultError, Status
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.status import Depth
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal import recent
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import Portal, build_app
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.recent import rows_of
from monai_aws_pipeline.portal.safety import REQUEST_HEADER
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.uploads import MIB, Uploads
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

LINKS = "http://127.0.0.1:3070"
S, J = study_of(1), job_of(1)
NOW = datetime.now(UTC)


class Asked:
    """What was asked for again."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.error: NamedError | None = None

    def __call__(self, study: str, failed: Sequence[str]) -> str:
        if self.error:
            raise self.error
        self.calls.append((study, tuple(failed)))
        return job_of(99)


pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def browser(bucket: Bucket, asked: Asked) -> TestClient:
    clients = Clients("us-east-1")
    files = StudyFiles(clients, bucket.name)
    watcher = Watcher(files.store, lambda: Surroundings(Depth(0, 0), Depth(0, 0)))
    portal = Portal(Uploads(clients, bucket.name, 64 * MIB), watcher, asked)
    app = build_app(files, Addresses(bucket.name, links=LINKS), portal)
    return TestClient(app, base_url=LINKS, headers={REQUEST_HEADER: "1"})


def test_the_newest_ends_are_listed_with_state_map_and_why(browser: TestClient, bucket: Bucket):
    bucket.commit(succeeded(1, at=NOW - timedelta(hours=2)))
    bucket.commit(refused(2, at=NOW - timedelta(hours=1)))
    bucket.commit(refused(3, at=NOW - timedelta(days=recent.DAYS + 1)))
    page = browser.get("/recent").text
    assert page.index(f"/jobs/{job_of(2)}/") < page.index(f"/studies/{S}/{J}/"), "the newest first"
    for shown in ("1.0.0 dddddddddddd", "answered", "refused", "NOT_A_ZIP", "Upload one study as a .zip.", "44.4", "0.0065"):
        assert shown in page
    assert job_of(3) not in page


def test_a_record_is_read_once(browser: TestClient, bucket: Bucket):
    bucket.commit(succeeded(1, at=NOW))
    first = browser.get("/recent").text
    bucket.put(succeeded(1, at=NOW).commit_key, "{")
    assert browser.get("/recent").text == first


def test_what_is_damaged_is_left_out(browser: TestClient, bucket: Bucket):
    bucket.commit(succeeded(1, at=NOW))
    bucket.put(bucket.commit(succeeded(2, at=NOW)).commit_key, "{")
    page = browser.get("/recent").text
    assert J in page
    assert job_of(2) not in page


def test_an_empty_bucket_says_so_in_the_browsers_language(browser: TestClient):
    assert "No study has ended" in browser.get("/recent").text
    assert "Ningún estudio" in browser.get("/recent", headers={"accept-language": "es-ES"}).text


@pytest.mark.parametrize("beginning", [S[:4], S[:10], S])
def test_a_study_is_found_by_the_beginning_of_its_pseudonym(browser: TestClient, bucket: Bucket, beginning: str):
    bucket.commit(succeeded(1, at=NOW - timedelta(days=100)))
    bucket.commit(succeeded(2, at=NOW - timedelta(days=100)))
    page = browser.get("/recent", params={"study": beginning}).text
    assert f'href="/studies/{S}/"' in page
    assert study_of(2) not in page


@pytest.mark.parametrize("beginning", ["abc", "../..", "DOE^JANE", "<script>", "input/DOE", "G" * 16, "%00"])
def test_what_is_no_pseudonym_is_not_looked_for(browser: TestClient, bucket: Bucket, beginning: str):
    bucket.put("input/DOE-JANE.zip", "x")
    page = browser.get("/recent", params={"study": beginning}).text
    assert "16 hex digits" in page
    assert "<script>" not in page
    assert "JANE.zip" not in page


def test_only_a_failure_that_stands_of_a_known_study_may_be_asked_for_again():
    failed = refused(1, study=S, status=Status.FAILED)
    answered = succeeded(1)
    assert [row.again for row in rows_of((failed, answered))] == [True, False]
    assert [row.again for row in rows_of((answered, failed))] == [False, False], "it was answered since"
    assert [row.again for row in rows_of((refused(2),))] == [False], "its study is not known"


@pytest.mark.parametrize(("language", "why"), [("en", "asking again would end the same"), ("es", "acabaría igual")])
def test_an_upload_of_no_known_study_has_no_button_and_says_why_and_what_to_do(
    browser: TestClient, bucket: Bucket, asked: Asked, language: str, why: str
):
    bucket.commit(refused(2, at=NOW))
    page = browser.get("/recent", headers={"accept-language": language}).text
    assert why in page
    assert "data-job" not in page
    page = browser.get(f"/jobs/{job_of(2)}/", headers={"accept-language": language}).text
    assert why in page
    assert '<a href="/">' in page
    assert browser.post("/api/studies//again", json={"job": job_of(2)}).status_code == 404
    assert browser.post(f"/api/studies/{S}/again", json={"job": job_of(2)}).status_code == 404
    assert not asked.calls


def test_a_failure_of_a_known_study_does_not_say_so(browser: TestClient, bucket: Bucket):
    bucket.commit(replace(refused(1, study=S, at=NOW), status=Status.FAILED))
    assert "asking again would end the same" not in browser.get("/recent").text + browser.get(f"/studies/{S}/{J}/").text


def test_a_failed_study_is_asked_for_again_under_every_job_that_failed(browser: TestClient, bucket: Bucket, asked: Asked):
    for number in (1, 5):
        bucket.commit(replace(refused(number, at=NOW, study=S), status=Status.FAILED))
    assert "Try again" in browser.get("/recent").text
    answer = browser.post(f"/api/studies/{S}/again", json={"job": J})
    assert answer.json() == {"job": job_of(99)}
    ((study, jobs),) = asked.calls
    assert study == S
    assert (jobs[0], set(jobs)) == (J, {J, job_of(5)})


def test_what_cannot_be_asked_for_again_says_why(browser: TestClient, bucket: Bucket, asked: Asked):
    bucket.commit(replace(refused(1, study=S), status=Status.FAILED))
    asked.error = NamedError("No original is kept.", "Upload it again.")
    answer = browser.post(f"/api/studies/{S}/again", json={"job": J})
    assert (answer.status_code, answer.json()) == (409, {"error": "again_refused", "why": "No original is kept. Upload it again."})


@pytest.mark.parametrize(
    ("study", "body", "status"),
    [
        (S, {"job": job_of(2)}, 404),
        (study_of(2), {"job": J}, 404),
        (S, {}, 400),
        (S, {"job": 5}, 400),
        (S, {"job": "../x"}, 404),
        ("x", {"job": J}, 404),
    ],
)
def test_nothing_else_is_asked_for(browser: TestClient, bucket: Bucket, asked: Asked, study: str, body: object, status: int):
    bucket.commit(replace(refused(1, study=S), status=Status.FAILED))
    assert browser.post(f"/api/studies/{study}/again", json=body).status_code == status
    assert not asked.calls


def test_a_study_that_was_answered_is_not_asked_for_again(browser: TestClient, bucket: Bucket, asked: Asked):
    bucket.commit(succeeded(1))
    assert browser.post(f"/api/studies/{S}/again", json={"job": J}).status_code == 404
    assert not asked.calls


def test_a_page_of_another_origin_asks_for_nothing(browser: TestClient, bucket: Bucket, asked: Asked):
    bucket.commit(replace(refused(1, study=S), status=Status.FAILED))
    assert browser.post(f"/api/studies/{S}/again", json={"job": J}, headers={"origin": "https://evil.example"}).status_code == 403
    assert not asked.calls


def test_what_an_application_said_is_text_in_the_list(browser: TestClient, bucket: Bucket):
    bucket.commit(replace(refused(1, study=S, at=NOW), error=ResultError("map_failed", "<img src=x onerror=alert(1)>")))
    assert "<img" not in browser.get("/recent").text
