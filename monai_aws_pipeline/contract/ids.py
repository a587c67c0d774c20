"""What a study, a job, a file and an image are named by, and how such a name is told from other texts. Made in ``keys``."""

from __future__ import annotations

import re
from typing import Final

STUDY_PATTERN: Final = "[0-9a-f]{16}"
JOB_PATTERN: Final = "[0-9a-f]{32}"
SHA256_PATTERN: Final = "[0-9a-f]{64}"
DIGEST_PATTERN: Final = f"sha256:{SHA256_PATTERN}"
SHORT_DIGITS: Final = 12
"""So many digits tell the images of a deployment apart, and ``monai-aws maps`` takes them for the whole digest."""

_STUDY: Final = re.compile(STUDY_PATTERN)
_JOB: Final = re.compile(JOB_PATTERN)
_SHA256: Final = re.compile(SHA256_PATTERN)
_DIGEST: Final = re.compile(DIGEST_PATTERN)


def is_study(text: str) -> bool:
    """Whether a text is the pseudonym of a study."""
    return _STUDY.fullmatch(text) is not None


def is_job(text: str) -> bool:
    """Whether a text is the identity of a job."""
    return _JOB.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 as we write it: lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether a text is the whole digest of an image (``sha256:…``)."""
    return _DIGEST.fullmatch(text) is not None


def digest_in(text: str) -> str:
    """The first digest that a text holds, as an image's address does; empty where it holds none."""
    found = _DIGEST.search(text)
    return found[0] if found else ""


def short_digest(digest: str) -> str:
    """The first digits of an image's digest or a file's SHA-256, for a person to tell it from others."""
    return digest.removeprefix("sha256:")[:SHORT_DIGITS]
