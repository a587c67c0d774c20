"""What the pages of studies give, and to whom they give nothing: every part of a path is hostile, and so is every name in a record."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import OutputFile, ResultError, Status, quarantine_key, sha256_text
from monai_aws_pipeline.operations.day_table import DayRow, DayTable, write
from monai_aws_pipeline.operations.status import Depth
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import Portal, build_app
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.safety import REQUEST_HEADER
from monai_aws_pipeline.portal.study_files import SIGNED_SECONDS, StudyFiles
from monai_aws_pipeline.portal.uploads import MIB, Uploads
from tests.unit.studies.records import NOON, OTHER_DIGEST, Bucket, job_of, picture, refused, study_of, succeeded

LINKS = "http://127.0.0.1:3070"
S, J = study_of(1), job_of(1)
PAGE = f"/studies/{S}/{J}/"


pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def browser(bucket: Bucket) -> TestClient:
    where = Addresses(bucket.name, "us-east-1", LINKS, "https://us-east-1.console.aws.amazon.com")
    return TestClient(application(bucket, where), base_url=LINKS, follow_redirects=False)


def application(bucket: Bucket, where: Addresses) -> Starlette:
    clients = Clients("us-east-1")
    files = StudyFiles(clients, bucket.name)
    portal = Portal(
        Uploads(clients, bucket.name, 64 * MIB),
        Watcher(files.store, lambda: Surroundings(Depth(0, 0), Depth(0, 0))),
        lambda study, failed: "",
    )
    return build_app(files, where, portal)


def answered(bucket: Bucket) -> None:
    """Study 1 as a host leaves it, and beside it what no page may give."""
    record = succeeded(1)
    log = OutputFile(f"output/{S}/{J}/map.log", "f" * 64, 10, "log")
    bucket.commit(replace(record, outputs=(*record.outputs, log)), picture())
    bucket.put(f"processed/{S}/{J}/upload.zip", "the original")
    bucket.put(f"output/{S}/{J}/not-in-the-record.html", "<script>")
    bucket.put(f"output/{study_of(2)}/{job_of(2)}/dicom/seg.dcm", "of another")
    bucket.put("input/DOE-JANE.zip", "of a person")


def signed(address: str) -> tuple[str, dict[str, list[str]]]:
    """Key and query of an address in S3."""
    parts = urlsplit(address)
    assert parts.netloc == "studies.s3.amazonaws.com"
    return parts.path.removeprefix("/"), parse_qs(parts.query)


def test_a_page_has_picture_volumes_map_files_original_and_record(browser: TestClient, bucket: Bucket):
    answered(bucket)
    page = browser.get(PAGE)
    assert page.status_code == 200
    for shown in ('src="preview.png"', "1437.250", "sha256:dddd", 'href="map.log"', 'href="dicom/seg.dcm"', 'href="result.json"'):
        assert shown in page.text
    assert 'href="original/upload.zip"' in page.text
    assert f"https://us-east-1.console.aws.amazon.com/s3/buckets/studies?region=us-east-1&amp;prefix=output/{S}/{J}/" in page.text
    assert "X-Amz" not in page.text, "what opens a file is signed when it is clicked"


def test_a_page_leads_into_the_lineage_where_dagster_has_an_address(bucket: Bucket):
    answered(bucket)
    bucket.commit(refused(3))
    for ui in ("http://127.0.0.1:3000", ""):
        browser = TestClient(application(bucket, Addresses(bucket.name, links=LINKS, ui=ui)), base_url=LINKS)
        link = f'href="{ui}/assets/inference_result?view=events&amp;partition={S}"'
        assert (link in browser.get(PAGE).text) is bool(ui)
        assert "inference_result" not in browser.get(f"/jobs/{job_of(3)}/").text, "its study is not known"


def test_a_page_is_in_the_language_that_was_chosen_once(browser: TestClient, bucket: Bucket):
    answered(bucket)
    assert "Mediciones" in browser.get(PAGE, params={"language": "es"}).text
    assert "Mediciones" in browser.get(PAGE).text, "kept in a cookie"
    assert "Measurements" in browser.get(PAGE, params={"language": "en"}).text


def test_the_picture_is_a_png_that_a_page_of_another_origin_may_show(browser: TestClient, bucket: Bucket):
    answered(bucket)
    bucket.put(f"output/{S}/{J}/preview.png", picture(768, 256))
    shown = browser.get(f"{PAGE}preview-600.png")
    assert shown.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(shown.content)) as small, Image.open(io.BytesIO(browser.get(f"{PAGE}preview.png").content)) as whole:
        assert (small.size, whole.size) == ((600, 200), (768, 256))
    assert shown.headers["cross-origin-resource-policy"] == "cross-origin"
    for other in ("", "preview.png", "map.log"):
        assert browser.get(PAGE + other).headers["cross-origin-resource-policy"] == "same-origin", "nothing else may be"


@pytest.mark.parametrize(
    ("name", "key", "disposition", "content_type"),
    [
        ("map.log", f"output/{S}/{J}/map.log", 'inline; filename="map.log"', "text/plain; charset=utf-8"),
        ("result.json", f"output/{S}/{J}/result.json", 'inline; filename="result.json"', "application/json"),
        ("dicom/seg.dcm", f"output/{S}/{J}/dicom/seg.dcm", 'attachment; filename="seg.dcm"', "application/octet-stream"),
        ("original/", f"processed/{S}/{J}/upload.zip", 'attachment; filename="upload.zip"', "application/octet-stream"),
        ("original/upload.zip", f"processed/{S}/{J}/upload.zip", 'attachment; filename="upload.zip"', "application/octet-stream"),
    ],
)
def test_a_file_opens_at_an_address_signed_for_minutes(
    browser: TestClient, bucket: Bucket, name: str, key: str, disposition: str, content_type: str
):
    answered(bucket)
    answer = browser.get(PAGE + name)
    assert answer.status_code == 302
    opened, query = signed(answer.headers["location"])
    assert opened == key
    assert query["X-Amz-Expires"] == [str(SIGNED_SECONDS)]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"], "the older way is refused for objects under KMS"
    assert query["response-content-disposition"] == [disposition]
    assert query["response-content-type"] == [content_type]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        f"{PAGE}not-in-the-record.html",
        f"{PAGE}../../{study_of(2)}/{job_of(2)}/dicom/seg.dcm",
        f"{PAGE}..%2f..%2f{study_of(2)}%2f{job_of(2)}%2fdicom%2fseg.dcm",
        f"{PAGE}dicom/",
        f"{PAGE}dicom",
        f"{PAGE}dicom//seg.dcm",
        f"{PAGE}%00",
        f"{PAGE}original/..%2fupload.zip",
        f"{PAGE}original/other.zip",
        f"{PAGE}input/DOE-JANE.zip",
        f"/studies/{S}/{job_of(2)}/",
        f"/studies/{study_of(2)}/{J}/",
        f"/studies/{S.upper()}/{J}/",
        f"/studies/{S[:-1]}/{J}/",
        f"/studies/../{S}/{J}/",
        f"/studies/{S}/{J}x/result.json",
        f"/studies/{'0' * 16}/",
        f"/studies/%2e%2e/{J}/",
        f"/jobs/{J}/",
        "/studies/",
        "/input/DOE-JANE.zip",
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
    ],
)
def test_nothing_else_is_given(browser: TestClient, bucket: Bucket, path: str):
    answered(bucket)
    answer = browser.get(path)
    assert answer.status_code == 404
    assert "location" not in answer.headers
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", [f"/studies/{S}", f"/studies/{S}/{J}", "/recent/", f"/jobs/{J}"])
def test_an_address_without_its_slash_is_none_and_repeats_nothing_of_the_question(browser: TestClient, path: str):
    answer = browser.get(f"{path}?PatientName=DOE*", follow_redirects=False)
    assert answer.status_code == 404
    assert "DOE" not in f"{answer.headers} {answer.text}"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from([S, J, "..", ".", "", "%2e%2e", "%2f", "studies", "jobs", "original", "x.dcm", "%00", "ü", "a\\b"])))
def test_no_path_leads_to_a_key_that_no_record_names(bucket: Bucket, browser: TestClient, parts: list[str]):
    if not bucket.s3.list_objects_v2(Bucket=bucket.name)["KeyCount"]:
        answered(bucket)
    answer = browser.get(f"/studies/{'/'.join(parts)}")
    assert answer.status_code in (200, 302, 404)
    location = answer.headers.get("location", "")
    if "X-Amz" in location:
        assert signed(location)[0].startswith((f"output/{S}/{J}/", f"processed/{S}/{J}/"))


def test_a_record_that_names_a_file_of_another_does_not_give_it(browser: TestClient, bucket: Bucket):
    named = ["input/DOE-JANE.zip", f"output/{study_of(2)}/{J}/seg.dcm", f"output/{S}/{J}/../../x", f"jobs/{J}.json", "dicom/seg.dcm"]
    bucket.commit(succeeded(1, outputs=tuple(OutputFile(key, "f" * 64, 1, "dicom") for key in named)))
    page = browser.get(PAGE)
    assert page.status_code == 200
    for key in named:
        assert key not in page.text
        assert browser.get(f"{PAGE}{key}").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3070", "127.0.0.1.evil.example", "169.254.169.254", ""])
def test_another_name_that_leads_here_is_refused(browser: TestClient, bucket: Bucket, host: str):
    answered(bucket)
    for path in (PAGE, f"{PAGE}preview.png", f"{PAGE}map.log"):
        answer = browser.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert "location" not in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1:3070", "localhost:3070", "[::1]:3070", "studies.example.org"])
def test_this_machine_and_the_name_of_the_setting_are_served(bucket: Bucket, host: str):
    where = Addresses(bucket.name, links="https://studies.example.org")
    browser = TestClient(application(bucket, where))
    assert browser.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_written(browser: TestClient, bucket: Bucket, method: str):
    answered(bucket)
    for path in (PAGE, f"{PAGE}preview.png", f"{PAGE}map.log", f"/studies/{S}/"):
        assert browser.request(method, path, headers={REQUEST_HEADER: "1"}).status_code == 405


def test_every_answer_is_secured(browser: TestClient, bucket: Bucket):
    answered(bucket)
    for path in (
        PAGE,
        f"{PAGE}preview.png",
        f"{PAGE}map.log",
        "/",
        "/static/style.css",
        "/static/zip.js",
        "/health",
        "/nothing",
        f"/studies/{S}/",
    ):
        headers = browser.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"


def test_what_an_application_says_is_text(browser: TestClient, bucket: Bucket):
    error = ResultError("map_failed", "<img src=x onerror=alert(1)>", "</code><script>alert(2)</script>")
    bucket.commit(replace(refused(1, study=S, status=Status.FAILED), error=error))
    page = browser.get(PAGE).text
    assert "<script" not in page
    assert "&lt;img src=x" in page


def test_a_failed_study_and_an_upload_of_no_study_have_pages(browser: TestClient, bucket: Bucket):
    bucket.commit(refused(1, study=S, status=Status.FAILED))
    assert "NOT_A_ZIP" in browser.get(PAGE).text
    bucket.commit(refused(3))
    for number in (1, 2):
        bucket.put(quarantine_key(job_of(3), f"upload/{number:06d}"), "part")
    page = f"/jobs/{job_of(3)}/"
    assert 'href="original/000002"' in browser.get(page).text
    assert browser.get(f"{page}original/").headers["location"] == "../", "several files are listed"
    opened, _ = signed(browser.get(f"{page}original/000002").headers["location"])
    assert opened == f"quarantine/{job_of(3)}/upload/000002"


@pytest.mark.parametrize("read_from", [f"processed/{S}/{J}/upload.zip", quarantine_key(job_of(3), "upload.zip")])
def test_a_re_run_leads_to_the_original_it_was_made_from(browser: TestClient, bucket: Bucket, read_from: str):
    again = succeeded(1, request=OTHER_DIGEST, job=job_of(7))
    bucket.commit(replace(again, input=replace(again.input, key_sha256=sha256_text(read_from))))
    for key in (f"processed/{S}/{J}/upload.zip", f"processed/{S}/{job_of(8)}/upload.zip", quarantine_key(job_of(3), "upload.zip")):
        bucket.put(key, "an original")
    opened, _ = signed(browser.get(f"/studies/{S}/{job_of(7)}/original/").headers["location"])
    assert opened == read_from
    bucket.delete(read_from)
    assert browser.get(f"/studies/{S}/{job_of(7)}/original/").status_code == 404, "another upload of the study is not what it was made from"


def test_an_original_that_has_expired_is_said_to_be_gone(browser: TestClient, bucket: Bucket):
    bucket.commit(succeeded(1))
    assert "The original is not in the bucket any more." in browser.get(PAGE).text
    gone = browser.get(f"{PAGE}original/")
    assert gone.status_code == 404
    assert "MONAI_AWS_ORIGINALS_EXPIRE_DAYS" in gone.text


def test_a_study_shows_its_answers_side_by_side_and_its_volumes_over_time(browser: TestClient, bucket: Bucket):
    answered(bucket)
    bucket.commit(succeeded(1, NOON + timedelta(days=60), OTHER_DIGEST, job=job_of(7), outputs=succeeded(1).outputs[2:3]))
    bucket.put(f"output/{S}/{job_of(8)}/dicom/of-a-host-that-died.dcm", "x")
    page = browser.get(f"/studies/{S}/").text
    assert page.index("2026-05-13 12:30:00 UTC</a>") < page.index("2026-03-14 12:30:00 UTC</a>"), "the newest first"
    assert "<code>dddddddddddd</code>" in page
    assert "<code>eeeeeeeeeeee</code>" in page
    assert page.count("<circle") == 2
    assert f'href="/studies/{S}/{J}/"' in page


def test_a_preview_that_is_no_picture_is_not_given(browser: TestClient, bucket: Bucket):
    bucket.commit(succeeded(1), b"<svg onload=alert(1)>")
    answer = browser.get(f"{PAGE}preview.png")
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")
    assert "no readable PNG" in answer.text


def test_what_s3_refuses_is_said_without_its_words_and_nothing_is_logged_of_it(
    browser: TestClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    bucket.s3.delete_bucket(Bucket=bucket.name)
    with caplog.at_level(logging.INFO):
        answer = browser.get(PAGE)
    assert answer.status_code == 502
    assert "S3 did not give it (NoSuchBucket)" in answer.text
    assert S not in caplog.text.replace(f"GET {LINKS}{PAGE}", ""), "but by the test's own browser"


def test_a_day_has_a_page_that_leads_to_the_page_of_each_of_its_studies(browser: TestClient, bucket: Bucket):
    of_map = DayRow("2026-03-14T12:30:00Z", S, "succeeded", "", OTHER_DIGEST, J, f"output/{S}/{J}/result.json")
    unknown = DayRow("2026-03-14T12:31:00Z", "", "quarantined", "<b>upload_type</b>", "", job_of(2), "quarantine/x/result.json")
    write(bucket.s3, bucket.name, DayTable(NOON.date(), (of_map, unknown)))
    page = browser.get("/days/2026-03-14/")
    assert page.status_code == 200
    first, second = page.text.index(f'href="/jobs/{job_of(2)}/"'), page.text.index(f'href="{PAGE}"')
    assert first < second, "the newest first"
    assert "&lt;b&gt;upload_type" in page.text
    assert OTHER_DIGEST[:19] in page.text


@pytest.mark.parametrize(
    ("day", "said"), [("2026-03-15", "materialise the day"), ("yesterday", "named like"), ("2026-13-01", "named like")]
)
def test_a_day_without_a_table_has_no_page(browser: TestClient, day: str, said: str):
    page = browser.get(f"/days/{day}/")
    assert page.status_code == 404
    assert said in page.text
