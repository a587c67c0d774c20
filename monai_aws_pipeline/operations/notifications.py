"""What people are told by mail or chat, and when: a pure decision over what stands now and what was told before.

Here belong the sensor's cursor, which of what stands is new, and the words. Here belongs no I/O: looking belongs to the sensor
(``monai_aws_pipeline.notifications``), sending to ``channels``.

A message leaves the protected area. So it holds names of jobs, steps, codes, alarms, study pseudonyms and job ids, with links to the
rest, and never what a person, a run or an application wrote: that may quote a name.

Told is what *stands* and was not told yet, so nothing is lost while nobody looks or the channel does not answer. Of each kind there is at
most one message in ``WINDOW``: what comes meanwhile is in the next one, counted, with the first few by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from monai_aws_pipeline.portal.addresses import study_path

WINDOW_SECONDS: Final = 15 * 60
"""Of one kind, one message in so long."""
NAMED: Final = 5
"""So many are named in a message; the others are counted."""
CODES: Final = 12
LOOKED_AT: Final = 1000
"""So many failures are read for one message; where there are more, they are in the next."""
OVERLAP_SECONDS: Final = 60
"""Runs that ended so long before the last one told are looked at again: their ends are not stored in order."""

REMEMBERED_RUNS: Final = 200
"""So many failed runs are looked at, and their ids kept."""

_VERSION: Final = 1


class Kind(StrEnum):
    """What a message is about. Of each there is one message in a window."""

    RUN = "run"
    STUDIES = "studies"
    ALARM = "alarm"
    BUDGET = "budget"
    SCHEDULE = "schedule"


@dataclass(frozen=True)
class FailedRun:
    """A run of Dagster that failed, at ``ended`` (seconds since 1970), in these steps: none where it failed outside of them."""

    id: str
    job: str
    steps: tuple[str, ...]
    ended: float


@dataclass(frozen=True)
class FailedStudy:
    """An upload that was refused or failed, at ``at`` (seconds since 1970).

    ``event`` is the storage id of its observation; ``study`` is empty where none was known.
    """

    event: int
    study: str
    job: str
    code: str
    at: float


@dataclass(frozen=True)
class RaisedAlarm:
    """An alarm of CloudWatch that is raised, since when, and what it says."""

    name: str
    says: str
    since: str


@dataclass(frozen=True)
class SpentBudget:
    """A month's (``YYYY-MM``) budget in USD, and what was spent of it."""

    month: str
    spent: float
    limit: float


@dataclass(frozen=True)
class MissedSchedule:
    """A schedule that is on and did not run when it was due (seconds since 1970)."""

    name: str
    due: float


@dataclass(frozen=True)
class Standing:
    """What stands now. None: it was not looked at, or could not be; then nothing follows from it."""

    runs: tuple[FailedRun, ...] = ()
    studies: tuple[FailedStudy, ...] = ()
    read_to: int = 0
    """Up to which storage id observations were looked at; not all of them are of failures."""
    alarms: tuple[RaisedAlarm, ...] | None = None
    budget: SpentBudget | None = None
    schedules: tuple[MissedSchedule, ...] | None = None


@dataclass(frozen=True)
class Message:
    """One message: ``subject`` on one line, ``text`` with links. The same again has the same ``id``, by which a reader knows it."""

    kind: Kind
    subject: str
    text: str
    id: str


@dataclass(frozen=True)
class Place:
    """Whose messages these are, and where Dagster's UI answers (empty: links are paths)."""

    deployment: str
    ui: str = ""

    def link(self, path: str) -> str:
        """A link into Dagster's UI."""
        return f"{self.ui.rstrip('/')}{path}"


