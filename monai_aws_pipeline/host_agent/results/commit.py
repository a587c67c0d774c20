"""Answering a job: outputs first, then the decision and the commit record, each once, then what is derived from them.

Here belongs the order of writes, which is the whole guarantee: a crash at any point leaves either no decision, and the next receipt does
it all again, or a decision from which the rest is written again. docs/architecture.md draws it.

    outputs → jobs/JOB/decisions.json (If-None-Match or If-Match) → result.json (If-None-Match) → index entry → jobs/JOB.json
    → the original moved → the message deleted

An answer and a failure have different keys, and so have the end of a study and that of a whole job. Two hosts that end the same job
differently would not meet at their commit records; they meet at the decisions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from monai_aws_pipeline.contract import (
    ContractError,
    IndexEntry,
    JobDone,
    OutputFile,
    ResultError,
    ResultRecord,
    Status,
    decisions_key,
    job_done_key,
    quarantine_key,
    utc_text,
)
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import REMEDIES, Code, FailedError
from monai_aws_pipeline.host_agent.results.outputs import Produced

log = logging.getLogger(__name__)

DECISIONS_SCHEMA: Final = "monai-aws/decisions/1"
ERROR_SCHEMA: Final = "monai-aws/error/1"
SETTLED: Final = timedelta(days=15)
"""Older than any message that a queue keeps: by then a commit record that is not there was removed, and is not still to be written."""
_DECISION_TRIES: Final = 100
"""Each lost try is a decision that somebody else made, about another study of the job."""


@dataclass(frozen=True)
class Decisions:
    """``jobs/JOB/decisions.json``: how the job ended as a whole, or each study of it so far, with the whole commit records.

    So whoever finds a decision whose host died can write the commit record in its place.
    """

    job: str
    ends: tuple[ResultRecord, ...] = ()

    def end_of(self, study: str) -> ResultRecord | None:
        """The end of a study, be it that of the whole job. An empty study asks for that one alone."""
        return next((record for record in self.ends if record.study in ("", study)), None)

    def to_json(self) -> str:
        """JSON with sorted keys."""
        data = {"schema": DECISIONS_SCHEMA, "job": self.job, "ends": [record.to_data() for record in self.ends]}
        return json.dumps(data, ensure_ascii=True, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Decisions:
        """Parse and check. Raises ContractError."""
        try:
            data = json.loads(text)
            return cls(str(data["job"]), tuple(ResultRecord.from_data(dict(record)) for record in data["ends"]))
        except (ValueError, KeyError, TypeError) as error:
            raise error if isinstance(error, ContractError) else ContractError("decisions have another shape than expected") from error


class StudiesDecidedError(Exception):
    """A job cannot end as a whole any more, because another host has ended a study of it."""


@dataclass(frozen=True)
class Progress:
    """What earlier tries have brought about: the job's marker where all is done, and what is decided."""

    done: JobDone | None
    decisions: Decisions


def read_progress(store: Store, job: str, now: datetime | None = None) -> Progress:
    """How far a job is. For a new one, as nearly all are, it takes one request. One whose answer has expired begins anew."""
    there = {item.key: item for item in store.list(job_done_key(job).removesuffix(".json"))}
    found = [there[key] for key in (job_done_key(job), decisions_key(job)) if key in there]
    settled = bool(found) and (now or datetime.now(UTC)) - max(item.modified for item in found) >= SETTLED
    if settled and _has_expired(store, job):
        return Progress(None, Decisions(job))
    return Progress(
        read_done(store, job) if job_done_key(job) in there else None,
        _read_decisions(store, job)[0] if decisions_key(job) in there else Decisions(job),
    )


def _has_expired(store: Store, job: str) -> bool:
    """Whether a commit record is gone that a marker or decision of long ago names: a rule of the bucket has removed it.

    Then both are emptied, unless another host has begun anew before: what they say would be taken for an answer.
    """
    marker, marker_tag = store.read_tagged(job_done_key(job))
    decisions, decisions_tag = _read_decisions(store, job)
    try:
        done = JobDone.from_json(marker).commits if marker else ()
    except ContractError:
        done = ()
    named = {*done, *(record.commit_key for record in decisions.ends)}
    if not named or all(store.find(key) for key in named):
        return False
    log.info("job %s: its earlier answer has expired; it is answered anew", job)
    if marker_tag:
        store.put_over(job_done_key(job), "", marker_tag)
    if decisions_tag:
        store.put_over(decisions_key(job), Decisions(job).to_json(), decisions_tag)
    return True


def decide(store: Store, record: ResultRecord) -> ResultRecord:
    """Make this the end of its study, or of its whole job, unless one is decided; returns the end that stands.

    Raises StudiesDecidedError, FailedError.
    """
    decisions, etag = Decisions(record.job), ""  # mostly it is the first, so what is there is read only where writing has shown some
    for _ in range(_DECISION_TRIES):
        if store.put_over(decisions_key(record.job), replace(decisions, ends=(*decisions.ends, record)).to_json(), etag):
            return record
        decisions, etag = _read_decisions(store, record.job)
        standing = decisions.end_of(record.study)
        if standing:
            return standing
        if decisions.ends and not record.study:
            raise StudiesDecidedError
    raise FailedError(Code.STORAGE_FAILED, f"The job's decisions were changed by others {_DECISION_TRIES} times in a row.")


