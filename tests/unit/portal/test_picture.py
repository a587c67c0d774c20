"""A preview is hostile until it has been decoded, and no byte of it reaches a browser."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from monai_aws_pipeline.portal.picture import PreviewError, fit_to_show
from tests.unit.studies.records import picture


@pytest.mark.parametrize("size", [(1, 1), (40, 1200), (900, 700)])
def test_a_picture_is_shown_with_the_pixels_that_it_has(size: tuple[int, int]):
    given = picture(*size)
    with Image.open(io.BytesIO(fit_to_show(given))) as shown, Image.open(io.BytesIO(given)) as source:
        assert shown.format == "PNG"
        assert shown.tobytes() == source.tobytes()


def test_what_is_shown_carries_no_text_of_the_file():
    info = PngInfo()
    info.add_text("Comment", "DOE^JANE")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "navy").save(buffer, "PNG", pnginfo=info)
    assert b"DOE^JANE" in buffer.getvalue()
    assert b"DOE^JANE" not in fit_to_show(buffer.getvalue())


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


HOSTILE = {
    "empty": b"",
    "text": b"<svg onload=alert(1)>",
    "a JPEG by another name": b"\xff\xd8\xff\xe0" + b"\0" * 100,
    "cut short": picture()[:500],
    "a bomb of 100000 x 100000 pixels": _png(100_000, 100_000, zlib.compress(b"\0" * 100)),
    "a bomb below Pillow's own limit": _png(8000, 8000, zlib.compress(b"\0" * (8000 * 24001))),
    "no such size": _png(0, 0, zlib.compress(b"")),
    "larger than any of ours": b"\x89PNG\r\n\x1a\n" + b"\0" * 3_000_000,
}


@pytest.mark.parametrize("png", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_preview_is_refused(png: bytes):
    with pytest.raises(PreviewError):
        fit_to_show(png)
