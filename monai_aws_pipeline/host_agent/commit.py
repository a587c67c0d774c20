"""Answering a job: outputs first, the commit record last and once, then what is derived from it.

Here belongs the order of writes, which is the whole guarantee: a crash at any point leaves either no commit, and the next receipt does
it all again, or a commit from which the rest is written again. docs/architecture.md draws it.

    outputs → result.json (If-None-Match) → index entry → jobs/JOB.json → the original moved → the message deleted
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from monai_aws_pipeline.contract import (
    ContractError,
    IndexEntry,
    OutputFile,
    ResultRecord,
    commit_keys,
    job_done_key,
    output_key,
    quarantine_key,
    utc_text,
)
from monai_aws_pipeline.host_agent.errors import JobError
from monai_aws_pipeline.host_agent.outputs import Produced
from monai_aws_pipeline.host_agent.store import Store

log = logging.getLogger(__name__)

DONE_SCHEMA: Final = "monai-aws/job-done/1"
ERROR_SCHEMA: Final = "monai-aws/error/1"


@dataclass(frozen=True)
class JobDone:
    """``jobs/JOB.json``: every study of the job has committed, under these keys."""

    job: str
    commits: tuple[str, ...]
    completed_at: str

    def to_json(self) -> str:
        """JSON with sorted keys."""
        data = {"schema": DONE_SCHEMA, "job": self.job, "commits": list(self.commits), "completed_at": self.completed_at}
        return json.dumps(data, ensure_ascii=True, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobDone:
        """Parse a marker. Raises ContractError."""
        try:
            data = json.loads(text)
            return cls(str(data["job"]), tuple(str(key) for key in data["commits"]), str(data["completed_at"]))
        except (ValueError, KeyError, TypeError) as wrong:
            raise ContractError("job marker has another shape than expected") from wrong


def find_commit(store: Store, job: str, study: str) -> ResultRecord | None:
    """The commit of a study of a job, whichever way it ended. An empty study asks for a job refused before its study was known."""
    for key in commit_keys(study, job):
        record = _read_record(store, key)
        if record and record.study in ("", study):
            return record
    return None


def commit_success(store: Store, job: str, study: str, produced: Sequence[Produced], record: Callable[[], ResultRecord]) -> ResultRecord:
    """Upload outputs, then commit ``record()``, which is built after the uploads so that it can say how long they took.

    Returns the record that counts: ours, or the winner's, whose files are then the only ones left.
    """
    uploaded = []
    for item in produced:
        key = output_key(study, job, item.name)
        store.upload(item.path, key, item.content_type)
        uploaded.append(OutputFile(key, item.sha256, item.bytes, item.kind))
    winner = _commit(store, replace(record(), outputs=tuple(uploaded)))
    _remove_strays(store, winner)
    return winner


def commit_refusal(store: Store, record: ResultRecord, error: JobError, produced: Sequence[Produced] = ()) -> ResultRecord:
    """Commit a job that was refused or failed for good: log and error.json first, the record last. The original is moved afterwards."""
    kept = []
    for item in produced:
        key = quarantine_key(record.job, item.name, record.study)
        store.upload(item.path, key, item.content_type)
        kept.append(OutputFile(key, item.sha256, item.bytes, item.kind))
    store.put(quarantine_key(record.job, "error.json", record.study), error_json(error))
    return _commit(store, replace(record, outputs=tuple(kept)))


def error_json(error: JobError) -> str:
    """What stands in ``error.json`` beside the commit record: code, cause, remedy."""
    data = {"schema": ERROR_SCHEMA, "code": str(error.code), "cause": error.cause, "remedy": error.remedy}
    return json.dumps(data, ensure_ascii=True, indent=2) + "\n"


def write_done(store: Store, job: str, records: Sequence[ResultRecord]) -> None:
    """Write ``jobs/JOB.json``. Whoever wrote it first said the same."""
    marker = JobDone(job, tuple(record.commit_key for record in records), utc_text(datetime.now(UTC)))
    store.put_once(job_done_key(job), marker.to_json())


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


def _commit(store: Store, record: ResultRecord) -> ResultRecord:
    if store.put_once(record.commit_key, record.to_json()):
        write_index(store, record)
        return record
    winner = _read_record(store, record.commit_key)
    if winner is None:
        raise ContractError("a commit record exists that cannot be read")
    log.info("job %s: was answered by another host first; this copy is discarded", record.job)
    for item in record.outputs:
        if item.key not in {kept.key for kept in winner.outputs}:
            store.delete(item.key)
    write_index(store, winner)
    return winner


def _remove_strays(store: Store, record: ResultRecord) -> None:
    """Remove what an attempt that died left beside the commit."""
    mine = {record.commit_key, *(item.key for item in record.outputs)}
    for item in store.list(record.commit_key.removesuffix("result.json")):
        if item.key not in mine:
            store.delete(item.key)


def _read_record(store: Store, key: str) -> ResultRecord | None:
    text = store.read(key)
    return ResultRecord.from_json(text) if text else None