def complete_commit(store: Store, decided: ResultRecord) -> ResultRecord:
    """The commit record of a decided end, written here where the host that decided has not done so.

    Then it names the outputs that are there: of what that host's death kept from the bucket nobody has a copy.
    """
    record = _read_record(store, decided.commit_key)
    if record is None:
        there = tuple(item for item in decided.outputs if store.sha256(item.key) == item.sha256)
        record = _write(store, replace(decided, outputs=there))
    return _settled(store, record)


def commit_end(
    store: Store,
    produced: Sequence[Produced],
    key: Callable[[str], str],
    record: Callable[[], ResultRecord],
    counts: Callable[[], None] = lambda: None,
) -> ResultRecord:
    """Upload what was produced, decide, and write the commit record. ``key``: where a file of that name is kept.

    ``record()`` is built after the uploads, so that it can say how long they took. ``counts()`` is called when it is decided: from then on
    that record stands, whoever writes it. A file whose name does not tell its content overwrites
    none before the decision, so that the files of whoever won stay as they are. Returns the record that counts: ours, or the winner's,
    whose files are then the only ones left. Raises StudiesDecidedError, FailedError.
    """
    kept: dict[Produced, OutputFile] = {}
    contested: list[Produced] = []
    plain_first = sorted(produced, key=lambda item: item.named_by_content)
    for item in plain_first:
        where = key(item.name)
        if item.named_by_content:
            store.upload(item.path, where, item.content_type)
        elif not store.upload_once(item.path, where, item.content_type):
            contested.append(item)  # of a try that died, or of a host that is at it now
        kept[item] = OutputFile(where, item.sha256, item.bytes, item.kind, item.held_against)
    ours = replace(record(), outputs=tuple(kept[item] for item in produced))
    decided = decide(store, ours)
    if decided == ours:
        counts()
        for item in contested:
            store.upload(item.path, kept[item].key, item.content_type)
        winner = _write(store, ours)
        if contested or not plain_first or plain_first[0].named_by_content:
            _settled(store, winner)
        else:
            write_index(store, winner)  # an earlier try would have begun with its own such file, so none has left anything
    else:
        log.info("job %s: was ended by another host first; this copy is discarded", ours.job)
        winner = complete_commit(store, decided)
    _discard(store, (item.key for item in kept.values()), winner)
    return winner


def error_json(error: ResultError) -> str:
    """What stands in ``error.json`` beside the commit record: code, cause, remedy."""
    remedy = next((text for code, text in REMEDIES.items() if code == error.code), "")
    data = {"schema": ERROR_SCHEMA, "code": error.code, "cause": error.message.removesuffix(remedy).strip(), "remedy": remedy}
    if error.last_line:
        data["last_line"] = error.last_line
    return json.dumps(data, ensure_ascii=True, indent=2) + "\n"


def write_done(store: Store, job: str, records: Sequence[ResultRecord]) -> None:
    """Write ``jobs/JOB.json``. Whoever wrote it first said the same; a damaged one, or one of an expired answer, is written over."""
    marker = JobDone(job, tuple(dict.fromkeys(record.commit_key for record in records)), utc_text(datetime.now(UTC)))
    if not store.put_once(job_done_key(job), marker.to_json()) and read_done(store, job) is None:
        store.put(job_done_key(job), marker.to_json())


def read_done(store: Store, job: str) -> JobDone | None:
    """The marker of a job that has been answered completely, None otherwise. A damaged marker counts as none."""
    text = store.read(job_done_key(job))
    try:
        return JobDone.from_json(text) if text else None
    except ContractError:
        log.warning("job %s: its marker is damaged and is written again", job)
        return None


def repair_index(store: Store, done: JobDone) -> list[ResultRecord]:
    """Write index entries that are missing; they follow from the commit records, so it is the same entry whoever writes it."""
    records = [record for key in done.commits if (record := _read_record(store, key))]
    for record in records:
        write_index(store, record)
    return records


def write_index(store: Store, record: ResultRecord) -> None:
    """Write the sensor's entry of a commit, once."""
    store.put_once(record.index_key, IndexEntry.of(record).to_json())


def _write(store: Store, record: ResultRecord) -> ResultRecord:
    """Write the commit record of a decided end; returns the one that stands, which may be another host's of the same end."""
    if record.error:
        store.put(quarantine_key(record.job, "error.json", record.study), error_json(record.error))
    if not store.put_once(record.commit_key, record.to_json()):
        winner = _read_record(store, record.commit_key)
        if winner is None:
            raise ContractError("a commit record exists that cannot be read")
        return winner
    return record


def _settled(store: Store, record: ResultRecord) -> ResultRecord:
    """After a commit: its index entry, and beside an answer nothing that a try which died has left."""
    write_index(store, record)
    if record.status is Status.SUCCEEDED:
        _discard(store, [item.key for item in store.list(record.commit_key.removesuffix("result.json"))], record)
    return record


def _discard(store: Store, keys: Iterable[str], winner: ResultRecord) -> None:
    """Remove what the record that counts does not name."""
    named = {winner.commit_key, *(item.key for item in winner.outputs)}
    for key in keys:
        if key not in named:
            store.delete(key)


def _read_decisions(store: Store, job: str) -> tuple[Decisions, str]:
    text, etag = store.read_tagged(decisions_key(job))
    return (Decisions.from_json(text) if etag else Decisions(job)), etag


def _read_record(store: Store, key: str) -> ResultRecord | None:
    text = store.read(key)
    return ResultRecord.from_json(text) if text else None
