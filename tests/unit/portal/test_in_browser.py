"""The pages in a real browser: for keys alone, for a drop of a folder, for live states, and for people whom a page may keep out."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monai_aws_pipeline.contract import JobDone, ResultRecord, Status, job_done_key, utc_text
from tests.support.axe import severe
from tests.support.browser import Page, chromium, opened
from tests.support.played_portal import PLAYED
from tests.support.portal_process import PortalProcess, portal_process
from tests.unit.studies.records import job_of, picture, refused, study_of, succeeded

DICOM = b"\0" * 128 + b"DICM" + bytes(2000)
NOW = datetime.now(UTC)
S, J = study_of(1001), job_of(1001)
PAGES = {
    "first": ("/", "#recent table"),
    "follow": (f"/follow/{job_of(40)}", "#follow [aria-current]"),
    "answer": (f"/studies/{S}/{J}/", "table.files"),
    "answers": (f"/studies/{S}/", "table"),
    "refused": (f"/jobs/{job_of(1003)}/", ".failed"),
    "not there": ("/nothing", "main"),
}
VIEWS = {"screen": (1280, False), "screen, dark": (1280, True), "phone": (390, False), "phone, dark": (390, True)}


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalProcess]:
    chromium()  # without one there is nothing to start
    with portal_process(tmp_path_factory.mktemp("portal"), PLAYED) as process:
        process.bucket.commit(succeeded(1001, at=NOW), picture())
        process.bucket.commit(succeeded(1001, at=NOW, job=job_of(1002), outputs=succeeded(1001).outputs[2:3]))
        process.bucket.commit(refused(1003, at=NOW))
        process.bucket.commit(replace(refused(1004, at=NOW, study=study_of(1004)), status=Status.FAILED))
        yield process


@pytest.fixture(scope="module")
def browser(portal: PortalProcess) -> Iterator[Page]:
    with opened() as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Page:
    browser.view()
    return browser


def end(portal: PortalProcess, record: ResultRecord) -> None:
    """As a host ends a job."""
    portal.bucket.commit(record)
    portal.bucket.put(job_done_key(record.job), JobDone(record.job, (record.commit_key,), utc_text(NOW)).to_json())


def followed(page: Page) -> str:
    """The job that the page follows, once it does."""
    return str(page.until("location.pathname.startsWith('/follow/') && document.readyState === 'complete' && location.pathname.slice(8)"))


def newest(portal: PortalProcess) -> tuple[str, bytes]:
    """The upload that came last."""
    items = portal.bucket.s3.list_objects_v2(Bucket=portal.bucket.name, Prefix="input/")["Contents"]
    key = max(items, key=lambda item: item["LastModified"])["Key"]
    return key, portal.bucket.s3.get_object(Bucket=portal.bucket.name, Key=key)["Body"].read()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_no_page_keeps_anybody_out(portal: PortalProcess, browser: Page, name: str, view: str):
    width, dark = VIEWS[view]
    path, there = PAGES[name]
    browser.view(width=width, dark=dark)
    browser.open(f"{portal.address}{path}")
    browser.until(f"document.querySelector({json.dumps(there)})")
    assert severe(browser) == []
    assert browser.js("document.documentElement.scrollWidth <= innerWidth"), "it is as wide as the window"
    background = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark


def test_a_zip_is_sent_and_its_answer_opened_by_keys_alone(portal: PortalProcess, page: Page, tmp_path: Path):
    study = tmp_path / "DOE^JANE.zip"
    with zipfile.ZipFile(study, "w") as archive:
        archive.writestr("a", DICOM)
    page.open(f"{portal.address}/")
    page.ask("Page.setInterceptFileChooserDialog", enabled=True)
    page.tab_to("[data-opens=files]")
    page.press("Enter")
    page.choose(study)
    job = followed(page)
    key, sent = newest(portal)
    assert sent == study.read_bytes()
    assert "JANE" not in key
    end(portal, succeeded(1005, at=NOW, job=job, outputs=()))
    page.until("document.querySelector('#ends a')")
    assert page.js("document.querySelector('[data-state=done]').matches('.good[aria-current]')")
    page.tab_to("#ends a")
    page.press("Enter")
    page.until(f"location.pathname === '/studies/{study_of(1005)}/{job}/'")


def test_a_folder_that_is_dropped_goes_as_a_zip_without_names_and_without_what_is_no_dicom(
    portal: PortalProcess, page: Page, tmp_path: Path
):
    inner = tmp_path / "DOE JANE" / "series 1"
    inner.mkdir(parents=True)
    for number in range(3):
        (inner / f"{number}.dcm").write_bytes(DICOM + bytes([number]))
    (tmp_path / "DOE JANE" / "notes.txt").write_text("not DICOM")
    page.open(f"{portal.address}/")
    page.drop("#drop", tmp_path / "DOE JANE")
    followed(page)
    with zipfile.ZipFile(io.BytesIO(newest(portal)[1])) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name)[-1] for name in archive.namelist()} == {"000001": 0, "000002": 1, "000003": 2}


def test_what_is_no_study_is_refused_with_its_reason_and_nothing_is_sent(portal: PortalProcess, page: Page, tmp_path: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("not DICOM")
    before = portal.bucket.s3.list_objects_v2(Bucket=portal.bucket.name, Prefix="input/").get("KeyCount", 0)
    page.open(f"{portal.address}/")
    page.drop("#drop", tmp_path / "notes")
    page.shows("None of these 1 files is DICOM, so nothing was sent.")
    assert page.js("document.querySelector('#said').getAttribute('aria-live')") == "polite"
    assert portal.bucket.s3.list_objects_v2(Bucket=portal.bucket.name, Prefix="input/").get("KeyCount", 0) == before


def test_the_states_of_a_job_are_read_as_they_come_up_to_its_refusal(portal: PortalProcess, page: Page):
    job = job_of(7)
    page.open(f"{portal.address}/follow/{job}")
    for state in ("fetching", "running", "publishing"):
        page.until(f"document.querySelector('[data-state={state}][aria-current]')")
    assert page.js("document.querySelector('#about').getAttribute('aria-live')") == "polite"
    end(portal, refused(7, at=NOW))
    page.shows("Not answered")
    page.shows("NOT_A_ZIP")
    page.shows("Upload one study as a .zip.")


def test_the_page_is_spanish_where_it_is_asked_to_be_and_stays_so(portal: PortalProcess, page: Page):
    page.open(f"{portal.address}/")
    page.tab_to("nav a[lang=es]")
    page.press("Enter")
    page.shows("Enviar un estudio")
    page.open(f"{portal.address}/nothing")
    page.shows("No existe esa página")
    page.open(f"{portal.address}/?language=en")
    page.shows("Send a study")


def test_a_page_runs_no_script_but_its_own(portal: PortalProcess, page: Page):
    page.open(f"{portal.address}/")
    odd = """<img src=x onerror="window.ran = 1"><a id=x href="javascript:window.ran = 1">x</a>"""
    page.js(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(odd)})")
    page.js("document.querySelector('#x').click()")
    page.js("new Promise((resolve) => setTimeout(resolve, 200))")
    assert page.js("window.ran") is None
