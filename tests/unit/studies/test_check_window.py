"""What a check says of the last day: no study hides another, and what was answered, or is over, does not count."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.contract import utc_text
from monai_aws_pipeline.studies.check_window import MAX_MISSES, CheckWindow, RecordedResult, finding
from monai_aws_pipeline.studies.result_checks import Outcome, Verdict
from tests.unit.studies.records import DIGEST, NOON, OTHER_DIGEST, job_of, study_of

PASSED, FAILED, NOT_JUDGED = Outcome.PASSED, Outcome.FAILED, Outcome.NOT_JUDGED
ids = iter(range(1, 10**9))


def result(number: int, minutes: float = 0, outcome: Outcome = PASSED, *, check: str = "answered", **changes: Any) -> RecordedResult:
    given: dict[str, Any] = {
        "storage_id": next(ids),
        "at": utc_text(NOON + timedelta(minutes=minutes)),
        "study": study_of(number),
        "job": job_of(number),
        "answered": outcome is not FAILED or check != "answered",
        "digest": DIGEST,
        "verdicts": (Verdict(check, outcome, f"found {outcome}"),),
    }
    return RecordedResult(**{**given, **changes})


def window(*results: RecordedResult, check: str = "answered", now: datetime = NOON + timedelta(hours=1)) -> CheckWindow:
    return CheckWindow().fold(check, results, now)


def test_a_study_that_passes_does_not_hide_one_that_failed_before_it():
    found = finding("answered", window(result(1, 0, FAILED), result(2, 1), result(3, 2)), DIGEST)
    assert not found.passed
    assert found.text == "1 of 3 results of the last 24 hours: found failed"
    assert [miss.study for miss in found.misses] == [study_of(1)]


def test_a_failure_that_is_answered_later_turns_green():
    assert finding("answered", window(result(1, 0, FAILED), result(1, 5)), DIGEST).passed


def test_an_answer_that_is_recorded_before_an_older_failure_of_its_study_stands():
    late = result(1, 0, FAILED, answered_at=utc_text(NOON + timedelta(minutes=5)))
    assert finding("answered", window(result(1, 5), late), DIGEST).passed


def test_a_study_whose_re_run_failed_is_red_again():
    later = result(1, 5, FAILED, answered_at=utc_text(NOON))
    assert not finding("answered", window(result(1, 0), later), DIGEST).passed


def test_an_upload_without_a_study_is_a_miss_of_its_own():
    unknown = [result(number, 0, FAILED, study="") for number in (1, 2)]
    assert len(window(*unknown).misses) == 2


def test_a_failed_re_run_leaves_what_was_found_of_the_answer_that_stands():
    small = result(1, 0, FAILED, check="plausible_volume")
    rerun = result(1, 5, NOT_JUDGED, check="plausible_volume", answered=False)
    assert len(window(small, rerun, check="plausible_volume").misses) == 1


@pytest.mark.parametrize("outcome", [PASSED, NOT_JUDGED])
def test_another_answer_of_the_study_takes_the_place_of_what_was_found_before(outcome: Outcome):
    small = result(1, 0, FAILED, check="plausible_volume")
    assert not window(small, result(1, 5, outcome, check="plausible_volume"), check="plausible_volume").misses


def test_what_was_not_judged_has_not_passed():
    found = finding("mesh_agrees", window(result(1, 0, NOT_JUDGED, check="mesh_agrees"), check="mesh_agrees"), DIGEST)
    assert not found.passed
    assert found.text.startswith("not judged, none of 1 results")
    assert not found.misses


def test_what_was_not_judged_beside_others_is_said():
    results = [result(1, 0, check="mesh_agrees"), result(2, 1, NOT_JUDGED, check="mesh_agrees")]
    found = finding("mesh_agrees", window(*results, check="mesh_agrees"), DIGEST)
    assert found.passed
    assert found.text == "1 of 2 results of the last 24 hours passed; 1 not judged, the last one because found not judged."


def test_a_result_that_was_recorded_before_there_were_checks_is_not_judged():
    assert window(result(1, verdicts=()), check="mesh_agrees").count(NOT_JUDGED) == 1


def test_a_day_later_the_failure_is_over_and_an_empty_day_is_no_failure():
    failed = window(result(1, 0, FAILED))
    later = failed.fold("answered", [], NOON + timedelta(hours=25, minutes=1))
    assert finding("answered", later, DIGEST).passed
    assert later.count() == 0


def test_results_of_months_ago_that_are_recorded_today_are_not_of_the_last_day():
    assert window(result(1, -60 * 24 * 90, FAILED)) == CheckWindow()


def test_more_failures_than_are_kept_are_said_to_be_at_least_so_many():
    found = finding("answered", window(*(result(number, number / 1000, FAILED) for number in range(300))), DIGEST)
    assert found.text.startswith(f"at least {MAX_MISSES} of 300 results")
    assert found.misses[0].study == study_of(299), "the newest are kept"


# ------------------------------------------------------------------------------------------------------------------------- by_live_map


def test_answers_by_a_map_that_is_not_live_are_counted_and_follow_a_rollback():
    seen = window(result(1), result(2), result(3, digest=OTHER_DIGEST), check="by_live_map")
    promoted, rolled_back = finding("by_live_map", seen, OTHER_DIGEST), finding("by_live_map", seen, DIGEST)
    assert promoted.text.startswith("2 of 3 answers of the last 24 hours are by a MAP that is not live: 2 by dddddddddddd")
    assert rolled_back.text.startswith("1 of 3 answers")
    assert "rerun_studies" in promoted.next


def test_a_study_that_the_live_map_has_answered_again_counts_once():
    again = result(1, 5, digest=OTHER_DIGEST, replaced=(DIGEST, utc_text(NOON)))
    found = finding("by_live_map", window(result(1), again, check="by_live_map"), OTHER_DIGEST)
    assert found.passed
    assert found.text == "1 of 1 answers of the last 24 hours are by eeeeeeeeeeee, which is live."


def test_without_a_live_map_nothing_is_judged_by_it():
    assert not finding("by_live_map", window(result(1), check="by_live_map"), "").passed


# ---------------------------------------------------------------------------------------------------------------------------- folding

outcomes = st.sampled_from([PASSED, FAILED, NOT_JUDGED])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-60 * 30, 60), outcomes), max_size=30), st.integers(0, 30))
def test_folding_in_two_parts_is_folding_at_once(rows: list[tuple[int, int, Outcome]], cut: int):
    results = [result(study, minutes, outcome) for study, minutes, outcome in rows]
    now = NOON + timedelta(hours=1)
    halves = CheckWindow().fold("answered", results[:cut], now)
    assert CheckWindow.of_data(halves.to_data()).fold("answered", results[cut:], now) == window(*results)
