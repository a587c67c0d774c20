"""The viewers in a real browser, with their published files: what is laid over is seen, and the console has no error of ours.

Skipped without a Chromium, and where the viewers' files are neither in the cache nor to be fetched.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_aws_pipeline.cloud.waiting import wait_until
from monai_aws_pipeline.portal.viewer.packages import PACKAGES, PackageError, unpacked
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.support.browser import Page, chromium, opened
from tests.support.drawn import DRAWN_BY_THE_PROCESSOR, wait_for_colour
from tests.support.portal_process import PortalProcess, portal_process
from tests.support.viewed_study import ViewedStudy, answered

KNOWN_OF_OHIF = ("IMAGE_LOAD_ERROR", "handler is not a function")
"""OHIF 3.13.2 aborts an image's request while it opens, and its own listener for that breaks. What a server refuses reads otherwise."""


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalProcess]:
    chromium()
    for package in PACKAGES:
        try:
            unpacked(package, PROJECT_ROOT / ".cache", lambda _: None)
        except PackageError as error:
            pytest.skip(str(error))
    with portal_process(tmp_path_factory.mktemp("portal")) as process:
        yield process


@pytest.fixture(scope="module")
def study(portal: PortalProcess) -> ViewedStudy:
    """In the bucket, and the viewers' files served: until they are, their pages answer 503 and open by themselves."""
    found = answered(portal.bucket)
    for path in (f"/viewer/{found.record.study}/{found.record.job}/viewer", f"/3d/{found.record.study}/{found.record.job}/"):
        assert wait_until(lambda path=path: portal.ask("GET", path)[0], lambda status: status == 200, 120, what=path, pause=0.2) == 200
    return found


@pytest.fixture
def page() -> Iterator[Page]:
    with opened(DRAWN_BY_THE_PROCESSOR) as page:
        page.view()
        yield page


def test_the_viewer_shows_the_segmentation_on_its_images_without_an_error(portal: PortalProcess, study: ViewedStudy, page: Page):
    page.ask("Page.navigate", url=f"{portal.address}/viewer/{study.record.study}/{study.record.job}/")
    page.shows("S:900")  # the series of its segmentation
    page.until("document.querySelector('.cornerstone-canvas')")
    wait_for_colour(page, ".cornerstone-canvas")
    assert [said for said in page.complaints() if not all(words in said for words in KNOWN_OF_OHIF)] == []


def test_the_3d_page_draws_volume_mask_and_surface_without_an_error(portal: PortalProcess, study: ViewedStudy, page: Page):
    page.open(f"{portal.address}/3d/{study.record.study}/{study.record.job}/")
    page.until("document.querySelector('#volume').dataset.shown === 'true'")
    assert page.js("[...document.querySelectorAll('#parts input')].every((box) => box.checked && !box.disabled)")
    wait_for_colour(page, "#volume canvas")
    assert page.complaints() == []


def test_an_error_in_the_console_is_seen(page: Page):
    """Without this the other two could not fail for one."""
    page.js("console.error('broken'); setTimeout(() => { throw new Error('thrown') }); new Promise((done) => setTimeout(done, 50))")
    said = " ".join(page.complaints())
    assert "broken" in said
    assert "thrown" in said
