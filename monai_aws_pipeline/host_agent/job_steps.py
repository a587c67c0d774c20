"""The steps of one job, over frozen values.

    prepare (fetch, check, group into studies) → for each study: attempt (the MAP runs), publish (judge, upload, commit) → finish

Here belongs what each step does and what each kind of failure means. Each step knows only what it is handed; on which thread it runs, and
that the steps of several jobs overlap, is decided in ``pipeline.py``. I/O lives in Store, JobsQueue, Engine and LiveMap.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from monai_aws_pipeline.contract import (
    ContractError,
    Cost,
    HostFacts,
    InputFacts,
    JobDone,
    JobMessage,
    MapFacts,
    Measurements,
    Resources,
    ResultError,
    ResultRecord,
    Status,
    Timings,
    output_key,
    parse_utc,
    processed_key,
    quarantine_key,
    sha256_text,
    study_id,
    utc_text,
)
from monai_aws_pipeline.contract.outputs import LOG, MEASUREMENTS, PREVIEW
from monai_aws_pipeline.host_agent import archiving
from monai_aws_pipeline.host_agent.archiving import Archiver
from monai_aws_pipeline.host_agent.at_once import AtOnce, one_at_a_time
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.aws.job_queue import Delivery, JobsQueue
from monai_aws_pipeline.host_agent.config import AgentConfig
from monai_aws_pipeline.host_agent.cost_ledger import Bill, Seconds
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError, JobError, RefusedError
from monai_aws_pipeline.host_agent.intake import originals, repairs
from monai_aws_pipeline.host_agent.intake.dicom import Instance, Study, read_studies
from monai_aws_pipeline.host_agent.intake.map_requirements import Given, MapRequirements
from monai_aws_pipeline.host_agent.intake.pixel_types import undecodable
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits, with_free_space
from monai_aws_pipeline.host_agent.job_status import Board, Phase
from monai_aws_pipeline.host_agent.log_redaction.application_log import last_meaningful_line
from monai_aws_pipeline.host_agent.log_redaction.identifiers import IdentifierFilter
from monai_aws_pipeline.host_agent.results import commit, outputs, preview
from monai_aws_pipeline.host_agent.results.outputs import Produced
from monai_aws_pipeline.host_agent.results.segmentation import Source, read_source
from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import Hosting, OnExit, nothing
from monai_aws_pipeline.host_agent.runtime.live_map import LiveMap, ReadyMap
from monai_aws_pipeline.host_agent.stopping import Stop
from monai_aws_pipeline.maps.spec.run import CONTAINER_LABEL, Limits, effective_timeout

log = logging.getLogger(__name__)

PREFETCH_MARGIN: Final = 4 << 30
_SIGNALS: Final = 128
"""Exit codes above it are those of a process that a signal has ended."""
_MACHINES_FAULT: Final = re.compile(
    r"CUDA (?:driver )?error|CUDA out of memory|cudaError|cuda runtime error|CUDNN_STATUS|NVML|No space left on device"
    r"|Cannot allocate memory|can't start new thread|Resource temporarily unavailable|Bus error|MemoryError",
    re.IGNORECASE,
)
HOST_CODES: Final = frozenset({Code.NO_LIVE_MAP, Code.PULL_FAILED, Code.ENGINE_FAILED, Code.STORAGE_FAILED, Code.DISK_FULL})


@dataclass(frozen=True)
class HostContext:
    """Everything a job needs beside its message. ``secret`` makes study pseudonyms; ``work`` holds one folder for the job in hand.

    ``stop``: end now. ``leave``: begin nothing new and end what runs, because AWS takes the machine back.
    """

    config: AgentConfig
    store: Store
    queue: JobsQueue
    engine: Engine
    hosting: Hosting
    live_map: LiveMap
    secret: bytes
    host: HostFacts
    work: Path
    stop: Stop
    limits: IntakeLimits = field(default_factory=IntakeLimits)
    bill: Bill = field(default_factory=Bill)
    leave: threading.Event = field(default_factory=threading.Event)
    board: Board = field(default_factory=Board)
    archiver: Archiver | None = None
    at_once: AtOnce = field(default_factory=one_at_a_time)


@dataclass(frozen=True)
class ReceivedJob:
    """A job in hand: its message, its receipt, its fresh folder, and when it was taken (clock and monotonic seconds)."""

    message: JobMessage
    delivery: Delivery
    folder: Path
    at: datetime
    started: float

    @property
    def queued_seconds(self) -> float:
        """Seconds from the upload's event to the start of this try; never negative, because two clocks are compared."""
        return max(0.0, (self.at - parse_utc(self.message.enqueued_at)).total_seconds())


