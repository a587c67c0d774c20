"""One job from its message to its answer: a pipeline of small steps over frozen values.

    take → fetch → group into studies → (for each study) infer → publish → commit → keep the original → mark done → delete the message

Here belongs the order of the steps and what each kind of failure means for the message. Each step knows only what it is handed, so that
fetching the next study and publishing the last one can overlap with an inference. I/O lives in Store, JobsQueue, Engine and LiveMap.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from monai_aws_pipeline.contract import (
    ContractError,
    Cost,
    HostFacts,
    InputFacts,
    JobMessage,
    MapFacts,
    Resources,
    ResultError,
    ResultRecord,
    Status,
    Timings,
    parse_utc,
    sha256_text,
    study_id,
    utc_text,
)
from monai_aws_pipeline.host_agent import commit, originals, outputs, preview
from monai_aws_pipeline.host_agent.config import AgentConfig
from monai_aws_pipeline.host_agent.dicom import Study, identifier_filter, read_studies
from monai_aws_pipeline.host_agent.engine import Engine, RunEnd
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError, JobError, RefusedError
from monai_aws_pipeline.host_agent.hosting import Hosting
from monai_aws_pipeline.host_agent.intake import IntakeLimits, with_free_space
from monai_aws_pipeline.host_agent.jobs_queue import Delivery, Heartbeat, JobsQueue
from monai_aws_pipeline.host_agent.live_map import LiveMap, ReadyMap
from monai_aws_pipeline.host_agent.outputs import Produced
from monai_aws_pipeline.host_agent.store import Store
from monai_aws_pipeline.maps.hosting import CONTAINER_LABEL, Limits, effective_timeout

log = logging.getLogger(__name__)

HOST_CODES: Final = frozenset({Code.NO_LIVE_MAP, Code.PULL_FAILED, Code.ENGINE_FAILED, Code.STORAGE_FAILED, Code.DISK_FULL})


class WorkFolderError(Exception):
    """A job's folder could not be wiped. The agent ends: the next study must not meet the remains of this one."""


@dataclass(frozen=True)
class Surroundings:
    """Everything a job needs beside its message. ``secret`` makes study pseudonyms; ``work`` holds one folder for the job in hand."""

    config: AgentConfig
    store: Store
    queue: JobsQueue
    engine: Engine
    hosting: Hosting
    live_map: LiveMap
    secret: bytes
    host: HostFacts
    work: Path
    stop: threading.Event
    limits: IntakeLimits = field(default_factory=IntakeLimits)


@dataclass(frozen=True)
class Taken:
    """A job in hand: its message, its receipt, when it was taken (clock and monotonic seconds) and its fresh folder."""

    message: JobMessage
    delivery: Delivery
    folder: Path
    at: datetime
    started: float
    boot_seconds: float

    @property
    def queued_seconds(self) -> float:
        """Seconds from the upload's event to the start of this try; never negative, because two clocks are compared."""
        return max(0.0, (self.at - parse_utc(self.message.enqueued_at)).total_seconds())


@dataclass(frozen=True)
class Fetched:
    """The studies of an upload on disk. ``bytes`` downloaded, ``seconds`` of download and unpacking."""

    studies: tuple[Study, ...]
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Inferred:
    """What the MAP wrote for one study and how its run ended."""

    end: RunEnd
    produced: tuple[Produced, ...]


class Outcome(StrEnum):
    """What became of a message."""

    ANSWERED = "answered"
    REPEATED = "repeated"
    GIVEN_BACK = "given back"
    INTERRUPTED = "interrupted"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Ended:
    """The end of one receipt. ``retry_in``: seconds until the message shows up again, 0 where it does not."""

    outcome: Outcome
    retry_in: int = 0


# --------------------------------------------------------------------------------------------------------------------- one receipt


def handle(around: Surroundings, delivery: Delivery, boot_seconds: float = 0.0) -> Ended:
    """Work on one receipt to its end and settle its message. Raises nothing but WorkFolderError and the queue's own errors."""
    try:
        message = read_message(delivery.body, around.config.bucket)
    except ContractError as wrong:
        log.warning("a message cannot be read (%s); it goes to the dead-letter queue", wrong)
        around.queue.give_back(delivery, 0)
        return Ended(Outcome.UNREADABLE)
    with Heartbeat(around.queue, delivery):
        ended = _work(around, message, delivery, boot_seconds)
    if ended.outcome in (Outcome.ANSWERED, Outcome.REPEATED):
        around.queue.done(delivery)
    elif ended.outcome is Outcome.INTERRUPTED:
        around.queue.hand_over(delivery)
    else:
        around.queue.give_back(delivery, ended.retry_in)
    log.info("job %s: %s", message.job, ended.outcome)
    return ended


