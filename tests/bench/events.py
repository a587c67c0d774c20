"""How many results a second the sensor ``study_results`` records on SQLite and on PostgreSQL, beside what Dagster itself can write there.

The limit is measured with the very events that the sensor has made, written one after the other as Dagster's daemon does it: what Dagster
takes for an event of that size on this machine. Ours is the whole way: listing, reading record, measurements and picture, making the event,
looking whether it is there already, writing it, partitions and cursor. Both in turns on fresh storages, PostgreSQL as it is installed (each
commit on disk), S3 emulated by ministack. The share is ours by the limit; 1 would be a sensor that costs nothing.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dagster import AssetMaterialization, AssetObservation, DagsterInstance, build_sensor_context
from dagster_aws.s3 import S3Resource
from PIL import Image

from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies.lineage import STUDIES
from monai_aws_pipeline.studies.sensor import study_results_sensor
from tests.bench.sensor import emulated_s3
from tests.support.postgres import Postgres, server
from tests.unit.studies.records import Bucket, succeeded

RESULTS = 200
REPEATS = 3
Event = AssetMaterialization | AssetObservation


def measure() -> dict[str, Any]:
    """Events a second, ours and Dagster's limit, by storage."""
    with tempfile.TemporaryDirectory() as folder, server() as postgres:
        root = Path(folder)
        with emulated_s3(root) as s3:
            bucket = Bucket(s3)
            now = datetime.now(UTC)
            preview = drawn()
            for number in range(RESULTS):
                bucket.commit(succeeded(number, now - timedelta(minutes=number % 50)), preview)
            storages: dict[str, Callable[[Path], Any]] = {"sqlite": sqlite, "postgresql": lambda home: team(home, postgres)}
            rows = [compare(name, make, bucket, root) for name, make in storages.items()]
    return {"results": RESULTS, "repeats": REPEATS, "storages": rows}


def drawn() -> bytes:
    """A picture that is as hard to make small as a preview: smooth, with an outline, and not noise."""
    image = Image.radial_gradient("L").resize((600, 240)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def compare(name: str, make: Callable[[Path], Any], bucket: Bucket, root: Path) -> dict[str, Any]:
    """One row. Ours and the limit follow each other in each repeat, so that a slow minute meets both."""
    ours, limit, ticks, written = [], [], [], 0
    for number in range(REPEATS):
        with make(root / f"{name}-{number}-ours") as instance:
            began = time.perf_counter()
            events, ticking = record(instance, bucket)
            ours.append(len(events) / (time.perf_counter() - began))
            ticks.append(ticking)
            written = len(events)
        with make(root / f"{name}-{number}-limit") as instance:
            began = time.perf_counter()
            for event in events:
                instance.report_runless_asset_event(event)
            limit.append(len(events) / (time.perf_counter() - began))
    assert written == RESULTS, f"{written} of {RESULTS} results were recorded"
    per_second = {"ours": statistics.median(ours), "dagster": statistics.median(limit)}
    return {
        "storage": name,
        "events_per_second": {who: round(value, 1) for who, value in per_second.items()},
        "share": round(per_second["ours"] / per_second["dagster"], 3),
        "seconds_in_ticks": round(statistics.median(ticks), 2),
        "each": {"ours": [round(value, 1) for value in ours], "dagster": [round(value, 1) for value in limit]},
    }


def record(instance: DagsterInstance, bucket: Bucket) -> tuple[list[Event], float]:
    """Tick until nothing is left, and do with each result what Dagster's daemon does, in its order. The events, and seconds in ticks."""
    sensor, cursor, made, ticking = study_results_sensor(30), None, [], 0.0
    with patch.object(S3Resource, "get_client", lambda _: bucket.s3):
        while True:
            context = build_sensor_context(
                instance=instance,
                cursor=cursor,
                resources={"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": bucket.name})},
            )
            began = time.perf_counter()
            data = sensor.evaluate_tick(context)
            ticking += time.perf_counter() - began
            if not data.asset_events:
                return made, ticking
            for event in data.asset_events:
                instance.report_runless_asset_event(event)
                made.append(event)
            for request in data.dynamic_partitions_requests or []:
                instance.add_dynamic_partitions(str(STUDIES.name), request.partition_keys)
            cursor = data.cursor


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
    with (
        patch.dict(os.environ, postgres.environment(postgres.database()) | {"MONAI_AWS_BUCKET": "studies"}),
        DagsterInstance.from_config(str(home)) as instance,
    ):
        yield instance
