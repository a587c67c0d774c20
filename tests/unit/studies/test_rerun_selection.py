"""Which studies each mode means: by how they ended last, by which MAP answered last, and never more than was confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count

import pytest

from monai_aws_pipeline.contract import Status
from monai_aws_pipeline.studies.rerun_selection import (
    SelectionError,
    answered_by,
    first_of,
    newest_failures,
    require_bounded,
    stale,
    still_failed,
    these,
    whole_digest,
)
from monai_aws_pipeline.studies.study_history import Ended, StudyHistory
from tests.unit.studies.records import DIGEST, NOON, OTHER_DIGEST, study_of

HOUR = timedelta(hours=1)


def failure(number: int, recorded: int, code: str = "map_failed", at: datetime = NOON, **changes: object) -> Ended:
    return Ended(study_of(number), f"{recorded:032x}", Status.FAILED, at, recorded, code=code, **changes)  # type: ignore[arg-type]


def answer(number: int, recorded: int, digest: str = DIGEST) -> Ended:
    return Ended(study_of(number), f"{recorded:032x}", Status.SUCCEEDED, NOON, recorded, digest)


def failed(*failures: Ended, since: datetime = NOON - HOUR, answered: dict[str, int] | None = None, code: str = "") -> tuple[str, ...]:
    newest, unknown = newest_failures(failures, since)
    return still_failed(newest, unknown, answered or {}, code).studies


def test_these_are_studies_each_once_and_a_name_that_is_none_is_refused_without_being_repeated():
    assert these([study_of(1), f" {study_of(2)} ", study_of(1)]).studies == (study_of(1), study_of(2))
    with pytest.raises(SelectionError, match="1 of 2") as refusal:
        these([study_of(1), "Doe^Jane"])
    assert "Doe" not in str(refusal.value)


def test_a_study_that_was_answered_after_its_failure_is_not_meant_and_one_answered_before_is():
    assert failed(failure(1, 10), answered={study_of(1): 11}) == ()
    assert failed(failure(1, 10), answered={study_of(1): 9}) == (study_of(1),)


def test_the_code_of_the_last_failure_counts():
    ends = (failure(1, 12, "map_timeout"), failure(1, 10, "map_failed"), failure(2, 9, "map_failed"))
    assert failed(*ends, code="map_failed") == (study_of(2),)
    assert set(failed(*ends)) == {study_of(1), study_of(2)}


def test_what_ended_before_that_time_is_not_meant_although_it_was_recorded_later():
    assert failed(failure(1, 10, at=NOON - 2 * HOUR), failure(2, 9)) == (study_of(2),)


def test_what_is_passed_over_is_said():
    newest, unknown = newest_failures([failure(1, 3), failure(2, 2, "not_a_zip"), failure(3, 1)], NOON - HOUR)
    note = still_failed(newest, unknown + 2, {study_of(3): 4}, "map_failed").note
    assert note == (
        "1 studies that failed were answered since; with another code: 1 not_a_zip; "
        "2 uploads ended before their study was known; upload them again"
    )


def test_an_upload_whose_study_is_unknown_is_counted_and_no_study():
    newest, unknown = newest_failures([Ended("", "0" * 32, Status.QUARANTINED, NOON, 1)], NOON - HOUR)
    assert (newest, unknown) == ({}, 1)


def test_stale_is_every_other_map_than_the_live_one_newer_or_older():
    answers = [answer(1, 1, DIGEST), answer(2, 2, OTHER_DIGEST)]
    assert list(stale(answers, DIGEST)) == list(answered_by(answers, OTHER_DIGEST)) == [study_of(2)]
    assert list(stale(answers, OTHER_DIGEST)) == [study_of(1)]


def test_no_more_is_read_than_shows_that_there_are_too_many():
    read = count()

    def answers() -> Iterator[Ended]:
        for number in range(100_000):
            next(read)
            yield answer(number, number)

    found = first_of(stale(answers(), OTHER_DIGEST), 500)
    assert next(read) == 501
    with pytest.raises(SelectionError, match=r"More than 500 studies are meant\. Nothing was asked"):
        require_bounded(found, 500)
    require_bounded(found, 501)


def test_a_whole_digest_needs_no_registry():
    assert whole_digest(f"registry/map@{DIGEST}") == DIGEST
    assert whole_digest("1.0.0-0123456") == whole_digest("sha256:abc") == ""


def test_the_last_end_of_a_study_and_where_its_original_may_lie():
    history = StudyHistory(study_of(1), answer(1, 5), (failure(1, 9, rerun=True), failure(1, 3)))
    assert (history.last, history.failed_uploads) == (history.failures[0], (history.failures[1].job,))
    assert StudyHistory(study_of(1)).last is None
