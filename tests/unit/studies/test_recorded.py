"""What the event log holds is found by one question for however many are asked about, and is what Dagster's own look-ups say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy
from dagster import DagsterInstance
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

from monai_aws_pipeline.contract import ResultRecord
from monai_aws_pipeline.deployment.lineage import DATA_VERSION_TAG
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.studies import recorded
from monai_aws_pipeline.studies.lineage import event_of
from monai_aws_pipeline.studies.record_metadata import result_id
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT, latest_answers_to, recorded_among, results_after, standing_failures
from tests.unit.studies.records import OTHER_DIGEST, job_of, refused, study_of, succeeded

NOW = datetime.now(UTC)


def record(instance: DagsterInstance, *results: ResultRecord) -> list[str]:
    for each in results:
        instance.report_runless_asset_event(event_of(StoredResult(each, ()), Addresses("studies"), {}))
    return [result_id(each.job, each.study) for each in results]


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def test_of_many_results_those_are_found_that_are_recorded(instance: DagsterInstance):
    there = record(instance, succeeded(1), refused(2, study=study_of(2)), refused(3), *(succeeded(number) for number in range(10, 60)))
    not_there = [result_id(job_of(number), study_of(number)) for number in (4, 5)] + [result_id(job_of(1), study_of(2))]
    assert recorded_among(instance, [*there, *not_there]) == set(there)
    for each in [*there[:5], *not_there]:
        by_dagster = instance.event_log_storage.get_event_tags_for_asset(INFERENCE_RESULT, filter_tags={DATA_VERSION_TAG: each})
        assert bool(by_dagster) == (each in there)


def test_before_anything_was_recorded_nothing_is_found(instance: DagsterInstance):
    assert recorded_among(instance, [result_id(job_of(1), study_of(1))]) == set()
    assert recorded_among(instance, []) == set()
    assert latest_answers_to(instance, {study_of(1)}) == {}
    assert latest_answers_to(instance, set()) == {}


def test_what_was_wiped_is_not_found_and_what_came_after_is(instance: DagsterInstance):
    (before,) = record(instance, succeeded(1))
    instance.wipe_assets([INFERENCE_RESULT])
    assert recorded_among(instance, [before]) == set()
    assert latest_answers_to(instance, {study_of(1)}) == {}
    (after,) = record(instance, succeeded(2))
    assert recorded_among(instance, [before, after]) == {after}


@pytest.mark.parametrize("last", [succeeded(9), refused(9, study=study_of(9)), refused(9)])
def test_an_event_that_a_tick_died_of_before_its_tags_were_stored_is_found(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, last: ResultRecord
):
    """As PostgreSQL's storage leaves it, also where a run records its own before the next tick."""
    record(instance, succeeded(1))
    with monkeypatch.context() as torn:
        torn.setattr(instance.event_log_storage, "_store_asset_event_tags", lambda *_: None)
        (half,) = record(instance, last)
    record(instance, succeeded(2), refused(3))
    assert recorded_among(instance, [half]) == {half}


def test_the_latest_answer_is_the_one_recorded_last_or_last_before_an_event(instance: DagsterInstance):
    record(instance, succeeded(1, job=job_of(70)), succeeded(2), refused(1, study=study_of(1)), succeeded(1, job=job_of(71)))
    by_study = latest_answers_to(instance, {study_of(1), study_of(2), study_of(3)})
    assert {study: event.metadata["job"].value for study, event in by_study.items()} == {study_of(1): job_of(71), study_of(2): job_of(2)}
    last = instance.fetch_materializations(INFERENCE_RESULT, limit=1).records[0].storage_id
    assert latest_answers_to(instance, {study_of(1)}, before=last)[study_of(1)].metadata["job"].value == job_of(70)


@pytest.mark.parametrize("page", [1, 2, 3, 50])
def test_each_answer_says_which_one_it_replaced_however_the_pages_fall(instance: DagsterInstance, page: int):
    answers = [
        succeeded(1, ago(9)),
        succeeded(2, ago(8)),
        succeeded(1, ago(7), OTHER_DIGEST, job=job_of(70)),
        succeeded(1, ago(6), job=job_of(71)),
        succeeded(2, ago(5), OTHER_DIGEST, job=job_of(72)),
    ]
    record(instance, *answers[:2], refused(5, ago(7.5), study_of(1)), *answers[2:], refused(6, ago(4), study_of(2)))
    found, as_of, more = [], 0, True
    while more:
        results, as_of, more = vars(results_after(instance, as_of, page)).values()
        found += results
    replaced = [each.replaced[0] for each in found if each.answered]
    assert replaced == ["", "", answers[0].map.digest, OTHER_DIGEST, answers[1].map.digest]
    assert {each.job: each.is_superseded for each in found if not each.answered} == {job_of(5): True, job_of(6): False}
    assert [row.job for row in standing_failures(instance, ago(60), 10).rows] == [job_of(6)]


