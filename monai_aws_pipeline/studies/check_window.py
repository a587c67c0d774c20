"""The results of the last day as one check sees them: how many it passed, and which studies miss it. Pure.

The graph's node shows one evaluation of each check, the latest. So that one speaks of the last day and not of the last study: a study
that passes never hides another one that did not. Folded from results in the order in which they were recorded, each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from monai_aws_pipeline.contract import parse_utc, short_digest
from monai_aws_pipeline.studies.result_checks import BY_LIVE_MAP, WITHIN_TIME_AND_COST, Outcome, Verdict

WINDOW: Final = timedelta(hours=24)
MAX_MISSES: Final = 100
"""Misses that are kept one by one; with more of them the oldest are left out and "at least" is said."""
MAX_FOUND: Final = 120

_HOUR: Final = "%Y-%m-%dT%H"


@dataclass(frozen=True)
class RecordedResult:
    """A result as the event log has it. ``study`` is empty where it is unknown; ``digest`` of the MAP, empty where none was chosen.

    ``replaced``: digest and commit time of the study's answer before this one. ``answered_at``: of a failure, when its study was
    answered (as far as it was recorded). Times are ISO 8601 UTC; empty where there is none. ``version`` of the MAP's application;
    ``usd``: what it cost.
    """

    storage_id: int
    at: str
    study: str
    job: str
    answered: bool
    digest: str = ""
    verdicts: tuple[Verdict, ...] = ()
    replaced: tuple[str, str] = ("", "")
    answered_at: str = ""
    version: str = ""
    usd: float = 0.0

    @property
    def subject(self) -> str:
        """The study, or the job where no study is known."""
        return self.study or self.job

    @property
    def is_superseded(self) -> bool:
        """Whether it is a failure of a study that was answered at that time or later."""
        return not self.answered and bool(self.answered_at) and parse_utc(self.answered_at) >= parse_utc(self.at)

    @property
    def is_recorded_again(self) -> bool:
        """Whether it is the very answer that the study had already: a run that asked the same MAP again has recorded it once more."""
        return self.replaced == (self.digest, self.at)


@dataclass(frozen=True)
class Miss:
    """A study that misses a check, with what was found."""

    at: str
    study: str
    job: str
    found: str

    @property
    def subject(self) -> str:
        """The study, or the job where no study is known."""
        return self.study or self.job


@dataclass(frozen=True)
class CheckWindow:
    """What one check has seen in the last day.

    ``hours``: for each UTC hour how many results had each outcome; for ``by_live_map`` how many answers each MAP gave. ``misses``: newest
    last. ``unjudged``: why a result was not judged, the last time. ``usd``: for each UTC hour what its results cost, where cost is judged.
    """

    hours: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    misses: tuple[Miss, ...] = ()
    unjudged: str = ""
    usd: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> CheckWindow:
        """What ``to_data`` made. Raises KeyError, TypeError, ValueError."""
        hours = {str(hour): {str(name): int(count) for name, count in counts.items()} for hour, counts in data["hours"].items()}
        usd = {str(hour): float(spent) for hour, spent in data.get("usd", {}).items()}
        return cls(hours, tuple(Miss(*map(str, miss)) for miss in data["misses"]), str(data["unjudged"]), usd)

    def to_data(self) -> dict[str, Any]:
        """As JSON has it."""
        misses = [[miss.at, miss.study, miss.job, miss.found] for miss in self.misses]
        data = {"hours": {hour: dict(counts) for hour, counts in self.hours.items()}, "misses": misses, "unjudged": self.unjudged}
        return data | ({"usd": dict(self.usd)} if self.usd else {})

    def count(self, *names: str) -> int:
        """How many results had one of these outcomes; without a name all of them."""
        return sum(count for counts in self.hours.values() for name, count in counts.items() if not names or name in names)

    def by_name(self) -> dict[str, int]:
        """How many results each outcome, or each MAP, has."""
        found: dict[str, int] = {}
        for counts in self.hours.values():
            for name, count in counts.items():
                found[name] = found.get(name, 0) + count
        return {name: count for name, count in found.items() if count}

    def fold(self, check: str, results: Iterable[RecordedResult], now: datetime) -> CheckWindow:
        """The window after these results, and without what has left it by now."""
        window = self
        for result in results:
            if _in_window(result.at, now):
                window = window._with(check, result, now)
        first = _hour(now - WINDOW)
        hours = {hour: counts for hour, counts in window.hours.items() if hour >= first}
        usd = {hour: spent for hour, spent in window.usd.items() if hour >= first}
        return replace(window, hours=hours, usd=usd, misses=tuple(miss for miss in window.misses if _in_window(miss.at, now)))

    def _with(self, check: str, result: RecordedResult, now: datetime) -> CheckWindow:
        if check == BY_LIVE_MAP:
            return self._with_map(result, now)
        verdict = next((each for each in result.verdicts if each.check == check), None)
        if verdict is None:
            verdict = Verdict(check, Outcome.NOT_JUDGED, "it was recorded before there was this check")
        counted = replace(
            self,
            hours=_added(self.hours, _hour(parse_utc(result.at)), verdict.outcome.value, 1),
            unjudged=verdict.found if verdict.outcome is Outcome.NOT_JUDGED else self.unjudged,
            usd=_with_cost(self.usd, result) if check == WITHIN_TIME_AND_COST else self.usd,
        )
        if result.is_superseded or (not result.answered and verdict.outcome is not Outcome.FAILED):
            return counted  # the study's last answer, and what was found of it, still stands
        return counted._with_miss(result, verdict)

    def _with_miss(self, result: RecordedResult, verdict: Verdict) -> CheckWindow:
        """Without an older miss of the same study, and with this one where it is one."""
        before = next((miss for miss in self.misses if miss.subject == result.subject), None)
        if before and parse_utc(before.at) > parse_utc(result.at):
            return self
        misses = [miss for miss in self.misses if miss is not before]
        if verdict.outcome is Outcome.FAILED:
            misses.append(Miss(result.at, result.study, result.job, verdict.found[:MAX_FOUND]))
            misses.sort(key=lambda miss: parse_utc(miss.at))
        return replace(self, misses=tuple(misses[-MAX_MISSES:]))

    def _with_map(self, result: RecordedResult, now: datetime) -> CheckWindow:
        if not result.answered:
            return self
        hours = _added(self.hours, _hour(parse_utc(result.at)), result.digest, 1)
        digest, at = result.replaced
        if at and _in_window(at, now):
            hours = _added(hours, _hour(parse_utc(at)), digest, -1)
        return replace(self, hours=hours)


@dataclass(frozen=True)
class Finding:
    """What a check says of the last day: whether it passed, in words, with what to do next, and the misses, newest first."""

    passed: bool
    text: str
    next: str = ""
    misses: tuple[Miss, ...] = ()


def finding(check: str, window: CheckWindow, live: str) -> Finding:
    """The state of a check. ``live``: digest of the MAP that is live, empty where none is known."""
    if check == BY_LIVE_MAP:
        return _of_maps(window, live)
    found = _of_results(check, window)
    return replace(found, text=f"{found.text} Together they cost {sum(window.usd.values()):.4f} USD.") if window.usd else found


def _of_results(check: str, window: CheckWindow) -> Finding:
    total, unjudged = window.count(), window.count(Outcome.NOT_JUDGED)
    if window.misses:
        least = "at least " if len(window.misses) == MAX_MISSES else ""
        text = f"{least}{len(window.misses)} of {total} results of the last 24 hours: {window.misses[-1].found}"
        more = len(window.misses) - 1
        return Finding(False, f"{text}{f', and {more} more' if more else ''}", _NEXT.get(check, _LOOK), window.misses[::-1])
    if not total:
        return Finding(True, "No result in the last 24 hours.")
    if unjudged == total:
        return Finding(False, f"not judged, none of {total} results of the last 24 hours: {window.unjudged}")
    rest = f"; {unjudged} not judged, the last one because {window.unjudged}" if unjudged else ""
    return Finding(True, f"{total - unjudged} of {total} results of the last 24 hours passed{rest}.")


_LOOK: Final = "Open the study (its partition of inference_result): preview, volumes and the table 'checks' say what was found."
_NEXT: Final = {
    "answered": "Open the asset unanswered_studies: it has cause, the application's last line and remedy of each, and leads to the job "
    "that asks them again."
}
_RERUN: Final = "Open the asset studies_by_map: it names them, and leads to the job rerun_studies, which has the live MAP answer them."


def _of_maps(window: CheckWindow, live: str) -> Finding:
    counts = window.by_name()
    total = sum(counts.values())
    if not total:
        return Finding(True, "No answer in the last 24 hours.")
    if not live:
        return Finding(False, "not judged: no MAP is live, or none was recorded yet")
    others = {digest: count for digest, count in counts.items() if digest != live}
    if not others:
        return Finding(True, f"{total} of {total} answers of the last 24 hours are by {map_in_words(live)}, which is live.")
    said = ", ".join(f"{count} by {map_in_words(digest)}" for digest, count in sorted(others.items(), key=lambda item: -item[1])[:3])
    return Finding(False, f"{sum(others.values())} of {total} answers of the last 24 hours are by a MAP that is not live: {said}", _RERUN)


def map_in_words(digest: str) -> str:
    """A MAP by the digits that tell it from others."""
    return short_digest(digest) or "an unknown MAP"


def _with_cost(usd: Mapping[str, float], result: RecordedResult) -> Mapping[str, float]:
    if not result.usd or result.is_recorded_again:
        return usd
    hour = _hour(parse_utc(result.at))
    return {**usd, hour: round(usd.get(hour, 0.0) + result.usd, 6)}


def _added(hours: Mapping[str, Mapping[str, int]], hour: str, name: str, count: int) -> dict[str, Mapping[str, int]]:
    counts = dict(hours.get(hour, {}))
    counts[name] = counts.get(name, 0) + count
    return {**hours, hour: counts}


def _in_window(at: str, now: datetime) -> bool:
    return parse_utc(at) >= now - WINDOW


def _hour(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_HOUR)
