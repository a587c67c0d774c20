"""What a test of several jobs at once needs: a MAP that waits to be let go, uploads, a host that looks at its queue at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import JobMessage
from monai_aws_pipeline.host_agent.agent import Agent, BootOnce
from monai_aws_pipeline.host_agent.aws.job_queue import Delivery, JobsQueue
from monai_aws_pipeline.host_agent.cost_ledger import Bill
from monai_aws_pipeline.host_agent.job_steps import HostContext
from monai_aws_pipeline.host_agent.membership import NamedHost
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from tests.unit.host_agent.bench import Bench, answers, zip_of


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


class HeldMap:
    """A MAP that answers like any other, but not this study before ``released`` is set. Counts how many run at once."""

    def __init__(self, held: str = ""):
        self.held, self.reached, self.released = held, threading.Event(), threading.Event()
        self.running = self.most = 0

    def __call__(self, source: Path, target: Path) -> RunEnd:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.held and self.held.encode() in next(source.iterdir()).read_bytes():
                self.reached.set()
                assert self.released.wait(30)
            return answers(source, target)
        finally:
            self.running -= 1


def uploads(bench: Bench, folder: Path, count: int) -> tuple[list[str], list[JobMessage], list[Delivery]]:
    """So many studies, their jobs, and one receipt of each."""
    uids = [str(generate_uid()) for _ in range(count)]
    messages = [bench.upload(f"input/{number}.zip", zip_of(folder, uid)) for number, uid in enumerate(uids)]
    queue = bench.host().queue
    received = {delivery.body: delivery for _ in uids if (delivery := queue.take(0))}
    return uids, messages, [received[message.to_json()] for message in messages]


class PromptQueue(JobsQueue):
    """Does not wait for messages."""

    def take(self, wait_s: int = 0) -> Delivery | None:
        return super().take(0)


def agent(bench: Bench, host: HostContext, off: list[int], in_use: Callable[[], bool] = lambda: False) -> Agent:
    named = NamedHost(host.config.idle_stop_minutes * 60, lambda: off.append(sum(key.count("/") == 1 for key in bench.stored("jobs/"))))
    return Agent(host, named, BootOnce(bench.folder, lambda: 5.0), in_use)


def prompt_host(bench: Bench) -> HostContext:
    host = bench.host()
    return replace(
        host, config=replace(host.config, idle_stop_minutes=0.01), queue=PromptQueue(bench.sqs, host.config.jobs_queue),
        bill=Bill(bench.folder / "unpaid.json"),
    )  # fmt: skip
