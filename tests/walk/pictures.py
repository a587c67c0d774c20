"""Walks through Dagster's UI with real clicks and keeps the pictures of docs/walk.md: ``python pictures.py BROWSER FOLDER OUT CHAPTER…``.

It needs playwright, which is no dependency of the project, and BROWSER, the program of a Chromium that it drives. FOLDER is the one of
``deployment``, OUT where pictures go, in full colours. Chapters, in the order of the walk: after ``mend`` failures, answer, cost, plot;
after ``promote`` promoted, stale, retry, refresh, compared; after ``rollback`` rolled_back. Each waits for what a person would see.
"""

from __future__ import annotations

import json
import re
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import sync_playwright

UI: Final = "http://127.0.0.1:3976"
SEEN_MS: Final = 30_000
RUN_MS: Final = 300_000
DRAWN_MS: Final = 1500
"""What Dagster draws after it has its data: the graph's zoom, pictures in tables."""


class Walk:
    """One browser window, and the names of the night's studies."""

    def __init__(self, page: Any, folder: Path, out: Path) -> None:
        self.page, self.out = page, out
        self.studies: dict[str, str] = json.loads((folder / "night.json").read_text())

    def keep(self, name: str, *, width: int = 1400, height: int = 900, scroll_to: str = "") -> None:
        """A picture of the window; ``scroll_to``: the text that is to be at its top."""
        self.page.set_viewport_size({"width": width, "height": height})
        if scroll_to:
            self.page.get_by_text(scroll_to, exact=True).first.evaluate("each => each.scrollIntoView()")
        self.page.wait_for_timeout(DRAWN_MS)
        kept = self.out / f"{name}.png"
        Image.open(BytesIO(self.page.screenshot())).convert("RGB").save(kept, optimize=True)  # a browser packs quickly, and a third worse
        print(f"{kept.name}: {kept.stat().st_size / 1000:.0f} kB")  # noqa: T201

    def asset(self, name: str, tab: str = "") -> None:
        """As a person opens an asset: Catalog, its name, a tab."""
        self.page.set_viewport_size({"width": 1400, "height": 900})
        self.page.goto(f"{UI}/assets")
        self.page.locator(f"a[href*='/assets/{name}']").first.click()
        if tab:
            self.page.get_by_role("tab", name=tab).click()

    def node(self, name: str) -> None:
        """Click the node, or the closed group, of the graph that is called so."""
        box = self.page.locator("foreignObject").filter(has_text=re.compile(f"^{name}")).first.bounding_box()
        self.page.mouse.click(box["x"] + box["width"] / 4, box["y"] + min(18, box["height"] / 2))

    def graph(self, name: str) -> None:
        """The whole lineage, both groups open."""
        self.page.set_viewport_size({"width": 1900, "height": 860})
        self.page.goto(f"{UI}/asset-groups")
        for group in ("studies", "platform"):
            self.page.locator("foreignObject").first.wait_for()
            self.page.wait_for_timeout(DRAWN_MS)
            self.node(group)
            self.page.wait_for_url(re.compile(f"expanded=.*{group}"))
            self.page.reload()  # fits it into the window
        self.page.locator("button:has([aria-label^=panel])").first.click()  # hides the navigation, and what is nearer is fitted in
        self.page.reload()
        for asset in ("inference_result", "studies_by_day"):
            self.page.locator("foreignObject").filter(has_text=asset).first.wait_for()
        self.keep(name, width=1900, height=860)

    def failures(self) -> None:
        """The graph, the table of what has no answer, and why one study has none."""
        self.graph("graph-with-failures")
        self.asset("unanswered_studies")
        self.page.get_by_text("once_mended").first.wait_for()
        self.keep("unanswered-studies", width=1760, height=1000, scroll_to="newest")
        self.page.locator(f"a[href*='partition={self.studies['thick']}']").first.click()
        self.page.get_by_text("application_said_last").wait_for()
        self.keep("failed-study")

    def answer(self) -> None:
        """A good study: which MAP answered it, with which model."""
        self.asset("inference_result", "Partitions")
        self.page.get_by_text(self.studies["head-2"]).first.click()
        self.page.locator("img[src*=preview]").wait_for()
        self.keep("study-in-dagster", height=1000)

    def cost(self) -> None:
        """What the night cost."""
        self.asset("inference_result", "Checks")
        self.page.get_by_text("within_time_and_cost").first.click()
        self.page.get_by_text("Execute", exact=True).first.click()
        self.page.get_by_text(f"of {len(self.studies) + 1} results of the last 24 hours").first.wait_for(timeout=RUN_MS)
        self.keep("cost-of-a-night")

    def plot(self) -> None:
        """Volumes, times and costs of all studies over time."""
        self.asset("inference_result", "Overview")
        self.page.get_by_role("button", name="Plots").click()
        self.page.get_by_role("button", name="Events").click()
        self.keep("volumes-over-time", height=1100)

    def shown(self, asset: str, tab: str, what: str) -> None:
        """An asset's page once it says so: what no run has changed, a sensor records within a minute."""
        ends = time.monotonic() + 120
        self.asset(asset, tab)
        while not self.page.get_by_text(what).count():
            if time.monotonic() > ends:
                raise TimeoutError(f"{asset} does not say {what!r} after two minutes")
            self.page.wait_for_timeout(DRAWN_MS)
            self.asset(asset, tab)
            self.page.wait_for_timeout(DRAWN_MS)

    def promoted(self) -> None:
        """A promotion by hand, as the lineage has it."""
        self.shown("live_map", "Events", "takes slices of 3 mm")
        self.keep("promoted-by-hand")

    def stale(self, name: str = "stale-by-map") -> None:
        """Which studies are another MAP's than the live one's."""
        self.shown("studies_by_map", "", "have the live MAP answer all again")
        self.keep(name, height=1000)

    def retry(self) -> None:
        """The failed study, asked again, and answered."""
        before = self.runs_by_hand()
        self.page.goto(f"{UI}/assets/inference_result?view=events&partition={self.studies['thick']}")
        self.page.get_by_role("link", name=self.studies["thick"]).last.click()
        self.page.get_by_role("button", name="Materialize").first.click()
        self.page.get_by_role("button", name="Launch 1 run").click()
        self.page.get_by_role("button", name="Launch 1 run").wait_for(state="hidden")
        self.new_run(before)
        self.ended()
        self.page.locator("input[placeholder^=Filter]").last.fill("job")
        self.page.mouse.move(800, 650)
        self.page.wait_for_timeout(DRAWN_MS)
        self.page.mouse.wheel(0, -10_000)  # the log opens at its end
        self.keep("retried")
        self.asset("inference_result", "Partitions")
        self.page.get_by_text(self.studies["thick"]).first.click()
        self.page.locator("img[src*=preview]").wait_for()
        self.keep("retried-study", height=1000)

    def refresh(self) -> None:
        """All that is stale, answered by the live MAP."""
        self.asset("studies_by_map")
        self.page.get_by_role("link", name="have the live MAP answer all again").click()
        self.page.get_by_text("stale").first.wait_for()
        self.keep("rerun-ready")
        self.page.get_by_role("button", name="Launch Run").click()
        self.page.wait_for_url("**/runs/*")
        self.ended()
        self.page.get_by_text("STEP_OUTPUT").first.scroll_into_view_if_needed()
        self.page.get_by_text("View full message").first.click()
        self.keep("refreshed")

    def compared(self) -> None:
        """The answers to one study side by side, on its own page."""
        self.asset("inference_result", "Partitions")
        self.page.get_by_text(self.studies["head-2"]).first.click()
        self.page.goto(self.page.get_by_role("link", name="all answers").first.get_attribute("href"))  # it opens in a window of its own
        self.page.locator("img").first.wait_for()
        self.keep("study-compared", width=960, height=1000)

    def runs_by_hand(self) -> list[str]:
        """Runs that a person started, the newest first. Sensors start others at any moment."""
        query = "{ runsOrError(limit: 30) { ... on Runs { results { runId tags { key } } } } }"
        found = self.page.request.post(f"{UI}/graphql", data={"query": query}).json()["data"]["runsOrError"]["results"]
        return [run["runId"] for run in found if "dagster/sensor_name" not in {tag["key"] for tag in run["tags"]}]

    def new_run(self, before: list[str]) -> None:
        """As a person opens it: Runs, the one that was not there before."""
        ends = time.monotonic() + SEEN_MS / 1000
        while not (new := [each for each in self.runs_by_hand() if each not in before]):
            if time.monotonic() > ends:
                raise TimeoutError("the run that was launched is not listed")
            self.page.wait_for_timeout(DRAWN_MS)
        self.page.goto(f"{UI}/runs")
        self.page.locator(f"a[href*='/runs/{new[0]}']").first.click()
        self.page.wait_for_url("**/runs/*")

    def ended(self) -> None:
        """The page of a run, once it has succeeded."""
        self.page.get_by_text("Success", exact=True).first.wait_for(timeout=RUN_MS)
        self.page.wait_for_timeout(DRAWN_MS)

    def rolled_back(self) -> None:
        """The same question after a rollback."""
        self.stale("stale-after-rollback")


def main(browser: str, folder: str, out: str, *chapters: str) -> None:
    """Some chapters."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        page = started.new_context(viewport={"width": 1400, "height": 900}).new_page()
        page.set_default_timeout(SEEN_MS)
        walk = Walk(page, Path(folder), Path(out))
        for chapter in chapters:
            try:
                getattr(walk, chapter)()
            except BaseException:
                page.screenshot(path=walk.out / f"stuck-in-{chapter}.png")
                raise
        started.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