@dataclass(frozen=True)
class Fetched:
    """The studies of an upload on disk. ``bytes`` downloaded, ``seconds`` of download and unpacking; what of it is no DICOM, by kind."""

    studies: tuple[Study, ...]
    bytes: int
    seconds: float
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StagedStudy:
    """A study in the folders that the MAP is given, and what takes identifiers out of the MAP's log.

    ``study``: its instances where they lie now. ``given``: those that the MAP was given, None before that was chosen (``give``).
    ``runs``: how often the MAP was run on it before. ``mark``: of this placing, so that no container has the name of another try's.
    """

    study: Study
    folder: Path
    source: Path
    target: Path
    without_identifiers: IdentifierFilter
    given: Given | None = None
    repairs: tuple[str, ...] = ()
    runs: int = 0
    mark: str = field(default_factory=lambda: secrets.token_hex(3), compare=False)

    @property
    def instances(self) -> tuple[Instance, ...]:
        """What the MAP was given, and before that was chosen every image of the study."""
        return self.given.instances if self.given else self.study.instances


@dataclass(frozen=True)
class OneStudy:
    """One study of a job, ready to be inferred since ``at`` (monotonic seconds)."""

    staged: StagedStudy
    pseudonym: str
    facts: InputFacts
    timings: Timings
    at: float

    @property
    def folder(self) -> Path:
        """Its own folder within the job's."""
        return self.staged.folder


@dataclass(frozen=True)
class Prepared:
    """What of a job is left to infer, and the commits of studies that an earlier try answered."""

    studies: tuple[OneStudy, ...]
    known: tuple[ResultRecord, ...]


@dataclass(frozen=True)
class Inferred:
    """What the MAP wrote for one study, the images it was given, and how its run ended."""

    end: RunEnd
    source: Source
    produced: tuple[Produced, ...]


@dataclass(frozen=True)
class InferenceRun:
    """The MAP has run on a study (``end``), or could not (``error``). ``ended``: monotonic seconds.

    ``beside``: so many others ran with it at most; then ``inferred`` is what it has answered, judged already. ``memory_mib``: its limit.
    """

    one: OneStudy
    timings: Timings
    ended: float
    ready: ReadyMap | None = None
    end: RunEnd | None = None
    error: JobError | None = None
    beside: int = 0
    inferred: Inferred | None = None
    memory_mib: int = 0


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


# ------------------------------------------------------------------------------------------------------------- before the inference


def complete(context: HostContext, message: JobMessage, done: JobDone) -> list[ResultRecord]:
    """Complete what a crash left undone after the job was marked done; returns its commits."""
    records = commit.repair_index(context.store, done)
    originals.complete(context.store, message, _kind_or_zip(message), records)
    return records


def prepare(context: HostContext, received: ReceivedJob, decisions: commit.Decisions) -> Prepared:
    """Bring the upload here, check it, and place each study that no earlier try answered. Raises RefusedError, FailedError."""
    source = originals.source_of(received.message)
    log.info("job %s: taken (try %d, %s, %d bytes)", received.message.job, received.delivery.receives, source.kind, received.message.size)
    fetched = fetch(context, received, source)
    spent = Timings(queued=received.queued_seconds, download=fetched.seconds)
    studies: list[OneStudy] = []
    known: list[ResultRecord] = []
    for number, study in enumerate(fetched.studies):
        pseudonym = study_id(context.secret, study.uid)
        if earlier := decisions.end_of(pseudonym):
            known.append(commit.complete_commit(context.store, earlier))
            continue
        staged = place(study, received.folder / f"study-{number}", context.config.limits)
        studies.append(
            OneStudy(
                staged, pseudonym, replace(input_facts(received.message, study), passed_over=fetched.passed_over), spent, time.monotonic()
            )
        )
    return Prepared(tuple(studies), tuple(known))


