"""Wherever a tick of ``study_results`` is killed, every study is recorded, and shown once.

Each tick that dies is a process of its own, on a Dagster instance that lies on disk (SQLite), and is killed as a machine does it: nothing
of it runs on. What comes after is a daemon that was started anew. What the daemon stores, in its order (``dagster/_daemon/sensor.py``):
asset events, dynamic partitions, the cursor.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from dagster import AssetMaterialization, DagsterInstance

from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.studies import lineage
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, STUDIES
from monai_aws_pipeline.studies.results_index import Cursor
from monai_aws_pipeline.studies.sensor import tick
from tests.unit.studies.records import Bucket, job_of, picture, refused, study_of, succeeded

ANSWERED: Final = 5
KEY: Final = "study_results"
DEATHS: Final = (
    "before the listing",
    "after the listing",
    "at the first question to the event log",
    "at the last question to the event log",
    "at the first entry",
    "at the last entry",
    "at the first record",
    "at the measurements",
    "before the first event",
    "within an event, stored and not indexed",
    "after the first event",
    "after the last answer, before the refusal",
    "before the partitions",
    "after the partitions",
    "within the cursor's transaction",
    "after the cursor",
)


@dataclass
class Reaper:
    """Kills this process when it comes to a point; none where that is empty."""

    point: str = ""

    def __call__(self, point: str) -> None:
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def opened(home: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(home), overrides={"telemetry": {"enabled": False}}) as instance:
        yield instance


def one_tick(home: Path, bucket: Bucket, now: datetime, dies: str = "") -> bool:
    """A tick as the daemon does it; returns whether it recorded anything."""
    die = Reaper(dies)
    with opened(home) as instance:
        watch(instance, bucket, die)
        stored = instance.daemon_cursor_storage.get_cursor_values({KEY}).get(KEY)
        recording, cursor = tick(instance, ResultsStore(bucket.s3, bucket.name), Cursor.parse(stored), now)
        die("before the first event")
        for number, event in enumerate(recording.events):
            if not isinstance(event, AssetMaterialization):
                die("after the last answer, before the refusal")
            instance.report_runless_asset_event(event)
            if number == 0:
                die("after the first event")
        die("before the partitions")
        if recording.studies:
            instance.add_dynamic_partitions(str(STUDIES.name), list(recording.studies))
        die("after the partitions")
        instance.daemon_cursor_storage.set_cursor_values({KEY: cursor.to_text()})
        die("after the cursor")
        return bool(recording.events)


def watch(instance: DagsterInstance, bucket: Bucket, die: Reaper) -> None:
    """Pass the points that lie within what a tick calls. Only ever in a process that ends with it."""
    seen: dict[str, int] = {}

    def counted(point: str, wanted: int) -> None:
        seen[point] = seen.get(point, 0) + 1
        if seen[point] == wanted:
            die(point)

    def before(params: dict[str, Any], model: Any, **_: Any) -> None:
        url = params["url_path"]
        if model.name == "ListObjectsV2":
            counted("before the listing", 1)
        elif url.endswith("measurements.json"):
            counted("at the measurements", 1)
        elif "results-index" in url:
            counted("at the first entry", 1)
            counted("at the last entry", ANSWERED + 1)
        elif url.endswith("result.json"):
            counted("at the first record", 1)

    def listed(**_: Any) -> None:
        counted("after the listing", 1)

    if not die.point:
        return
    bucket.s3.meta.events.register("before-call.s3", before)
    bucket.s3.meta.events.register("after-call.s3.ListObjectsV2", listed)

    asked = lineage.is_recorded

    def is_recorded(*given: Any) -> bool:
        counted("at the first question to the event log", 1)
        counted("at the last question to the event log", ANSWERED + 1)
        return asked(*given)

    lineage.is_recorded = is_recorded
    storage: Any = instance.event_log_storage
    index_event = storage._store_asset_event

    def _store_asset_event(*given: Any) -> None:
        die("within an event, stored and not indexed")
        index_event(*given)

    storage._store_asset_event = _store_asset_event
    cursors: Any = instance.daemon_cursor_storage
    runs: Any = getattr(cursors, "_storage", cursors)
    connect = runs.connect

    @contextmanager
    def connected(*given: Any, **named: Any) -> Iterator[Any]:
        with connect(*given, **named) as connection:
            yield connection
            if seen.get("ready", 0):
                die("within the cursor's transaction")

    runs.connect = connected
    add: Callable[..., None] = instance.add_dynamic_partitions

    def partitions_added(*given: Any) -> None:
        add(*given)
        seen["ready"] = 1

    instance.add_dynamic_partitions = partitions_added  # type: ignore[method-assign]


def killed_tick(home: Path, bucket: Bucket, now: datetime, dies: str) -> None:
    """A tick in a process of its own, which must not outlive the point."""
    pid = os.fork()
    if pid == 0:
        try:
            one_tick(home, bucket, now, dies)
        finally:
            os._exit(7)  # it lived on, or failed: not what was wanted
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the tick never came to the point {dies!r}, or failed before it ({status})"
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Databases that are made once: making them costs more than a tick."""
    home = tmp_path_factory.mktemp("empty") / "home"
    home.mkdir()
    with opened(home) as instance:
        instance.add_dynamic_partitions(str(STUDIES.name), [])
    return home


@pytest.mark.parametrize("dies", DEATHS)
def test_wherever_a_tick_is_killed_every_study_is_recorded_and_shown_once(dies: str, bucket: Bucket, empty_home: Path, tmp_path: Path):
    home = shutil.copytree(empty_home, tmp_path / "home")
    now = datetime.now(UTC)
    for number in range(ANSWERED):
        bucket.commit(succeeded(number, now - timedelta(minutes=9 - number)), picture())
    bucket.commit(refused(9, now - timedelta(minutes=1), study=study_of(9)))

    killed_tick(home, bucket, now, dies)
    killed_tick(home, bucket, now, "before the listing")  # nor does a second death do harm
    for _ in range(3):
        if not one_tick(home, bucket, now):
            break
    else:
        raise AssertionError("the sensor never comes to rest")

    with opened(home) as instance:
        answers = [record.asset_materialization for record in instance.fetch_materializations(INFERENCE_RESULT, limit=100).records]
        refusals = [record.asset_observation for record in instance.fetch_observations(INFERENCE_RESULT, limit=100).records]
        partitions = set(instance.get_dynamic_partitions(str(STUDIES.name)))
        shown = instance.get_materialized_partitions(INFERENCE_RESULT)
        last = instance.fetch_materializations(INFERENCE_RESULT, limit=1).records[0].asset_materialization
    assert sorted((event.tags or {})["monai-aws/job"] for event in answers if event) == sorted(job_of(n) for n in range(ANSWERED))
    assert [(event.tags or {})["monai-aws/job"] for event in refusals if event] == [job_of(9)]
    assert partitions == {*(study_of(n) for n in range(ANSWERED)), study_of(9)}
    assert shown == {study_of(n) for n in range(ANSWERED)}
    assert last
    assert last.partition == study_of(ANSWERED - 1), "in the order of their commits"
