"""What happens on a day, event by event: messages come, hosts start, answer, are taken back and stop.

``simulate`` is the whole of it, and deterministic: the same messages, settings and seed make the same day. A job is answered once,
however often its message came; a host that is given the message of a job that another has in hand infers it too, as on AWS, and its copy
is discarded.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from monai_aws_pipeline.simulation.fleet import Fleet, Kind, Seen, hosts_to_start, instances_to_add, refill_seconds, start_seconds
from monai_aws_pipeline.simulation.host import Host, Message, State
from monai_aws_pipeline.simulation.measured import CloudWatch, Machine, Speed


@dataclass(frozen=True)
class Job:
    """An upload as the fleet sees it: when it came, and how many studies it holds.

    ``size``: seconds of each of its studies, in parts of what was measured. ``messages``: when its events come, each of them a message;
    none named: one, with the upload.
    """

    at: float
    studies: int = 1
    size: float = 1.0
    messages: tuple[float, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The one answer of a job: when, and by which host."""

    job: int
    arrived: float
    answered: float
    host: int


@dataclass(frozen=True)
class OnTime:
    """A host was on from power on to off; ``taken_back``: AWS ended it. Seconds after midnight."""

    host: int
    begin: float
    end: float
    taken_back: bool = False

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.begin


@dataclass
class Day:
    """What happened. ``discarded``: copies of answers that another host had given; ``given_back``: jobs of hosts that AWS took back.

    ``refills``: machines that were on to get into the warm pool, each with the host that had left it.
    """

    answers: list[Answer] = field(default_factory=list)
    on: list[OnTime] = field(default_factory=list)
    refills: list[OnTime] = field(default_factory=list)
    discarded: int = 0
    given_back: int = 0
    refused_starts: int = 0

    @property
    def machine_seconds(self) -> float:
        """All machines' seconds between power on and off."""
        return math.fsum(each.seconds for each in (*self.on, *self.refills))

    @property
    def end(self) -> float:
        """When the last host was off."""
        return max((each.end for each in self.on), default=0.0)


def simulate(
    jobs: Sequence[Job],
    speed: Speed,
    fleet: Fleet,
    machine: Machine | None = None,
    watch: CloudWatch | None = None,
    seed: int = 0,
) -> Day:
    """Run until every job is answered and every host is off."""
    return _Run(jobs, speed, fleet, machine or Machine(), watch or CloudWatch(), seed).run()


