"""Which failures stand, and how each is worded."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from monai_aws_pipeline.contract import MapFacts, ResultError, ResultRecord, Status
from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.operations.unanswered import MAX_TEXT, counts_by_code, row_of, rows_of
from tests.unit.studies.records import DIGEST, NOON, job_of, refused, study_of, succeeded


def failed(number: int, minutes: float = 0, code: Code = Code.MAP_FAILED, study: int | None = None, **changes: Any) -> ResultRecord:
    error = FailedError(code, "The application ended with 1.", last_line="RuntimeError: no volume")
    record = refused(number, NOON + timedelta(minutes=minutes), study_of(number if study is None else study), Status.FAILED)
    given = ResultError(error.code, error.message, error.last_line)
    return ResultRecord(**{**vars(record), "error": given, "map": MapFacts("r@" + DIGEST, DIGEST, "1.2.0"), **changes})


def test_a_row_has_cause_remedy_and_last_line_apart():
    row = row_of(failed(1))
    assert (row.code, row.cause, row.last_line) == ("map_failed", "The application ended with 1.", "RuntimeError: no volume")
    assert row.remedy.startswith("Read the application's log (monai-aws get JOB, or map.log under quarantine/JOB/)")
    assert row.map_name == "1.2.0 dddddddddddd"
    assert row.record == f"quarantine/{row.job}/{row.study}/result.json"


@pytest.mark.parametrize("code", ["map_failed", "a_code_of_another_release"])
def test_a_message_that_another_release_has_worded_is_kept_whole(code: str):
    row = row_of(failed(1, error=ResultError(code, "It broke. Mend it.")))
    assert row.cause == "It broke. Mend it."


def test_a_record_without_an_error_says_so():
    assert row_of(failed(1, error=None)).code == "unknown"


def test_a_long_text_is_cut_with_a_mark():
    row = row_of(failed(1, error=ResultError("map_failed", "x" * 5000, "y" * 5000)))
    assert len(row.cause) == len(row.last_line) == MAX_TEXT
    assert row.last_line.endswith("…")


def test_failures_stand_newest_first_whatever_the_order_of_reading():
    records = [failed(number, minutes=number) for number in range(20)]
    random.Random(1).shuffle(records)  # noqa: S311
    assert [row.study for row in rows_of(records)] == [study_of(number) for number in reversed(range(20))]


def test_a_study_that_failed_twice_is_one_row_with_its_last_failure():
    (row,) = rows_of([failed(2, minutes=5, study=1), failed(1)])
    assert row.job == job_of(2)


def test_a_failure_that_another_job_has_answered_later_leaves():
    assert rows_of([failed(1), succeeded(1, NOON + timedelta(minutes=1), job=job_of(9))]) == ()


def test_a_failure_after_an_answer_stands():
    (row,) = rows_of([succeeded(1, NOON), failed(2, minutes=1, study=1)])
    assert row.study == study_of(1)


def test_an_upload_whose_study_is_unknown_has_a_row_of_its_own_until_its_job_is_answered():
    unknown = refused(1, NOON)
    (row,) = rows_of([unknown, succeeded(2, NOON + timedelta(minutes=1))])
    assert (row.study, row.subject) == ("", job_of(1))
    assert rows_of([unknown, succeeded(2, NOON + timedelta(minutes=1), job=job_of(1))]) == ()


def test_rows_are_counted_by_code_the_most_frequent_first():
    rows = rows_of([failed(1, code=Code.NO_OUTPUT), failed(2), failed(3), failed(4, code=Code.INTERNAL)])
    assert list(counts_by_code(rows).items()) == [("map_failed", 2), ("internal", 1), ("no_output", 1)]
