"""Which results are new: a pure decision over the results index and the sensor's cursor.

Here belong the cursor and the plan of one tick. Here belongs no I/O: the caller hands in lazy listings of keys, in the order S3
gives them (by key, so by hour). Reading and recording results belongs to ``results_store`` and ``sensor``.

Why not "everything after the last key" or "after the last timestamp": entries of one hour are named by job, not by time, and an
entry can be written late by whoever finds a commit without one. So the cursor is a *floor*, an hour before which everything was
delivered, and the fingerprints of what was delivered after it. What is written below the floor later still is found by the audit,
which compares the number of entries of one past hour at a tick with the number that was there when the floor passed.

Why not all of that at every tick: an hour may hold thousands of entries, and S3 lists a thousand at a request. The hours that are
not over are listed whole, since a new entry may lie anywhere in them and has to be seen at once. Of the hours between floor and
these, where only late entries are to be found, a quiet tick lists one page, and the next goes on from there; so does the audit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, takewhile
from typing import Final

from monai_aws_pipeline.contract import INDEX_PREFIX, JOB_PATTERN, STUDY_PATTERN, index_hour_prefix

OVERLAP_HOURS: Final = 3
"""Hours below now, and below the newest entry, that are looked at again: the walk's."""
GRACE: Final = timedelta(minutes=10)
"""How long an hour that is over still counts as current: what was committed in its last minute is on its way."""
PAGE: Final = 1000
"""Entries of past hours that a quiet tick looks at, one page of the walk and one of the audit. S3 lists so many at a request."""
MAX_SEEN: Final = 20_000
"""Fingerprints kept (8 bytes each) before closed hours are released early."""
AUDIT_DAYS: Final = 15
"""How far back the audit goes: a day more than SQS keeps a message that could still be replayed."""

KeysAfter = Callable[[str], Iterable[str]]
"""The keys of the index after a given one, lazily and in S3's order."""

_CURSOR_VERSION: Final = 1
_END: Final = f"{INDEX_PREFIX}~"
"""Behind every key of the index."""
_FINGERPRINT: Final = 8
_HOUR_LENGTH: Final = len("YYYY/MM/DD/HH")
_HOUR: Final = re.compile(r"\d{4}/\d{2}/\d{2}/\d{2}")
_KEY: Final = re.compile(re.escape(INDEX_PREFIX) + rf"({_HOUR.pattern})/({JOB_PATTERN})(?:-({STUDY_PATTERN}))?\.json")


@dataclass(frozen=True)
class Arrival:
    """One entry of the index, as far as its key tells: UTC hour ``YYYY/MM/DD/HH``, job, and study (empty where none was known)."""

    key: str
    hour: str
    job: str
    study: str

    @property
    def fingerprint(self) -> str:
        """48 bits of SHA-256 of the key, as 8 characters."""
        return base64.b64encode(hashlib.sha256(self.key.encode()).digest()[:6]).decode()


def arrival(key: str) -> Arrival | None:
    """Read a key of the index; None for a key that is no entry."""
    match = _KEY.fullmatch(key)
    return Arrival(key, match[1], match[2], match[3] or "") if match else None


@dataclass(frozen=True)
class Counted:
    """An hour of more than a page that the audit is in the middle of: ``count`` entries up to ``key``.

    ``doubted`` says that its number was found changed, so that its entries are looked at one by one, from the first again.
    """

    key: str = ""
    count: int = 0
    doubted: bool = False

    @property
    def hour(self) -> str:
        """The hour; empty where the audit is in the middle of none."""
        return _hour_of(self.key)


