"""A DICOMweb archive over HTTP: looking and storing, tried again while it is busy or away, within bounds of memory and time.

Here belongs what one request needs. botocore's own HTTP session carries it, so that proxies and certificates are those of every other call.
No text of an error holds a UID, a file's name or what the archive wrote.
Sources: DICOM PS3.18 10.5 and 10.6; AWS General Reference, "Error retries and exponential backoff".
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError as UnreachableError
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody
from botocore.utils import get_environ_proxies

from .answer import Answered, is_per_instance, read_answer
from .conflicts import ArchiveFile
from .errors import ArchiveAccessError, ArchiveAnswerError, ArchiveAwayError, ArchiveRefusalError
from .message import Message
from .signing import Authentication

_JSON: Final = "application/dicom+json"
_LARGEST_ANSWER: Final = 64 << 20
_PAGE: Final = 5_000
_AGAIN: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_NOT_REACHED: Final = (HTTPClientError, UnreachableError)
_SPLITS: Final = frozenset((400, 409, 413, 422))
"""An answer to the whole request that one instance in it may have caused."""


@dataclass(frozen=True)
class Patience:
    """How often a request is tried, and the seconds between: up to ``first``, then twice as many each time, at most ``longest``."""

    tries: int = 7
    first: float = 0.5
    longest: float = 30.0

    def seconds(self, failed: int, asked: float = 0.0) -> float:
        """A random time before the next try after so many; at least what the archive asked for, within ``longest``."""
        return min(self.longest, max(asked, random.uniform(0, min(self.longest, self.first * 2**failed))))  # noqa: S311 - no secret


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Traffic:
    """What storing took."""

    bytes: int = 0
    requests: int = 0
    tries: int = 0


class DicomWebArchive:
    """One archive. ``address`` ends before ``/studies``."""

    kind = "dicomweb"

    def __init__(
        self,
        address: str,
        authentication: Authentication,
        patience: Patience | None = None,
        timeout_s: int = 300,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._address, self._authentication, self._patience = address.rstrip("/"), authentication, patience or Patience()
        self._session = URLLib3Session(timeout=timeout_s, proxies=get_environ_proxies(address), max_pool_connections=2)
        self._pause = pause or threading.Event().wait
        self.traffic = Traffic()

    @property
    def host(self) -> str:
        """What errors call it."""
        return urlsplit(self._address).netloc.rpartition("@")[2]

    # ------------------------------------------------------------------------------------------------------------------------ look

    def answers(self) -> None:
        """Ask for one study at most, to see that the archive is there and lets us in. Raises ArchiveError."""
        self._read_json("/studies", {"limit": "1"})

    def present(self, study: str, series: str) -> set[str]:
        """SOP Instance UIDs of a series that the archive has. Raises ArchiveError."""
        return self._sop_instances(f"/studies/{study}/series/{series}/instances")

    def _sop_instances(self, path: str) -> set[str]:
        found: set[str] = set()
        while True:
            query = {"includefield": "00080018", "limit": str(_PAGE), "offset": str(len(found))}
            page = {uid for item in self._read_json(path, query) if (uid := _value(item, "00080018"))}
            if page <= found or len(page) < _PAGE:
                return found | page
            found |= page

    def _read_json(self, path: str, query: Mapping[str, str]) -> list[Any]:
        asked = f"?{urlencode(query, quote_via=quote)}" if query else ""
        reply = self._tried(lambda: self._send("GET", path + asked))
        if reply.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
            if reply.status == HTTPStatus.NOT_FOUND and path == "/studies":
                raise self._refusal(reply)
            return []
        if reply.status != HTTPStatus.OK:
            raise self._refusal(reply)
        try:
            data = json.loads(reply.body)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, list):
            raise ArchiveAnswerError(f"{self.host} answers a search with something else than DICOM JSON.")
        return data

    # -------------------------------------------------------------------------------------------------------------------- retrieve

    def series(self, study: str) -> list[str]:
        """SeriesInstanceUIDs of a study; none where the archive has it not. Raises ArchiveError."""
        query = {"includefield": "0020000E", "limit": str(_PAGE)}
        return [uid for item in self._read_json(f"/studies/{study}/series", query) if (uid := _value(item, "0020000E"))]

    def metadata(self, study: str, series: str) -> list[Any]:
        """The headers of a series in DICOM JSON. Raises ArchiveError."""
        return self._read_json(f"/studies/{study}/series/{series}/metadata", {})

    def retrieve(self, path: str, accept: str) -> list[tuple[bytes, str]]:
        """The parts of what a path retrieves, each with the transfer syntax that the archive says of it. Raises ArchiveError."""
        reply = self._tried(lambda: self._send("GET", path, accept=accept))
        if reply.status != HTTPStatus.OK:
            raise self._refusal(reply)
        return parts_of(reply.body, reply.headers.get("content-type", ""))

    # ----------------------------------------------------------------------------------------------------------------------- store

    def store(self, files: Sequence[ArchiveFile]) -> Answered:
        """Store files of one study in one request, or in smaller ones where the archive refuses them together. Raises ArchiveError.

        After a line that dropped, what has arrived is looked for before anything is sent again.
        """
        stored: dict[str, int] = {}
        waiting = list(files)
        failed = 0
        while waiting:
            message = Message([each.path for each in waiting])
            try:
                reply = self._send("POST", "/studies", message)
            except _NOT_REACHED as error:
                failed = self._again(failed, error)
            else:
                if is_per_instance(reply.status, reply.body):
                    answered = read_answer(reply.body, [each.sop_instance for each in waiting])
                    return Answered({**stored, **answered.stored}, answered.refused)
                if not _passes(reply):
                    split = self._split(waiting, reply)
                    return Answered({**stored, **split.stored}, split.refused)
                failed = self._again(failed, reply)
            there = {uid for series in {(each.study_uid, each.series) for each in waiting} for uid in self.present(*series)}
            stored |= {each.sop_instance: 0 for each in waiting if each.sop_instance in there}
            waiting = [each for each in waiting if each.sop_instance not in there]
        return Answered(stored, {})

    def _split(self, files: Sequence[ArchiveFile], reply: _Reply) -> Answered:
        """Find out by halves which instance it is that the archive refuses."""
        if reply.status not in _SPLITS:
            raise self._refusal(reply)
        if len(files) == 1:
            return Answered({}, {files[0].sop_instance: reply.status})
        middle = len(files) // 2
        first, second = self.store(files[:middle]), self.store(files[middle:])
        return Answered({**first.stored, **second.stored}, {**first.refused, **second.refused})

    # --------------------------------------------------------------------------------------------------------------------- requests

    def _tried(self, send: Callable[[], _Reply]) -> _Reply:
        failed = 0
        while True:
            try:
                reply = send()
            except _NOT_REACHED as error:
                failed = self._again(failed, error)
                continue
            if not _passes(reply):
                return reply
            failed = self._again(failed, reply)

    def _again(self, failed: int, why: Exception | _Reply) -> int:
        """Wait before the next try, and count it. Raises ArchiveAwayError after the last."""
        failed += 1
        if failed >= self._patience.tries:
            said = f"answers HTTP {why.status}" if isinstance(why, _Reply) else f"cannot be reached ({type(why).__name__})"
            raise ArchiveAwayError(f"{self.host} {said}, also at the {failed}th try.") from None
        asked = why.headers.get("retry-after", "") if isinstance(why, _Reply) else ""
        self._pause(self._patience.seconds(failed, float(asked) if asked.isdigit() else 0.0))
        return failed

    def _send(self, method: str, path: str, message: Message | None = None, accept: str = _JSON) -> _Reply:
        headers = {"Accept": accept}
        if message:
            headers |= {"Content-Type": message.media_type, "Content-Length": str(message.length)}
            if self._authentication.covers_body:
                headers["X-Amz-Content-SHA256"] = message.digest()
        request = AWSRequest(method, self._address + path, data=message or b"", headers=headers, stream_output=True)
        self._authentication.sign(request)
        self.traffic.tries += 1
        if message:
            self.traffic.requests += 1
            self.traffic.bytes += message.length
        answer = self._session.send(request.prepare())
        body = b"".join(_bounded(answer.raw))
        return _Reply(answer.status_code, body, {name.lower(): value for name, value in answer.headers.items()})

    def _refusal(self, reply: _Reply) -> Exception:
        """The error that an answer means which no further try mends."""
        kind = reply.headers.get("x-amzn-errortype", "").partition(":")[0]
        said = f"{self.host} answers HTTP {reply.status}" + (f" ({kind})" if kind.isalnum() else "") + "."
        if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return ArchiveAccessError(said, "Check the archive's secret, or the permissions of the role that stores.")
        if reply.status == HTTPStatus.NOT_FOUND:
            return ArchiveRefusalError(said, "Check the archive's address and its data store.")
        return ArchiveRefusalError(said, "Check the archive's address; it is to end before /studies.")


def _passes(reply: _Reply) -> bool:
    """Whether trying again may help: the archive is busy or broke, or has not made up its mind yet."""
    return reply.status in _AGAIN or (
        reply.status == HTTPStatus.CONFLICT and "ConflictException" in reply.headers.get("x-amzn-errortype", "")
    )


def _bounded(raw: Any) -> list[bytes]:
    """All of an answer that is no larger than it may be. Raises ArchiveAnswerError, or what botocore raises for a line that drops."""
    found = list[bytes]()
    body = StreamingBody(raw, None)  # type: ignore[arg-type]  # botocore takes None for an unknown length
    while chunk := body.read(1 << 16):
        found.append(chunk)
        if len(found) > _LARGEST_ANSWER >> 16:
            raise ArchiveAnswerError("The archive's answer is larger than 64 MiB.")
    return found


def parts_of(body: bytes, media_type: str) -> list[tuple[bytes, str]]:
    """The parts of a multipart answer with the transfer syntax that each says of itself. Raises ArchiveAnswerError. PS3.18 8.7.3."""
    kind = EmailMessage()
    kind["content-type"] = media_type or "application/octet-stream"
    if kind.get_content_type() != "multipart/related":
        return [(body, str(kind.get_param("transfer-syntax") or ""))]
    boundary = str(kind.get_param("boundary") or "")
    if not boundary:
        raise ArchiveAnswerError("The archive's answer has parts and no boundary between them.")
    found: list[tuple[bytes, str]] = []
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        if part.startswith(b"--"):
            return found
        head, ends, data = part.partition(b"\r\n\r\n")
        if not ends:
            break
        said = EmailMessage()
        for line in head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-type":
                said["content-type"] = value.strip()
        found.append((data, str(said.get_param("transfer-syntax") or "") if said.get("content-type") else ""))
    raise ArchiveAnswerError("The archive's answer was cut short.")


def _value(item: Any, tag: str) -> str:
    values = item.get(tag, {}).get("Value") if isinstance(item, dict) else None
    return str(values[0]) if values else ""
