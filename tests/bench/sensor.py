"""What one quiet tick of ``study_results`` costs as results pile up, beside the way dagster-aws offers for sensors on S3.

Both look at the same bucket of the same emulated S3, one after the other, and both find nothing new: the cost that is paid every half
minute for ever. ``get_objects`` lists the whole prefix; our tick lists after its cursor's floor, and one past hour for its audit. A row has
LIST requests (the most that a tick made), seconds (median) and the peak of what Python held meanwhile, in MB of 10^6 bytes.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from dagster import DagsterInstance
from dagster_aws.s3.sensor import get_objects
from urllib3 import PoolManager

from monai_aws_pipeline.contract import INDEX_PREFIX, index_key
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.studies.results_index import Cursor, plan_tick
from monai_aws_pipeline.studies.sensor import tick
from tests.unit.studies.records import job_of, study_of

SIZES = (1_000, 5_000, 20_000, 100_000)
RESULTS_AN_HOUR = 63  # 1,500 a day
TICKS = 20
CALLS = 2  # of get_objects, which takes a minute at the largest size
CATCH_UP = 20_000
BUCKET = "studies"


def measure() -> dict[str, Any]:
    """Figures for each size of the index."""
    with tempfile.TemporaryDirectory() as folder, emulated_s3(Path(folder)) as s3:
        requests = count_lists(s3)
        s3.create_bucket(Bucket=BUCKET)
        rows, filled = [], 0
        now = datetime.now(UTC)
        for size in SIZES:
            fill(s3, now, filled, size)
            filled = size
            rows.append(compare(s3, requests, now, size))
        return {"results_an_hour": RESULTS_AN_HOUR, "ticks": TICKS, "calls": CALLS, "rows": rows}


def compare(s3: Any, requests: list[int], now: datetime, size: int) -> dict[str, Any]:
    """One row: quiet ticks each way, with the cursor that the last result left."""
    store = ResultsStore(s3, BUCKET)
    cursor = Cursor()
    while True:  # catch up first; nothing is recorded, only the cursor matters here
        plan = plan_tick(cursor, store.index_keys, now, CATCH_UP)
        cursor = plan.advance()
        if not plan.more:
            break
    newest = max(store.index_keys(""))
    with DagsterInstance.ephemeral() as instance:
        state = [cursor.to_text()]

        def quiet_tick() -> None:
            recording, after = tick(instance, store, Cursor.parse(state[0]), now)
            if recording.events:
                raise RuntimeError("a tick that was to be quiet found something new")
            state[0] = after.to_text()

        ours = measured(requests, quiet_tick, TICKS) | {"cursor_bytes": len(state[0])}
    theirs = measured(requests, lambda: get_objects(BUCKET, INDEX_PREFIX, since_key=newest, client=s3), CALLS)
    return {"records": size, "ours": ours, "dagster_aws": theirs, "ratio": round(theirs["seconds"] / ours["seconds"], 1)}


def measured(requests: list[int], action: Callable[[], object], times: int) -> dict[str, Any]:
    """The most LIST requests of a call, median seconds, and the peak of one more call: watching memory takes time itself."""
    lists, seconds = [], []
    for _ in range(times):
        requests.clear()
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
        lists.append(len(requests))
    tracemalloc.start()
    action()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"list_calls": max(lists), "seconds": round(statistics.median(seconds), 4), "peak_mb": round(peak / 1e6, 2)}


def count_lists(s3: Any) -> list[int]:
    """A list that grows by one with each LIST request of this client."""
    requests: list[int] = []
    s3.meta.events.register("before-send.s3.ListObjectsV2", lambda **_: requests.append(1))
    return requests


def fill(s3: Any, now: datetime, start: int, end: int) -> None:
    """Add entries, going back in time. By plain requests: 100,000 of boto3's would take longer than all that is measured."""
    keys = [index_key(now - timedelta(hours=number / RESULTS_AN_HOUR), job_of(number), study_of(number)) for number in range(start, end)]
    with PoolManager(maxsize=4) as plain, ThreadPoolExecutor(4) as writers:
        answers = writers.map(lambda key: plain.request("PUT", f"{s3.meta.endpoint_url}/{BUCKET}/{key}", body=b"{}").status, keys)
        if set(answers) - {200}:
            raise RuntimeError("the emulated S3 refused an entry")


@contextmanager
def emulated_s3(folder: Path) -> Iterator[Any]:
    """A ministack of its own on a free loopback port, ended with the block. It gives way to all else: AWS's is on no machine of ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "STATE_DIR": str(folder / "state"),
        "S3_DATA_DIR": str(folder / "s3"),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["nice", "-n", "19", sys.executable, "-m", "ministack"], env=environment, stdout=log, stderr=log)
        try:
            wait_for(address, process)
            yield boto3.client("s3", endpoint_url=address, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")
        finally:
            process.terminate()
            process.wait(20)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until it answers, at most 60 seconds."""
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"ministack ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"{address}/_ministack/health", timeout=2)  # noqa: S310  # our own loopback address
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("ministack did not answer within 60 s")
