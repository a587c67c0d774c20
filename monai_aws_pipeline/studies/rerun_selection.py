"""Which studies a person means who asks for studies to be answered again. Pure: from ends that ``study_history`` has read to studies.

Each mode takes its ends lazily and stops as soon as there are more than may be asked for, so that a refusal costs little too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from dagster import Config
from pydantic import Field

from monai_aws_pipeline.contract import DIGEST_PATTERN, is_study
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.studies.study_history import Ended

_ENDS_IN_DIGEST: Final = re.compile(f"{DIGEST_PATTERN}$")


class SelectionError(NamedError):
    """What was asked for names no studies, or more than were confirmed."""


class These(Config):
    """These studies."""

    kind: Literal["these"] = "these"
    studies: list[str] = Field(description="Names of partitions of inference_result, 16 hex digits each.", examples=[["0123456789abcdef"]])


@dataclass(frozen=True)
class Selection:
    """The studies that are meant, and a line about what was passed over."""

    studies: tuple[str, ...]
    note: str = ""


def these(named: Iterable[str]) -> Selection:
    """Studies by name, each once. Raises SelectionError for what is no study's name."""
    studies = tuple(dict.fromkeys(name.strip() for name in named))
    wrong = [name for name in studies if not is_study(name)]
    if wrong:  # not quoted: somebody may have put a patient's name
        raise SelectionError(
            f"{len(wrong)} of {len(studies)} names are no studies.",
            "A study is named by the 16 hex digits of its partition of inference_result.",
        )
    return Selection(studies)


def newest_failures(failures: Iterable[Ended], since: datetime) -> tuple[dict[str, Ended], int]:
    """The newest failure of each study since then, and how many ended before their study was known. ``failures``: newest first."""
    newest: dict[str, Ended] = {}
    unknown = 0
    for end in failures:
        if end.at < since:
            continue
        if end.study:
            newest.setdefault(end.study, end)
        else:
            unknown += 1
    return newest, unknown


def still_failed(newest: Mapping[str, Ended], unknown: int, answered: Mapping[str, int], code: str) -> Selection:
    """Those studies whose last end is a failure, of that code where one is named.

    Args:
        newest: The newest failure of each study.
        unknown: Failures of uploads whose study is not known.
        answered: Where in the event log the latest answer of a study is.
        code: The code that is meant; empty for every one.
    """
    failed = {study: end for study, end in newest.items() if answered.get(study, -1) < end.recorded}
    meant = sorted((end.at, study) for study, end in failed.items() if code in ("", end.code))
    others = Counter(end.code or end.status.value for end in failed.values() if code not in ("", end.code))
    notes = [
        f"{len(newest) - len(failed)} studies that failed were answered since" if len(failed) < len(newest) else "",
        "with another code: " + ", ".join(f"{count} {name}" for name, count in others.most_common()) if others else "",
        f"{unknown} uploads ended before their study was known; upload them again" if unknown else "",
    ]
    return Selection(tuple(study for _, study in meant), "; ".join(filter(None, notes)))


def answered_by(answers: Iterable[Ended], digest: str) -> Iterator[str]:
    """Studies whose latest answer is that MAP's."""
    return (end.study for end in answers if end.study and end.digest == digest)


def stale(answers: Iterable[Ended], live: str) -> Iterator[str]:
    """Studies whose latest answer is another MAP's than the live one's."""
    return (end.study for end in answers if end.study and end.digest != live)


def whole_digest(text: str) -> str:
    """The digest that a text is or ends with, empty for anything else: a MAP that has left the registry is still named by its own."""
    found = _ENDS_IN_DIGEST.search(text.strip())
    return found[0] if found else ""


def first_of(studies: Iterable[str], at_most: int) -> Selection:
    """As many as may be asked for and one more, by which it is seen that there are more; no more are looked for."""
    found: list[str] = []
    for study in studies:
        found.append(study)
        if len(found) > at_most:
            break
    return Selection(tuple(found))


def require_bounded(selection: Selection, at_most: int) -> None:
    """Raises SelectionError where more studies are meant than may be asked for."""
    if len(selection.studies) > at_most:
        raise SelectionError(
            f"More than {at_most} studies are meant. Nothing was asked.",
            "Look at them with dry_run: true, then set at_most to as many as you mean, or name fewer.",
        )