@dataclass(frozen=True)
class Told:
    """The sensor's cursor: up to where failures were told, and which of what stands was.

    ``since``: from when on people are told; a study that failed before is history, also where Dagster records it later.
    ``runs_after``: when the last run that was told had ended; ``runs``: ids of those told lately. ``studies_after``: the storage id of
    the last observation. ``alarms``: since when each was raised that was told. ``overdue``: schedules that were late at the last look,
    ``schedules``: those of them that were told. ``budget``: the month of which it was told. ``at``: when each kind was told last.
    """

    since: float = 0.0
    runs_after: float = 0.0
    runs: tuple[str, ...] = ()
    studies_after: int = 0
    alarms: Mapping[str, str] = field(default_factory=dict)
    budget: str = ""
    budget_asked: str = ""
    overdue: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    at: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def beginning(cls, now: float, newest_event: int) -> Told:
        """For whoever is told from now on: failures of before are history, what stands (alarms, schedules, budget) is not."""
        # The time of a record is cut to milliseconds: one of this very second is rather told than lost.
        return cls(since=math.floor(now), runs_after=now, studies_after=newest_event)

    @classmethod
    def parse(cls, text: str | None) -> Told | None:
        """Read a stored cursor; None where there is none, or it is not one of ours."""
        try:
            data = json.loads(text or "null")
            if not isinstance(data, dict) or data.pop("version", None) != _VERSION:
                return None
            return cls(
                since=float(data.get("since", 0)),  # a cursor of an older release has none
                runs_after=float(data["runs_after"]),
                runs=tuple(map(str, data["runs"])),
                studies_after=int(data["studies_after"]),
                alarms={str(name): str(since) for name, since in data["alarms"].items()},
                budget=str(data["budget"]),
                budget_asked=str(data["budget_asked"]),
                overdue=tuple(map(str, data["overdue"])),
                schedules=tuple(map(str, data["schedules"])),
                at={str(kind): float(when) for kind, when in data["at"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def to_text(self) -> str:
        """Compact JSON, the same for equal cursors."""
        return json.dumps({"version": _VERSION, **asdict(self)}, separators=(",", ":"), sort_keys=True)

    def asked(self, hour: str) -> Told:
        """The same after the budget was asked for in this hour."""
        return replace(self, budget_asked=hour)

    def waits(self, kind: Kind, now: float) -> bool:
        """Whether a message of this kind was sent within the window. A clock that was set back makes nobody wait."""
        return 0 <= now - self.at.get(kind, float("-inf")) < WINDOW_SECONDS


# ---------------------------------------------------------------------------------------------------------------------- what is new


def untold(told: Told, standing: Standing) -> Standing:
    """What of it was not told yet. A schedule counts from the second look on: after a pause of the daemon it may run in a moment."""
    alarms = [each for each in standing.alarms or () if told.alarms.get(each.name) != each.since]
    late = [each for each in standing.schedules or () if each.name in told.overdue and each.name not in told.schedules]
    budget = standing.budget
    return Standing(
        runs=tuple(run for run in standing.runs if run.id not in told.runs),
        studies=tuple(study for study in standing.studies if study.event > told.studies_after and study.at >= told.since),
        alarms=tuple(alarms),
        budget=budget if budget and budget.spent >= budget.limit and budget.month != told.budget else None,
        schedules=tuple(late),
    )


def messages(told: Told, standing: Standing, now: float, place: Place) -> list[Message]:
    """The messages to send now, at most one of each kind."""
    new = untold(told, standing)
    found = [
        _of_runs(new.runs, place) if new.runs else None,
        _of_studies(new.studies, place) if new.studies else None,
        _of_alarms(new.alarms, place) if new.alarms else None,
        _of_budget(new.budget, place) if new.budget else None,
        _of_schedules(new.schedules, place) if new.schedules else None,
    ]
    return [message for message in found if message and not told.waits(message.kind, now)]


def after(told: Told, standing: Standing, delivered: Iterable[Kind], now: float) -> Told:
    """The cursor once the messages of these kinds were delivered. What is over is forgotten: when it comes again, it is told again."""
    kinds, new = set(delivered), untold(told, standing)
    changed: dict[str, Any] = {"at": {**told.at, **{kind.value: now for kind in kinds}}}
    if standing.alarms is not None:
        raised = {each.name: each.since for each in standing.alarms}
        changed["alarms"] = raised if Kind.ALARM in kinds else {name: since for name, since in told.alarms.items() if name in raised}
    if standing.schedules is not None:
        late = tuple(each.name for each in standing.schedules)
        spoken_of = {*told.schedules, *(each.name for each in new.schedules or () if Kind.SCHEDULE in kinds)}
        changed |= {"overdue": late, "schedules": tuple(name for name in late if name in spoken_of)}
    if Kind.RUN in kinds:
        changed |= {"runs": (*told.runs, *(run.id for run in new.runs))[-REMEMBERED_RUNS:], "runs_after": _ended_last(told, standing)}
    if not new.studies:
        changed["studies_after"] = max(told.studies_after, standing.read_to)
    elif Kind.STUDIES in kinds:
        changed["studies_after"] = max(study.event for study in new.studies)
    if new.budget:  # asked for again at once where it was not delivered
        changed |= {"budget": new.budget.month} if Kind.BUDGET in kinds else {"budget_asked": ""}
    return replace(told, **changed)


def _ended_last(told: Told, standing: Standing) -> float:
    """From where on runs are looked at. Where the look was full, the overlap is left out, or it would be full of the same ones for ever."""
    last = max([told.runs_after, *(run.ended for run in standing.runs)])
    return last + OVERLAP_SECONDS if len(standing.runs) >= REMEMBERED_RUNS else last


# -------------------------------------------------------------------------------------------------------------------------- the words


def _of_runs(runs: Sequence[FailedRun], place: Place) -> Message:
    lines = [f"{run.job} failed{f' in {_few(run.steps)}' if run.steps else ''}: {place.link(f'/runs/{run.id}')}" for run in runs]
    what = f"{runs[0].job} failed" if len(runs) == 1 else f"{len(runs)} runs failed"
    return _message(Kind.RUN, place, what, lines, "The run's page says why and what to do.", [run.id for run in runs])


def _of_studies(studies: Sequence[FailedStudy], place: Place) -> Message:
    counts = Counter(study.code for study in studies).most_common()
    shown = ", ".join(f"{code} {count}" for code, count in counts[:CODES])
    rest = sum(count for _, count in counts[CODES:])
    head = f"{shown}, others {rest}" if rest else shown
    lines = [_study_line(study, place) for study in studies]
    many = f"{len(studies)} studies have" if len(studies) > 1 else "1 study has"
    last = f'All of them: {place.link("/assets/inference_result")}. What a code means and what helps: docs/operations.md, "Quarantine".'
    return _message(Kind.STUDIES, place, f"{many} no answer", [head, *lines], last, [str(study.event) for study in studies], heads=1)


def _study_line(study: FailedStudy, place: Place) -> str:
    if not study.study:
        return f"{study.code}: an upload whose study is not known, job {study.job}"
    return f"{study.code}: {place.link(study_path(study.study))}"


def _of_alarms(alarms: Sequence[RaisedAlarm], place: Place) -> Message:
    what = f"alarm {alarms[0].name}" if len(alarms) == 1 else f"{len(alarms)} alarms are raised"
    lines = [f"{alarm.name}, since {alarm.since}: {alarm.says}" for alarm in alarms]
    last = 'monai-aws status shows what stands; docs/operations.md, "Alarms".'
    return _message(Kind.ALARM, place, what, lines, last, [f"{alarm.name} {alarm.since}" for alarm in alarms], named=len(alarms))


def _of_budget(budget: SpentBudget, place: Place) -> Message:
    line = f"{budget.spent:.2f} USD of {budget.limit:.2f} USD were spent in {budget.month}."
    last = 'monai-aws status shows machines that run; docs/aws.md, "What it costs".'
    return _message(Kind.BUDGET, place, f"the budget of {budget.month} is spent", [line], last, [budget.month])


def _of_schedules(schedules: Sequence[MissedSchedule], place: Place) -> Message:
    what = f"{schedules[0].name} did not run" if len(schedules) == 1 else f"{len(schedules)} schedules did not run"
    lines = [f"{each.name} was due at {_clock(each.due)}" for each in schedules]
    last = f"Its ticks say why: {place.link('/automation')}. They run in Dagster's daemon: {place.link('/deployment/daemons')}."
    return _message(Kind.SCHEDULE, place, what, lines, last, [f"{each.name} {each.due}" for each in schedules])


def _message(
    kind: Kind, place: Place, what: str, lines: Sequence[str], last: str, of: Iterable[str], *, heads: int = 0, named: int = NAMED
) -> Message:
    """Put together: what, the first lines, how many more, where to look. ``heads``: lines that are no case of their own."""
    shown, more = lines[: heads + named], len(lines) - heads - named
    body = [*shown, *([f"… and {more} more"] if more > 0 else []), "", last]
    subject = f"monai-aws {place.deployment}: {what}"[:100]  # SNS takes no more
    number = hashlib.sha256("\n".join([place.deployment, kind, *of]).encode()).hexdigest()[:8]
    return Message(kind, subject, "\n".join([f"Deployment {place.deployment}: {what}.", "", *body, f"(message {number})"]), number)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