@dataclass(frozen=True)
class Cursor:
    """What was delivered so far.

    ``floor`` is an hour: everything before it was delivered. ``seen`` holds the fingerprints delivered at or after it, by hour.
    ``counts`` holds how many entries each hour had when the floor passed it, ``audited`` the hour the audit looked at last, and
    ``counted`` the one it is in the middle of.

    ``current`` is the hour from which a tick lists to the end. ``walked`` is the key up to which the round of the walk has come that
    began at the floor (empty: the next begins one), ``goal`` the hour to which the floor may move by it. That is fixed when it begins:
    what is written meanwhile where it has been already is left to the next round.
    """

    floor: str = ""
    seen: Mapping[str, frozenset[str]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    audited: str = ""
    counted: Counted = Counted()
    current: str = ""
    walked: str = ""
    goal: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read a stored cursor. None, or a text that is no cursor, starts from the beginning: recording is idempotent, losing is not."""
        try:
            data = json.loads(text or "null")
            if not isinstance(data, dict) or data.get("version") != _CURSOR_VERSION:
                return cls()
            seen = {hour: _split(marks) for hour, marks in data["seen"].items()}
            counts = {str(hour): int(count) for hour, count in data["counts"].items()}
            floor, audited = str(data["floor"]), str(data["audited"])
            key, count, doubted = data.get("counted", ("", 0, False))  # this and the next three: not in cursors of before they were kept
            counted = Counted(str(key), int(count), bool(doubted))
            current, walked, goal = (str(data.get(name, "")) for name in ("current", "walked", "goal"))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()
        hours = [floor, audited, current, goal, counted.hour, _hour_of(walked), *seen, *counts]
        if not all(hour == "" or _HOUR.fullmatch(hour) for hour in hours):
            return cls()
        return cls(floor, seen, counts, audited, counted, current, walked, goal)

    def to_text(self) -> str:
        """Compact JSON, the same for equal cursors."""
        data = {
            "version": _CURSOR_VERSION,
            "floor": self.floor,
            "seen": {hour: "".join(sorted(marks)) for hour, marks in self.seen.items() if marks},
            "counts": dict(self.counts),
            "audited": self.audited,
            "counted": [self.counted.key, self.counted.count, self.counted.doubted],
            "current": self.current,
            "walked": self.walked,
            "goal": self.goal,
        }
        return json.dumps(data, separators=(",", ":"), sort_keys=True)

    @property
    def start_after(self) -> str:
        """The key that the walk goes on after: at first, all entries of the floor's hour lie behind it."""
        return max(_before(self.floor), self.walked)

    def has(self, entry: Arrival) -> bool:
        """Whether an entry was delivered, as far as the fingerprints tell."""
        return entry.fingerprint in self.seen.get(entry.hour, frozenset())


@dataclass(frozen=True)
class Span:
    """The entries that were listed after one key up to another without a gap; ``more`` says that it ends at one that has to wait."""

    after: str
    upto: str
    entries: tuple[Arrival, ...]
    fresh: tuple[Arrival, ...]
    more: bool = False

    def whole(self, hour: str) -> bool:
        """Whether all of an hour was listed."""
        return self.after <= _before(hour) and _behind(hour) <= self.upto

    def reaches(self, hour: str) -> bool:
        """Whether nothing is left out between the span and an hour."""
        return self.upto == _END or _hour_of(self.upto) >= hour


@dataclass(frozen=True)
class Tick:
    """The plan of one tick: ``fresh`` entries to record, oldest first; ``more`` says that further ones wait for the next tick.

    ``spans`` are the walk's and, where that did not come as far as the hour ``current``, one from there to the end.
    """

    before: Cursor
    current: str
    spans: tuple[Span, ...]
    now: datetime

    @property
    def fresh(self) -> tuple[Arrival, ...]:
        """What to record now."""
        return tuple(entry for span in self.spans for entry in span.fresh)

    @property
    def more(self) -> bool:
        """Whether further ones wait."""
        return self.spans[-1].more

    @property
    def scanned(self) -> tuple[Arrival, ...]:
        """Everything that was listed."""
        return tuple(entry for span in self.spans for entry in span.entries)

    def advance(self, deferred: Iterable[Arrival] = ()) -> Cursor:
        """The cursor to store after ``fresh`` was recorded, except what is ``deferred`` and must be delivered again."""
        waiting = {entry.key for entry in deferred}
        scanned = self.scanned
        seen = {  # what was not listed whole: what was known of it stays known
            hour: set(marks) for hour, marks in self.before.seen.items() if not any(span.whole(hour) for span in self.spans)
        }
        for entry in scanned:
            if entry.key not in waiting:
                seen.setdefault(entry.hour, set()).add(entry.fingerprint)

        bounds = [entry.hour for entry in scanned if entry.key in waiting]
        walk = self.spans[0]
        goal = min([self.before.goal if self.before.walked else self._goal(max([*seen, *bounds], default="")), *bounds])
        reached = [] if walk.upto == _END else [_hour_of(walk.upto)]
        if self.more:
            bounds.append(scanned[-1].hour)
        floor = max(self.before.floor, self._released(seen, min([goal, *reached]), bounds))
        counts = {hour: n for hour, n in self.before.counts.items() if hour >= _hour(self.now - timedelta(days=AUDIT_DAYS))}
        for hour in [hour for hour in seen if hour < floor]:
            counts[hour] = len(seen.pop(hour))
        round_is_done = walk.reaches(self.current)
        return replace(
            self.before,
            floor=floor,
            seen={hour: frozenset(marks) for hour, marks in seen.items()},
            counts=counts,
            current=scanned[-1].hour if self.more else _hour(self.now - GRACE),
            walked="" if round_is_done else walk.upto,
            goal="" if round_is_done else goal,
        )

    def _goal(self, newest: str) -> str:
        """The latest hour that everything before it may be called delivered once it was listed.

        Bounded by this machine's clock and by the hour of the newest entry, each less the overlap: a clock that runs ahead, here or on a
        host, does not make the walk step over entries that are still to come.
        """
        overlap = timedelta(hours=OVERLAP_HOURS)
        return min(_hour(self.now - overlap), _hour(_moment(newest) - overlap)) if newest else ""

    def _released(self, seen: Mapping[str, set[str]], floor: str, bounds: Iterable[str]) -> str:
        """The floor, moved on over hours that are over and not bound to wait where more was seen than is kept."""
        total = sum(len(marks) for hour, marks in seen.items() if hour >= floor)
        for hour in sorted(hour for hour in seen if hour >= floor):
            if total <= MAX_SEEN or hour >= min([_hour(self.now), *bounds]):
                break
            total -= len(seen[hour])
            floor = _hour(_moment(hour) + timedelta(hours=1))
        return floor


def plan_tick(cursor: Cursor, keys_after: KeysAfter, now: datetime, limit: int = 200) -> Tick:
    """Which entries to record now.

    A listing is read no further than ``limit`` fresh entries need. Where the walk finds nothing fresh in a page of past hours it is
    left for the next tick; where it finds something it goes on to the end, so that the oldest comes first.
    """
    # Everything before was listed to the end by an earlier tick. After a time without ticks that is an hour long past.
    current = max(cursor.floor, min(cursor.current, _hour(now - GRACE)))
    walk = _scan(cursor, keys_after, cursor.start_after, limit, current)
    if walk.more or walk.reaches(current):
        return Tick(cursor, current, (walk,), now)
    return Tick(cursor, current, (walk, _scan(cursor, keys_after, _before(current), limit)), now)


def _scan(cursor: Cursor, keys_after: KeysAfter, after: str, limit: int, current: str = "") -> Span:
    """List up to what is too much for a tick, or a page where all of it is known and of hours before ``current``."""
    fresh: list[Arrival] = []
    entries: list[Arrival] = []
    for entry in _entries(keys_after(after)):
        known = cursor.has(entry)
        if not known and len(fresh) == limit:
            return Span(after, entries[-1].key, tuple(entries), tuple(fresh), more=True)
        entries.append(entry)
        if not known:
            fresh.append(entry)
        if len(entries) == PAGE and not fresh and entry.hour < current:
            return Span(after, entry.key, tuple(entries), ())
    return Span(after, _END, tuple(entries), tuple(fresh))


# --------------------------------------------------------------------------------------------------------------------- audit


@dataclass(frozen=True)
class Audit:
    """A page of one past hour. Its ``entries`` have to be looked at one by one where the hour's number has ``changed``."""

    before: Cursor
    hour: str
    entries: tuple[Arrival, ...]
    changed: bool
    counted: Counted

    def advance(self) -> Cursor:
        """The cursor after every entry that had to be was looked at."""
        if self.counted.key:
            return replace(self.before, counted=self.counted)
        counts = {**self.before.counts, self.hour: self.counted.count} if self.counted.count else self.before.counts
        return replace(self.before, counts=counts, audited=self.hour, counted=Counted())


def audit_start_after(cursor: Cursor, now: datetime) -> str:
    """The key after which the audit lists: within the hour it is in the middle of, or the hour after the one audited last."""
    if cursor.counted.key:
        return cursor.counted.key
    earliest = _hour(now - timedelta(days=AUDIT_DAYS))
    return _behind(cursor.audited) if cursor.audited >= earliest else _before(earliest)


def plan_audit(cursor: Cursor, listing: Iterable[str]) -> Audit:
    """Look at a page of the next past hour that has entries. At the floor it starts over (``hour`` is then empty).

    An hour within one page is judged at once. A larger one is counted over several ticks and, where its number has changed, gone
    through once more, so that no tick asks the event log about more than a page.
    """
    entries = _entries(listing)
    first = next(entries, None)
    hour = cursor.counted.hour or (first.hour if first and first.hour < cursor.floor else "")
    if not hour:
        return Audit(cursor, "", (), False, Counted())
    page = chain(() if first is None else (first,), islice(entries, PAGE - 1))
    same_hour = tuple(takewhile(lambda entry: entry.hour == hour, page))
    count, doubted = cursor.counted.count + len(same_hour), cursor.counted.doubted
    if len(same_hour) == PAGE:  # it may go on
        return Audit(cursor, hour, same_hour, doubted, Counted(same_hour[-1].key, count, doubted))
    changed = doubted or cursor.counts.get(hour) != count
    if changed and not doubted and cursor.counted.key:
        return Audit(cursor, hour, (), False, Counted(_before(hour), 0, doubted=True))
    return Audit(cursor, hour, same_hour, changed, Counted(count=count))


def _entries(keys: Iterable[str]) -> Iterator[Arrival]:
    return (entry for entry in map(arrival, keys) if entry is not None)


def _before(hour: str) -> str:
    """The key that all entries of an hour lie behind; of no hour, all entries."""
    return f"{INDEX_PREFIX}{hour}/" if hour else INDEX_PREFIX


def _behind(hour: str) -> str:
    """The key that all entries of an hour lie before."""
    return f"{INDEX_PREFIX}{hour}/~"


def _hour_of(key: str) -> str:
    return key.removeprefix(INDEX_PREFIX)[:_HOUR_LENGTH]


def _split(marks: str) -> frozenset[str]:
    return frozenset(marks[i : i + _FINGERPRINT] for i in range(0, len(marks), _FINGERPRINT))


def _hour(moment: datetime) -> str:
    return index_hour_prefix(moment).removeprefix(INDEX_PREFIX).rstrip("/")


def _moment(hour: str) -> datetime:
    try:
        return datetime.strptime(hour, "%Y/%m/%d/%H").replace(tzinfo=UTC)
    except ValueError:  # digits that are no date: not ours, and no bound for anything
        return datetime.max.replace(tzinfo=UTC)