def fetch(context: HostContext, received: ReceivedJob, source: originals.Source) -> Fetched:
    """Download, unpack, group. Raises RefusedError for anything that is no study, FailedError for a bucket or disk that fails."""
    started = time.monotonic()
    limits = with_free_space(context.limits, shutil.disk_usage(received.folder).free)
    upload = originals.fetch(context.store, received.message, source.kind, received.folder, limits)
    studies = read_studies([*upload.files])
    if source.only_study:
        studies = tuple(study for study in studies if study_id(context.secret, study.uid) == source.only_study)
        if not studies:
            raise RefusedError(Code.BAD_REQUEST, "The original does not hold the study that the re-run names.")
    return Fetched(studies, upload.bytes, time.monotonic() - started, upload.passed_over)


def place(study: Study, folder: Path, limits: Limits) -> StagedStudy:
    """Move the study's files into a folder that the MAP's user may read, beside an empty one it may write."""
    without_identifiers = IdentifierFilter.of(study)
    source, target = folder / "input", folder / "output"
    folder.mkdir(exist_ok=True)
    source.mkdir(mode=0o755)
    source.chmod(0o755)
    make_target(target, limits)
    images = tuple(_moved(item, source / item.path.name) for item in study.instances)
    companions = tuple(_moved(item, source / item.path.name) for item in study.companions)
    return StagedStudy(replace(study, instances=images, companions=companions), folder, source, target, without_identifiers)


def make_target(folder: Path, limits: Limits) -> None:
    """An empty folder that the MAP's user may write."""
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, limits.uid, limits.gid)


def give(staged: StagedStudy, requirements: MapRequirements) -> StagedStudy:
    """Leave in the MAP's folder what it is given, in the order of its file names; the rest waits beside it. Raises RefusedError."""
    given = requirements.give(staged.study)
    names = [f"{number:06d}.dcm" for number in range(1, len(given.instances) + 1)]
    files = [*staged.source.iterdir()]
    if len(files) != len(names) or [item.path.name for item in given.instances] != names:  # a good study comes as it is to be given
        withheld = staged.folder / "withheld"
        withheld.mkdir(mode=0o700)
        for path in files:
            path.rename(withheld / path.name)
        moved = [
            _moved(replace(item, path=withheld / item.path.name), staged.source / name)
            for item, name in zip(given.instances, names, strict=True)
        ]
        given = replace(given, instances=tuple(moved))
    return replace(staged, given=given, repairs=repairs.even_out(given.instances, given.stacks))


def _moved(instance: Instance, target: Path) -> Instance:
    """An instance at another place, where the MAP's user may read it."""
    instance.path.rename(target).chmod(0o644)
    return replace(instance, path=target)


# ----------------------------------------------------------------------------------------------------------------------- inference


def make_ready(context: HostContext, message: JobMessage, image: str = "") -> ReadyMap:
    """The MAP that is live now, or the one that a re-run names, on this host; that ``image`` where one is given. Raises JobError."""
    try:
        if image:
            return context.live_map.make_ready(image, context.stop)
        return context.live_map.ready(message.map_digest, context.stop)
    except InterruptedJobError:
        raise
    except Exception as error:
        raise as_job_error(error) from error


def not_run(one: OneStudy, began: float, error: JobError) -> InferenceRun:
    """A study whose MAP could not be made ready. ``began``: monotonic seconds at which its turn came."""
    return InferenceRun(one, replace(one.timings, waiting=began - one.at), time.monotonic(), error=error)


