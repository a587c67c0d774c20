"""The golden study of an application: a study every new image must answer well before it is pushed, and what belongs to it.

Here belongs bringing the pieces together on the control plane: the study and its reference as the settings name them, and
``golden/expect.yaml`` of the application's folder. What the expectation says is in ``expectation.py``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.maps import download
from monai_aws_pipeline.maps.manifest import ManifestError, load_yaml
from monai_aws_pipeline.maps.spec.expectation import (
    EXPECT_FILE,
    LABEL_EXPECT,
    LABEL_REFERENCE,
    LABEL_STUDY,
    MAX_BYTES,
    Expectation,
    ExpectationError,
    parse_expectation,
)

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

FOLDER: Final = "golden"
"""The folder of an application that never goes into its image."""
NO_LABELS: Final = {LABEL_STUDY: "", LABEL_EXPECT: "", LABEL_REFERENCE: ""}


class GoldenError(NamedError):
    """The golden study cannot be put together. The message says why and what to do."""


@dataclass(frozen=True)
class Golden:
    """A golden study with its expectation. ``reference`` is a DICOM SEG, None where there is none."""

    study: Path
    study_sha256: str
    expectation: Expectation
    reference: Path | None = None
    reference_sha256: str = ""

    @property
    def expect_json(self) -> bytes:
        """The expectation as it travels."""
        return self.expectation.to_json()

    @property
    def labels(self) -> dict[str, str]:
        """What an image says about the golden study that it was judged with."""
        return {
            LABEL_STUDY: self.study_sha256,
            LABEL_EXPECT: hashlib.sha256(self.expect_json).hexdigest(),
            LABEL_REFERENCE: self.reference_sha256,
        }

    def objects(self) -> dict[str, Path | bytes]:
        """Content by its SHA-256: what has to lie in the bucket, so that any host can prove the image later."""
        found: dict[str, Path | bytes] = {self.study_sha256: self.study, self.labels[LABEL_EXPECT]: self.expect_json}
        if self.reference:
            found[self.reference_sha256] = self.reference
        return found


def gather(settings: Settings, application: Path, *, download_s3: download.S3Download | None = None) -> Golden | None:
    """The golden study that settings and application name, fetched and checked; None where the settings name none.

    Raises GoldenError, ExpectationError, or ModelError for a file that is missing, altered or out of reach.
    """
    if not settings.golden_study:
        return None
    expectation = read_expectation(application)
    if expectation is None:
        raise GoldenError(f"MONAI_AWS_GOLDEN_STUDY names a study, but the application has no {EXPECT_FILE} that says what to expect of it")
    if expectation.needs_reference and not settings.golden_reference:
        raise GoldenError(f"{EXPECT_FILE} asks for a Dice, but MONAI_AWS_GOLDEN_REFERENCE names no DICOM SEG to compare with")
    cache = settings.cache_dir
    study = download.fetch_file(download.GOLDEN_STUDY, settings.golden_study, settings.golden_study_sha256, cache, download_s3=download_s3)
    if not settings.golden_reference:
        return Golden(study, settings.golden_study_sha256, expectation)
    reference = download.fetch_file(
        download.GOLDEN_REFERENCE, settings.golden_reference, settings.golden_reference_sha256, cache, download_s3=download_s3
    )
    return Golden(study, settings.golden_study_sha256, expectation, reference, settings.golden_reference_sha256)


def read_expectation(application: Path) -> Expectation | None:
    """The expectation of an application folder, None where it has none. Raises ExpectationError."""
    path = application / EXPECT_FILE
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise ExpectationError([f"larger than {MAX_BYTES // 1024} KiB"])
    try:
        return parse_expectation(load_yaml(path.read_text("utf-8"), EXPECT_FILE))
    except UnicodeDecodeError as error:
        raise ExpectationError(["not UTF-8 text"]) from error
    except ManifestError as error:
        raise ExpectationError(list(error.findings)) from error
