"""Which results are new: a pure decision over the results index and the sensor's cursor.

Here belong the cursor and the plan of one tick. Here belongs no I/O: the caller hands in a lazy listing of keys, in the order S3
gives them (by key, so by hour). Reading and recording results belongs to ``results_store`` and ``sensor``.

Why not "everything after the last key" or "after the last timestamp": entries of one hour are named by job, not by time, and an
entry can be written late by whoever finds a commit without one. So the cursor is a *floor*, an hour before which everything was
delivered, and the fingerprints of what was delivered after it. What is written below the floor later still is found by the audit,
which compares the number of entries of one past hour at a tick with the number that was there when the floor passed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Final

from monai_aws_pipeline.contract import INDEX_PREFIX, index_hour_prefix

OVERLAP_HOURS: Final = 3
"""Hours below now, and below the newest entry, that every tick looks at again."""
MAX_SEEN: Final = 20_000
"""Fingerprints kept (8 bytes each) before closed hours are released early."""
AUDIT_DAYS: Final = 15
"""How far back the audit goes: a day more than SQS keeps a message that could still be replayed."""

_CURSOR_VERSION: Final = 1
_FINGERPRINT: Final = 8
_HOUR: Final = re.compile(r"\d{4}/\d{2}/\d{2}/\d{2}")
_KEY: Final = re.compile(re.escape(INDEX_PREFIX) + r"(\d{4}/\d{2}/\d{2}/\d{2})/([0-9a-f]{32})(?:-([0-9a-f]{16}))?\.json")


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
class Cursor:
    """What was delivered so far.

    ``floor`` is an hour: everything before it was delivered. ``seen`` holds the fingerprints delivered at or after it, by hour.
    ``counts`` holds how many entries each hour had when the floor passed it, ``audited`` the hour the audit looked at last.
    """

    floor: str = ""
    seen: Mapping[str, frozenset[str]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    audited: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read a stored cursor. None, or a text that is no cursor, starts from the beginning: recording is idempotent, losing is not."""
        try:
            data = json.loads(text or "null")
            if not isinstance(data, dict) or data.get("version") != _CURSOR_VERSION:
                return cls()
            seen = {
                hour: frozenset(marks[i : i + _FINGERPRINT] for i in range(0, len(marks), _FINGERPRINT))
                for hour, marks in data["seen"].items()
            }
            counts = {str(hour): int(count) for hour, count in data["counts"].items()}
            hours = [str(data["floor"]), str(data["audited"]), *seen, *counts]
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()
        if not all(hour == "" or _HOUR.fullmatch(hour) for hour in hours):
            return cls()
        return cls(str(data["floor"]), seen, counts, str(data["audited"]))

    def to_text(self) -> str:
        """Compact JSON, the same for equal cursors."""
        data = {
            "version": _CURSOR_VERSION,
            "floor": self.floor,
            "seen": {hour: "".join(sorted(marks)) for hour, marks in self.seen.items() if marks},
            "counts": dict(self.counts),
            "audited": self.audited,
        }
        return json.dumps(data, separators=(",", ":"), sort_keys=True)

    @property
    def start_after(self) -> str:
        """The key that S3 lists after: all entries of the floor's hour lie behind it."""
        return f"{INDEX_PREFIX}{self.floor}/" if self.floor else INDEX_PREFIX

    def has(self, entry: Arrival) -> bool:
        """Whether an entry was delivered, as far as the fingerprints tell."""
        return entry.fingerprint in self.seen.get(entry.hour, frozenset())