def _work(around: Surroundings, message: JobMessage, delivery: Delivery, boot_seconds: float) -> Ended:
    try:
        if _was_answered(around, message):
            return Ended(Outcome.REPEATED)
        with fresh_folder(around.work / message.job) as folder:
            taken = Taken(message, delivery, folder, datetime.now(UTC), time.monotonic(), boot_seconds)
            answer(around, taken)
        return Ended(Outcome.ANSWERED)
    except InterruptedJobError:
        return Ended(Outcome.INTERRUPTED)
    except WorkFolderError:
        raise
    except Exception as wrong:  # whatever happens, this message comes back and the next study is unaffected
        error = as_job_error(wrong)
        retry = retry_seconds(error.code, delivery.receives)
        log.warning("job %s: try %d failed (%s: %s); again in %d s", message.job, delivery.receives, error.code, error.cause, retry)
        return Ended(Outcome.GIVEN_BACK, retry)


def _was_answered(around: Surroundings, message: JobMessage) -> bool:
    """Whether the job is done already; what a crash left undone after that is completed here."""
    done = commit.read_done(around.store, message.job)
    if done is None:
        return False
    records = commit.repair_index(around.store, done)
    kind = _kind_or_zip(message)
    if kind is not originals.Kind.RERUN and all(around.store.find(key) for key in originals.kept_keys(message, kind, records)):
        originals.remove(around.store, message, kind)
    return True


def answer(around: Surroundings, taken: Taken) -> tuple[ResultRecord, ...]:
    """Answer a job completely: every study committed, the original kept, the job marked done, ``input/`` cleared.

    Raises FailedError when a study failed and the queue will deliver the job again; InterruptedJobError when the host is stopping.
    """
    message = taken.message
    try:
        source = originals.source_of(message)
        log.info("job %s: taken (try %d, %s, %d bytes)", message.job, taken.delivery.receives, source.kind, message.size)
        records = _answer_studies(around, taken, source)
    except RefusedError as error:
        records = (_commit_end(around, taken, error, Status.QUARANTINED),)
    except FailedError as error:
        if not taken.delivery.last:
            raise
        records = (_commit_end(around, taken, error, Status.FAILED),)
    kind = _kind_or_zip(message)
    originals.keep(around.store, message, kind, records, taken.folder / "upload.zip")
    commit.write_done(around.store, message.job, records)
    originals.remove(around.store, message, kind)
    return records


def _answer_studies(around: Surroundings, taken: Taken, source: originals.Source) -> tuple[ResultRecord, ...]:
    fetched = fetch(around, taken, source)
    shared = Timings(queued=taken.queued_seconds, boot=taken.boot_seconds, download=fetched.seconds)
    since = taken.started
    records: list[ResultRecord] = []
    failures: list[FailedError] = []
    for number, study in enumerate(fetched.studies):
        pseudonym = study_id(around.secret, study.uid)
        known = commit.find_commit(around.store, taken.message.job, pseudonym)
        if known:
            commit.write_index(around.store, known)  # committed by a try that ended before it could say so
            records.append(known)
            continue
        one = OneStudy(study, pseudonym, taken.folder / f"study-{number}", input_facts(taken.message, study), shared, since)
        try:
            records.append(_answer_study(around, taken, one))
        except RefusedError as error:
            records.append(_commit_end(around, taken, error, Status.QUARANTINED, one))
        except FailedError as error:
            if taken.delivery.last:
                records.append(_commit_end(around, taken, error, Status.FAILED, one))
            else:
                failures.append(error)
        # Boot and download are counted once, with the first study; later ones begin where the last one ended.
        since, shared = time.monotonic(), Timings(queued=taken.queued_seconds)
    if failures:
        raise failures[0]
    return tuple(records)


# ----------------------------------------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True)
class OneStudy:
    """One study of a job in hand: its pseudonym, folder, facts, and the timings that were spent before it. ``since``: monotonic seconds."""

    study: Study
    pseudonym: str
    folder: Path
    facts: InputFacts
    timings: Timings
    since: float


def fetch(around: Surroundings, taken: Taken, source: originals.Source) -> Fetched:
    """Download, unpack, group. Raises RefusedError for anything that is no study, FailedError for a bucket or disk that fails."""
    started = time.monotonic()
    limits = with_free_space(around.limits, shutil.disk_usage(taken.folder).free)
    files, size = originals.fetch(around.store, taken.message, source.kind, taken.folder, limits)
    studies = read_studies(files)
    if source.only_study:
        studies = tuple(study for study in studies if study_id(around.secret, study.uid) == source.only_study)
        if not studies:
            raise RefusedError(Code.BAD_REQUEST, "The original does not hold the study that the re-run names.")
    return Fetched(studies, size, time.monotonic() - started)


