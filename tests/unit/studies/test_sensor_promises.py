"""What an idle tick of ``study_results`` costs at the sizes it was made for, and that nothing is stepped over there.

The listing is S3's as far as a tick can tell (by key, after a key, a thousand a page) and is counted by page. Ticks that die:
test_sensor_deaths.py.
"""

from __future__ import annotations

import bisect
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from dagster import DagsterInstance

from monai_aws_pipeline.contract import IndexEntry, index_key
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError
from monai_aws_pipeline.studies.results_index import Cursor, plan_tick
from monai_aws_pipeline.studies.sensor import EVENTS_A_TICK, tick
from tests.unit.studies.records import job_of, study_of

NOON = datetime(2026, 3, 14, 12, 30, tzinfo=UTC)
PAGE = 1000
IDLE_LISTS = 3


class CountedIndex(ResultsStore):
    """An index that is listed as S3 lists it, and counts its LIST requests. It holds keys and no records."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(None, "studies")  # type: ignore[arg-type]
        self.keys = sorted(keys)
        self.lists = 0

    def index_keys(self, start_after: str) -> Iterator[str]:
        place = bisect.bisect_right(self.keys, start_after)
        while True:
            self.lists += 1
            page = self.keys[place : place + PAGE]
            yield from page
            place += PAGE
            if place >= len(self.keys):
                return

    def record(self, key: str) -> None:
        """An audit may want to read one of them; there is none, which a tick steps over."""

    def entry(self, key: str) -> IndexEntry:
        """Nor is there an entry that would say where it is."""
        raise UnreadableResultError(f"{key}: this index has keys alone")

    def add(self, key: str) -> None:
        bisect.insort(self.keys, key)


def entries(count: int, an_hour: int, newest: datetime = NOON) -> list[str]:
    return [index_key(newest - timedelta(hours=number / an_hour), job_of(number), study_of(number)) for number in range(count)]


def caught_up(index: CountedIndex, now: datetime = NOON, cursor: Cursor | None = None) -> Cursor:
    """The cursor once everything was delivered, in larger steps than a tick's."""
    cursor = cursor or Cursor()
    while True:
        plan = plan_tick(cursor, index.index_keys, now, 10 * EVENTS_A_TICK)
        cursor = Cursor.parse(plan.advance().to_text())
        if not plan.fresh:
            return cursor


def idle_ticks(instance: DagsterInstance, index: CountedIndex, cursor: Cursor, now: datetime, ticks: int) -> tuple[int, Cursor]:
    """The most LIST requests that one of these idle ticks made, and the cursor after them."""
    most = 0
    for _ in range(ticks):
        index.lists = 0
        recording, cursor = tick(instance, index, Cursor.parse(cursor.to_text()), now)
        assert not recording.events, "nothing is new"
        most = max(most, index.lists)
        now += timedelta(seconds=30)
    return most, cursor


# ------------------------------------------------------------------------------------------------------------------- what it costs


