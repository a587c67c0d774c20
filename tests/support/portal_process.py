"""The portal as a process of its own before an AWS that answers over HTTP: for what measures it or throws things at it."""

from __future__ import annotations

import http.client
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import boto3
from moto.server import ThreadedMotoServer

from monai_aws_pipeline.demo.dagster_processes import free_port
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.unit.studies.records import Bucket

BUCKET = "studies"
THE_PORTAL = ("-c", "from monai_aws_pipeline.cli import main; main()", "portal")
UP_SECONDS = 120.0


@dataclass(frozen=True)
class PortalProcess:
    """One that answers at a port of loopback. ``said``: the file with all that it has written."""

    pid: int
    port: int
    bucket: Bucket
    said: Path

    @property
    def address(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, seconds: float = 60) -> tuple[int, bytes]:
        """One request; its status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    @property
    def cpu_seconds(self) -> float:
        """What it has used. Source: proc(5)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def portal_process(folder: Path, program: Sequence[str] = THE_PORTAL) -> Iterator[PortalProcess]:
    """Start AWS and the portal, or another ``program`` that serves it, and end both."""
    with ExitStack() as stack:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would write down each request
        aws = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        aws.start()
        stack.callback(aws.stop)
        _, aws_port = aws.get_host_and_port()
        port, endpoint = free_port(0), f"http://127.0.0.1:{aws_port}"
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        s3 = boto3.client("s3", "us-east-1", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test")
        rest = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MONAI_AWS_"))}
        environment = {
            **rest,
            **keys,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MONAI_AWS_BUCKET": BUCKET,
            "MONAI_AWS_LINKS_URL": f"http://127.0.0.1:{port}",
        }
        said = folder / "portal.log"
        log: IO[bytes] = stack.enter_context(said.open("wb"))
        process = subprocess.Popen([sys.executable, *program], cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        found = PortalProcess(process.pid, port, Bucket(s3, BUCKET), said)
        _wait(found, process)
        yield found


def _wait(portal: PortalProcess, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while True:
        try:
            if portal.ask("GET", "/health", 5)[0] == 200:
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the portal did not come up: {portal.said.read_text()}") from None
        time.sleep(0.1)
