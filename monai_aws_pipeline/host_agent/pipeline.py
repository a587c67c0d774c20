"""Several jobs at once: the next are fetched and the last ones published while one is inferred, or as many as this host may at once.

Here belongs which step runs on which thread, how many jobs may be in hand, and how each receipt is settled. What the steps do is in
``job_steps.py``, whose turn it is in ``turns.py``. A job in hand has its own heartbeat, folder and end; a step that fails ends its own job
only.

    calling thread: prepare    a thread for each place: the MAP    two threads and more: publish, finish    one thread: archive
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.contract import ContractError, JobMessage, ResultRecord
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.host_agent.archiving import Archiver, answered
from monai_aws_pipeline.host_agent.at_once import MOST
from monai_aws_pipeline.host_agent.aws.job_queue import Delivery, Heartbeat
from monai_aws_pipeline.host_agent.errors import FailedError, InterruptedJobError, JobError, RefusedError
from monai_aws_pipeline.host_agent.job_status import Phase
from monai_aws_pipeline.host_agent.job_steps import (
    Ended,
    HostContext,
    InferenceRun,
    OneStudy,
    Outcome,
    Prepared,
    ReceivedJob,
    answer_in_bucket,
    answer_in_hand,
    as_job_error,
    complete,
    finish,
    judged,
    make_ready,
    not_run,
    once_more,
    prepare,
    publish,
    read_message,
    refuse,
    retry_seconds,
    room_to_prefetch,
    run_inference,
    start_ahead,
)
from monai_aws_pipeline.host_agent.results.commit import read_progress
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.turns import Place, Turns

log = logging.getLogger(__name__)

_AHEAD: Final = 2
"""Jobs that are fetched and wait for the MAP, and one more for each that is inferred at once. With fewer, a MAP faster than a container's
start would wait for that."""
_PUBLISHERS: Final = 2
"""Threads that publish, and one more for each two inferred at once."""


@dataclass(frozen=True)
class Hands:
    """How many jobs may be in hand with so many inferred at once.

    ``in_hand``: those that wait, are inferred and are being published: a bucket slower than the MAP holds it up and does not fill the disk.
    """

    at_once: int

    @property
    def ahead(self) -> int:
        """Jobs that are fetched and wait for the MAP."""
        return _AHEAD + self.at_once

    @property
    def in_hand(self) -> int:
        """All of them."""
        return self.ahead + self.at_once + _PUBLISHERS + (self.at_once - 1) // 2


ARCHIVING: Final = 20
"""Answered jobs that may wait for the archive, with their files. They hold up no other job; what is more is archived from the bucket."""
_LOOK_S: Final = 0.5

Step = Callable[["_Job"], None]


class WorkFolderError(NamedError):
    """A job's folder could not be wiped. The agent ends: the next study must not meet the remains of this one."""


class _Job:
    """A job in hand. ``life`` holds what ends with it, ``waits``: it is before its inference, ``is_answered``: only the archive is left."""

    def __init__(self, message: JobMessage, delivery: Delivery, folder: Path):
        self.message, self.delivery = message, delivery
        self.received = ReceivedJob(message, delivery, folder, datetime.now(UTC), time.monotonic())
        self.waits = True
        self.is_answered = False
        self.life = ExitStack()
        self.ended: Future[Ended] = Future()


