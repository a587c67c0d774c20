"""Studies without an answer, as rows that a person reads: what failed, why, and what to do. Pure; no Dagster, no S3.

Here belongs which failures stand and how one is worded. The lineage's table ``unanswered_studies`` and ``monai-aws failures`` share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from monai_aws_pipeline.contract import ResultRecord, Status, parse_utc, short_digest
from monai_aws_pipeline.host_agent.errors import REMEDIES

UNKNOWN: Final = "unknown"
"""The code of a failure whose record does not say why."""
MAX_TEXT: Final = 400
"""Longest cause, remedy and last line in characters; the record has all of it."""

_REMEDIES: Final = {code.value: text for code, text in REMEDIES.items()}


@dataclass(frozen=True)
class UnansweredRow:
    """The latest failure of a study, or of an upload whose study is unknown (``study`` empty).

    ``at``: when it was committed, ISO 8601 UTC. ``map_digest`` is whole, and empty where the upload was refused before a MAP was chosen.
    ``last_line``: what the application said last, redacted by the host. ``record``: key of the commit record in the bucket.
    """

    at: str
    study: str
    job: str
    map_version: str
    map_digest: str
    code: str
    cause: str
    last_line: str
    remedy: str
    record: str

    @property
    def subject(self) -> str:
        """What is unanswered: the study, or the job where no study is known."""
        return self.study or self.job

    @property
    def map_name(self) -> str:
        """The MAP as a person tells it from others: its version and the digest's first 12 digits."""
        return " ".join(part for part in (self.map_version, short_digest(self.map_digest)) if part)


def row_of(record: ResultRecord) -> UnansweredRow:
    """The row of a refused or failed record."""
    error = record.error
    return row_of_parts(
        at=record.committed_at,
        study=record.study,
        job=record.job,
        map_version=record.map.app_version,
        map_digest=record.map.digest,
        code=error.code if error else UNKNOWN,
        message=error.message if error else "",
        last_line=error.last_line if error else "",
        record=record.commit_key,
    )


def row_of_parts(
    *, at: str, study: str, job: str, map_version: str, map_digest: str, code: str, message: str, last_line: str, record: str
) -> UnansweredRow:
    """The row of a failure that is known by its parts; ``message`` has cause and remedy."""
    unsaid = "The record does not say why.", "Read the record and its log: monai-aws get JOB."
    cause, remedy = split_message(code, message) if message else unsaid
    return UnansweredRow(at, study, job, map_version, map_digest, code, _clipped(cause), _clipped(last_line), _clipped(remedy), record)


def rows_of(records: Iterable[ResultRecord]) -> tuple[UnansweredRow, ...]:
    """The failures that stand, newest first, one a study: those whose study none of the records answers at the same time or later.

    Hand in answered records too; an upload whose study is unknown stands until its own job is answered.
    """
    answered: dict[str, str] = {}
    failures: dict[str, UnansweredRow] = {}
    for record in records:
        if record.status is Status.SUCCEEDED:
            for subject in (record.study, record.job):
                answered[subject] = max(answered.get(subject, ""), record.committed_at, key=_moment)
        else:
            row = row_of(record)
            failures[row.subject] = max(failures.get(row.subject, row), row, key=_order)
    standing = [row for row in failures.values() if _moment(answered.get(row.subject, "")) < _moment(row.at)]
    return tuple(sorted(standing, key=_order, reverse=True))


def counts_by_code(rows: Iterable[UnansweredRow]) -> dict[str, int]:
    """How many rows each code has, the most frequent first."""
    return dict(sorted(Counter(row.code for row in rows).items(), key=lambda item: (-item[1], item[0])))


def split_message(code: str, message: str) -> tuple[str, str]:
    """Cause and remedy of a record's message. Another release may have worded the remedy otherwise: then the cause holds all of it."""
    remedy = _REMEDIES.get(code, "")
    if remedy and message.endswith(remedy):
        return message.removesuffix(remedy).strip(), remedy
    return message, remedy


def _order(row: UnansweredRow) -> tuple[float, str]:
    return _moment(row.at), row.job


def _moment(at: str) -> float:
    return parse_utc(at).timestamp() if at else float("-inf")


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
