"""A host that answers one draft after another: the agent's own pipeline, a bucket in memory, and an application in this process.

Here belongs what of the agent is entered and how: when the agent's own interfaces change, this module is what changes with them. Nothing of
the agent is replaced but the container engine, the queue and the parameter that names the live MAP.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
from moto import mock_aws

from monai_aws_pipeline.contract import HostFacts, JobMessage, ResultRecord, Status
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.aws.job_queue import Delivery
from monai_aws_pipeline.host_agent.config import parse_config
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.host_agent.job_steps import HostContext
from monai_aws_pipeline.host_agent.pipeline import Pipeline
from monai_aws_pipeline.host_agent.runtime.engine import ImageFacts, RunEnd
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap, describe
from monai_aws_pipeline.host_agent.stopping import Stop
from tests.fuzz.honest_applications import Application

BUCKET: Final = "studies"
END_WITHIN_S: Final = 60.0
_DIGEST: Final = "sha256:" + "a" * 64
_APP_JSON: Final = json.dumps(
    {"command": ["true"], "input": {"path": "input"}, "output": {"path": "output"}, "workingDirectory": "/var/holoscan", "timeout": 0}
)
_CONFIG: Final = {
    "deployment": "dev",
    "region": "us-east-1",
    "bucket": BUCKET,
    "jobs_queue": "monai-aws-dev-jobs",
    "live_map_parameter": "/monai-aws/dev/live-map",
    "study_key_secret": "monai-aws/dev/study-key",
    "gpus": "",
    "map_network": "none",
    "map_hosting": "per_study",
    "studies_at_once": "1",
    "fleet_group": "",
    "map_timeout_s": 600,
    "map_memory_mib": 4096,
    "idle_stop_minutes": 5,
    "upload_max_mib": 64,
    "unpacked_max_mib": 256,
    "upload_max_files": 2000,
    "unpack_max_ratio": 250,
    "unpack_max_depth": 1,
    "unpack_max_seconds": 60,
    "require_volume": False,
    "archive": "none",
    "archive_address": "",
    "archive_secret": "",
    "archive_correct": False,
    "datastore_id": "",
    "usd_per_hour": {},
    "price_basis": "",
}
_LIMITS: Final = IntakeLimits(upload_bytes=64 << 20, unpacked_bytes=256 << 20, files=2000, ratio_from=64 << 20, seconds=60.0)


@dataclass(frozen=True)
class Stored:
    """One object of the bucket with what is kept beside it."""

    key: str
    body: bytes
    beside: str
    """Metadata, tags and headers as text."""


@dataclass(frozen=True)
class StudyEnd:
    """What became of an upload: the commit records, everything outside ``input/``, what the agent logged; ``hung``: no end came."""

    records: tuple[ResultRecord, ...]
    stored: tuple[Stored, ...]
    left: tuple[str, ...]
    """Keys that still lie under ``input/``."""
    logged: str
    failures: tuple[str, ...]
    """Tracebacks of the application's runs, for whoever reads a finding."""
    hung: bool = False

    def body(self, key: str) -> bytes:
        """The content of an object of ours."""
        return next(item.body for item in self.stored if item.key == key)


class _Queue:
    """A queue with one message, at its last receipt: what fails is final at once."""

    def done(self, delivery: Delivery) -> None: ...
    def give_back(self, delivery: Delivery, seconds: int = 0) -> None: ...
    def hand_over(self, delivery: Delivery) -> None: ...
    def extend(self, delivery: Delivery, seconds: int) -> None: ...


@dataclass
class _LiveMap:
    ready_map: ReadyMap

    def look(self) -> None: ...

    def last(self, request: str) -> ReadyMap | None:
        return None

    def ready(self, request: str, stop: threading.Event) -> ReadyMap:
        return self.ready_map


@dataclass
class InThisProcess:
    """A ``Hosting`` that runs an honest application where a container would run one."""

    application: Application
    listing: str = "sorted"
    failures: list[str] = field(default_factory=list)

    def run(self, ready: ReadyMap, source: Path, target: Path, limits: Any, **how: Any) -> RunEnd:
        code, started = 0, time.monotonic()
        try:
            said = self.application.run(source, target, self.listing)
        except Exception as error:  # an application that fails prints its traceback and ends with 1
            code, said = 1, traceback.format_exception(error)
            self.failures.append("".join(said[-2:]))
        finally:
            on_exit: Callable[[], None] = how.get("on_exit") or (lambda: None)
            on_exit()
        seconds = time.monotonic() - started
        return RunEnd(
            code, out_of_memory=False, timed_out=False, seconds=seconds, peak_bytes=1, peak_source="", peak_gpu_bytes=None,
            log_tail=tuple(line for text in said for line in text.splitlines())[-200:],
        )  # fmt: skip

    def ahead(self, *_: Any, **__: Any) -> None: ...
    def drop(self, name: str) -> None: ...
    def close(self) -> None: ...
    def ready_for(self, *_: Any) -> bool:
        return True

    def is_settled(self, *_: Any) -> bool:
        return True


