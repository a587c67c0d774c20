"""Sends a study to a running portal with a real browser and keeps the pictures of docs/portal.md and docs/viewer.md:
``python -m tests.walk.portal ADDRESS STUDY OUT``.

ADDRESS is the portal's as ``make demo`` or ``make ui`` says it, STUDY a zip of one study, OUT where pictures go. It clicks and drops as a
person does, waits for what a person would see, and prints what it measured: first paint, the states of the study with their seconds, and
how long after its commit record the result was seen. Needs a Chromium (``tests/support/browser.py``).
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
import urllib.request
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image

from monai_aws_pipeline.contract import parse_utc
from tests.support.browser import Page, opened
from tests.support.drawn import DRAWN_BY_THE_PROCESSOR, wait_for_colour

ANSWER_S: Final = 600.0
SETTLED_S: Final = 5.0
MIDDLE_SLICE: Final = (1230, 420)
"""Where OHIF has the middle of the bar that leads through the slices."""
LARGEST: Final = 200_000
"""Of a picture in full colours; a larger one is kept in 256."""
_NOW: Final = "document.querySelector('#follow [aria-current]')"


class Walk:
    """One browser window before one portal."""

    def __init__(self, page: Page, address: str, out: Path) -> None:
        self.page, self.address, self.out = page, address.rstrip("/"), out
        self.answer = ""

    def keep(self, name: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """A picture of the window."""
        self.page.view(width=width, height=height, dark=dark)
        time.sleep(0.3)  # here, not in the page, which may be left for the next one meanwhile
        seen, kept = Image.open(io.BytesIO(self.page.picture())).convert("RGB"), self.out / f"{name}.png"
        seen.save(kept, optimize=True)
        if kept.stat().st_size > LARGEST:
            seen.quantize(256).save(kept, optimize=True)
        say(f"{kept.name}: {kept.stat().st_size / 1000:.0f} kB")

    def refused(self, folder: Path) -> None:
        """What is no study is dropped."""
        (folder / "notes").mkdir()
        (folder / "notes" / "readme.txt").write_text("no DICOM")
        self.page.open(f"{self.address}/")
        self.page.drop("#drop", folder / "notes")
        self.page.until("document.querySelector('#said.failed')")
        self.keep("portal-refused", height=420)

    def refused_by_the_host(self, folder: Path) -> None:
        """A file that is DICOM as far as a browser can see, and was cut off."""
        (folder / "cut").mkdir()
        first = min((folder / "study").rglob("*"), key=lambda path: (path.is_dir(), path.name))
        (folder / "cut" / first.name).write_bytes(first.read_bytes()[:4000])
        self.page.open(f"{self.address}/")
        self.page.drop("#drop", folder / "cut")
        self.page.until("location.pathname.startsWith('/follow/')")
        self.until_ended()
        self.keep("portal-refused-by-host", height=520)

    def send(self, folder: Path) -> None:
        """The study is dropped, and followed to its end."""
        self.page.open(f"{self.address}/")
        self.page.until("document.querySelector('#recent table') || document.querySelector('#recent p:not(.quiet)')")
        paint = self.page.js("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        say(f"first paint of the first page after {paint:.0f} ms")
        self.page.drop("#drop", folder / "study")
        self.page.until("document.querySelector('#bar').value > 0 || location.pathname.startsWith('/follow/')")
        self.keep("portal-home")
        self.page.until("location.pathname.startsWith('/follow/')")
        seen_at = self.until_ended(pictures=True)
        self.answer = self.page.js("document.querySelector('#ends a').getAttribute('href')")
        self.page.click("#ends a")
        self.page.until("document.querySelector('figure img').complete && document.querySelector('figure img').naturalWidth")
        opened_at = datetime.now(UTC)
        with urllib.request.urlopen(f"{self.address}{self.answer}result.json") as record:  # noqa: S310  # the portal
            committed = parse_utc(json.load(record)["committed_at"])
        say(f"told of its answer {(seen_at - committed).total_seconds():.2f} s after its commit record")
        say(f"its page with its picture seen {(opened_at - committed).total_seconds():.2f} s after it")

    def until_ended(self, *, pictures: bool = False) -> datetime:
        """Follow the states of a job, a picture of each, to its end; when that was seen."""
        began, before = time.monotonic(), ""
        while not self.page.js("document.querySelector('#ends a') !== null"):
            assert time.monotonic() < began + ANSWER_S, "the study is not answered"
            now = self.page.js(f"{_NOW} ? {_NOW}.dataset.state : ''")
            if now != before:
                say(f"{time.monotonic() - began:6.1f} s  {now}")
                if pictures and now:
                    self.keep(f"portal-{now}", height=420)
            before = now
            time.sleep(0.1)
        ended = datetime.now(UTC)
        say(f"{time.monotonic() - began:6.1f} s  {self.page.js(f'{_NOW}.textContent')}")
        if pictures:
            self.keep("portal-done", height=420)
        return ended

    def look(self) -> None:
        """The answer's page, in 3D, and the viewer; then by night on a phone, and in Spanish."""
        self.keep("portal-answer", height=780)
        self.page.click("a[href*='/viewer/']")
        self.page.until("document.querySelector('.cornerstone-canvas')")
        self.page.click_text("button", "Confirm and hide")
        time.sleep(SETTLED_S)  # OHIF goes to the first slice of the segmentation when it has read it, and may be in the middle before
        self.page.click_at(MIDDLE_SLICE)
        wait_for_colour(self.page, ".cornerstone-canvas")
        self.keep("viewer-ohif")
        self.page.open(f"{self.address}{self.answer}")
        self.page.click("a[href*='/3d/']")
        self.page.until("document.querySelector('#volume').dataset.shown === 'true'")
        wait_for_colour(self.page, "#volume canvas")
        self.keep("viewer-3d")
        self.page.view(width=390, height=844, dark=True)
        self.page.open(f"{self.address}/")
        self.page.until("document.querySelector('#recent table')")
        self.keep("portal-phone", width=390, height=844, dark=True)
        self.page.open(f"{self.address}{self.answer}")
        self.keep("portal-phone-answer", width=390, height=844, dark=True)
        self.page.view()
        self.page.open(f"{self.address}{self.answer}")
        self.page.click("a[lang=es]")
        self.page.until("document.documentElement.lang === 'es'")
        self.keep("portal-spanish")
        self.page.click("a[lang=en]")
        self.page.until("document.documentElement.lang === 'en'")


def say(line: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{line}\n")


def main(address: str, study: str, out: str) -> None:
    """All of it."""
    with tempfile.TemporaryDirectory() as name, opened(DRAWN_BY_THE_PROCESSOR) as page:
        folder, walk = Path(name), Walk(page, address, Path(out))
        with zipfile.ZipFile(study) as archive:
            archive.extractall(folder / "study")
        page.view()
        walk.refused(folder)
        walk.send(folder)
        walk.look()
        walk.refused_by_the_host(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