def test_a_failure_that_stands_is_found_behind_however_many_that_were_answered(instance: DagsterInstance):
    record(instance, refused(1, ago(50), study_of(1)), refused(2, ago(49)), succeeded(3, ago(5)))
    record(instance, *(refused(10 + number, ago(40 - number), study_of(3)) for number in range(7)))
    found = standing_failures(instance, ago(60), limit=2, page=3)
    assert ([row.job for row in found.rows], found.complete) == ([job_of(2), job_of(1)], True)


def test_what_was_left_unread_is_not_called_everything(instance: DagsterInstance):
    record(instance, *(refused(number, ago(50 - number), study_of(number)) for number in range(1, 7)), succeeded(6, ago(1), job=job_of(70)))
    of_limit = standing_failures(instance, ago(60), limit=4, page=3)
    assert ([row.job for row in of_limit.rows], of_limit.complete) == ([job_of(number) for number in (5, 4, 3, 2)], False)
    of_pages = standing_failures(instance, ago(60), limit=6, page=1, pages=2)
    assert ([row.job for row in of_pages.rows], of_pages.complete) == ([job_of(5)], False)
    assert standing_failures(instance, ago(60), limit=5, page=3).complete


def test_many_cost_as_many_questions_as_one(instance: DagsterInstance, questions: Callable[[Callable[[], object]], int]):
    studies = [study_of(number) for number in range(40)]
    there = record(
        instance, *(succeeded(number, ago(9)) for number in range(40)), *(refused(n + 50, ago(5), study_of(n)) for n in range(40))
    )
    assert questions(lambda: recorded_among(instance, there)) == questions(lambda: recorded_among(instance, there[:1]))
    assert questions(lambda: latest_answers_to(instance, studies)) == questions(lambda: latest_answers_to(instance, studies[:1]))
    assert questions(lambda: results_after(instance, 0, 40)) == questions(lambda: results_after(instance, 0, 1))
    assert questions(lambda: standing_failures(instance, ago(60), 40)) == questions(lambda: standing_failures(instance, ago(60), 1))


def test_what_failed_before_stands_no_more_because_a_new_dagster_has_recorded_it_today(instance: DagsterInstance):
    record(instance, refused(1, ago(60 * 24 * 90), study_of(1)), refused(2, ago(61), study_of(2)), refused(3, ago(59), study_of(3)))
    assert [row.job for row in standing_failures(instance, ago(60), 10).rows] == [job_of(3)]


# ---------------------------------------------------------------------------------------------- what is written while it is read


def read_on(instance: DagsterInstance, as_of: int) -> tuple[list[str], int]:
    """Jobs of the results after an event, and up to which one was read."""
    page = results_after(instance, as_of, 50)
    return [result.job for result in page.results], page.as_of


def test_an_answer_and_a_failure_that_land_between_the_two_questions_are_both_read_once(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    record(instance, succeeded(1, ago(9)))
    fetch = instance.fetch_materializations

    def fetched_and_then_written(*given: Any, **named: Any) -> Any:
        found = fetch(*given, **named)
        monkeypatch.undo()  # of the first question alone
        record(instance, succeeded(2, ago(2)), refused(3, ago(1)))
        return found

    monkeypatch.setattr(instance, "fetch_materializations", fetched_and_then_written)
    first, as_of = read_on(instance, 0)
    second, _ = read_on(instance, as_of)
    assert [*first, *second] == [job_of(1), job_of(2), job_of(3)]


@contextmanager
def in_its_transaction(instance: DagsterInstance, place: int) -> Iterator[None]:
    """An event has its number and is not seen yet, as on PostgreSQL before its transaction ends. ``place``: in the log, the last is -1."""
    storage: Any = instance.event_log_storage
    table = SqlEventLogStorageTable
    with storage.index_connection() as connection:
        row = dict(connection.execute(sqlalchemy.select(table).order_by(table.c.id)).mappings().all()[place])
        connection.execute(table.delete().where(table.c.id == row["id"]))
    yield
    with storage.index_connection() as connection:
        connection.execute(table.insert(), [row])


def test_an_event_that_appears_after_a_later_one_is_waited_for(instance: DagsterInstance):
    record(instance, succeeded(1, ago(9)), succeeded(2, ago(2)), refused(3, ago(1)))
    with in_its_transaction(instance, -2):
        first, as_of = read_on(instance, 0)
        assert (first, read_on(instance, as_of)) == ([job_of(1)], ([], as_of)), "not beyond the number that is missing"
    assert read_on(instance, as_of)[0] == [job_of(2), job_of(3)]


def test_a_number_that_was_given_in_vain_is_not_waited_for_longer_than_a_transaction_takes(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    record(instance, succeeded(1, ago(9)), succeeded(2, ago(2)), refused(3, ago(1)))
    with in_its_transaction(instance, -2):
        assert read_on(instance, 0)[0] == [job_of(1)]
        monkeypatch.setattr(recorded, "SETTLES_WITHIN", timedelta())
        assert read_on(instance, 0)[0] == [job_of(1), job_of(3)]
