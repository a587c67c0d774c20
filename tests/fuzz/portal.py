"""``python -m tests.fuzz.portal [--seconds N] [--seed N]``: requests of every kind against the portal as a process; exit code 1 when it
found something.

A finding is: an answer of 500, or above of our own making; one without the security headers; a refusal whose text nobody has; a line in the
portal's log; a portal that has ended. Of the viewers' addresses also: anything given to a method that writes, at an address that the study
has not, or in another spelling of one; a word anywhere that identifies the patient, or a UID of the study's own; an address of the study
that is not answered any more. What is sent lies between a browser's request with one thing changed and bytes that are no HTTP. The viewers'
own files and the pages that need them are left out: they would be fetched.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from monai_aws_pipeline.contract import Status
from monai_aws_pipeline.portal.safety import REQUEST_HEADER
from monai_aws_pipeline.portal.texts import TEXTS
from monai_aws_pipeline.portal.viewer.veil import study_uid_of
from tests.support.portal_process import PortalProcess, portal_process
from tests.support.viewed_study import NAMED, ViewedStudy, answered
from tests.unit.studies.records import job_of, picture, refused, study_of, succeeded

CLIENTS: Final = tuple(f"127.0.0.{number}" for number in range(2, 200))
"""Each may ask so often, and goes on with its own uploads alone."""
NO_HTTP: Final = (b"Invalid HTTP request received.", b"")
"""What the server itself says of it, before the application."""
ANSWER_SECONDS: Final = 3
"""A request that promises more than it sends is waited for as long as its sender wants."""
METHODS: Final = ("GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "")
KNOWN: Final = (study_of(1), job_of(1), study_of(2), job_of(2), job_of(3), study_of(9), job_of(9))
NAMES: Final = (
    *("api", "uploads", "jobs", "events", "studies", "again", "parts", "complete", "recent", "follow", "static", "health", "days"),
    *("dicomweb", "series", "instances", "metadata", "frames", "rendered", "bulkdata"),
    *("2026-03-14", "9999-99-99", "original", "upload.zip", "preview.png", "preview-600.png", "result.json", "style.css", "zip.js"),
    *KNOWN,
)
ODD: Final = (
    *("", ".", "..", "%2e%2e", "%2f", "%00", "%ff", "%", "%u0000", "\\", "{{7*7}}", "'\"><svg>", "ü", "a" * 300, "*", "\u202e", ";x=1"),
)
HEADERS: Final = (
    *("accept-language", "cookie", "content-type", "content-length", "host", "origin", "sec-fetch-site", "x-amzn-oidc-data", "range"),
    *("transfer-encoding", "expect", "upgrade", "connection", "x-forwarded-for", "if-none-match", "accept-encoding", REQUEST_HEADER),
)
LANGUAGES: Final = ("es", "es;q=nan,en;q=1e999", "language=es", "language=\x01", "=;=;")
VALUES: Final = (
    *("", "1", "-1", "0", "cross-site", "same-origin", "null", "[", "[::1", "127.0.0.1", "\xff\xfe", "a" * 5000, *LANGUAGES),
    *("chunked", "100-continue", "websocket", "bytes=0-", "e30.e30.e30", "eyJhbGciOiJub25lIn0.e30."),
)
VIEWED: Final = (11, 12)
"""Numbers of the studies that are looked at."""
VIEWERS: Final = ("/dicomweb/", "/viewer/", "/3d/")
SEARCHES: Final = (
    *("limit=1", "limit=-1", "limit=1e9", "offset=9999999", "Modality=SEG", "ModalitiesInStudy=*", "PatientID=MRN-4711"),
    *("StudyInstanceUID=1.2.3", "SeriesInstanceUID=2.25.1", "includefield=all", "fuzzymatching=true", "PatientName=DOE*"),
    *("accept=image/jpeg", "00080018=", "x=1"),
)
ACCEPTS: Final = ("*/*", "application/dicom+json", "multipart/related; type=application/octet-stream", "image/jpeg", "text/html", "\x01")
PAGES: Final = ("", "viewer", "3d")
"""Parts of addresses that are not put elsewhere, so that none becomes a page that has the viewers' own files fetched."""
SPELLED: Final = ("%2e%2e/", "../", "//", ";", "\\", "%2f", "%00", "%25", ".")
"""What an address is spelled in another way with."""
WHOLE_NUMBERS: Final = (0, -1, 1, 7, 1000, 8 << 20, 2**31, 2**63, 10**30)