class StudyHost:
    """A bucket and an agent beside it; one upload at a time. ``folder`` is used and emptied."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._s3 = boto3.client("s3")
        self._s3.create_bucket(Bucket=BUCKET)

    def answer(self, objects: list[tuple[str, bytes]], application: Application, listing: str) -> StudyEnd:
        """Put the objects under ``input/``, let the agent end the job of the last of them, and look at everything that is left."""
        message = self._upload(objects)
        hosting = InThisProcess(application, listing)
        shutil.rmtree(self._folder, ignore_errors=True)
        image = ImageFacts(f"registry.local/map@{_DIGEST}", 1, application.labels, _APP_JSON)
        config = parse_config(json.dumps(_CONFIG))
        host = HostContext(
            config=config,
            store=Store(self._s3, BUCKET),
            queue=_Queue(),  # type: ignore[arg-type]
            engine=None,  # type: ignore[arg-type]
            hosting=hosting,
            live_map=_LiveMap(describe(image, 0.0)),  # type: ignore[arg-type]
            secret=b"0123456789abcdef",
            host=HostFacts("i-1", "g4dn.xlarge", "ami-1"),
            work=self._folder,
            stop=Stop(),
            limits=_LIMITS,
        )
        with _logged() as lines:
            pipeline = Pipeline(host)
            ended = pipeline.accept(Delivery("message", message.to_json(), "receipt", 3, last=True))
            hung = False
            try:
                ended.result(END_WITHIN_S)
            except TimeoutError:
                hung = True
            if not hung:
                pipeline.close()
        everything = self._everything()
        self._empty(everything)
        ours = tuple(item for item in everything if not item.key.startswith("input/"))
        records = tuple(
            ResultRecord.from_json(item.body.decode())
            for item in ours
            if item.key.startswith(("output/", "quarantine/")) and item.key.endswith("/result.json")
        )
        left = tuple(item.key for item in everything if item.key.startswith("input/"))
        return StudyEnd(records, ours, left, "\n".join(lines), tuple(hosting.failures), hung)

    def _upload(self, objects: list[tuple[str, bytes]]) -> JobMessage:
        etag = ""
        for key, body in objects:
            etag = self._s3.put_object(
                Bucket=BUCKET, Key=key, Body=body, Metadata={"patientname": "Zqplant-Vaughnzq", "original": "zqplant.zip"},
                ContentDisposition='attachment; filename="zqplant.zip"', Tagging="patient=Zqplant&id=PIDZQ77",
            )["ETag"]  # fmt: skip
        key, body = objects[-1]
        return JobMessage.for_object(bucket=BUCKET, key=key, version="", etag=etag, size=len(body))

    def _everything(self) -> list[Stored]:
        return [
            self._stored(item["Key"])
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            for item in page.get("Contents", [])
        ]

    def _stored(self, key: str) -> Stored:
        found = self._s3.get_object(Bucket=BUCKET, Key=key)
        tags = self._s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"] if not key.startswith("input/") else []
        beside = {
            name: found.get(name) for name in ("Metadata", "ContentDisposition", "ContentType", "CacheControl", "WebsiteRedirectLocation")
        }
        return Stored(key, found["Body"].read(), json.dumps({**beside, "tags": tags}, ensure_ascii=False))

    def _empty(self, objects: list[Stored]) -> None:
        for item in objects:
            self._s3.delete_object(Bucket=BUCKET, Key=item.key)


@contextlib.contextmanager
def study_host(folder: Path) -> Iterator[StudyHost]:
    """A host with its bucket in memory."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield StudyHost(folder)


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """What is logged meanwhile, at any level, with its exceptions; the libraries of AWS, which log every request, left out."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.name.startswith(("boto", "urllib3", "s3transfer", "moto", "responses", "asyncio")):
                lines.append(self.format(record))

    handler, root, agent = Collector(), logging.getLogger(), logging.getLogger("monai_aws_pipeline")
    levels = root.level, agent.level
    root.addHandler(handler)
    agent.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        agent.setLevel(levels[1])


def ended_well(record: ResultRecord) -> bool:
    """Whether a record is an answer."""
    return record.status is Status.SUCCEEDED
