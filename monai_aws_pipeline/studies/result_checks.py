"""Whether a result is one to rely on: each check of ``inference_result``, decided for one record.

Here belong the checks, their words and their decision, as pure functions over a commit record and what lies beside it. Only what these
support is judged: where there is no evidence, the verdict is "not judged", which is not "passed". How verdicts of many studies become the
state of the graph's node is in ``check_window``; ``by_live_map`` is decided there, because its answer changes with every promotion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from monai_aws_pipeline.contract import ExpectedVolume, ResultRecord, SegmentVolume, Status
from monai_aws_pipeline.contract.outputs import DICOM_SEG, LOG, MEASUREMENTS, MESH, PREVIEW, SEGMENTATION, SOURCE
from monai_aws_pipeline.host_agent.errors import Code
from monai_aws_pipeline.operations.unanswered import UNKNOWN, split_message
from monai_aws_pipeline.settings import Settings

ANSWERED: Final = "answered"
OUTPUTS_VALID: Final = "outputs_valid"
GEOMETRY_ON_SOURCE: Final = "geometry_on_source"
MESH_AGREES: Final = "mesh_agrees"
PLAUSIBLE_VOLUME: Final = "plausible_volume"
WITHIN_TIME_AND_COST: Final = "within_time_and_cost"
BY_LIVE_MAP: Final = "by_live_map"

TIME_SHARE: Final = 0.8
"""Part of the MAP's time limit from which a person should look, where no limit of its own is set: soon studies will fail by it."""

_OUTPUT_CODES: Final = frozenset({Code.NO_OUTPUT, Code.OUTPUT_UNSAFE, Code.OUTPUT_NOT_DICOM, Code.OUTPUT_OTHER_STUDY})
_OF_A_SURFACE: Final = "A surface "
"""How every cause begins that ``host_agent.results.mesh`` gives for OUTPUT_GEOMETRY; the others are of the segmentation."""
_OURS: Final = frozenset({PREVIEW, MEASUREMENTS, LOG})


class Outcome(StrEnum):
    """What a check says of one result."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Check:
    """A check as it is shown. ``error``: a failure is a definite one; otherwise the answer stands, and a person should look."""

    name: str
    error: bool
    description: str


_WHEN: Final = (
    "The sensor study_checks judges within a minute of a result, and by hand it takes seconds; it reads Dagster's event log and "
    "costs nothing."
)

CHECKS: Final = (
    Check(
        ANSWERED,
        True,
        "Each upload of the last day has ended with an answer. Red: studies were refused or failed; unanswered_studies says why, and "
        f"what to do. {_WHEN}",
    ),
    Check(
        OUTPUTS_VALID,
        True,
        "The application wrote whole DICOM objects of its study and nothing unsafe. Red: the MAP is at fault, and its code in "
        f"docs/operations.md says what to mend. {_WHEN}",
    ),
    Check(
        GEOMETRY_ON_SOURCE,
        True,
        "Segmentations lie on the images that the application was given, and refer to them. Red: that answer was not published; mend how "
        f"the MAP writes its segmentation, then re-run the study. {_WHEN}",
    ),
    Check(
        MESH_AGREES,
        True,
        "Surfaces lie on the segmentation beside them, in patient millimetres. Red: that answer was not published; mend how the MAP makes "
        f"its surface, then re-run the study. {_WHEN}",
    ),
    Check(
        PLAUSIBLE_VOLUME,
        False,
        "Volumes lie where the MAP itself expects them (app.yaml, volumes-ml). Yellow: look at preview and segmentation; where such a "
        f"volume is right, widen volumes-ml. {_WHEN}",
    ),
    Check(
        WITHIN_TIME_AND_COST,
        False,
        "No inference took longer, and no study cost more, than MONAI_AWS_STUDY_MAX_SECONDS and MONAI_AWS_STUDY_MAX_USD say. Its metadata "
        "says what the last day cost, hour by hour. Yellow: compare with other studies, and choose a larger instance type where all are "
        f"slow. {_WHEN}",
    ),
    Check(
        BY_LIVE_MAP,
        False,
        "Studies were answered by the MAP that is live now. Yellow: studies_by_map counts those that were not; rerun_studies answers them "
        f"again, or leave them. {_WHEN}",
    ),
)


@dataclass(frozen=True)
class StudyLimits:
    """From when on a study took too long (seconds of inference) or cost too much (US dollars; 0: not judged)."""

    seconds: float = math.inf
    usd: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> StudyLimits:
        """Without a time of its own, a share of the MAP's time limit."""
        return cls(settings.study_max_seconds or TIME_SHARE * settings.map_timeout_s, settings.study_max_usd)


@dataclass(frozen=True)
class Verdict:
    """What a check says of one result: ``found`` in words, ``remedy`` where something is to be done."""

    check: str
    outcome: Outcome
    found: str
    remedy: str = ""


Judged = tuple[Outcome, str, str]


def judge(
    record: ResultRecord, measurements: Sequence[SegmentVolume], expected: Sequence[ExpectedVolume], limits: StudyLimits
) -> tuple[Verdict, ...]:
    """Every check of one result but ``by_live_map``, in the order of ``CHECKS``."""
    decided: dict[str, Callable[[], Judged]] = {
        ANSWERED: lambda: _answered(record),
        OUTPUTS_VALID: lambda: _outputs(record),
        GEOMETRY_ON_SOURCE: lambda: _geometry(record),
        MESH_AGREES: lambda: _mesh(record),
        PLAUSIBLE_VOLUME: lambda: _volume(record, measurements, expected),
        WITHIN_TIME_AND_COST: lambda: _time_and_cost(record, limits),
    }
    return tuple(Verdict(name, *decide()) for name, decide in decided.items())