@dataclass(frozen=True)
class Tick:
    """The plan of one tick: ``fresh`` entries to record, oldest first; ``more`` says that further ones wait for the next tick."""

    before: Cursor
    fresh: tuple[Arrival, ...]
    scanned: tuple[Arrival, ...]
    more: bool
    now: datetime

    def advance(self, deferred: Iterable[Arrival] = ()) -> Cursor:
        """The cursor to store after ``fresh`` was recorded, except what is ``deferred`` and must be delivered again."""
        waiting = {entry.key for entry in deferred}
        done = [entry for entry in self.scanned if entry.key not in waiting]
        seen: dict[str, set[str]] = {}
        if self.more:  # the tail was not listed: what was known of it stays known
            seen = {hour: set(marks) for hour, marks in self.before.seen.items()}
        for entry in done:
            seen.setdefault(entry.hour, set()).add(entry.fingerprint)

        floor = max(self.before.floor, self._floor(seen, waiting))
        counts = {hour: n for hour, n in self.before.counts.items() if hour >= _hour(self.now - timedelta(days=AUDIT_DAYS))}
        for hour in [hour for hour in seen if hour < floor]:
            counts[hour] = len(seen.pop(hour))
        return Cursor(floor, {hour: frozenset(marks) for hour, marks in seen.items()}, counts, self.before.audited)

    def _floor(self, seen: Mapping[str, set[str]], waiting: set[str]) -> str:
        """The latest hour that everything before it may be called delivered.

        Bounded by this machine's clock and by the newest entry's, each less the overlap: a clock that runs ahead, here or on a
        host, does not make the walk step over entries that are still to come.
        """
        if not self.scanned:
            return ""
        bounds = [entry.hour for entry in self.scanned if entry.key in waiting]
        if self.more:
            bounds.append(self.scanned[-1].hour)
        newest = _moment(self.scanned[-1].hour)
        floor = min([_hour(self.now - timedelta(hours=OVERLAP_HOURS)), _hour(newest - timedelta(hours=OVERLAP_HOURS)), *bounds])
        total = sum(len(marks) for hour, marks in seen.items() if hour >= floor)
        for hour in sorted(hour for hour in seen if hour >= floor):
            if total <= MAX_SEEN or hour >= min([_hour(self.now), *bounds]):
                break
            total -= len(seen[hour])
            floor = _hour(_moment(hour) + timedelta(hours=1))
        return floor


def plan_tick(cursor: Cursor, listing: Iterable[str], now: datetime, limit: int = 200) -> Tick:
    """Which entries to record now.

    ``listing`` yields the keys after ``cursor.start_after`` in S3's order; it is read no further than ``limit`` fresh entries
    need, so a lazy one costs a page or two however many results the bucket holds.
    """
    fresh: list[Arrival] = []
    scanned: list[Arrival] = []
    for key in listing:
        entry = arrival(key)
        if entry is None:
            continue
        known = cursor.has(entry)
        if not known and len(fresh) == limit:
            return Tick(cursor, tuple(fresh), tuple(scanned), True, now)
        scanned.append(entry)
        if not known:
            fresh.append(entry)
    return Tick(cursor, tuple(fresh), tuple(scanned), False, now)


# --------------------------------------------------------------------------------------------------------------------- audit


@dataclass(frozen=True)
class Audit:
    """One past hour whose entries are ``entries``; ``changed`` when their number is not the one the floor passed."""

    before: Cursor
    hour: str
    entries: tuple[Arrival, ...]
    changed: bool

    def advance(self) -> Cursor:
        """The cursor after every entry of the hour was looked at."""
        counts = {**self.before.counts, self.hour: len(self.entries)} if self.entries else dict(self.before.counts)
        return Cursor(self.before.floor, self.before.seen, counts, self.hour)


def audit_start_after(cursor: Cursor, now: datetime) -> str:
    """The key after which the audit lists: the hour after the one audited last."""
    earliest = _hour(now - timedelta(days=AUDIT_DAYS))
    return f"{INDEX_PREFIX}{cursor.audited}/~" if cursor.audited >= earliest else f"{INDEX_PREFIX}{earliest}/"


def plan_audit(cursor: Cursor, listing: Iterable[str]) -> Audit:
    """Look at the next past hour that has entries. At the floor it starts over (``hour`` is then empty)."""
    entries: Iterator[Arrival] = (entry for entry in map(arrival, listing) if entry is not None)
    first = next(entries, None)
    if first is None or first.hour >= cursor.floor:
        return Audit(cursor, "", (), False)
    same_hour = (first, *takewhile(lambda entry: entry.hour == first.hour, entries))
    return Audit(cursor, first.hour, same_hour, cursor.counts.get(first.hour) != len(same_hour))


def _split(marks: str) -> frozenset[str]:
    return frozenset(marks[i : i + _FINGERPRINT] for i in range(0, len(marks), _FINGERPRINT))


def _hour(moment: datetime) -> str:
    return index_hour_prefix(moment).removeprefix(INDEX_PREFIX).rstrip("/")


def _moment(hour: str) -> datetime:
    try:
        return datetime.strptime(hour, "%Y/%m/%d/%H").replace(tzinfo=UTC)
    except ValueError:  # digits that are no date: not ours, and no bound for anything
        return datetime.max.replace(tzinfo=UTC)
