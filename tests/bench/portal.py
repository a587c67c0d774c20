"""How soon a browser sees a result after its commit record, and what 50 browsers that follow jobs cost the portal: ``portal.json``.

The portal is a process of its own before an AWS over HTTP; each browser has a connection and a job of its own, whose state changes at every
look at the hosts (5 s).
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monai_aws_pipeline.contract import IndexEntry, JobDone, job_done_key
from tests.support.played_portal import FOLLOWED, PLAYED
from tests.support.portal_process import PortalProcess, portal_process
from tests.unit.studies.records import job_of, picture, succeeded

SECONDS = 40.0
RESULTS = 20


class Browsers:
    """Connections that follow a job each, read by one thread: what each was told, and when it was told of an end."""

    def __init__(self, port: int, count: int) -> None:
        self.states: Counter[int] = Counter()
        self.ended: dict[int, float] = {}
        self._selector = selectors.DefaultSelector()
        self._over = threading.Event()
        for number in range(count):
            line = socket.create_connection(("127.0.0.1", port))
            line.sendall(f"GET /api/jobs/{job_of(number)}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            self._selector.register(line, selectors.EVENT_READ, number)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.2):
                assert isinstance(key.fileobj, socket.socket)
                told = key.fileobj.recv(65536)
                if not told:
                    self._selector.unregister(key.fileobj)
                self.states[key.data] += told.count(b"data: ")
                if b'"state": "done"' in told:
                    self.ended[key.data] = time.monotonic()

    def close(self) -> None:
        """Hang up."""
        self._over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


def measure() -> dict[str, Any]:
    """Both figures."""
    with tempfile.TemporaryDirectory() as folder, portal_process(Path(folder), PLAYED) as portal:
        browsers = Browsers(portal.port, FOLLOWED)
        time.sleep(8)
        told, before, began = browsers.states.total(), portal.cpu_seconds, time.monotonic()
        time.sleep(SECONDS)
        percent = 100 * (portal.cpu_seconds - before) / (time.monotonic() - began)
        changes = browsers.states.total() - told
        seen = [first_seen(portal, browsers, number) for number in range(RESULTS)]
        browsers.close()
    return {
        "browsers": FOLLOWED,
        "states_told": changes,
        "percent_of_a_core": round(percent, 2),
        "results": RESULTS,
        "seconds_to_first_result": {"median": round(statistics.median(seen), 2), "most": round(max(seen), 2)},
    }


def first_seen(portal: PortalProcess, browsers: Browsers, number: int) -> float:
    """Seconds from a study's commit record to when its browser was told of it and has been given its page and picture."""
    record = succeeded(number, at=datetime.now(UTC))
    for output in record.outputs:
        portal.bucket.put(output.key, picture() if output.kind == "preview" else json.dumps({"segments": []}))
    portal.bucket.put(record.commit_key, record.to_json())
    committed = time.monotonic()
    portal.bucket.put(record.index_key, IndexEntry.of(record).to_json())
    portal.bucket.put(job_done_key(record.job), JobDone(record.job, (record.commit_key,), record.committed_at).to_json())
    while number not in browsers.ended:
        if time.monotonic() - committed > 120:
            raise RuntimeError("a browser was not told of a result within two minutes")
        time.sleep(0.02)
    for path in ("", "preview.png"):
        status, _ = portal.ask("GET", f"/studies/{record.study}/{record.job}/{path}")
        assert status == 200
    return time.monotonic() - committed
