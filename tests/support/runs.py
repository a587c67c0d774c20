"""Runs of Dagster: started, followed and ended as a user, an operator or bad luck does it.

A ``Worker`` is the process that executes one run, forked from one that has the definitions loaded: loading them takes longer than reaching
most stages. An ``Installation`` is a Dagster with webserver and daemon. Here belongs nothing of what the runs do.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from dagster import AssetKey, DagsterInstance, DagsterRunStatus
from dagster._utils.interrupts import capture_interrupts
from dagster_graphql import DagsterGraphQLClient

from monai_aws_pipeline.demo.dagster_processes import DagsterProcesses
from tests.support.cloud import clouds_folder
from tests.support.faults import eventually
from tests.support.reaper import ended_by

ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["monai_aws_pipeline.definitions"])


def run_config(settings: Mapping[str, object]) -> dict[str, Any]:
    """The run config by which one run has other settings than its installation."""
    return {"resources": {"settings": {"config": {"overrides": dict(settings)}}}}


class Run:
    """One run in a Dagster instance."""

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self.id = run_id
        self._instance = instance
        self._cursor: str | None = None
        self._said: list[str] = []

    @property
    def status(self) -> DagsterRunStatus:
        """As the instance knows it."""
        run = self._instance.get_run_by_id(self.id)
        return run.status if run else DagsterRunStatus.NOT_STARTED

    def said(self) -> list[str]:
        """The run's log until now; an error with all its causes."""
        while True:
            connection = self._instance.get_records_for_run(self.id, cursor=self._cursor, limit=500)
            self._cursor = connection.cursor
            for record in connection.records:
                entry = record.event_log_entry
                event = entry.dagster_event
                self._said.append(entry.user_message or (event.message if event else "") or "")
                error = event.step_failure_data.error if event and event.is_step_failure else None
                while error is not None:
                    self._said.append(error.message)
                    error = error.cause
            if not connection.has_more:
                return self._said

    def until_said(self, pattern: str, seconds: float) -> str:
        """Wait for a line of the log; the run must not end before it."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self.status in ENDED
            for line in self.said():
                if re.search(pattern, line):
                    return line
            assert not ended, f"the run is {self.status.value} and never said {pattern!r}: {self.said()[-6:]}"
            assert time.monotonic() < deadline, f"{pattern!r} was not said within {seconds:.0f} s: {self.said()[-6:]}"
            time.sleep(0.1)

    def until_ended(self, seconds: float) -> DagsterRunStatus:
        """Wait for the run's end; how it ended."""
        eventually(lambda: self.status in ENDED, seconds)
        return self.status


class Worker(Run):
    """The process that executes a run of some assets, and its run."""

    def __init__(self, instance: DagsterInstance, home: Path, variables: Mapping[str, str], assets: Sequence[str], config: Any) -> None:
        super().__init__(instance, str(uuid.uuid4()))
        self.process = _FORKING.Process(target=execute, args=(str(home), dict(variables), list(assets), config, self.id))
        self.process.start()

    def cancel(self) -> None:
        """What becomes of ``terminateRun`` in the process: the run is marked, and the process interrupted."""
        run = self._instance.get_run_by_id(self.id)
        assert run
        self._instance.report_run_canceling(run)
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """kill -9, as the kernel does it when memory is short."""
        self.process.kill()
        self.process.join()

    def is_missed(self) -> None:
        """What Dagster does when it finds that the process is gone."""
        run = self._instance.get_run_by_id(self.id)
        assert run
        self._instance.report_run_failed(run)


def execute(home: str, variables: Mapping[str, str], assets: Sequence[str], config: Any, run_id: str) -> None:
    """Execute a run in this process, as Dagster's worker does: an interrupt is delivered where user code runs."""
    os.environ.update(variables)
    from monai_aws_pipeline.definitions import build_defs

    with capture_interrupts(), DagsterInstance.from_config(home) as instance:
        job = build_defs().get_repository_def().get_job("build_map")
        selected = [AssetKey(name) for name in assets]
        job.execute_in_process(config, instance, asset_selection=selected, raise_on_error=False, run_id=run_id)


class Installation:
    """A Dagster with webserver and daemon, sensors and schedules on."""

    def __init__(self, instance: DagsterInstance, address: str) -> None:
        self._instance = instance
        self._address = address

    def start(
        self,
        job: str,
        assets: Sequence[str] = (),
        settings: Mapping[str, object] | None = None,
        config: Mapping[str, object] | None = None,
    ) -> Run:
        """Start a job, or some assets of it, as a click in the UI does. ``config``: the run's own, ``settings`` apart."""
        options: dict[str, Any] = {"asset_selection": list(assets)} if assets else {}
        if settings or config:
            options["run_config"] = {**(config or {}), **(run_config(settings) if settings else {})}
        return Run(self._instance, self._client().submit_job_execution(job, **options))

    def cancel(self, run: Run) -> None:
        """Terminate a run as the UI's button does."""
        self._client().terminate_run(run.id)

    @staticmethod
    def kill(run: Run) -> None:
        """kill -9 of the process that executes the run, as the kernel does it when memory is short."""
        line = run.until_said(r"Started process for run \(pid: \d+\)", 30)
        os.kill(int(re.findall(r"pid: (\d+)", line)[0]), signal.SIGKILL)

    def _client(self) -> DagsterGraphQLClient:
        """A fresh one: it takes one question at a time, and tests ask from several threads."""
        host, _, port = self._address.removeprefix("http://").partition(":")
        return DagsterGraphQLClient(host, port_number=int(port))


@contextmanager
def installation(home: Path, variables: Mapping[str, str]) -> Iterator[Installation]:
    """Webserver and daemon in a folder, ended afterwards with everything they started."""
    with dagster_ended(home):
        address = DagsterProcesses(home).start(variables, 0, lambda _: None)
        with DagsterInstance.from_config(str(home)) as instance:
            yield Installation(instance, address)


def dagster_ended(home: Path) -> AbstractContextManager[None]:
    """Webserver and daemon of a folder are ended with the block, or with this process."""
    stop = (
        "import pathlib, sys; from monai_aws_pipeline.demo.dagster_processes import *; DagsterProcesses(pathlib.Path(sys.argv[1])).stop()"
    )
    return ended_by([sys.executable, "-c", stop, str(home)], clouds_folder())