def infer(around: Surroundings, ready: ReadyMap, study: Study, folder: Path) -> Inferred:
    """Run the MAP on one study of a job. As ``run_study``."""
    return run_study(around.hosting, around.config.limits, around.stop, ready, study, folder)


def run_study(hosting: Hosting, limits: Limits, stop: threading.Event, ready: ReadyMap, study: Study, folder: Path) -> Inferred:
    """Run the MAP on one study in fresh folders; its log lies in ``folder/map.log`` afterwards, however it ended. Raises JobError."""
    limits = replace(limits, labels=((CONTAINER_LABEL, folder.parent.name),))
    without_identifiers = identifier_filter(study)
    source, target = _study_folders(study, folder, limits)
    name = f"monai-aws-{folder.parent.name[:12]}-{folder.name}"
    timeout = effective_timeout(ready.spec, limits)
    end = hosting.run(ready, source, target, limits, name=name, stop=stop)
    (folder / "map.log").write_text("\n".join(without_identifiers(end.log_tail)) + "\n", encoding="utf-8")
    log.info("job %s: the MAP ended with %d after %.1f s", folder.parent.name, end.exit_code, end.seconds)
    try:
        judge_end(end, timeout, limits.memory_mib)
        return Inferred(end, outputs.collect(target, study.uid))
    except FailedError as error:
        error.run_seconds, error.run_peak_bytes = end.seconds, end.peak_bytes
        raise


def judge_end(end: RunEnd, timeout_s: int, memory_mib: int) -> None:
    """The application's own exit code decides. Raises FailedError."""
    if end.timed_out:
        raise FailedError(Code.MAP_TIMEOUT, f"The application did not end within {timeout_s} s.")
    if end.out_of_memory:
        raise FailedError(Code.MAP_OUT_OF_MEMORY, f"The application needed more than {memory_mib} MiB.")
    if end.exit_code:
        raise FailedError(Code.MAP_FAILED, f"The application ended with exit code {end.exit_code}.")


def _answer_study(around: Surroundings, taken: Taken, one: OneStudy) -> ResultRecord:
    one.folder.mkdir()
    ready = around.live_map.ready(taken.message.request, around.stop)
    inferred = infer(around, ready, one.study, one.folder)
    published = time.monotonic()
    placed = [replace(item, path=one.folder / "input" / item.path.name) for item in one.study.instances]
    extra = preview.describe(inferred.produced, placed, one.folder)
    kinds = {"preview.png": outputs.PREVIEW, "measurements.json": outputs.MEASUREMENTS, "map.log": outputs.LOG}
    produced = (*inferred.produced, *(outputs.made_here(path, kinds[path.name]) for path in (*extra, one.folder / "map.log")))
    earlier = commit.find_commit(around.store, taken.message.job, one.pseudonym)
    if earlier:  # answered elsewhere while the MAP ran here: nothing of this copy is uploaded
        commit.write_index(around.store, earlier)
        return earlier
    spent = Timings(
        queued=one.timings.queued, boot=one.timings.boot, download=one.timings.download, pull=ready.seconds, inference=inferred.end.seconds
    )

    def record() -> ResultRecord:
        now = time.monotonic()
        timings = completed(spent, now - published, now - one.since)
        return ResultRecord(
            job=taken.message.job, study=one.pseudonym, status=Status.SUCCEEDED, committed_at=utc_text(datetime.now(UTC)), input=one.facts,
            map=ready.facts, host=around.host, timings=timings,
            resources=Resources(inferred.end.peak_bytes, inferred.end.peak_gpu_bytes, inferred.end.cpu_seconds, inferred.end.hosting),
            cost=cost_of(timings, around.config, around.host), request=taken.message.request,
        )  # fmt: skip

    return commit.commit_success(around.store, taken.message.job, one.pseudonym, produced, record)


def _commit_end(around: Surroundings, taken: Taken, error: JobError, status: Status, one: OneStudy | None = None) -> ResultRecord:
    """Commit a job that was refused or failed for good, unless it was answered meanwhile."""
    message = taken.message
    study = one.pseudonym if one else _study_of_rerun(message)
    earlier = commit.find_commit(around.store, message.job, study)
    if earlier:
        commit.write_index(around.store, earlier)
        return earlier
    log.warning("job %s: %s (%s: %s)", message.job, status, error.code, error.cause)
    logs = [path] if one and (path := one.folder / "map.log").is_file() else []
    before = one.timings if one else Timings(queued=taken.queued_seconds, boot=taken.boot_seconds)
    before = replace(before, inference=error.run_seconds)
    timings = completed(before, 0.0, time.monotonic() - (one.since if one else taken.started))
    record = ResultRecord(
        job=message.job, study=study, status=status, committed_at=utc_text(datetime.now(UTC)),
        input=one.facts if one else input_facts(message, None), map=_map_facts(around, message, one), host=around.host, timings=timings,
        resources=Resources(error.run_peak_bytes), cost=cost_of(timings, around.config, around.host),
        error=ResultError(str(error.code), error.message), request=message.request,
    )  # fmt: skip
    return commit.commit_refusal(around.store, record, error, [outputs.made_here(path, outputs.LOG) for path in logs])


