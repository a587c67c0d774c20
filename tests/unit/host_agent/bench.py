"""A host with everything real but AWS and the engine: bucket, jobs, folders, and a MAP that only answers."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_aws_pipeline.contract import (
    HostFacts,
    JobMessage,
    MapFacts,
    ResultRecord,
)
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.aws.job_queue import Delivery, JobsQueue
from monai_aws_pipeline.host_agent.config import parse_config
from monai_aws_pipeline.host_agent.errors import FailedError
from monai_aws_pipeline.host_agent.intake.map_requirements import NO_REQUIREMENTS, MapRequirements
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.host_agent.job_steps import Ended, HostContext, Outcome
from monai_aws_pipeline.host_agent.pipeline import Pipeline
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import PerStudy
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.stopping import Stop
from monai_aws_pipeline.maps.spec.container import ContainerSpec
from monai_aws_pipeline.maps.spec.run import RunSpec
from tests.unit.host_agent.dicom_files import write_series
from tests.unit.host_agent.host_config import DIGEST, GOOD

SECRET = b"0123456789abcdef"
WELL = RunEnd(
    0, out_of_memory=False, timed_out=False, seconds=0.1, peak_bytes=5, peak_source="", peak_gpu_bytes=None, log_tail=("hello", "done")
)
Map = Callable[[Path, Path], RunEnd]


def handle(host: HostContext, delivery: Delivery) -> Ended:
    """One receipt, alone, to its end."""
    pipeline = Pipeline(host)
    ended = pipeline.accept(delivery)
    pipeline.close()
    assert not pipeline.broken
    return ended.result(0)


def answers(source: Path, target: Path) -> RunEnd:
    """A MAP that writes a mesh that names how many files it saw."""
    (target / "mesh.stl").write_text(f"solid {len(list(source.iterdir()))}")
    return WELL


@dataclass
class PretendedEngine:
    """Runs a Python function where the engine would run a container."""

    run_map: Map = answers
    wanted: list[ContainerSpec] = field(default_factory=list)

    @property
    def runs(self) -> int:
        return len(self.wanted)

    def run(self, wanted: ContainerSpec, **_: Any) -> RunEnd:
        given, target = wanted.binds
        self.wanted.append(wanted)
        return self.run_map(given.source, target.source)

    def remove_leftovers(self) -> int:
        return 0


@dataclass
class PretendedLiveMap:
    fails: FailedError | None = None
    requirements: MapRequirements = NO_REQUIREMENTS

    def look(self) -> None:
        """Nothing that ``ready`` would remember."""

    def last(self, request: str) -> ReadyMap | None:
        return None

    def ready(self, request: str, stop: threading.Event) -> ReadyMap:
        if self.fails:
            raise self.fails
        spec = RunSpec(("true",), "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan")
        return ReadyMap("host/map@" + (request or DIGEST), spec, MapFacts(digest=request or DIGEST), 1, 0.0, self.requirements)

    def make_ready(self, image: str, stop: threading.Event) -> ReadyMap:
        return PretendedLiveMap.ready(self, image.partition("@")[2], stop)


@dataclass
class Bench:
    """A host beside its bucket and queue."""

    s3: Any
    sqs: Any
    url: str
    folder: Path
    engine: PretendedEngine = field(default_factory=PretendedEngine)
    live_map: PretendedLiveMap = field(default_factory=PretendedLiveMap)
    limits: IntakeLimits = field(default_factory=IntakeLimits)

    def host(self) -> HostContext:
        config = parse_config(json.dumps(GOOD))
        return HostContext(
            config=config,
            store=Store(self.s3, "studies"),
            queue=JobsQueue(self.sqs, config.jobs_queue),
            engine=self.engine,  # type: ignore[arg-type]
            hosting=PerStudy(self.engine),  # type: ignore[arg-type]
            live_map=self.live_map,  # type: ignore[arg-type]
            secret=SECRET,
            host=HostFacts("i-1", "g4dn.xlarge", "ami-1"),
            work=self.folder / "work",
            stop=Stop(),
            limits=self.limits,
        )

    def upload(self, key: str, body: bytes, request: str = "") -> JobMessage:
        etag = self.s3.put_object(Bucket="studies", Key=key, Body=body)["ETag"]
        return self.send(JobMessage.for_object(bucket="studies", key=key, version="", etag=etag, size=len(body), request=request))

    def send(self, message: JobMessage) -> JobMessage:
        self.sqs.send_message(QueueUrl=self.url, MessageBody=message.to_json())
        return message

    def turn(self, **changes: Any) -> Outcome:
        """One receipt, with the message's real count of receipts unless changed."""
        host = self.host()
        delivery = host.queue.take(0)
        assert delivery, "no message"
        outcome = handle(host, replace(delivery, **changes)).outcome
        host.queue.give_back(delivery, 0)  # so that a test need not wait for the retry
        assert not list((self.folder / "work").iterdir()), "the job's folder is gone after each receipt"
        return outcome

    def stored(self, prefix: str = "") -> list[str]:
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket="studies", Prefix=prefix).get("Contents", [])]

    def record(self, key: str) -> ResultRecord:
        return ResultRecord.from_json(self.s3.get_object(Bucket="studies", Key=key)["Body"].read().decode())

    def messages(self) -> int:
        return len(self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, VisibilityTimeout=0).get("Messages", []))


def zip_of(folder: Path, *studies: str, slices: int = 3) -> bytes:
    with zipfile.ZipFile(folder / "made.zip", "w") as archive:
        for study in studies:
            for path in write_series(folder / study, study, slices=slices):
                archive.write(path, f"Hans Mueller/{study}/{path.name}")
    return (folder / "made.zip").read_bytes()


FAILS = replace(WELL, exit_code=137, log_tail=("boom",))