@dataclass
class Outcome:
    """What came of it. ``ends``: answers by status, or how a connection ended."""

    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    viewed: int = 0
    """Answers with something of a study by DICOMweb."""


class Sender:
    """Makes requests by one seed. Keeps tokens of uploads that it has begun, so that it comes further than the first refusal."""

    def __init__(self, portal: PortalProcess, seed: int, viewed: Viewed) -> None:
        self._portal, self._random, self._viewed = portal, random.Random(seed), viewed  # noqa: S311  # repeatable, and no secret
        self._from, self._is_plain = CLIENTS[0], False
        self._begun: list[tuple[str, str]] = []
        self.outcome = Outcome()

    def send(self) -> None:
        """One request, and what is wrong with its answer."""
        self._from, self._is_plain = self._random.choice(CLIENTS), False
        kinds = (self._request, self._of_a_study, self._begin, self._of_an_upload, self._bytes)
        sent = self._random.choices(kinds, (12, 12, 2, 5, 1))[0]()
        try:
            status, headers, body = self._exchange(sent)
        except (OSError, http.client.HTTPException) as error:
            self.outcome.ends[type(error).__name__] += 1
            return
        self.outcome.ends[str(status)] += 1
        self.outcome.viewed += status == 200 and sent.split(b" ")[1][: len(VIEWERS[0])] == VIEWERS[0].encode()
        found = [*troubles(status, headers, body), *self._viewed.troubles(sent, status, headers, body, is_plain=self._is_plain)]
        self.outcome.findings += [f"{each}: {sent[:600]!r} → {status} {body[:300]!r}" for each in found]
        if status == 201:
            self._begun = [*self._begun[-20:], (self._from, json.loads(body)["token"])]

    def _exchange(self, sent: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        with socket.create_connection(("127.0.0.1", self._portal.port), timeout=ANSWER_SECONDS, source_address=(self._from, 0)) as line:
            line.sendall(sent)
            answer = http.client.HTTPResponse(line, method=sent.partition(b" ")[0].decode("latin-1"))
            answer.begin()
            is_stream = answer.getheader("content-type", "").startswith("text/event-stream")
            return answer.status, answer.headers, answer.read(64) if is_stream else answer.read()

    # --------------------------------------------------------------------------------------------------------- what is sent

    def _request(self) -> bytes:
        pick = self._random
        parts = [pick.choice(NAMES if pick.random() < 0.8 else ODD) for _ in range(pick.randint(0, 6))]
        path = "/" + "/".join(parts) + pick.choice(("", "/"))
        if pick.random() < 0.3:
            path += "?" + "&".join(f"{pick.choice(('study', 'language', 'x'))}={pick.choice((*NAMES, *ODD, *VALUES))}" for _ in range(2))
        return self._http(pick.choice(METHODS), path, self._body())

    def _of_a_study(self) -> bytes:
        """An address that a study has, often with something about it changed."""
        pick = self._random
        path = pick.choice(self._viewed.addresses)
        if pick.random() < 0.4:
            self._is_plain = True
            return self._http("GET", path, b"", {"accept": pick.choice(ACCEPTS[:3])})
        parts = path.split("/")
        place = pick.randrange(1, len(parts))
        other = [part for part in pick.choice(self._viewed.addresses).split("/") if part not in PAGES]
        change = pick.randrange(5)
        if change == 0:
            parts[place] = pick.choice((pick.choice(other), pick.choice(KNOWN), pick.choice(ODD[1:])))
        elif change == 1:
            parts.insert(place, pick.choice((pick.choice(other), *ODD[1:4])))
        elif change == 2:
            at = pick.randrange(len(parts[place]) + 1)
            parts[place] = parts[place][:at] + pick.choice(SPELLED) + parts[place][at:]
        elif change == 3:
            parts.append(pick.choice((*NAMES, "frames/1", "frames/1,1,1,1,1,1,1,1,1", "frames/0", "rendered", "thumbnail")))
        path = "/".join(parts)
        if pick.random() < 0.4:
            path += "?" + "&".join(pick.choices(SEARCHES, k=pick.randint(1, 3)))
        method = "GET" if pick.random() < 0.7 else pick.choice(METHODS)
        return self._http(method, path, b"" if method == "GET" else self._body(), {"accept": pick.choice(ACCEPTS)})

    def _begin(self) -> bytes:
        return self._http("POST", "/api/uploads", json.dumps({"bytes": self._random.choice((1, 1000, 20 << 20, self._value()))}).encode())

    def _of_an_upload(self) -> bytes:
        pick = self._random
        self._from, token = pick.choice(self._begun) if self._begun and pick.random() < 0.9 else (self._from, pick.choice(("x", *ODD)))
        method, rest = pick.choice((("GET", ""), ("DELETE", ""), ("POST", "/parts"), ("POST", "/complete"), ("POST", "/x"), ("PUT", "")))
        numbers = json.dumps({"numbers": [pick.randint(-1, 4) for _ in range(pick.randint(0, 4))]}).encode()
        return self._http(method, f"/api/uploads/{token}{rest}", pick.choice((numbers, self._body())))

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.randint(0, 400)) + self._random.choice((b"", b"\r\n\r\n"))

    def _http(self, method: str, path: str, body: bytes, more: Mapping[str, str] | None = None) -> bytes:
        pick = self._random
        headers = {"host": f"127.0.0.1:{self._portal.port}", REQUEST_HEADER: "1", "connection": "close", "content-length": str(len(body))}
        headers |= more or {}
        if not self._is_plain:
            headers |= {pick.choice(HEADERS): pick.choice(VALUES) for _ in range(pick.choice((0, 0, 0, 1, 2)))}
        lines = [f"{method} {path.replace(' ', '+')} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body

    def _body(self) -> bytes:
        pick = self._random
        nested = pick.choice((10, 1000, 15_000)) * b"["
        return pick.choice((b"", json.dumps(self._value()).encode(), pick.randbytes(pick.randint(0, 200)), nested, b"x" * 20_000))

    def _value(self, depth: int = 0) -> Any:
        pick = self._random
        if depth > 3 or pick.random() < 0.4:
            return pick.choice((None, True, 1.5, float("nan"), float("inf"), "x", "ü\x00", *WHOLE_NUMBERS, *KNOWN))
        if pick.random() < 0.6:
            return {pick.choice(("bytes", "numbers", "job", "token", "x")): self._value(depth + 1) for _ in range(3)}
        return [self._value(depth + 1) for _ in range(pick.randint(0, 4))]


def troubles(status: int, headers: http.client.HTTPMessage, body: bytes) -> list[str]:
    """What is wrong with an answer."""
    kind = headers.get("content-type", "")
    if status == 400 and kind.startswith("text/plain") and body in NO_HTTP:
        return []
    found = []
    if status >= 500 and status not in (502, 503):  # what S3 refuses, and too many streams
        found.append("unhandled")
    if not headers.get("content-security-policy", "").startswith("default-src 'none'"):
        found.append("no security headers")
    if b"Traceback" in body:
        found.append("a stack is shown")
    if status >= 400 and kind == "application/json" and body and not _says(json.loads(body).get("error")):
        found.append("a refusal without a text")
    return found


def _says(error: object) -> bool:
    """Whether a refusal is one of our texts by its key, or a sentence, as scripts of the viewers are told."""
    return isinstance(error, str) and (error in TEXTS or error.endswith((".", ".)")))


class Viewed:
    """The studies that are looked at: every address that they have, and the words of them that may come out nowhere."""

    def __init__(self, addresses: Sequence[str], words: Iterable[str]) -> None:
        self.addresses = addresses
        self._secret = re.compile(b"|".join(re.escape(word.encode()) for word in sorted(words)))

    def troubles(self, sent: bytes, status: int, headers: http.client.HTTPMessage, body: bytes, *, is_plain: bool) -> list[str]:
        """What is wrong with an answer that may be about them. ``is_plain``: asked for as a browser does, and nothing changed."""
        method, _, rest = sent.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        found = ["what identifies comes out"] if self._secret.search(str(headers).encode() + body) else []
        if not path.startswith(VIEWERS):
            return found
        if method not in ("GET", "HEAD") and status < 400:
            found.append("a method that writes is answered")
        if status == 200 and not self._is_address(path):
            found.append("there is no such address")
        if is_plain and status != (302 if path.startswith(VIEWERS[1]) else 200):
            found.append("an address of the study is not answered")
        return found

    def _is_address(self, path: str) -> bool:
        if path.startswith(VIEWERS[0]):
            return re.sub(r"/frames/[01,]+$", "/frames/1", path) in self.addresses
        return re.sub(r"-0+(?=\d)", "-", unquote(path)) in self.addresses


def _addresses(portal: PortalProcess, viewed: ViewedStudy) -> Iterator[str]:
    """All that one study has, found as a browser finds them."""
    named = f"{viewed.record.study}/{viewed.record.job}"
    root = f"/dicomweb/{named}/studies"
    study = f"{root}/{study_uid_of(viewed.record.study)}"
    yield from (root, f"{study}/series", f"{study}/metadata", f"{study}/instances", f"/viewer/{named}/", f"/3d/{named}/parts.json")
    for series in _json(portal, f"{study}/series"):
        at = f"{study}/series/{series['0020000E']['Value'][0]}"
        yield from (f"{at}/metadata", f"{at}/instances")
        for instance in _json(portal, f"{at}/instances"):
            one = f"{at}/instances/{instance['00080018']['Value'][0]}"
            yield from (one, f"{one}/metadata", f"{one}/frames/1")
    parts = _json(portal, f"/3d/{named}/parts.json")
    yield from (f"/3d/{named}/{part}" for part in (parts["volume"], *parts["masks"], *parts["meshes"]))


def _json(portal: PortalProcess, path: str) -> Any:
    status, body = portal.ask("GET", path)
    assert status == 200, body[:300]
    return json.loads(body)


def fill(portal: PortalProcess) -> Viewed:
    """Studies to come across: answered, failed, refused, damaged; and two that are looked at."""
    now = datetime.now(UTC)
    portal.bucket.commit(succeeded(1, at=now), picture())
    portal.bucket.put(f"processed/{study_of(1)}/{job_of(1)}/upload.zip", "the original")
    portal.bucket.commit(replace(refused(2, at=now, study=study_of(2)), status=Status.FAILED))
    portal.bucket.commit(refused(3, at=now))
    portal.bucket.put(portal.bucket.commit(succeeded(4, at=now), b"no picture").commit_key, "{")
    viewed = [answered(portal.bucket, number) for number in VIEWED]
    return Viewed([path for each in viewed for path in _addresses(portal, each)], {*NAMED, *(uid for each in viewed for uid in each.uids)})


def run(seed: int, seconds: float, most: int = sys.maxsize) -> Outcome:
    """Send for a time, or so many requests at most."""
    with tempfile.TemporaryDirectory(prefix="monai-aws-fuzz-") as folder, portal_process(Path(folder)) as portal:
        sender, deadline = Sender(portal, seed, fill(portal)), time.monotonic() + seconds
        while time.monotonic() < deadline and Path(f"/proc/{portal.pid}/fd").exists() and len(sender.outcome.findings) < 20 and most > 0:
            most -= 1
            sender.send()
        try:
            status, _ = portal.ask("GET", "/")
            sender.outcome.findings += [] if status == 200 else [f"afterwards the first page is answered with {status}"]
        except OSError as error:
            sender.outcome.findings.append(f"the portal does not answer any more ({type(error).__name__})")
        said = [
            line for line in portal.said.read_text().splitlines() if not line.startswith(("The portal is at", "WARNING:  Invalid HTTP"))
        ]
        sender.outcome.findings += [f"the portal's log: {line}" for line in said[:40]]
    return sender.outcome


def main() -> int:
    """Fuzz for a time."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.portal")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    chosen = parser.parse_args()
    outcome = run(chosen.seed, chosen.seconds)
    lines = [f"seed {chosen.seed}: {outcome.ends.total()} requests, {outcome.viewed} given by DICOMweb, {len(outcome.findings)} findings"]
    lines += [f"  {count:8d} {end}" for end, count in outcome.ends.most_common()]
    sys.stdout.write("\n".join([*lines, *outcome.findings]) + "\n")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
