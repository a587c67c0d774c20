"""How long Dagster's pages wait for their data at 20,000 recorded studies and at 200,000, of which the window keeps 20,000.

The queries are the pages' own, sent to Dagster's webserver over HTTP, on SQLite and with the settings of one machine; each event is as
large as the sensor ``study_results`` writes it. ``first`` is the first time after a start, ``warm`` the median of the next ones, and
``after_news`` the first after another study was recorded, which is what a page meets that is open all day; ``cpu`` has the seconds of a
core that the webserver's process takes for these, which say the same on a machine that is busy; what its code server takes is not in them.
``ours`` is what the lineage itself asks of the same storage: a look of ``study_window``, one that removes as many partitions as it may, a
tick of ``study_checks``, and the first 20,000 answers that a mode of ``rerun_studies`` looks through.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvicorn
from dagster import AssetMaterialization, DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_webserver.webserver import DagsterWebserver

from monai_aws_pipeline.contract import SegmentVolume
from monai_aws_pipeline.demo.dagster_processes import free_port
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies import checks_sensor
from monai_aws_pipeline.studies.lineage import event_of
from monai_aws_pipeline.studies.study_history import latest_answers
from monai_aws_pipeline.studies.study_window import LEAVE_AT_ONCE, leave, look
from tests.bench._ui_queries import ui_query
from tests.support.recorded_studies import add_partitions, record_many
from tests.unit.studies.records import refused, study_of, succeeded

SIZES = (20_000, 200_000)
WINDOW = 20_000
A_DAY = 1_500
FAILURES = 50
WARM = 5
ASSET = {"path": ["inference_result"]}


def measure() -> dict[str, Any]:
    """One row for each number of recorded studies."""
    return {"window": WINDOW, "a_day": A_DAY, "warm_times": WARM, "rows": [at_size(size) for size in SIZES]}


def at_size(recorded: int) -> dict[str, Any]:
    """Seconds of each query, and of ours."""
    began = time.perf_counter()
    now = datetime.now(UTC)
    event, at = events(recorded, now)
    with instance_with(recorded, event, at) as (home, instance):
        filled = time.perf_counter() - began
        size = sum(file.stat().st_size for file in home.rglob("*.db*"))
        with webserver(instance) as address:
            queries = {
                name: timed(address, instance, *query, again=number + 1, event=event, recorded=recorded)
                for number, (name, query) in enumerate(asked(recorded).items())
            }
        return {
            "recorded": recorded,
            "partitions": len(instance.get_dynamic_partitions("study")),
            "gigabytes": round(size / 1e9, 2),
            "seconds_to_fill": round(filled),
            "queries": queries,
            "worst_warm": max(figures["warm"] for figures in queries.values()),
            "ours": ours(instance, now),
        }


def asked(recorded: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """The queries, with what the pages send along: name of ours, the pages' name, variables."""
    study = study_of(recorded - 100)
    events = {"eventTypeSelectors": ["MATERIALIZATION", "OBSERVATION", "FAILED_TO_MATERIALIZE"], "limit": 100}
    return {
        "definition": ("AssetViewDefinitionQuery", {"assetKey": ASSET}),
        "partition_counts": ("AssetGraphLiveQuery", {"assetKeys": [ASSET]}),
        "partition_keys": ("PartitionHealthQuery", {"assetKey": ASSET}),
        "one_study": ("AssetPartitionDetailQuery", {"assetKey": ASSET, "partitionKey": study}),
        "one_study_stale": ("AssetPartitionStaleQuery", {"assetKey": ASSET, "partitionKey": study}),
        "checks": ("AssetChecksQuery", {"assetKey": ASSET}),
        "health": ("AssetHealthQuery", {"assetKeys": [ASSET]}),
        "stale": ("AssetStaleStatusDataQuery", {"assetKeys": [ASSET]}),
        "events": ("RecentAssetEventsQuery", {"assetKey": ASSET, **events}),
        "runs": ("RunsFeedRootQuery", {"limit": 30, "view": "ROOTS"}),
    }


def timed(
    address: str,
    instance: DagsterInstance,
    name: str,
    variables: dict[str, Any],
    *,
    again: int,
    event: Callable[[int], AssetMaterialization],
    recorded: int,
) -> dict[str, Any]:
    """Seconds of one query: at first, then again and again, then when another study has come."""
    document = ui_query(name)
    (first, _), *warm = [ask(address, name, document, variables) for _ in range(1 + WARM)]
    instance.report_runless_asset_event(event(recorded + again))
    instance.add_dynamic_partitions("study", [study_of(recorded + again)])
    news, news_cpu = ask(address, name, document, variables)
    wall, cpu = (statistics.median(figures) for figures in zip(*warm, strict=True))
    return {
        "first": round(first, 3),
        "warm": round(wall, 3),
        "after_news": round(news, 3),
        "cpu": {"warm": round(cpu, 3), "after_news": round(news_cpu, 3)},
    }


