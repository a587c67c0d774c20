"""What each check says of one result, and that nothing is judged that the record does not support."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.contract import Cost, ExpectedVolume, ResultError, ResultRecord, SegmentVolume, Status, Timings
from monai_aws_pipeline.host_agent.errors import REMEDIES, Code
from monai_aws_pipeline.host_agent.results import mesh
from monai_aws_pipeline.settings import load_settings
from monai_aws_pipeline.studies.result_checks import CHECKS, Outcome, StudyLimits, Verdict, judge
from tests.unit.studies.records import refused, study_of, succeeded

BRAIN = (SegmentVolume("Brain", 1437.25),)
PLAUSIBLE = (ExpectedVolume("Brain", 600, 2500),)
LIMITS = StudyLimits(seconds=60, usd=0.05)


def held(record: ResultRecord) -> ResultRecord:
    """The record as a host writes it that says what its outputs lie on."""
    against = {"dicom-seg": "source", "mesh": "segmentation"}
    return replace(record, outputs=tuple(replace(output, held_against=against.get(output.kind, "")) for output in record.outputs))


def failed(code: Code, cause: str = "Something was found.") -> ResultRecord:
    error = ResultError(code.value, f"{cause} {REMEDIES[code]}")
    return replace(refused(1, study=study_of(1), status=Status.FAILED), error=error)


def verdicts(record: ResultRecord, measured: Any = BRAIN, expected: Any = PLAUSIBLE, limits: StudyLimits = LIMITS) -> dict[str, Verdict]:
    return {verdict.check: verdict for verdict in judge(record, measured, expected, limits)}


def outcomes(record: ResultRecord, **given: Any) -> dict[str, str]:
    return {check: verdict.outcome.value for check, verdict in verdicts(record, **given).items()}


def test_every_check_that_is_shown_is_decided_for_each_record_but_the_one_that_depends_on_today():
    assert [check.name for check in CHECKS if check.name != "by_live_map"] == list(verdicts(succeeded(1)))


def test_a_good_answer_of_a_present_host_passes_all():
    assert set(outcomes(held(succeeded(1))).values()) == {"passed"}


def test_a_record_of_an_older_host_is_not_judged_by_what_it_does_not_say():
    found = outcomes(succeeded(1), expected=())
    assert [check for check, outcome in found.items() if outcome == "not judged"] == [
        "geometry_on_source",
        "mesh_agrees",
        "plausible_volume",
    ]
    assert found["answered"] == found["outputs_valid"] == "passed"


def test_one_surface_that_was_not_held_against_anything_leaves_all_of_them_unjudged():
    record = held(succeeded(1))
    unread = replace(next(output for output in record.outputs if output.kind == "mesh"), held_against="")
    found = verdicts(replace(record, outputs=(*record.outputs, unread)))
    assert found["mesh_agrees"].outcome is Outcome.NOT_JUDGED
    assert found["mesh_agrees"].found.startswith("1 of 2 surfaces")


def test_an_answer_without_segmentation_and_surface_is_not_judged_by_them():
    found = outcomes(replace(held(succeeded(1)), outputs=()))
    assert found["geometry_on_source"] == found["mesh_agrees"] == "not judged"


@pytest.mark.parametrize(
    ("code", "cause", "check"),
    [
        (Code.NO_OUTPUT, "The application wrote no output.", "outputs_valid"),
        (Code.OUTPUT_UNSAFE, "A link.", "outputs_valid"),
        (Code.OUTPUT_NOT_DICOM, "Not DICOM.", "outputs_valid"),
        (Code.OUTPUT_OTHER_STUDY, "Another study.", "outputs_valid"),
        (Code.OUTPUT_GEOMETRY, "A segmentation lies elsewhere.", "geometry_on_source"),
        (Code.OUTPUT_GEOMETRY, "A surface measures 1 x 2 x 3 mm.", "mesh_agrees"),
        (Code.MAP_TIMEOUT, "The application did not end within 60 s.", "within_time_and_cost"),
    ],
)
def test_a_failure_is_the_failure_of_the_check_that_found_it(code: Code, cause: str, check: str):
    found = verdicts(failed(code, cause))
    assert [name for name, verdict in found.items() if verdict.outcome is Outcome.FAILED] == ["answered", check]
    assert (found[check].found, found[check].remedy) == (cause, REMEDIES[code])
    assert (found["answered"].found, found["answered"].remedy) == (f"failed: {code}", REMEDIES[code])


def test_what_failed_for_another_reason_is_judged_by_nothing_else():
    found = outcomes(failed(Code.MAP_FAILED))
    assert found.pop("answered") == "failed"
    assert set(found.values()) == {"not judged"}


def test_every_cause_that_the_host_gives_of_a_surface_begins_as_the_check_reads_it():
    source = Path(mesh.__file__).read_text()
    causes = re.findall(r"FailedError\(\s*Code\.OUTPUT_GEOMETRY,\s*f?\"([^\"]+)", source)
    assert len(causes) >= 6
    assert all(cause.startswith("A surface ") for cause in causes)


@pytest.mark.parametrize(
    ("measured", "expected", "outcome", "found"),
    [
        (BRAIN, PLAUSIBLE, "passed", "Brain 1437.2 ml"),
        (BRAIN, (ExpectedVolume("Brain", 1500),), "failed", "Brain 1437.2 ml, expected at least 1500"),
        (BRAIN, (ExpectedVolume("Brain", high=1000),), "failed", "Brain 1437.2 ml, expected at most 1000"),
        (BRAIN, (*PLAUSIBLE, ExpectedVolume("Liver", 300, 3000)), "failed", "Liver 0.0 ml, expected 300 to 3000"),
        ((SegmentVolume("Brain", 700.0), SegmentVolume("Brain", 700.0)), PLAUSIBLE, "passed", "Brain 1400.0 ml"),
        (BRAIN, (), "not judged", "the MAP declares no plausible volume (app.yaml, monai-aws.volumes-ml), or nothing was measured"),
    ],
)
def test_volumes_are_judged_by_what_the_map_declares_and_by_nothing_else(measured: Any, expected: Any, outcome: str, found: str):
    verdict = verdicts(held(succeeded(1)), measured=measured, expected=expected)["plausible_volume"]
    assert (verdict.outcome.value, verdict.found) == (outcome, found)


@pytest.mark.parametrize(
    ("seconds", "usd", "limits", "outcome"),
    [
        (60, 0.05, LIMITS, "passed"),
        (60.1, 0.01, LIMITS, "failed"),
        (5, 0.051, LIMITS, "failed"),
        (5, 9, StudyLimits(60), "passed"),
        (5, 0, LIMITS, "not judged"),  # the type has no list price
        (61, 0, LIMITS, "failed"),
    ],
)
def test_time_and_cost_are_judged_by_the_settings(seconds: float, usd: float, limits: StudyLimits, outcome: str):
    record = replace(succeeded(1), timings=Timings(inference=seconds), cost=Cost(usd))
    assert outcomes(record, limits=limits)["within_time_and_cost"] == outcome


def test_without_a_limit_of_its_own_a_study_should_be_looked_at_before_its_map_is_ended():
    assert StudyLimits.of(load_settings(map_timeout_s=1000)) == StudyLimits(800, 0)
    assert StudyLimits.of(load_settings(map_timeout_s=1000, study_max_seconds=30, study_max_usd=0.5)) == StudyLimits(30, 0.5)