class Pipeline:
    """The jobs in hand on this host. ``broken`` holds the error that must end the agent; ``sign_of_life`` is called while one waits for
    room beside others.
    """

    def __init__(self, context: HostContext, sign_of_life: Callable[[], None] = lambda: None):
        self._context, self._sign_of_life = context, sign_of_life
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._inference = ThreadPoolExecutor(2 * MOST, "inference")
        self._turns = Turns(context.at_once, self._ready_for)
        self._publishing = ThreadPoolExecutor(_PUBLISHERS + (MOST - 1) // 2, "publishing")
        self._archiving = ThreadPoolExecutor(1, "archiving")
        self._idle_since = time.monotonic()
        self.broken: WorkFolderError | None = None
        context.work.mkdir(parents=True, exist_ok=True, mode=0o700)

    def open(self) -> None:
        """Jobs may come from now on: until then nobody was idle, however long the MAP took to come."""
        with self._changed:
            self._idle_since = time.monotonic()

    def idle_seconds(self) -> float:
        """For how long nothing has been in hand. Until a job that was given back returns, the machine does not count as idle."""
        with self._changed:
            return 0.0 if self._jobs else time.monotonic() - self._idle_since

    def wait_for_place(self, seconds: float = _LOOK_S) -> bool:
        """Whether another job may be taken, after waiting for that for so many seconds."""
        with self._changed:
            return self._changed.wait_for(self._has_place, seconds)

    def _has_place(self) -> bool:
        hands = Hands(self._turns.number)
        return sum(not job.is_answered for job in self._jobs) < hands.in_hand and sum(job.waits for job in self._jobs) < hands.ahead

    def accept(self, delivery: Delivery) -> Future[Ended]:
        """Work on one receipt: prepare it here and now, and leave the rest to the other threads. The future has its end."""
        try:
            message = read_message(delivery.body, self._context.config.bucket)
        except ContractError as error:
            log.warning("a message cannot be read (%s); it goes to the dead-letter queue", error)
            self._context.queue.give_back(delivery, 0)
            unreadable: Future[Ended] = Future()
            unreadable.set_result(Ended(Outcome.UNREADABLE))  # not noted as work: a poisoned message must not keep a machine running
            return unreadable
        if self._stopping():
            # It may be a job of ours that was just handed over: as the second message of a job in hand it would be dropped, and lost.
            self._context.queue.hand_over(delivery)
            interrupted: Future[Ended] = Future()
            interrupted.set_result(Ended(Outcome.INTERRUPTED))
            return interrupted
        job = _Job(message, delivery, self._context.work / message.job)
        with self._changed:
            doubled = any(other.message.job == message.job and other.delivery.message != delivery.message for other in self._jobs)
            if not doubled:
                self._jobs.append(job)
        if doubled:
            self._drop(job)
        else:
            self._step(job, self._prepare)
        return job.ended

    def close(self) -> None:
        """End all threads: what is being published is finished, what was not is handed over once the host is told to stop.

        What takes longer than a stop allows is left: its message comes back by itself.
        """
        stop = self._context.stop
        with self._changed:
            while self._jobs and not stop.over(stop.budget.jobs):
                self._changed.wait(_LOOK_S)
            left = len(self._jobs)
        if left:
            log.warning("%d job(s) did not end within %.0f s of the stop; their messages come back by themselves", left, stop.budget.jobs)
        for threads in (self._inference, self._publishing, self._archiving):
            threads.shutdown(wait=not left, cancel_futures=bool(left))

    # -- the steps ---------------------------------------------------------------------------------------------------------

    def _prepare(self, job: _Job) -> None:
        job.life.enter_context(self._context.bill.job())
        job.life.enter_context(Heartbeat(self._context.queue, job.delivery))
        self._wait_for_turn(job)
        self._context.board.show(job.message.job, Phase.FETCHING)
        job.life.callback(self._context.board.remove, job.message.job)
        progress = read_progress(self._context.store, job.message.job)
        if progress.done:
            records = complete(self._context, job.message, progress.done)
            self._archive_or_settle(job, (), records, Outcome.REPEATED)
            return
        job.life.enter_context(fresh_folder(job.received.folder))
        try:
            prepared = prepare(self._context, job.received, progress.decisions)
        except (InterruptedJobError, WorkFolderError):
            raise
        except Exception as error:
            self._pass(job, self._publishing, partial(self._refuse, error=as_job_error(error)))
        else:
            if prepared.studies:
                if undo := start_ahead(self._context, job.message, prepared.studies[0].staged):
                    job.life.callback(undo)
                self._context.board.show(job.message.job, Phase.WAITING)
                self._inference.submit(self._step, job, partial(self._infer, prepared=prepared))
            else:
                self._pass(job, self._publishing, partial(self._finish, prepared=prepared))

    def _infer(self, job: _Job, prepared: Prepared) -> None:
        early: list[tuple[InferenceRun, Future[ResultRecord]]] = []
        interrupted: InterruptedJobError | None = None
        try:
            for one in prepared.studies[:-1]:
                tried = self._run_inference(job, one)
                early.append((tried, self._publishing.submit(publish, self._context, job.received, tried)))
            last = [self._run_inference(job, prepared.studies[-1])]
        except InterruptedJobError as error:
            interrupted, last = error, []  # studies that are inferred are published all the same
        self._pass(job, self._publishing, partial(self._finish, prepared=prepared, early=early, last=last, interrupted=interrupted))

    def _run_inference(self, job: _Job, one: OneStudy) -> InferenceRun:
        """Have one study inferred in its turn.

        Raises nothing but InterruptedJobError: the end of the job would wipe the folder from which another study of it is published now.
        """
        began = time.monotonic()
        try:
            return self._infer_one(job, one)
        except InterruptedJobError:
            raise
        except Exception as error:
            return not_run(one, began, as_job_error(error))

    def _infer_one(self, job: _Job, one: OneStudy) -> InferenceRun:
        """What failed beside others, or with only a share of the memory, is run once more, alone and with all of it; that run counts."""
        tried, beside = self._in_turn(job, one)
        limits = self._context.config.limits
        had_a_share = 0 < tried.memory_mib < limits.memory_mib
        if not beside and not had_a_share:
            return tried
        tried = judged(self._context, tried, beside)
        if not tried.error or not tried.ready or (not tried.end and isinstance(tried.error, RefusedError)):
            return tried
        where = f"beside {beside} other(s)" if beside else f"with {tried.memory_mib} MiB, its share of the memory"
        log.warning("job %s: failed (%s) %s, which says nothing; it is run again alone", job.message.job, tried.error.code, where)
        again, _ = self._in_turn(job, once_more(tried, limits), alone=tried.ready.image)
        again = judged(self._context, again, 0)
        if not again.error:
            # With nothing beside it, the share was all that was different, in whatever words the application said so.
            of_memory = not beside or (tried.end and tried.end.out_of_memory)
            self._context.at_once.disturbed(tried.ready.facts.digest, beside, tried.memory_mib if had_a_share and of_memory else 0)
        return again

    def _in_turn(self, job: _Job, one: OneStudy, *, alone: str = "") -> tuple[InferenceRun, int]:
        """A study's run, and how many ran beside it. The next one's turn begins when nothing of the MAP runs any more for this: how the
        run ended, the engine says a while later.

        ``alone``: the image that is to run with nothing beside it, whichever is live by then; what the study gives was chosen for it.
        """
        context = self._context
        if self._turns.is_taken:
            context.live_map.look()
        place: Place | None = None
        ready: ReadyMap | None = None
        with self._turns.door(self._check_stop) as door:
            while place is None:
                door.wait(ready, until_empty=bool(alone))
                began = time.monotonic()
                self._not_waiting(job)
                context.board.show(job.message.job, Phase.PULLING)
                try:
                    ready = make_ready(context, job.message, alone)
                except JobError as error:
                    return not_run(one, began, error), 0
                place = door.enter(ready, alone=bool(alone))
        digest = place.ready.facts.digest
        try:
            self._say_number(digest)
            tried = run_inference(context, job.message, one, place.ready, place.limits, began, on_exit=place.leave)
        finally:
            place.close()
        if tried.end:
            context.at_once.used(digest, tried.end)
            self._say_number(digest)
        return tried, place.beside

    def _say_number(self, digest: str) -> None:
        """To who asks this host: also before a study has ended, because the number may be kept from an earlier start."""
        self._context.board.say(self._context.at_once.number(digest), self._context.at_once.why(digest))

    def _ready_for(self, ready: ReadyMap, number: int) -> bool:
        return self._context.hosting.ready_for(ready, self._context.at_once.limits(ready.facts.digest), number)

    def _finish(
        self,
        job: _Job,
        prepared: Prepared,
        early: Sequence[tuple[InferenceRun, Future[ResultRecord]]] = (),
        last: Sequence[InferenceRun] = (),
        interrupted: InterruptedJobError | None = None,
    ) -> None:
        """Publish the last study on this thread, wait for those before it, and end the job."""
        records, errors = [*prepared.known], []
        for tried in last:
            try:
                records.append(publish(self._context, job.received, tried))
            except FailedError as error:
                errors.append(error)
        for _, future in early:  # handed to the same threads before this step was, so a thread is at it already: this wait ends
            try:
                records.append(future.result())
            except FailedError as error:
                errors.append(error)
        if interrupted or errors:
            raise interrupted or errors[0]
        finish(self._context, job.received, records)
        self._archive_or_settle(job, [tried.one for tried in (*last, *(tried for tried, _ in early))], records, Outcome.ANSWERED)

    def _archive_or_settle(self, job: _Job, studies: Sequence[OneStudy], records: Sequence[ResultRecord], outcome: Outcome) -> None:
        """End the job, after its studies are archived where there is an archive that may be tried now."""
        archiver = self._context.archiver
        wanted = answered(records) if archiver and not archiver.is_closed else []
        with self._changed:
            job.is_answered, job.waits = bool(wanted), False
            place = sum(other.is_answered for other in self._jobs) <= ARCHIVING
            self._changed.notify_all()
        if archiver and wanted and place:
            self._context.board.show(job.message.job, Phase.ARCHIVING)
            self._archiving.submit(
                self._step, job, partial(self._archive, archiver=archiver, studies=studies, records=wanted, outcome=outcome)
            )
        else:
            self._settle(job, Ended(outcome))

    def _archive(
        self, job: _Job, archiver: Archiver, studies: Sequence[OneStudy], records: Sequence[ResultRecord], outcome: Outcome
    ) -> None:
        """Store what is answered. Whatever goes wrong, the job has its end; a host that stops hands it to the next one, which goes on."""
        in_hand = {one.pseudonym: one for one in studies}
        folder = job.received.folder
        if not in_hand:
            job.life.enter_context(fresh_folder(folder))
        try:
            for number, record in enumerate(archiver.missing(records)):
                self._check_stop()
                one = in_hand.get(record.study)
                fetch = (
                    partial(answer_in_hand, self._context, job.received, one, record)
                    if one
                    else partial(answer_in_bucket, self._context, job.message, record, folder / f"kept-{number}")
                )
                archiver.store(record.study, record.job, fetch, folder / f"corrected-{number}")
        except InterruptedJobError:
            if not job.delivery.last:
                raise
        except WorkFolderError:
            raise
        except Exception as error:  # the text of a foreign exception may quote a key or a DICOM value
            log.warning("job %s: answered and not archived (%s)", job.message.job, as_job_error(error).cause)
        self._settle(job, Ended(outcome))

    def _refuse(self, job: _Job, error: JobError) -> None:
        finish(self._context, job.received, [refuse(self._context, job.received, error)])
        self._settle(job, Ended(Outcome.ANSWERED))

    def _pass(self, job: _Job, threads: ThreadPoolExecutor, step: Step) -> None:
        self._context.board.show(job.message.job, Phase.PUBLISHING)
        self._not_waiting(job)
        threads.submit(self._step, job, step)

    def _not_waiting(self, job: _Job) -> None:
        with self._changed:
            job.waits = False
            self._changed.notify_all()

    def _step(self, job: _Job, step: Step) -> None:
        try:
            step(job)
        except BaseException as error:
            self._settle(job, self._end_of(job, error))

    # -- decisions and ends ------------------------------------------------------------------------------------------------

    def _drop(self, job: _Job) -> None:
        """An upload's second message is not needed while its first is in hand: that stays in the queue until the job has ended."""
        try:
            self._context.queue.done(job.delivery)
        except (ClientError, BotoCoreError):
            log.warning("job %s: its second message could not be removed; it comes back, and finds the job answered", job.message.job)
        job.ended.set_result(Ended(Outcome.REPEATED))

    def _wait_for_turn(self, job: _Job) -> None:
        """Until no other receipt of the same job is in hand, and until there is room on the disk beside those that are."""
        with self._changed:
            while True:
                self._check_stop()
                self._sign_of_life()  # those at work may take hours, and the loop that gives it waits here
                others = [other for other in self._jobs if other is not job]
                twin = any(other.message.job == job.message.job for other in others)
                if not twin and (not others or room_to_prefetch(job.message.size, shutil.disk_usage(self._context.work).free)):
                    return
                self._changed.wait(_LOOK_S)

    def _stopping(self) -> bool:
        return self._context.stop.is_set() or self._context.leave.is_set()

    def _check_stop(self) -> None:
        if self._stopping():
            raise InterruptedJobError("the host is stopping")

    def _end_of(self, job: _Job, error: BaseException) -> Ended | None:
        if isinstance(error, InterruptedJobError):
            return Ended(Outcome.INTERRUPTED)
        if isinstance(error, WorkFolderError):
            self._break(error)
            return None
        error = as_job_error(error)
        retry = retry_seconds(error.code, job.delivery.receives)
        log.warning("job %s: try %d failed (%s: %s); again in %d s", job.message.job, job.delivery.receives, error.code, error.cause, retry)
        return Ended(Outcome.GIVEN_BACK, retry)

    def _settle(self, job: _Job, ended: Ended | None) -> None:
        """The end of a receipt: its folder is gone, its heartbeat has ended, and its message is removed, handed over or given back."""
        queue, delivery = self._context.queue, job.delivery
        try:
            job.life.close()
            if ended is None:
                pass  # the agent ends, and the message comes back by itself
            elif ended.outcome in (Outcome.ANSWERED, Outcome.REPEATED):
                queue.done(delivery)
            elif ended.outcome is Outcome.INTERRUPTED:
                queue.hand_over(delivery)
            else:
                queue.give_back(delivery, ended.retry_in)
        except WorkFolderError as error:
            self._break(error)
        except (ClientError, BotoCoreError) as error:
            log.warning(
                "job %s: the queue did not answer (%s); the message comes back by itself", job.message.job, error.__class__.__name__
            )
        finally:
            ended = ended or Ended(Outcome.INTERRUPTED)
            with self._changed:
                self._jobs.remove(job)
                self._idle_since = max(self._idle_since, time.monotonic() + ended.retry_in)
                self._changed.notify_all()
            log.info("job %s: %s", job.message.job, ended.outcome)
            job.ended.set_result(ended)

    def _break(self, error: WorkFolderError) -> None:
        self.broken = self.broken or error
        self._context.stop.set()


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