def ask(address: str, name: str, document: str, variables: dict[str, Any]) -> tuple[float, float]:
    """Seconds until the answer is read, and seconds of a core of this process until then. Raises RuntimeError where it is none."""
    body = json.dumps({"operationName": name, "query": document, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310  # our own loopback address
    began, worked = time.perf_counter(), time.process_time()
    with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
        text = answer.read()
    took = time.perf_counter() - began, time.process_time() - worked
    found = json.loads(text)
    if found.get("errors") or not found.get("data"):
        raise RuntimeError(f"{name}: {text[:2000]!r}")
    return took


def ours(instance: DagsterInstance, now: datetime) -> dict[str, float]:
    """Seconds of what the lineage asks."""
    later = now + timedelta(minutes=1)
    figures = {"window_look": seconds(lambda: look(instance, WINDOW, later)), "checks_quiet": 0.0, "checks_with_news": 0.0}
    oldest = instance.get_dynamic_partitions("study")[:LEAVE_AT_ONCE]
    figures["window_leaves"] = seconds(lambda: leave(instance, oldest, oldest))
    newest = instance.event_log_storage.get_maximum_record_id() or 0
    tally = checks_sensor.Tally(as_of=newest - 10)
    figures["checks_with_news"] = seconds(lambda: checks_sensor.tick(instance, Addresses("studies"), tally, now))
    _, tally = checks_sensor.tick(instance, Addresses("studies"), tally, now)
    figures["checks_quiet"] = seconds(lambda: checks_sensor.tick(instance, Addresses("studies"), tally, now))
    figures["rerun_looks_through_20000"] = seconds(lambda: sum(1 for _ in islice(latest_answers(instance), 20_000)))
    return figures


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return round(time.perf_counter() - began, 3)


def events(recorded: int, now: datetime) -> tuple[Callable[[int], AssetMaterialization], Callable[[int], datetime]]:
    """What is recorded of a study by its number, and when it was committed; the last one now."""
    where = Addresses("studies", "us-east-1", "http://127.0.0.1:3070", "")
    volumes = tuple(SegmentVolume(f"Segment {number}", 100.0 + number) for number in range(20))

    def at(number: int) -> datetime:
        return (now - timedelta(days=(recorded - number) / A_DAY)).replace(microsecond=0)

    def event(number: int) -> AssetMaterialization:
        made = event_of(StoredResult(succeeded(number, at(number)), volumes), where, {})
        assert isinstance(made, AssetMaterialization)
        return made

    return event, at


@contextmanager
def instance_with(
    recorded: int, event: Callable[[int], AssetMaterialization], at: Callable[[int], datetime]
) -> Iterator[tuple[Path, DagsterInstance]]:
    """One machine's Dagster with so many studies, the newest of them as partitions, and its checks and tables; gone with the block."""
    place = PROJECT_ROOT / "build" / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ui-", dir=place) as folder:
        home = Path(folder)
        shutil.copyfile(PROJECT_ROOT / "infra" / "dagster.yaml", home / "dagster.yaml")
        environment = {"DAGSTER_HOME": folder, "MONAI_AWS_BUCKET": "studies", "AWS_DEFAULT_REGION": "us-east-1"}
        with patch.dict(os.environ, environment), DagsterInstance.from_config(folder) as instance:
            instance.report_runless_asset_event(AssetMaterialization("live_map", tags={"dagster/data_version": "sha256:" + "d" * 64}))
            record_many(instance, event, range(recorded), at)
            add_partitions(instance, range(max(0, recorded - WINDOW), recorded))
            for number in range(FAILURES):
                failed = StoredResult(refused(number, at(recorded - number), study_of(recorded - 2 * number - 1)), ())
                instance.report_runless_asset_event(event_of(failed, Addresses("studies"), {}))
            newest = instance.event_log_storage.get_maximum_record_id() or 0
            shown, _ = checks_sensor.tick(instance, Addresses("studies"), checks_sensor.Tally(as_of=newest - 500), datetime.now(UTC))
            for each in shown:
                instance.report_runless_asset_event(each)
            yield home, instance


@contextmanager
def webserver(instance: DagsterInstance) -> Iterator[str]:
    """Dagster's webserver with this project loaded, on a free loopback port. Its code server ends with the block."""
    target = ModuleTarget("monai_aws_pipeline.definitions", "defs", str(PROJECT_ROOT), "monai_aws_pipeline")
    port = free_port(0)
    with WorkspaceProcessContext(instance, target) as context:
        server = uvicorn.Server(
            uvicorn.Config(DagsterWebserver(context).create_asgi_app(), host="127.0.0.1", port=port, log_level="warning")
        )
        serving = threading.Thread(target=server.run, daemon=True)
        serving.start()
        try:
            while not server.started:
                if not serving.is_alive():
                    raise RuntimeError("Dagster's webserver did not come up")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            serving.join(30)
