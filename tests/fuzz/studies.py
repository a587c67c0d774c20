"""A machine that looks for the next wrong answer: ``make fuzz-studies``, or ``python -m tests.fuzz.studies --count 2000 --seed N``.

Good studies are changed along one axis or two (``study_axes``), given to the agent, answered by an honest application and judged by the
answer of the unchanged study (``study_oracle``). Right are a right answer and a named refusal; everything else is a finding, which
``--seed N --only AXIS+AXIS --application NAME`` repeats. Here belong the choice of studies, the running of many, and the summary.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import secrets
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fuzz.honest_applications import APPLICATIONS
from tests.fuzz.study_axes import AXES, Axis, IncompatibleAxesError, Phase
from tests.fuzz.study_draft import Draft, good_draft
from tests.fuzz.study_host import StudyHost, study_host
from tests.fuzz.study_oracle import Verdict, judge

COUNT: Final = 2000
SUMMARY: Final = Path("build/fuzz-studies.json")
_SINGLES: Final = 0.5
"""Part of the studies that are changed along one axis alone: for 2,000, each axis with each application."""


@dataclass(frozen=True)
class Case:
    """One study to be made: the application that answers it, the axes that change it, the seed of everything random in it."""

    application: str
    axes: tuple[str, ...]
    seed: int

    @property
    def again(self) -> str:
        """The command that repeats it."""
        return f"python -m tests.fuzz.studies --seed {self.seed} --only {'+'.join(self.axes)} --application {self.application}"


@dataclass(frozen=True)
class Finding:
    """What should not have happened. ``kind``: wrong, unnamed, leak, unexpected (another end than the axis alone may have)."""

    kind: str
    axes: str
    application: str
    end: str
    what: str
    again: str
    detail: str = ""


@dataclass
class Summary:
    """What a run has seen. ``unmade``: pairs that exclude each other."""

    seed: int
    studies: int = 0
    axes: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    unnamed: int = 0
    leaks: int = 0
    unexpected: int = 0
    unmade: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def add(self, verdict: Verdict, findings: Sequence[Finding]) -> None:
        """Count one study."""
        self.studies += 1
        if verdict.end == "answered":
            self.answered += 1
        else:
            self.refused[verdict.end] += 1
        kinds = {finding.kind for finding in findings}
        self.wrong += "wrong" in kinds
        self.unnamed += "unnamed" in kinds
        self.leaks += "leak" in kinds
        self.unexpected += "unexpected" in kinds
        self.findings += findings

    def to_json(self) -> str:
        """The summary as it is kept."""
        return json.dumps({**asdict(self), "refused": dict(self.refused.most_common())}, indent=1) + "\n"


# -------------------------------------------------------------------------------------------------------------------------- choosing


def cases(seed: int, count: int) -> Iterator[Case]:
    """Which studies a run makes; without end as far as pairs go, the same for the same seed and count."""
    chosen = random.Random(f"{seed}/{count}")  # noqa: S311  it must be repeatable
    singles = [
        Case(application, (name,), seed)
        for name, each in AXES.items()
        for application in APPLICATIONS
        if application != "echo" or each.phase is Phase.STACK
    ]
    chosen.shuffle(singles)
    yield from singles[: max(1, int(count * _SINGLES))]
    names = sorted(AXES)
    while True:
        one, other = (AXES[name] for name in chosen.sample(names, 2))
        if one.slot != other.slot:
            first, second = sorted((one, other), key=lambda each: (each.phase, each.name))
            yield Case(chosen.choice(sorted(APPLICATIONS)), (first.name, second.name), seed)


def build(case: Case) -> Draft:
    """The draft of a case. Raises IncompatibleAxesError for a pair that cannot be made."""
    draft = good_draft(f"{case.seed}/{'+'.join(case.axes)}")
    chosen = sorted((AXES[name] for name in case.axes), key=lambda each: each.phase)
    if not chosen or chosen[0].phase is not Phase.ACQUISITION:
        draft.series.append(draft.acquire())
    for each in chosen:
        each.change(draft)
    return draft


def made(case: Case) -> tuple[Draft, list[tuple[str, bytes]]] | None:
    """Draft and upload of a case; None for a pair whose axes exclude each other."""
    try:
        draft = build(case)
        return draft, draft.objects()
    except IncompatibleAxesError:
        return None
    except (AttributeError, LookupError, ValueError, TypeError, OverflowError):
        if len(case.axes) > 1:
            return None  # what one axis needs, the other took away
        raise


# --------------------------------------------------------------------------------------------------------------------------- running


def tried(case: Case, host: StudyHost) -> tuple[Verdict, list[Finding]] | None:
    """One study from its making to its verdict; None where it cannot be made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = made(case)
        if study is None:
            return None
        draft, objects = study
        end = host.answer(objects, APPLICATIONS[case.application], draft.listing)
        verdict = judge(end, draft, first_echo=APPLICATIONS[case.application].wants_first_echo)
    return verdict, list(findings_of(case, verdict))


