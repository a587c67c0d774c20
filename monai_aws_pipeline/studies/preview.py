"""A thumbnail for the lineage, made from a preview picture that is hostile until it has been parsed.

Here belongs the picture's way into Dagster metadata. Making the full picture belongs to the host agent; it stays in S3.
Dagster stores metadata twice over and shows it in the browser, hence the limit; the picture is decoded and written anew, so no
byte of the original reaches the page.
"""

from __future__ import annotations

import base64
import io
import warnings
from typing import Final

from PIL import Image

MAX_SOURCE_BYTES: Final = 2 * 1024 * 1024
MAX_SOURCE_PIXELS: Final = 16_000_000
MAX_URI_BYTES: Final = 30 * 1024
_WIDTHS: Final = (640, 480, 360, 256, 192, 128, 64)
_COLOURS: Final = 64


class PreviewError(ValueError):
    """The preview is no PNG that can be shown: too large, of another format, or damaged."""


def thumbnail_uri(png: bytes) -> str:
    """A ``data:image/png;base64`` URI of at most 30 KiB. Raises PreviewError."""
    if len(png) > MAX_SOURCE_BYTES:
        raise PreviewError(f"the preview has more than {MAX_SOURCE_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(png), formats=["PNG"]) as source:
                picture = source.convert("RGB") if source.width * source.height <= MAX_SOURCE_PIXELS else None
        uri = _smaller_until_it_fits(picture) if picture else None
    # Pillow's decoders raise almost anything on damaged input: ValueError, SyntaxError, OSError, struct.error, EOFError …
    except Exception as error:
        raise PreviewError(f"the preview is no readable PNG ({type(error).__name__})") from error
    if uri is None:
        raise PreviewError(f"the preview has more than {MAX_SOURCE_PIXELS} pixels, or does not fit into {MAX_URI_BYTES} bytes")
    return uri


def _smaller_until_it_fits(picture: Image.Image) -> str | None:
    for width in _WIDTHS:
        small = picture.copy()
        small.thumbnail((width, width))
        buffer = io.BytesIO()
        small.quantize(_COLOURS).save(buffer, "PNG", optimize=True)
        uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) <= MAX_URI_BYTES:
            return uri
    return None
