"""The plan of a tick delivers every entry, in bounded steps, whatever clocks and late writers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
        plan = plan_tick(cursor, self.after, now, limit)
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
    plan = plan_tick(Cursor(), index.after, NOON)
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


# ------------------------------------------------------------------------------------------------- hours of more than a page


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(results_index, "PAGE", 10)
    return 10


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 10_000), st.floats(-2, 2.5)), max_size=12), min_size=1, max_size=15),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_whatever_arrives_within_the_overlap_is_delivered_exactly_once_a_page_at_a_time(
    batches: list[list[tuple[int, float]]], limit: int, page: int, ticks: int
):
    index, cursor, delivered, now = Index(), Cursor(), [], NOON
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_index, "PAGE", page)
        for batch in batches:
            index.keys |= {index_key(now - timedelta(hours=ago), job_of(n), study_of(n)) for n, ago in batch}
            for _ in range(ticks):
                fresh, cursor = index.deliver(cursor, now, limit)
                delivered += fresh
            now += timedelta(minutes=20)
        rounds = 0
        while rounds < 2:
            fresh, cursor = index.deliver(cursor, now, limit)
            delivered += fresh
            rounds = 0 if fresh else rounds + (not cursor.walked)
    assert sorted(delivered) == sorted(index.keys)


def test_the_floor_waits_for_what_was_written_behind_a_round_that_is_under_way(small_pages: int):
    index = Index(*(key(n, hours_ago=3) for n in range(40)), key(99))
    _, cursor = index.deliver(Cursor())
    now, late = NOON + timedelta(minutes=59), min(key(n, hours_ago=3) for n in range(1000, 1100))
    _, cursor = index.deliver(cursor, now)
    assert cursor.walked > late
    index.keys.add(late)  # still within the overlap; the hour passes before the round is done
    index.keys.add(index_key(now, job_of(7), study_of(7)))
    delivered = []
    for _ in range(12):
        fresh, cursor = index.deliver(cursor, now + timedelta(hours=1))
        delivered += fresh
    assert late in delivered


@pytest.mark.parametrize("end", [min, max])
def test_the_floor_does_not_pass_what_a_round_has_not_come_to(small_pages: int, end: Callable[[set[str]], str]):
    index = Index(*(key(n, hours_ago=3) for n in range(40)), key(99))
    _, cursor = index.deliver(Cursor())
    late, newest = end({key(n, hours_ago=3) for n in range(1000, 1100)}), key(7, hours_ago=-1)
    index.keys |= {late, newest}
    delivered = []
    for _ in range(12):
        fresh, cursor = index.deliver(cursor, NOON + timedelta(hours=1))
        delivered += fresh
    assert sorted(delivered) == sorted([late, newest])
    assert cursor.floor > late[14:27]


def test_the_floor_moves_on_though_nothing_has_come_since_a_round_began(small_pages: int):
    index = Index(*(key(n, hours_ago=4) for n in range(40)), *(key(n) for n in range(3)))
    cursor = Cursor()
    for _ in range(2):
        _, cursor = index.deliver(cursor, NOON - timedelta(hours=1))
    assert cursor.floor == key(0, hours_ago=4)[14:27]
    assert cursor.walked
    for _ in range(12):
        _, cursor = index.deliver(cursor, NOON + timedelta(hours=5))
    assert cursor.floor == key(0, hours_ago=3)[14:27]


def test_a_result_from_the_end_of_an_hour_is_seen_at_the_first_tick_after_it(small_pages: int):
    turn = NOON.replace(minute=0)
    index = Index(*(index_key(turn - timedelta(minutes=20), job_of(n), study_of(n)) for n in range(90)))
    cursor = Cursor()
    for minute in range(5):
        _, cursor = index.deliver(cursor, turn + timedelta(minutes=minute))
    for number in range(1000, 1010):
        committed = index_key(turn - timedelta(seconds=1), job_of(number), study_of(number))
        index.keys.add(committed)
        fresh, cursor = index.deliver(cursor, turn + timedelta(minutes=6))
        assert fresh == [committed]


def test_a_clock_that_ran_ahead_and_was_set_right_does_not_make_results_wait(small_pages: int):
    index = Index(*(key(n) for n in range(90)))
    _, cursor = index.deliver(Cursor())
    for ahead in (100, 50):
        _, cursor = index.deliver(cursor, NOON + timedelta(hours=ahead))
    for number in range(1000, 1010):
        index.keys.add(key(number))
        fresh, cursor = index.deliver(cursor)
        assert fresh == [key(number)]


def test_after_a_time_without_ticks_the_oldest_comes_first(small_pages: int):
    index = Index(*(key(n, hours_ago=50 + n / 20) for n in range(60)))
    cursor = Cursor()
    for _ in range(4):
        _, cursor = index.deliver(cursor, NOON - timedelta(hours=48))
    known = set(index.keys)
    index.keys |= {key(1000 + n, hours_ago=n / 2) for n in range(90)}
    delivered = []
    for _ in range(12):
        fresh, cursor = index.deliver(cursor, limit=20)
        delivered += fresh
    assert delivered == sorted(index.keys - known)


def test_a_deferred_entry_of_a_large_hour_comes_again_before_the_floor_passes_it(small_pages: int):
    index = Index(*(key(n, hours_ago=2) for n in range(45)), key(99))
    (held,) = [entry for entry in map(arrival, sorted(index.keys)[5:6]) if entry]
    cursor, met, now = Cursor(), 0, NOON
    for _ in range(60):
        plan = plan_tick(cursor, index.after, now)
        met += held in plan.fresh
        cursor = Cursor.parse(plan.advance([held] if held in plan.fresh else []).to_text())
        now += timedelta(minutes=30)
        index.keys.add(index_key(now, job_of(500), study_of(500)))
    assert cursor.floor == held.hour
    assert met > 5


@pytest.mark.parametrize("count", [9, 10, 11, 20, 47])
@pytest.mark.parametrize("late", [0, 1, 3])
def test_the_audit_goes_through_an_hour_a_page_a_tick_and_finds_what_came_late(small_pages: int, count: int, late: int):
    index = Index(*(key(n, hours_ago=100) for n in range(count)), *(key(n, hours_ago=90) for n in range(3)), key(99))
    cursor = Cursor()
    for _ in range(10):
        _, cursor = index.deliver(cursor)
    written = {key(1000 + n, hours_ago=100) for n in range(late)}
    index.keys |= written
    looked_at: list[str] = []
    for _ in range(2 * (count // small_pages + 1) + 3):
        index.listed = 0
        audit = plan_audit(cursor, index.after(audit_start_after(cursor, NOON)))
        assert index.listed <= small_pages, "one request"
        looked_at += [entry.key for entry in audit.entries if audit.changed]
        cursor = Cursor.parse(audit.advance().to_text())
    large = {item for item in index.keys if item.startswith(key(0, hours_ago=100)[:27])}
    assert sorted(looked_at) == (sorted(large) if late else []), "each once, and none where the number is right"
    assert cursor.counts[next(iter(large))[14:27]] == count + late


def test_a_cursor_of_before_there_were_pages_goes_on_where_it_was():
    index = Index(*(key(n, hours_ago=n / 10) for n in range(100)))
    _, cursor = index.deliver(Cursor())
    kept = {
        name: value for name, value in json.loads(cursor.to_text()).items() if name in ("version", "floor", "seen", "counts", "audited")
    }
    older = Cursor.parse(json.dumps(kept))
    assert (older.floor, older.seen, older.counts) == (cursor.floor, cursor.seen, cursor.counts)
    index.keys.add(key(500, hours_ago=1))
    assert index.deliver(older)[0] == [key(500, hours_ago=1)]


@pytest.mark.parametrize(
    "damage",
    [{"walked": "x"}, {"walked": 7}, {"goal": "x"}, {"current": "x"}, {"counted": "x"}, {"counted": ["x", 1, True]}, {"counted": [1]}],
)
def test_a_cursor_with_a_damaged_place_starts_over(damage: dict[str, object]):
    _, cursor = Index(key(1)).deliver(Cursor())
    assert Cursor.parse(json.dumps(json.loads(cursor.to_text()) | damage)) == Cursor()
