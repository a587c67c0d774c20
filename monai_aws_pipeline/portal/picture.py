"""A preview picture made fit for a browser: hostile until it has been parsed, decoded within bounds and written anew.

No byte of the file in the bucket reaches the page. Drawing the picture belongs to the host agent.
"""

from __future__ import annotations

import io
import threading
import warnings
from typing import Final

from PIL import Image

from monai_aws_pipeline.errors import NamedError

MAX_SOURCE_BYTES: Final = 2 * 1024 * 1024
MAX_SOURCE_PIXELS: Final = 16_000_000
_DECODING: Final = threading.BoundedSemaphore(2)
"""A decoded picture takes up to 64 MB, and a browser may ask for many at once."""


class PreviewError(NamedError, ValueError):
    """The preview is no PNG that can be shown: too large, of another format, or damaged."""


def fit_to_show(png: bytes, widest: int = MAX_SOURCE_PIXELS) -> bytes:
    """The picture as a PNG of our own, at most so many pixels wide, without anything that is not a pixel. Raises PreviewError."""
    if len(png) > MAX_SOURCE_BYTES:
        raise PreviewError(f"the preview has more than {MAX_SOURCE_BYTES} bytes")
    try:
        with _DECODING, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(png), formats=["PNG"]) as source:
                return _written_anew(source, widest) if source.width * source.height <= MAX_SOURCE_PIXELS else _too_large()
    except PreviewError:
        raise
    # Pillow's decoders raise almost anything on damaged input: ValueError, SyntaxError, OSError, struct.error, EOFError …
    except Exception as error:
        raise PreviewError(f"the preview is no readable PNG ({type(error).__name__})") from error


def _written_anew(source: Image.Image, widest: int) -> bytes:
    shown = source.convert("RGB")
    if shown.width > widest:
        shown = shown.resize((widest, max(1, round(shown.height * widest / shown.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    Image.frombytes("RGB", shown.size, shown.tobytes()).save(buffer, "PNG")
    return buffer.getvalue()


def _too_large() -> bytes:
    raise PreviewError(f"the preview has more than {MAX_SOURCE_PIXELS} pixels")