def _map_facts(around: Surroundings, message: JobMessage, one: OneStudy | None) -> MapFacts:
    if one is None:
        return MapFacts()
    try:
        return around.live_map.ready(message.request, around.stop).facts
    except JobError:
        return MapFacts()  # there was no MAP to run, which is then the very error that is committed


# ------------------------------------------------------------------------------------------------------------------- pure decisions


def read_message(body: str, bucket: str) -> JobMessage:
    """The job of a message. Raises ContractError; another deployment's bucket is none of this host's business."""
    message = JobMessage.from_json(body)
    if message.bucket != bucket:
        raise ContractError("job message names another bucket than this deployment's")
    return message


def input_facts(message: JobMessage, study: Study | None) -> InputFacts:
    """What a record says about the upload: the key's hash, never the key."""
    return InputFacts(
        key_sha256=sha256_text(message.key),
        etag=message.etag,
        bytes=message.size,
        instances=len(study.instances) if study else 0,
        modalities=study.modalities if study else (),
        series=study.series if study else 0,
    )


def completed(spent: Timings, upload: float, busy: float) -> Timings:
    """Timings with upload and total; total runs from the upload's event to the commit: queued + busy. Rounded to milliseconds."""
    values = {**vars(spent), "upload": upload, "total": spent.queued + busy}
    return Timings(**{name: round(value, 3) for name, value in values.items()})


def cost_of(timings: Timings, config: AgentConfig, host: HostFacts) -> Cost:
    """What the seconds of this study cost: price of an hour times busy seconds, boot included; idle time is no study's own."""
    busy = timings.total - timings.queued + timings.boot
    basis = f"{config.usd_per_hour:.4f} USD/h x {busy:.1f} s busy on {host.type or 'this host'}"
    return Cost(round(config.usd_per_hour * busy / 3600, 6), f"{basis} ({config.price_basis})" if config.price_basis else basis)


def retry_seconds(code: Code, receives: int) -> int:
    """Seconds until a failed job is tried again: longer where this host or its surroundings failed and need time."""
    return (30 if code in HOST_CODES else 5) * receives


def as_job_error(wrong: Exception) -> JobError:
    """Any exception as one with a code. The text of a foreign exception is left out, because it may quote a key or a DICOM value."""
    if isinstance(wrong, JobError):
        return wrong
    if isinstance(wrong, OSError) and wrong.errno == 28:
        return FailedError(Code.DISK_FULL, "The host's disk is full.")
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(traceback.extract_tb(wrong.__traceback__)[-4:]))
    return FailedError(Code.INTERNAL, f"Unexpected {wrong.__class__.__name__} at {places}.")


def _study_of_rerun(message: JobMessage) -> str:
    """The pseudonym that a re-run's key names, known before anything is read; empty for an upload."""
    try:
        return originals.source_of(message).only_study
    except RefusedError:
        return ""


def _kind_or_zip(message: JobMessage) -> originals.Kind:
    try:
        return originals.source_of(message).kind
    except RefusedError:
        return originals.Kind.RERUN if message.request else originals.Kind.ZIP  # one object, kept and removed like a zip


# --------------------------------------------------------------------------------------------------------------------------- folders


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards. Raises WorkFolderError when it could not be removed."""
    wipe(path)
    path.mkdir(parents=True, mode=0o700)
    try:
        yield path
    finally:
        wipe(path)


def wipe(path: Path) -> None:
    """Remove a folder and verify that it is gone. Raises WorkFolderError."""
    if path.exists():
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        raise WorkFolderError("a job's folder could not be removed")


def _study_folders(study: Study, folder: Path, limits: Limits) -> tuple[Path, Path]:
    """The study's files moved into a folder that the MAP's user may read, and an empty one it may write."""
    source, target = folder / "input", folder / "output"
    source.mkdir(mode=0o755)
    source.chmod(0o755)
    target.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(target, limits.uid, limits.gid)
    for instance in study.instances:
        instance.path.rename(source / instance.path.name).chmod(0o644)
    return source, target