class _Run:
    """The heap of events and what they change."""

    def __init__(self, jobs: Sequence[Job], speed: Speed, fleet: Fleet, machine: Machine, watch: CloudWatch, seed: int):
        self._jobs, self._speed, self._fleet, self._machine, self._watch = jobs, speed, fleet, machine, watch
        self._drawn = random.Random(seed)  # noqa: S311 - a simulation's, and repeatable
        self._work = [job.studies * job.size for job in jobs]
        self._answered = [False] * len(jobs)
        self._to_come = sum(len(job.messages) or 1 for job in jobs)
        self._queue: deque[Message] = deque()
        self._hosts = [Host(number, fleet.at_once, speed) for number in range(fleet.most)]
        self._pooled = fleet.warm_pool
        self._seen: list[Seen] = []
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._now = 0.0
        self._day = Day()

    def run(self) -> Day:
        """The day."""
        for number, job in enumerate(self._jobs):
            for at in job.messages or (job.at,):
                self._at(at + self._machine.trigger_s, self._come, number)
        if self._fleet.kind is Kind.HOSTS:
            self._at(self._fleet.wake_every_minutes * 60, self._scheduled)
        else:
            self._at(self._watch.period_s, self._alarms)
        while self._events:
            self._now, _, event, given = heapq.heappop(self._events)
            event(*given)
        return self._day

    def _at(self, when: float, event: Callable[..., None], *given: object) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event, given))

    # -- how many hosts --------------------------------------------------------------------------------------------------

    def _come(self, job: int) -> None:
        self._to_come -= 1
        self._send(job)
        self._wake()

    def _is_over(self) -> bool:
        return not self._to_come and not self._queue and all(host.state is State.OFF for host in self._hosts)

    def _scheduled(self) -> None:
        self._wake()
        if not self._is_over():
            self._at(self._now + self._fleet.wake_every_minutes * 60, self._scheduled)

    def _wake(self) -> None:
        if self._queue:
            on = sum(host.state in (State.STARTING, State.ON, State.LEAVING) for host in self._hosts)
            self._start_some(hosts_to_start(len(self._queue), on, self._fleet))

    def _alarms(self) -> None:
        oldest = self._now - self._queue[0].since if self._queue else 0.0
        late = round(self._watch.delay_s / self._watch.period_s)
        self._seen = [*self._seen, Seen(len(self._queue), oldest)][-self._watch.datapoints - late :]
        known = self._seen[: len(self._seen) - late]
        running = sum(host.state is State.ON for host in self._hosts)
        starting = sum(host.state is State.STARTING for host in self._hosts)
        self._start_some(instances_to_add(known, running, starting, self._fleet, self._watch))
        if not self._is_over():
            self._at(self._now + self._watch.period_s, self._alarms)

    def _start_some(self, wanted: int) -> None:
        for host in self._hosts:
            if wanted <= 0:
                return
            if host.state is State.OFF:
                wanted -= 1
                if self._machine.refused_starts and self._drawn.random() < self._machine.refused_starts:
                    self._day.refused_starts += 1
                    continue
                self._start(host)
                if self._fleet.spot and self._machine.interruptions_per_hour:
                    after = self._drawn.expovariate(self._machine.interruptions_per_hour / 3600)
                    self._at(self._now + after, self._notice, host, host.life)

    def _start(self, host: Host) -> None:
        host.start(self._now, is_new=not self._fleet.keeps_machines)
        pooled = self._pooled > 0
        if pooled:
            self._pooled -= 1
            self._at(self._now + refill_seconds(self._machine), self._refilled, host.number, self._now)
        self._at(self._now + start_seconds(self._fleet, self._machine, self._speed, pooled=pooled), self._ready, host, host.life)

    def _refilled(self, number: int, since: float) -> None:
        self._pooled += 1
        self._day.refills.append(OnTime(number, since, self._now))

    # -- a host ----------------------------------------------------------------------------------------------------------

    def _ready(self, host: Host, life: int) -> None:
        if host.life != life or host.state is not State.STARTING:
            return
        host.state, host.idle_since, host.polls_from = State.ON, self._now, self._now
        self._offer(host)
        self._look_at_idleness(host)

    def _send(self, job: int) -> None:
        """A message comes into the queue. Whichever host has a place may take it: each of them polls, whatever else it has in hand."""
        self._queue.append(Message(job, self._now))
        if able := [host for host in self._hosts if host.has_place]:
            self._offer(self._drawn.choice(able) if len(able) > 1 else able[0])

    def _offer(self, host: Host) -> None:
        """Let a host that may have a place take what waits. After each event, while anything waits, no host has a place."""
        while self._queue and host.has_place:
            self._take(host)

    def _take(self, host: Host) -> None:
        message = self._queue.popleft()
        if message.job in host.in_hand:
            return  # the second message of a job in hand is removed
        host.in_hand[message.job] = message
        host.is_fetching = True
        repeated = self._answered[message.job]
        seconds = self._machine.repeat_s if repeated else self._speed.fetch_s * self._work[message.job]
        self._at(self._now + seconds, self._fetched, host, host.life, message, repeated)

    def _fetched(self, host: Host, life: int, message: Message, repeated: bool) -> None:
        if host.life != life or message.job not in host.in_hand:
            return
        host.is_fetching, host.polls_from = False, self._now
        if repeated:
            self._end(host, message)
        elif host.state is State.LEAVING:
            self._give_back(host, [message])
        else:
            host.waiting.append(message)
            self._infer(host)
        self._offer(host)

    def _infer(self, host: Host) -> None:
        host.infer(self._now, self._work)
        if (end := host.next_end()) is not None:
            self._at(end, self._inferred, host, host.turn)

    def _inferred(self, host: Host, turn: int) -> None:
        if host.turn != turn:
            return  # one more came or went since
        host.publishing.append(host.ended(self._now))
        self._publish(host)
        self._infer(host)
        self._offer(host)

    def _publish(self, host: Host) -> None:
        while host.publishing and host.publishers < host.most_publishers:
            host.publishers += 1
            message = host.publishing.popleft()
            self._at(self._now + self._speed.publish_s * self._work[message.job], self._published, host, host.life, message)

    def _published(self, host: Host, life: int, message: Message) -> None:
        if host.life != life or message.job not in host.in_hand:
            return
        host.publishers -= 1
        if self._answered[message.job]:
            self._day.discarded += 1
        else:
            self._answered[message.job] = True
            self._day.answers.append(Answer(message.job, self._jobs[message.job].at, self._now, host.number))
        self._publish(host)
        self._end(host, message)
        self._offer(host)

    def _end(self, host: Host, message: Message) -> None:
        del host.in_hand[message.job]
        if not host.in_hand:
            host.idle_since = self._now
            if host.state is State.LEAVING:
                self._stop(host)
            else:
                self._look_at_idleness(host)

    # -- its end ---------------------------------------------------------------------------------------------------------

    def _look_at_idleness(self, host: Host) -> None:
        """The agent looks after each poll that brought nothing."""
        if host.state is State.ON and not host.in_hand:
            due = host.idle_since + self._fleet.idle_stop_minutes * 60
            polls = max(1, math.ceil(round((due - host.polls_from) / self._machine.poll_s, 6)))
            self._at(host.polls_from + polls * self._machine.poll_s, self._maybe_idle, host, host.life, host.idle_since)

    def _maybe_idle(self, host: Host, life: int, since: float) -> None:
        if host.life == life and host.state is State.ON and not host.in_hand and host.idle_since == since:
            self._stop(host)

    def _stop(self, host: Host, taken_back: bool = False) -> None:
        taken_back = taken_back or host.state is State.LEAVING
        host.state = State.STOPPING
        self._at(self._now + self._machine.stop_s, self._off, host, taken_back)

    def _off(self, host: Host, taken_back: bool) -> None:
        host.state = State.OFF
        self._day.on.append(OnTime(host.number, host.on_at, self._now, taken_back))

    def _notice(self, host: Host, life: int) -> None:
        """AWS takes a Spot machine back: nothing new is begun, what runs may end, what waits is given back."""
        if host.life != life or host.state not in (State.STARTING, State.ON):
            return
        host.state = State.LEAVING
        self._give_back(host, host.drop_waiting())
        if host.in_hand:
            self._at(self._now + self._machine.notice_s, self._taken, host, life)
        elif host.state is State.LEAVING:
            self._stop(host)

    def _taken(self, host: Host, life: int) -> None:
        if host.life == life and host.state is State.LEAVING:
            self._give_back(host, host.drop_all())

    def _give_back(self, host: Host, messages: Sequence[Message]) -> None:
        """Send anew, to the end of the queue, and end them here."""
        self._day.given_back += len(messages)
        for message in messages:
            self._end(host, message)
        for message in messages:
            self._send(message.job)
