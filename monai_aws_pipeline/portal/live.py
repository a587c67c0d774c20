"""Where jobs are, told to however many browsers follow them, from one look at AWS.

Two threads look while anybody follows, and end when nobody does: at the results index every two seconds (one LIST for all jobs), at queues
and hosts every five (``whereabouts.look``). Here belongs that thread and what a browser is told; the words for it are in ``texts``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.contract import ResultRecord, Status, index_hour_prefix
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal.addresses import path_of

RESULTS_SECONDS: Final = 2.0
SURROUNDINGS_SECONDS: Final = 5.0
ASKED_ANEW_SECONDS: Final = 30.0
"""After which a job is asked for by itself: its index entry may be older than the look, or not written yet."""
IDLE_SECONDS: Final = 60
MOST_JOBS: Final = 500
_STATES: Final = {
    "fetching": "fetching",
    "waiting": "fetching",
    "pulling": "running",
    "inferring": "running",
    "publishing": "publishing",
    "archiving": "publishing",
}
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """One study's end: its page, its status, and code and cause with remedy where it was not answered."""

    page: str
    status: str
    study: str = ""
    code: str = ""
    why: str = ""

    @classmethod
    def of(cls, record: ResultRecord) -> Ended:
        """As a record has it."""
        error = record.error
        return cls(
            path_of(record.study, record.job),
            record.status.value,
            record.study,
            error.code if error else "",
            error.message if error else "",
        )


@dataclass(frozen=True)
class Seen:
    """What a browser is told of a job: a state, the phase of it on a host, how many wait before it, how its studies ended."""

    state: str
    phase: str = ""
    before: int = 0
    ended: tuple[Ended, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return bool(self.ended)


UNKNOWN: Final = Seen("unknown")
"""Nothing has been looked at yet, or AWS does not say."""


def seen_of(job: str, surroundings: Surroundings | None, before: Seen = UNKNOWN) -> Seen:
    """Where a job without an answer is. ``before``: where it was seen last, which stands while a host does not say what it has in hand."""
    if surroundings is None:
        return UNKNOWN
    if found := surroundings.in_hand([job]):
        _, phase = found[job]
        return Seen(_STATES.get(phase, "running"), phase)
    silent = any(host.state == "running" and (host.work is None or host.work.agent == "unknown") for host in surroundings.hosts)
    if before.phase and silent:
        return before
    awake = any(host.work and host.work.agent == "running" for host in surroundings.hosts)
    coming = not awake and any(host.state in ("pending", "running") for host in surroundings.hosts)
    return Seen("starting") if coming else Seen("queued", before=max(surroundings.jobs.waiting - 1, 0))


def end_of(records: tuple[ResultRecord, ...]) -> Seen:
    """How a job has ended: ``done`` where every study of it is answered."""
    done = all(record.status is Status.SUCCEEDED for record in records)
    return Seen("done" if done else "refused", ended=tuple(Ended.of(record) for record in records))


@dataclass
class _Followed:
    """A job that somebody follows: by how many, what is known of it, and since when it has not been asked for by itself."""

    followers: int = 0
    seen: Seen = UNKNOWN
    asked_at: float = field(default=float("-inf"))


class Watcher:
    """What is known of the jobs that are followed. ``look``: at queues and hosts. Safe to use from several threads."""

    def __init__(self, store: ResultsStore, look: Callable[[], Surroundings], clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._look, self._clock = store, look, clock
        self._jobs: dict[str, _Followed] = {}
        self._surroundings: Surroundings | None = None
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)
        self._looking: set[str] = set()

    def follow(self, job: str) -> bool:
        """Begin to look for a job; False where so many are followed that no more are."""
        with self._lock:
            if job not in self._jobs and len(self._jobs) >= MOST_JOBS:
                return False
            self._jobs.setdefault(job, _Followed()).followers += 1
            for work, pause in ((self.look_at_results, RESULTS_SECONDS), (self.look_around, SURROUNDINGS_SECONDS)):
                if work.__name__ not in self._looking:
                    self._looking.add(work.__name__)
                    threading.Thread(target=self._repeat, args=(work, pause), name=work.__name__, daemon=True).start()
            self._wanted.notify_all()
        return True

    def leave(self, job: str) -> None:
        """Somebody follows it no more."""
        with self._lock:
            followed = self._jobs.get(job)
            if followed:
                followed.followers -= 1
                if followed.followers <= 0:
                    del self._jobs[job]

    def seen(self, job: str) -> Seen:
        """What is known of a job that is followed."""
        with self._lock:
            followed = self._jobs.get(job)
            return followed.seen if followed else UNKNOWN

    def look_around(self) -> None:
        """Queues and hosts, once for all."""
        self._surroundings = self._look()
        self._tell()

    def look_at_results(self) -> None:
        """Which of the jobs have ended: by the newest entries of the index, and now and then each by itself."""
        since = datetime.now(UTC) - timedelta(minutes=5)
        entered = {key.rpartition("/")[2][:32] for key in self._store.index_keys(index_hour_prefix(since))}
        now = self._clock()
        with self._lock:
            asked = [job for job, each in self._jobs.items() if not each.seen.over and (job in entered or self._is_due(each, now))]
            for job in asked:
                self._jobs[job].asked_at = now
        for job in asked:
            self._ask(job)
        self._tell()

    @staticmethod
    def _is_due(followed: _Followed, now: float) -> bool:
        return now - followed.asked_at >= ASKED_ANEW_SECONDS

    def _ask(self, job: str) -> None:
        try:
            records = self._store.answers(job)
        except UnreadableResultError:  # its page says so
            return
        with self._lock:
            if records and job in self._jobs:
                self._jobs[job].seen = end_of(records)

    def _tell(self) -> None:
        with self._lock:
            for job, followed in self._jobs.items():
                if not followed.seen.over:
                    followed.seen = seen_of(job, self._surroundings, followed.seen)

    def _repeat(self, work: Callable[[], None], pause: float) -> None:
        while True:
            with self._lock:
                if not self._wanted.wait_for(lambda: self._jobs, timeout=IDLE_SECONDS):
                    self._looking.discard(work.__name__)
                    return
            try:
                work()
            except (NamedError, ClientError, BotoCoreError) as error:  # the next look may be answered
                _log.warning("cannot look for jobs: %s", type(error).__name__)
            time.sleep(pause)