def run_inference(
    context: HostContext, message: JobMessage, one: OneStudy, ready: ReadyMap, limits: Limits, began: float, on_exit: OnExit = nothing
) -> InferenceRun:
    """Run a MAP within ``limits`` on one study, whose turn began then (monotonic seconds).

    Raises nothing but InterruptedJobError: what went wrong is part of the answer. ``on_exit`` may be called when nothing of the MAP runs
    any more, so that the next study need not wait for the rest.
    """
    spent = replace(one.timings, waiting=began - one.at, pull=ready.seconds)
    try:
        context.board.show(message.job, Phase.INFERRING)
        if one.staged.given is None:
            requirements = ready.requirements.requiring_volume() if context.config.require_volume else ready.requirements
            one = _with_facts(replace(one, staged=give(one.staged, requirements)))
        end = run_staged(context.hosting, limits, context.stop, ready, one.staged, on_exit)
        return InferenceRun(one, replace(spent, inference=end.seconds), time.monotonic(), ready, end, memory_mib=limits.memory_mib)
    except InterruptedJobError:
        raise
    except Exception as error:
        return InferenceRun(one, spent, time.monotonic(), ready, error=as_job_error(error))


def judged(context: HostContext, tried: InferenceRun, beside: int) -> InferenceRun:
    """A run that shared the machine, with what it has answered, or with the error that it failed with."""
    if tried.error or not tried.ready or not tried.end:
        return replace(tried, beside=beside)
    try:
        inferred = judge(context.config.limits, tried.ready, tried.one.staged, tried.end)
    except Exception as error:
        return replace(tried, beside=beside, error=as_job_error(error))
    return replace(tried, beside=beside, inferred=inferred)


def once_more(tried: InferenceRun, limits: Limits) -> OneStudy:
    """The study of a run that counts for nothing, as it was before that: its folder for results is empty. Raises OSError."""
    staged = tried.one.staged
    shutil.rmtree(staged.target)
    make_target(staged.target, limits)
    return replace(tried.one, staged=replace(staged, runs=staged.runs + 1))


def _with_facts(one: OneStudy) -> OneStudy:
    """What was given of a study, and what was not, as its record says it."""
    staged, given = one.staged, one.staged.given
    if given is None:
        return one
    passed_over = dict(Counter(one.facts.passed_over) + Counter(given.passed_over))
    facts = replace(one.facts, given=len(given.instances), selection=given.selection, passed_over=passed_over, repairs=staged.repairs)
    return replace(one, facts=facts)


def start_ahead(context: HostContext, message: JobMessage, staged: StagedStudy) -> Callable[[], None] | None:
    """Have the MAP's container started for a study whose turn comes next; what undoes that, None where the MAP is not known yet."""
    ready = context.live_map.last(message.map_digest)
    if not ready:
        return None
    name, limits = _container(staged, context.at_once.limits(ready.facts.digest))
    context.hosting.ahead(ready, staged.source, staged.target, limits, name=name)
    return partial(context.hosting.drop, name)


def run_staged(
    hosting: Hosting, limits: Limits, stop: threading.Event, ready: ReadyMap, staged: StagedStudy, on_exit: OnExit = nothing
) -> RunEnd:
    """Run the MAP on a placed study; its log lies in ``folder/map.log`` afterwards. Raises FailedError, InterruptedJobError."""
    folder = staged.folder
    name, limits = _container(staged, limits)
    end = hosting.run(ready, staged.source, staged.target, limits, name=name, stop=stop, on_exit=on_exit)
    (folder / "map.log").write_text("\n".join(staged.without_identifiers(end.log_tail)) + "\n", encoding="utf-8")
    log.info("job %s: the MAP ended with %d after %.1f s", folder.parent.name, end.exit_code, end.seconds)
    return end


def _container(staged: StagedStudy, limits: Limits) -> tuple[str, Limits]:
    """Name of a study's container, and its limits with the label by which one that was left is found.

    Each run has a name of its own, also where the job comes again: the engine may still have the container of the one before, and the end
    that it tells of that would be taken for this one's.
    """
    job = staged.folder.parent.name
    again = f"-{staged.runs}" if staged.runs else ""
    return f"monai-aws-{job[:12]}-{staged.folder.name}-{staged.mark}{again}", replace(limits, labels=((CONTAINER_LABEL, job),))


