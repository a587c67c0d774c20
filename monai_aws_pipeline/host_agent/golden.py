"""The golden study on a machine: run by the MAP as any study is, measured, and held against what was expected.

Two callers: the gate on a build host, before an image is pushed (files come over SSH), and ``prove`` on an inference host, for an image of
the registry (files come from the bucket by the hashes in its labels). Here belongs measuring; the judgement is in ``maps.expectation``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pydicom

from monai_aws_pipeline.contract import golden_key
from monai_aws_pipeline.contract.outputs import DICOM, DICOM_SEG
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Study, read_studies
from monai_aws_pipeline.host_agent.intake.unpack import unpack
from monai_aws_pipeline.host_agent.job_steps import HOST_CODES, Inferred, as_job_error, run_study
from monai_aws_pipeline.host_agent.results import segmentation as seg
from monai_aws_pipeline.host_agent.results.outputs import Produced
from monai_aws_pipeline.host_agent.results.overlap import dice
from monai_aws_pipeline.host_agent.runtime.hosting import Hosting
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.maps.spec.expectation import (
    LABEL_EXPECT,
    LABEL_REFERENCE,
    LABEL_STUDY,
    Expectation,
    ExpectationError,
    Found,
    FoundFile,
    FoundSegment,
    Verdict,
    judge,
    read_json,
)
from monai_aws_pipeline.maps.spec.run import Limits

log = logging.getLogger(__name__)

_LOG_LINES: Final = 60
_TRIES: Final = 3
_LEVEL: Final = re.compile(r"(?<![A-Za-z])(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?![A-Za-z])")
"""As Python's logging writes it, and the SDK: the first such word of a line."""


@dataclass(frozen=True)
class Given:
    """The files of a golden study on this machine. ``reference`` is a DICOM SEG, None where there is none."""

    study: Path
    expectation: Expectation
    reference: Path | None = None


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder of its own that is gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="golden-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def examine(hosting: Hosting, limits: Limits, stop: threading.Event, ready: ReadyMap, given: Given, folder: Path) -> Verdict:
    """Let the MAP answer the study in ``folder`` and judge the answer. Raises JobError where the machine and not the MAP is at fault.

    One that took so short a time that its memory was not measured is asked again where that is expected to stay below a limit.
    """
    for number in range(1, _TRIES + 1):
        place = folder / f"study-{number}"  # the containers are named by it, and the one before may still be there
        found = _answer(hosting, limits, stop, ready, given, place)
        if found.failure or found.peak_bytes or given.expectation.memory_mib is None or number == _TRIES:
            break
        log.info("the application had ended before its memory was measured; it is run again")
    verdict = judge(given.expectation, found)
    if not verdict.passed:
        _show_log(place / "map.log")
    return verdict


def _answer(hosting: Hosting, limits: Limits, stop: threading.Event, ready: ReadyMap, given: Given, folder: Path) -> Found:
    try:
        study = _only_study(given.study, folder / "files")
        return measure(run_study(hosting, limits, stop, ready, study, folder), folder / "output", given.reference)
    except InterruptedJobError:
        raise
    except Exception as error:  # files of a study and of somebody's application: a foreign exception's text may quote a value
        failed = as_job_error(error)
        if failed.code in HOST_CODES:
            raise failed from None
        return Found(failure=f"{failed.code}: {failed.cause}")


def measure(inferred: Inferred, output: Path, reference: Path | None) -> Found:
    """Files, volumes and Dice of an answer."""
    compared = inferred.source.segmentation(reference) if reference else None
    segments: list[FoundSegment] = []
    for item in inferred.produced:
        if item.kind != DICOM_SEG:
            continue
        try:
            segmentation = inferred.source.segmentation(item.path)
            segments += [_segment(segmentation, segment, compared) for segment in seg.measure(segmentation)]
        except Exception as error:  # somebody's file, whose text may quote a value; the points say that its segments were not found
            why = error if isinstance(error, seg.SegmentationError) else type(error).__name__
            log.warning("a segmentation cannot be measured (%s)", why)
    files = tuple(FoundFile(item.path.relative_to(output).as_posix(), item.kind, _sop_class(item)) for item in inferred.produced)
    return Found(files, tuple(segments), inferred.end.seconds, inferred.end.peak_bytes)


