"""A DICOMweb archive on loopback that answers as it is told, and keeps what it was sent. It parses nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """``drops``: the line is cut instead, once the body was read."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    drops: bool = False


@dataclass
class Scripted:
    """``posts``: replies to STOW, one after another, then what ``usual`` says. ``there``: what a search finds."""

    posts: list[Reply] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    gets: list[Reply] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    address: str = ""


def answer(stored: list[str] = [], failed: dict[str, int] = {}, others: tuple[int, ...] = ()) -> bytes:  # noqa: B006 - read only
    def item(uid: str, **more: int) -> dict[str, Any]:
        codes = {"00081197": "failed", "00081196": "warned"}
        shown = {tag: {"vr": "US", "Value": [more[name]]} for tag, name in codes.items() if name in more}
        return {**({"00081155": {"vr": "UI", "Value": [uid]}} if uid else {}), **shown}

    said: dict[str, Any] = {}
    if stored:
        said["00081199"] = {"vr": "SQ", "Value": [item(uid) for uid in stored]}
    if failed:
        said["00081198"] = {"vr": "SQ", "Value": [item(uid, failed=code) for uid, code in failed.items()]}
    if others:
        said["0008119A"] = {"vr": "SQ", "Value": [item("", failed=code) for code in others]}
    return json.dumps(said).encode()


@contextmanager
def serving(script: Scripted) -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            script.received.append(self.rfile.read(int(self.headers["Content-Length"])))
            script.headers.append(dict(self.headers))
            self._reply(script.posts.pop(0))

        def do_GET(self) -> None:
            found = json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in script.there]).encode()
            self._reply(script.gets.pop(0) if script.gets else Reply(200, found))

        def _reply(self, reply: Reply) -> None:
            if reply.drops:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    script.address = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
