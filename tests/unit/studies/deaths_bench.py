"""Ticks that are killed: each is a process of its own on an instance that outlives it, and is killed as a machine does it, by SIGKILL.

What comes after is a daemon that was started anew. What the daemon stores, in its order (``dagster/_daemon/sensor.py``): asset events,
dynamic partitions, the cursor. The instance is SQLite's or PostgreSQL's, as the test opens it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from dagster import AssetCheckEvaluation, AssetMaterialization, DagsterInstance

from monai_aws_pipeline.operations.results_store import ResultsStore, StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.studies import checks_sensor, lineage, sensor
from monai_aws_pipeline.studies.checks import KEYS
from monai_aws_pipeline.studies.checks_sensor import Tally
from monai_aws_pipeline.studies.failures import UNANSWERED_STUDIES
from monai_aws_pipeline.studies.lineage import STUDIES, event_of
from monai_aws_pipeline.studies.read_ahead import ReadAhead
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT
from monai_aws_pipeline.studies.results_index import Cursor
from monai_aws_pipeline.studies.studies_by_map import STUDIES_BY_MAP
from tests.unit.studies.records import Bucket, job_of, picture, refused, study_of, succeeded

ANSWERED: Final = 5
RESULTS_POINTS: Final = (
    "before the listing",
    "after the listing",
    "at the first question to the event log",
    "at the last question to the event log",
    "at the first record",
    "at the last record",
    "at an entry",
    "at the measurements",
    "before the partitions",
    "after the partitions",
    "before the first event",
    "within an event, stored and not indexed",
    "after the first event",
    "after the last answer, before the refusal",
    "within the cursor's transaction",
    "after the cursor",
)
AHEAD: Final = "while the next tick's results are read ahead"
CHECKS_POINTS: Final = (
    "before the first question",
    "after the results were read",
    "after the tables were read",
    "before the first event",
    "within an evaluation, stored and not among the checks'",
    "after the first event",
    "after the last evaluation, before the tables",
    "within a table's event, stored and not indexed",
    "between the tables",
    "before the cursor",
    "within the cursor's transaction",
    "after the cursor",
)

Opened = Callable[[], AbstractContextManager[DagsterInstance]]


@dataclass
class Reaper:
    """Kills this process when it comes to a point; none where that is empty."""

    point: str = ""
    passed: dict[str, int] = field(default_factory=dict)
    one_by_one: threading.Lock = field(default_factory=threading.Lock)  # some points are passed by several threads

    def __call__(self, point: str, time: int = 1) -> None:
        """Pass a point; at which time it kills may be chosen."""
        with self.one_by_one:
            self.passed[point] = self.passed.get(point, 0) + 1
            if point == self.point and self.passed[point] == time:
                os.kill(os.getpid(), signal.SIGKILL)

    def within(self, owner: Any, name: str, *, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> None:
        """Pass points before and after a call of what is named. Only ever in a process that ends with it."""
        call = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            if before:
                before()
            value = call(*given, **named)
            if after:
                after()
            return value

        setattr(owner, name, watched)


@contextmanager
def on_sqlite(home: Path) -> Iterator[DagsterInstance]:
    """An instance as one machine has it."""
    with DagsterInstance.local_temp(str(home), overrides={"telemetry": {"enabled": False}}) as instance:
        yield instance


def killed(tick: Callable[[Reaper], object], dies: str) -> None:
    """A tick in a process of its own, which must not outlive the point."""
    pid = os.fork()
    if pid == 0:
        try:
            tick(Reaper(dies))
        finally:
            os._exit(7)  # it lived on, or failed: not what was wanted
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the tick never came to the point {dies!r}, or failed before it ({status})"
    assert os.WTERMSIG(status) == signal.SIGKILL


def until_quiet(tick: Callable[[Reaper], bool]) -> None:
    """Ticks that live, until one has nothing to say."""
    for _ in range(6):
        if not tick(Reaper()):
            return
    raise AssertionError("the sensor never comes to rest")


def _within_cursor(instance: DagsterInstance, die: Reaper, cursors: dict[str, str]) -> None:
    """Store a cursor, passing the point at which it is written and its transaction has not ended."""
    storage: Any = instance.daemon_cursor_storage
    runs: Any = getattr(storage, "_storage", storage)
    connect = runs.connect

    @contextmanager
    def connected(*given: Any, **named: Any) -> Iterator[Any]:
        with connect(*given, **named) as connection:
            yield connection
            die("within the cursor's transaction")

    with patch.object(runs, "connect", connected):
        instance.daemon_cursor_storage.set_cursor_values(cursors)
    die("after the cursor")


# ---------------------------------------------------------------------------------------------------------------------- study_results


def a_days_results(bucket: Bucket, now: datetime) -> None:
    """Answers and, last, a refusal."""
    for number in range(ANSWERED):
        older = {} if number else {"measured": None}  # one that an older host committed, whose measurements are a file alone
        bucket.commit(succeeded(number, now - timedelta(minutes=9 - number), **older), picture())
    bucket.commit(refused(9, now - timedelta(minutes=1), study=study_of(9)))


def results_tick(opened: Opened, bucket: Bucket, now: datetime, die: Reaper) -> bool:
    """A tick of ``study_results`` as the daemon does it; returns whether it recorded anything."""
    with opened() as instance:
        ahead = ReadAhead()
        if die.point:
            _watch_results(instance, bucket, ahead, die)
        stored = instance.daemon_cursor_storage.get_cursor_values({"study_results"}).get("study_results")
        store = ResultsStore(bucket.s3, bucket.name)
        recording, cursor = sensor.tick(instance, store, Cursor.parse(stored), now, ahead=ahead)
        die("before the partitions")
        if recording.studies:
            instance.add_dynamic_partitions(str(STUDIES.name), list(recording.studies))
        die("after the partitions")
        die("before the first event")
        for event in recording.events:
            if not isinstance(event, AssetMaterialization):
                die("after the last answer, before the refusal")
            instance.report_runless_asset_event(event)
            die("after the first event")
        _within_cursor(instance, die, {"study_results": cursor.to_text()})
        ahead.close()
        return bool(recording.events)


def _watch_results(instance: DagsterInstance, bucket: Bucket, ahead: ReadAhead, die: Reaper) -> None:
    def before(params: dict[str, Any], model: Any, **_: Any) -> None:
        url = params["url_path"]
        if model.name == "ListObjectsV2":
            die("before the listing")
        elif url.endswith("measurements.json"):
            die("at the measurements")
        elif "results-index" in url:
            die("at an entry")
        elif url.endswith("result.json"):
            die("at the first record")
            die("at the last record", ANSWERED + 2)  # where an answer to the refused study would be, and where its refusal is
            if "the next tick's results are expected" in die.passed:
                die(AHEAD)

    bucket.s3.meta.events.register("before-call.s3", before)
    bucket.s3.meta.events.register("after-call.s3.ListObjectsV2", lambda **_: die("after the listing"))
    die.within(ahead, "expect", before=lambda: die("the next tick's results are expected"))
    die.within(lineage, "recorded_among", before=lambda: die("at the first question to the event log"))
    die.within(lineage, "latest_answers_to", before=lambda: die("at the last question to the event log"))
    die.within(instance.event_log_storage, "_store_asset_event", before=lambda: die("within an event, stored and not indexed"))


def assert_recorded_and_shown_once(opened: Opened) -> None:
    """Every result of ``a_days_results``."""
    with opened() as instance:
        answers = [record.asset_materialization for record in instance.fetch_materializations(INFERENCE_RESULT, limit=100).records]
        refusals = [record.asset_observation for record in instance.fetch_observations(INFERENCE_RESULT, limit=100).records]
        partitions = set(instance.get_dynamic_partitions(str(STUDIES.name)))
        shown = instance.get_materialized_partitions(INFERENCE_RESULT)
    recorded = [(event.tags or {})["monai-aws/job"] for event in answers if event]
    assert sorted(recorded) == sorted(map(job_of, range(ANSWERED))), "once each"
    if sensor.EVENTS_A_TICK > ANSWERED:  # over several ticks those of one hour come in the order of their keys
        assert recorded == [job_of(n) for n in reversed(range(ANSWERED))], "in the order of their commits"
    assert [(event.tags or {})["monai-aws/job"] for event in refusals if event] == [job_of(9)]
    assert partitions == {*(study_of(n) for n in range(ANSWERED)), study_of(9)}
    assert shown == {study_of(n) for n in range(ANSWERED)}


# ------------------------------------------------------------------------------------------------------------------------ study_checks


def recorded(instance: DagsterInstance, now: datetime) -> None:
    """Answers, and a refusal that makes a check fail and has its place in a table."""
    records = [*(succeeded(n, now - timedelta(minutes=9 - n)) for n in range(3)), refused(9, now - timedelta(minutes=1), study_of(9))]
    for record in records:
        instance.report_runless_asset_event(event_of(StoredResult(record, ()), Addresses("studies"), {}))


def checks_tick(opened: Opened, die: Reaper) -> bool:
    """A tick of ``study_checks`` as the daemon does it; returns whether it showed anything."""
    with opened() as instance:
        if die.point:
            _watch_checks(instance, die)
        die("before the first question")
        stored = instance.daemon_cursor_storage.get_cursor_values({"study_checks"}).get("study_checks")
        events, tally = checks_sensor.tick(instance, Addresses("studies"), Tally.parse(stored), datetime.now(UTC))
        die("before the first event")
        for event in events:
            if not isinstance(event, AssetCheckEvaluation):
                die("after the last evaluation, before the tables")
            instance.report_runless_asset_event(event)
            die("after the first event")
            if isinstance(event, AssetMaterialization):
                die("between the tables")
        die("before the cursor")
        _within_cursor(instance, die, {"study_checks": tally.to_text()})
        return bool(events)


def _watch_checks(instance: DagsterInstance, die: Reaper) -> None:
    storage = instance.event_log_storage
    die.within(checks_sensor, "results_after", after=lambda: die("after the results were read"))
    die.within(checks_sensor, "standing_failures", after=lambda: die("after the tables were read"))
    die.within(storage, "store_asset_check_event", before=lambda: die("within an evaluation, stored and not among the checks'"))
    die.within(storage, "_store_asset_event", before=lambda: die("within a table's event, stored and not indexed"))


def assert_shown_once(opened: Opened, first_table_events: int = 1) -> None:
    """Every check of what ``recorded`` wrote, and both tables, which the pages take from Dagster's index of assets."""
    with opened() as instance:
        shown = {key.name: instance.event_log_storage.get_asset_check_execution_history(key, limit=100) for key in KEYS}
        tables = {key: instance.fetch_materializations(key, limit=100).records for key in (UNANSWERED_STUDIES, STUDIES_BY_MAP)}
        on_pages = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(list(tables))}
    assert {check: len(history) for check, history in shown.items()} == {key.name: 1 for key in KEYS}
    answered = shown["answered"][0].evaluation
    assert answered
    assert (answered.passed, answered.description) == (False, "1 of 4 results of the last 24 hours: quarantined: NOT_A_ZIP")
    assert {key: len(records) for key, records in tables.items()} == {UNANSWERED_STUDIES: first_table_events, STUDIES_BY_MAP: 1}
    for key, records in tables.items():
        shown_last = on_pages[key].last_materialization_record
        assert shown_last
        assert shown_last.storage_id == records[0].storage_id
