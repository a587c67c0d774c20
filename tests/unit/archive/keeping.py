"""A small DICOMweb archive on loopback: what it is sent it parses and keeps, and it says of each instance what became of it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pydicom

from monai_aws_pipeline.archive.dicomweb import DicomWebArchive, Patience
from monai_aws_pipeline.archive.signing import Nobody
from tests.unit.archive.scripted import answer


@dataclass
class Keeping:
    """``kept``: bytes by SOP Instance UID. ``away``: it answers 503. ``held``: it takes a study, and its answer waits to be let go."""

    kept: dict[str, bytes] = field(default_factory=dict)
    refuses: dict[str, int] = field(default_factory=dict)
    away: bool = False
    held: bool = False
    requests: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def connect(self) -> DicomWebArchive:
        """As a host does."""
        return DicomWebArchive(self.address, Nobody(), Patience(tries=3, first=0.01, longest=0.02))

    def data(self) -> list[pydicom.Dataset]:
        """What it keeps, parsed."""
        return [pydicom.dcmread(io.BytesIO(body)) for body in self.kept.values()]

    def take(self, body: bytes, boundary: bytes) -> bytes:
        """Keep each part of a message; the answer."""
        stored, failed = [], {}
        for part in body.split(b"--" + boundary)[1:-1]:
            instance = part.split(b"\r\n\r\n", 1)[1][:-2]
            uid = str(pydicom.dcmread(io.BytesIO(instance), stop_before_pixels=True).SOPInstanceUID)
            if code := self.refuses.get(uid):
                failed[uid] = code
            else:
                self.kept[uid] = instance
                stored.append(uid)
        return answer(stored, failed)


@contextmanager
def keeping() -> Iterator[Keeping]:
    archive = Keeping()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if archive.held:
                archive.reached.set()
                assert archive.released.wait(30)
            boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
            self._reply(b"" if archive.away else archive.take(body, boundary))

        def do_GET(self) -> None:
            self._reply(json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in archive.kept]).encode())

        def _reply(self, body: bytes) -> None:
            archive.requests += 1
            self.send_response(503 if archive.away else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    archive.address = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    try:
        yield archive
    finally:
        archive.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