def _answered(record: ResultRecord) -> Judged:
    if record.status is Status.SUCCEEDED:
        return Outcome.PASSED, "answered", ""
    code = record.error.code if record.error else UNKNOWN
    return Outcome.FAILED, f"{record.status.value}: {code}", _remedy(record)


def _outputs(record: ResultRecord) -> Judged:
    if record.status is not Status.SUCCEEDED:
        return _failed_by(record, _code(record) in _OUTPUT_CODES)
    written = [output for output in record.outputs if output.kind not in _OURS]
    return Outcome.PASSED, f"{len(written)} outputs", ""


def _geometry(record: ResultRecord) -> Judged:
    if record.status is not Status.SUCCEEDED:
        return _failed_by(record, _code(record) == Code.OUTPUT_GEOMETRY and not _is_surface(record))
    return _held(record, DICOM_SEG, SOURCE, "segmentation", "the images tell no geometry, or the host is older than this check")


def _mesh(record: ResultRecord) -> Judged:
    if record.status is not Status.SUCCEEDED:
        return _failed_by(record, _code(record) == Code.OUTPUT_GEOMETRY and _is_surface(record))
    return _held(
        record,
        MESH,
        SEGMENTATION,
        "surface",
        "no segmentation is beside it, its format is not read, or the host is older than this check",
    )


def _held(record: ResultRecord, kind: str, against: str, noun: str, why_not: str) -> Judged:
    """Passed where every output of a kind was held against something, and lies on it: one that does not is no answer."""
    files = [output for output in record.outputs if output.kind == kind]
    unjudged = sum(output.held_against != against for output in files)
    if not files:
        return Outcome.NOT_JUDGED, f"the answer has no {noun}", ""
    if unjudged:
        return Outcome.NOT_JUDGED, f"{unjudged} of {len(files)} {noun}s: {why_not}", ""
    return Outcome.PASSED, f"{len(files)} {noun}s", ""


def _volume(record: ResultRecord, measurements: Sequence[SegmentVolume], expected: Sequence[ExpectedVolume]) -> Judged:
    if record.status is not Status.SUCCEEDED:
        return Outcome.NOT_JUDGED, "there is no answer", ""
    if not expected:
        return Outcome.NOT_JUDGED, "the MAP declares no plausible volume (app.yaml, monai-aws.volumes-ml), or nothing was measured", ""
    volumes: dict[str, float] = {}
    for segment in measurements:
        volumes[segment.label] = volumes.get(segment.label, 0.0) + segment.volume_ml
    found = [(each, volumes.get(each.label, 0.0)) for each in expected]
    said = ", ".join(f"{each.label} {volume:.1f} ml" for each, volume in found)
    outside = [f"{each.label} {volume:.1f} ml, expected {_ends(each)}" for each, volume in found if not each.holds(volume)]
    if outside:
        return Outcome.FAILED, "; ".join(outside), "Look at the preview and the segmentation; if such a volume is right, widen volumes-ml."
    return Outcome.PASSED, said, ""


def _time_and_cost(record: ResultRecord, limits: StudyLimits) -> Judged:
    if record.status is not Status.SUCCEEDED:
        return _failed_by(record, _code(record) == Code.MAP_TIMEOUT)
    seconds, usd = record.timings.inference, record.cost.usd
    over = [f"inference {seconds:.1f} s, more than {limits.seconds:g} s"] if seconds > limits.seconds else []
    over += [f"{usd:.4f} USD, more than {limits.usd:g} USD"] if limits.usd and usd > limits.usd else []
    if over:
        return Outcome.FAILED, "; ".join(over), "Compare with other studies; a larger instance type is MONAI_AWS_INSTANCE_TYPES."
    if limits.usd and not usd:
        return Outcome.NOT_JUDGED, f"inference {seconds:.1f} s; no price of {record.host.type or 'this host'} is known", ""
    return Outcome.PASSED, f"inference {seconds:.1f} s, {usd:.4f} USD", ""


def _failed_by(record: ResultRecord, its_own: bool) -> Judged:
    """A failure that a check has found is its own; any other one has left nothing to judge."""
    if not its_own or not record.error:
        return Outcome.NOT_JUDGED, "there is no answer", ""
    cause, remedy = split_message(record.error.code, record.error.message)
    return Outcome.FAILED, cause, remedy


def _code(record: ResultRecord) -> str:
    return record.error.code if record.error else UNKNOWN


def _remedy(record: ResultRecord) -> str:
    return split_message(record.error.code, record.error.message)[1] if record.error else ""


def _is_surface(record: ResultRecord) -> bool:
    return record.error is not None and record.error.message.startswith(_OF_A_SURFACE)


def _ends(expected: ExpectedVolume) -> str:
    if expected.low is not None and expected.high is not None:
        return f"{expected.low:g} to {expected.high:g}"
    return f"at least {expected.low:g}" if expected.low is not None else f"at most {expected.high:g}"