def judge(limits: Limits, ready: ReadyMap, staged: StagedStudy, end: RunEnd) -> Inferred:
    """Whether a run answered its study, by how it ended and by what it wrote. Raises FailedError."""
    try:
        judge_end(end, effective_timeout(ready.spec, limits), limits.memory_mib, staged.without_identifiers)
    except FailedError as error:
        if error.code is Code.MAP_FAILED and error.final and (bad := undecodable(staged.instances)):
            cause = f"The pixels of {bad} of {len(staged.instances)} images cannot be decoded, and the application ended with an error."
            raise RefusedError(Code.DICOM_DAMAGED, cause, last_line=error.last_line) from error
        raise
    source = read_source(staged.instances, rewritten=repairs.ORIENTATION in staged.repairs)
    return Inferred(end, source, outputs.collect(staged.target, staged.study.uid, source))


def run_study(hosting: Hosting, limits: Limits, stop: threading.Event, ready: ReadyMap, study: Study, folder: Path) -> Inferred:
    """One study from its files to judged outputs, for whoever has a MAP and a study but no queue. Raises JobError."""
    staged = give(place(study, folder, limits), ready.requirements)
    return judge(limits, ready, staged, run_staged(hosting, limits, stop, ready, staged))


def judge_end(
    end: RunEnd, timeout_s: int, memory_mib: int, without_identifiers: Callable[[Iterable[str]], list[str]] = lambda lines: [*lines]
) -> None:
    """The application's own exit code decides. Raises FailedError, which is final where the same study would end the same way again."""
    if not (end.timed_out or end.out_of_memory or end.exit_code):
        return
    lines = without_identifiers(end.log_tail)
    last = last_meaningful_line(lines, killed=end.timed_out or end.out_of_memory)
    silent = "" if last else " It had printed nothing."
    if end.timed_out:
        raise FailedError(Code.MAP_TIMEOUT, f"The application did not end within {timeout_s} s.{silent}", last_line=last)
    if end.out_of_memory:
        raise FailedError(Code.MAP_OUT_OF_MEMORY, f"The application needed more than {memory_mib} MiB.{silent}", last_line=last)
    cause = f"The application ended with exit code {end.exit_code}{_by_signal(end.exit_code)}.{silent}"
    raise FailedError(Code.MAP_FAILED, cause, last_line=last, final=not may_pass(end.exit_code, lines))


def _by_signal(exit_code: int) -> str:
    """Which signal ended it, where one did: its log has no word of that."""
    number = -exit_code if exit_code < 0 else exit_code - _SIGNALS
    try:
        return f" ({signal.Signals(number).name})" if number > 0 else ""
    except ValueError:
        return ""


def may_pass(exit_code: int, lines: Iterable[str]) -> bool:
    """Whether an application's failure may pass: it was ended by a signal, or speaks of the machine and not of the study."""
    return exit_code < 0 or exit_code > _SIGNALS or any(_MACHINES_FAULT.search(line) for line in lines)


# -------------------------------------------------------------------------------------------------------------- after the inference


def publish(context: HostContext, received: ReceivedJob, tried: InferenceRun) -> ResultRecord:
    """Commit one study. Raises FailedError when it failed and the queue will deliver its job again."""
    try:
        return _commit_answer(context, received, tried)
    except Exception as error:
        return _end(context, received, as_job_error(error), tried)


def refuse(context: HostContext, received: ReceivedJob, error: JobError) -> ResultRecord:
    """Commit a job that ended before any study of it could be inferred. Raises the error when the queue will deliver the job again."""
    return _end(context, received, error)


def finish(context: HostContext, received: ReceivedJob, records: Sequence[ResultRecord]) -> None:
    """Every study has committed: the original is kept, the job marked done, ``input/`` cleared."""
    message = received.message
    kind = _kind_or_zip(message)
    originals.keep(context.store, message, kind, records, received.folder / "upload.zip")
    commit.write_done(context.store, message.job, records)
    originals.remove(context.store, message, kind, records)