def findings_of(case: Case, verdict: Verdict) -> Iterator[Finding]:
    """What is wrong with an end. A pair may end in any named refusal; what an axis alone may end in, it says itself."""

    def finding(kind: str, what: str) -> Finding:
        return Finding(kind, "+".join(case.axes), case.application, verdict.end, what, case.again, verdict.detail)

    if verdict.wrong:
        yield finding("wrong", verdict.wrong)
    if verdict.unnamed:
        yield finding("unnamed", verdict.unnamed)
    if verdict.leaks:
        yield finding("leak", "; ".join(verdict.leaks))
    if len(case.axes) == 1 and not verdict.wrong and not verdict.unnamed:
        right = AXES[case.axes[0]].right_for(case.application)
        if right and not right.allows(verdict.end):
            allowed = [*(["answered"] if right.answer else []), *sorted(right.codes)]
            yield finding("unexpected", f"{verdict.end}, and not one of {', '.join(allowed)}")


def run(seed: int, count: int, folder: Path, processes: int = 1, chosen: Iterable[Case] | None = None) -> Summary:
    """Try ``count`` studies. ``folder`` is used and emptied; with more processes than one, each has a host of its own."""
    started = time.monotonic()
    summary = Summary(seed)
    seen: set[str] = set()
    wanted = iter(chosen if chosen is not None else cases(seed, count))
    with ExitStack() as life:
        if processes > 1:
            pool = life.enter_context(multiprocessing.get_context("spawn").Pool(processes, _start, (str(folder),)))
            results: Iterator[tuple[Case, Any]] = pool.imap(_work, _bounded(wanted, count))
        else:
            host = life.enter_context(study_host(folder / "job"))
            results = ((case, tried(case, host)) for case in wanted)
        for case, result in results:
            if result is None:
                summary.unmade += 1
                continue
            summary.add(*result)
            seen.update(case.axes)
            if summary.studies >= count:
                break
    summary.axes, summary.seconds = len(seen), round(time.monotonic() - started, 1)
    return summary


def _bounded(wanted: Iterator[Case], count: int) -> Iterator[Case]:
    """As many cases as are needed even when every second pair cannot be made: a pool reads ahead."""
    for case, _ in zip(wanted, range(2 * count + 100), strict=False):
        yield case


_HOST: list[StudyHost] = []


def _start(folder: str) -> None:
    logging.disable(logging.NOTSET)
    life = ExitStack()  # ends with the process
    place = Path(folder) / multiprocessing.current_process().name
    _HOST.append(life.enter_context(study_host(place)))
    _HOST.append(life)  # type: ignore[arg-type]


def _work(case: Case) -> tuple[Case, tuple[Verdict, list[Finding]] | None]:
    return case, tried(case, _HOST[0])


# ----------------------------------------------------------------------------------------------------------------------- command line


def main() -> int:
    """Fuzz, or repeat one study; exit code 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.studies")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--only", default="", help="AXIS or AXIS+AXIS: this study alone")
    parser.add_argument("--application", choices=sorted(APPLICATIONS), default="", help="with --only; both where it is not given")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--summary", type=Path, default=SUMMARY)
    parser.add_argument("--axes", action="store_true", help="list the axes and what is right for each")
    asked = parser.parse_args()
    if asked.axes:
        sys.stdout.write("".join(f"{each.name:45} {_said(each)}\n" for each in AXES.values()))
        return 0
    only = [
        Case(application, tuple(asked.only.split("+")), asked.seed)
        for application in APPLICATIONS
        if asked.application in ("", application)
    ]
    if asked.only and (unknown := [name for name in only[0].axes if name not in AXES]):
        parser.error(f"no such axis: {', '.join(unknown)} (--axes lists them)")
    with tempfile.TemporaryDirectory(prefix="monai-aws-fuzz-studies-") as folder:
        if asked.only:
            summary = run(asked.seed, len(only), Path(folder), 1, only)
        else:
            summary = run(asked.seed, asked.count, Path(folder), asked.processes)
            asked.summary.parent.mkdir(parents=True, exist_ok=True)
            asked.summary.write_text(summary.to_json(), encoding="utf-8")
    sys.stdout.write(report(summary))
    return 1 if summary.findings else 0


def report(summary: Summary) -> str:
    """The summary for a person."""
    lines = [
        f"seed {summary.seed}: {summary.studies} studies along {summary.axes} axes in {summary.seconds:.0f} s; {summary.answered} answered,"
        f" {summary.refused.total()} refused; {summary.wrong} wrong, {summary.unnamed} unnamed, {summary.leaks} with leaks,"
        f" {summary.unexpected} unexpected"
    ]
    lines += [f"  {count:6d} {code}" for code, count in summary.refused.most_common()]
    for each in summary.findings:
        lines += [f"{each.kind} ({each.application}) {each.axes}: {each.end}: {each.what}", f"    {each.again}"]
        lines += [f"    {line}" for line in each.detail.splitlines()[-4:] if each.kind != "leak"]
    return "\n".join(lines) + "\n"


def _said(each: Axis) -> str:
    sides = [each.right] if each.sdk is None else [each.right, each.sdk]
    return " | sdk: ".join(", ".join([*(["answer"] if side.answer else []), *sorted(side.codes)]) for side in sides)


if __name__ == "__main__":
    sys.exit(main())
