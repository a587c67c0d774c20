"""How many results a second the sensor ``study_results`` records on SQLite and on PostgreSQL, beside what Dagster itself can write there.

Ours is the whole way, by Dagster's own daemon code and a code server in a process of its own, as a deployment has them: making the client,
listing, reading record and measurements, making the events, looking whether they are there already, handing them to the daemon, writing
them, partitions, cursor and tick. Ticks follow each other without the pause that a deployment has, and the first is preceded by one of a
single result, as processes live for days. The limit is the very events that the daemon was handed, written one after the other by what it
calls for them (``report_runless_asset_event``): what Dagster takes for events of that size on this machine, with nothing else. Both on
fresh storages, PostgreSQL as it is installed (each commit on disk), S3 emulated by ministack on the same cores, and in turns: the events
of each tick are written to the other storage when the tick has ended, and whoever's turn it is not has its clock stopped, because a
machine that others share writes half as many events a second in one minute as in the next. What a tick has begun to read ahead and not
ended goes on in the other's turn; it takes less than half as long as writing. The share is ours by the limit, the median of the repeats.
5,000 results, as many as a busy hour has: nothing can be read ahead of the first hundred, and nothing is written while they are read.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dagster import AssetMaterialization, AssetObservation, DagsterInstance
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration

from monai_aws_pipeline.contract import INDEX_PREFIX, IndexEntry
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT
from tests.bench._hosts import say
from tests.bench.sensor import emulated_s3
from tests.support.postgres import Postgres, server
from tests.unit.studies.records import Bucket, succeeded

RESULTS = 5000
REPEATS = 3
Event = AssetMaterialization | AssetObservation
Opened = Callable[[Path], AbstractContextManager[DagsterInstance]]


def measure() -> dict[str, Any]:
    """Events a second, ours and Dagster's limit, by storage."""
    with tempfile.TemporaryDirectory() as folder, server() as postgres, emulated_s3(Path(folder)) as s3:
        bucket = Bucket(s3)
        now = datetime.now(UTC)
        records = [succeeded(number, now - timedelta(minutes=number % 50)) for number in range(RESULTS)]
        with ThreadPoolExecutor(4) as writers:
            list(writers.map(bucket.commit, records))
        index = {record.index_key: IndexEntry.of(record).to_json() for record in records}
        storages: dict[str, Opened] = {"sqlite": sqlite, "postgresql": lambda home: team(home, postgres)}
        environment = {
            "AWS_ENDPOINT_URL": s3.meta.endpoint_url,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MONAI_AWS_BUCKET": bucket.name,
        }
        with patch.dict(os.environ, environment):
            rows = [compare(name, opened, bucket, index, Path(folder)) for name, opened in storages.items()]
    return {"results": RESULTS, "repeats": REPEATS, "storages": rows}


def compare(name: str, opened: Opened, bucket: Bucket, index: dict[str, str], root: Path) -> dict[str, Any]:
    """One row."""
    ours, limit = [], []
    for number in range(REPEATS):
        with opened(root / f"{name}-{number}-ours") as instance, opened(root / f"{name}-{number}-limit") as other:
            mine, theirs = record(instance, other, bucket, index)
            assert all(len(each.get_materialized_partitions(INFERENCE_RESULT)) == RESULTS for each in (instance, other))
        ours.append((RESULTS - 1) / mine)
        limit.append((RESULTS - 1) / theirs)
        say(f"{name}: {ours[-1]:.1f} events a second, and {limit[-1]:.1f} by Dagster alone")
    return {
        "storage": name,
        "events_per_second": {"ours": round(statistics.median(ours), 1), "dagster": round(statistics.median(limit), 1)},
        "share": round(statistics.median(mine / theirs for mine, theirs in zip(ours, limit, strict=True)), 3),
        "each": {"ours": [round(value, 1) for value in ours], "dagster": [round(value, 1) for value in limit]},
    }


def record(instance: DagsterInstance, other: DagsterInstance, bucket: Bucket, index: dict[str, str]) -> tuple[float, float]:
    """Have all results recorded by Dagster's daemon, and the same events by themselves on ``other``: seconds of all but the first, each."""
    fill(bucket, {})
    written: list[Event] = []
    write = instance.report_runless_asset_event

    def counted(event: Any) -> None:
        written.append(event)
        write(event)

    target = ModuleTarget(
        module_name="tests.bench._events_location", attribute=None, working_directory=str(PROJECT_ROOT), location_name="events"
    )
    with create_test_daemon_workspace_context(target, instance) as workspace, patch.object(instance, "report_runless_asset_event", counted):
        oldest = min(index)
        fill(bucket, {oldest: index[oldest]})
        look(workspace)
        assert len(written) == 1
        other.report_runless_asset_event(written[0])
        fill(bucket, index)
        time.sleep(1)  # until the sensor's next tick is due
        ours = theirs = 0.0
        while len(written) < len(index):
            done, began = len(written), time.perf_counter()
            look(workspace)
            ours += (turn := time.perf_counter()) - began
            for event in written[done:]:
                other.report_runless_asset_event(event)
            theirs += time.perf_counter() - turn
            if ours > 1200:
                raise RuntimeError(f"only {len(written)} of {len(index)} results were recorded within twenty minutes")
        return ours, theirs


def look(workspace: Any) -> None:
    """One round of Dagster's sensor daemon: the tick that is due, if one is."""
    for error in execute_sensor_iteration(workspace, logging.getLogger("tests.bench.events"), None, None):
        if error:
            raise RuntimeError(error.to_string())


def fill(bucket: Bucket, index: dict[str, str]) -> None:
    """Make these the entries of the results index."""
    for page in bucket.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=INDEX_PREFIX):
        if keys := [{"Key": item["Key"]} for item in page.get("Contents", [])]:
            bucket.s3.delete_objects(Bucket=bucket.name, Delete={"Objects": keys})
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda entry: bucket.put(*entry), index.items()))


@contextmanager
def sqlite(home: Path) -> Iterator[DagsterInstance]:
    """An empty instance as one machine has it."""
    home.mkdir()
    (home / "dagster.yaml").write_text((PROJECT_ROOT / "infra" / "dagster.yaml").read_text())
    with DagsterInstance.from_config(str(home)) as instance:
        yield instance


@contextmanager
def team(home: Path, postgres: Postgres) -> Iterator[DagsterInstance]:
    """An empty instance as a team has it."""
    home.mkdir()
    (home / "dagster.yaml").write_text((PROJECT_ROOT / "infra" / "team" / "dagster.yaml").read_text())
    with patch.dict(os.environ, postgres.environment(postgres.database())), DagsterInstance.from_config(str(home)) as instance:
        yield instance
