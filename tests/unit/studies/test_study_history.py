"""What is known of a study: its last answer, its failures, and under which of them its original may lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from dagster import DagsterInstance

from monai_aws_pipeline.contract import IndexEntry, ResultRecord
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.studies import study_history
from monai_aws_pipeline.studies.lineage import event_of, expired_event
from monai_aws_pipeline.studies.study_history import history_of
from tests.unit.studies.records import DIGEST, NOON, job_of, refused, study_of, succeeded

STUDY = study_of(1)


def record(instance: DagsterInstance, *results: ResultRecord) -> None:
    for each in results:
        instance.report_runless_asset_event(event_of(StoredResult(each, ()), Addresses("studies"), {}))


def failed_rerun(number: int) -> ResultRecord:
    return replace(refused(number, NOON + timedelta(minutes=number), STUDY), request=f"{DIGEST}#{number}")


def test_failed_reruns_are_no_uploads_and_hide_none_however_many_they_are(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(study_history, "KNOWN_FAILURES", 3)
    record(instance, refused(1, study=STUDY), *(failed_rerun(number) for number in range(10, 17)))
    instance.report_runless_asset_event(expired_event(IndexEntry.of(failed_rerun(20))))
    known = history_of(instance, STUDY)
    assert known.failed_uploads == (job_of(1),)
    assert known.last
    assert known.last.job == job_of(20)
    assert known.failed_at == NOON + timedelta(minutes=20)


def test_of_a_study_that_fails_for_ever_no_more_is_read_than_so_many_uploads(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, questions: Callable[[Callable[[], object]], int]
):
    monkeypatch.setattr(study_history, "KNOWN_FAILURES", 3)
    record(instance, *(refused(number, study=STUDY) for number in range(10, 13)))
    few = questions(lambda: history_of(instance, STUDY))
    record(instance, *(refused(number, study=STUDY) for number in range(13, 30)))
    assert questions(lambda: history_of(instance, STUDY)) == few
    assert history_of(instance, STUDY).failed_uploads == tuple(job_of(number) for number in (29, 28, 27))


def test_a_study_that_never_failed_has_no_such_moment(instance: DagsterInstance):
    record(instance, succeeded(1))
    known = history_of(instance, STUDY)
    assert known.answer
    assert (known.answer.job, known.failed_at, known.failed_uploads) == (job_of(1), None, ())