def test_idle_ticks_at_100_000_entries_make_three_lists_at_most_and_the_cursor_stays_small(instance: DagsterInstance):
    index = CountedIndex(entries(100_000, an_hour=63))  # 1,500 a day
    most, cursor = idle_ticks(instance, index, caught_up(index), NOON, 400)  # all 360 hours of the audit and from the beginning again
    assert most <= IDLE_LISTS
    assert len(cursor.to_text()) < 20_000
    tracemalloc.start()
    idle_ticks(instance, index, cursor, NOON, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000, "what lies in the bucket is not held"


def test_idle_ticks_over_the_change_of_day_month_and_year_make_three_lists_at_most(instance: DagsterInstance):
    eve = datetime(2026, 12, 31, 22, 0, tzinfo=UTC)
    index = CountedIndex(entries(20_000, an_hour=300, newest=eve))  # the peak of a day
    cursor, now = caught_up(index, eve), eve
    for number in range(30):  # half an hour each, with results in every one
        now += timedelta(minutes=30)
        fresh = {index_key(now - timedelta(minutes=m), job_of(90_000 + number * 10 + m), study_of(1)) for m in range(10)}
        for key in fresh:
            index.add(key)
        plan = plan_tick(cursor, index.index_keys, now, EVENTS_A_TICK)
        assert {entry.key for entry in plan.fresh} == fresh, f"each once, at {now}"
        cursor = Cursor.parse(plan.advance().to_text())
        most, cursor = idle_ticks(instance, index, cursor, now, 4)
        assert most <= IDLE_LISTS, now


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
def test_a_clock_that_jumps_and_comes_back_costs_no_more_and_hides_nothing(instance: DagsterInstance, days: int):
    index = CountedIndex(entries(3_000, an_hour=63))
    cursor = caught_up(index)
    most, cursor = idle_ticks(instance, index, cursor, NOON + timedelta(days=days), 20)
    assert most <= IDLE_LISTS
    fresh = index_key(NOON + timedelta(minutes=3), job_of(70_000), study_of(1))
    index.add(fresh)
    plan = plan_tick(cursor, index.index_keys, NOON + timedelta(minutes=4), EVENTS_A_TICK)
    assert [entry.key for entry in plan.fresh] == [fresh]
    most, _ = idle_ticks(instance, index, plan.advance(), NOON + timedelta(minutes=5), 20)
    assert most <= IDLE_LISTS


@pytest.mark.parametrize("gone", ["the newest", "the whole last hour", "all of them"])
def test_keys_that_are_deleted_cost_no_more_and_hide_nothing(instance: DagsterInstance, gone: str):
    index = CountedIndex(entries(3_000, an_hour=63))
    cursor = caught_up(index)
    left = {"the newest": index.keys[:-1], "the whole last hour": index.keys[:-63], "all of them": []}[gone]
    index.keys = list(left)
    most, cursor = idle_ticks(instance, index, cursor, NOON, 20)
    assert most <= IDLE_LISTS
    fresh = index_key(NOON, job_of(70_000), study_of(1))
    index.add(fresh)
    assert [entry.key for entry in plan_tick(cursor, index.index_keys, NOON, EVENTS_A_TICK).fresh] == [fresh]


def test_an_hour_with_5_000_is_delivered_once_and_read_no_further_than_it_is_recorded():
    index = CountedIndex([*entries(2_000, an_hour=63), *(index_key(NOON, job_of(n), study_of(n)) for n in range(10_000, 15_000))])
    cursor, delivered = Cursor(), []
    while True:
        plan = plan_tick(cursor, index.index_keys, NOON, EVENTS_A_TICK)
        assert len(plan.fresh) <= EVENTS_A_TICK
        delivered += [entry.key for entry in plan.fresh]
        cursor = Cursor.parse(plan.advance().to_text())
        if not plan.fresh:
            break
    assert sorted(delivered) == index.keys


def with_a_large_hour() -> CountedIndex:
    """5,000 entries in the hour of noon, beside the usual ones."""
    return CountedIndex([*entries(2_000, an_hour=63), *(index_key(NOON, job_of(n), study_of(n)) for n in range(10_000, 15_000))])


@pytest.mark.parametrize("results_since", [True, False])
@pytest.mark.parametrize("hours_later", [1, 2, 3, 4, 30])
def test_idle_ticks_after_an_hour_with_5_000_make_three_lists_at_most(instance: DagsterInstance, hours_later: int, results_since: bool):
    index = with_a_large_hour()
    now = NOON + timedelta(hours=hours_later)
    if results_since:
        index.add(index_key(now, job_of(80_000), study_of(1)))
    most, cursor = idle_ticks(instance, index, caught_up(index, now), now, 60)
    assert most <= IDLE_LISTS
    assert len(cursor.to_text()) < 80_000, "8 bytes for each entry of the overlap"


def test_a_result_of_an_hour_with_5_000_that_is_not_over_is_seen_at_the_next_tick(instance: DagsterInstance):
    """A new entry may lie anywhere in its hour, so this one is listed whole: a LIST for each thousand of it, and two."""
    index = with_a_large_hour()
    most, cursor = idle_ticks(instance, index, caught_up(index), NOON, 20)
    assert most <= 5 + 2
    for number in range(20_000, 20_020):
        key = index_key(NOON, job_of(number), study_of(number))
        index.add(key)
        plan = plan_tick(cursor, index.index_keys, NOON + timedelta(minutes=1), EVENTS_A_TICK)
        assert [entry.key for entry in plan.fresh] == [key]
        cursor = plan.advance()


@pytest.mark.parametrize("place", [0, 2_500, 4_999])
def test_a_late_result_of_an_hour_with_5_000_is_found_within_a_round_of_the_walk(place: int):
    index = with_a_large_hour()
    late = sorted(index_key(NOON, job_of(n), study_of(n)) for n in range(10_000, 15_000))[place]
    now = NOON + timedelta(hours=2)
    index.keys.remove(late)
    cursor = caught_up(index, now)
    index.add(late)
    found = []
    for _ in range(7):  # a thousand a tick
        plan = plan_tick(cursor, index.index_keys, now, EVENTS_A_TICK)
        found += [entry.key for entry in plan.fresh]
        cursor = Cursor.parse(plan.advance().to_text())
    assert found == [late]
