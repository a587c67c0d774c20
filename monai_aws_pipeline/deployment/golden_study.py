"""Whether the golden study can be judged at all, found out before any money is spent: files, expectation, study, reference, series rules.

The study is read by the agent's own intake, so that what is refused on a host is refused here. Series rules of the MONAI Deploy SDK
(https://docs.monai.io/projects/monai-deploy-app-sdk, DICOMSeriesSelectorOperator) are evaluated where the application holds them as a text;
rules that are put together by code cannot be known here, and nothing is said about them.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from monai_aws_pipeline.host_agent.errors import JobError
from monai_aws_pipeline.host_agent.intake.dicom import Study, read_studies
from monai_aws_pipeline.host_agent.intake.unpack import unpack
from monai_aws_pipeline.host_agent.results import segmentation
from monai_aws_pipeline.maps import download
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.golden import Golden, GoldenError, gather, read_expectation
from monai_aws_pipeline.maps.spec.expectation import EXPECT_FILE, ExpectationError
from monai_aws_pipeline.maps.spec.series_rules import UndecidedError, matches, series_rules
from monai_aws_pipeline.scratch import scratch

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

POINT: Final = "golden"
_GUIDE: Final = "docs/golden.md shows how"


def examine(settings: Settings, application: Path, *, download_s3: download.S3Download | None = None) -> list[Finding]:
    """Everything that is known against the golden study that settings and application name. Raises nothing that is their fault."""
    if not settings.golden_study:
        return [_without_study(application)]
    if not settings.bucket:
        remedy = "Set MONAI_AWS_BUCKET to the bucket that infra/bootstrap.yaml made"
        return [Finding(POINT, "there is no bucket to keep the golden study in", remedy)]
    try:
        golden = gather(settings, application, download_s3=download_s3)
    except ExpectationError as error:
        return [Finding(POINT, f"{EXPECT_FILE}: {each}", f"Correct {EXPECT_FILE}; {_GUIDE}") for each in error.findings]
    except GoldenError as error:
        return [Finding(POINT, str(error), _GUIDE[:1].upper() + _GUIDE[1:])]
    except download.ModelError as error:
        return [Finding(POINT, str(error), "Correct the settings MONAI_AWS_GOLDEN_…")]
    return _judgeable(golden, application) if golden else []


def _without_study(application: Path) -> Finding:
    remedy = f"Set MONAI_AWS_GOLDEN_STUDY and MONAI_AWS_GOLDEN_STUDY_SHA256; {_GUIDE}"
    try:
        expects = read_expectation(application) is not None
    except ExpectationError:
        expects = True
    said = f"{EXPECT_FILE} is there and no study to judge by it" if expects else "there is no golden study"
    return Finding(POINT, f"{said}: a new image is pushed without having answered one", remedy, Severity.WARNING)


def _judgeable(golden: Golden, application: Path) -> list[Finding]:
    with scratch("monai-aws-golden") as folder:
        try:
            unpack(golden.study, folder)
            studies = read_studies(sorted(folder.glob("*.dcm")))
        except JobError as error:
            return [Finding(POINT, f"the golden study would be refused ({error.code}: {error.cause})", error.remedy.rstrip("."))]
        if len(studies) != 1:
            remedy = "Zip the DICOM files of one study and set the new SHA-256"
            return [Finding(POINT, f"the golden study holds {len(studies)} studies", remedy)]
        findings = _geometry(studies[0])
        findings += _rules(studies[0], application)
        findings += _reference(golden, studies[0])
        return findings


def _geometry(study: Study) -> list[Finding]:
    """Series whose slices leave gaps: an application may answer, and its volume would mean little."""
    positions: defaultdict[str, list[Dataset]] = defaultdict(list)
    for item in study.instances:
        data = pydicom.dcmread(item.path, stop_before_pixels=True, specific_tags=["ImagePositionPatient", "ImageOrientationPatient"])
        if data.get("ImagePositionPatient") and data.get("ImageOrientationPatient"):
            positions[item.series_uid].append(data)
    findings = []
    for slices in positions.values():
        orientation = np.array(slices[0].ImageOrientationPatient, dtype=float)
        along = np.sort([float(np.dot(np.cross(orientation[:3], orientation[3:]), item.ImagePositionPatient)) for item in slices])
        steps = np.diff(along)
        if len(steps) > 1 and steps.max() > 1.5 * max(float(np.median(steps)), 1e-3):
            message = f"a series of {len(slices)} instances has a gap of {steps.max():.1f} mm where {np.median(steps):.1f} mm is its step"
            remedy = "Export the whole series and set the new SHA-256, unless the gap is meant"
            findings.append(Finding(POINT, message, remedy, Severity.WARNING))
    return findings


def _reference(golden: Golden, study: Study) -> list[Finding]:
    if golden.reference is None:
        return []
    remedy = "Make the reference a DICOM SEG on the golden study's own grid, with the labels of the application's segments"
    try:
        data = pydicom.dcmread(golden.reference, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        labels = set(segmentation.read_segmentation(golden.reference, segmentation.read_source(study.instances)).labels.values())
    except Exception as error:  # whatever a file may hold that is no SEG
        why = str(error) if isinstance(error, segmentation.SegmentationError) else type(error).__name__
        return [Finding(POINT, f"the golden reference cannot be read as a DICOM SEG ({why})", remedy)]
    wanted = {rule.label for rule in golden.expectation.segments if rule.dice is not None}
    findings = [
        Finding(POINT, f"{EXPECT_FILE} wants a Dice of {label}, and the reference has no segment of that label", remedy)
        for label in sorted(wanted - labels)
    ]
    if str(data.get("StudyInstanceUID")) != study.uid:
        findings.append(Finding(POINT, "the golden reference belongs to another study than the golden study", remedy, Severity.WARNING))
    return findings


# -------------------------------------------------------------------------------------------------------------------- series rules


def _rules(study: Study, application: Path) -> list[Finding]:
    series: dict[str, Dataset] = {}
    for item in study.instances:
        if item.series_uid not in series:
            series[item.series_uid] = pydicom.dcmread(item.path, stop_before_pixels=True)
    findings = []
    for where, rules in series_rules(application):
        try:
            chosen = [name for name, conditions in rules if any(matches(conditions, data) for data in series.values())]
        except UndecidedError as error:
            message = f"the series rules in {where} hold a condition that cannot be decided here ({error})"
            findings.append(Finding(POINT, message, "Compare them with the golden study by hand", Severity.WARNING))
            continue
        if not chosen:
            message = f"the series rules in {where} select none of the {len(series)} series of the golden study"
            findings.append(Finding(POINT, message, "Correct the rules, or choose a study that the application is made for"))
    return findings