def answer_in_hand(context: HostContext, received: ReceivedJob, one: OneStudy, record: ResultRecord) -> archiving.Answer | None:
    """The files of a study that this host has just answered; None where another host's answer counts.

    A study whose headers were rewritten for the application is unpacked once more: the archive gets it as it was received.
    """
    folders = [one.staged.source, one.folder / "withheld"]
    if not one.facts.repairs:
        return archiving.from_folders(record, folders, one.staged.target)
    again = one.folder / "again"
    for study in archiving.unpacked(received.folder / "upload.zip", again, context.limits):
        for path in () if study.uid == one.staged.study.uid else archiving.files_of(study):
            path.unlink()
    return archiving.from_folders(record, [again], one.staged.target)


def answer_in_bucket(context: HostContext, message: JobMessage, record: ResultRecord, folder: Path) -> archiving.Answer:
    """A study that an earlier try answered, from where its original is kept. Raises ArchiveFileError, FailedError."""
    original = message.key if message.request else processed_key(record.study, record.job, "upload.zip")
    folder.mkdir()

    def is_wanted(study: Study) -> bool:
        return study_id(context.secret, study.uid) == record.study

    return archiving.from_bucket(context.store, record, original, folder, context.limits, is_wanted)


def _commit_answer(context: HostContext, received: ReceivedJob, tried: InferenceRun) -> ResultRecord:
    if tried.error or not tried.ready or not tried.end:
        raise tried.error or FailedError(Code.INTERNAL, "An inference ended with neither an end nor an error.")
    one, ready, job = tried.one, tried.ready, received.message.job
    inferred = tried.inferred or judge(context.config.limits, ready, one.staged, tried.end)
    expected = ready.requirements.contract.volumes
    extra = preview.describe(inferred.produced, inferred.source, one.folder, one.staged.without_identifiers.one, expected)
    kinds = {"preview.png": PREVIEW, "measurements.json": MEASUREMENTS, "map.log": LOG}
    measured = _measured(one.folder / "measurements.json")
    produced = (*inferred.produced, *(outputs.made_here(path, kinds[path.name]) for path in (*extra, one.folder / "map.log")))

    def record(charged: Seconds) -> ResultRecord:
        now = time.monotonic()
        spent = replace(tried.timings, boot=charged.boot, upload=now - tried.ended)
        return ResultRecord(
            job=job, study=one.pseudonym, status=Status.SUCCEEDED, committed_at=utc_text(datetime.now(UTC)), input=one.facts,
            map=ready.facts, host=context.host, timings=completed(spent, now - received.started),
            resources=resources_of(inferred.end, tried.beside),
            cost=cost_of(charged, ready.seconds, context.config, context.host), measured=measured, request=received.message.request,
        )  # fmt: skip

    return _charged(context, record, partial(commit.commit_end, context.store, produced, partial(output_key, one.pseudonym, job)))


def _measured(written: Path) -> Measurements | None:
    try:
        return Measurements.from_json(written.read_text())
    except (OSError, ContractError):  # nothing was measured, or no number that can be read: the result is one all the same
        return None


def _end(context: HostContext, received: ReceivedJob, error: JobError, tried: InferenceRun | None = None) -> ResultRecord:
    """Commit a study, or a job whose studies are not known, that was refused or failed for good; otherwise raise its error."""
    if tried is None and (answered := _answered_meanwhile(context, received.message)):
        return answered
    status = Status.QUARANTINED if isinstance(error, RefusedError) else Status.FAILED
    if status is Status.FAILED and not error.final and not received.delivery.last:
        raise error
    message, one = received.message, tried.one if tried else None
    study = one.pseudonym if one else _study_of_rerun(message)
    log.warning("job %s: %s (%s: %s)", message.job, status, error.code, error.cause)
    logs = [outputs.made_here(path, LOG)] if one and (path := one.folder / "map.log").is_file() else []
    spent = tried.timings if tried else Timings(queued=received.queued_seconds)

    def record(charged: Seconds) -> ResultRecord:
        return ResultRecord(
            job=message.job, study=study, status=status, committed_at=utc_text(datetime.now(UTC)),
            input=one.facts if one else input_facts(message, None), map=tried.ready.facts if tried and tried.ready else MapFacts(),
            host=context.host, timings=completed(replace(spent, boot=charged.boot), time.monotonic() - received.started),
            resources=resources_of(tried.end, tried.beside) if tried and tried.end else Resources(),
            cost=cost_of(charged, spent.pull, context.config, context.host),
            error=ResultError(str(error.code), error.message, error.last_line), request=message.request,
        )  # fmt: skip

    keep = partial(quarantine_key, message.job, study=study)
    try:
        return _charged(context, record, partial(commit.commit_end, context.store, logs, keep))
    except commit.StudiesDecidedError:
        raise error from None  # what is decided of the others is not known here, so the job is not ended, and comes again