def _segment(segmentation: seg.Segmentation, segment: seg.Segment, reference: seg.Segmentation | None) -> FoundSegment:
    if reference is None:
        return FoundSegment(segment.label, segment.volume_ml)
    numbers = [number for number, label in reference.labels.items() if label == segment.label]
    if len(numbers) != 1:
        return FoundSegment(segment.label, segment.volume_ml, no_dice=f"the reference has {len(numbers)} segments of this label")
    try:
        return FoundSegment(segment.label, segment.volume_ml, dice(segmentation, segment.number, reference, numbers[0]))
    except seg.SegmentationError as error:
        return FoundSegment(segment.label, segment.volume_ml, no_dice=str(error))


def _only_study(archive: Path, target: Path) -> Study:
    target.mkdir(parents=True)
    unpack(archive, target)
    studies = read_studies(sorted(target.glob("*.dcm")))
    if len(studies) != 1:
        raise RefusedError(Code.BAD_REQUEST, f"The golden study holds {len(studies)} studies instead of one.")
    return studies[0]


def _sop_class(item: Produced) -> str:
    if item.kind not in (DICOM, DICOM_SEG):
        return ""
    return str(pydicom.dcmread(item.path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID)


def _show_log(path: Path) -> None:
    """The application's last lines, out of which ``run_study`` has taken identifiers already."""
    if path.is_file():
        for line in filter(str.strip, path.read_text("utf-8").splitlines()[-_LOG_LINES:]):
            log.log(_level_of(line), "the application said: %s", line)


def _level_of(line: str) -> int:
    """The level that an application gave its own line; of one that names none, as little as is shown."""
    named = _LEVEL.search(line)
    return max(logging.INFO, logging.getLevelNamesMapping()[named[1]]) if named else logging.INFO


# ----------------------------------------------------------------------------------------------------------------- by the image's labels


def from_labels(labels: Mapping[str, str], store: Store, folder: Path) -> Given | None:
    """Fetch what an image's labels name from the bucket, each checked by its hash; None where they name nothing. Raises FailedError."""
    if not labels.get(LABEL_STUDY):
        return None
    study = _fetch(store, labels[LABEL_STUDY], folder / "study.zip")
    expected = _fetch(store, labels.get(LABEL_EXPECT, ""), folder / "expect.json")
    reference = _fetch(store, labels[LABEL_REFERENCE], folder / "reference.dcm") if labels.get(LABEL_REFERENCE) else None
    try:
        return Given(study, read_json(expected.read_bytes()), reference)
    except ExpectationError as error:
        raise FailedError(Code.GOLDEN_MISSING, f"The image's expectation cannot be read ({error}).") from error


def _fetch(store: Store, sha256: str, target: Path) -> Path:
    try:
        store.download(golden_key(sha256), "", "", target)
    except (RefusedError, ValueError) as error:
        raise FailedError(Code.GOLDEN_MISSING, f"The bucket has no object golden/{sha256[:12]}…, which the image's labels name.") from error
    with target.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise FailedError(Code.GOLDEN_MISSING, f"The object golden/{sha256[:12]}… was altered; its content is not what its name says.")
    return target


def report(image: str, digest: str, verdict: Verdict | None, started: float) -> str:
    """The one JSON line. ``started``: monotonic seconds; no verdict: the image names no golden study."""
    line = {
        "image": image,
        "digest": digest,
        "golden": "none" if verdict is None else "passed" if verdict.passed else "failed",
        "points": [asdict(point) for point in verdict.points] if verdict else [],
        "seconds": round(time.monotonic() - started, 3),
    }
    return json.dumps(line, sort_keys=True)
