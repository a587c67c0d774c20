"""What a viewer draws, seen as a person sees it: whether there is something coloured on the grey images."""

from __future__ import annotations

import io
import json
from typing import Final

import numpy as np
from PIL import Image

from tests.support.browser import Page

DRAWN_BY_THE_PROCESSOR: Final = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
"""WebGL on a machine without a graphics card."""


def coloured(page: Page, canvas: str) -> int:
    """Pixels of a canvas, as it is seen, that are not grey, without its borders: OHIF has coloured labels and notes there."""
    # While it opens OHIF takes its canvas away and makes another.
    box = json.loads(page.until(f"JSON.stringify(document.querySelector({json.dumps(canvas)}).getBoundingClientRect())"))
    seen = Image.open(io.BytesIO(page.picture())).convert("RGB")
    pixels = np.asarray(seen.crop((int(box["left"]), int(box["top"]), int(box["right"]), int(box["bottom"])))).astype(int)
    rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
    inner = pixels[rows : -2 * rows, columns:-columns]
    return int((inner.max(axis=2) - inner.min(axis=2) > 40).sum())


def wait_for_colour(page: Page, canvas: str) -> None:
    """Until something coloured is drawn on the grey images; each look draws the page once, so there are only so many."""
    for _ in range(100):
        if coloured(page, canvas) > 1500:  # a segmentation has thousands; without one there are hundreds
            return
        page.js("new Promise((done) => setTimeout(done, 200))")
    raise AssertionError(f"nothing coloured is drawn on {canvas}")
