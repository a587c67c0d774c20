"""The plan of a tick delivers every entry, in bounded steps, whatever clocks and late writers do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_aws_pipeline.contract import INDEX_PREFIX, index_key
from monai_aws_pipeline.studies import results_index
from monai_aws_pipeline.studies.results_index import Cursor, arrival, audit_start_after, plan_audit, plan_tick
from tests.unit.studies.records import NOON, job_of, study_of


def key(number: int, hours_ago: float = 0) -> str:
    return index_key(NOON - timedelta(hours=hours_ago), job_of(number), study_of(number))


class Index:
    """A results index that can be listed as S3 lists: sorted by key, after a given one."""

    def __init__(self, *keys: str):
        self.keys = set(keys)
        self.listed = 0

    def after(self, start: str) -> Iterator[str]:
        for item in sorted(item for item in self.keys if item > start):
            self.listed += 1
            yield item

    def deliver(self, cursor: Cursor, now=NOON, limit: int = 200) -> tuple[list[str], Cursor]:  # type: ignore[no-untyped-def]
        plan = plan_tick(cursor, self.after(cursor.start_after), now, limit)
        return [entry.key for entry in plan.fresh], Cursor.parse(plan.advance().to_text())


def test_everything_is_delivered_once_in_order_and_in_steps():
    index = Index(*(key(n, hours_ago=n / 100) for n in range(1050)))
    cursor, delivered = Cursor(), []
    for _ in range(6):
        fresh, cursor = index.deliver(cursor)
        assert len(fresh) <= 200
        delivered += fresh
    assert delivered == sorted(index.keys)
    assert index.deliver(cursor)[0] == []


def test_an_entry_that_sorts_before_delivered_ones_of_its_hour_is_still_found():
    keys = sorted(key(n) for n in range(50))
    index = Index(*keys[1:])
    _, cursor = index.deliver(Cursor())
    index.keys.add(keys[0])
    assert index.deliver(cursor)[0] == [keys[0]]


def test_an_entry_written_hours_late_is_found_by_the_walk():
    index = Index(*(key(n, hours_ago=h) for h, n in enumerate(range(10))))
    _, cursor = index.deliver(Cursor())
    late = key(99, hours_ago=2.4)
    index.keys.add(late)
    assert index.deliver(cursor)[0] == [late]


def test_an_entry_written_days_late_is_found_by_the_audit():
    index = Index(*(key(n, hours_ago=n) for n in range(200)))
    _, cursor = index.deliver(Cursor())
    late = key(999, hours_ago=100)
    index.keys.add(late)
    assert index.deliver(cursor)[0] == []
    changed = []
    for _ in range(250):
        audit = plan_audit(cursor, index.after(audit_start_after(cursor, NOON)))
        changed += [entry.key for entry in audit.entries if audit.changed]
        cursor = audit.advance()
    assert late in changed
    assert len(changed) == 2, "the hour is looked at once: its one older entry and the late one"


def test_an_idle_index_costs_a_listing_of_the_last_hours_alone():
    index = Index(*(key(n, hours_ago=24 + n / 50) for n in range(1000)), *(key(5000 + n) for n in range(10)))
    cursor = Cursor()
    for _ in range(7):
        _, cursor = index.deliver(cursor)
    index.listed = 0
    index.deliver(cursor)
    assert index.listed == 10


def test_a_tick_reads_no_further_than_it_delivers():
    index = Index(*(key(n, hours_ago=n / 1000) for n in range(20_000)))
    index.deliver(Cursor(), limit=200)
    assert index.listed == 201


def test_a_host_whose_clock_runs_ahead_hides_nothing():
    ahead = key(1, hours_ago=-30)
    index = Index(ahead, key(2))
    fresh, cursor = index.deliver(Cursor())
    assert set(fresh) == {ahead, key(2)}
    index.keys.add(key(3))
    assert index.deliver(cursor)[0] == [key(3)]


def test_a_control_machine_whose_clock_runs_a_year_ahead_hides_nothing():
    index = Index(key(1))
    _, cursor = index.deliver(Cursor(), now=NOON + timedelta(days=365))
    index.keys.add(key(2, hours_ago=1))
    assert index.deliver(cursor)[0] == [key(2, hours_ago=1)]


def test_a_clock_that_jumps_back_delivers_nothing_twice():
    index = Index(*(key(n, hours_ago=n) for n in range(30)))
    _, cursor = index.deliver(Cursor())
    fresh, cursor = index.deliver(cursor, now=NOON - timedelta(days=3))
    assert fresh == []
    assert index.deliver(cursor)[0] == []


def test_entries_that_are_deleted_leave_the_cursor():
    index = Index(*(key(n) for n in range(100)))
    _, cursor = index.deliver(Cursor())
    index.keys.clear()
    index.keys.add(key(500))
    _, cursor = index.deliver(cursor)
    assert sum(len(marks) for marks in cursor.seen.values()) == 1


def test_a_deferred_entry_comes_again():
    index = Index(*(key(n) for n in range(3)))
    plan = plan_tick(Cursor(), index.after(INDEX_PREFIX), NOON)
    cursor = plan.advance(deferred=[plan.fresh[1]])
    assert index.deliver(cursor)[0] == [plan.fresh[1].key]


def test_the_cursor_stays_small_on_a_busy_week(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results_index, "MAX_SEEN", 500)
    index = Index(*(key(n, hours_ago=n / 300) for n in range(6000)))  # 300 an hour for 20 hours
    cursor = Cursor()
    for _ in range(31):
        _, cursor = index.deliver(cursor)
    assert index.deliver(cursor)[0] == []
    assert len(cursor.to_text()) < 8_000
    assert sum(len(marks) for marks in cursor.seen.values()) <= 500


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "17", '{"version": 99}', '{"version": 1, "floor": "x", "seen": {}, "counts": {}, "audited": ""}']
)
def test_a_cursor_that_cannot_be_read_starts_over_instead_of_failing(text: str | None):
    assert Cursor.parse(text) == Cursor()


@pytest.mark.parametrize(
    "stray", ["results-index/", "results-index/2026/03/14/12/", "results-index/2026/03/14/12/x.json", "results-index/~", "a"]
)
def test_a_key_that_is_no_entry_is_passed_over(stray: str):
    assert arrival(stray) is None
    assert Index(stray, key(1)).deliver(Cursor())[0] == [key(1)]


def test_an_hour_that_is_no_hour_does_not_stop_the_walk():
    nonsense = f"{INDEX_PREFIX}9999/99/99/99/{job_of(1)}.json"
    index = Index(nonsense, key(2))
    fresh, cursor = index.deliver(Cursor())
    assert set(fresh) == {nonsense, key(2)}
    index.keys.add(key(3))
    assert index.deliver(cursor)[0] == [key(3)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 10_000), st.floats(-2, 2.5)), max_size=12), min_size=1, max_size=15),
    st.integers(1, 7),
)
def test_whatever_arrives_within_the_overlap_is_delivered_exactly_once(batches: list[list[tuple[int, float]]], limit: int):
    index, cursor, delivered, now = Index(), Cursor(), [], NOON
    for batch in batches:
        index.keys |= {index_key(now - timedelta(hours=ago), job_of(n), study_of(n)) for n, ago in batch}
        fresh, cursor = index.deliver(cursor, now, limit)
        delivered += fresh
        now += timedelta(minutes=20)
    for _ in range(200):
        fresh, cursor = index.deliver(cursor, now, limit)
        if not fresh:
            break
        delivered += fresh
    assert sorted(delivered) == sorted(index.keys)