def _answered_meanwhile(context: HostContext, message: JobMessage) -> ResultRecord | None:
    """An answer of the job that another host completed while this one failed on it, because by then the upload had been moved away."""
    done = commit.read_done(context.store, message.job)
    return next(iter(commit.repair_index(context.store, done)), None) if done else None


def _charged(
    context: HostContext,
    build: Callable[[Seconds], ResultRecord],
    write: Callable[[Callable[[], ResultRecord], Callable[[], None]], ResultRecord],
) -> ResultRecord:
    """Commit a record with what is unpaid at that moment, which stays unpaid unless it is decided that this very record counts."""
    unpaid = Seconds()

    def make() -> ResultRecord:
        nonlocal unpaid
        unpaid = context.bill.charge()
        return build(unpaid)

    def counts() -> None:
        nonlocal unpaid
        unpaid = Seconds()

    try:
        return write(make, counts)
    finally:
        context.bill.refund(unpaid)


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


def resources_of(end: RunEnd, beside: int) -> Resources:
    """What a record says about the machine's resources that a run used, and how many ran beside it."""
    return Resources(end.peak_bytes, end.peak_gpu_bytes, end.cpu_seconds, end.hosting, beside)


def completed(spent: Timings, in_hand: float) -> Timings:
    """Timings with their total, which runs from the upload's event to the commit: queued + seconds in hand. Rounded to milliseconds."""
    values = {**vars(spent), "total": spent.queued + in_hand}
    return Timings(**{name: round(value, 3) for name, value in values.items()})


def cost_of(charged: Seconds, pull: float, config: AgentConfig, host: HostFacts) -> Cost:
    """What the seconds charged to a study cost, by share: boot, pull, inference (with all else that the machine did meanwhile), idle."""
    price = config.usd_per_hour.get(host.type)
    pull = min(pull, charged.busy)
    seconds = {"boot": charged.boot, "pull": pull, "inference": charged.busy - pull, "idle": charged.idle}
    shares = {name: round((price or 0.0) * spent / 3600, 6) for name, spent in seconds.items()}
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    basis = config.price_basis if price is not None else "no list price known"
    return Cost(round(sum(shares.values()), 6), f"{price or 0.0:.4f} USD/h on {host.type or 'this host'} ({basis}): {spent}", shares)


def room_to_prefetch(size: int, free: int) -> bool:
    """Whether a study of ``size`` bytes may be fetched while others are in hand, with ``free`` bytes left on the disk."""
    return free > PREFETCH_MARGIN and size <= free // 2


def retry_seconds(code: Code, receives: int) -> int:
    """Seconds until a failed job is tried again: longer where this host or its surroundings failed and need time."""
    return (30 if code in HOST_CODES else 5) * receives


def as_job_error(error: BaseException) -> JobError:
    """Any exception as one with a code. The text of a foreign exception is left out, because it may quote a key or a DICOM value."""
    if isinstance(error, JobError):
        return error
    if isinstance(error, OSError) and error.errno == 28:
        return FailedError(Code.DISK_FULL, "The host's disk is full.")
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(traceback.extract_tb(error.__traceback__)[-4:]))
    return FailedError(Code.INTERNAL, f"Unexpected {error.__class__.__name__} at {places}.")


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
