"""HealthImaging's DICOMweb: STOW-RS, QIDO-RS and WADO-RS below ``/datastore/ID``, signed as every call of AWS.

Who calls and whether she may is asked of the server before a body is read (``Admission``); a body is taken apart while it arrives, onto
disk, and is stored only when it was what its signature said. Only primary image sets are seen unless ``imageSetId`` names another.
Sources: DICOM PS3.18 10.4 to 10.6; HealthImaging Developer Guide, "Using DICOMweb with AWS HealthImaging".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qs

from ministack.core import router
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from .imaging import HealthImaging, RefusedCall, plain, refusal
from .imaging_files import LEVELS, Instance, RefusedFile, frame_bytes, read_instance
from .imaging_store import Stored, StoredInstance
from .multipart import MultipartError, PartBegins, PartSplitter

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Json = dict[str, Any]
LARGEST: Final = 1 << 30
"""Bytes of a request to store."""
MOST_FOUND: Final = 10_000
_JSON: Final = "application/dicom+json"
_DICOM: Final = "application/dicom"
_UID: Final = r"[0-9.]{1,256}"
_ROUTES: Final = tuple(
    (method, re.compile(rf"/datastore/(?P<datastore>[0-9a-z]{{32}}){pattern}"), action)
    for method, pattern, action in (
        ("POST", r"/studies", "StoreDICOM"),
        ("POST", rf"/studies/(?P<study>{_UID})", "StoreDICOMStudy"),
        ("GET", r"/studies", "SearchDICOMStudies"),
        ("GET", rf"(?:/studies/(?P<study>{_UID}))?/series", "SearchDICOMSeries"),
        ("GET", rf"(?:/studies/(?P<study>{_UID})(?:/series/(?P<series>{_UID}))?)?/instances", "SearchDICOMInstances"),
        ("GET", rf"/studies/(?P<study>{_UID})/series/(?P<series>{_UID})/metadata", "GetDICOMSeriesMetadata"),
        ("GET", rf"/studies/(?P<study>{_UID})/series/(?P<series>{_UID})/instances/(?P<sop>{_UID})", "GetDICOMInstance"),
        ("GET", rf"/studies/(?P<study>{_UID})/series/(?P<series>{_UID})/instances/(?P<sop>{_UID})/metadata", "GetDICOMInstanceMetadata"),
        (
            "GET",
            rf"/studies/(?P<study>{_UID})/series/(?P<series>{_UID})/instances/(?P<sop>{_UID})/frames/(?P<frames>[0-9,]+)",
            "GetDICOMInstanceFrames",
        ),
    )
)
_LEVEL_OF: Final = {"SearchDICOMStudies": "study", "SearchDICOMSeries": "series", "SearchDICOMInstances": "instance"}
_DOWN_TO: Final = {"study": ("study",), "series": ("study", "series"), "instance": ("study", "series", "instance")}
_UIDS: Final = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}


def is_dicomweb(path: str) -> bool:
    """Whether a path is DICOMweb's and none of the API."""
    return bool(re.match(r"/datastore/[^/]+/(studies|series|instances)(/|$)", path))


@dataclass
class Request:
    """One request, as far as its head says."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, list[str]]
    region: str
    action: str
    named: Mapping[str, str]
    payload: str = ""
    """Hash of the body, where the head does not say it."""

    def value(self, name: str) -> str:
        """One value of the query."""
        return str((self.query.get(name) or [""])[0])

    def number(self, name: str, usual: int) -> int:
        """One number of the query. Raises RefusedCall."""
        value = self.value(name) or str(usual)
        if not value.isascii() or not value.isdigit():
            raise RefusedCall("ValidationException", f"{name} is no number")
        return int(value)

    @property
    def image_set(self) -> str:
        """The image set that is asked for, where one is."""
        return self.value("imageSetId")


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: int
    kind: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class _RefusedRequest(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


Admission = Callable[[Scope, Request], Awaitable[Response | None]]
"""Says why a request is not admitted, or None."""


class DicomWeb:
    """The door of one cloud."""

    def __init__(self, imaging: HealthImaging, admit: Admission) -> None:
        self._imaging, self._store, self._admit = imaging, imaging.store, admit
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="dicomweb")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        try:
            answer = await self._answer(scope, receive)
        except RefusedCall as refused:
            status, headers, body = refusal(refused)
            answer = Response(status, "application/json", body, headers)
        except _RefusedRequest as refused_request:
            body = json.dumps({"message": refused_request.message}).encode()
            answer = Response(refused_request.status, "application/json", body, {"x-amzn-errortype": "ValidationException"})
        headers = {**answer.headers, "content-type": answer.kind, "content-length": str(len(answer.body))}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        request = self._request(scope)
        if request.method == "POST" and "x-amz-content-sha256" not in request.headers:  # what was signed is known with the body only
            return await self._store_instances(request, receive, lambda payload: self._opened(scope, request, payload))
        if refused := await self._opened(scope, request):
            return refused
        if request.method == "POST":
            return await self._store_instances(request, receive)
        answers = {
            "GetDICOMSeriesMetadata": self._metadata,
            "GetDICOMInstanceMetadata": self._metadata,
            "GetDICOMInstance": self._instance,
            "GetDICOMInstanceFrames": self._frames,
        }
        answer = answers.get(request.action, self._search)
        return await asyncio.get_running_loop().run_in_executor(self._threads, answer, request)

    async def _opened(self, scope: Scope, request: Request, payload: str = "") -> Response | None:
        """Why a request is not admitted, or None. Raises RefusedCall for what nobody may now."""
        request.payload = payload
        if refused := await self._admit(scope, request):
            return refused
        self._imaging.check(request.region, request.action)
        self._imaging.active_datastore(request.region, request.named["datastore"])
        return None

    @staticmethod
    def _request(scope: Scope) -> Request:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = parse_qs(scope.get("query_string", b"").decode(errors="replace"), keep_blank_values=True)
        for method, pattern, action in _ROUTES:
            if scope["method"] == method and (found := pattern.fullmatch(scope["path"])):
                named = {name: value for name, value in found.groupdict().items() if value}
                return Request(method, scope["path"], headers, query, router.extract_region(headers, query), action, named)
        raise _RefusedRequest(404, "HealthImaging has no such DICOMweb resource.")

    # ----------------------------------------------------------------------------------------------------------------------- store

    async def _store_instances(
        self, request: Request, receive: Receive, opened: Callable[[str], Awaitable[Response | None]] | None = None
    ) -> Response:
        if int(request.headers.get("content-length") or 0) > LARGEST:
            raise _RefusedRequest(413, "A request holds at most 1 GB.")
        loop = asyncio.get_running_loop()
        with TemporaryDirectory(dir=self._store.incoming) as folder:
            body = _Incoming(request, Path(folder))
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _RefusedRequest(400, "The body did not arrive whole.")
                await loop.run_in_executor(self._threads, body.write, bytes(message.get("body", b"")))
                if not message.get("more_body"):
                    break
            files = body.finish()
            if opened and (refused := await opened(body.digest)):
                return refused
            return await loop.run_in_executor(self._threads, self._stored, request, files)

    def _stored(self, request: Request, files: Sequence[Path]) -> Response:
        taken: list[tuple[Instance, Path]] = []
        failed: list[RefusedFile] = []
        for path in files:
            try:
                taken.append((_of_study(read_instance(path), request.named.get("study", "")), path))
            except RefusedFile as refused:
                failed.append(refused)
        stored = self._store.add(request.named["datastore"], taken) if taken else []
        warned = any(each.instance.warnings for each in stored)
        status = 409 if not stored else 202 if failed or warned else 200
        answer = store_answer(self._url(request), stored, failed)
        return Response(status, _JSON, json.dumps(answer).encode())

    @staticmethod
    def _url(request: Request) -> str:
        return f"http://{request.headers.get('host', '')}/datastore/{request.named['datastore']}"

    # ---------------------------------------------------------------------------------------------------------------------- search

    def _search(self, request: Request) -> Response:
        level = _LEVEL_OF[request.action]
        conditions = _conditions(request)
        found = self._instances(request)
        grouped: dict[str, list[StoredInstance]] = {}
        for each in found:
            grouped.setdefault(str(plain(each.attributes.get(_UIDS[level]))), []).append(each)
        matching = [members for members in grouped.values() if any(_fits(each, conditions) for each in members)]
        limit, offset = (request.number(name, usual) for name, usual in (("limit", MOST_FOUND), ("offset", 0)))
        shown = [self._shown(request, level, members) for members in matching][offset : offset + min(limit, MOST_FOUND)]
        return Response(200, _JSON, json.dumps(shown).encode())

    def _instances(self, request: Request) -> list[StoredInstance]:
        named = request.named
        return self._store.instances(
            named["datastore"], request.image_set, named.get("study", ""), named.get("series", ""), named.get("sop", "")
        )

    def _shown(self, request: Request, level: str, members: Sequence[StoredInstance]) -> Json:
        """One match in DICOM JSON: its own attributes and those above it, and what is counted."""
        names = [name for each in _DOWN_TO[level] for name in LEVELS[each]]
        first = members[0].attributes
        found: Json = {f"{tag_for_keyword(name):08X}": first[name] for name in names if name in first}
        url = f"{self._url(request)}/studies/{plain(first['StudyInstanceUID'])}"
        if level != "study":
            url += f"/series/{plain(first['SeriesInstanceUID'])}"
            found["00201209"] = {"vr": "IS", "Value": [len(members)]}
        else:
            series = {str(plain(each.attributes["SeriesInstanceUID"])) for each in members}
            modalities = sorted({str(value) for each in members if (value := plain(each.attributes.get("Modality")))})
            found |= {"00080061": {"vr": "CS", "Value": modalities}, "00201206": {"vr": "IS", "Value": [len(series)]}}
            found["00201208"] = {"vr": "IS", "Value": [len(members)]}
        if level == "instance":
            del found["00201209"]
            url += f"/instances/{members[0].sop_instance}"
            if warnings := members[0].warnings:
                found["00081196"] = {"vr": "US", "Value": [warnings[0][0]]}
        found["00081190"] = {"vr": "UR", "Value": [url]}
        return dict(sorted(found.items()))

    # -------------------------------------------------------------------------------------------------------------------- retrieve

    def _one(self, request: Request) -> StoredInstance:
        found = self._instances(request)
        if not found:
            raise RefusedCall("ResourceNotFoundException", "No such instance, or not in a primary image set")
        return found[-1]

    def _metadata(self, request: Request) -> Response:
        found = self._instances(request)
        if not found:
            raise RefusedCall("ResourceNotFoundException", "No such instances, or not in a primary image set")
        with pydicom_config.disable_value_validation():
            shown = [_dicom_json(each) for each in found]
        return Response(200, _JSON, json.dumps(shown).encode())

    def _instance(self, request: Request) -> Response:
        found = self._one(request)
        wanted = _wanted_syntax(request)
        if wanted in ("*", found.transfer_syntax):
            body = found.file.read_bytes()
        elif found.transfer_syntax == ImplicitVRLittleEndian and wanted == ExplicitVRLittleEndian:
            body = _rewritten(found.file)
        else:
            raise RefusedCall("NotAcceptableException", f"The instance is stored as {found.transfer_syntax} and is not transcoded here")
        if "multipart/related" in request.headers.get("accept", ""):
            return _multipart(_DICOM, [body])
        return Response(200, _DICOM, body)

    def _frames(self, request: Request) -> Response:
        found = self._one(request)
        numbers = [int(number) for number in request.named["frames"].split(",") if number]
        if not numbers or any(not 1 <= number <= len(found.frames) for number in numbers):
            raise RefusedCall("ResourceNotFoundException", "The instance has no such frame")
        kind = "application/octet-stream"
        return _multipart(kind, [frame_bytes(found.file, found.frames[number - 1]) for number in numbers])


class _Incoming:
    """A body on its way onto disk, a file a part."""

    def __init__(self, request: Request, folder: Path) -> None:
        self._folder, self._headers = folder, request.headers
        kind, parameters = _media_type(request.headers.get("content-type", ""))
        self._splitter: PartSplitter | None = None
        if kind == "multipart/related":
            if parameters.get("type", _DICOM) != _DICOM or not parameters.get("boundary"):
                raise _RefusedRequest(415, 'Only multipart/related; type="application/dicom" with a boundary is taken.')
            try:
                self._splitter = PartSplitter(parameters["boundary"])
            except MultipartError as error:
                raise _RefusedRequest(400, str(error)) from None
        elif kind != _DICOM:
            raise _RefusedRequest(415, 'Only multipart/related; type="application/dicom", or application/dicom, is taken.')
        self._files: list[Path] = []
        self._out: BinaryIO | None = None
        self._digest, self._size = hashlib.sha256(), 0
        if self._splitter is None:
            self._begin()

    def _begin(self) -> None:
        self._close()
        self._files.append(self._folder / str(len(self._files)))
        self._out = self._files[-1].open("wb")

    def _close(self) -> None:
        if self._out:
            self._out.close()

    def write(self, chunk: bytes) -> None:
        """Take a chunk. Raises _RefusedRequest."""
        self._size += len(chunk)
        if self._size > LARGEST:
            self._close()
            raise _RefusedRequest(413, "A request holds at most 1 GB.")
        self._digest.update(chunk)
        if self._splitter is None:
            assert self._out  # noqa: S101 - opened at the start
            self._out.write(chunk)
            return
        try:
            for event in self._splitter.feed(chunk):
                if isinstance(event, PartBegins):
                    if event.headers.get("content-type", _DICOM).partition(";")[0].strip().lower() != _DICOM:
                        raise _RefusedRequest(415, "Each part is application/dicom.")
                    self._begin()
                elif self._out:
                    self._out.write(event.data)
        except MultipartError as error:
            self._close()
            raise _RefusedRequest(400, str(error)) from None

    @property
    def digest(self) -> str:
        """SHA-256 of what has arrived."""
        return self._digest.hexdigest()

    def finish(self) -> list[Path]:
        """The files, of a body that is whole and what was signed. Raises _RefusedRequest or RefusedCall."""
        self._close()
        signed = self._headers.get("x-amz-content-sha256", "")
        if signed and signed != self.digest:
            raise _RefusedRequest(403, "The body is not the one that was signed.")
        try:
            if self._splitter:
                self._splitter.finish()
        except MultipartError as error:
            raise _RefusedRequest(400, str(error)) from None
        return self._files


def _of_study(instance: Instance, study: str) -> Instance:
    """An instance of the study that the request names, where it names one. Raises RefusedFile."""
    if study and study != instance.grouping[3]:
        raise RefusedFile("The instance is of another study than the request names", 0xA900, instance.sop_class, instance.sop_instance)
    return instance


def store_answer(url: str, stored: Sequence[Stored], failed: Sequence[RefusedFile]) -> Json:
    """What STOW-RS answers, instance by instance, in DICOM JSON."""
    answer: Json = {}
    if stored:
        answer["00081190"] = {"vr": "UR", "Value": [f"{url}/studies/{stored[0].instance.grouping[3]}"]}
        answer["00081199"] = {"vr": "SQ", "Value": [_referenced(url, each) for each in stored]}
    named = [each for each in failed if each.sop_class and each.sop_instance]
    if named:
        items = [{**_uids(each.sop_class, each.sop_instance), "00081197": _short(each.reason)} for each in named]
        answer["00081198"] = {"vr": "SQ", "Value": items}
    if others := [each for each in failed if each not in named]:
        answer["0008119A"] = {"vr": "SQ", "Value": [{"00081197": _short(each.reason)} for each in others]}
    return answer


def _referenced(url: str, stored: Stored) -> Json:
    instance = stored.instance
    study, series = instance.grouping[3], instance.grouping[5]
    place = f"{url}/studies/{study}/series/{series}/instances/{instance.sop_instance}"
    warned = {"00081196": _short(instance.warnings[0][0])} if instance.warnings else {}
    return {**_uids(instance.sop_class, instance.sop_instance), "00081190": {"vr": "UR", "Value": [place]}, **warned}


def _uids(sop_class: str, sop_instance: str) -> Json:
    return {"00081150": {"vr": "UI", "Value": [sop_class]}, "00081155": {"vr": "UI", "Value": [sop_instance]}}


def _short(number: int) -> Json:
    return {"vr": "US", "Value": [number]}


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    """A media type and its parameters, both as they are compared."""
    kind, *rest = re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', text)
    parameters = (each.partition("=") for each in rest if "=" in each)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in parameters}


def _wanted_syntax(request: Request) -> str:
    for each in request.headers.get("accept", "").split(","):
        kind, parameters = _media_type(each)
        if kind in (_DICOM, "multipart/related") and "transfer-syntax" in parameters:
            return parameters["transfer-syntax"]
    return str(ExplicitVRLittleEndian)


def _conditions(request: Request) -> dict[str, str]:
    """What is asked for, by keyword. Raises RefusedCall for what is no attribute that is searched."""
    known = {name for names in LEVELS.values() for name in names} | {"ModalitiesInStudy"}
    passed_over = {"limit", "offset", "includefield", "fuzzymatching", "imageSetId"}
    found: dict[str, str] = {}
    for name, values in request.query.items():
        if name in passed_over or name.startswith("X-Amz-"):
            continue
        keyword = keyword_for_tag(int(name, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else name
        if keyword not in known:
            raise RefusedCall("ValidationException", f"{name} is not searched")
        found["Modality" if keyword == "ModalitiesInStudy" else keyword] = ",".join(values)
    return found


def _fits(instance: StoredInstance, conditions: Mapping[str, str]) -> bool:
    return all(_equals(keyword, str(plain(instance.attributes.get(keyword)) or ""), wanted) for keyword, wanted in conditions.items())


def _equals(keyword: str, value: str, wanted: str) -> bool:
    """Matching as PS3.4 C.2.2.2 has it: single value, list of UIDs, range of dates and times, wild card; empty matches all."""
    if not wanted:
        return True
    if keyword.endswith("UID"):
        return value in re.split(r"[,\\]", wanted)
    if keyword.endswith(("Date", "Time")) and "-" in wanted:
        first, last = wanted.split("-", 1)
        return bool(value) and first <= value and (not last or value[: len(last)] <= last)
    if "*" in wanted or "?" in wanted:
        pattern = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in wanted)
        return bool(re.fullmatch(pattern, value, re.IGNORECASE if keyword.endswith("Name") else 0))
    return value.lower() == wanted.lower() if keyword.endswith("Name") else value == wanted


def _dicom_json(found: StoredInstance) -> Json:
    data = dcmread(found.file, stop_before_pixels=True, defer_size=1 << 20)
    shown: Json = {"00083002": {"vr": "UI", "Value": [found.transfer_syntax]}}
    for element in data:
        try:
            shown[f"{element.tag:08X}"] = element.to_json_dict(None, 1 << 20)
        except Exception:  # noqa: S112 - a value that cannot be said in JSON is left out
            continue
    return dict(sorted(shown.items()))


def _rewritten(path: Path) -> bytes:
    out = BytesIO()
    with pydicom_config.disable_value_validation():
        data = dcmread(path)
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.save_as(out, implicit_vr=False, little_endian=True)
    return out.getvalue()


def _multipart(kind: str, bodies: Iterable[bytes]) -> Response:
    boundary = secrets.token_hex(16)
    parts = (f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + body + b"\r\n" for body in bodies)
    return Response(200, f'multipart/related; type="{kind}"; boundary={boundary}', b"".join(parts) + f"--{boundary}--\r\n".encode())


def denied(answer: tuple[int, Mapping[str, str], bytes]) -> Response:
    """A refusal of the server's in this door's form."""
    status, headers, body = answer
    kept = {name: str(value) for name, value in headers.items() if name.lower() not in ("content-type", "content-length")}
    return Response(status, "application/json", body, kept)
